//! Interpreters in processes of their own: a crash, a hang or a hole costs one worker, and what it can reach is nothing.

mod lockdown;
mod wire;
mod worker;

pub use worker::work;

use super::guest::{Job, timed_out};
use super::host::Live;
use super::outcome::{Ended, Outcome};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use wire::{Order, Report};

/// How long a worker may take to start, or to make a new interpreter. Chosen: a hundred times what it takes.
const START: Duration = Duration::from_secs(10);
/// How long a worker may be late with the end of a run, which it is to end itself at the limit. Chosen: a hundred ticks.
const LATE: Duration = Duration::from_secs(1);
/// After this time a run is a long one, and gives way to all others.
const SHORT: Duration = Duration::from_millis(50);

/// Starts workers.
pub(super) struct Processes {
    /// This program, which is every worker's as well.
    pub program: PathBuf,
    /// The compiled guest.
    pub compiled: PathBuf,
}

/// A process with one interpreter. Dropping it kills it.
pub(super) struct Worker {
    process: Process,
    socket: UnixStream,
    /// It has given way to others, and cannot have its place back.
    slowed: bool,
}

struct Process(Child);

impl Processes {
    pub async fn start(&self) -> wasmtime::Result<Worker> {
        let (ours, its) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(&self.program)
            .arg(super::WORKER_COMMAND)
            .arg(&self.compiled)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut worker = Worker { process: Process(child), socket: UnixStream::from_std(ours)?, slowed: false };
        worker.until_ready().await?;
        Ok(worker)
    }
}

impl Worker {
    /// Runs one program. The worker comes back if its interpreter can run another one.
    pub async fn run(mut self, job: Job, live: Live) -> (Option<Self>, Outcome) {
        let began = Instant::now();
        let limits = job.limits;
        let bound = Duration::from_millis(limits.wall_ms) + LATE;
        match timeout(bound, self.exchange(job, live)).await {
            Ok(Ok((kept, outcome))) => (kept.then_some(self), outcome),
            Ok(Err(error)) => {
                let end = self.process.end();
                tracing::error!(%error, %end, "a worker of the sandbox failed");
                let error = "the interpreter's process broke down, and every name that was defined is gone with it";
                let outcome = Outcome::not_started(Ended::Crashed, error);
                (None, Outcome { duration: began.elapsed(), ..outcome })
            }
            Err(_elapsed) => {
                let end = self.process.end();
                tracing::warn!(%end, "a worker of the sandbox did not end its run in time");
                let outcome = Outcome::not_started(Ended::Timeout, &timed_out(&limits));
                (None, Outcome { duration: began.elapsed(), ..outcome })
            }
        }
    }

    async fn exchange(&mut self, job: Job, live: Live) -> io::Result<(bool, Outcome)> {
        let bytes_max = wire::report_bytes_max(&job);
        let mut output_left = 2 * job.limits.output_bytes;
        self.slowed = self.slowed && !self.process.schedule(libc::SCHED_OTHER);
        wire::send(&mut self.socket, &Order::Run(job).write()).await?;
        let slow_down = sleep(SHORT);
        tokio::pin!(slow_down);
        loop {
            let frame = {
                let next = wire::next(&mut self.socket, bytes_max);
                tokio::pin!(next);
                tokio::select! {
                    frame = &mut next => frame?,
                    () = &mut slow_down, if !self.slowed => {
                        self.slowed = self.process.schedule(libc::SCHED_IDLE);
                        next.await?
                    }
                }
            };
            match Report::read(&frame.ok_or(io::ErrorKind::UnexpectedEof)?)? {
                Report::Output(stream, chunk) => {
                    output_left =
                        output_left.checked_sub(chunk.len()).ok_or_else(|| io::Error::other("it never ends"))?;
                    // Fails when the listener is gone: then this run is about to be dropped.
                    let _ = live.send((stream, chunk)).await;
                }
                Report::Over { kept, outcome } => return Ok((kept, *outcome)),
                Report::Ready | Report::Failed(_) => return Err(io::Error::other("it speaks out of turn")),
            }
        }
    }

    /// The same worker with a new interpreter.
    pub async fn renew(mut self) -> Option<Self> {
        if self.slowed {
            return None;
        }
        let renewed = async {
            wire::send(&mut self.socket, &Order::Renew.write()).await?;
            self.until_ready().await
        };
        match renewed.await {
            Ok(()) => Some(self),
            Err(error) => {
                tracing::warn!(%error, "a worker of the sandbox cannot make a new interpreter");
                None
            }
        }
    }

    async fn until_ready(&mut self) -> io::Result<()> {
        let next = wire::next(&mut self.socket, wire::IDLE_REPORT_BYTES_MAX);
        let frame = timeout(START, next).await.map_err(|_| io::Error::other("it does not answer"))??;
        let Some(frame) = frame else {
            return Err(io::Error::other(format!("it ended ({})", self.process.end())));
        };
        match Report::read(&frame)? {
            Report::Ready => Ok(()),
            Report::Failed(why) => Err(io::Error::other(why)),
            Report::Output(..) | Report::Over { .. } => Err(io::Error::other("it speaks out of turn")),
        }
    }
}

impl Process {
    /// Puts it into a class of the kernel's scheduler. Whether it now is in there: the way back from `SCHED_IDLE` needs a
    /// privilege.
    fn schedule(&self, class: libc::c_int) -> bool {
        let Ok(pid) = libc::pid_t::try_from(self.0.id()) else { return false };
        let parameters = libc::sched_param { sched_priority: 0 };
        #[expect(unsafe_code, reason = "no crate in use has this call")]
        // SAFETY: the call reads one `sched_param`, which lives long enough, and has no other effect on this process.
        let done = unsafe { libc::sched_setscheduler(pid, class, &raw const parameters) };
        done == 0
    }

    /// Kills it, and how it ended.
    fn end(&mut self) -> ExitStatus {
        let _ = self.0.kill();
        self.0.wait().unwrap_or_else(|_| ExitStatus::from_raw(0))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is gone within a millisecond, and must not stay as a zombie.
        self.end();
    }
}
