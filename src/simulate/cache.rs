//! A backend's KV cache, as SGLang's: a radix tree in which what was used longest ago goes first, and what running
//! requests hold never.
//!
//! Sessions share nothing but their family's beginning, so the tree has two levels: a family, and its conversations.

use std::collections::BTreeMap;

/// Tokens of a page: what is kept and found is a multiple of it.
const PAGE_TOKENS: u32 = 64;

/// A conversation: its session, and how often that was compacted.
pub(super) type Conversation = (u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Family(u64),
    Own(u64, Conversation),
}

#[derive(Debug, Default)]
struct Kept {
    tokens: u32,
    used: u64,
    pins: u32,
    children: u32,
}

/// What a request needs of the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub family: u64,
    pub conversation: Conversation,
    /// Tokens that the family shares.
    pub head: u32,
    /// Tokens of the prompt.
    pub context: u32,
    /// Tokens of the answer, for which there must be room, too.
    pub answer: u32,
}

#[derive(Debug)]
pub(super) struct Cache {
    tokens_max: u64,
    tokens: u64,
    uses: u64,
    nodes: BTreeMap<Node, Kept>,
}

impl Cache {
    pub fn new(tokens_max: u64) -> Self {
        Self { tokens_max, tokens: 0, uses: 0, nodes: BTreeMap::new() }
    }

    /// Makes room for a request and holds it: how many tokens of the prompt were there. `None` while running requests
    /// hold too much.
    pub fn hold(&mut self, need: &Need) -> Option<u32> {
        let (family, own) = (Node::Family(need.family), Node::Own(need.family, need.conversation));
        let tokens = |cache: &Self, node| cache.nodes.get(&node).map_or(0, |kept: &Kept| kept.tokens);
        let (head, rest) = (tokens(self, family), tokens(self, own));
        let own_tokens = need.context - need.head + need.answer;
        let more = u64::from(need.head.saturating_sub(head)) + u64::from(own_tokens.saturating_sub(rest));
        // What it has already is not to be evicted for it.
        self.pin(family, 1);
        self.pin(own, 1);
        while self.tokens + more > self.tokens_max {
            if !self.evict(self.tokens + more - self.tokens_max) {
                self.pin(family, -1);
                self.pin(own, -1);
                return None;
            }
        }
        self.uses += 1;
        for (node, tokens) in [(family, need.head), (own, own_tokens)] {
            let kept = self.nodes.entry(node).or_default();
            kept.tokens = kept.tokens.max(tokens);
            kept.used = self.uses;
        }
        self.tokens += more;
        let found = if head >= need.head { need.head + rest } else { head };
        // The last token is always read: its result is the answer's first.
        Some((found.min(need.context - 1) / PAGE_TOKENS) * PAGE_TOKENS)
    }

    /// A request is done.
    pub fn release(&mut self, need: &Need) {
        self.uses += 1;
        for node in [Node::Family(need.family), Node::Own(need.family, need.conversation)] {
            self.pin(node, -1);
            self.nodes.entry(node).or_default().used = self.uses;
        }
    }

    fn pin(&mut self, node: Node, by: i32) {
        if !self.nodes.contains_key(&node)
            && let Node::Own(family, _) = node
        {
            self.nodes.entry(Node::Family(family)).or_default().children += 1;
        }
        let kept = self.nodes.entry(node).or_default();
        kept.pins = kept.pins.saturating_add_signed(by);
    }

    /// Drops from what was used longest ago.
    fn evict(&mut self, tokens: u64) -> bool {
        let free = self.nodes.iter_mut().filter(|(_, kept)| kept.pins == 0 && kept.children == 0);
        let Some((&node, kept)) = free.min_by_key(|(_, kept)| kept.used) else { return false };
        let pages = tokens.div_ceil(u64::from(PAGE_TOKENS)) * u64::from(PAGE_TOKENS);
        let dropped = u64::from(kept.tokens).min(pages);
        kept.tokens -= u32::try_from(dropped).unwrap_or(u32::MAX);
        self.tokens -= dropped;
        if kept.tokens == 0 {
            self.nodes.remove(&node);
            if let Node::Own(family, _) = node
                && let Some(family) = self.nodes.get_mut(&Node::Family(family))
            {
                family.children -= 1;
            }
        }
        true
    }
}
