//! Workers: each holds one interpreter and does as the gateway says, in a process or on a thread of its own. This is the
//! gateway's side; a crash, a hang or a hole costs one worker, and what its process can reach is nothing.

mod inside;
mod line;
mod lockdown;
mod wire;

#[cfg(test)]
mod tests;

pub use inside::work;
pub(super) use line::Line;

use super::cache::Folder;
use super::guest::{Image, timed_out};
use super::job::Job;
use super::outcome::{Ended, Outcome, Stream, Texts};
use super::parked::Room;
use rustix::net::RecvFlags;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use wire::{Order, Report};

/// How long a worker may take to start, to make a new interpreter, or to park one. Chosen: a hundred times what it takes.
const START: Duration = Duration::from_secs(10);
/// How much longer for each MiB that its interpreter may have. Chosen: 1000 MiB took 10 s to park on a busy machine; five
/// times that.
const START_PER_MIB: Duration = Duration::from_millis(50);
/// How long a worker may be late with the end of a run, which it is to end itself at the limit. Chosen: a run that has
/// given way may get no CPU for seconds on a busy machine.
const LATE: Duration = Duration::from_secs(5);
/// The same for one that has given way and cannot have its place back: on a busy machine it hardly gets any CPU. Chosen: as
/// long as a run waits for a place by default.
const START_SLOWED: Duration = Duration::from_mins(1);
/// After this time a run is a long one, and gives way to all others.
const SHORT: Duration = Duration::from_millis(50);

/// Starts workers.
pub(super) enum Workers {
    Threads(Image),
    Processes {
        /// This program, which is every worker's as well.
        program: PathBuf,
        compiled: Folder,
    },
}

/// A worker with one interpreter. Dropping it stops it, whatever it does.
pub(super) struct Worker {
    socket: StdStream,
    life: Life,
    /// What the kernel's scheduler knows it as.
    task: libc::pid_t,
    /// It has given way to others, and cannot have its place back.
    slowed: bool,
    /// Bytes that the memory of its interpreter may have by now.
    memory_bytes: usize,
}

enum Life {
    Process(Option<Child>),
    /// It ends by itself when its socket is closed, at its next tick.
    Thread,
}

impl Workers {
    /// Blocks for some milliseconds.
    pub fn start(&self) -> io::Result<Worker> {
        let (ours, its) = StdStream::pair()?;
        let mut worker = match self {
            Self::Threads(image) => {
                inside::work_here(image.clone(), its)?;
                Worker { socket: ours, life: Life::Thread, task: 0, slowed: false, memory_bytes: 0 }
            }
            Self::Processes { program, compiled } => {
                let child = Command::new(program)
                    .arg(super::WORKER_COMMAND)
                    .arg(&compiled.path)
                    .env_clear()
                    .current_dir("/")
                    .stdin(OwnedFd::from(its))
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?;
                Worker { socket: ours, life: Life::Process(Some(child)), task: 0, slowed: false, memory_bytes: 0 }
            }
        };
        worker.socket.set_read_timeout(Some(START))?;
        let mut head = [0; wire::HEAD_BYTES];
        worker.socket.read_exact(&mut head).map_err(|error| worker.gone(&error))?;
        let mut frame = vec![0; wire::length(head, wire::IDLE_REPORT_BYTES_MAX)?];
        worker.socket.read_exact(&mut frame).map_err(|error| worker.gone(&error))?;
        // Nothing that is hostile has run in it yet, so that this can be believed.
        worker.task = ready(&frame)?;
        worker.socket.set_nonblocking(true)?;
        Ok(worker)
    }
}

impl Worker {
    /// Whether it still waits for an order, as far as is known.
    pub fn is_up(&self) -> bool {
        // Nothing is to be heard of it now, not even its end.
        let heard = rustix::net::recv(&self.socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        heard == Err(rustix::io::Errno::AGAIN)
    }

    /// Whether a run here would have to give way to all others.
    pub fn is_slowed(&self) -> bool {
        self.slowed
    }

    /// Runs one program. The worker comes back if its interpreter can run another one: as it is after this one or, where
    /// this one broke it, as it was before.
    pub async fn run(
        mut self,
        job: &Job,
        on_output: &mut (dyn FnMut(Stream, &[u8]) + Send),
    ) -> (Option<Self>, Outcome) {
        let began = Instant::now();
        let bound = Duration::from_millis(job.limits.wall_ms) + LATE;
        self.memory_bytes = self.memory_bytes.max(job.limits.memory_bytes);
        // What it has written is had, also where it does not come to say how it ended.
        let mut texts = Texts::within(&job.limits);
        let mut hear = |stream, chunk: &[u8]| {
            let text = match stream {
                Stream::Stdout => &mut texts.stdout,
                Stream::Stderr => &mut texts.stderr,
            };
            text.push(chunk);
            on_output(stream, chunk);
        };
        match timeout(bound, self.exchange(job, &mut hear)).await {
            Ok(Ok((kept, outcome))) => {
                self.slowed = self.slowed && !self.schedule(libc::SCHED_OTHER);
                (kept.then_some(self), outcome)
            }
            Ok(Err(error)) => {
                let end = self.end();
                tracing::error!(%error, %end, "a worker of the sandbox failed");
                let why = "the interpreter's process broke down".to_owned();
                (None, Outcome::of_run(Ended::Crashed, Some(why), began.elapsed(), texts))
            }
            Err(_elapsed) => {
                let end = self.end();
                tracing::warn!(%end, "a worker of the sandbox did not end its run in time");
                (None, Outcome::of_run(Ended::Timeout, Some(timed_out(&job.limits)), began.elapsed(), texts))
            }
        }
    }

    async fn exchange(
        &mut self,
        job: &Job,
        on_output: &mut (dyn FnMut(Stream, &[u8]) + Send),
    ) -> io::Result<(bool, Outcome)> {
        let began = Instant::now();
        let bytes_max = wire::report_bytes_max(&job.limits);
        let mut output_left = 2 * job.limits.output_bytes;
        let mut socket = self.socket()?;
        wire::send(&mut socket, &Order::write_run(job)).await?;
        let slow_down = sleep(SHORT);
        tokio::pin!(slow_down);
        loop {
            let frame = {
                let next = wire::next(&mut socket, bytes_max);
                tokio::pin!(next);
                tokio::select! {
                    frame = &mut next => frame?,
                    () = &mut slow_down, if !self.slowed => {
                        self.slowed = self.schedule(libc::SCHED_IDLE);
                        next.await?
                    }
                }
            };
            match Report::read(&frame.ok_or(io::ErrorKind::UnexpectedEof)?)? {
                Report::Output(stream, chunk) => {
                    // An empty one is none that a worker says, and there could be any number of them.
                    output_left =
                        output_left.checked_sub(chunk.len().max(1)).ok_or_else(|| io::Error::other("it never ends"))?;
                    on_output(stream, &chunk);
                }
                Report::Over { kept, outcome } => return Ok((kept, outcome.heard(&job.limits, began.elapsed())?)),
                Report::Ready { .. } | Report::Parked(_) | Report::Failed(_) => return Err(out_of_turn()),
            }
        }
    }

    /// The same worker with a new interpreter.
    pub async fn renew(self) -> io::Result<Self> {
        self.replace(Order::Renew).await
    }

    /// The same worker with an interpreter that was parked. `InvalidInput`: it does not fit, or is none.
    pub async fn restore(self, state: Vec<u8>, room: Room) -> io::Result<Self> {
        self.replace(Order::Restore { room, state }).await
    }

    async fn replace(mut self, order: Order) -> io::Result<Self> {
        let room = match &order {
            Order::Restore { room, .. } => room.memory_bytes,
            Order::Run(_) | Order::Renew | Order::Park => 0,
        };
        // What is there goes, which takes its time as well.
        self.memory_bytes = self.memory_bytes.max(room);
        let frame = self.answer_to(order, wire::IDLE_REPORT_BYTES_MAX).await?;
        ready(&frame.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        self.memory_bytes = room;
        Ok(self)
    }

    /// What its interpreter has come to, in no more than so many bytes.
    pub async fn park(&self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let frame = self.answer_to(Order::Park, bytes_max + 1).await?;
        match Report::read(&frame.ok_or(io::ErrorKind::UnexpectedEof)?)? {
            Report::Parked(state) => Ok(state),
            Report::Failed(why) => Err(io::Error::other(why)),
            Report::Ready { .. } | Report::Output(..) | Report::Over { .. } => Err(out_of_turn()),
        }
    }

    /// What it says to an order between two runs. It may be one that does not even read.
    async fn answer_to(&self, order: Order, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let mut socket = self.socket()?;
        let exchange = async {
            wire::send(&mut socket, &order.write()).await?;
            wire::next(&mut socket, bytes_max).await
        };
        timeout(self.patience(), exchange).await.map_err(|_| io::Error::other("it does not answer"))?
    }

    /// How long it may take between two runs.
    fn patience(&self) -> Duration {
        let mib = u32::try_from(self.memory_bytes >> 20).unwrap_or(u32::MAX);
        let start = if self.slowed { START_SLOWED } else { START };
        start + START_PER_MIB.saturating_mul(mib)
    }

    /// For the runtime that this is called on, which is not always the same.
    fn socket(&self) -> io::Result<UnixStream> {
        UnixStream::from_std(self.socket.try_clone()?)
    }

    /// Puts it into a class of the kernel's scheduler. Whether it now is in there: the way back from `SCHED_IDLE` needs a
    /// privilege.
    fn schedule(&self, class: libc::c_int) -> bool {
        let parameters = libc::sched_param { sched_priority: 0 };
        #[expect(unsafe_code, reason = "no crate in use has this call")]
        // SAFETY: the call reads one `sched_param`, which lives long enough, and has no other effect on this process.
        let done = unsafe { libc::sched_setscheduler(self.task, class, &raw const parameters) };
        done == 0
    }

    fn gone(&mut self, error: &io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other(format!("it ended ({})", self.end())),
            io::ErrorKind::WouldBlock => io::Error::other("it does not answer"),
            _ => io::Error::other(format!("{error} ({})", self.end())),
        }
    }

    /// Ends it, and how it ended.
    pub fn end(&mut self) -> String {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        match &mut self.life {
            Life::Process(child) => child.take().map_or_else(String::new, kill),
            Life::Thread => "a thread".to_owned(),
        }
    }
}

/// Ends a process, and how it ended, if that is known at once.
fn kill(mut child: Child) -> String {
    let _ = child.kill();
    if let Ok(Some(status)) = child.try_wait() {
        return status.to_string();
    }
    // It must not stay as a zombie. The threads that serve requests do not wait for the kernel to clear a process away.
    let mut reap = move || drop(child.wait());
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(reap)),
        Err(_) => reap(),
    }
    "killed".to_owned()
}

fn ready(frame: &[u8]) -> io::Result<libc::pid_t> {
    match Report::read(frame)? {
        Report::Ready { task } => Ok(task),
        Report::Failed(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
        Report::Output(..) | Report::Over { .. } | Report::Parked(_) => Err(out_of_turn()),
    }
}

fn out_of_turn() -> io::Error {
    io::Error::other("it speaks out of turn")
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Life::Process(Some(child)) = std::mem::replace(&mut self.life, Life::Thread) {
            kill(child);
        }
    }
}
