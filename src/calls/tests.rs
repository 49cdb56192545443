use super::*;
use crate::chat::{CallFragment, ToolSpec};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

// === What the tests say ===

fn tools() -> Signatures {
    let tool = |name: &str, parameters: Value| ToolSpec {
        name: name.to_owned(),
        parameters: Some(parameters),
        text: bytes::Bytes::new(),
    };
    Signatures::of(&[
        tool("execute_code", json!({"type": "object", "properties": {"code": {"type": "string"}}})),
        tool("clear", json!({"type": "object", "properties": {}})),
        tool(
            "plot",
            json!({"type": "object", "$defs": {"Point": {"type": "object"}, "Loop": {"$ref": "#/$defs/Loop"}}, "properties": {
                "title": {"type": "string"}, "note": {"type": ["string", "null"]}, "width": {"type": "integer"}, "scale": {"type": "number"},
                "grid": {"type": "boolean"}, "data": {"type": "array"}, "style": {"type": "object"}, "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "kind": {"enum": ["bar", "line"]}, "level": {"oneOf": [{"const": 1}, {"const": 2}]}, "at": {"allOf": [{"$ref": "#/$defs/Point"}]},
                "loop": {"$ref": "#/$defs/Loop"}, "any": {}
            }}),
        ),
    ])
}

fn parser(name: &str) -> &'static Parser {
    Parser::named(name).expect("a known parser")
}

fn text(content: &str) -> Delta {
    Delta { content: content.to_owned(), ..Delta::default() }
}

fn fragment(index: i64, id: Option<&str>, name: Option<&str>, arguments: &str) -> Delta {
    let fragment = CallFragment {
        index,
        id: id.map(str::to_owned),
        name: name.map(str::to_owned),
        arguments: arguments.to_owned(),
    };
    Delta { calls: vec![fragment], ..Delta::default() }
}

/// Everything visible, every call as (name, arguments), and whether calls were cut off.
type Answer = (String, Vec<(String, String)>, bool);

fn answer_with(name: &str, deltas: &[Delta], finish: Option<Finish>) -> Answer {
    let mut finder = Finder::new(parser(name), tools());
    let mut said = Vec::new();
    for delta in deltas {
        finder.feed(delta, &mut said);
    }
    let found = finder.finish(finish);
    let mut visible = String::new();
    for piece in said {
        match piece {
            Said::Text(text) | Said::Reasoning(text) => visible.push_str(&text),
        }
    }
    visible.push_str(&found.text);
    assert!(found.calls.iter().all(|call| !call.id.is_empty()));
    (visible, found.calls.into_iter().map(|call| (call.name, call.arguments)).collect(), found.cut)
}

fn answer(deltas: &[Delta], finish: Option<Finish>) -> Answer {
    answer_with("qwen3_coder", deltas, finish)
}

/// What becomes of an answer that is text only. Checked to be the same when it comes byte for byte.
fn reading_with(name: &str, content: &str, finish: Option<Finish>) -> Answer {
    let whole = answer_with(name, &[text(content)], finish);
    let pieces: Vec<Delta> = content.chars().map(|char| text(char.encode_utf8(&mut [0; 4]))).collect();
    assert_eq!(answer_with(name, &pieces, finish), whole, "in pieces: {content:?}");
    whole
}

fn reading(content: &str) -> Answer {
    reading_with("qwen3_coder", content, Some(Finish::Stop))
}

fn said(visible: &str, codes: &[&str]) -> Answer {
    let calls = codes.iter().map(|code| ("execute_code".to_owned(), json!({ "code": code }).to_string()));
    (visible.to_owned(), calls.collect(), false)
}

fn call(code: &str) -> String {
    format!("<tool_call>\n<function=execute_code>\n<parameter=code>\n{code}\n</parameter>\n</function>\n</tool_call>")
}

// === What SGLang's parsers get wrong ===

#[test]
fn a_call_cut_inside_its_code_is_no_call_and_not_shown() {
    let whole = format!("I'll run it.\n\n{}", call("print(1)\nprint(2)"));
    let end = whole.find("\nprint(2)").expect("the second line");
    for finish in [Some(Finish::Length), Some(Finish::Abort), Some(Finish::ContentFilter), None] {
        let got = reading_with("qwen3_coder", &whole[..end], finish);
        assert_eq!(got, ("I'll run it.\n\n".to_owned(), vec![], true), "{finish:?}");
    }
}

#[test]
fn a_complete_looking_native_call_with_finish_length_is_none() {
    let deltas = [text("Go. "), fragment(0, Some("a"), Some("execute_code"), r#"{"code": "x = 1"}"#)];
    for finish in [Some(Finish::Length), Some(Finish::Abort), None] {
        assert_eq!(answer(&deltas, finish), ("Go. ".to_owned(), vec![], true), "{finish:?}");
    }
}

#[test]
fn code_that_looks_like_another_type_stays_text() {
    for code in ["42", "[1,2]", "None", "True", "null", "{}", "\"quoted\""] {
        assert_eq!(reading(&call(code)), said("", &[code]));
    }
}

#[test]
fn native_code_that_became_another_type_is_text_again() {
    for (given, code) in [
        ("42", "42"),
        ("1.5", "1.5"),
        ("[1, 2]", "[1,2]"),
        (r#"{"a": 1}"#, r#"{"a":1}"#),
        ("null", "None"),
        ("true", "True"),
        ("false", "False"),
    ] {
        let deltas = [fragment(0, Some("a"), Some("execute_code"), &format!(r#"{{"code": {given}}}"#))];
        assert_eq!(answer(&deltas, Some(Finish::ToolCalls)), said("", &[code]), "{given}");
    }
}

#[test]
fn entities_and_indentation_are_kept() {
    for code in ["if a &lt; b: print('&amp;')", "    print(1)\n  print(2)", "\tx\n", "\nx", " ", ""] {
        assert_eq!(reading(&call(code)), said("", &[code]));
    }
}

#[test]
fn a_call_without_tool_call_is_one() {
    let bare = "<function=execute_code>\n<parameter=code>\nprint(1)\n</parameter>\n</function>";
    assert_eq!(reading(bare), said("", &["print(1)"]));
    assert_eq!(reading(&format!("So:\n{bare}\n")), said("So:\n", &["print(1)"]));
    assert_eq!(reading(&format!("{bare}\n</tool_call>")), said("", &["print(1)"]));
    assert_eq!(reading(&format!("{bare}\n{bare}")), said("", &["print(1)", "print(1)"]));
    assert_eq!(reading(&format!("{bare}\n{}", call("2"))), said("", &["print(1)", "2"]));
}

#[test]
fn closing_tags_in_code_are_code() {
    for code in [
        "print('</parameter>')",
        "print('</function>')",
        "print('</tool_call>')",
        "print('<tool_call>')",
        "print('<parameter=code>')",
        "print('<function=execute_code>')",
        "s = '</parameter></function></tool_call>'",
        "s = '</parameter>\\n</function>\\n</tool_call>'\nprint(s)",
        "</function>\n</parameter>",
        "x = '''\n</parameter>\n</function>\n'''",
        "<tool_call>",
        "<tool_call>\n<function=execute_code>",
    ] {
        assert_eq!(reading(&call(code)), said("", &[code]));
        let two = format!("{}\n{}", call(code), call("2"));
        assert_eq!(reading(&two), said("", &[code, "2"]));
    }
}

#[test]
fn a_whole_call_in_code_is_code() {
    let code = format!("text = '''\n{}\n'''\nprint(text)", call("print(1)"));
    assert_eq!(reading(&call(&code)), said("", &[&code]));
    assert_eq!(reading(&format!("{}\n{}", call(&code), call("2"))), said("", &[&code, "2"]));
}

#[test]
fn two_calls_in_one_chunk_keep_their_own_code() {
    assert_eq!(reading(&format!("{}\n{}", call("1"), call("2"))), said("", &["1", "2"]));
    assert_eq!(reading(&format!("{}{}", call("1"), call("2"))), said("", &["1", "2"]));
}

#[test]
fn prose_that_mentions_the_tags_is_prose() {
    for prose in [
        "Use `<tool_call>` and `<function=name>` tags.",
        "Use `<function=execute_code>` with `<parameter=code>`.",
        "<function=execute_code></function> is a call of nothing",
        "<tool_call>\n<function=execute_code>",
        "<tool_call>",
        "</tool_call> </function> </parameter>",
        "a < b, <b>bold</b>, <func",
        "<function=execute_code>\n<parameter=code>\nno end",
        "Write:\n<function=execute_code>\n<parameter=code>\n…\n</parameter>\nand so on",
    ] {
        assert_eq!(reading(prose), said(prose, &[]));
    }
}

#[test]
fn an_unknown_tool_is_text() {
    let unknown = call("1").replace("execute_code", "execute");
    assert_eq!(reading(&unknown), said(&unknown, &[]));
    let longer = format!("```xml\n{}\n```", call("1").replace("execute_code", "execute_code2"));
    assert_eq!(reading(&longer), said(&longer, &[]));
    let both = format!("{unknown}\n{}", call("2"));
    assert_eq!(reading(&both), said(&format!("{unknown}\n"), &["2"]));
}

#[test]
fn the_last_of_two_equal_parameters_wins() {
    let twice = call("1\n</parameter>\n<parameter=code>\n2");
    assert_eq!(reading(&twice), said("", &["2"]));
}

#[test]
fn hermes_json_is_text_to_qwen3_coder_and_a_call_to_hermes() {
    let content = r#"<tool_call>
{"name": "execute_code", "arguments": {"code": "print('</tool_call>{')"}}
</tool_call>"#;
    assert_eq!(reading(content), said(content, &[]));
    let (visible, calls, _) = reading_with("hermes", content, Some(Finish::Stop));
    assert_eq!(visible, "");
    assert_eq!(calls, [("execute_code".to_owned(), r#"{"code": "print('</tool_call>{')"}"#.to_owned())]);
}

#[test]
fn text_after_a_call_is_kept_and_white_space_alone_is_not() {
    assert_eq!(reading(&format!("{}\n\nDone.\n", call("1"))), said("\n\nDone.\n", &["1"]));
    assert_eq!(reading(&format!("{} Done.", call("1"))), said("Done.", &["1"]));
    assert_eq!(reading(&format!("\n{}\n \n{}\n\n", call("1"), call("2"))), said("", &["1", "2"]));
    assert_eq!(reading(&format!("A\n\n{}\nB\n{}", call("1"), call("2"))), said("A\n\n\nB\n", &["1", "2"]));
    assert_eq!(reading(" \n"), said(" \n", &[]));
}

#[test]
fn line_ends_of_windows_spaces_and_quotes_in_tags_are_tolerated() {
    assert_eq!(reading(&call("a\nb").replace('\n', "\r\n")), said("", &["a\r\nb"]));
    for (open, parameter) in [
        ("<function= execute_code >", "<parameter= code >"),
        ("<function=\"execute_code\">", "<parameter=\"code\">"),
        ("<function = 'execute_code' >", "<parameter ='code'>"),
    ] {
        let content = call("1").replace("<function=execute_code>", open).replace("<parameter=code>", parameter);
        assert_eq!(reading(&content), said("", &["1"]));
    }
    let one_line = "<tool_call><function=execute_code><parameter=code>1</parameter></function></tool_call>";
    assert_eq!(reading(one_line), said("", &["1"]));
}

// === The rest of the rules ===

#[test]
fn forgotten_closing_tags_are_forgiven_when_the_value_was_closed() {
    let whole = call("print(1)");
    for tags in ["\n</tool_call>", "\n</function>\n</tool_call>", "\n</function>"] {
        assert_eq!(reading(&whole.replace(tags, "")), said("", &["print(1)"]), "without {tags:?}");
    }
    let unclosed = whole.replace("\n</parameter>\n</function>\n</tool_call>", "");
    assert_eq!(reading(&unclosed), said(&unclosed, &[]));
}

#[test]
fn a_value_that_was_not_closed_is_never_cut() {
    let content = call("print('</parameter>')\nprint(2)").replace("\n</parameter>\n</function>", "\n</function>");
    assert_eq!(reading(&content), said("", &["print('</parameter>')\nprint(2)"]));
}

#[test]
fn a_cut_that_may_be_prose_is_shown() {
    for (content, visible, cut) in [
        ("a <", "a <", false),
        ("a <tool_", "a <tool_", false),
        ("a <tool_call>\n<function=", "a ", true),
        ("a <function=exec", "a ", true),
        ("a <function=name", "a <function=name", false),
    ] {
        let got = reading_with("qwen3_coder", content, Some(Finish::Length));
        assert_eq!(got, (visible.to_owned(), vec![], cut), "{content:?}");
    }
}

#[test]
fn values_have_the_types_of_the_schema() {
    for (parameter, written, value) in [
        ("title", "5", json!("5")),
        ("note", "null", Value::Null),
        ("note", "5", json!("5")),
        ("width", " 5 ", json!(5)),
        ("width", "five", json!("five")),
        ("width", "[5]", json!("[5]")),
        ("scale", "1.5", json!(1.5)),
        ("grid", "true", json!(true)),
        ("grid", "False", json!(false)),
        ("data", "[1, \"</parameter>\"]", json!([1, "</parameter>"])),
        ("style", "{\n\"a\": 1}", json!({"a": 1})),
        ("size", "None", Value::Null),
        ("size", "7", json!(7)),
        ("kind", "bar", json!("bar")),
        ("level", "2", json!(2)),
        ("at", "{\"x\": 1}", json!({"x": 1})),
        ("loop", "1", json!("1")),
        ("any", "1", json!("1")),
        ("unknown", "1", json!("1")),
    ] {
        let content = format!("<function=plot><parameter={parameter}>{written}</parameter></function>");
        let (_, calls, _) = reading(&content);
        assert_eq!(calls, [("plot".to_owned(), json!({ parameter: value }).to_string())], "{parameter} {written}");
    }
}

#[test]
fn a_call_has_any_number_of_parameters() {
    let content = "<tool_call>\n<function=clear>\n</function>\n</tool_call>\n<tool_call>\n<function=plot>\n<parameter=title>\nA\n</parameter>\n\
                   <parameter=width>\n3\n</parameter>\n</function>\n</tool_call>";
    let (visible, calls, _) = reading(content);
    assert_eq!(visible, "");
    let plot = ("plot".to_owned(), r#"{"title":"A","width":3}"#.to_owned());
    assert_eq!(calls, [("clear".to_owned(), "{}".to_owned()), plot]);
}

#[test]
fn hermes_takes_arguments_as_a_string_and_leaves_what_it_does_not_know() {
    let read = |content: &str| reading_with("hermes", content, Some(Finish::Stop));
    let call = |object: &str| format!("<tool_call>{object}</tool_call>");
    let as_string = call(r#"{"name": "execute_code", "arguments": "{\"code\": \"1\"}"}"#);
    let wanted = ("execute_code".to_owned(), r#"{"code": "1"}"#.to_owned());
    assert_eq!(read(&format!("Hi {as_string}\n")), ("Hi ".to_owned(), vec![wanted.clone()], false));
    assert_eq!(read(&format!("{as_string}{as_string}")).1, [wanted.clone(), wanted]);
    assert_eq!(read(r#"<tool_call>{"name": "clear"}"#).1, [("clear".to_owned(), "{}".to_owned())]);
    for other in ["{\"name\": \"other\"}", "{not JSON}", "{\"name\": 1", "[1]", "{} and"] {
        assert_eq!(read(&call(other)), (call(other), vec![], false));
    }
    let cut = reading_with("hermes", "x <tool_call>{\"name\": \"clear\"", Some(Finish::Length));
    assert_eq!(cut, ("x ".to_owned(), vec![], true));
}

#[test]
fn native_calls_are_put_together_by_index_and_their_bytes_are_kept() {
    let deltas = [
        fragment(0, Some("a"), Some("plot"), ""),
        fragment(1, Some("b"), Some("clear"), "{"),
        fragment(0, None, None, "{ \"width\" : "),
        text("\n"),
        fragment(1, Some("b"), Some("clear"), " }"),
        fragment(0, None, None, "1e2 }"),
        text("\n"),
    ];
    let plot = ("plot".to_owned(), "{ \"width\" : 1e2 }".to_owned());
    let calls = vec![plot, ("clear".to_owned(), "{ }".to_owned())];
    assert_eq!(answer(&deltas, Some(Finish::ToolCalls)), (String::new(), calls, false));
}

#[test]
fn arguments_that_are_no_object_are_passed_on_but_never_as_nothing() {
    for (sent, passed) in
        [("", "{}"), (" \n", "{}"), ("[1]", "[1]"), ("{\"code\": 1", "{\"code\": 1"), ("null", "null")]
    {
        let deltas = [fragment(0, Some("a"), Some("execute_code"), sent)];
        let (_, calls, _) = answer(&deltas, Some(Finish::ToolCalls));
        assert_eq!(calls, [("execute_code".to_owned(), passed.to_owned())]);
    }
}

#[test]
fn ids_are_unique_and_never_empty() {
    let mut finder = Finder::new(parser("qwen3_coder"), tools());
    let mut whole = Delta::default();
    for id in [Some("same"), Some("same"), Some(""), None] {
        whole.calls.extend(fragment(-1, id, Some("clear"), "{}").calls);
    }
    let mut said = Vec::new();
    finder.feed(&whole, &mut said);
    finder.feed(&text("<function=clear></function>"), &mut said);
    let calls = finder.finish(Some(Finish::Stop)).calls;
    let ids: HashSet<&str> = calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!((calls.len(), ids.len()), (5, 5), "{ids:?}");
    assert!(ids.iter().all(|id| *id == "same" || (id.len() == 29 && id.starts_with("call_"))), "{ids:?}");
    assert!(calls.iter().all(|call| call.arguments == "{}"));
}

#[test]
fn native_and_written_calls_of_one_answer_both_count_in_their_order() {
    let deltas = [text(&call("1")), text("\n"), fragment(0, Some("a"), Some("clear"), "{}"), text(&call("2"))];
    let (visible, calls, _) = answer(&deltas, Some(Finish::ToolCalls));
    assert_eq!(visible, "");
    let names: Vec<_> = calls.iter().map(|call| call.0.as_str()).collect();
    assert_eq!(names, ["execute_code", "clear", "execute_code"]);
}

#[test]
fn reasoning_is_not_searched() {
    let delta = Delta { reasoning: call("1"), ..Delta::default() };
    assert_eq!(answer(&[delta], Some(Finish::Stop)), said(&call("1"), &[]));
}

// === Bounds ===

#[test]
fn a_call_over_the_bound_is_text_and_the_next_one_is_a_call() {
    let long = call(&"é".repeat(CALL_BYTES_MAX / 2));
    let content = format!("{long}\n{}", call("1"));
    let wanted = said(&format!("{long}\n"), &["1"]);
    assert_eq!(answer(&[text(&content)], Some(Finish::Stop)), wanted);
    let pieces: Vec<Delta> = content.split_inclusive('\n').map(text).collect();
    assert_eq!(answer(&pieces, Some(Finish::Stop)), wanted);
}

#[test]
fn native_arguments_over_the_bound_stay_too_long_to_be_taken() {
    let mut deltas = vec![fragment(0, Some("a"), Some("execute_code"), "{\"code\": \"")];
    deltas.extend((0..5).map(|_| fragment(0, None, None, &"x".repeat(1 << 20))));
    deltas.push(fragment(0, None, None, "\"}"));
    let (_, calls, _) = answer(&deltas, Some(Finish::ToolCalls));
    let [(name, arguments)] = &calls[..] else { panic!("{} calls", calls.len()) };
    assert_eq!(name, "execute_code");
    assert!(arguments.len() > CALL_BYTES_MAX && arguments.len() <= CALL_BYTES_MAX + (1 << 20), "{}", arguments.len());
}

#[test]
fn calls_over_the_bound_are_dropped() {
    let mut deltas = vec![text(&"<function=clear></function>".repeat(CALLS_MAX + 1))];
    deltas.push(fragment(0, Some("a"), Some("clear"), "{}"));
    assert_eq!(answer(&deltas, Some(Finish::ToolCalls)).1.len(), CALLS_MAX);
}

/// Feeds `content` in pieces of so many bytes, and fails if that takes as long as reading all of it again for each piece would.
fn assert_is_quick(parser: &'static Parser, content: &str, bytes: usize) {
    let start = Instant::now();
    let mut finder = Finder::new(parser, tools());
    let mut delta = Delta::default();
    let mut said = Vec::new();
    for piece in content.as_bytes().chunks(bytes) {
        delta.content.clear();
        delta.content.push_str(std::str::from_utf8(piece).expect("ASCII"));
        finder.feed(&delta, &mut said);
    }
    finder.finish(Some(Finish::Stop));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{}, {bytes} bytes a piece, {took:?}: {content:.40}", parser.name);
}

#[test]
fn a_megabyte_of_code_is_read_in_linear_time() {
    let code = "if a < b: print('</function>')\n".repeat((1 << 20) / 31);
    let json = format!("<tool_call>{}</tool_call>", json!({"name": "execute_code", "arguments": {"code": code}}));
    for bytes in [1, 7, 1 << 20] {
        assert_is_quick(parser("qwen3_coder"), &call(&code), bytes);
        assert_is_quick(parser("hermes"), &json, bytes);
    }
}

#[test]
fn what_looks_like_many_calls_is_read_in_linear_time() {
    let fill = |pattern: &str| pattern.repeat((1 << 18) / pattern.len());
    let contents = [
        fill("<"),
        fill("<tool_call>"),
        fill("<function=execute_code>"),
        fill("<function=execute_code></function>"),
        call(&fill("</function>")),
        call(&fill("</parameter>\n</function>\n")),
        call(&fill("<function=execute_code><parameter=code>")),
        call(&fill("<parameter=")),
        call(&format!("</function>{}", fill(" "))),
        format!("<tool_call>{}", fill(" ")),
        fill("<tool_call>{"),
        format!("<tool_call>{{\"name\": \"{}", fill("<tool_call>{")),
    ];
    for (parser, content) in ALL.iter().flat_map(|parser| contents.iter().map(move |content| (parser, content))) {
        for bytes in [1, 1 << 18] {
            assert_is_quick(parser, content, bytes);
        }
    }
}

// === Every cut ===

/// Text made of what the parsers react to.
fn content() -> impl Strategy<Value = String> {
    let pieces = [
        "<tool_call>",
        "</tool_call>",
        "<function=execute_code>",
        "<function=plot>",
        "<function=clear>",
        "<function=other>",
        "</function>",
        "<parameter=code>",
        "<parameter=width>",
        "</parameter>",
        "\n",
        " ",
        "\r\n",
        "<",
        "é",
        "prose ",
        "42",
        "{\"name\": \"clear\"}",
        "{\"name\": \"execute_code\", \"arguments\": {\"code\": \"</tool_call>\"}}",
        "{",
        "}",
        "\"",
    ];
    let piece = prop::sample::select(pieces.to_vec());
    let call = "[a-z<>/=\n ]{0,12}".prop_map(|code| call(&code));
    prop::collection::vec(prop_oneof![3 => piece.prop_map(str::to_owned), 1 => call], 0..16)
        .prop_map(|pieces| pieces.concat())
}

/// An answer with native calls between stretches of text.
fn stream() -> impl Strategy<Value = Vec<Delta>> {
    let native = prop::collection::vec("[a-z0-9{}\": ]{0,10}", 0..3);
    prop::collection::vec((content(), native), 0..3).prop_map(|stretches| {
        let mut deltas = Vec::new();
        for (index, (content, native)) in (0..).zip(stretches) {
            deltas.push(text(&content));
            if !native.is_empty() {
                deltas.push(fragment(index, Some(&format!("id{index}")), Some("execute_code"), ""));
            }
            deltas.extend(native.iter().map(|arguments| fragment(index, None, None, arguments)));
        }
        deltas
    })
}

fn finish() -> impl Strategy<Value = Option<Finish>> {
    prop::sample::select(vec![Some(Finish::Stop), Some(Finish::ToolCalls), Some(Finish::Length), None])
}

/// The same stream, each text cut into pieces of the given numbers of characters, in turn.
fn cut(deltas: &[Delta], cuts: &[usize]) -> Vec<Delta> {
    let mut sizes = cuts.iter().cycle();
    let mut split = |whole: &str| {
        let chars: Vec<char> = whole.chars().collect();
        let mut pieces = Vec::new();
        let mut rest = &chars[..];
        while !rest.is_empty() {
            let size = sizes.next().map_or(1, |size| *size).min(rest.len());
            pieces.push(rest[..size].iter().collect::<String>());
            rest = &rest[size..];
        }
        pieces
    };
    let mut out = Vec::new();
    for delta in deltas {
        out.extend(split(&delta.content).iter().map(|piece| text(piece)));
        for call in &delta.calls {
            out.push(fragment(call.index, call.id.as_deref(), call.name.as_deref(), ""));
            out.extend(split(&call.arguments).iter().map(|piece| fragment(call.index, None, None, piece)));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cuts_do_not_matter(deltas in stream(), cuts in prop::collection::vec(1usize..9, 1..20), finish in finish()) {
        for parser in ALL {
            prop_assert_eq!(answer_with(parser.name, &cut(&deltas, &cuts), finish), answer_with(parser.name, &deltas, finish));
            prop_assert_eq!(answer_with(parser.name, &cut(&deltas, &[1]), finish), answer_with(parser.name, &deltas, finish));
        }
    }

    #[test]
    fn any_code_without_tags_comes_out_as_it_went_in(code in "(?s)[^<]{0,60}") {
        prop_assert_eq!(reading(&call(&code)), said("", &[&code]));
    }

    #[test]
    fn without_calls_text_is_untouched(prose in "(?s)[a-z<>/=_ \n]{0,60}") {
        prop_assert_eq!(reading(&prose), said(&prose, &[]));
    }
}

// === Real servers ===

/// The deltas of a recorded stream.
fn trace(path: &str) -> (Vec<Delta>, Option<Finish>) {
    let path = format!("{}/tests/fixtures/sglang/{path}_stream.txt", env!("CARGO_MANIFEST_DIR"));
    let trace = std::fs::read_to_string(&path).expect("a recorded trace");
    let (_, body) = trace.split_once("\n\n").expect("a body after the comments");
    let mut frames = crate::sse::Frames::new(1 << 20);
    frames.feed(body.as_bytes());
    let mut deltas = Vec::new();
    while let Some(frame) = frames.next_frame().expect("frames of a recorded size") {
        let Ok(chunk) = serde_json::from_slice::<Value>(&frame) else { continue };
        let choice = &chunk["choices"][0];
        let string = |value: &Value| value.as_str().map(str::to_owned);
        let calls = choice["delta"]["tool_calls"].as_array().into_iter().flatten().map(|call| CallFragment {
            index: call["index"].as_i64().unwrap_or(0),
            id: string(&call["id"]),
            name: string(&call["function"]["name"]),
            arguments: string(&call["function"]["arguments"]).unwrap_or_default(),
        });
        deltas.push(Delta {
            content: string(&choice["delta"]["content"]).unwrap_or_default(),
            calls: calls.collect(),
            finish: choice["finish_reason"].as_str().map(Finish::from_wire),
            ..Delta::default()
        });
    }
    let finish = deltas.iter().find_map(|delta| delta.finish);
    (deltas, finish)
}

#[test]
fn recorded_answers_give_the_same_with_and_without_the_backends_parser() {
    let factorial =
        "def factorial(n):\n    if n == 0 or n == 1:\n        return 1\n    else:\n        return n * factorial(n-1)";
    let prose = "I'll run this with Python.\n\n";
    for group in ["0.5.7/parser", "0.5.7/no-parser", "0.5.23/parser", "0.5.23/no-parser"] {
        let read = |name: &str| {
            let (deltas, finish) = trace(&format!("{group}/{name}"));
            let (visible, calls, cut) = answer(&deltas, finish);
            let code = |arguments: &str| {
                serde_json::from_str::<Value>(arguments).expect("JSON")["code"].as_str().expect("code").to_owned()
            };
            let codes: Vec<String> = calls.iter().map(|call| code(&call.1)).collect();
            (visible, codes, cut)
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(read("one_call"), (String::new(), vec!["print(12 * 34)".to_owned()], false), "{group}");
        let two = vec!["print(3 + 4)".to_owned(), "print(5 * 6)".to_owned()];
        assert_eq!(read("two_calls"), (String::new(), two, false), "{group}");
        let (visible, codes, _) = read("one_call_after_prose");
        assert_eq!(visible, prose, "{group}");
        assert!(codes.len() == 1 && codes[0].starts_with(factorial), "{group}: {codes:?}");
        assert_eq!(read("call_truncated"), (prose.to_owned(), none, true), "{group}");
    }
}

#[test]
fn recorded_cuts_and_prose_run_nothing() {
    for version in ["0.5.7", "0.5.23"] {
        let (deltas, finish) = trace(&format!("{version}/parser/call_truncated_early"));
        assert_eq!(answer(&deltas, finish), said("I'll run this with Python.\n\n", &[]));
    }
    // Both backends lose text here before it gets to us.
    let (deltas, finish) = trace("0.5.7/parser/prose_with_tags");
    assert_eq!(answer(&deltas, finish), said("Use `` and `<function=name>` tags.", &[]));
    // A bogus call. It is no tool of the request, which `tools` tells the model.
    let (deltas, finish) = trace("0.5.23/parser/prose_with_tags");
    let bogus = vec![("name".to_owned(), "{}".to_owned())];
    assert_eq!(answer(&deltas, finish), ("Use `".to_owned(), bogus, false));
}

/// Not asserted: a figure to look at, with `--release -- --nocapture`.
#[test]
fn throughput_of_plain_prose() {
    let mut prose = String::new();
    while prose.len() < 1 << 20 {
        writeln!(prose, "The quick brown fox ({}) jumps over the lazy dog.", prose.len()).expect("a string takes all");
    }
    let deltas: Vec<Delta> = prose.as_bytes().chunks(4).map(|piece| text(&String::from_utf8_lossy(piece))).collect();
    let start = Instant::now();
    let (visible, ..) = answer(&deltas, Some(Finish::Stop));
    let took = start.elapsed();
    assert_eq!(visible.len(), prose.len());
    {
        eprintln!("1 MiB of prose in {} deltas of 4 bytes: {took:?}", deltas.len());
    }
}
