//! A turn that several requests can listen to: the one that began it, and its re-sends.
//!
//! The turn goes on while any of them listens, at the pace of the fastest, and ends when the last has left. Whoever comes
//! later hears everything from the beginning.

use crate::agent::Events;
use crate::chat::{Event, Failure, FailureKind};
use crate::dialect::Stamp;
use crate::record::TurnRecord;
use futures_util::Stream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With its answer.
    Answered,
    /// With an error.
    Failed,
    /// Because everybody had left.
    Left,
}

/// What is done when a turn is over.
pub(super) type WhenOver = Box<dyn FnOnce(End) + Send>;

/// The turn.
pub(super) struct Shared {
    /// One for all: whoever joins gets the same answer.
    pub stamp: Stamp,
    turn: Mutex<Turn>,
    wakers: Arc<Wakers>,
}

struct Turn {
    events: Events,
    record: TurnRecord,
    log: Vec<Event>,
    /// `Left` as long as it goes on.
    end: End,
    when_over: Option<WhenOver>,
}

/// One request's ear. Dropping it is leaving.
pub(super) struct Listener {
    shared: Arc<Shared>,
    heard: Heard,
}

/// How far a listener is: events, and bytes of the next one's text.
#[derive(Default, Clone, Copy)]
struct Heard {
    events: usize,
    bytes: usize,
}

impl Shared {
    /// Begins a turn with its first listener.
    pub fn start(events: Events, record: TurnRecord, stamp: Stamp, when_over: WhenOver) -> Listener {
        let turn = Turn { events, record, log: Vec::new(), end: End::Left, when_over: Some(when_over) };
        Arc::new(Self { stamp, turn: Mutex::new(turn), wakers: Arc::default() }).listen()
    }

    /// One more listener, who hears everything.
    pub fn listen(self: Arc<Self>) -> Listener {
        Listener { shared: self, heard: Heard::default() }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(|broken| {
            // A panic in the turn's own code has ended the one request that polled it. The others are told.
            let mut turn = broken.into_inner();
            if turn.end == End::Left {
                turn.hear(Event::Failed(Failure::new(FailureKind::Internal, "the turn broke down; this is a bug")));
            }
            turn
        })
    }
}

impl Listener {
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let shared = self.shared.clone();
        let mut turn = shared.turn();
        loop {
            if let Some(event) = turn.after(&mut self.heard) {
                return Poll::Ready(Some(event));
            }
            if turn.end != End::Left {
                return Poll::Ready(None);
            }
            // Registered before the turn is looked at, so that nothing that happens in between is missed.
            shared.wakers.add(context.waker());
            let waker = Waker::from(shared.wakers.clone());
            match Pin::new(&mut turn.events).poll_next(&mut Context::from_waker(&waker)) {
                Poll::Pending => return Poll::Pending,
                // It always ends with an event; without one something is broken.
                Poll::Ready(None) => turn.end = End::Failed,
                Poll::Ready(Some(event)) => turn.hear(event),
            }
            shared.wakers.wake_others(context.waker());
        }
    }
}

impl Turn {
    /// Texts in a row are one entry: a long answer's tokens would each cost an allocation for as long as it lasts.
    fn hear(&mut self, event: Event) {
        self.record.hear(&event);
        match event {
            Event::Ended(_) => self.end = End::Answered,
            Event::Failed(_) => self.end = End::Failed,
            _ => {}
        }
        match (self.log.last_mut(), event) {
            (Some(Event::Text(text)), Event::Text(more)) | (Some(Event::Reasoning(text)), Event::Reasoning(more)) => {
                text.push_str(&more);
            }
            (_, event) => self.log.push(event),
        }
    }

    fn after(&self, heard: &mut Heard) -> Option<Event> {
        loop {
            let event = match self.log.get(heard.events)? {
                Event::Text(text) => rest(text, heard).map(Event::Text),
                Event::Reasoning(text) => rest(text, heard).map(Event::Reasoning),
                event => Some(event.clone()),
            };
            match event {
                Some(event @ (Event::Text(_) | Event::Reasoning(_))) => return Some(event),
                Some(event) => {
                    *heard = Heard { events: heard.events + 1, bytes: 0 };
                    return Some(event);
                }
                // Of this text everything was heard. It may grow as long as it is the last.
                None if heard.events + 1 == self.log.len() => return None,
                None => *heard = Heard { events: heard.events + 1, bytes: 0 },
            }
        }
    }
}

fn rest(text: &str, heard: &mut Heard) -> Option<String> {
    let new = &text[heard.bytes..];
    heard.bytes = text.len();
    (!new.is_empty()).then(|| new.to_owned())
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(when_over) = self.when_over.take() {
            when_over(self.end);
        }
    }
}

/// Everybody who waits for the turn. One that has left is woken once for nothing.
#[derive(Default)]
struct Wakers(Mutex<Vec<Waker>>);

impl Wakers {
    fn add(&self, waker: &Waker) {
        let mut all = self.all();
        if !all.iter().any(|known| known.will_wake(waker)) {
            all.push(waker.clone());
        }
    }

    fn wake_others(&self, own: &Waker) {
        let others: Vec<_> = self.all().extract_if(.., |waker| !waker.will_wake(own)).collect();
        others.into_iter().for_each(Waker::wake);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        let all = std::mem::take(&mut *self.all());
        all.into_iter().for_each(Waker::wake);
    }
}
