//! The whole gateway, over real sockets, with real guests and a scripted backend.
//!
//! One binary, so that it is linked once.

mod gateway;

mod answers;
mod clients;
mod docs;
mod house;
