//! The `OpenAPI` document, made from the same tables as the router and the statuses.

use super::limits;
use super::pages::{self, Page, Shape};
use super::plain::{self, Reads};
use super::refusal::{StatusRow, statuses};
use super::{EXECUTE_HEADER, SESSION_HEADER, execute, sessions};
use crate::dialect::{self, Dialect, Shapes};
use http::StatusCode;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Where the document is.
pub(super) const PATH: &str = "/openapi.json";

const ENVELOPE: &str = "application/json";

/// The document.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        // The document has one, at its top.
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for dialect in dialect::ALL {
        paths.insert(dialect.path().to_owned(), json!({"post": conversation(*dialect, &mut generator)}));
    }
    paths.insert(execute::PATH.to_owned(), json!({"post": program(&mut generator)}));
    for (path, operations) in of_sessions(&mut generator) {
        paths.insert(path.replace("{*", "{"), operations);
    }
    for route in plain::ALL {
        let method = route.method.as_str().to_ascii_lowercase();
        paths.insert(route.path.to_owned(), json!({method: handed_on(route, &mut generator)}));
    }
    for page in pages::ALL {
        // The router's `{*id}` takes slashes, which OpenAPI cannot say.
        paths.insert(page.path.replace("{*", "{"), shown(page, &mut generator));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Loopgate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A coding-agent gateway in front of SGLang servers",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"key": {
                "type": "http", "scheme": "bearer",
                "description": "The caller's key. Where no callers are configured, none is asked for",
            }},
        },
        "security": [{"key": []}],
    })
}

/// An operation that takes a body and answers as a stream or as a whole.
struct Posted {
    id: &'static str,
    summary: &'static str,
    shapes: Shapes,
    /// Its own headers, beside the session's.
    parameters: Vec<Value>,
    /// Of the table of statuses, the rows that are not for it: by their codes.
    never: &'static [&'static str],
}

/// A dialect's operation.
fn conversation(dialect: &dyn Dialect, generator: &mut SchemaGenerator) -> Value {
    let who = json!({"type": "string", "enum": ["gateway", "client", "off"]});
    let text = json!({"type": "string"});
    posted(&Posted {
        id: "answer",
        summary: "Continues a conversation, running the model's calls of the gateway's tools",
        shapes: dialect.shapes(generator),
        parameters: vec![
            parameter(EXECUTE_HEADER, &who, "Who runs calls of the gateway's tools"),
            parameter("idempotency-key", &text, "Another name for the request: one that has it again is sent again"),
            parameter("x-stainless-retry-count", &text, "Above 0: the request is sent again"),
        ],
        // A call that finds no interpreter is answered to the model.
        never: &["no_interpreter", "not_found", "conflict", "no_space"],
    })
}

/// The operation for programs.
fn program(generator: &mut SchemaGenerator) -> Value {
    posted(&Posted {
        id: "execute",
        summary: "Runs a program in the sandbox",
        shapes: execute::shapes(generator),
        parameters: Vec::new(),
        never: &[
            "context_length_exceeded",
            "model_not_found",
            "no_backend",
            "backend_failed",
            "key_refused",
            "answer_too_long",
            "backend_timeout",
            "not_found",
            "conflict",
            "no_space",
        ],
    })
}

fn posted(operation: &Posted) -> Value {
    let Posted { id, summary, shapes, parameters: own, never } = operation;
    let late = "; of an answer whose status was sent before its end was known, the error";
    let mut responses = Map::new();
    responses.insert(
        "200".to_owned(),
        json!({
            "description": format!("The answer, whole or as Server-Sent Events{late}"),
            "headers": {
                "x-request-id": header("The request's name: the client's own, or the gateway's"),
                (limits::LIMIT): header("Requests that the caller may have running"),
                (limits::REMAINING): header("How many more could begin"),
                (limits::RESET): header("When to look again"),
            },
            "content": {
                ENVELOPE: {"schema": {"anyOf": [shapes.whole, shapes.error]}},
                // Of each event, as readers of such documents take it.
                "text/event-stream": {"schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"anyOf": [
                        {"const": "[DONE]", "description": "The last event's"},
                        {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"anyOf": [shapes.chunk, shapes.error]},
                        },
                    ]}},
                }},
            },
        }),
    );
    let apart = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
    let wanted = |row: &StatusRow| match row.code {
        Some(code) => !never.contains(&code),
        // Of another path, or with another method.
        None => !apart.contains(&row.status),
    };
    responses.extend(refusals(wanted, &shapes.error));
    let text = json!({"type": "string"});
    let mut parameters = own.clone();
    parameters.push(parameter(SESSION_HEADER, &text, "The name of the interpreter that its programs are to run in"));
    let theirs = "The client's name for the request, given back where it is short ASCII text";
    parameters.push(parameter("x-request-id", &text, theirs));
    json!({
        "summary": summary,
        "operationId": id,
        "parameters": parameters,
        "requestBody": {"required": true, "content": {"application/json": {"schema": shapes.request}}},
        "responses": responses,
    })
}

/// The operations on sessions and their files, by path.
fn of_sessions(generator: &mut SchemaGenerator) -> [(&'static str, Value); 4] {
    let [sessions, files] = sessions::list_shapes(generator).map(|list| json!({"application/json": {"schema": list}}));
    let bytes = json!({sessions::BYTES: {}});
    let error = dialect::ERRORS.shapes(generator).error;
    // What all of them may be refused with, and what this one may.
    let operation = |id: &str, summary: &str, answers: &[(u16, &str, Option<&Value>)], codes: &[&str]| {
        let always = [400, 401, 403, 429, 500];
        let wanted = |row: &StatusRow| match row.code {
            Some(code) => always[1..].contains(&row.status.as_u16()) || codes.contains(&code),
            None => row.status == 400 || (codes.contains(&"body") && [408, 413, 415].contains(&row.status.as_u16())),
        };
        let mut responses = refusals(wanted, &error);
        for (status, what, content) in answers {
            let mut response = json!({"description": what});
            if let Some(content) = content {
                response["content"] = Value::clone(content);
            }
            responses.insert(status.to_string(), response);
        }
        json!({"operationId": id, "summary": summary, "responses": responses})
    };
    let done = "It is done";
    let in_use = &["not_found", "no_interpreter"];
    let list = operation("listSessions", "The caller's sessions", &[(200, "They", Some(&sessions))], &[]);
    let end = operation("endSession", "Ends a session, with its names and files", &[(204, done, None)], in_use);
    let list_files = operation("listFiles", "The files of a session", &[(200, "They", Some(&files))], in_use);
    let file = &["not_found", "no_interpreter", "conflict"];
    let get = operation("getFile", "What is in a file of a session", &[(200, "Its bytes", Some(&bytes))], file);
    let remove = "Removes a file of a session, or a folder with all that is in it";
    let remove = operation("deleteFile", remove, &[(204, done, None)], file);
    let put = "Writes a file of a session, which begins with it where there is none";
    let answers = [(201, "It is new", None), (204, "It was there, and is replaced", None)];
    let mut put = operation("putFile", put, &answers, &["no_interpreter", "conflict", "no_space", "body"]);
    put["requestBody"] = json!({"required": true, "content": bytes});
    let name = json!({
        "name": "id", "in": "path", "required": true, "description": "The session's name",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    });
    let path = json!({
        "name": "path", "in": "path", "required": true,
        "description": "Within /workspace, slashes and all, without `.`, `..` and empty parts",
        "schema": {"type": "string", "minLength": 1},
    });
    [
        (sessions::ALL, json!({"get": list})),
        (sessions::ONE, json!({"parameters": [name], "delete": end})),
        (sessions::FILES, json!({"parameters": [name], "get": list_files})),
        (sessions::FILE, json!({"parameters": [name, path], "get": get, "put": put, "delete": remove})),
    ]
}

/// An operation that is a backend's: what goes in and comes out, only it knows.
fn handed_on(route: &plain::Route, generator: &mut SchemaGenerator) -> Value {
    let error = dialect::ERRORS.shapes(generator).error;
    let has_body = route.reads != Reads::Nothing;
    let wanted = |row: &StatusRow| match row.status.as_u16() {
        400 | 408 | 413 | 415 if !has_body => row.code == Some("context_length_exceeded"),
        404 => row.code.is_none() || row.code == Some("model_not_found") && has_body,
        403 | 405 | 409 => false,
        503 => row.code != Some("no_interpreter"),
        413 => row.code != Some("no_space"),
        // What is handed on is not counted.
        _ => row.code != Some("answer_too_long"),
    };
    let mut responses = refusals(wanted, &error);
    let streamed = json!({"schema": {"type": "string"}});
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "The backend's answer, byte for byte",
            "content": {ENVELOPE: {"schema": {}}, "text/event-stream": streamed},
        }),
    );
    let mut operation = json!({"summary": route.summary, "tags": ["handed on"], "responses": responses});
    if has_body {
        let mut schema = json!({"type": "object", "description": "As the backend takes it"});
        if route.reads.names_model() {
            schema["properties"] = json!({"model": {"type": ["string", "null"]}});
        }
        operation["requestBody"] = json!({"required": true, "content": {ENVELOPE: {"schema": schema}}});
    }
    operation
}

/// A page's operation.
fn shown(page: &Page, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for (status, shape) in page.answers {
        let content = match shape {
            Shape::Json(schema) => json!({ENVELOPE: {"schema": schema(generator)}}),
            Shape::Text(kind) => json!({*kind: {"schema": {"type": "string"}}}),
        };
        let description = if *status == 200 { page.summary } else { "Not now" };
        responses.insert(status.to_string(), json!({"description": description, "content": content}));
    }
    let error = dialect::ERRORS.shapes(generator).error;
    responses.extend(refusals(|row| page.refusals.contains(&row.status.as_u16()), &error));
    let mut get = json!({"summary": page.summary, "responses": responses});
    if page.path.ends_with("{*id}") {
        get["parameters"] = json!([{
            "name": "id", "in": "path", "required": true, "description": "A model's name, slashes and all",
            "schema": {"type": "string", "minLength": 1},
        }]);
    }
    if !page.key {
        get["security"] = json!([]);
    }
    json!({"get": get})
}

/// The rows of the table of statuses, by status.
fn refusals(wanted: impl Fn(&StatusRow) -> bool, error: &Schema) -> Map<String, Value> {
    let mut responses: Map<String, Value> = Map::new();
    for row in statuses().into_iter().filter(wanted) {
        let status = row.status.as_str().to_owned();
        let code = row.code.map_or_else(String::new, |code| format!("{code}: "));
        let when = format!("{code}{}", row.when);
        if let Some(response) = responses.get_mut(&status) {
            let before = response["description"].as_str().unwrap_or_default();
            response["description"] = json!(format!("{before}; or {when}"));
            continue;
        }
        let content = json!({ENVELOPE: {"schema": error}});
        responses.insert(status, json!({"description": when, "content": content}));
    }
    responses
}

fn header(description: &str) -> Value {
    json!({"description": description, "schema": {"type": "string"}})
}

fn parameter(name: &str, schema: &Value, description: &str) -> Value {
    json!({"name": name, "in": "header", "required": false, "schema": schema, "description": description})
}
