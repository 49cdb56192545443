//! `loopgate serve`

use super::{ConfigFlags, Failed, runtime, start_log, told_to_stop};
use crate::app::{App, FilesSeen, Reloader};
use crate::config::Resolved;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Between two looks at the files. Looking, and not being told by the kernel, sees every way in which files are
/// replaced, and costs some system calls for each of a few dozen files. Chosen: shorter than a person waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn run(flags: &ConfigFlags) -> Result<ExitCode, Failed> {
    let resolved = flags.resolve()?;
    // Before the start, which may take long: what changes in the meantime is a change.
    let seen = FilesSeen::look(&resolved);
    start_log(&resolved.log);
    for server in &resolved.left_out {
        tracing::error!("a backend is left out: {server}");
    }
    raise_descriptors();
    runtime()?.block_on(async {
        let app = App::start(&resolved).await?;
        let stop = told_to_stop()?;
        let known = (resolved.clone(), seen);
        let reloads = reload(app.reloader(), flags.clone(), known, signal(SignalKind::hangup())?);
        let _reloads = AbortOnDropHandle::new(tokio::spawn(reloads));
        let backends: Vec<_> = resolved.backend.servers.iter().map(|server| server.address.to_string()).collect();
        tracing::info!("serving on http://{} in front of {}", app.addr()?, backends.join(", "));
        if let Some(admin) = app.admin_addr() {
            tracing::info!("backends can be seen and changed on http://{admin}/admin/backends");
        }
        app.serve(stop).await;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// Every client takes a descriptor and its backend another. Shells allow 1024, for the sake of programs that use `select`;
/// what the system allows is far more, and asked for by whoever needs it.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "as few files and connections may be open as before");
    }
}

/// Takes over changed files, on SIGHUP and when they have come to rest. Has no end.
async fn reload(reloader: Reloader, flags: ConfigFlags, known: (Resolved, FilesSeen), mut hangup: Signal) {
    let (mut resolved, mut seen) = known;
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            () = changed(&resolved, &mut seen) => {}
        }
        let outcome = tokio::task::block_in_place(|| {
            let next = flags.resolve()?;
            let late = reloader.reload(&next)?;
            resolved = next;
            Ok::<_, Failed>(late)
        });
        match outcome {
            Err(error) => tracing::error!(%error, "nothing is reloaded, and what was in force stays so"),
            Ok(late) => {
                tracing::info!("reloaded: backends, aliases, tools, policies, callers and limits");
                if !late.is_empty() {
                    tracing::warn!("changed, but only a restart takes it over: {}", late.join(", "));
                }
            }
        }
    }
}

fn look(resolved: &Resolved) -> FilesSeen {
    tokio::task::block_in_place(|| FilesSeen::look(resolved))
}

/// Waits until the files are others than those that were `seen`, and have come to rest.
async fn changed(resolved: &Resolved, seen: &mut FilesSeen) {
    let mut last = seen.clone();
    loop {
        sleep(LOOK_EVERY).await;
        let now = look(resolved);
        if now != *seen && now == last {
            *seen = now;
            return;
        }
        last = now;
    }
}
