//! What one backend's KV cache is likely to hold, as far as the gateway has fed it: prompts it sent, answers it saw.
//!
//! A radix tree as SGLang's own. A run is a stretch of blocks without a fork; what was used longest ago goes first, from
//! the ends of the tree, when there is more than the backend's real cache takes. So a block is here only if all before it
//! are, and the longest known beginning of a prompt is found by bisection: a request costs what it brings anew, plus a
//! step for every fork on its way.
//!
//! What a backend wrote stands behind its prompt by its length alone (a `tail`): the client sends it back in a spelling
//! of its own, and then it is known by its blocks.

use super::{Block, Prefix, float};
use std::collections::{BTreeSet, HashMap};

/// Blocks of one backend: 64 MiB of prompts in whole blocks. Chosen: about 10 MiB of memory.
const BLOCKS_MAX: usize = 262_144;

/// The index of one backend. Its unit is the byte of prompt text.
#[derive(Debug)]
pub(super) struct Index {
    bytes_max: u64,
    bytes: u64,
    uses: u64,
    runs: HashMap<RunId, Run>,
    next_run: RunId,
    /// Where a block is: its run, and which of its blocks.
    places: HashMap<u64, (RunId, usize)>,
    /// Runs that nothing follows, by last use.
    leaves: BTreeSet<(u64, RunId)>,
}

type RunId = u32;

#[derive(Debug)]
struct Run {
    parent: Option<RunId>,
    /// Where it begins, in bytes from the prompt's beginning.
    start: u32,
    blocks: Vec<Block>,
    /// Bytes of an answer that follows the last block.
    tail: u32,
    children: u32,
    used: u64,
}

/// What an index knows of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Match {
    /// Bytes from the beginning that are there.
    pub bytes: u32,
    /// When the last of them was used before.
    pub used: u64,
    blocks: usize,
}

impl Index {
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            uses: 0,
            runs: HashMap::new(),
            next_run: 0,
            places: HashMap::new(),
            leaves: BTreeSet::new(),
        }
    }

    /// The backend turned out to have another size.
    pub fn resize(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.shrink();
    }

    /// Bytes that are there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The share of the cache that is in use.
    pub fn filled(&self) -> f64 {
        float(self.bytes) / float(self.bytes_max.max(1))
    }

    /// How much of a prompt is there.
    pub fn find(&self, prefix: &Prefix) -> Match {
        let blocks = prefix.blocks().partition_point(|block| self.places.contains_key(&block.chain));
        let Some((run, last)) = blocks.checked_sub(1).and_then(|at| self.place(prefix.blocks()[at])) else {
            return Match::default();
        };
        let end = prefix.blocks()[blocks - 1].end;
        let is_end = last + 1 == run.blocks.len();
        let tail = if is_end { run.tail.min(prefix.bytes() - end) } else { 0 };
        Match { bytes: end + tail, used: run.used, blocks }
    }

    fn place(&self, block: Block) -> Option<(&Run, usize)> {
        let (id, at) = self.places.get(&block.chain)?;
        Some((self.runs.get(id)?, *at))
    }

    /// The backend reads a prompt.
    pub fn read(&mut self, prefix: &Prefix) {
        let blocks = prefix.blocks();
        let known = self.find(prefix).blocks;
        self.uses += 1;
        let parent = known.checked_sub(1).and_then(|at| self.end_run_at(blocks[at].chain));
        if let Some(id) = parent {
            self.touch(id);
        }
        if known < blocks.len() {
            self.grow(parent, blocks, known);
        }
        self.shrink();
    }

    /// The backend has written an answer to a prompt whose last block is `last`.
    pub fn wrote(&mut self, last: u64, bytes: u32) {
        let Some(id) = self.end_run_at(last) else { return };
        self.uses += 1;
        self.touch(id);
        if let Some(run) = self.runs.get_mut(&id).filter(|run| run.children == 0) {
            self.bytes = self.bytes - u64::from(run.tail) + u64::from(bytes);
            run.tail = bytes;
        }
        self.shrink();
    }

    /// The backend has lost something that was used at `used`: then all that was not used since is lost, too.
    pub fn lost(&mut self, used: u64) {
        while self.leaves.first().is_some_and(|(leaf, _)| *leaf <= used) {
            self.drop_oldest(u64::MAX);
        }
    }

    /// The run that ends with a block. If the block is in the middle of one, that one is cut in two.
    fn end_run_at(&mut self, chain: u64) -> Option<RunId> {
        let (id, at) = *self.places.get(&chain)?;
        let at = at + 1;
        let new_id = self.new_id();
        let run = self.runs.get_mut(&id)?;
        if at == run.blocks.len() {
            return Some(id);
        }
        // The front gets the new number, so that what follows the back need not be told of another parent.
        let back = run.blocks.split_off(at);
        let front = std::mem::replace(&mut run.blocks, back);
        let start = front.last().map_or(run.start, |block| block.end);
        let before = Run { parent: run.parent, start: run.start, blocks: front, tail: 0, children: 1, used: run.used };
        (run.parent, run.start) = (Some(new_id), start);
        for (at, block) in (0..).zip(&run.blocks) {
            self.places.insert(block.chain, (id, at));
        }
        for (at, block) in (0..).zip(&before.blocks) {
            self.places.insert(block.chain, (new_id, at));
        }
        self.runs.insert(new_id, before);
        Some(new_id)
    }

    fn new_id(&mut self) -> RunId {
        // Runs are at most as many as blocks, so there is a free number.
        while self.runs.contains_key(&self.next_run) {
            self.next_run = self.next_run.wrapping_add(1);
        }
        self.next_run
    }

    /// A run and all before it are used now.
    fn touch(&mut self, id: RunId) {
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(run) = self.runs.get_mut(&id) else { return };
            if run.children == 0 {
                self.leaves.remove(&(run.used, id));
                self.leaves.insert((self.uses, id));
            }
            run.used = self.uses;
            next = run.parent;
        }
    }

    /// Puts `blocks`, of which the first `known` are there, behind `parent`, which ends with the last of these.
    fn grow(&mut self, parent: Option<RunId>, blocks: &[Block], known: usize) {
        let added = &blocks[known..];
        let start = known.checked_sub(1).map_or(0, |at| blocks[at].end);
        self.bytes += u64::from(blocks[blocks.len() - 1].end - start);
        let (id, first) = match parent.and_then(|id| Some((id, self.runs.get_mut(&id)?))) {
            Some((id, run)) if run.children == 0 => {
                // What was written is now known by its blocks.
                self.bytes -= u64::from(std::mem::take(&mut run.tail));
                let first = run.blocks.len();
                run.blocks.extend_from_slice(added);
                (id, first)
            }
            Some((parent, run)) => {
                run.children += 1;
                (self.new_leaf(Some(parent), start, added), 0)
            }
            None => (self.new_leaf(None, start, added), 0),
        };
        for (at, block) in (first..).zip(added) {
            self.places.insert(block.chain, (id, at));
        }
    }

    fn new_leaf(&mut self, parent: Option<RunId>, start: u32, blocks: &[Block]) -> RunId {
        let id = self.new_id();
        let run = Run { parent, start, blocks: blocks.to_vec(), tail: 0, children: 0, used: self.uses };
        self.runs.insert(id, run);
        self.leaves.insert((self.uses, id));
        id
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max || self.places.len() > BLOCKS_MAX {
            let too_many = self.bytes.saturating_sub(self.bytes_max).max(1);
            if !self.drop_oldest(too_many) {
                return;
            }
        }
    }

    /// Drops from the end of the leaf that was used longest ago, at least so many bytes if it has them.
    fn drop_oldest(&mut self, bytes: u64) -> bool {
        let Some(&(used, id)) = self.leaves.first() else { return false };
        let Some(run) = self.runs.get_mut(&id) else { return false };
        let tail = u64::from(std::mem::take(&mut run.tail));
        let mut dropped = tail;
        while dropped < bytes
            && let Some(block) = run.blocks.pop()
        {
            let start = run.blocks.last().map_or(run.start, |before| before.end);
            dropped += u64::from(block.end - start);
            self.places.remove(&block.chain);
        }
        self.bytes -= dropped;
        if run.blocks.is_empty() {
            let parent = run.parent;
            self.leaves.remove(&(used, id));
            self.runs.remove(&id);
            if let Some((parent, run)) = parent.and_then(|id| Some((id, self.runs.get_mut(&id)?))) {
                run.children -= 1;
                if run.children == 0 {
                    self.leaves.insert((run.used, parent));
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A text of blocks of 100 bytes, one for each letter.
    fn text(letters: &str) -> Prefix {
        let blocks = letters.chars().zip((100..).step_by(100)).scan(7_u64, |chain, (letter, end)| {
            *chain = super::super::lots::mix(*chain ^ u64::from(letter));
            Some(Block { chain: *chain, end })
        });
        Prefix::of_blocks(blocks.collect(), 0, 0)
    }

    fn known(index: &Index, letters: &str) -> u32 {
        index.find(&text(letters)).bytes
    }

    #[test]
    fn what_was_read_is_known_as_far_as_it_is_the_same() {
        let mut index = Index::new(10_000);
        index.read(&text("abcdef"));
        index.read(&text("abxy"));
        for (letters, bytes) in [("", 0), ("x", 0), ("a", 100), ("abcd", 400), ("abcdefgh", 600), ("abxz", 300)] {
            assert_eq!(known(&index, letters), bytes, "{letters}");
        }
        index.check();
    }

    #[test]
    fn an_answer_is_known_by_its_length_until_it_comes_back() {
        let mut index = Index::new(10_000);
        index.read(&text("ab"));
        index.wrote(text("ab").last(), 150);
        assert_eq!(known(&index, "ab"), 200);
        assert_eq!(known(&index, "abcd"), 350, "its first 150 bytes are the answer");
        assert_eq!(known(&index, "abc"), 300, "no more is known than there is");
        index.read(&text("abcd"));
        assert_eq!(known(&index, "abcdef"), 400);
        index.check();
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_from_its_end() {
        let mut index = Index::new(1_000);
        index.read(&text("abcd"));
        index.read(&text("xyz"));
        index.read(&text("ab"));
        index.read(&text("uvwu"));
        assert_eq!(known(&index, "abcd"), 300, "1,100 bytes: `d` has to go");
        index.read(&text("m"));
        assert_eq!(known(&index, "abcd"), 200);
        index.read(&text("mn"));
        assert_eq!((known(&index, "abcd"), known(&index, "xyz")), (200, 200));
        index.check();
    }

    #[test]
    fn a_prompt_larger_than_the_cache_leaves_its_beginning() {
        let mut index = Index::new(250);
        index.read(&text("abcdef"));
        assert_eq!(known(&index, "abcdef"), 200);
        index.check();
    }

    impl Index {
        /// Everything that the tree takes for granted.
        fn check(&self) {
            let mut bytes = 0;
            for (id, run) in &self.runs {
                assert!(!run.blocks.is_empty());
                let mut start = run.start;
                for (at, block) in run.blocks.iter().enumerate() {
                    assert_eq!(self.places.get(&block.chain), Some(&(*id, at)));
                    assert!(block.end > start);
                    start = block.end;
                }
                bytes += u64::from(start - run.start + run.tail);
                let children = self.runs.values().filter(|child| child.parent == Some(*id));
                assert_eq!(children.clone().count(), run.children as usize);
                assert!(children.clone().all(|child| child.start == start && child.used <= run.used));
                assert_eq!(self.leaves.contains(&(run.used, *id)), run.children == 0);
                assert!(run.children == 0 || run.tail == 0);
            }
            assert_eq!(self.bytes, bytes);
            assert!(self.bytes <= self.bytes_max);
            assert_eq!(self.places.len(), self.runs.values().map(|run| run.blocks.len()).sum::<usize>());
            assert_eq!(self.leaves.len(), self.runs.values().filter(|run| run.children == 0).count());
        }
    }

    proptest! {
        #[test]
        fn the_tree_holds_together_whatever_happens(
            steps in prop::collection::vec((0..4_u8, "[abc]{0,9}", 0..900_u32), 1..60),
        ) {
            let mut index = Index::new(2_000);
            for (what, letters, number) in steps {
                let prompt = text(&letters);
                let before = index.find(&prompt).used;
                match what {
                    0 => index.wrote(prompt.last(), number),
                    1 => index.lost(before),
                    2 => index.resize(u64::from(number) * 4),
                    _ => {
                        index.read(&prompt);
                        prop_assert!(known(&index, &letters) <= prompt.bytes());
                        if u64::from(prompt.bytes()) <= index.bytes_max {
                            prop_assert_eq!(known(&index, &letters), prompt.bytes());
                        }
                    }
                }
                index.check();
            }
        }
    }
}
