//! Who waits for a seat, in the order in which they came.
//!
//! A backend takes so many requests and no more. Who comes while all that could take it are full waits here, each for the
//! backends that could: a free seat is for the first who waits for it, and nobody who comes later may take it.

use super::balance::BackendId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

#[derive(Default)]
pub(super) struct Queue(Mutex<Waiting>);

/// A place in the queue. Dropping it leaves the queue, and whoever is next looks for what was left there.
pub(super) struct Place {
    queue: Arc<Queue>,
    number: u64,
    called: Arc<Notify>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// In the order in which they came.
    all: BTreeMap<u64, One>,
}

struct One {
    among: Vec<BackendId>,
    called: Arc<Notify>,
}

impl Queue {
    /// A place behind all others.
    pub fn join(self: &Arc<Self>) -> Place {
        let (mut waiting, called) = (self.waiting(), Arc::<Notify>::default());
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, One { among: Vec::new(), called: called.clone() });
        Place { queue: self.clone(), number, called }
    }

    /// A seat at a backend may be free.
    pub fn freed(&self, backend: BackendId) {
        self.waiting().call(backend);
    }

    /// There are other backends, or others are up.
    pub fn changed(&self) {
        for one in self.waiting().all.values() {
            one.called.notify_one();
        }
    }

    /// The backends whose seats are for those who came before: before `place`, or before now.
    pub fn taken_before(&self, place: Option<&Place>) -> Vec<BackendId> {
        let waiting = self.waiting();
        let before = place.map_or(waiting.next, |place| place.number);
        let mut taken: Vec<_> = waiting.all.range(..before).flat_map(|(_, one)| one.among.iter().copied()).collect();
        taken.sort_unstable();
        taken.dedup();
        taken
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // The data is whole after every statement, so a panic elsewhere cannot have broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The first who waits for a backend looks.
    fn call(&self, backend: BackendId) {
        if let Some(first) = self.all.values().find(|one| one.among.contains(&backend)) {
            first.called.notify_one();
        }
    }
}

impl Place {
    /// From now on it is for a seat at one of these backends. Whoever has it looks after that: one may be free.
    /// What it is no longer for is the next one's.
    pub fn waits_for(&self, among: Vec<BackendId>) {
        let mut waiting = self.queue.waiting();
        let Some(one) = waiting.all.get_mut(&self.number) else { return };
        let mut left = std::mem::replace(&mut one.among, among);
        left.retain(|backend| !one.among.contains(backend));
        for backend in left {
            waiting.call(backend);
        }
    }

    /// Waits until it is worth a look. A call that comes before this is heard, too.
    pub async fn called(&self) {
        self.called.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting();
        let left = waiting.all.remove(&self.number);
        for backend in left.into_iter().flat_map(|one| one.among) {
            waiting.call(backend);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const ONE: BackendId = BackendId(1);
    const TWO: BackendId = BackendId(2);

    fn place(queue: &Arc<Queue>, among: Vec<BackendId>) -> Place {
        let place = queue.join();
        place.waits_for(among);
        place
    }

    fn is_called(place: &Place) -> bool {
        place.called().now_or_never().is_some()
    }

    #[test]
    fn a_seat_is_for_the_first_who_waits_for_it_and_then_for_the_next() {
        let queue = Arc::<Queue>::default();
        let [first, second, third] = [vec![TWO], vec![ONE], vec![ONE, TWO]].map(|among| place(&queue, among));
        queue.freed(ONE);
        assert_eq!([&first, &second, &third].map(is_called), [false, true, false]);
        drop(second);
        assert_eq!([&first, &third].map(is_called), [false, true], "it may have left a seat, or have given up");
        queue.changed();
        assert_eq!([&first, &third].map(is_called), [true, true]);
        first.waits_for(vec![ONE]);
        assert_eq!([&first, &third].map(is_called), [false, true], "it left the other one to the next");
        drop((first, third));
        assert!(queue.waiting().all.is_empty());
    }

    #[test]
    fn who_comes_later_takes_nothing_that_somebody_waits_for() {
        let queue = Arc::<Queue>::default();
        assert_eq!(queue.taken_before(None), []);
        let (first, second) = (place(&queue, vec![ONE]), place(&queue, vec![ONE, TWO]));
        assert_eq!(queue.taken_before(Some(&first)), []);
        assert_eq!(queue.taken_before(Some(&second)), [ONE]);
        assert_eq!(queue.taken_before(None), [ONE, TWO]);
        drop(first);
        assert_eq!(queue.taken_before(Some(&second)), []);
    }
}
