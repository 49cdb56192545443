//! The `OpenAPI` document, made from the same tables as the router and the statuses.

use super::limits;
use super::pages::{self, Page, Shape};
use super::refusal::{StatusRow, statuses};
use super::{EXECUTE_HEADER, execute};
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
    /// Its own header.
    parameter: Value,
    /// Of the table of statuses, the rows that are not for it: by their codes.
    never: &'static [&'static str],
}

/// A dialect's operation.
fn conversation(dialect: &dyn Dialect, generator: &mut SchemaGenerator) -> Value {
    let who = json!({"type": "string", "enum": ["gateway", "client", "off"]});
    posted(&Posted {
        id: "answer",
        summary: "Continues a conversation, running the model's calls of the gateway's tools",
        shapes: dialect.shapes(generator),
        parameter: parameter(EXECUTE_HEADER, &who, "Who runs calls of the gateway's tools"),
        // A call that finds no interpreter is answered to the model.
        never: &["no_interpreter"],
    })
}

/// The operation for programs.
fn program(generator: &mut SchemaGenerator) -> Value {
    let name = json!({"type": "string"});
    posted(&Posted {
        id: "execute",
        summary: "Runs a program in the sandbox",
        shapes: execute::shapes(generator),
        parameter: parameter(execute::SESSION_HEADER, &name, "The name of the interpreter to run in"),
        never: &["context_length_exceeded", "model_not_found", "no_backend", "backend_failed", "backend_timeout"],
    })
}

fn posted(operation: &Posted) -> Value {
    let Posted { id, summary, shapes, parameter: own, never } = operation;
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
    json!({
        "summary": summary,
        "operationId": id,
        "parameters": [
            own,
            parameter("x-request-id", &json!({"type": "string"}),
                "The client's name for the request, given back where it is short ASCII text"),
        ],
        "requestBody": {"required": true, "content": {"application/json": {"schema": shapes.request}}},
        "responses": responses,
    })
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
    let error = dialect::ALL[0].shapes(generator).error;
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
