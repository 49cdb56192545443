//! Names of values.

use crate::access::Caller;
use sha2::{Digest, Sha256};

/// Names a value for one caller. There is no way to name another caller's. It begins with the [`Owner`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Key(pub(super) [u8; 32]);

/// By whom a value counts: a hash of the caller's name. Two callers that have the same would only share their part of
/// the room, since the rest of a key depends on the name as well.
pub(super) type Owner = [u8; 8];

impl Key {
    /// The key of `what`, which is a `kind` of thing, for this caller alone.
    pub fn new(caller: &Caller, kind: &'static str, what: &[u8]) -> Self {
        let (mut digest, mut key) = (Sha256::new(), [0; 32]);
        for part in [caller.name().as_bytes(), kind.as_bytes(), what] {
            // With its length, so that no two lists of parts run together into the same bytes.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let (owner, rest) = key.split_at_mut(size_of::<Owner>());
        owner.copy_from_slice(&Sha256::digest(caller.name())[..owner.len()]);
        rest.copy_from_slice(&digest.finalize()[..rest.len()]);
        Self(key)
    }
}
