//! A streamed answer, step by step, from whichever backends give it.

use super::attempts::Attempts;
use super::backend::Seat;
use super::client::{Client, Patience, Sent, Stream, Target};
use super::resume::{KEPT_BYTES_MAX, Told};
use super::source::{Reading, Source};
use super::trouble::Trouble;
use crate::chat::{Ask, CallFragment, Delta, Failure};
use std::sync::Arc;

/// An answer under way. Dropping it before its end aborts the request at the backend.
///
/// When its backend dies, another one goes on from the text so far. A native call has no text to go on from: its pieces,
/// and what text comes after them, are held back until the answer's end, so that the model can write it once more.
pub struct Answer {
    attempts: Attempts,
    ask: Ask,
    rid: String,
    source: Source<Stream>,
    told: Told,
    held: Held,
}

/// What is held back, from the first piece of a call on.
#[derive(Default)]
struct Held {
    delta: Delta,
    bytes: usize,
}

impl Answer {
    pub(super) async fn begin(mut attempts: Attempts, ask: &Ask, rid: &str) -> Result<Self, Failure> {
        let source = Source::begin(&mut attempts, (), || Sent::chat(Some(rid), ask.body.render())).await?;
        let (ask, rid) = (ask.clone(), rid.to_owned());
        Ok(Self { attempts, ask, rid, source, told: Told::default(), held: Held::default() })
    }

    /// The backend that gives it.
    pub fn backend(&self) -> &str {
        &self.source.seat.backend.name
    }

    /// The next step; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Delta, Failure>> {
        loop {
            match self.source.next(&self.attempts).await {
                Some(Ok(delta)) => return Some(Ok(self.tell(delta))),
                Some(Err(trouble)) if self.told.is_over() => {
                    // Only counts were to come.
                    self.source.seat.failed(&trouble);
                    return None;
                }
                Some(Err(trouble)) => {
                    if let Err(failure) = self.go_on(trouble).await {
                        return Some(Err(failure));
                    }
                }
                None => {
                    self.source.seat.succeeded();
                    return None;
                }
            }
        }
    }

    fn tell(&mut self, mut delta: Delta) -> Delta {
        self.held.pass(&mut delta);
        delta.usage = delta.usage.map(|usage| self.told.whole(usage));
        self.told.hear(&delta);
        delta
    }

    /// Has another backend go on, or the same one if it comes back.
    async fn go_on(&mut self, trouble: Trouble) -> Result<(), Failure> {
        let rest = self.told.rest_of(&self.ask);
        let failure = trouble.failure.clone();
        self.attempts.failed(&mut self.source.seat, trouble)?;
        let rest = rest.map_err(|why| {
            tracing::info!(rid = self.rid, why, "a cut answer is not continued");
            failure
        })?;
        let sent = || Sent::chat(Some(&self.rid), rest.render());
        self.source = Source::begin(&mut self.attempts, (), sent).await?;
        self.attempts.pool.count_continued();
        self.held = Held::default();
        Ok(())
    }
}

impl Reading for Stream {
    type Step = Delta;
    type Form = ();

    fn begin(
        client: &Client,
        target: &Arc<Target>,
        patience: Patience,
        sent: Sent<'_>,
        (): (),
    ) -> impl Future<Output = Result<(Self, Delta), Trouble>> + Send {
        client.stream(target, patience, sent)
    }

    fn next(&mut self) -> impl Future<Output = Option<Result<Delta, Trouble>>> + Send {
        Stream::next(self)
    }

    /// With its last event it has ended.
    fn is_done(&self) -> bool {
        false
    }

    fn note(delta: &Delta, seat: &mut Seat) {
        seat.heard(delta);
    }
}

impl Held {
    /// Keeps what a step says once there are calls, or gives back all that was kept.
    fn pass(&mut self, delta: &mut Delta) {
        if self.delta.calls.is_empty() && delta.calls.is_empty() {
            return;
        }
        self.bytes += delta.content.len() + delta.reasoning.len();
        self.delta.content.push_str(&std::mem::take(&mut delta.content));
        self.delta.reasoning.push_str(&std::mem::take(&mut delta.reasoning));
        for fragment in delta.calls.drain(..) {
            self.keep(fragment);
        }
        if delta.finish.is_some() || self.bytes > KEPT_BYTES_MAX {
            let held = std::mem::take(&mut self.delta);
            (delta.content, delta.reasoning, delta.calls) = (held.content, held.reasoning, held.calls);
        }
    }

    /// Where arguments come token by token, their pieces are kept as one.
    fn keep(&mut self, fragment: CallFragment) {
        match self.delta.calls.last_mut() {
            Some(last) if fragment.id.is_none() && fragment.name.is_none() && fragment.index == last.index => {
                self.bytes += fragment.arguments.len();
                last.arguments.push_str(&fragment.arguments);
            }
            _ => {
                self.bytes += size_of::<CallFragment>() + fragment.bytes();
                self.delta.calls.push(fragment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(index: i64, id: Option<&str>, arguments: &str) -> Delta {
        let name = id.map(str::to_owned);
        let fragment = CallFragment { index, id: name.clone(), name, arguments: arguments.to_owned() };
        Delta { calls: vec![fragment], ..Delta::default() }
    }

    /// The steps that went in before something came out, at most so many.
    fn held_for(mut step: impl FnMut(i64) -> Delta, most: i64) -> i64 {
        let mut held = Held::default();
        (0..most)
            .take_while(|number| {
                let mut delta = step(*number);
                held.pass(&mut delta);
                delta.calls.is_empty()
            })
            .count()
            .try_into()
            .expect("a number")
    }

    #[test]
    fn pieces_of_calls_are_held_within_the_bound_whatever_they_are_made_of() {
        let most = i64::try_from(KEPT_BYTES_MAX).expect("a number");
        let long = "x".repeat(1 << 10);
        assert!(held_for(|number| piece(number, Some(&long), ""), most) < 1 << 10, "ids and names");
        assert!(held_for(|number| piece(number % 2, None, ""), most) < 1 << 15, "pieces of nothing");
        assert!(held_for(|_| piece(0, None, &long), most) < 1 << 11, "arguments");
    }

    #[test]
    fn pieces_of_one_call_are_held_as_one_and_come_out_in_order() {
        let mut held = Held::default();
        let steps = [(0, Some("a"), "{"), (0, None, "1"), (0, None, "}"), (1, Some("b"), "{}"), (0, None, " ")];
        for (index, id, arguments) in steps {
            let mut delta = piece(index, id, arguments);
            held.pass(&mut delta);
            assert_eq!(delta, Delta::default());
        }
        let mut last = Delta { finish: Some(crate::chat::Finish::ToolCalls), ..Delta::default() };
        held.pass(&mut last);
        let pieces: Vec<_> = last.calls.iter().map(|it| (it.index, it.id.as_deref(), &*it.arguments)).collect();
        assert_eq!(pieces, [(0, Some("a"), "{1}"), (1, Some("b"), "{}"), (0, None, " ")]);
    }
}
