//! What a backend says of itself: is it ready, which models it serves, how large its cache is, whether it finds calls.

use super::client::{Client, Target};
use super::health::Probe;
use super::trouble::Trouble;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use std::time::Duration;

/// Where it is asked whether it is ready, best first. `/ready` (0.5.23) answers at once; `/health` takes a second, since
/// it has the model write a token.
const READY_PATHS: [&str; 2] = ["/ready", "/health"];
/// Where its settings are, in new versions and in old ones.
const INFO_PATHS: [&str; 2] = ["/server_info", "/get_server_info"];
/// Models of one backend that are taken note of. Chosen.
const MODELS_MAX: usize = 256;
/// Bytes of a model's name. Chosen: a path on a disk.
const NAME_BYTES_MAX: usize = 512;
/// Tokens of a context or a cache that are believed. Chosen: a thousand times of what there is.
pub(super) const TOKENS_MAX: u64 = 1 << 40;

/// A model that some backend serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Tokens of context, where the backend says so.
    pub max_model_len: Option<u64>,
}

/// What its settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    /// Tokens that its KV cache takes.
    pub kv_tokens_max: Option<u64>,
    /// Whether it finds calls itself (`--tool-call-parser`). `None`: it does not say.
    pub finds_calls: Option<bool>,
}

/// Looks whether it is up, and what it serves.
pub(super) async fn look(client: &Client, target: &Target, wait: Duration) -> (Probe, Vec<Model>) {
    for path in READY_PATHS {
        match client.get(target, path, wait).await {
            Err(trouble) => return (no_answer(&trouble), Vec::new()),
            Ok((StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _)) => {}
            Ok((status, _)) if status.is_success() => break,
            Ok((status, _)) => return (refused(path, status), Vec::new()),
        }
    }
    match client.get(target, "/v1/models", wait).await {
        Err(trouble) => (no_answer(&trouble), Vec::new()),
        Ok((StatusCode::OK, body)) => match models(&body) {
            Some(models) => (Probe::Good, models),
            None => (Probe::Unfit("/v1/models answers something that is no list of models".into()), Vec::new()),
        },
        // A server without that route serves what it serves.
        Ok((StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _)) => (Probe::Good, Vec::new()),
        Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => (
            Probe::Unfit("it refuses the gateway's key; set backend.api_key, or api_key of its [[backends]]".into()),
            Vec::new(),
        ),
        Ok((status, _)) => (refused("/v1/models", status), Vec::new()),
    }
}

/// SGLang means 503: it starts, or drains. Another status is some failure, and the next probe may see none.
fn refused(path: &str, status: StatusCode) -> Probe {
    let why = format!("{path} answers {}", status.as_u16());
    if status == StatusCode::SERVICE_UNAVAILABLE { Probe::Unfit(why) } else { Probe::Failed(why) }
}

fn no_answer(trouble: &Trouble) -> Probe {
    let why = trouble.why();
    if trouble.down { Probe::Gone(why) } else { Probe::Silent(why) }
}

/// `None`: it is no list.
fn models(body: &Bytes) -> Option<Vec<Model>> {
    let listed: Value = serde_json::from_slice(body).unwrap_or_default();
    let read = |model: &Value| {
        let id = model["id"].as_str().filter(|id| !id.is_empty() && id.len() <= NAME_BYTES_MAX)?;
        Some(Model { id: id.to_owned(), max_model_len: tokens(&model["max_model_len"]) })
    };
    Some(listed["data"].as_array()?.iter().filter_map(read).take(MODELS_MAX).collect())
}

/// Asks for its settings. `None`: it does not tell any.
pub(super) async fn info(client: &Client, target: &Target, wait: Duration) -> Option<Info> {
    for path in INFO_PATHS {
        if let Ok((StatusCode::OK, body)) = client.get(target, path, wait).await {
            let said: Value = serde_json::from_slice(&body).ok()?;
            let parser = said.get("tool_call_parser");
            let finds_calls = parser.map(|parser| parser.as_str().is_some_and(|name| !name.is_empty()));
            return Some(Info { kv_tokens_max: tokens(&said["max_total_num_tokens"]), finds_calls });
        }
    }
    None
}

/// A number of tokens that can be.
pub(super) fn tokens(value: &Value) -> Option<u64> {
    value.as_u64().filter(|tokens| (1..=TOKENS_MAX).contains(tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_models_that_lies_gives_what_can_be_true_of_it() {
        for text in ["", "[]", "null", "<html></html>", r#"{"data":7}"#] {
            assert_eq!(models(&Bytes::from(text)), None, "{text}");
        }
        assert_eq!(models(&Bytes::from(r#"{"data":[7,{"id":""},{"id":7}]}"#)), Some(Vec::new()));
        let long = format!(r#"{{"data":[{}{{"id":"last"}}]}}"#, r#"{"id":"a","max_model_len":-5},"#.repeat(MODELS_MAX));
        let found = models(&Bytes::from(long)).expect("a list");
        assert_eq!((found.len(), found[0].max_model_len), (MODELS_MAX, None));
    }
}
