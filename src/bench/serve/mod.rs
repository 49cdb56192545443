//! `loopgate bench serve`: what a server's clients see of its speed, as SGLang's `bench_serving` measures it.
//!
//! What the figures mean is in `docs/bench.md`.

mod ask;
mod block;
mod chart;
mod data;
mod html;
mod load;
mod lots;
mod report;
mod sample;
pub mod scenario;
mod tokenizer;
mod tokens;
mod wire;

pub use block::compare;
pub use data::{DataSet, NoData, Wanted};
pub use html::{Group, page};
pub use load::Tell;
pub use report::{NoReport, Report};
pub use tokenizer::Unusable;
pub use wire::Backend;

use crate::client::{Failure, NoModel, Target};
use data::Data;
use load::Asking;
use report::About;
use tokio_util::sync::CancellationToken;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whom to ask.
    pub target: Target,
    /// In which way.
    pub backend: Backend,
    /// Which model; without one the first that the server lists.
    pub model: Option<String>,
    /// What to ask.
    pub wanted: Wanted,
    /// Requests at once.
    pub at_once: Option<usize>,
    /// Requests before the first that counts.
    pub warm_ups: u32,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is nothing to ask.
    #[error(transparent)]
    Data(#[from] NoData),
    /// The server does not say which model it has.
    #[error(transparent)]
    Model(#[from] NoModel),
    /// The first request was not answered.
    #[error("{url}: the warm-up request failed: {why}")]
    WarmUp {
        /// The server.
        url: String,
        /// Its trouble.
        why: String,
    },
    /// We were told to before the first request that counts.
    #[error("stopped before anything was measured")]
    Stopped,
}

/// How much is going to be asked: for `--dry-run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Requests.
    pub requests: usize,
    /// Tokens of all prompts.
    pub input_tokens: u64,
    /// Tokens of all answers.
    pub output_tokens: u64,
}

/// What is going to be asked.
///
/// # Errors
/// When there is nothing.
pub fn totals(wanted: &Wanted) -> Result<Totals, NoData> {
    let data = Data::load(wanted)?;
    let sum = |of: fn(&data::Turn) -> u32| data.turns().map(|turn| u64::from(of(turn))).sum();
    Ok(Totals {
        requests: data.turns().count(),
        input_tokens: sum(|turn| turn.input_tokens),
        output_tokens: sum(|turn| turn.output_tokens),
    })
}

/// Measures. `ready` hears how many requests there are going to be, and gives what hears of each that has ended.
/// With `stop`, what has ended by then is reported.
///
/// # Errors
/// When there is nothing to ask, nobody to be asked, or no time to begin. Requests that fail later are part of the report.
pub async fn measure(
    plan: Plan,
    stop: &CancellationToken,
    ready: impl FnOnce(usize) -> Tell,
) -> Result<Report, Failed> {
    let Plan { target, backend, model, wanted, at_once, warm_ups } = plan;
    let data = Data::load(&wanted)?;
    let url = target.url();
    // Boxed, since it is large, and part of what others await.
    let before = Box::pin(async {
        let model = match model {
            Some(model) => model,
            None => target.first_model().await?,
        };
        let asking = Asking { target, backend, model };
        for _ in 0..warm_ups {
            let warm = asking.warm_up(&data, stop).await;
            warm.map_err(|failure| match failure {
                Failure::Stopped => Failed::Stopped,
                other => Failed::WarmUp { url: url.clone(), why: other.to_string() },
            })?;
        }
        Ok(asking)
    });
    let asking = stop.run_until_cancelled(before).await.unwrap_or(Err(Failed::Stopped))?;
    let requests = data.turns().count();
    let ran = asking.clone().run(data, at_once, stop, &ready(requests)).await;
    Ok(Report::of(&About { asking: &asking, wanted: &wanted, at_once, requests }, &ran))
}
