//! A backend's load report, in both of SGLang's forms → [`Load`]. Nothing in it is believed that cannot be.

use super::balance::Load;
use super::client::{Client, Target};
use super::discover::{TOKENS_MAX, tokens};
use http::StatusCode;
use serde_json::Value;
use std::time::Duration;

/// Where the report is: in 0.5.23, and in 0.5.7.
const PATHS: [&str; 2] = ["/v1/loads", "/get_load"];
/// Requests that one server can have. Chosen: a hundred times SGLang's largest setting.
const REQUESTS_MAX: u64 = 1_000_000;

/// What a question for the load came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Report {
    Says(Load),
    /// It has numbers in it that cannot be, which were cut to what can.
    Lies(Load),
    /// What came is no report.
    Nonsense,
    /// There is no such page.
    NoPage,
    /// No answer, or an error: which.
    Nothing(String),
}

/// Asks a backend how loaded it is. `page` is the place of the page that answered last time.
pub(super) async fn ask(client: &Client, target: &Target, wait: Duration, page: &mut usize) -> Report {
    for _ in PATHS {
        match client.get(target, PATHS[*page], wait).await {
            Ok((StatusCode::OK, body)) => return read(&body),
            Ok((StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _)) => *page = (*page + 1) % PATHS.len(),
            Ok((status, _)) => return Report::Nothing(format!("{} answers {}", PATHS[*page], status.as_u16())),
            Err(trouble) => return Report::Nothing(format!("{}: {}", PATHS[*page], trouble.why())),
        }
    }
    Report::NoPage
}

/// A report's text. Ranks of one server (data parallelism) are added up.
fn read(body: &[u8]) -> Report {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(ranks) = said.get("loads").unwrap_or(&said).as_array().filter(|ranks| !ranks.is_empty()) else {
        return Report::Nonsense;
    };
    let (mut load, mut lies) = (Load::default(), false);
    for rank in ranks {
        let mut count = |value: &Value, most: u64| {
            let count = value.as_u64();
            // Absent is no lie; negative, broken or absurd is.
            lies |= !value.is_null() && count.is_none_or(|count| count > most);
            count.unwrap_or(0).min(most)
        };
        let waiting = count(&rank["num_waiting_reqs"], REQUESTS_MAX);
        let running = match rank.get("num_running_reqs") {
            Some(running) => count(running, REQUESTS_MAX),
            // The old form counts those that wait among all.
            None => count(&rank["num_reqs"], REQUESTS_MAX).saturating_sub(waiting),
        };
        let used = rank.get("num_used_tokens").unwrap_or(&rank["num_tokens"]);
        load.used_tokens = (load.used_tokens + count(used, TOKENS_MAX)).min(TOKENS_MAX);
        load.running = sum(load.running, running);
        load.waiting = sum(load.waiting, waiting);
        if let Some(tokens) = tokens(&rank["max_total_num_tokens"]) {
            load.kv_tokens_max = Some((load.kv_tokens_max.unwrap_or(0) + tokens).min(TOKENS_MAX));
        }
    }
    if lies { Report::Lies(load) } else { Report::Says(load) }
}

fn sum(so_far: u32, more: u64) -> u32 {
    u32::try_from((u64::from(so_far) + more).min(REQUESTS_MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_report_is_none() {
        for text in ["", "null", "7", "{}", "[]", r#"{"loads":[]}"#, r#"{"loads":{}}"#, "<html>"] {
            assert_eq!(read(text.as_bytes()), Report::Nonsense, "{text}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_cut_and_noticed() {
        for text in [
            r#"[{"num_reqs":-1}]"#,
            r#"[{"num_reqs":"7"}]"#,
            r#"[{"num_reqs":1e30}]"#,
            r#"{"loads":[{"num_running_reqs":18446744073709551615,"num_used_tokens":18446744073709551615}]}"#,
        ] {
            let Report::Lies(load) = read(text.as_bytes()) else { panic!("{text}") };
            assert!(u64::from(load.running) <= REQUESTS_MAX && load.used_tokens <= TOKENS_MAX, "{load:?}");
        }
    }

    #[test]
    fn both_forms_are_read_and_ranks_added_up() {
        let old =
            br#"[{"dp_rank":0,"num_reqs":5,"num_waiting_reqs":2,"num_tokens":700},{"num_reqs":1,"num_tokens":1}]"#;
        let load = Load { running: 4, waiting: 2, used_tokens: 701, kv_tokens_max: None };
        assert_eq!(read(old), Report::Says(load));
        let new =
            br#"{"loads":[{"num_running_reqs":3,"num_waiting_reqs":2,"num_used_tokens":9,"max_total_num_tokens":50}]}"#;
        let load = Load { running: 3, waiting: 2, used_tokens: 9, kv_tokens_max: Some(50) };
        assert_eq!(read(new), Report::Says(load));
    }
}
