//! A `tokenizer.json` of the byte-level BPE kind: Qwen's, Llama 3's, `DeepSeek`'s, GPT's.
//!
//! Ours, and not the crate `tokenizers`: that one changes features below wasmtime and brings 34 crates, of which a
//! benchmark that counts tokens needs what is in this file.

use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How GPT-2 cuts text into words, for files that only say `use_regex`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Why a tokenizer is of no use.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer {path}: {why}")]
pub struct Unusable {
    path: PathBuf,
    why: String,
}

/// What a pair of tokens becomes, and its rank before that.
type Merges = HashMap<(u32, u32), (u32, u32)>;

/// A tokenizer.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Tokens by their bytes.
    ids: HashMap<Vec<u8>, u32>,
    /// Bytes by token, added ones among them.
    texts: HashMap<u32, Vec<u8>>,
    /// Pairs of tokens, with their rank (the lowest is joined first) and what they become.
    merges: Merges,
    /// Texts that are a token whatever is around them.
    added: Vec<(String, u32)>,
    words: Vec<Regex>,
    /// A word that is a token is not put together from others.
    whole_words: bool,
    /// Tokens before the added ones.
    size: u32,
    /// Tokens that a server puts around a text.
    around: u32,
}

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// `"a b"` in older files, `["a", "b"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Bpe {
    /// Reads one.
    ///
    /// # Errors
    /// When the file cannot be read or is of another kind.
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let unusable = |why: String| Unusable { path: path.to_owned(), why };
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let text = std::fs::read(&file).map_err(|error| unusable(error.to_string()))?;
        let file: File = serde_json::from_slice(&text)
            .map_err(|error| unusable(format!("not a tokenizer.json of Hugging Face's: {error}")))?;
        Self::from_file(&file).map_err(unusable)
    }

    fn from_file(file: &File) -> Result<Self, String> {
        let vocabulary = file.model.vocab.as_object().filter(|_| file.model.kind.as_deref().unwrap_or("BPE") == "BPE");
        let kind = file.model.kind.as_deref().unwrap_or("of an unknown kind");
        let vocabulary = vocabulary.ok_or_else(|| format!("its model is {kind}; only byte-level BPE is read"))?;
        if !matches!(file.normalizer["type"].as_str(), None | Some("NFC")) {
            return Err(format!("it normalises texts by {}; only NFC is known", file.normalizer["type"]));
        }
        let alphabet = alphabet();
        let mut ids = HashMap::new();
        for (token, id) in vocabulary {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| format!("token {token}: {id}"))?;
            ids.insert(bytes_of(token, &alphabet).ok_or_else(|| not_byte_level(token))?, id);
        }
        let merges = merges(&file.model.merges, &ids, &alphabet)?;
        let added: Vec<_> = file.added_tokens.iter().map(|added| (added.content.clone(), added.id)).collect();
        let mut texts: HashMap<u32, Vec<u8>> = ids.iter().map(|(bytes, id)| (*id, bytes.clone())).collect();
        texts.extend(added.iter().map(|(text, id)| (*id, text.clone().into_bytes())));
        Ok(Self {
            size: u32::try_from(ids.len()).unwrap_or(u32::MAX),
            words: words(&file.pre_tokenizer)?,
            whole_words: file.model.ignore_merges,
            around: around(&file.post_processor),
            ids,
            texts,
            merges,
            added,
        })
    }

    /// Tokens that it has, without added ones.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Tokens that a server puts around a text.
    pub fn around(&self) -> u32 {
        self.around
    }

    /// A text's tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = self.added.iter().filter_map(|(added, id)| Some((rest.find(added)?, added.len(), *id)));
            // The first, and of several in one place the longest.
            let next = next.filter(|(_, len, _)| *len > 0).min_by_key(|(at, len, _)| (*at, usize::MAX - len));
            let (at, len) = next.map_or((rest.len(), 0), |(at, len, _)| (at, len));
            self.words(&rest[..at], 0, &mut |word| self.join(word.as_bytes(), &mut tokens));
            tokens.extend(next.map(|(_, _, id)| id));
            rest = &rest[at + len..];
        }
        tokens
    }

    /// The text of tokens. What is no UTF-8 is replaced, as Hugging Face's decoder does.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().filter_map(|token| self.texts.get(token)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Cuts a text by one expression after the other; what lies between two finds is a word as well.
    fn words(&self, text: &str, by: usize, tell: &mut impl FnMut(&str)) {
        let Some(regex) = self.words.get(by) else {
            if !text.is_empty() {
                tell(text);
            }
            return;
        };
        let mut from = 0;
        for found in regex.find_iter(text).map_while(Result::ok) {
            self.words(&text[from..found.start()], by + 1, tell);
            self.words(found.as_str(), by + 1, tell);
            from = found.end();
        }
        self.words(&text[from..], by + 1, tell);
    }

    fn join(&self, word: &[u8], tokens: &mut Vec<u32>) {
        if let Some(id) = self.ids.get(word).filter(|_| self.whole_words) {
            tokens.push(*id);
            return;
        }
        let mut parts: Vec<u32> = word.iter().filter_map(|byte| self.ids.get(&[*byte][..]).copied()).collect();
        loop {
            let pairs = parts.windows(2).enumerate();
            let known = pairs.filter_map(|(at, pair)| Some((self.merges.get(&(pair[0], pair[1]))?, at)));
            let Some(((_, joined), at)) = known.min() else { break };
            parts[at] = *joined;
            parts.remove(at + 1);
        }
        tokens.append(&mut parts);
    }
}

fn merges(written: &[Merge], ids: &HashMap<Vec<u8>, u32>, alphabet: &HashMap<char, u8>) -> Result<Merges, String> {
    let mut merges = Merges::new();
    for (rank, merge) in (0..).zip(written) {
        let (first, second) = match merge {
            Merge::Pair(first, second) => (first.as_str(), second.as_str()),
            Merge::Line(line) => line.split_once(' ').ok_or_else(|| format!("merge {line:?} is no pair"))?,
        };
        let bytes = |text| bytes_of(text, alphabet).ok_or_else(|| not_byte_level(text));
        let (first, second) = (bytes(first)?, bytes(second)?);
        let joined = [&first[..], &second[..]].concat();
        if let (Some(first), Some(second), Some(joined)) = (ids.get(&first), ids.get(&second), ids.get(&joined)) {
            merges.entry((*first, *second)).or_insert((rank, *joined));
        }
    }
    Ok(merges)
}

fn not_byte_level(token: &str) -> String {
    format!("token {token:?} is not written in bytes; only byte-level BPE is read")
}

/// How such files write bytes: those that print as themselves, the others from U+0100 on.
fn alphabet() -> HashMap<char, u8> {
    let mut later = 0x100;
    let letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
        _ => {
            later += 1;
            (char::from_u32(later - 1).unwrap_or_default(), byte)
        }
    };
    (0..=u8::MAX).map(letter).collect()
}

fn bytes_of(token: &str, alphabet: &HashMap<char, u8>) -> Option<Vec<u8>> {
    token.chars().map(|letter| alphabet.get(&letter).copied()).collect()
}

/// The expressions that cut text into words, one after the other.
fn words(pre_tokenizer: &Value) -> Result<Vec<Regex>, String> {
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.clone(),
        None => vec![pre_tokenizer.clone()],
    };
    let mut regexes = Vec::new();
    for step in &steps {
        let pattern = match (step["type"].as_str(), step["pattern"]["Regex"].as_str()) {
            (Some("Split"), Some(pattern)) if step["behavior"] == "Isolated" => pattern,
            (Some("ByteLevel"), _) if step["use_regex"] != false => GPT2,
            (Some("ByteLevel"), _) => continue,
            _ => return Err(format!("it cuts texts in a way that is not known: {step}")),
        };
        regexes.push(Regex::new(pattern).map_err(|error| format!("its expression {pattern:?}: {error}"))?);
    }
    Ok(regexes)
}

/// Special tokens of the template for one text.
fn around(post_processor: &Value) -> u32 {
    let all = post_processor["processors"].as_array().into_iter().flatten().chain([post_processor]);
    let pieces = all.filter_map(|processor| processor["single"].as_array()).flatten();
    u32::try_from(pieces.filter(|piece| piece.get("SpecialToken").is_some()).count()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Qwen's expression and a few tokens of its kind.
    fn small() -> Value {
        let bytes = alphabet().into_iter().map(|(letter, byte)| (letter.to_string(), json!(byte)));
        let mut vocabulary: serde_json::Map<String, Value> = bytes.collect();
        for (token, id) in [("he", 256), ("ll", 257), ("hell", 258), ("hello", 259), ("Ġhe", 260), ("ĠĠ", 261)] {
            vocabulary.insert(token.to_owned(), json!(id));
        }
        let qwens = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        json!({
            "added_tokens": [{"id": 300, "content": "<|im_end|>"}, {"id": 301, "content": "<|im_end|>!"}],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": qwens}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
            ]},
            "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}]},
            "model": {"type": "BPE", "vocab": vocabulary,
                "merges": ["h e", ["l", "l"], "he ll", ["hell", "o"], "Ġ he", "Ġ Ġ"]},
        })
    }

    fn read(value: &Value) -> Result<Bpe, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, value.to_string()).unwrap();
        Bpe::read(folder.path()).map_err(|unusable| unusable.to_string())
    }

    #[test]
    fn another_kind_is_refused_by_name() {
        let mut other = small();
        other["model"] = json!({"type": "Unigram", "vocab": [["a", 0.0]]});
        assert!(read(&other).unwrap_err().contains("its model is Unigram; only byte-level BPE"));
        let mut other = small();
        other["model"]["vocab"]["\u{4e2d}"] = json!(999);
        assert!(read(&other).unwrap_err().contains("is not written in bytes"));
        let mut other = small();
        other["normalizer"] = json!({"type": "Prepend"});
        assert!(read(&other).unwrap_err().contains("normalises texts by \"Prepend\""));
        let mut other = small();
        other["pre_tokenizer"] = json!({"type": "Metaspace"});
        assert!(read(&other).unwrap_err().contains("Metaspace"));
        assert!(read(&json!([1])).unwrap_err().contains("not a tokenizer.json"));
        assert!(Bpe::read(Path::new("/no/such")).unwrap_err().to_string().contains("/no/such: No such file"));
    }

    #[test]
    fn tokens_are_joined_by_rank_and_only_within_words() {
        let bpe = read(&small()).unwrap();
        assert_eq!((bpe.size(), bpe.around()), (262, 1));
        assert_eq!(bpe.encode("hello"), [259]);
        assert_eq!(bpe.encode(" hello  h"), [32, 259, 32, 32, u32::from(b'h')]);
        assert_eq!(bpe.encode("hé"), [u32::from(b'h'), 0xc3, 0xa9]);
    }

    #[test]
    fn added_tokens_stand_for_themselves_the_longest_first() {
        let bpe = read(&small()).unwrap();
        assert_eq!(bpe.encode("he<|im_end|>he<|im_end|>!"), [256, 300, 256, 301]);
        assert_eq!(bpe.decode(&[256, 300, 259, 0xff]), "he<|im_end|>hello\u{fffd}");
    }

    #[test]
    fn tokens_put_together_are_the_text() {
        let bpe = read(&small()).unwrap();
        for text in ["", "It's 12345 o'clock.\n\n  def f(x):\r\n", "日本語 😀  ", "   \n\n\n x<|im_end|"] {
            assert_eq!(bpe.decode(&bpe.encode(text)), text);
        }
    }
}
