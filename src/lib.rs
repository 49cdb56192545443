//! Loopgate: a coding-agent gateway in front of SGLang servers.
//!
//! ARCHITECTURE.md is the map of the rooms below, with the invariants that hold between them.

pub mod chat;
pub mod sse;

pub mod access;
pub mod calls;
pub mod policy;
pub mod tools;
