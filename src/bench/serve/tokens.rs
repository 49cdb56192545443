//! How many tokens a text is: counted by the model's tokenizer, or estimated.

use super::bpe::{Bpe, Unusable};
use super::lots::Lots;
use std::path::Path;

/// Bytes of a token, estimated: English and code come to about as many with Qwen's tokenizer.
const BYTES_PER_TOKEN: usize = 4;

/// Words that are one token each, with the blank before them, in the vocabularies of today's models: so a text of so many of them
/// has as many tokens, as nearly as can be without a tokenizer.
const WORDS: [&str; 64] = [
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he",
    "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "were", "all",
    "her", "she", "there", "would", "their", "we", "him", "been", "has", "when", "who", "will", "no", "more", "if",
    "out", "so", "up", "said", "what", "its", "about", "than", "into", "them", "can", "only", "other", "time", "new",
    "some",
];

/// The counter.
#[derive(Debug)]
pub(super) enum Tokens {
    /// Every text is [`BYTES_PER_TOKEN`] a token.
    Estimated,
    /// By the model's own tokenizer.
    Counted(Box<Bpe>),
}

impl Tokens {
    /// From a `tokenizer.json`, or the folder that holds it.
    ///
    /// # Errors
    /// When it cannot be read or is of another kind.
    pub fn read(path: Option<&Path>) -> Result<Self, Unusable> {
        path.map_or(Ok(Self::Estimated), |path| Ok(Self::Counted(Box::new(Bpe::read(path)?))))
    }

    pub fn bpe(&self) -> Option<&Bpe> {
        match self {
            Self::Estimated => None,
            Self::Counted(bpe) => Some(bpe),
        }
    }

    /// How many tokens.
    pub fn count(&self, text: &str) -> u32 {
        let count = self.bpe().map_or_else(|| text.len().div_ceil(BYTES_PER_TOKEN), |bpe| bpe.encode(text).len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// A text of so many tokens made of nothing but words, drawn.
    pub fn words(&self, count: u32, lots: &mut Lots) -> String {
        let choices = u32::try_from(WORDS.len()).unwrap_or_default();
        let mut text = String::new();
        for _ in 0..count {
            text.push(' ');
            text.push_str(WORDS[lots.between(0, choices) as usize]);
        }
        self.fit(&text, count)
    }

    /// A text cut to so many tokens, or repeated until it has them.
    pub fn fit(&self, text: &str, count: u32) -> String {
        let count = count as usize;
        let Some(bpe) = self.bpe() else {
            // Of our own words each is a token, so such a text is not cut by its bytes.
            if text.split(' ').all(|word| word.is_empty() || WORDS.contains(&word)) {
                return text.to_owned();
            }
            let repeated = text.repeat((count * BYTES_PER_TOKEN).div_ceil(text.len().max(1)));
            return repeated[..repeated.floor_char_boundary(count * BYTES_PER_TOKEN)].to_owned();
        };
        let once = bpe.encode(text);
        let tokens: Vec<u32> = once.iter().copied().cycle().take(if once.is_empty() { 0 } else { count }).collect();
        bpe.decode(&tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tokenizer_texts_are_cut_and_repeated_by_their_bytes() {
        let tokens = Tokens::Estimated;
        assert_eq!((tokens.count(""), tokens.count("abcde")), (0, 2));
        assert_eq!((tokens.fit("", 3).as_str(), tokens.fit("äöü", 2).as_str()), ("", "äöüä"));
        assert_eq!(tokens.fit("Hello", 2), "HelloHel");
    }

    #[test]
    fn a_text_of_words_has_as_many_as_were_asked_for() {
        let text = Tokens::Estimated.words(50, &mut Lots::python(1));
        assert_eq!(text.split_whitespace().count(), 50);
        assert_ne!(text, Tokens::Estimated.words(50, &mut Lots::python(2)));
    }
}
