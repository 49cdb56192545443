//! A worker: one interpreter that does as the gateway says, until the gateway goes; in a process or on a thread of its own.

use super::line::Line;
use super::wire::{ORDER_BYTES_MAX, Order, Report};
use crate::sandbox::guest::{Guest, Image};
use crate::sandbox::job::Job;
use crate::sandbox::{cache, engine, parked};
use std::error::Error;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Bytes of changed pages up to which an interpreter can go back to before a run that broke it. Beyond, to copy them
/// before each run would cost more than it is worth; chosen.
const ROLLBACK_BYTES_MAX: usize = 64 << 20;

type Done = Result<(), Box<dyn Error + Send + Sync>>;

/// Works for the gateway at the other end of standard input, in a process that has nothing else to do. `compiled` is the
/// folder of the compiled guest.
///
/// # Errors
/// When this process cannot be set up, or the gateway says what no gateway says.
pub fn work(compiled: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    close_inherited();
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    // The main thread's stack is not ours to choose.
    let compiled = compiled.to_owned();
    let work = move || {
        let line = Arc::new(Line::to(socket));
        serve(&line, || {
            let image = cache::open_again(&compiled)?;
            // Before the wall goes up: what the first start needs beyond the others' needs is then behind it.
            let guest = image.start(&line, None)?;
            super::lockdown::apply()?;
            Ok((image, guest))
        })
    };
    let thread = thread::Builder::new().name("sandbox".into()).stack_size(engine::STACK_BYTES).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err("it panicked".into()))
}

/// Works on a new thread of this process for whoever has the other end.
pub(super) fn work_here(image: Image, socket: UnixStream) -> std::io::Result<()> {
    thread::Builder::new().name("sandbox".into()).stack_size(engine::STACK_BYTES).spawn(move || {
        let line = Arc::new(Line::to(socket));
        let done = serve(&line, || Ok((image.clone(), image.start(&line, None)?)));
        done.inspect_err(|error| tracing::debug!(%error, "a thread of the sandbox has ended"))
    })?;
    Ok(())
}

/// Whoever started the gateway may have left it descriptors that it does not know of.
fn close_inherited() {
    #[expect(unsafe_code, reason = "no crate in use has this call")]
    // SAFETY: a worker does this first, when nothing in its process owns a descriptor but the standard ones, 0 to 2.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

fn serve(line: &Arc<Line>, start: impl FnOnce() -> Result<(Image, Guest), Box<dyn Error + Send + Sync>>) -> Done {
    let (image, guest) = match start() {
        Ok(started) => started,
        Err(error) => {
            // Nobody sees what else it says. The gateway may have gone, too.
            let _ = line.say(&Report::Failed(error.to_string()));
            return Err(error);
        }
    };
    line.say(&ready())?;
    let mut worker = Worker { line, image, guest: Some(guest), runs: 0 };
    while let Some(frame) = line.hear_order(ORDER_BYTES_MAX)? {
        match Order::read(&frame)? {
            Order::Run(job) => worker.run(&job)?,
            Order::Renew => worker.replace(|image, old| image.start(line, old), 0)?,
            Order::Park => worker.park()?,
            Order::Restore { room, state } => worker.replace(
                |image, old| image.restore(line, parked::State::unpack(&state, room.bytes)?, room.memory_bytes, old),
                // It has a past that a run can lose.
                1,
            )?,
        }
    }
    Ok(())
}

/// Said on the thread that guests run on.
fn ready() -> Report {
    Report::Ready { task: rustix::thread::gettid().as_raw_nonzero().get() }
}

struct Worker<'a> {
    line: &'a Arc<Line>,
    image: Image,
    guest: Option<Guest>,
    /// In this interpreter.
    runs: u32,
}

impl Worker<'_> {
    fn guest(&mut self) -> Result<&mut Guest, Box<dyn Error + Send + Sync>> {
        self.guest.as_mut().ok_or_else(|| "there is no interpreter".into())
    }

    fn run(&mut self, job: &Job) -> Done {
        let has_past = self.runs > 0;
        let guest = self.guest()?;
        let before = has_past.then(|| guest.park());
        let before = before.filter(|before| before.changes.bytes.len() <= ROLLBACK_BYTES_MAX);
        let (kept, outcome) = guest.run(job);
        self.runs += 1;
        // The answer first: whoever waits for it need not wait for what comes after.
        let is_back = kept || !has_past || before.is_some();
        self.line.say(&Report::Over { kept: is_back, outcome: Box::new(outcome) })?;
        if !kept {
            // Its memory is free for the next one.
            self.guest = None;
            self.guest = Some(match before {
                // It was just as large.
                Some(before) => self.image.restore(self.line, before, usize::MAX, None)?,
                None => self.image.start(self.line, None)?,
            });
            self.runs = u32::from(has_past && is_back);
        }
        Ok(())
    }

    fn replace(&mut self, make: impl FnOnce(&Image, Option<Guest>) -> wasmtime::Result<Guest>, runs: u32) -> Done {
        self.runs = runs;
        let report = match make(&self.image, self.guest.take()) {
            Ok(guest) => {
                self.guest = Some(guest);
                ready()
            }
            Err(error) => Report::Failed(format!("{error:#}")),
        };
        Ok(self.line.say(&report)?)
    }

    fn park(&mut self) -> Done {
        let state = self.guest()?.park().pack();
        Ok(self.line.say(&Report::Parked(state))?)
    }
}
