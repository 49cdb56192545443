//! The sandbox without its interpreter: what goes to one and comes back, which is the same whatever runs in it.

#[path = "../../../src/sandbox/bounded.rs"]
mod bounded;
#[path = "../../../src/sandbox/cut.rs"]
mod cut;
#[path = "../../../src/sandbox/files/mod.rs"]
mod files;
#[path = "../../../src/sandbox/job.rs"]
mod job;
#[path = "../../../src/sandbox/outcome.rs"]
mod outcome;
#[path = "../../../src/sandbox/parked.rs"]
mod parked;
#[path = "../../../src/sandbox/run.rs"]
mod run;
#[path = "../../../src/sandbox/span.rs"]
mod span;

mod call;
mod rest;
mod tree;
mod values;
mod wasi;
mod worker;

pub use call::call;
pub use rest::parked;
pub use tree::files;
pub use worker::frames;
