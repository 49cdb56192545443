//! The room's keys, and a memory for as long as one input is looked at. Its file is not fuzzed.

use bytes::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;

#[path = "../../src/memory/key.rs"]
mod key;

pub use key::Key;

#[derive(Default)]
pub struct Memory {
    values: RefCell<HashMap<Key, Bytes>>,
    /// What lies under every other key.
    pub otherwise: Option<Bytes>,
}

impl Memory {
    pub async fn recall(&self, keys: &[Key], _bytes_max: usize) -> Vec<Option<Bytes>> {
        let values = self.values.borrow();
        keys.iter().map(|key| values.get(key).or(self.otherwise.as_ref()).cloned()).collect()
    }

    pub async fn remember(&self, keys: &[Key], value: Bytes) -> bool {
        self.values.borrow_mut().extend(keys.iter().map(|key| (*key, value.clone())));
        true
    }
}
