//! The front door's way to inflate bodies; what else it does is not fuzzed.

#[path = "../../../src/http/bodies.rs"]
mod bodies;
#[path = "../../../src/http/inflate.rs"]
mod inflate;

mod compressed;

pub use compressed::body;
