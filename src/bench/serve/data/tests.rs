//! What is drawn and read.

use super::*;
use std::path::Path;

fn wanted(data_set: DataSet, prompts: u32) -> Wanted {
    Wanted {
        data_set,
        path: None,
        prompts,
        input_len: 1000,
        output_len: 1000,
        range_ratio: 0.0,
        seed: 1,
        tokenizer: None,
        as_ids: false,
        request_rate: None,
    }
}

fn totals(data: &Data) -> (usize, u32, u32) {
    let sum = |of: fn(&Turn) -> u32| data.turns().map(of).sum();
    (data.turns().count(), sum(|turn| turn.input_tokens), sum(|turn| turn.output_tokens))
}

fn refused(wanted: &Wanted) -> String {
    Data::load(wanted).map(|data| data.sessions.len()).unwrap_err().to_string()
}

fn lines(text: &str) -> (tempfile::NamedTempFile, Wanted) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = Some(file.path().to_owned());
    (file, Wanted { path, ..wanted(DataSet::Jsonl, 10) })
}

#[test]
fn what_is_missing_is_named() {
    assert!(refused(&wanted(DataSet::RandomIds, 1)).contains("--tokenizer FILE"));
    assert!(refused(&wanted(DataSet::Jsonl, 1)).contains("--dataset-path FILE"));
    assert!(refused(&Wanted { as_ids: true, ..wanted(DataSet::Random, 1) }).contains("--tokenizer FILE"));
    let missing = Some(Path::new("/no/such.json").to_owned());
    for data_set in [DataSet::Random, DataSet::Jsonl] {
        let why = refused(&Wanted { path: missing.clone(), ..wanted(data_set, 1) });
        assert!(why.starts_with("/no/such.json: No such file"), "{why}");
    }
}

#[test]
fn a_bad_line_is_named_by_its_number() {
    for (text, why) in [
        ("", "it has no line"),
        ("{\"prompt\": \"a\"}\n{\"promt\": \"b\"}", "line 2: it has neither `prompt`"),
        ("\n\nnonsense", "line 3: expected"),
        ("{\"conversations\": [{\"value\": \"a\"}]}", "line 1: its conversation has no two messages"),
        ("{\"prompt\": \"a\", \"output_len\": 0}", "line 1: its answer is to have no token"),
        ("{\"messages\": []}", "line 1: its `messages` are none"),
        ("{\"messages\": [{\"role\": \"a\", \"content\": \"\", \"tool_calls\": []}]}", "unknown field `tool_calls`"),
        ("{\"prompt\": \"a\", \"tools\": []}", "line 1: its `tools` would not be sent"),
    ] {
        let (_file, wanted) = lines(text);
        assert!(refused(&wanted).contains(why), "{text}: {}", refused(&wanted));
    }
}

/// The cookbook's three runs.
#[test]
fn lengths_add_up_to_what_the_cookbook_s_page_says() {
    for (prompts, input, output) in [(10, 6101, 4220), (80, 39668, 40805), (320, 158_939, 170_134)] {
        let data = Data::load(&wanted(DataSet::Random, prompts)).unwrap();
        assert_eq!(totals(&data), (prompts as usize, input, output));
    }
}

#[test]
fn a_ratio_bounds_lengths_from_below() {
    let data = Data::load(&Wanted { range_ratio: 0.9, ..wanted(DataSet::Random, 200) }).unwrap();
    assert!(data.turns().all(|turn| (900..=1000).contains(&turn.input_tokens)));
    let data = Data::load(&Wanted { range_ratio: 1.0, ..wanted(DataSet::Random, 3) }).unwrap();
    assert_eq!(totals(&data), (3, 3000, 3000));
}

#[test]
fn a_rate_spreads_the_arrivals() {
    let data = Data::load(&Wanted { request_rate: Some(10.0), ..wanted(DataSet::Random, 1000) }).unwrap();
    let last = data.sessions.last().unwrap().arrives.as_secs_f64();
    assert!((90.0..110.0).contains(&last), "{last}");
    assert_eq!(data.sessions[0].arrives, Duration::ZERO);
}

#[test]
fn a_share_gpt_file_gives_the_texts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let of = |text: &str| serde_json::json!({"conversations": [{"from": "human", "value": text}, {"value": "yes"}]});
    std::fs::write(file.path(), serde_json::json!([of("abcd"), of(""), of("efgh"), {"id": 1}]).to_string()).unwrap();
    let from = Wanted { path: Some(file.path().to_owned()), ..wanted(DataSet::Random, 2) };
    let data = Data::load(&from).unwrap();
    for turn in data.turns() {
        let Says::Text(text) = &turn.says else { panic!("{turn:?}") };
        assert_eq!(text.len(), turn.input_tokens as usize * 4);
        assert!(text.starts_with("abcd") || text.starts_with("efgh"));
    }
    assert!(refused(&Wanted { prompts: 3, ..from }).contains("it has 2 conversations that begin with a text, not 3"));
}

#[test]
fn a_line_is_a_prompt_a_conversation_or_messages() {
    let (_file, wanted) = lines(
        "{\"prompt\": \"12345678\", \"output_len\": 7}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n\
         {\"conversations\": [{\"content\": \"Hi\"}, {\"value\": \"12345\"}]}\n",
    );
    let data = Data::load(&wanted).unwrap();
    let lengths: Vec<_> = data.turns().map(|turn| (turn.input_tokens, turn.output_tokens)).collect();
    assert_eq!(lengths, [(2, 7), (1, 1000), (1, 2)]);
}

#[test]
fn coding_sessions_grow_and_share_their_beginning() {
    let data = Data::load(&wanted(DataSet::CodingSessions, 20)).unwrap();
    assert_eq!(data.sessions.iter().map(|session| session.turns.len()).collect::<Vec<_>>(), [6, 6, 6, 2]);
    let heads = data.sessions.iter().map(|session| match &session.turns[0].says {
        Says::Messages(messages) => (messages.len(), messages[0].clone()),
        other => panic!("{other:?}"),
    });
    let heads: Vec<_> = heads.collect();
    assert!(heads.iter().all(|head| *head == heads[0] && head.0 == 2), "{heads:?}");
    let grows = |pair: &[Turn]| pair[1].input_tokens > pair[0].input_tokens + pair[0].output_tokens;
    assert!(data.sessions.iter().all(|session| session.turns.windows(2).all(grows)));
}
