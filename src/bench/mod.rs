//! What the gateway's parts cost, measured: `loopgate bench`.

mod native;
mod report;
mod sandbox;
mod statistics;

pub use sandbox::{Failed, Figures, Plan, measure};
