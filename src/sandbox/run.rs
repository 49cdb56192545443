//! One run's name, and what it depends on: new for a program that comes, of an earlier run for one that is made again.

use super::wasi::Conditions;
use std::sync::Arc;

/// One run of a program, whichever.
#[derive(Debug, Clone)]
pub struct Run {
    /// A name that no other run has.
    pub id: Arc<str>,
    /// What it depends on beside its program and its interpreter's past.
    pub conditions: Conditions,
}

/// What an interpreter has come to, from where a run in it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Past {
    /// It is a new one.
    #[default]
    New,
    /// What this run has left, and all before that.
    After(Arc<str>),
    /// A session whose files its caller has changed.
    Amended,
}

impl Run {
    /// One that nobody has seen before, with random numbers of its own. It begins at `unix_ns`, in nanoseconds since 1970.
    pub fn new(unix_ns: u64) -> Self {
        let seed = random();
        Self { id: new_id(), conditions: Conditions { seed, unix_ns, ..Conditions::default() } }
    }

    /// The same as an earlier one, under a name of its own.
    pub fn again(conditions: Conditions) -> Self {
        Self { id: new_id(), conditions: Conditions { again: true, ..conditions } }
    }
}

/// `run-` and 24 hexadecimal digits: 96 bits, so that no two are ever the same.
fn new_id() -> Arc<str> {
    let bytes: [u8; 12] = random();
    bytes.iter().fold("run-".to_owned(), |id, byte| format!("{id}{byte:02x}")).into()
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    // Fails only where the system has no source of randomness, and there no server can start.
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}
