//! Where things begin and end in JSON text, and nothing else: the walk steps over values without reading them.
//!
//! To read every byte of a long conversation, only to find where it ends, was the half of what a request that is passed
//! on costs. In text that is JSON the walk finds what a parser finds. In other text it may find something too: what is
//! wrong within a value is for those who read it. In strings both see the same of any text, so whatever is cut out or put
//! in where the walk says so can not make JSON of what is none.

use memchr::memchr;
use std::ops::Range;

/// Arrays and objects within each other: as many as `serde_json` reads. At a thousand, backends' parsers fail.
const DEPTH_MAX: u32 = 127;

/// Bytes that are looked at one by one. Chosen: the keys of messages.
const NEAR_BYTES: usize = 12;

/// Where something stands in the text.
pub type Span = Range<usize>;

/// The text is no JSON, or is too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonsense;

/// A walk along the members of an object, or the elements of an array.
#[derive(Clone)]
pub struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    close: u8,
    begun: bool,
}

impl<'a> Walk<'a> {
    /// Along the object with which `text` begins.
    ///
    /// # Errors
    /// When it begins with something else.
    pub fn object(text: &'a [u8]) -> Result<Self, Nonsense> {
        Self { text, at: 0, close: 0, begun: false }.inner_object()
    }

    /// Steps to the next member or element: `true`. Or out of the object or array, if this is its end.
    ///
    /// # Errors
    /// When there is something else.
    pub fn goes_on(&mut self) -> Result<bool, Nonsense> {
        if self.peek() == Some(self.close) {
            self.at += 1;
            return Ok(false);
        }
        if std::mem::replace(&mut self.begun, true) {
            self.step_over(b',')?;
        }
        Ok(true)
    }

    /// Steps over the key of a member, to its value; where the key stands, with its quotes.
    ///
    /// # Errors
    /// When there is something else.
    pub fn key(&mut self) -> Result<Span, Nonsense> {
        if self.peek() != Some(b'"') {
            return Err(Nonsense);
        }
        let start = self.at;
        self.string()?;
        let key = start..self.at;
        self.step_over(b':')?;
        Ok(key)
    }

    /// Steps over a member's value, or an element; where it stands.
    ///
    /// # Errors
    /// When there is none.
    pub fn value(&mut self) -> Result<Span, Nonsense> {
        let first = self.peek().ok_or(Nonsense)?;
        let start = self.at;
        match first {
            b'"' => self.string()?,
            b'[' | b'{' => self.nested()?,
            _ => self.word()?,
        }
        Ok(start..self.at)
    }

    /// Another walk along the object that is the next value. This one goes on [after](Walk::after) it.
    ///
    /// # Errors
    /// When that is something else.
    pub fn inner_object(&self) -> Result<Self, Nonsense> {
        self.inner(b'{', b'}')
    }

    /// The same for an array.
    ///
    /// # Errors
    /// When that is something else.
    pub fn inner_array(&self) -> Result<Self, Nonsense> {
        self.inner(b'[', b']')
    }

    fn inner(&self, open: u8, close: u8) -> Result<Self, Nonsense> {
        let mut walk = Self { close, begun: false, ..self.clone() };
        walk.step_over(open)?;
        Ok(walk)
    }

    /// Goes on where another walk has come to; where the value stands that is between them.
    pub fn after(&mut self, inner: &Self) -> Span {
        self.peek();
        let start = std::mem::replace(&mut self.at, inner.at);
        start..inner.at
    }

    /// What stands there.
    pub fn text(&self, span: Span) -> &'a [u8] {
        &self.text[span]
    }

    /// Whether nothing comes after the object or array, whose end the walk has reached.
    pub fn is_all(&mut self) -> bool {
        self.peek().is_none()
    }

    fn step_over(&mut self, byte: u8) -> Result<(), Nonsense> {
        if self.peek() != Some(byte) {
            return Err(Nonsense);
        }
        self.at += 1;
        Ok(())
    }

    /// The next byte that is no white space, to which it steps.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// An array or an object. The lowest bit of `kinds` says whether the innermost is an object.
    fn nested(&mut self) -> Result<(), Nonsense> {
        let (mut kinds, mut depth) = (0_u128, 0);
        loop {
            match self.text.get(self.at).ok_or(Nonsense)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                bracket @ (b'[' | b'{') => {
                    (kinds, depth) = (kinds << 1 | u128::from(*bracket == b'{'), depth + 1);
                    if depth > DEPTH_MAX {
                        return Err(Nonsense);
                    }
                }
                bracket @ (b']' | b'}') => {
                    if (*bracket == b'}') != (kinds & 1 == 1) {
                        return Err(Nonsense);
                    }
                    (kinds, depth) = (kinds >> 1, depth - 1);
                }
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// To the first quote that an even number of backslashes stands before.
    fn string(&mut self) -> Result<(), Nonsense> {
        let begin = self.at + 1;
        self.at = begin;
        loop {
            self.at += quote(self.text.get(self.at..).ok_or(Nonsense)?).ok_or(Nonsense)?;
            let before = &self.text[begin..self.at];
            let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
            self.at += 1;
            if backslashes % 2 == 0 {
                return Ok(());
            }
        }
    }

    /// A number, or `true`, `false`, `null`.
    fn word(&mut self) -> Result<(), Nonsense> {
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        let length = self.text[self.at..].iter().take_while(is_part).count();
        self.at += length;
        if length == 0 { Err(Nonsense) } else { Ok(()) }
    }
}

/// Where the next quote is. Most strings are keys and roles, for which a search costs more than a look.
fn quote(text: &[u8]) -> Option<usize> {
    let near = &text[..text.len().min(NEAR_BYTES)];
    match near.iter().position(|byte| *byte == b'"') {
        Some(at) => Some(at),
        None => memchr(b'"', &text[near.len()..]).map(|at| near.len() + at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    /// Walks along the array or object with which a text begins.
    fn walked(text: &str) -> Result<Vec<&str>, Nonsense> {
        let before = Walk { text: text.as_bytes(), at: 0, close: 0, begun: false };
        let (mut walk, is_object) =
            before.inner_object().map(|it| (it, true)).or(before.inner_array().map(|it| (it, false)))?;
        let mut seen = Vec::new();
        while walk.goes_on()? {
            if is_object {
                seen.push(&text[walk.key()?]);
            }
            seen.push(&text[walk.value()?]);
        }
        if walk.is_all() { Ok(seen) } else { Err(Nonsense) }
    }

    #[test]
    fn what_is_no_json_around_values_is_refused() {
        for text in [
            "",
            "{",
            "[",
            "\"",
            "7",
            "[1",
            "[\"",
            "[\"\\\"]",
            "[\"\\\\\\\"]",
            "[,]",
            "[1,,2]",
            "[1 2]",
            "[1}",
            "[[}]",
            "[{]}]",
            "[{\"a\":[}]",
            "[:]",
            "[1:2]",
            "[é]",
            "[]]",
            "{1:2}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\" 1}",
            "{,}",
            "{\"a\":1,,}",
            "{\"a\":1 \"b\":2}",
            "{} {}",
        ] {
            assert_eq!(walked(text), Err(Nonsense), "{text}");
        }
    }

    #[test]
    fn too_deep_a_value_is_refused_where_a_parser_refuses_it() {
        for depth in [1, 127, 128, 100_000] {
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let parsed = serde_json::from_str::<serde_json::Value>(&nested).is_ok();
            assert_eq!(walked(&format!("[{nested}]")).is_ok(), parsed, "{depth}");
        }
    }

    #[test]
    fn every_value_is_stepped_over_as_a_parser_reads_it() {
        let long = r#""far behind the place where a \n or a \\ stood, \"quoted\" ""#;
        for text in [
            r#" [ {"a" : [1,{"]":"}"}], "b\"":"\\" ,"c":-1.5e3},"x\\\"y",null , [] ,{}, [[],[{}]],true,"\\"] "#
                .to_owned(),
            format!("[{long},{long} , [{long}]]"),
            "[]".to_owned(),
        ] {
            let read: Vec<&RawValue> = serde_json::from_str(&text).expect("JSON");
            assert_eq!(walked(&text), Ok(read.into_iter().map(RawValue::get).collect()));
        }
        assert_eq!(walked(r#"{"b\"" : "\\" , "c":7}"#), Ok(vec![r#""b\"""#, r#""\\""#, r#""c""#, "7"]));
    }

    #[test]
    fn a_walk_goes_on_after_an_inner_one() {
        let text = br#"{"x": {"a":1} ,"y":2}"#;
        let mut walk = Walk::object(text).expect("an object");
        assert_eq!((walk.goes_on(), walk.key()), (Ok(true), Ok(1..4)));
        let mut inner = walk.inner_object().expect("an object");
        assert!(walk.inner_array().is_err());
        assert_eq!((inner.goes_on(), inner.key(), inner.value()), (Ok(true), Ok(7..10), Ok(11..12)));
        assert_eq!(inner.goes_on(), Ok(false));
        assert_eq!(walk.after(&inner), 6..13);
        assert_eq!((walk.goes_on(), walk.key(), walk.value()), (Ok(true), Ok(15..18), Ok(19..20)));
        assert_eq!((walk.goes_on(), walk.is_all()), (Ok(false), true));
    }
}
