//! How many tokens a text is: counted by the model's tokenizer, or estimated.

use super::lots::Lots;
use super::tokenizer::{Tokenizer, Unusable};
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
    Counted(Box<Tokenizer>),
}

impl Tokens {
    /// From a `tokenizer.json`, or the folder that holds it.
    ///
    /// # Errors
    /// When it cannot be read or is no tokenizer.
    pub fn read(path: Option<&Path>) -> Result<Self, Unusable> {
        path.map_or(Ok(Self::Estimated), |path| Ok(Self::Counted(Box::new(Tokenizer::read(path)?))))
    }

    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Estimated => None,
            Self::Counted(tokenizer) => Some(tokenizer),
        }
    }

    /// How many tokens.
    pub fn count(&self, text: &str) -> Result<u32, Unusable> {
        let count = match self {
            Self::Estimated => text.len().div_ceil(BYTES_PER_TOKEN),
            Self::Counted(tokenizer) => tokenizer.encode(text)?.len(),
        };
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// A text of so many tokens made of nothing but words, drawn.
    pub fn words(&self, count: u32, lots: &mut Lots) -> Result<String, Unusable> {
        let choices = u32::try_from(WORDS.len()).unwrap_or_default();
        let mut text = String::new();
        for _ in 0..count {
            text.push(' ');
            text.push_str(WORDS[lots.between(0, choices) as usize]);
        }
        match self {
            // Each word is a token already, however many bytes it has.
            Self::Estimated => Ok(text),
            Self::Counted(_) => self.fit(&text, count),
        }
    }

    /// A text cut to so many tokens, or repeated until it has them.
    pub fn fit(&self, text: &str, count: u32) -> Result<String, Unusable> {
        let count = count as usize;
        match self {
            Self::Estimated => {
                let repeated = text.repeat((count * BYTES_PER_TOKEN).div_ceil(text.len().max(1)));
                Ok(repeated[..repeated.floor_char_boundary(count * BYTES_PER_TOKEN)].to_owned())
            }
            Self::Counted(tokenizer) => {
                let once = tokenizer.encode(text)?;
                let length = if once.is_empty() { 0 } else { count };
                tokenizer.decode(&once.iter().copied().cycle().take(length).collect::<Vec<_>>())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tokenizer_texts_are_cut_and_repeated_by_their_bytes() {
        let tokens = Tokens::Estimated;
        assert_eq!((tokens.count("").unwrap(), tokens.count("abcde").unwrap()), (0, 2));
        for (text, count, fits) in [("", 3, ""), ("äöü", 2, "äöüä"), ("Hello", 2, "HelloHel"), ("the time", 1, "the ")]
        {
            assert_eq!(tokens.fit(text, count).unwrap(), fits);
        }
    }

    #[test]
    fn a_text_of_words_has_as_many_as_were_asked_for() {
        let text = Tokens::Estimated.words(50, &mut Lots::python(1)).unwrap();
        assert_eq!(text.split_whitespace().count(), 50);
        assert_ne!(text, Tokens::Estimated.words(50, &mut Lots::python(2)).unwrap());
    }
}
