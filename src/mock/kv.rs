//! The server's KV cache, as far as it can be told from outside: how much of a prompt need not be computed again.
//!
//! As SGLang's radix cache with a page of one token, its default. A prefix is known by one number, a hash over all of
//! its tokens, so a text is the list of the numbers of its prefixes. What was used longest ago goes first, and of one
//! text its end goes first, so that what is kept always hangs together.
//!
//! Not modelled: SGLang never drops what a running request reads, and makes new ones wait instead.

use super::tokens;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A text as the cache knows it: for each of its tokens, the number of the prefix that ends with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes(Vec<u64>);

impl Prefixes {
    /// Of a text. `salt` keeps texts apart that must not share anything (SGLang's `extra_key` and `cache_salt`).
    pub fn of(salt: &str, text: &str) -> Self {
        let mut prefixes = Self(Vec::new());
        prefixes.push(number(0, salt), text);
        prefixes
    }

    /// The same with more text after it, tokenised apart, as a model's answer is.
    pub fn with(&self, text: &str) -> Self {
        let mut longer = self.clone();
        longer.push(self.0.last().copied().unwrap_or_default(), text);
        longer
    }

    fn push(&mut self, mut last: u64, text: &str) {
        for token in tokens::tokens(text) {
            last = number(last, token);
            self.0.push(last);
        }
    }
}

fn number(before: u64, token: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (before, token).hash(&mut hasher);
    hasher.finish()
}

/// When a prefix was last used, and its length. The order in which prefixes are dropped.
type Age = (u64, Reverse<usize>);

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    tokens_max: usize,
    uses: u64,
    ages: HashMap<u64, Age>,
    oldest: BTreeMap<Age, u64>,
}

impl Cache {
    /// For so many tokens.
    pub fn new(tokens_max: usize) -> Self {
        let kept = Kept { tokens_max, uses: 0, ages: HashMap::new(), oldest: BTreeMap::new() };
        Self(Arc::new(Mutex::new(kept)))
    }

    /// Tokens of a prompt that need not be computed. The last one always is: its result is the first new token.
    pub fn cached(&self, prompt: &Prefixes) -> u32 {
        let mut kept = self.lock();
        let searched = &prompt.0[..prompt.0.len().saturating_sub(1)];
        let cached = searched.iter().take_while(|prefix| kept.ages.contains_key(prefix)).count();
        kept.uses += 1;
        let age = kept.uses;
        kept.keep(&prompt.0[..cached], 0, age);
        u32::try_from(cached).unwrap_or(u32::MAX)
    }

    /// The prompt has been computed.
    pub fn filled(&self, prompt: &Prefixes) {
        let mut kept = self.lock();
        kept.uses += 1;
        let age = kept.uses;
        kept.keep(&prompt.0, 0, age);
    }

    /// The answer to a prompt is going to be written.
    pub fn grows(&self, prompt: &Prefixes, answer: &str) -> Growth {
        let age = self.lock().uses;
        Growth { cache: self.clone(), text: prompt.with(answer), kept: prompt.0.len(), age }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that grows in the cache as it is written.
#[derive(Debug)]
pub struct Growth {
    cache: Cache,
    text: Prefixes,
    kept: usize,
    age: u64,
}

impl Growth {
    /// So many more tokens are written.
    pub fn wrote(&mut self, tokens: u32) {
        let end = (self.kept + tokens as usize).min(self.text.0.len());
        let mut kept = self.cache.lock();
        // What it continues may be gone by now.
        if self.kept.checked_sub(1).is_none_or(|last| kept.ages.contains_key(&self.text.0[last])) {
            kept.keep(&self.text.0[..end], self.kept, self.age);
        }
        self.kept = end;
    }
}

impl Kept {
    /// Keeps the prefixes from `from` on, whose last use was at `age`.
    fn keep(&mut self, text: &[u64], from: usize, age: u64) {
        for (length, &prefix) in text.iter().enumerate().skip(from) {
            let age = (age, Reverse(length));
            let before = self.ages.get(&prefix).copied();
            // Another text that shares this prefix may have been used later.
            if before.is_none_or(|before| before < age) {
                before.map(|before| self.oldest.remove(&before));
                self.ages.insert(prefix, age);
                self.oldest.insert(age, prefix);
            }
        }
        while self.ages.len() > self.tokens_max {
            let Some((_, prefix)) = self.oldest.pop_first() else { break };
            self.ages.remove(&prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(cache: &Cache, prompt: &str, answer: &str) -> u32 {
        let prompt = Prefixes::of("", prompt);
        let cached = cache.cached(&prompt);
        cache.filled(&prompt);
        cache.grows(&prompt, answer).wrote(tokens::count(answer));
        cached
    }

    #[test]
    fn nothing_is_cached_of_another_beginning_or_under_another_salt() {
        let cache = Cache::new(100);
        assert_eq!(fill(&cache, "a b c d", ""), 0);
        assert_eq!(fill(&cache, "x b c d", ""), 0);
        assert_eq!(cache.cached(&Prefixes::of("salt", "a b c d")), 0);
    }

    #[test]
    fn the_common_beginning_is_cached_but_never_the_last_token() {
        let cache = Cache::new(100);
        fill(&cache, "a b c d", "");
        assert_eq!(fill(&cache, "a b x", ""), 2);
        assert_eq!(fill(&cache, "a b c d", ""), 3);
    }

    #[test]
    fn an_answer_is_cached_as_far_as_it_was_written() {
        let cache = Cache::new(100);
        let prompt = Prefixes::of("", "a b");
        cache.filled(&prompt);
        cache.grows(&prompt, " c d e").wrote(2);
        assert_eq!(cache.cached(&Prefixes::of("", "a b c d e f")), 4);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_its_end_before_its_beginning() {
        let cache = Cache::new(8);
        fill(&cache, "a b c d", "");
        fill(&cache, "x y", " z");
        fill(&cache, "a b", "");
        // Nine tokens: `d`, which was not used with `a b` again, has to go.
        fill(&cache, "v w", "");
        assert_eq!(cache.cached(&Prefixes::of("", "a b c d e")), 3);
        assert_eq!(cache.cached(&Prefixes::of("", "x y z .")), 3);
        assert_eq!(cache.lock().ages.len(), 8);
    }

    #[test]
    fn a_prompt_larger_than_the_cache_leaves_its_beginning() {
        let cache = Cache::new(3);
        assert_eq!((fill(&cache, "a b c d e", " f"), fill(&cache, "a b c d e", "")), (0, 3));
    }
}
