//! Where an interpreter lives: on a thread of this process, or in a process of its own.

use super::guest::{Guest, Image, Job};
use super::host::Live;
use super::outcome::Outcome;
use super::process::{Processes, Worker};

/// Makes interpreters of one kind.
pub(super) enum Maker {
    Threads(Image),
    Processes(Processes),
}

/// An interpreter that is up.
pub(super) enum Seat {
    Thread(Box<Guest>),
    Process(Worker),
}

impl Maker {
    pub async fn start(&self) -> wasmtime::Result<Seat> {
        match self {
            Self::Threads(image) => image.start().await.map(|guest| Seat::Thread(Box::new(guest))),
            Self::Processes(processes) => processes.start().await.map(Seat::Process),
        }
    }
}

impl Seat {
    /// Runs one program. The seat comes back if its interpreter can run another one.
    pub async fn run(self, job: Job, live: Live) -> (Option<Self>, Outcome) {
        match self {
            Self::Thread(guest) => {
                let (guest, outcome) = guest.run(job, live).await;
                (guest.map(|guest| Self::Thread(Box::new(guest))), outcome)
            }
            Self::Process(worker) => {
                let (worker, outcome) = worker.run(job, live).await;
                (worker.map(Self::Process), outcome)
            }
        }
    }

    /// The same seat with an interpreter in which nothing has run, where that costs less than another one.
    pub async fn renew(self) -> Option<Self> {
        match self {
            // To drop it and to make another one is all that there is to do.
            Self::Thread(_) => None,
            Self::Process(worker) => worker.renew().await.map(Self::Process),
        }
    }
}
