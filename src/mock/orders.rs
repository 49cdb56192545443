//! What a test has ordered: faults and holds, for all requests or for single ones.

use super::fault::Fault;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Requests that ask the model for something are numbered from 0 since the server's start; the others have no number.
#[derive(Debug)]
pub struct Orders(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    /// The number of the next request.
    next: u64,
    always: Option<Fault>,
    faults: HashMap<u64, Fault>,
    pauses: HashMap<u64, Pause>,
}

/// What one request has to do.
#[derive(Debug, Default)]
pub struct Order {
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// Where it waits for the test.
    pub pause: Option<Pause>,
}

/// A request waits here until its [`Hold`] is dropped.
#[derive(Debug)]
pub struct Pause {
    after: usize,
    over: CancellationToken,
}

/// Holds one request to the model back. Dropping it lets the request go on.
#[derive(Debug)]
#[must_use = "a hold that is dropped at once holds nothing"]
pub struct Hold {
    _over: DropGuard,
}

impl Orders {
    /// One fault for all requests, or none.
    pub fn new(always: Option<Fault>) -> Self {
        Self(Mutex::new(Lists { always, ..Lists::default() }))
    }

    /// What this request, which has just arrived, has to do.
    pub fn take(&self, asks: bool) -> Order {
        let mut lists = self.lock();
        if !asks {
            return Order { fault: lists.always, pause: None };
        }
        let number = lists.next;
        lists.next += 1;
        Order { fault: lists.faults.remove(&number).or(lists.always), pause: lists.pauses.remove(&number) }
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().always = fault;
    }

    pub fn fault_next(&self, fault: Fault) {
        let mut lists = self.lock();
        let next = lists.next;
        lists.faults.insert(next, fault);
    }

    pub fn fault_at(&self, number: u64, fault: Fault) {
        self.lock().faults.insert(number, fault);
    }

    pub fn hold_at(&self, number: u64, after: usize) -> Hold {
        let over = CancellationToken::new();
        self.lock().pauses.insert(number, Pause { after, over: over.clone() });
        Hold { _over: over.drop_guard() }
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pause {
    /// Waits for the end of the hold, if this is its place: after so many events, or 0 before the first token.
    pub async fn wait(&self, sent: usize) {
        if sent == self.after {
            self.over.cancelled().await;
        }
    }
}
