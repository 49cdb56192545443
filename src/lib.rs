//! Loopgate: a coding-agent gateway in front of SGLang servers.
//!
//! ARCHITECTURE.md is the map of the rooms below, in reading order, with the invariants that hold between them.

pub mod chat;
pub mod sse;

pub mod access;
pub mod agent;
pub mod backend;
pub mod calls;
pub mod dialect;
pub mod memory;
pub mod policy;
pub mod record;
pub mod sandbox;
pub mod tools;

pub mod http;
pub mod mock;
pub mod simulate;

pub mod bench;
pub mod client;
pub mod eval;
pub mod launch;

pub mod app;
pub mod cli;
pub mod config;
