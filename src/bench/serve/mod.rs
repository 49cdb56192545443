//! `loopgate bench serve`: what a server's clients see of its speed, as SGLang's `bench_serving` measures it.

mod bpe;
mod data;
mod lots;
mod tokens;

pub use bpe::Unusable;
pub use data::{DataSet, NoData, Wanted};
