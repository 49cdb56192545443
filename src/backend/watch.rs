//! Looks at one backend again and again: is it up, what does it serve, how loaded is it.

use super::admission::Gate;
use super::backend::Backend;
use super::client::Client;
use super::discover::{self, Info};
use super::health::{Change, Probe};
use super::load::{self, Report};
use super::pool::Snapshot;
use super::queue::Queue;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A backend that is down is looked at this often, so that it is back in traffic soon after it is up.
const LOOK_DOWN: Duration = Duration::from_millis(500);
/// A backend without load reports is asked again this often: it may be replaced by one that has them.
const NO_REPORTS: Duration = Duration::from_mins(1);
/// Questions for the load in a row that must come to nothing before the log says so. Chosen: as with probes.
const NOTHING_MAX: u32 = 3;

/// What is looked at, and who is told.
pub(super) struct Watch {
    pub client: Client,
    pub backend: Arc<Backend>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub gate: Arc<Gate>,
    pub queue: Arc<Queue>,
}

impl Watch {
    /// Goes on until it is dropped.
    pub async fn run(self) {
        tokio::join!(self.health(), self.loads());
    }

    async fn health(&self) {
        let backend = &self.backend;
        let mut told = false;
        loop {
            let target = backend.details().target.clone();
            let (probe, models) = discover::look(&self.client, &target, self.wait()).await;
            match backend.probed(&probe, models, Instant::now()) {
                Change::None => {}
                Change::Down => self.gate.gone(backend.id),
                change @ (Change::Up | Change::Back { .. }) => {
                    self.queue.changed();
                    if change == (Change::Back { emptied: true }) {
                        self.snapshots.borrow().balance.restarted(backend.id);
                        self.gate.gone(backend.id);
                    }
                    if let Some(info) = discover::info(&self.client, &target, self.wait()).await {
                        told = self.informed(info, told);
                    }
                }
            }
            let every = Duration::from_millis(self.snapshots.borrow().settings.probe_ms);
            let every = if probe == Probe::Good && backend.is_up() { every } else { LOOK_DOWN.min(every) };
            // When the time is over, that is fine too.
            let _ = timeout(every, backend.doubted()).await;
        }
    }

    /// Takes note of the backend's settings. What is told once, was told before if `told`.
    fn informed(&self, info: Info, told: bool) -> bool {
        self.backend.informed(info);
        if let Some(tokens) = info.kv_tokens_max {
            self.gate.resize(self.backend.id, tokens);
        }
        if info.finds_calls == Some(false) && !told {
            tracing::warn!(
                backend = self.backend.name,
                "the backend runs without --tool-call-parser: calls come as text, and are read from it as calls.parser \
                 says"
            );
        }
        told || info.finds_calls == Some(false)
    }

    async fn loads(&self) {
        let backend = &self.backend;
        let (mut page, mut told, began) = (0, false, self.snapshots.borrow().began);
        let (mut nothing, mut told_of_nothing) = (0, false);
        loop {
            let mut pause = Duration::from_millis(self.snapshots.borrow().settings.load_ms);
            if backend.is_up() {
                let target = backend.details().target.clone();
                let report = load::ask(&self.client, &target, self.wait(), &mut page).await;
                match report {
                    Report::Says(load) | Report::Lies(load) => {
                        let load = backend.reported(load);
                        self.snapshots.borrow().balance.reported(backend.id, load, began.elapsed());
                        if let Some(tokens) = load.kv_tokens_max {
                            self.gate.resize(backend.id, tokens);
                        }
                    }
                    Report::Nonsense | Report::Nothing(_) => {}
                    Report::NoPage => pause = pause.max(NO_REPORTS),
                }
                match &report {
                    Report::Nothing(why) => {
                        nothing += 1;
                        if nothing == NOTHING_MAX && !std::mem::replace(&mut told_of_nothing, true) {
                            let what = "the backend's load report does not come; what is known of its load is what the \
                                        gateway has sent it";
                            tracing::warn!(backend = backend.name, error = why, "{what}");
                        }
                    }
                    Report::Says(_) | Report::Lies(_) | Report::Nonsense | Report::NoPage => nothing = 0,
                }
                let is_wrong = matches!(report, Report::Lies(_) | Report::Nonsense);
                if is_wrong && !std::mem::replace(&mut told, true) {
                    let what = "the backend's load report cannot be true; what can be is used of it";
                    tracing::warn!(backend = backend.name, "{what}");
                }
            }
            sleep(pause).await;
        }
    }

    /// How long an answer may take.
    fn wait(&self) -> Duration {
        Duration::from_millis(self.snapshots.borrow().settings.probe_timeout_ms)
    }
}
