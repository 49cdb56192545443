//! What the gateway's parts cost and what servers give, measured: `loopgate bench`.

mod native;
mod report;
mod sandbox;
pub mod serve;
mod statistics;

pub use sandbox::{Failed, Figures, Plan, measure};
