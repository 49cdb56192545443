//! Who waits for a seat, and whose turn it is.
//!
//! A backend takes so many requests and no more. Who comes while all that could take it are full waits here, each for the
//! backends that could. Callers stand in a line, each with its requests in the order in which they came: a free seat is for
//! the first caller who has a request for it, and that caller stands last then. Nobody who comes later may take it.

use super::admission::Full;
use super::balance::BackendId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// The next number of a place or of a caller's turn.
    next: u64,
    /// In the order in which they came.
    all: BTreeMap<u64, One>,
    callers: HashMap<u64, Caller>,
    /// For each backend that somebody waits for: by caller, the numbers of its places.
    wanted: BTreeMap<BackendId, HashMap<u64, BTreeSet<u64>>>,
}

struct One {
    caller: u64,
    among: Vec<BackendId>,
    called: Arc<Notify>,
}

struct Caller {
    /// Since when it stands in the line.
    since: u64,
    places: usize,
}

/// Who comes before whom: a caller's turn, and of its places the number.
type Rank = (u64, u64);

impl Queue {
    /// A place for a request of `caller`'s, which is any number that stands for who asks. So many may wait.
    ///
    /// # Errors
    /// When too many wait, and nobody has more of them than this caller. Of another who has, the last no longer waits.
    pub fn join(self: &Arc<Self>, caller: u64, waiting_max: usize) -> Result<Place, Full> {
        let (mut waiting, notify) = (self.waiting(), Arc::<Notify>::default());
        let number = waiting.next_number();
        let line = waiting.callers.entry(caller).or_insert(Caller { since: number, places: 0 });
        line.places += 1;
        waiting.all.insert(number, One { caller, among: Vec::new(), called: notify.clone() });
        if waiting.all.len() > waiting_max {
            let away = last_of_most(waiting.all.iter().map(|(number, one)| (one.caller, *number)));
            if let Some(one) = away.and_then(|away| waiting.leave(away)) {
                one.called.notify_one();
            }
            if away == Some(number) {
                return Err(Full);
            }
        }
        Ok(Place { queue: self.clone(), number, called: notify })
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

    /// The backends whose seats are for those who come before: before `place`, or before somebody who has none.
    pub fn taken_before(&self, place: Option<&Place>) -> Vec<BackendId> {
        let waiting = self.waiting();
        let rank = place.and_then(|place| waiting.rank(place.number));
        let is_taken = |backend: &BackendId| match (rank, waiting.first(*backend)) {
            (Some(rank), Some(first)) => first < rank,
            (None, first) => first.is_some(),
            (Some(_), None) => false,
        };
        waiting.wanted.keys().copied().filter(is_taken).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // The data is whole after every statement, so a panic elsewhere cannot have broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom to turn away when too many wait: of the caller with most of them, the one who came last. Of several such callers it
/// is the one whose came last of all.
pub(super) fn last_of_most<T: Copy + Ord>(waiting: impl Iterator<Item = (u64, T)>) -> Option<T> {
    let mut callers: HashMap<u64, (usize, T)> = HashMap::new();
    for (caller, one) in waiting {
        let (count, last) = callers.entry(caller).or_insert((0, one));
        (*count, *last) = (*count + 1, one.max(*last));
    }
    callers.into_values().max().map(|(_, last)| last)
}

impl Waiting {
    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn rank(&self, number: u64) -> Option<Rank> {
        let caller = self.all.get(&number)?.caller;
        Some((self.callers.get(&caller)?.since, number))
    }

    /// Who is the first to have a seat at a backend.
    fn first(&self, backend: BackendId) -> Option<Rank> {
        let firsts = self.wanted.get(&backend)?.values().filter_map(BTreeSet::first);
        firsts.filter_map(|number| self.rank(*number)).min()
    }

    /// The first who waits for a backend looks.
    fn call(&self, backend: BackendId) {
        let first = self.first(backend).and_then(|(_, number)| self.all.get(&number));
        if let Some(first) = first {
            first.called.notify_one();
        }
    }

    fn want(&mut self, backend: BackendId, caller: u64, number: u64) {
        self.wanted.entry(backend).or_default().entry(caller).or_default().insert(number);
    }

    fn want_no_more(&mut self, backend: BackendId, caller: u64, number: u64) {
        let Some(callers) = self.wanted.get_mut(&backend) else { return };
        if let Some(numbers) = callers.get_mut(&caller) {
            numbers.remove(&number);
            if numbers.is_empty() {
                callers.remove(&caller);
            }
        }
        if callers.is_empty() {
            self.wanted.remove(&backend);
        }
    }

    /// Takes out a place. It may have been called, so whoever is next looks.
    fn leave(&mut self, number: u64) -> Option<One> {
        let one = self.all.remove(&number)?;
        for backend in &one.among {
            self.want_no_more(*backend, one.caller, number);
        }
        if let Some(caller) = self.callers.get_mut(&one.caller) {
            caller.places -= 1;
            if caller.places == 0 {
                self.callers.remove(&one.caller);
            }
        }
        for backend in &one.among {
            self.call(*backend);
        }
        Some(one)
    }
}

impl Place {
    /// From now on it is for a seat at one of these backends. Whoever has it looks after that: one may be free.
    /// What it is no longer for is the next one's.
    pub fn waits_for(&self, among: &[BackendId]) {
        let mut waiting = self.queue.waiting();
        let Some(one) = waiting.all.get_mut(&self.number) else { return };
        let (caller, before) = (one.caller, std::mem::replace(&mut one.among, among.to_vec()));
        for backend in among {
            waiting.want(*backend, caller, self.number);
        }
        for backend in before.into_iter().filter(|backend| !among.contains(backend)) {
            waiting.want_no_more(backend, caller, self.number);
            waiting.call(backend);
        }
    }

    /// Waits until it is worth a look. A call that comes before this is heard, too.
    ///
    /// # Errors
    /// When the place had to be given up for others.
    pub async fn called(&self) -> Result<(), Full> {
        self.called.notified().await;
        if self.queue.waiting().all.contains_key(&self.number) { Ok(()) } else { Err(Full) }
    }

    /// It has brought a seat: the caller's next has to wait until the others' have one, too.
    pub fn served(self) {
        let mut waiting = self.queue.waiting();
        let last = waiting.next_number();
        let Some(caller) = waiting.all.get(&self.number).map(|one| one.caller) else { return };
        waiting.callers.entry(caller).and_modify(|caller| caller.since = last);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const ONE: BackendId = BackendId(1);
    const TWO: BackendId = BackendId(2);
    const ANN: u64 = 7;
    const BOB: u64 = 5;

    fn place_of(queue: &Arc<Queue>, caller: u64, among: &[BackendId]) -> Place {
        let place = queue.join(caller, 16).expect("a place");
        place.waits_for(among);
        place
    }

    fn place(queue: &Arc<Queue>, among: &[BackendId]) -> Place {
        place_of(queue, ANN, among)
    }

    fn is_called(place: &Place) -> bool {
        place.called().now_or_never().is_some()
    }

    #[test]
    fn a_seat_is_for_the_first_who_waits_for_it_and_then_for_the_next() {
        let queue = Arc::<Queue>::default();
        let [first, second, third] = [&[TWO][..], &[ONE], &[ONE, TWO]].map(|among| place(&queue, among));
        queue.freed(ONE);
        assert_eq!([&first, &second, &third].map(is_called), [false, true, false]);
        drop(second);
        assert_eq!([&first, &third].map(is_called), [false, true], "it may have left a seat, or have given up");
        queue.changed();
        assert_eq!([&first, &third].map(is_called), [true, true]);
        first.waits_for(&[ONE]);
        assert_eq!([&first, &third].map(is_called), [false, true], "it left the other one to the next");
        drop((first, third));
        let waiting = queue.waiting();
        assert!(waiting.all.is_empty() && waiting.callers.is_empty() && waiting.wanted.is_empty());
    }

    #[test]
    fn who_comes_later_takes_nothing_that_somebody_waits_for() {
        let queue = Arc::<Queue>::default();
        assert_eq!(queue.taken_before(None), []);
        let (first, second) = (place(&queue, &[ONE]), place(&queue, &[ONE, TWO]));
        assert_eq!(queue.taken_before(Some(&first)), []);
        assert_eq!(queue.taken_before(Some(&second)), [ONE]);
        assert_eq!(queue.taken_before(None), [ONE, TWO]);
        drop(first);
        assert_eq!(queue.taken_before(Some(&second)), []);
    }

    #[test]
    fn callers_have_seats_in_turn_however_many_requests_they_have() {
        let queue = Arc::<Queue>::default();
        let callers = [ANN, ANN, ANN, ANN, BOB, BOB];
        let mut places: Vec<_> = callers.map(|caller| (caller, place_of(&queue, caller, &[ONE]))).into();
        let mut served = Vec::new();
        while !places.is_empty() {
            queue.freed(ONE);
            let (at, _) = places.iter().enumerate().find(|(_, (_, place))| is_called(place)).expect("the next");
            let (caller, place) = places.remove(at);
            assert_eq!(queue.taken_before(Some(&place)), [], "the others leave it the seat");
            served.push(caller);
            place.served();
            if served.len() == 2 {
                // One who comes again stands behind those who wait.
                places.push((BOB, place_of(&queue, BOB, &[ONE])));
            }
        }
        assert_eq!(served, [ANN, BOB, ANN, BOB, ANN, BOB, ANN]);
    }

    #[test]
    fn who_comes_when_too_many_wait_takes_the_place_of_the_last_of_whoever_has_most() {
        let queue = Arc::<Queue>::default();
        let places = [ANN, ANN, ANN, BOB].map(|caller| place_of(&queue, caller, &[ONE]));
        assert!(queue.join(ANN, 4).is_err(), "nobody has more");
        queue.freed(ONE);
        let place = queue.join(BOB, 4).expect("Ann's");
        let heard = places.each_ref().map(|place| place.called().now_or_never());
        assert_eq!(heard, [Some(Ok(())), None, Some(Err(Full)), None]);
        assert_eq!(queue.taken_before(Some(&places[2])), [ONE], "it has no place any more");
        drop((place, places));
        assert!(queue.waiting().all.is_empty());
        assert!(queue.join(ANN, 0).is_err());
    }
}
