//! A plain HTTP client for the tests.

use crate::mock::{Running, Settings, start};
use crate::sse::Frames;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// A whole response.
#[derive(Debug)]
pub struct Received {
    pub status: StatusCode,
    pub content_type: Option<String>,
    pub body: Bytes,
    /// The connection was closed before the body's end.
    pub cut: bool,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The values of all `data:` lines.
    pub fn events(&self) -> Vec<String> {
        let mut frames = Frames::new(1 << 20);
        frames.feed(&self.body);
        std::iter::from_fn(|| frames.next_frame().expect("short frames"))
            .map(|frame| String::from_utf8_lossy(&frame).into_owned())
            .collect()
    }

    pub fn chunks(&self) -> Vec<Value> {
        let events = self.events();
        let chunks = events.iter().filter(|event| *event != "[DONE]");
        chunks.map(|chunk| serde_json::from_str(chunk).expect("a JSON chunk")).collect()
    }

    /// The text of all chunks.
    pub fn content(&self) -> String {
        let chunks = self.chunks();
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
    }
}

pub async fn mock(settings: Settings) -> Running {
    start(settings).await.expect("a free port")
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends a request; the response's body has not been read.
pub async fn open(
    url: &str,
    headers: HeaderMap,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Option<http::Response<Incoming>> {
    let mut request = Request::builder().method(method).uri(format!("{url}{path}"));
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let mut request = request.body(Full::from(body.unwrap_or_default().to_owned())).expect("a request");
    request.headers_mut().extend(headers);
    client().request(request).await.ok()
}

pub async fn send(url: &str, headers: HeaderMap, method: &str, path: &str, body: Option<&str>) -> Option<Received> {
    let response = open(url, headers, method, path, body).await?;
    let content_type = response.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().expect("text").to_owned());
    let (status, mut rest) = (response.status(), response.into_body());
    let (mut body, mut cut) = (Vec::new(), false);
    while let Some(frame) = rest.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(frame.data_ref().expect("data")),
            Err(_) => cut = true,
        }
    }
    Some(Received { status, content_type, body: body.into(), cut })
}

/// The tool that most tests offer.
pub fn code_tool() -> Value {
    let parameters = json!({"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]});
    json!({"type": "function", "function": {"name": "execute_code", "description": "Runs Python", "parameters": parameters}})
}

/// A chat request of one user message.
pub fn ask(user: &str, more: Value) -> String {
    let mut body = json!({"model": "qwen3-coder", "messages": [{"role": "user", "content": user}]});
    let Value::Object(more) = more else { panic!("members") };
    body.as_object_mut().expect("an object").extend(more);
    body.to_string()
}

pub async fn chat(url: &str, user: &str, more: Value) -> Received {
    let body = ask(user, more);
    send(url, HeaderMap::new(), "POST", "/v1/chat/completions", Some(&body)).await.expect("an answer")
}
