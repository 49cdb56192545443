//! One run: sessions, the balance policy, the backends, and nothing else, from event to event.

use super::Scenario;
use super::report::Measured;
use super::sessions::Seat;
use super::worker::{Job, Worker};
use crate::backend::admission::ledger::{Entered, Ledger, Ticket};
use crate::backend::admission::{Limits, entrant};
use crate::backend::balance::{self, BackendId, Balance, Candidate, End, Moment, Policy, Tokens, TryId, session_key};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What happens at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Somebody begins a session.
    Begin(usize),
    /// Somebody wants the next turn.
    Turn(usize),
    /// A backend has read a prompt.
    Read(usize),
    /// A backend has written an answer, if its version is still this.
    Done(usize, u64),
    /// Sessions have been idle.
    Idle,
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    balance: Box<dyn Balance>,
    admission: Option<Ledger>,
    tickets: HashMap<Ticket, usize>,
    now: Moment,
    /// When it is looked for room next, if nothing happens sooner.
    looks_at: Moment,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    numbers: u64,
    seats: Vec<Seat>,
    /// When the turn of a seat was wanted.
    wanted: Vec<Moment>,
    workers: Vec<Worker>,
    candidates: Vec<Candidate>,
    measured: Measured,
}

/// Runs one policy with one seed.
pub(super) fn run(scenario: &Scenario, policy: &Policy, sessions: usize, seed: u64) -> Measured {
    let mut admission = policy.admits.then(|| Ledger::new(Limits::default().wait_max()));
    let balance = (policy.make)(seed);
    let workers: Vec<_> = (0..scenario.backends).map(|_| Worker::new(scenario.kv_tokens.into())).collect();
    for (at, worker) in workers.iter().enumerate() {
        balance.reported(backend(at), worker.load(), Moment::ZERO);
        if let Some(ledger) = &mut admission {
            ledger.resize(backend(at), scenario.kv_tokens.into());
        }
    }
    let mut world = World {
        scenario,
        balance,
        admission,
        tickets: HashMap::new(),
        now: Moment::ZERO,
        looks_at: Moment::ZERO,
        events: BinaryHeap::new(),
        numbers: 0,
        seats: Vec::new(),
        wanted: vec![Moment::ZERO; sessions],
        candidates: (0..workers.len()).map(candidate).collect(),
        measured: Measured::new(workers.len()),
        workers,
    };
    for number in 0..sessions {
        let (seat, start) = Seat::new(seed, number as u64);
        world.seats.push(seat);
        world.at(start, Event::Begin(number));
    }
    while let Some(Reverse((moment, _, event))) = world.events.pop() {
        if moment > scenario.time {
            break;
        }
        world.now = moment;
        world.happen(event, seed);
        world.let_in();
    }
    world.measured
}

fn backend(at: usize) -> BackendId {
    BackendId(u32::try_from(at).unwrap_or(u32::MAX))
}

fn candidate(at: usize) -> Candidate {
    let key = session_key(&format!("http://backend-{at}:30000"));
    Candidate { id: backend(at), key, in_flight: 0, weight: 1.0, load: None }
}

impl World<'_> {
    fn at(&mut self, moment: Moment, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((moment, self.numbers, event)));
    }

    fn happen(&mut self, event: Event, seed: u64) {
        match event {
            Event::Begin(seat) => {
                self.seats[seat].begin(seed);
                self.want(seat);
            }
            Event::Turn(seat) => self.want(seat),
            Event::Read(worker) => {
                if let Some(job) = self.workers[worker].read(self.now) {
                    self.balance.first_token(job.id, self.now);
                    if let Some(ledger) = &mut self.admission {
                        ledger.first_token(job.conversation);
                    }
                    let wait = self.now.saturating_sub(self.wanted[job.seat]);
                    self.measure(|measured| measured.first_token(wait));
                }
                self.go_on(worker);
            }
            Event::Done(worker, version) if self.workers[worker].version == version => {
                if let Some(job) = self.workers[worker].done(self.now) {
                    self.done(worker, &job);
                }
                self.go_on(worker);
            }
            Event::Done(..) | Event::Idle => {}
        }
    }

    /// Somebody wants a turn: it goes to a backend, or waits.
    fn want(&mut self, at: usize) {
        self.wanted[at] = self.now;
        let Some(ledger) = &mut self.admission else { return self.send(at) };
        let (request, caller) = (self.seats[at].request(), at as u64);
        let among = self.candidates.iter().map(|candidate| candidate.id).collect();
        let entrant = entrant(request.conversation(caller), caller, &request, among, Tokens::default());
        match ledger.enter(entrant, self.now) {
            Entered::Now => self.send(at),
            Entered::Later(ticket) => {
                self.tickets.insert(ticket, at);
            }
        }
    }

    /// Those who waited and may go.
    fn let_in(&mut self) {
        let Some(ledger) = &mut self.admission else { return };
        for ticket in ledger.admitted(self.now) {
            if let Some(seat) = self.tickets.remove(&ticket) {
                self.send(seat);
            }
        }
        if let Some(next) = self.admission.as_ref().and_then(Ledger::next_change)
            && next != self.looks_at
        {
            self.looks_at = next;
            self.at(next, Event::Idle);
        }
    }

    /// A turn goes to the backend that the policy picks, as the pool would have it.
    fn send(&mut self, at: usize) {
        let (request, now) = (self.seats[at].request(), self.now);
        let conversation = request.conversation(at as u64);
        let allowed = |candidate: &&Candidate| {
            self.admission.as_ref().is_none_or(|ledger| ledger.may_go(conversation, candidate.id, now))
        };
        let mut candidates: Vec<_> = self.candidates.iter().filter(allowed).copied().collect();
        if candidates.is_empty() {
            candidates.clone_from(&self.candidates);
        }
        let to = candidates[balance::choose(&*self.balance, &request, &candidates, now)].id;
        if let Some(ledger) = &mut self.admission {
            ledger.went(conversation, to);
        }
        self.numbers += 1;
        let id = TryId(self.numbers);
        self.balance.sent(id, &request, to, now);
        let worker = to.0 as usize;
        self.candidates[worker].in_flight += 1;
        let need = self.seats[at].need();
        self.workers[worker].push(Job { id, seat: at, conversation, need, cached: 0 });
        self.go_on(worker);
    }

    /// Whatever a backend does next.
    fn go_on(&mut self, worker: usize) {
        if let Some(takes) = self.workers[worker].read_next() {
            self.at(self.now + takes, Event::Read(worker));
        }
        if let Some(takes) = self.workers[worker].next_done() {
            let version = self.workers[worker].version;
            self.at(self.now + takes, Event::Done(worker, version));
        }
    }

    fn done(&mut self, worker: usize, job: &Job) {
        self.candidates[worker].in_flight -= 1;
        let end = End {
            prompt_tokens: Some(job.need.context),
            cached_tokens: Some(job.cached),
            written_tokens: job.need.answer,
        };
        self.balance.ended(job.id, end, self.now);
        self.measure(|measured| measured.turn(worker, job.need.context, job.cached));
        let seat = &mut self.seats[job.seat];
        if let Some(ledger) = &mut self.admission {
            ledger.left(job.conversation, u64::from(job.need.answer), self.now);
        }
        let (wait, next) = match seat.answered() {
            Some(wait) => (wait, Event::Turn(job.seat)),
            None => (seat.pause(), Event::Begin(job.seat)),
        };
        self.at(self.now + wait, next);
    }

    fn measure(&mut self, note: impl FnOnce(&mut Measured)) {
        if self.now >= self.scenario.time.mul_f64(super::WARM_UP) {
            note(&mut self.measured);
        }
    }
}
