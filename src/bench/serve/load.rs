//! All requests in their time: so many at once, or so many a second.

use super::ask::ask;
use super::data::{Data, Message, Says, Session, Turn};
use super::sample::Sample;
use super::tokens::Tokens;
use super::wire::Backend;
use crate::client::{Failure, Target};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tokens of a warm-up's answer at most, as `bench_serving`'s.
const WARM_UP_TOKENS: u32 = 32;

/// Whom to ask, and in which way.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub target: Target,
    pub backend: Backend,
    pub model: String,
}

/// Hears of every request that has ended.
pub type Tell = Arc<dyn Fn(bool) + Send + Sync>;

/// What came of it.
#[derive(Debug)]
pub(super) struct Ran {
    /// In the data set's order.
    pub samples: Vec<Sample>,
    /// From the beginning to the end of the last request.
    pub took: Duration,
    /// Processor time of our own in it.
    pub cpu: Duration,
}

impl Asking {
    /// Asks the first question, for a short answer, and counts nothing.
    pub async fn warm_up(&self, data: &Data, stop: &CancellationToken) -> Result<(), Failure> {
        let Some(turn) = data.turns().next() else { return Ok(()) };
        let mut sample = Sample::default();
        let body = self.backend.body(&self.model, &[], turn, turn.output_tokens.min(WARM_UP_TOKENS));
        ask(&self.target, self.backend, body, stop, &mut sample).await;
        sample.failure.map_or(Ok(()), Err)
    }

    /// Asks everything.
    pub async fn run(self, data: Data, at_once: Option<usize>, stop: &CancellationToken, tell: &Tell) -> Ran {
        let seats = Arc::new(Semaphore::new(at_once.unwrap_or(Semaphore::MAX_PERMITS)));
        let Data { sessions, tokens } = data;
        let talks = Arc::new(Talks {
            asking: self,
            seats,
            tokens,
            stop: stop.clone(),
            tell: tell.clone(),
            begun: Instant::now(),
        });
        let cpu = cpu_time();
        let mut running = JoinSet::new();
        let mut number = 0;
        for session in sessions {
            let turns = session.turns.len();
            let Some(seat) = talks.admit(session.arrives).await else { break };
            running.spawn(talks.clone().talk(session, number, seat));
            number += turns;
        }
        let mut samples: Vec<_> = running.join_all().await.into_iter().flatten().collect();
        let (took, cpu) = (talks.begun.elapsed(), cpu_time().saturating_sub(cpu));
        samples.sort_by_key(|(sample, _)| sample.number);
        Ran { samples: talks.counted(samples), took, cpu }
    }
}

/// What all sessions share.
struct Talks {
    asking: Asking,
    seats: Arc<Semaphore>,
    tokens: Tokens,
    stop: CancellationToken,
    tell: Tell,
    begun: Instant,
}

impl Talks {
    /// In the data set's order, each when it comes and there is room. Nobody any more when we are to stop.
    async fn admit(&self, arrives: Duration) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            seat = async {
                tokio::time::sleep_until((self.begun + arrives).into()).await;
                self.seats.clone().acquire_owned().await
            } => seat.ok(),
        }
    }

    /// One turn after the other, until one fails: the next would go on from what was not said.
    async fn talk(
        self: Arc<Self>,
        session: Session,
        first: usize,
        seat: OwnedSemaphorePermit,
    ) -> Vec<(Sample, String)> {
        let (mut samples, mut said, mut seat) = (Vec::new(), Vec::new(), Some(seat));
        for (number, turn) in (first..).zip(session.turns) {
            let Some(held) = (match seat.take() {
                Some(seat) => Some(seat),
                None => self.admit(Duration::ZERO).await,
            }) else {
                break;
            };
            let (sample, text) = self.ask(number, &turn, &said).await;
            drop(held);
            let failed = sample.failure.is_some();
            (self.tell)(failed);
            if let Says::Messages(messages) = turn.says {
                said.extend(messages);
                said.push(Message { role: "assistant".to_owned(), content: text.clone() });
            }
            // Kept only to be counted.
            samples.push((sample, if self.tokens.tokenizer().is_some() { text } else { String::new() }));
            if failed {
                break;
            }
        }
        samples
    }

    async fn ask(&self, number: usize, turn: &Turn, said: &[Message]) -> (Sample, String) {
        let Asking { target, backend, model } = &self.asking;
        let body = backend.body(model, said, turn, turn.output_tokens);
        let begun = Instant::now();
        let mut sample = Sample {
            number,
            input_tokens: turn.input_tokens,
            output_tokens: turn.output_tokens,
            start: begun - self.begun,
            ..Sample::default()
        };
        let text = ask(target, *backend, body, &self.stop, &mut sample).await;
        (sample, text)
    }

    /// After the run, so that it takes nothing from it.
    fn counted(&self, samples: Vec<(Sample, String)>) -> Vec<Sample> {
        let count = |(mut sample, text): (Sample, String)| {
            sample.retokenized = self.tokens.tokenizer().and_then(|_| self.tokens.count(&text).ok());
            sample
        };
        samples.into_iter().map(count).collect()
    }
}

/// Of this process, all threads together.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
