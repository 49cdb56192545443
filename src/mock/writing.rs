//! What the model writes, token by token: a reply as Qwen3-Coder's text, cut where the request's limits cut it.
//!
//! The segments remember what each stretch of text *is*, so that the wire need not parse what was just rendered.

use super::continued;
use super::model::{Call, Reply};
use super::tokens;
use serde_json::Value;

/// A stretch of the model's text.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// What it is.
    pub kind: Kind,
    /// The text, as far as it was written.
    pub text: String,
    /// Tokens of it.
    pub tokens: u32,
    /// It was written to its end.
    pub whole: bool,
}

/// What a stretch of text is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Thinking.
    Reasoning,
    /// Answer text.
    Prose,
    /// The line break between two calls.
    Gap,
    /// `<tool_call>`, `<function=…>`.
    Open {
        /// The tool.
        name: String,
    },
    /// One argument.
    Argument {
        /// Its name.
        name: String,
        /// Its value.
        value: Value,
    },
    /// `</function>`, `</tool_call>`.
    Close,
}

/// Why the writing ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The model was done.
    Natural,
    /// A stop string of the request.
    StopString(String),
    /// `max_tokens`.
    Length,
}

/// Where the writing has to end.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// `max_tokens`.
    pub tokens_max: u32,
    /// Go on to `tokens_max` when the model is done.
    pub ignore_eos: bool,
    /// Stop strings.
    pub stop: Vec<String>,
}

/// Everything the model writes for one choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Writing {
    /// In order.
    pub segments: Vec<Segment>,
    /// Why there are no more.
    pub end: End,
}

impl Writing {
    /// Writes a reply down.
    pub fn new(reply: &Reply, limits: &Limits) -> Self {
        Self::of(segments(reply), reply, limits)
    }

    /// Writes down what is left of a reply of which this was written before, within limits that hold for the rest.
    pub fn continued(reply: &Reply, begun: &str, limits: &Limits) -> Self {
        Self::of(continued::rest(segments(reply), begun), reply, limits)
    }

    fn of(segments: Vec<Segment>, reply: &Reply, limits: &Limits) -> Self {
        let mut writing = Self { segments, end: End::Natural };
        writing.stop_at_string(&limits.stop);
        if limits.ignore_eos && reply.calls.is_empty() {
            let missing = limits.tokens_max.saturating_sub(writing.tokens());
            writing.segments.push(Segment::new(Kind::Prose, " la".repeat(missing as usize)));
            writing.end = End::Length;
        }
        writing.cut(limits.tokens_max);
        writing
    }

    /// Tokens written.
    pub fn tokens(&self) -> u32 {
        self.segments.iter().map(|segment| segment.tokens).sum()
    }

    /// Tokens of thinking among them.
    pub fn reasoning_tokens(&self) -> u32 {
        self.segments.iter().filter(|segment| segment.kind == Kind::Reasoning).map(|segment| segment.tokens).sum()
    }

    /// The text of all segments but the thinking.
    pub fn text(&self) -> String {
        let spoken = self.segments.iter().filter(|segment| segment.kind != Kind::Reasoning);
        spoken.map(|segment| segment.text.as_str()).collect()
    }

    /// It holds a call, be it a cut one.
    pub fn calls(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment.kind, Kind::Open { .. }))
    }

    /// Ends the writing after so many tokens.
    pub fn cut(&mut self, tokens_max: u32) {
        let mut left = tokens_max;
        for at in 0..self.segments.len() {
            let segment = &mut self.segments[at];
            if segment.tokens > left {
                let (bytes, tokens) = tokens::first(&segment.text, left);
                segment.text.truncate(bytes);
                segment.tokens = tokens;
                segment.whole = false;
                self.segments.truncate(at + 1);
                self.end = End::Length;
                return;
            }
            left -= segment.tokens;
        }
    }

    /// SGLang cuts the text before a stop string. The rules' calls hold none that a client would name, so only prose is
    /// searched.
    fn stop_at_string(&mut self, stop: &[String]) {
        for (at, segment) in self.segments.iter_mut().enumerate().filter(|(_, segment)| segment.kind == Kind::Prose) {
            let found = stop.iter().filter_map(|stop| Some((segment.text.find(stop)?, stop))).min();
            if let Some((bytes, stop)) = found {
                segment.text.truncate(bytes);
                segment.tokens = tokens::count(&segment.text);
                self.segments.truncate(at + 1);
                self.end = End::StopString(stop.clone());
                return;
            }
        }
    }
}

impl Segment {
    /// A whole one.
    pub fn new(kind: Kind, text: String) -> Self {
        Self { kind, tokens: tokens::count(&text), text, whole: true }
    }
}

/// A call as the model writes it.
pub fn call_text(call: &Call) -> String {
    let mut segments = Vec::new();
    push_call(&mut segments, call);
    segments.into_iter().map(|segment| segment.text).collect()
}

fn segments(reply: &Reply) -> Vec<Segment> {
    let mut out = Vec::new();
    if !reply.reasoning.is_empty() {
        out.push(Segment::new(Kind::Reasoning, reply.reasoning.clone()));
    }
    let before_a_call = if reply.calls.is_empty() || reply.prose.is_empty() { "" } else { "\n\n" };
    if !reply.prose.is_empty() {
        out.push(Segment::new(Kind::Prose, format!("{}{before_a_call}", reply.prose)));
    }
    for (at, call) in reply.calls.iter().enumerate() {
        if at > 0 {
            out.push(Segment::new(Kind::Gap, "\n".to_owned()));
        }
        push_call(&mut out, call);
    }
    out
}

fn push_call(out: &mut Vec<Segment>, call: &Call) {
    let name = call.name.clone();
    out.push(Segment::new(Kind::Open { name }, format!("<tool_call>\n<function={}>\n", call.name)));
    for (name, value) in &call.arguments {
        let shown = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let text = format!("<parameter={name}>\n{shown}\n</parameter>\n");
        out.push(Segment::new(Kind::Argument { name: name.clone(), value: value.clone() }, text));
    }
    out.push(Segment::new(Kind::Close, "</function>\n</tool_call>".to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Reply {
        Reply { prose: "I run it.".to_owned(), calls: vec![Call::code("print(1)")], ..Reply::default() }
    }

    #[test]
    fn a_call_is_written_in_qwens_words() {
        let writing = Writing::new(&call(), &Limits { tokens_max: 1000, ..Limits::default() });
        let text = "I run it.\n\n<tool_call>\n<function=execute_code>\n<parameter=code>\nprint(1)\n</parameter>\n\
                    </function>\n</tool_call>";
        assert_eq!((writing.text().as_str(), writing.end), (text, End::Natural));
    }

    #[test]
    fn limits_cut_at_every_token() {
        let whole = Writing::new(&call(), &Limits { tokens_max: 1000, ..Limits::default() });
        for tokens_max in 0..whole.tokens() {
            let cut = Writing::new(&call(), &Limits { tokens_max, ..Limits::default() });
            assert!(whole.text().starts_with(&cut.text()));
            assert_eq!((cut.tokens(), cut.end), (tokens_max, End::Length));
        }
        let limits = Limits { tokens_max: 50, ignore_eos: true, ..Limits::default() };
        assert_eq!(Writing::new(&Reply::text("Hello"), &limits).tokens(), 50);
    }
}
