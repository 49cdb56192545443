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
    super::lockdown::prepare()?;
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
    let mut worker = Worker { line, image, guest: Some(guest), past: Past::None };
    while let Some(frame) = line.hear_order(ORDER_BYTES_MAX)? {
        match Order::read(&frame)? {
            Order::Run(job) => worker.run(&job)?,
            Order::Renew => worker.replace(|image, old| Ok((image.start(line, old)?, Past::None)))?,
            Order::Park => worker.park()?,
            Order::Restore { room, state } => worker.replace(|image, old| {
                let state = parked::State::unpack(&state, room.bytes)?;
                Ok((image.restore(line, &state, room.memory_bytes, old)?, Past::Rest(state)))
            })?,
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
    past: Past,
}

/// What an interpreter has behind it, and could lose.
enum Past {
    /// Nothing.
    None,
    /// It came back from rest as this, and nothing has run in it since.
    Rest(parked::State),
    Runs,
}

impl Worker<'_> {
    fn guest(&mut self) -> Result<&mut Guest, Box<dyn Error + Send + Sync>> {
        self.guest.as_mut().ok_or_else(|| "there is no interpreter".into())
    }

    fn run(&mut self, job: &Job) -> Done {
        let past = std::mem::replace(&mut self.past, Past::Runs);
        let guest = self.guest()?;
        let small = |state: &parked::State| state.changes.bytes.len() <= ROLLBACK_BYTES_MAX;
        // What to make it again if this run breaks it, if that can be said.
        let before = match past {
            Past::None => Some(None),
            Past::Rest(state) => Some(Some(state)).filter(|it| it.as_ref().is_some_and(small)),
            Past::Runs => guest.park(ROLLBACK_BYTES_MAX).map(Some),
        };
        let (kept, outcome) = guest.run(job);
        // The answer first: whoever waits for it need not wait for what comes after.
        self.line.say(&Report::Over { kept: kept || before.is_some(), outcome: Box::new(outcome) })?;
        if !kept {
            // Its memory is free for the next one.
            self.guest = None;
            (self.guest, self.past) = match before.flatten() {
                // It was just as large.
                Some(state) => (Some(self.image.restore(self.line, &state, usize::MAX, None)?), Past::Rest(state)),
                None => (Some(self.image.start(self.line, None)?), Past::None),
            };
        }
        Ok(())
    }

    fn replace(&mut self, make: impl FnOnce(&Image, Option<Guest>) -> wasmtime::Result<(Guest, Past)>) -> Done {
        let report = match make(&self.image, self.guest.take()) {
            Ok((guest, past)) => {
                (self.guest, self.past) = (Some(guest), past);
                ready()
            }
            Err(error) => Report::Failed(format!("{error:#}")),
        };
        Ok(self.line.say(&report)?)
    }

    fn park(&mut self) -> Done {
        let state = self.guest()?.park(usize::MAX).map(|state| state.pack());
        let report = state.map_or_else(|| Report::Failed("it has pages beyond all numbers".into()), Report::Parked);
        Ok(self.line.say(&report)?)
    }
}
