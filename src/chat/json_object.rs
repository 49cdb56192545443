//! A JSON object kept as the bytes it came in, with edits laid over them.
//!
//! Only the top level is ever taken apart. What is not edited leaves as it came, byte for byte: key order,
//! odd numbers, escapes, white space. A megabyte of messages is neither copied nor parsed into values.

use super::walk::{Nonsense, Walk};
use bytes::Bytes;
use serde::de::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::ops::Range;

/// Members that an object may have. Chosen: ten times what SGLang knows.
const MEMBERS_MAX: usize = 1024;

/// The object.
#[derive(Debug, Clone)]
pub struct JsonObject {
    text: Bytes,
    members: Vec<Member>,
    /// Members that the client did not send, in the order in which they were set.
    added: Vec<(String, Bytes)>,
}

#[derive(Debug, Clone)]
struct Member {
    name: String,
    /// From the key's opening quote to the end of the value.
    whole: Range<usize>,
    value: Range<usize>,
    edit: Edit,
}

#[derive(Debug, Clone)]
enum Edit {
    Keep,
    Remove,
    Replace(Bytes),
    /// The value is an array of which some elements are others, and which more elements follow.
    Elements(Elements),
}

/// What becomes of an array's elements.
#[derive(Debug, Clone, Default)]
struct Elements {
    replaced: Vec<(Range<usize>, Bytes)>,
    appended: Vec<Bytes>,
}

/// Why bytes are no such object. The messages carry no part of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonObjectError {
    /// Not JSON, or not an object.
    #[error("the request body is not a JSON object: {0}")]
    NotAnObject(String),
    /// Members are looked for one by one, which hostile bodies must not make slow.
    #[error("the request body has more than {MEMBERS_MAX} members")]
    TooManyMembers,
    /// Parsers differ in which of two members wins, so neither does.
    #[error("the request body has the member `{0}` twice; send it once")]
    Duplicate(String),
}

impl JsonObject {
    /// Takes the top level apart. Values are stepped over: what is wrong within one shows when it is read, here or by the
    /// backend.
    ///
    /// # Errors
    /// When `text` is not one JSON object, or has a member twice.
    pub fn parse(text: Bytes) -> Result<Self, JsonObjectError> {
        Self::parse_looking(text, "", |_| Err::<((), _), _>(Nonsense)).map(|(object, _)| object)
    }

    /// The same, with a look at one member's value on the way, which is a second way saved: `look` gets a walk that is
    /// before the value, and gives what it has seen, and a walk that is behind it. Where it gives none, nothing was seen.
    ///
    /// # Errors
    /// As [`JsonObject::parse`].
    pub fn parse_looking<T>(
        text: Bytes,
        name: &str,
        look: impl for<'a> Fn(&Walk<'a>) -> Result<(T, Walk<'a>), Nonsense>,
    ) -> Result<(Self, Option<T>), JsonObjectError> {
        let Ok((members, seen)) = members(&text, name, look) else {
            return Err(JsonObjectError::NotAnObject(describe(&text)));
        };
        if members.len() > MEMBERS_MAX {
            return Err(JsonObjectError::TooManyMembers);
        }
        if let Some(name) = duplicate(&members) {
            return Err(JsonObjectError::Duplicate(name.chars().take(64).collect()));
        }
        Ok((Self { text, members, added: Vec::new() }, seen))
    }

    /// The names of the members that the client sent.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// The value that the client sent under `name`, as JSON text. Edits do not show here.
    pub fn sent(&self, name: &str) -> Option<&str> {
        let member = self.members.iter().find(|member| member.name == name)?;
        // `parse` has found that all of it is UTF-8, and the ends of values are those of characters.
        std::str::from_utf8(&self.text[member.value.clone()]).ok()
    }

    /// Reads the value that the client sent under `name`. `Ok(None)` when it is absent or null.
    ///
    /// # Errors
    /// When the value is not a `T`.
    pub fn read<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<Option<T>, serde_json::Error> {
        self.sent(name).map_or(Ok(None), serde_json::from_str)
    }

    /// Puts `value` (JSON text) in the place of the member `name`, or adds it at the end.
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) {
        let value = value.into();
        if let Some(member) = self.members.iter_mut().find(|member| member.name == name) {
            member.edit = Edit::Replace(value);
        } else if let Some(added) = self.added.iter_mut().find(|added| added.0 == name) {
            added.1 = value;
        } else {
            self.added.push((name.to_owned(), value));
        }
    }

    /// Takes the member `name` out.
    pub fn remove(&mut self, name: &str) {
        self.added.retain(|added| added.0 != name);
        if let Some(member) = self.members.iter_mut().find(|member| member.name == name) {
            member.edit = Edit::Remove;
        }
    }

    /// The elements of the array that the client sent under `name`, as slices of the body. Empty when it sent none.
    pub fn elements(&self, name: &str) -> Vec<Bytes> {
        let elements: Vec<&RawValue> = self.read(name).ok().flatten().unwrap_or_default();
        elements.into_iter().map(|element| self.text.slice_ref(element.get().as_bytes())).collect()
    }

    /// Adds one element (JSON text) to the array `name`. Nothing happens when the client sent no such member, or one
    /// that is no array.
    pub fn append(&mut self, name: &str, element: impl Into<Bytes>) {
        if let Some(array) = self.array(name) {
            array.appended.push(element.into());
        }
    }

    /// Puts `with` (elements as JSON text, separated by commas) in the place of the neighbours `first` to `last`, which
    /// are slices that [`JsonObject::elements`] gave. Replace from front to back, and no element twice.
    pub fn replace_elements(&mut self, name: &str, first: &Bytes, last: &Bytes, with: impl Into<Bytes>) {
        let base = self.text.as_ptr() as usize;
        let start = first.as_ptr() as usize - base;
        let end = last.as_ptr() as usize - base + last.len();
        if let Some(array) = self.array(name) {
            array.replaced.push((start..end, with.into()));
        }
    }

    /// The edits of the array `name`; of what is no array there are none.
    fn array(&mut self, name: &str) -> Option<&mut Elements> {
        let member = self.members.iter_mut().find(|member| member.name == name)?;
        if !self.text[member.value.clone()].starts_with(b"[") {
            return None;
        }
        if !matches!(member.edit, Edit::Elements(_)) {
            member.edit = Edit::Elements(Elements::default());
        }
        match &mut member.edit {
            Edit::Elements(elements) => Some(elements),
            Edit::Keep | Edit::Remove | Edit::Replace(_) => None,
        }
    }

    /// The value of the member `name` with its edits, as JSON text. Only an edited array is copied.
    pub fn value(&self, name: &str) -> Option<Bytes> {
        let Some(member) = self.members.iter().find(|member| member.name == name) else {
            return self.added.iter().find(|added| added.0 == name).map(|added| added.1.clone());
        };
        match &member.edit {
            Edit::Keep => Some(self.text.slice(member.value.clone())),
            Edit::Remove => None,
            Edit::Replace(value) => Some(value.clone()),
            Edit::Elements(edits) => {
                let mut out = Pieces { text: &self.text, pending: 0..0, done: Vec::new() };
                self.edited_array(member.value.clone(), edits, &mut out);
                Some(out.finish().concat().into())
            }
        }
    }

    /// The object with its edits, as the pieces of one text. Untouched stretches are slices of what the client sent.
    pub fn render(&self) -> Vec<Bytes> {
        let mut out = Pieces { text: &self.text, pending: 0..0, done: Vec::new() };
        let first = self.members.first().map_or(self.text.len(), |member| member.whole.start);
        let open = self.text[..first].iter().position(|byte| *byte == b'{').map_or(first, |at| at + 1);
        out.slice(0..open);
        let mut kept_any = false;
        let mut before = open;
        for member in &self.members {
            let between = before..member.whole.start;
            before = member.whole.end;
            if matches!(member.edit, Edit::Remove) {
                continue;
            }
            // What stands before the client's first member holds no comma, so it cannot separate two.
            let separates = between.start != open;
            match (kept_any, separates) {
                (true, true) | (false, false) => out.slice(between),
                (true, false) => out.piece(Bytes::from_static(b",")),
                (false, true) => {}
            }
            kept_any = true;
            out.slice(member.whole.start..member.value.start);
            match &member.edit {
                Edit::Keep | Edit::Remove => out.slice(member.value.clone()),
                Edit::Replace(value) => out.piece(value.clone()),
                Edit::Elements(edits) => self.edited_array(member.value.clone(), edits, &mut out),
            }
        }
        for (name, value) in &self.added {
            let mut lead = String::with_capacity(name.len() + 4);
            if kept_any {
                lead.push(',');
            }
            kept_any = true;
            lead.push_str(&serde_json::Value::from(name.as_str()).to_string());
            lead.push(':');
            out.piece(lead.into());
            out.piece(value.clone());
        }
        let end = if self.members.is_empty() { open } else { before };
        out.slice(end..self.text.len());
        out.finish()
    }

    fn edited_array(&self, array: Range<usize>, edits: &Elements, out: &mut Pieces<'_>) {
        let inside = &self.text[array.start + 1..array.end - 1];
        let mut comma = !inside.trim_ascii().is_empty();
        // White space before the closing bracket goes, so that appending twice gives the bytes of appending once.
        let end = array.start + 1 + inside.trim_ascii_end().len();
        let mut at = array.start;
        for (range, with) in &edits.replaced {
            out.slice(at..range.start);
            out.piece(with.clone());
            at = range.end;
        }
        out.slice(at..end);
        for element in &edits.appended {
            if comma {
                out.piece(Bytes::from_static(b","));
            }
            comma = true;
            out.piece(element.clone());
        }
        out.piece(Bytes::from_static(b"]"));
    }
}

/// The top level's members, of too many no more than show that, and what was seen in the one of that name.
fn members<T>(
    text: &[u8],
    looked_at: &str,
    look: impl for<'a> Fn(&Walk<'a>) -> Result<(T, Walk<'a>), Nonsense>,
) -> Result<(Vec<Member>, Option<T>), Nonsense> {
    std::str::from_utf8(text).map_err(|_| Nonsense)?;
    let (mut walk, mut members, mut seen) = (Walk::object(text)?, Vec::new(), None);
    while walk.goes_on()? {
        let key = walk.key()?;
        let name: String = serde_json::from_slice(walk.text(key.clone())).map_err(|_| Nonsense)?;
        let looked = if name == looked_at { look(&walk) } else { Err(Nonsense) };
        let value = match looked {
            Ok((what, behind)) => {
                seen = Some(what);
                walk.after(&behind)
            }
            Err(Nonsense) => walk.value()?,
        };
        if members.len() <= MEMBERS_MAX {
            members.push(Member { name, whole: key.start..value.end, value, edit: Edit::Keep });
        }
    }
    if walk.is_all() { Ok((members, seen)) } else { Err(Nonsense) }
}

/// A name that stands twice. Not by comparing all with all: a body may hold thousands of objects.
fn duplicate(members: &[Member]) -> Option<&str> {
    let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Collects pieces; neighbouring slices of the text become one.
struct Pieces<'a> {
    text: &'a Bytes,
    pending: Range<usize>,
    done: Vec<Bytes>,
}

impl Pieces<'_> {
    fn slice(&mut self, range: Range<usize>) {
        if self.pending.end == range.start {
            self.pending.end = range.end;
        } else {
            self.flush();
            self.pending = range;
        }
    }

    fn piece(&mut self, piece: Bytes) {
        self.flush();
        self.done.push(piece);
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.done.push(self.text.slice(self.pending.clone()));
        }
        self.pending = 0..0;
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.done
    }
}

/// What is wrong, in serde's words without the input that some of them quote.
fn describe(text: &[u8]) -> String {
    let Err(error) = serde_json::from_slice::<HashMap<String, &RawValue>>(text) else {
        return "it is too deep".to_owned();
    };
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "syntax error",
        serde_json::error::Category::Data | serde_json::error::Category::Io => "it is another type",
    };
    format!("{what} at line {}, column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> JsonObject {
        JsonObject::parse(Bytes::copy_from_slice(text.as_bytes())).expect("an object")
    }

    fn rendered(object: &JsonObject) -> String {
        String::from_utf8(object.render().concat()).expect("UTF-8")
    }

    #[test]
    fn what_is_not_edited_leaves_as_it_came() {
        for text in [
            "{}",
            " {\n} \n",
            r#"{"a":1}"#,
            "\t{ \"b\" : 1.0e+05 ,\r\n \"a\\u0062\" : [ 1 , -0.0 ] }\n",
            r#"{"x":123456789012345678901234567890,"é":"\ud83d\ude00","n":null}"#,
        ] {
            let pieces = object(text).render();
            assert_eq!(pieces.concat(), text.as_bytes());
            assert_eq!(pieces.len(), 1, "one slice of {text:?}");
        }
    }

    #[test]
    fn edits_touch_only_their_member() {
        let mut it = object(r#"{ "a" : 1, "messages" : [ {"x":1} ] , "c":3 }"#);
        it.set("a", "true");
        it.append("messages", r#"{"y":2}"#);
        it.append("messages", r#"{"z":3}"#);
        it.set("new", "[]");
        assert_eq!(rendered(&it), r#"{ "a" : true, "messages" : [ {"x":1},{"y":2},{"z":3}] , "c":3,"new":[] }"#);
    }

    #[test]
    fn a_value_is_what_would_be_sent() {
        let mut it = object(r#"{ "a" : 1, "messages" : [ {"x":1} ] , "c":3 }"#);
        it.set("a", "true");
        it.append("messages", r#"{"y":2}"#);
        it.remove("c");
        it.set("new", "[]");
        let value = |name| it.value(name).map(|value| String::from_utf8(value.to_vec()).expect("UTF-8"));
        for (name, expected) in [
            ("a", Some("true")),
            ("messages", Some(r#"[ {"x":1},{"y":2}]"#)),
            ("c", None),
            ("new", Some("[]")),
            ("none", None),
        ] {
            assert_eq!(value(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn removals_leave_a_valid_object_wherever_they_are() {
        for gone in
            [vec!["a"], vec!["b"], vec!["c"], vec!["a", "b"], vec!["b", "c"], vec!["a", "c"], vec!["a", "b", "c"]]
        {
            let mut it = object(r#"{ "a":1 , "b":2 , "c":3 }"#);
            for name in &gone {
                it.remove(name);
            }
            let value: serde_json::Map<_, _> = serde_json::from_str(&rendered(&it)).expect("valid JSON");
            let names: Vec<_> = value.keys().map(String::as_str).collect();
            assert_eq!(names, ["a", "b", "c"].into_iter().filter(|name| !gone.contains(name)).collect::<Vec<_>>());
            it.set("d", "4");
            serde_json::from_str::<serde_json::Value>(&rendered(&it)).expect("valid JSON with an added member");
        }
    }

    #[test]
    fn an_empty_object_takes_members() {
        let mut it = object("{ }");
        it.set("a", "1");
        it.set("a", "2");
        it.set("b", "3");
        assert_eq!(rendered(&it), r#"{"a":2,"b":3 }"#);
    }

    #[test]
    fn an_empty_array_can_be_appended_to() {
        let mut it = object(r#"{"x":7,"messages":[ ]}"#);
        it.append("x", "1");
        it.append("messages", "1");
        it.append("messages", "2");
        assert_eq!(rendered(&it), r#"{"x":7,"messages":[1,2]}"#);
    }

    #[test]
    fn elements_can_be_replaced_and_the_others_stay_as_they_are() {
        let mut it = object(r#"{"messages": [ {"a": 1} , {"b":2}, 3,{"c" :4} ] }"#);
        let elements = it.elements("messages");
        assert_eq!(elements.iter().map(|it| &it[..]).collect::<Vec<_>>()[3], br#"{"c" :4}"#);
        it.replace_elements("messages", &elements[0], &elements[0], "8,9");
        it.replace_elements("messages", &elements[1], &elements[2], r#"{"x":0}"#);
        it.append("messages", "5");
        assert_eq!(rendered(&it), r#"{"messages": [ 8,9 , {"x":0},{"c" :4},5] }"#);
        assert_eq!(it.elements("others"), Vec::<Bytes>::new());
    }

    #[test]
    fn bad_input_is_named_without_being_quoted() {
        for (text, what) in [
            ("", "it ends too early"),
            ("{\"secret\": ", "it ends too early"),
            ("[\"secret\"]", "it is another type"),
            ("{\"secret\" 1}", "syntax error"),
            ("{\"a\":1} secret", "syntax error"),
        ] {
            let error = JsonObject::parse(Bytes::from_static(text.as_bytes())).expect_err("no object").to_string();
            assert!(error.contains(what) && !error.contains("secret"), "{text:?}: {error}");
        }
        let many: Vec<_> = (0..=MEMBERS_MAX).map(|number| format!("\"{number}\":0")).collect();
        let many = JsonObject::parse(format!("{{{}}}", many.join(",")).into()).expect_err("too many");
        assert_eq!(many, JsonObjectError::TooManyMembers);
        let twice = JsonObject::parse(Bytes::from_static(br#"{"a":1,"\u0061":2}"#)).expect_err("twice");
        assert_eq!(twice, JsonObjectError::Duplicate("a".to_owned()));
    }
}
