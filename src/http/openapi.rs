//! The `OpenAPI` document, made from the same tables as the router and the statuses.

use super::EXECUTE_HEADER;
use super::limits;
use super::pages::{self, Page, Shape};
use super::refusal::{StatusRow, statuses};
use crate::dialect::{self, Dialect};
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
        paths.insert(dialect.path().to_owned(), json!({"post": asked(*dialect, &mut generator)}));
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

/// A dialect's operation.
fn asked(dialect: &dyn Dialect, generator: &mut SchemaGenerator) -> Value {
    let shapes = dialect.shapes(generator);
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
                    "properties": {"data": {
                        "type": "string",
                        "description": "A chunk or an error; the last event's is `[DONE]`",
                        "contentMediaType": "application/json",
                        "contentSchema": {"anyOf": [shapes.chunk, shapes.error]},
                    }},
                }},
            },
        }),
    );
    responses.extend(refusals(|row| row.status != StatusCode::METHOD_NOT_ALLOWED, &shapes.error));
    json!({
        "summary": "Continues a conversation, running the model's calls of the gateway's tools",
        "operationId": "answer",
        "parameters": [
            parameter(EXECUTE_HEADER, &json!({"type": "string", "enum": ["gateway", "client", "off"]}),
                "Who runs calls of the gateway's tools"),
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
