//! Looks at one backend again and again: is it up, what does it serve, how loaded is it.

use super::backend::Backend;
use super::client::Client;
use super::discover;
use super::health::{Change, Probe};
use super::load::{self, Report};
use super::pool::Snapshot;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A backend that is down is looked at this often, so that it is back in traffic soon after it is up.
const LOOK_DOWN: Duration = Duration::from_millis(500);
/// A backend without load reports is asked again this often: it may be replaced by one that has them.
const NO_REPORTS: Duration = Duration::from_mins(1);

/// Goes on until it is dropped.
pub(super) async fn watch(client: Client, backend: Arc<Backend>, snapshots: watch::Receiver<Arc<Snapshot>>) {
    tokio::join!(health(&client, &backend, &snapshots), loads(&client, &backend, &snapshots));
}

async fn health(client: &Client, backend: &Backend, snapshots: &watch::Receiver<Arc<Snapshot>>) {
    let mut told = false;
    loop {
        let target = backend.details().target.clone();
        let wait = probe_timeout(snapshots);
        let (probe, models) = discover::look(client, &target, wait).await;
        let change = backend.probed(&probe, models, Instant::now());
        if change == (Change::Back { emptied: true }) {
            snapshots.borrow().balance.restarted(backend.id);
        }
        if matches!(change, Change::Up | Change::Back { .. })
            && let Some(info) = discover::info(client, &target, wait).await
        {
            backend.informed(info);
            if info.finds_calls == Some(false) && !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    backend = backend.name,
                    "the backend runs without --tool-call-parser: calls come as text, and are read from it as calls.parser \
                     says"
                );
            }
        }
        let every = Duration::from_millis(snapshots.borrow().settings.probe_ms);
        let every = if probe == Probe::Good && backend.is_up() { every } else { LOOK_DOWN.min(every) };
        // When the time is over, that is fine too.
        let _ = timeout(every, backend.doubted()).await;
    }
}

async fn loads(client: &Client, backend: &Backend, snapshots: &watch::Receiver<Arc<Snapshot>>) {
    let (mut page, mut told, began) = (0, false, snapshots.borrow().began);
    loop {
        let mut pause = Duration::from_millis(snapshots.borrow().settings.load_ms);
        if backend.is_up() {
            let report = load::ask(client, &backend.details().target, probe_timeout(snapshots), &mut page).await;
            match report {
                Report::Says(load) | Report::Lies(load) => {
                    let load = backend.reported(load);
                    snapshots.borrow().balance.reported(backend.id, load, began.elapsed());
                }
                Report::Nonsense | Report::Nothing => {}
                Report::NoPage => pause = pause.max(NO_REPORTS),
            }
            if matches!(report, Report::Lies(_) | Report::Nonsense) && !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    backend = backend.name,
                    "the backend's load report cannot be true; what can be is used of it"
                );
            }
        }
        sleep(pause).await;
    }
}

fn probe_timeout(snapshots: &watch::Receiver<Arc<Snapshot>>) -> Duration {
    Duration::from_millis(snapshots.borrow().settings.probe_timeout_ms)
}
