//! Token counts, estimated: plain, fast and the same every time. They are no tokenizer's.

/// Letters of one token. Chosen: code and English come to about four bytes a token with it, as with Qwen's tokenizer.
const WORD_BYTES_MAX: usize = 8;

const TAGS: &[&str] = &["<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>"];

/// Cuts text into tokens: a word of up to [`WORD_BYTES_MAX`] letters with the space before it, a run of blanks, or any
/// other single character. A digit is a token of its own, and so are the tags of calls and turns, as in Qwen's
/// vocabulary.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (token, later) = rest.split_at(first_len(rest)?);
        rest = later;
        Some(token)
    })
}

/// How many tokens.
pub fn count(text: &str) -> u32 {
    u32::try_from(tokens(text).count()).unwrap_or(u32::MAX)
}

/// Bytes of the first `count` tokens, and how many there were.
pub fn first(text: &str, count: u32) -> (usize, u32) {
    tokens(text).take(count as usize).fold((0, 0), |(bytes, n), token| (bytes + token.len(), n + 1))
}

/// Bytes of the first token, or `None` at the end.
fn first_len(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let head = *bytes.first()?;
    if let Some(tag) = TAGS.iter().find(|tag| head == b'<' && text.starts_with(**tag)) {
        return Some(tag.len());
    }
    let is_word = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let space = usize::from(head == b' ' && bytes.get(1).is_some_and(is_word));
    let word = bytes[space..].iter().take(WORD_BYTES_MAX).take_while(|byte| is_word(byte)).count();
    Some(match head {
        _ if word > 0 => space + word,
        b' ' | b'\n' => bytes.iter().take(WORD_BYTES_MAX).take_while(|byte| **byte == head).count(),
        _ => text.chars().next()?.len_utf8(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_put_together_are_the_text() {
        let text = "  Hello, wörld! 123\n\n<tool_call>\n  x = averyveryverylongname";
        assert_eq!(tokens(text).collect::<String>(), text);
        assert_eq!(
            tokens("The result is 408.").collect::<Vec<_>>(),
            ["The", " result", " is", " ", "4", "0", "8", "."]
        );
        assert_eq!((count(""), first("a b c", 2), first("a", 9)), (0, (3, 2), (1, 1)));
    }
}
