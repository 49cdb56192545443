//! What must hold whatever clients, backends and models send. `make fuzz` looks for what breaks it.
//!
//! The gateway's rooms are taken in by path and not as a crate: with the crate would come wasmtime, which takes
//! twenty minutes to build with a fuzzer's flags and is not looked at here. Time and memory are bounded by libFuzzer's
//! own flags, in the Makefile.

#![allow(dead_code, unused_imports, reason = "only a part of the rooms is used here")]

#[path = "../../src/access.rs"]
mod access;
mod agent;
mod backend;
#[path = "../../src/calls/mod.rs"]
mod calls;
#[path = "../../src/chat/mod.rs"]
mod chat;
mod cuts;
#[path = "../../src/dialect/mod.rs"]
mod dialect;
mod heap;
mod http;
mod memory;
#[path = "../../src/policy/mod.rs"]
mod policy;
mod request;
mod sandbox;
#[path = "../../src/sse.rs"]
mod sse;
#[path = "../../src/tools/mod.rs"]
mod tools;

pub use agent::history;
pub use cuts::{calls, stream};
pub use http::body;
pub use request::request;
pub use sandbox::{call, files, frames, parked};

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What comes of something that need not wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("what is there is waited for"),
    }
}
