//! What a run depends on, and what lasts of one.

#[path = "../../../src/sandbox/wasi/clock.rs"]
mod clock;
#[path = "../../../src/sandbox/wasi/lasting.rs"]
mod lasting;

pub use clock::{Conditions, READINGS_MAX};
pub(super) use lasting::Lasting;
