//! The room's reading of chunks alone; its connections are not fuzzed.

use crate::chat::Delta;

#[path = "../../src/backend/delta.rs"]
mod delta;
#[path = "../../src/backend/trouble.rs"]
mod trouble;

/// `None`: the frame is no chunk, or an error.
pub fn read(frame: &[u8]) -> Option<Delta> {
    delta::read(frame).ok()
}
