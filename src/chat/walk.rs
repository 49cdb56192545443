//! Where things begin and end in JSON text, and nothing else: the walk steps over values without reading them.
//!
//! To read every byte of a long conversation, only to find where it ends, was the half of what a request that is passed
//! on costs. In text that is JSON the walk finds what a parser finds. In other text it may find something too: what is
//! wrong within a value is for those who read it. In strings both see the same of any text, so whatever is cut out or put
//! in where the walk says so can not make JSON of what is none.

use memchr::memchr;
use std::ops::Range;

/// Arrays and objects within each other: what `serde_json` takes. A backend's parser may fail at more.
const DEPTH_MAX: u32 = 127;

/// Where something stands in the text.
pub type Span = Range<usize>;

/// The text is no JSON, or is too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonsense;

/// A walk along the members of an object, or the elements of an array.
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
        Self::into(text, b'{', b'}')
    }

    /// Along the array with which `text` begins.
    ///
    /// # Errors
    /// When it begins with something else.
    pub fn array(text: &'a [u8]) -> Result<Self, Nonsense> {
        Self::into(text, b'[', b']')
    }

    fn into(text: &'a [u8], open: u8, close: u8) -> Result<Self, Nonsense> {
        let mut walk = Self { text, at: 0, close, begun: false };
        walk.step_over(open)?;
        Ok(walk)
    }

    /// The next member: its key with the quotes, and its value. `None` after the last.
    ///
    /// # Errors
    /// When there is something else.
    pub fn member(&mut self) -> Result<Option<(Span, Span)>, Nonsense> {
        if !self.goes_on()? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return Err(Nonsense);
        }
        let key = self.value()?;
        self.step_over(b':')?;
        Ok(Some((key, self.value()?)))
    }

    /// The next element. `None` after the last.
    ///
    /// # Errors
    /// When there is something else.
    pub fn element(&mut self) -> Result<Option<Span>, Nonsense> {
        if self.goes_on()? { self.value().map(Some) } else { Ok(None) }
    }

    /// The next element, which is an object, as a walk of its own; this one goes on [after](Walk::after) it. `None` after
    /// the last.
    ///
    /// # Errors
    /// When there is something else.
    pub fn inner_object(&mut self) -> Result<Option<Self>, Nonsense> {
        if !self.goes_on()? {
            return Ok(None);
        }
        self.step_over(b'{')?;
        Ok(Some(Self { text: self.text, at: self.at, close: b'}', begun: false }))
    }

    /// Goes on where `inner` has come to its end.
    pub fn after(&mut self, inner: &Self) {
        self.at = inner.at;
    }

    /// Whether nothing comes after the object or array, whose end the walk has reached.
    pub fn is_all(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Steps to the next member or element, or out of the object or array.
    fn goes_on(&mut self) -> Result<bool, Nonsense> {
        if self.peek() == Some(self.close) {
            self.at += 1;
            return Ok(false);
        }
        if std::mem::replace(&mut self.begun, true) {
            self.step_over(b',')?;
        }
        Ok(true)
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

    fn value(&mut self) -> Result<Span, Nonsense> {
        let first = self.peek().ok_or(Nonsense)?;
        let start = self.at;
        match first {
            b'"' => self.string()?,
            b'[' | b'{' => self.nested()?,
            _ => self.word()?,
        }
        Ok(start..self.at)
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
            self.at += memchr(b'"', self.text.get(self.at..).ok_or(Nonsense)?).ok_or(Nonsense)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    #[test]
    fn what_is_no_json_around_values_is_refused() {
        for text in [
            "",
            "{",
            "[",
            "{}",
            "\"",
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
        ] {
            let walked = Walk::array(text.as_bytes()).and_then(|mut walk| {
                while walk.element()?.is_some() {}
                Ok(())
            });
            assert_eq!(walked, Err(Nonsense), "{text}");
        }
        for text in
            ["", "{", "[]", "{1:2}", "{\"a\"}", "{\"a\":}", "{\"a\" 1}", "{,}", "{\"a\":1,,}", "{\"a\":1 \"b\":2}"]
        {
            let walked = Walk::object(text.as_bytes()).and_then(|mut walk| {
                while walk.member()?.is_some() {}
                Ok(())
            });
            assert_eq!(walked, Err(Nonsense), "{text}");
        }
    }

    #[test]
    fn too_deep_a_value_is_refused_where_a_parser_refuses_it() {
        for depth in [1, 126, 127, 128, 100_000] {
            let text = format!("[{}{}]", "[".repeat(depth), "]".repeat(depth));
            // The array around it counts for the parser.
            let parsed = serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&text).is_ok();
            let walked = Walk::array(text.as_bytes()).and_then(|mut walk| walk.element());
            assert!(walked.is_ok() || !parsed, "{depth}");
            assert_eq!(walked.is_ok(), depth <= 127, "{depth}");
        }
    }

    #[test]
    fn every_value_is_stepped_over_as_a_parser_reads_it() {
        let text = r#" [ {"a" : [1,{"]":"}"}], "b\"":"\\" ,"c":-1.5e3},"x\\\"y",null , [] ,{}, [[],[{}]],true,"\\"] "#;
        let read: Vec<&RawValue> = serde_json::from_str(text).expect("JSON");
        let mut walk = Walk::array(text.as_bytes()).expect("an array");
        for value in read {
            let span = walk.element().expect("JSON").expect("an element");
            assert_eq!(&text[span], value.get());
        }
        assert_eq!(walk.element(), Ok(None));
        assert!(walk.is_all());
        let text = r#"{"b\"" : "\\" , "c":7}x"#;
        let mut walk = Walk::object(text.as_bytes()).expect("an object");
        let mut member = || walk.member().expect("JSON").map(|(key, value)| (&text[key], &text[value]));
        assert_eq!(member(), Some((r#""b\"""#, r#""\\""#)));
        assert_eq!(member(), Some((r#""c""#, "7")));
        assert_eq!(member(), None);
        assert!(!walk.is_all());
    }

    #[test]
    fn a_walk_goes_on_after_an_inner_one() {
        let text = br#"[{"a":1} , {} ,2]"#;
        let mut walk = Walk::array(text).expect("an array");
        for members in [1, 0] {
            let mut inner = walk.inner_object().expect("JSON").expect("an object");
            for _ in 0..members {
                assert_eq!(inner.member(), Ok(Some((2..5, 6..7))));
            }
            assert_eq!(inner.member(), Ok(None));
            walk.after(&inner);
        }
        assert!(walk.inner_object().is_err());
    }
}
