//! A backend as operators see it.

use super::balance::{Estimate, Load};
use super::breaker::BreakerState;
use super::discover::Model;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that is known of one.
#[derive(Debug, Clone)]
pub struct BackendState {
    /// Its number, which it keeps, and which no other gets.
    pub id: u32,
    /// Host and port.
    pub name: String,
    /// As the configuration names it: its URL, or the name behind which it was found.
    pub found_by: String,
    /// `None` while nobody has looked yet.
    pub up: Option<bool>,
    /// It gets no new turns.
    pub draining: bool,
    /// Requests under way.
    pub in_flight: usize,
    /// How many it may have; `None`: as many as come.
    pub in_flight_max: Option<usize>,
    /// Its share of the work, lowered while it is on its way back.
    pub weight: f64,
    /// For operators.
    pub labels: BTreeMap<String, String>,
    /// Models it is asked for.
    pub models: Vec<Model>,
    /// Its breaker.
    pub breaker: BreakerState,
    /// What it last said of its load.
    pub load: Option<Load>,
    /// What the balance policy makes of it, if it makes anything.
    pub estimate: Option<Estimate>,
    /// Whether it finds calls itself, where it says so.
    pub finds_calls: Option<bool>,
    /// Model calls that it was tried for.
    pub tries: u64,
    /// Of these, how many it failed at.
    pub failures: u64,
    /// What went wrong last, and how long ago.
    pub last_error: Option<(String, Duration)>,
}
