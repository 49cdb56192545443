//! What the loop puts back into a conversation; the loop itself is not fuzzed.

#[path = "../../../src/agent/arguments.rs"]
mod arguments;
#[path = "../../../src/agent/history.rs"]
mod history;
#[path = "../../../src/agent/remembered.rs"]
mod remembered;
#[path = "../../../src/agent/visible.rs"]
mod visible;

mod conversation;

pub use conversation::history;
