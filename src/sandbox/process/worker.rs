//! A worker: a process of its own that holds one interpreter and does as the gateway says, until the gateway goes.

use super::wire::{self, JOB_BYTES_MAX, Order, Report};
use crate::sandbox::guest::{Guest, Image, Job};
use crate::sandbox::{LIVE_CHUNKS_MAX, cache, engine};
use std::error::Error;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Interpreters at once: the one that is in use, and the next one while that is cleared away.
const INTERPRETERS: u32 = 2;

/// Works for the gateway at the other end of standard input. `compiled` is the compiled guest.
///
/// # Errors
/// When this process cannot be set up, or the gateway says what no gateway says.
pub fn work(compiled: &Path) -> Result<(), Box<dyn Error>> {
    close_inherited();
    let mut socket = StdStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let done = serve(socket.try_clone()?, compiled);
    if let Err(error) = &done {
        // Nobody sees what else it says. The gateway may have gone, too.
        let _ =
            socket.set_nonblocking(false).and_then(|()| socket.write_all(&Report::Failed(error.to_string()).write()));
    }
    done
}

/// Whoever started the gateway may have left it descriptors that it does not know of.
fn close_inherited() {
    #[expect(unsafe_code, reason = "no crate in use has this call")]
    // SAFETY: a worker does this first, when nothing in its process owns a descriptor but the standard ones, 0 to 2.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

fn serve(socket: StdStream, compiled: &Path) -> Result<(), Box<dyn Error>> {
    socket.set_nonblocking(true)?;
    let engine = engine::start(INTERPRETERS)?;
    let image = Image::new(&engine, &cache::load_again(&engine, compiled)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        // Before the wall goes up: what the first start needs beyond the others' needs is then behind it.
        let worker = Worker { guest: Some(image.start().await?), socket: UnixStream::from_std(socket)?, image };
        super::lockdown::apply()?;
        worker.serve().await
    })
}

struct Worker {
    socket: UnixStream,
    image: Image,
    guest: Option<Guest>,
}

impl Worker {
    async fn serve(mut self) -> Result<(), Box<dyn Error>> {
        self.say(&Report::Ready).await?;
        while let Some(frame) = wire::next(&mut self.socket, JOB_BYTES_MAX).await? {
            match Order::read(&frame)? {
                Order::Run(job) => self.run(job).await?,
                Order::Renew => self.renew().await?,
            }
        }
        Ok(())
    }

    async fn run(&mut self, job: Job) -> Result<(), Box<dyn Error>> {
        let guest = self.guest.take().ok_or("there is no interpreter")?;
        let (live, mut output) = mpsc::channel(LIVE_CHUNKS_MAX);
        let run = guest.run(job, live);
        let tell = async {
            while let Some((stream, chunk)) = output.recv().await {
                wire::send(&mut self.socket, &Report::Output(stream, chunk).write()).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let ((guest, outcome), told) = tokio::join!(run, tell);
        told?;
        self.guest = guest;
        self.say(&Report::Over { kept: self.guest.is_some(), outcome: Box::new(outcome) }).await
    }

    async fn renew(&mut self) -> Result<(), Box<dyn Error>> {
        self.guest = None;
        let report = match self.image.start().await {
            Ok(guest) => {
                self.guest = Some(guest);
                Report::Ready
            }
            Err(error) => Report::Failed(format!("{error:#}")),
        };
        self.say(&report).await
    }

    async fn say(&mut self, report: &Report) -> Result<(), Box<dyn Error>> {
        Ok(wire::send(&mut self.socket, &report.write()).await?)
    }
}
