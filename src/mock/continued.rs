//! An answer that was begun elsewhere, and what is left of it (`continue_final_message`).
//!
//! SGLang puts the last assistant message behind the prompt as it is, and its parser sees only what is written from there
//! on: of a call whose beginning is in that message, the rest is text.

use super::writing::{Kind, Segment};

/// What is left of a text that has been written up to the end of `begun`. If that is not how the text begins, it is a
/// sentence that says so.
pub fn rest(segments: Vec<Segment>, begun: &str) -> Vec<Segment> {
    let mut begun = begun;
    let mut left = Vec::new();
    let mut in_call = false;
    // Whoever has begun to speak has done with thinking.
    for segment in segments.into_iter().filter(|segment| segment.kind != Kind::Reasoning) {
        match segment.kind {
            Kind::Open { .. } => in_call = !begun.is_empty(),
            Kind::Gap => in_call = false,
            _ => {}
        }
        if let Some(rest) = begun.strip_prefix(segment.text.as_str()) {
            begun = rest;
        } else if let Some(rest) = segment.text.strip_prefix(begun) {
            let as_text = in_call || !begun.is_empty();
            begun = "";
            left.push(if as_text { Segment::new(Kind::Prose, rest.to_owned()) } else { segment });
        } else {
            return vec![other_beginning(begun)];
        }
    }
    if begun.is_empty() { left } else { vec![other_beginning(begun)] }
}

fn other_beginning(unknown: &str) -> Segment {
    let words: String = unknown.chars().take(SHOWN_CHARS).collect();
    Segment::new(Kind::Prose, format!("[I cannot continue this: my own answer has nothing like {words:?} there]"))
}

/// Characters that are shown of what does not fit. Chosen: enough to find it.
const SHOWN_CHARS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::model::{Call, Reply};
    use crate::mock::writing::{Limits, Writing};

    fn two_calls() -> Reply {
        let calls = vec![Call::code("print('ü')"), Call::code("2")];
        Reply { reasoning: "Hm.".to_owned(), prose: "I run both.".to_owned(), calls }
    }

    fn limits(tokens_max: u32) -> Limits {
        Limits { tokens_max, ..Limits::default() }
    }

    #[test]
    fn another_beginning_is_not_continued() {
        for begun in ["I run both!", "run", "I run both.\n\n<tool_call>\n<function=other>"] {
            let text = Writing::continued(&two_calls(), begun, &limits(1000)).text();
            assert!(text.starts_with("[I cannot continue this"), "{begun}: {text}");
        }
        let whole = Writing::new(&two_calls(), &limits(1000)).text();
        let beyond = Writing::continued(&two_calls(), &format!("{whole} And on."), &limits(1000)).text();
        assert!(beyond.contains("\" And on.\""), "{beyond}");
    }

    #[test]
    fn the_rest_of_every_beginning_completes_it() {
        let whole = Writing::new(&two_calls(), &limits(1000)).text();
        for (at, _) in whole.char_indices().skip(1).chain([(whole.len(), ' ')]) {
            let rest = Writing::continued(&two_calls(), &whole[..at], &limits(1000));
            assert_eq!((rest.text().as_str(), rest.reasoning_tokens()), (&whole[at..], 0), "after {:?}", &whole[..at]);
        }
    }

    #[test]
    fn only_calls_that_begin_in_the_rest_are_calls() {
        let calls = |begun: &str| {
            let rest = Writing::continued(&two_calls(), begun, &limits(1000));
            rest.segments.iter().filter(|segment| matches!(segment.kind, Kind::Open { .. })).count()
        };
        assert_eq!(calls("I run"), 2);
        assert_eq!(calls("I run both.\n\n"), 2);
        let first = "I run both.\n\n<tool_call>\n<function=execute_code>\n<parameter=code>\nprint('ü')\n</parameter>\n";
        assert_eq!([calls("I run both.\n\n<tool"), calls(first)], [1, 1]);
        assert_eq!(calls(&format!("{first}</function>\n</tool_call>")), 1);
    }

    #[test]
    fn bounds_hold_for_the_rest_alone() {
        let rest = Writing::continued(&Reply::text("one two three four"), "one two", &limits(1));
        assert_eq!((rest.text().as_str(), rest.tokens()), (" three", 1));
    }
}
