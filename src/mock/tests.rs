//! The server against what real ones were recorded to answer, and against what the gateway's tests need of it.

mod behaviour;
mod client;
mod recorded;
