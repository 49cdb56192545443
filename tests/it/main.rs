//! The whole gateway, over real sockets, with real guests and a scripted backend.
//!
//! One binary, so that it is linked once.

mod gateway;
mod sdks;
mod wires;

mod answers;
mod audit;
mod bad_backends;
mod bad_requests;
mod bench;
mod bench_serve;
mod bodies;
mod bounds;
mod bytes;
mod chaos;
mod cli;
mod clients;
mod clients_memory;
mod connect;
mod corpora;
mod cors;
mod deploy;
mod docs;
mod dropped_in;
mod encodings;
mod eval;
mod execute;
mod house;
mod isolation;
mod launch;
mod leaving;
mod lines;
mod offers;
mod openapi;
mod operators;
mod pages;
mod plain;
mod pool;
mod remembered;
mod replay;
mod resends;
mod resume;
mod routing;
mod secure;
mod sessions;
mod silence;
mod statuses;
mod strangers;
mod ten_turns;
mod turns;
