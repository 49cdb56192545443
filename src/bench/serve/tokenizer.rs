//! The model's own tokenizer, from the `tokenizer.json` beside its weights.

use std::path::{Path, PathBuf};
use tokenizers::PostProcessor as _;

/// Why a tokenizer is of no use.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer {path}: {why}", path = .path.display())]
pub struct Unusable {
    path: PathBuf,
    why: String,
}

/// A tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer {
    path: PathBuf,
    tokenizer: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads one: the file, or the folder that holds it.
    ///
    /// # Errors
    /// When it cannot be read or is no tokenizer.
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let unusable = |why: String| Unusable { path: path.to_owned(), why };
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let text = std::fs::read(&file).map_err(|error| unusable(error.to_string()))?;
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&text)
            .map_err(|error| unusable(format!("not a tokenizer.json of Hugging Face's: {error}")))?;
        // A file may say that texts are cut or filled up to a length: that is for training.
        tokenizer.with_padding(None).with_truncation(None).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { path: path.to_owned(), tokenizer })
    }

    /// Tokens that it has, without added ones.
    pub fn size(&self) -> u32 {
        u32::try_from(self.tokenizer.get_vocab_size(false)).unwrap_or(u32::MAX)
    }

    /// Tokens that a server puts around a text.
    pub fn around(&self) -> u32 {
        let around = self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        u32::try_from(around).unwrap_or(u32::MAX)
    }

    /// A text's tokens.
    ///
    /// # Errors
    /// When the tokenizer has none for a part of it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Unusable> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| self.unusable(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens. What is no UTF-8 is replaced.
    ///
    /// # Errors
    /// When the tokenizer cannot put them together.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Unusable> {
        self.tokenizer.decode(tokens, false).map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, why: &tokenizers::Error) -> Unusable {
        Unusable { path: self.path.clone(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::time::{Duration, Instant};

    /// How byte-level files write bytes: those that print as themselves, the others from U+0100 on.
    fn letters() -> impl Iterator<Item = (String, u8)> {
        let mut later = 0x100;
        (0..=u8::MAX).map(move |byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte).to_string(), byte),
            _ => {
                later += 1;
                (char::from_u32(later - 1).unwrap().to_string(), byte)
            }
        })
    }

    /// Qwen's expression, and a few tokens of its kind behind those of single bytes, whose numbers are the bytes themselves.
    fn small() -> Value {
        let mut vocabulary: serde_json::Map<String, Value> =
            letters().map(|(letter, byte)| (letter, json!(byte))).collect();
        for (token, id) in [("he", 256), ("ll", 257), ("hell", 258), ("hello", 259), ("Ġhe", 260), ("ĠĠ", 261)] {
            vocabulary.insert(token.to_owned(), json!(id));
        }
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let qwens = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "added_tokens": [added(262, "<|im_end|>"), added(263, "<|im_end|>!"), added(264, "<s>")],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": qwens}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            ]},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [264], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocabulary,
                "merges": ["h e", "l l", "he ll", "hell o", "Ġ he", "Ġ Ġ"]},
        })
    }

    fn read(value: &Value) -> Result<Tokenizer, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), value.to_string()).unwrap();
        Tokenizer::read(folder.path()).map_err(|unusable| unusable.to_string())
    }

    #[test]
    fn what_is_no_tokenizer_is_refused_by_name() {
        let mut other = small();
        other["model"]["type"] = json!("Guesses");
        for value in [json!([1]), json!({}), other] {
            let why = read(&value).unwrap_err();
            assert!(why.contains("not a tokenizer.json of Hugging Face's: "), "{why}");
        }
        assert!(Tokenizer::read(Path::new("/no/such")).unwrap_err().to_string().contains("/no/such: No such file"));
    }

    #[test]
    fn tokens_are_joined_by_rank_and_only_within_words() {
        let mut newer = small();
        newer["model"]["merges"] =
            json!([["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["Ġ", "he"], ["Ġ", "Ġ"]]);
        for file in [small(), newer] {
            let tokenizer = read(&file).unwrap();
            assert_eq!((tokenizer.size(), tokenizer.around()), (262, 1));
            assert_eq!(tokenizer.encode("hello").unwrap(), [259]);
            // Longer than the file's own bound, which is for training.
            assert_eq!(tokenizer.encode(" hello  h").unwrap(), [32, 259, 32, 32, u32::from(b'h')]);
            assert_eq!(tokenizer.encode("hé").unwrap(), [u32::from(b'h'), 0xc3, 0xa9]);
        }
    }

    #[test]
    fn added_tokens_stand_for_themselves() {
        let tokenizer = read(&small()).unwrap();
        assert_eq!(tokenizer.encode("he<|im_end|>he").unwrap(), [256, 262, 256]);
        assert_eq!(tokenizer.decode(&[256, 262, 259, 0xff]).unwrap(), "he<|im_end|>hello\u{fffd}");
    }

    #[test]
    fn tokens_put_together_are_the_text() {
        let tokenizer = read(&small()).unwrap();
        for text in ["", "It's 12345 o'clock.\n\n  def f(x):\r\n", "日本語 😀  ", "   \n\n\n x<|im_end|"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
        }
    }

    /// A model that is told to go on may write one word without end.
    #[test]
    fn a_word_of_a_megabyte_is_counted_in_no_time() {
        let tokenizer = read(&small()).unwrap();
        let begun = Instant::now();
        assert_eq!(tokenizer.encode(&"hello".repeat(200_000)).unwrap().len(), 200_000);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
