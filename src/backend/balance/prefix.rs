//! What a model is going to read, as a chain of block numbers: two prompts share as many blocks as they share text.
//!
//! The text is the request's own JSON, the tools and then the messages, since a backend renders the same prompt from the
//! same JSON. It is not parsed again: `},{"` ends a block, for within a JSON string the quote has a backslash before it,
//! so this is nearly always where one message, call or part of a message ends and the next begins. Where it is not, a
//! block ends there all the same, in all requests alike. So a request that goes on from an earlier one has all of that
//! one's blocks, the last of which ends with its last message.

use super::{float, whole};
use crate::chat::JsonObject;
use foldhash::quality::RandomState;
use memchr::memmem;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, LazyLock};

/// Bytes of a block that has no other end. With [`BYTES_PER_TOKEN`] it is 64 tokens.
const BLOCK_BYTES: usize = 256;
/// Bytes of a token, before a backend has said how many tokens a prompt had. Code and English with Qwen's tokenizer.
const BYTES_PER_TOKEN: f64 = 4.0;
/// The most that is believed of that: an image in a prompt has many bytes and few tokens.
const BYTES_PER_TOKEN_MAX: f64 = 16.0;
/// Tokens from which on a prompt says something of others: a template's words around short ones are no text. Chosen.
const LEARN_TOKENS_MIN: u32 = 256;
/// How much of a new sample is learned. Chosen: ten samples forget most of what was before.
const LEARN_SHARE: f64 = 0.2;
/// Blocks of one prompt: 4 MiB of text in whole blocks. What comes after them is known by its length only.
const BLOCKS_MAX: usize = 16_384;

/// Bytes of a message in which its role must stand to be seen. Chosen.
const ROLE_WITHIN_BYTES: usize = 64;

/// Chosen anew by every process, so that nobody can write texts whose numbers collide.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// A stretch of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Stands for this block and all before it.
    pub chain: u64,
    /// Where it ends: the bytes of all blocks up to here.
    pub end: u32,
}

/// A prompt. Cloning it is cheap.
#[derive(Debug, Clone, Default)]
pub struct Prefix {
    blocks: Arc<Vec<Block>>,
    /// The last block's chain; before the first, what keeps prompts apart.
    chain: u64,
    bytes: u32,
    head: usize,
    opening: usize,
}

impl Prefix {
    /// Of a request as it goes to a backend that knows its model as `model`.
    pub fn of_body(model: &str, body: &JsonObject) -> Self {
        let member = |name| body.value(name).unwrap_or_default();
        Self::of(model, &member("tools"), &member("messages"))
    }

    /// Of a request's parts. `model` and whatever else keeps prompts apart that must share nothing come first; `tools` and
    /// `messages` are the JSON texts of these two arrays, empty where there is none.
    pub fn of(model: &str, tools: &[u8], messages: &[u8]) -> Self {
        let (tools, messages) = (inside(tools), inside(messages));
        let mut prefix = Self { chain: SEED.hash_one(model), ..Self::default() };
        prefix.push(tools);
        prefix.head = prefix.blocks.len();
        let mut ends = prefix.push(messages).into_iter();
        if is_instructions(messages) {
            prefix.head = ends.next().unwrap_or(prefix.head);
        }
        prefix.opening = ends.next().unwrap_or(prefix.head);
        prefix
    }

    /// Made up, for tests and the simulator: the first `head` blocks are what sessions share, and it begins with the
    /// first `opening`.
    pub fn of_blocks(blocks: Vec<Block>, head: usize, opening: usize) -> Self {
        let bytes = blocks.last().map_or(0, |block| block.end);
        let chain = blocks.last().map_or(0, |block| block.chain);
        Self { blocks: Arc::new(blocks), chain, bytes, head, opening }
    }

    /// Goes on with more blocks, for tests and the simulator.
    pub fn append_blocks(&mut self, blocks: &[Block]) {
        Arc::make_mut(&mut self.blocks).extend_from_slice(blocks);
        if let Some(last) = blocks.last() {
            (self.chain, self.bytes) = (last.chain, last.end);
        }
    }

    /// Its blocks, from the beginning on.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Its length.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// What stands for all of it.
    pub fn last(&self) -> u64 {
        self.chain
    }

    /// The tools and the system's message, which other conversations of the same client share.
    pub fn head(&self) -> &[Block] {
        &self.blocks[..self.head]
    }

    /// A number that a conversation keeps while it grows: of everything up to the end of its first question.
    pub fn opening(&self) -> u64 {
        self.opening.checked_sub(1).map_or(0, |at| self.blocks[at].chain)
    }

    /// Adds a text's blocks. Returned is after which of all blocks the first few of the text's objects end.
    fn push(&mut self, text: &[u8]) -> Vec<usize> {
        let blocks = Arc::make_mut(&mut self.blocks);
        let mut ends = Vec::new();
        for Cut { block, ends_object } in cuts(text) {
            self.bytes = self.bytes.saturating_add(u32::try_from(block.len()).unwrap_or(u32::MAX));
            if blocks.len() < BLOCKS_MAX {
                let mut hasher = SEED.build_hasher();
                hasher.write_u64(self.chain);
                hasher.write(block);
                self.chain = hasher.finish();
                blocks.push(Block { chain: self.chain, end: self.bytes });
            }
            // The system's message and the first question.
            if ends_object && ends.len() < 2 {
                ends.push(blocks.len());
            }
        }
        ends
    }
}

/// Whether the first of these messages is a client's instructions rather than a question: all SDKs write the role first.
fn is_instructions(messages: &[u8]) -> bool {
    let start = &messages[..messages.len().min(ROLE_WITHIN_BYTES)];
    [&b"\"system\""[..], b"\"developer\""].into_iter().any(|role| memmem::find(start, role).is_some())
}

/// How many bytes a token has, learned from what backends say of prompts whose bytes are known.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    bytes_per_token: f64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { bytes_per_token: BYTES_PER_TOKEN }
    }
}

impl Tokens {
    /// A prompt of so many bytes had so many tokens.
    pub fn learn(&mut self, bytes: u32, tokens: u32) {
        if tokens >= LEARN_TOKENS_MIN {
            let sample = (f64::from(bytes) / f64::from(tokens)).clamp(1.0, BYTES_PER_TOKEN_MAX);
            self.bytes_per_token += LEARN_SHARE * (sample - self.bytes_per_token);
        }
    }

    /// The tokens of so many bytes.
    pub fn of(self, bytes: u64) -> u64 {
        whole(float(bytes) / self.bytes_per_token)
    }

    /// The bytes of so many tokens.
    pub fn bytes(self, tokens: u64) -> u64 {
        whole(float(tokens) * self.bytes_per_token)
    }
}

/// An array's text without its brackets.
fn inside(array: &[u8]) -> &[u8] {
    let text = array.trim_ascii();
    let text = text.strip_prefix(b"[").unwrap_or(text);
    text.strip_suffix(b"]").unwrap_or(text).trim_ascii()
}

/// A stretch of a text, and whether an object of the array (or within one of its objects) ends with it.
struct Cut<'a> {
    block: &'a [u8],
    ends_object: bool,
}

/// A text's blocks. What stands between two objects (a comma and white space) is in none of them, as clients and the
/// gateway may write it differently.
fn cuts(text: &[u8]) -> impl Iterator<Item = Cut<'_>> {
    let mut seams =
        memmem::find_iter(text, b"{\"").filter_map(|next| Some((object_end(&text[..next])?, next))).peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        while seams.next_if(|(end, _)| *end <= at).is_some() {}
        let (end, next) = seams.peek().copied().unwrap_or((text.len(), text.len()));
        let start = at;
        let ends_object = end - start <= BLOCK_BYTES;
        let (end, next) = if ends_object { (end, next) } else { (start + BLOCK_BYTES, start + BLOCK_BYTES) };
        at = next;
        (start < end).then(|| Cut { block: &text[start..end], ends_object })
    })
}

/// Where an object ends after which, but for a comma, nothing comes.
fn object_end(before: &[u8]) -> Option<usize> {
    let object = before.trim_ascii_end().strip_suffix(b",")?.trim_ascii_end();
    object.ends_with(b"}").then_some(object.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(left: &Prefix, right: &Prefix) -> usize {
        left.blocks().iter().zip(right.blocks()).take_while(|(left, right)| left == right).count()
    }

    fn of(messages: &str) -> Prefix {
        Prefix::of("model", b"[{\"type\":\"function\"}]", messages.as_bytes())
    }

    #[test]
    fn a_request_that_goes_on_has_all_blocks_of_the_one_before() {
        let long = "x".repeat(1000);
        let first = of(&format!(r#"[{{"role":"system","content":"{long}"}},{{"role":"user","content":"Go"}}]"#));
        let second = of(&format!(
            r#"[{{"role":"system","content":"{long}"}}, {{"role":"user","content":"Go"}},
                {{"role":"assistant","content":"Yes"}} ]"#
        ));
        assert_eq!(shared(&first, &second), first.blocks().len());
        assert_eq!(second.blocks().len(), first.blocks().len() + 1);
    }

    #[test]
    fn what_sessions_share_ends_with_the_instructions_and_a_conversation_keeps_its_opening() {
        let system = r#"{"role":"system","content":"Be brief"}"#;
        let question = r#"{"role":"user","content":"Go"}"#;
        let answer = r#"{"role":"assistant","content":"Yes"}"#;
        let first = of(&format!("[{system},{question}]"));
        let later = of(&format!("[{system},{question},{answer},{question}]"));
        assert_eq!((first.head(), first.head().len()), (later.head(), 2), "the tools, and the system's message");
        assert_eq!(first.opening(), later.opening());
        assert_ne!(first.opening(), of(&format!("[{system},{answer}]")).opening());
        let plain = of(&format!("[{question},{answer}]"));
        assert_eq!((plain.head().len(), plain.opening()), (1, of(&format!("[{question}]")).opening()));
        assert_eq!(of("[]").opening(), of("[]").last());
    }

    #[test]
    fn nothing_is_shared_by_other_models_tools_or_beginnings() {
        let messages = br#"[{"role":"user","content":"Go"}]"#;
        let one = Prefix::of("one", b"", messages);
        assert_eq!(shared(&one, &Prefix::of("two", b"", messages)), 0);
        assert_eq!(shared(&one, &Prefix::of("one", b"[{}]", messages)), 0);
        assert_eq!(shared(&one, &Prefix::of("one", b"", br#"[{"role":"user","content":"Stop"}]"#)), 0);
    }

    #[test]
    fn a_difference_far_behind_costs_only_what_comes_after_it() {
        let (a, b) = ("a".repeat(5000), "a".repeat(4000) + &"b".repeat(1000));
        let [left, right] = [a, b].map(|text| of(&format!(r#"[{{"role":"user","content":"{text}"}}]"#)));
        let at = shared(&left, &right);
        assert!(left.blocks()[at - 1].end > 3700, "{at}");
    }

    #[test]
    fn a_hostile_text_makes_a_bounded_number_of_blocks_and_its_length_still_counts() {
        let prefix = of(&format!("[{}{{}}]", r#"{"a":1},"#.repeat(BLOCKS_MAX * 2)));
        assert_eq!(prefix.blocks().len(), BLOCKS_MAX);
        assert!(prefix.bytes() as usize > BLOCKS_MAX * 2 * 7);
    }
}
