//! One request to the model: read, queued, written, and sent whole or as events.

use super::Version;
use super::chat_wire::{self, Envelope};
use super::fault::Fault;
use super::frames::Frames;
use super::kv::{Growth, Prefixes};
use super::log::Entry;
use super::model::{self, Call, Reply};
use super::orders::Order;
use super::plain_wire::{Plain, Text};
use super::question::{Question, Rules};
use super::queue::{Full, Place};
use super::refusal::Refusal;
use super::server::{Answer, Server, json, now, whole_body};
use super::speech::{Clock, Died, Speech};
use super::steps::Ending;
use super::writing::{Limits, Writing};
use crate::sse;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::json as value;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A request that has arrived.
#[derive(Debug)]
pub struct Asking {
    /// Where.
    pub server: Arc<Server>,
    /// Not a chat, but one of the plain endpoints.
    pub kind: Option<Plain>,
    /// Its line in the log.
    pub entry: Entry,
    /// What goes wrong, and where it waits.
    pub order: Order,
}

/// A request that was read and only waits for its place.
struct Ready {
    asking: Asking,
    question: Question,
    /// For the KV cache, once it is being read.
    prompt: Option<Prefixes>,
    envelope: Envelope,
    abort: CancellationToken,
    /// When it had come.
    asked: Instant,
}

/// How the waiting for a place ended.
enum Opened {
    Here(Place),
    Full,
    Aborted,
}

type Events = BoxStream<'static, Result<Frame<Bytes>, Died>>;

impl Asking {
    /// Answers it.
    ///
    /// # Errors
    /// When the connection is to be closed without an answer.
    pub async fn answer(mut self, body: &[u8]) -> Result<Answer, Died> {
        let settings = &self.server.settings;
        let rules =
            Rules { version: settings.version, context_length: settings.context_length, kv_tokens: settings.kv_tokens };
        let read = match self.kind {
            None => Question::chat(body, rules),
            Some(kind) => Question::plain(body, kind == Plain::Generate, rules),
        };
        let fitted = read.map(|mut question| (question.fit(rules), question));
        let refusal = match fitted {
            Ok((Ok(()), question)) => match self.ready(question) {
                Ok(ready) => return ready.send().await,
                Err(refusal) => return Ok(json(refusal.status, &refusal.body)),
            },
            Ok((Err(unfit), question)) if question.stream && unfit.late => {
                self.entry.answered();
                return Ok(events(error_events(&unfit.refusal)));
            }
            Ok((Err(unfit), _)) => unfit.refusal,
            Err(refusal) => refusal,
        };
        self.entry.answered();
        Ok(json(refusal.status, &refusal.body))
    }

    fn ready(mut self, question: Question) -> Result<Ready, Refusal> {
        let id: Arc<str> = question.rid.clone().unwrap_or_else(|| self.server.new_id()).into();
        let (registered, abort) = self.server.clone().register(&id).inspect_err(|_| self.entry.answered())?;
        self.entry.register(registered);
        let settings = &self.server.settings;
        let envelope = Envelope {
            version: settings.version,
            id,
            created: now(),
            model: question.model.clone(),
            native_calls: settings.parser && !question.conversation.tools.is_empty(),
            prompt_tokens: question.prompt_tokens,
            cached_tokens: 0,
            cache_report: settings.cache_report,
        };
        Ok(Ready { asking: self, question, prompt: None, envelope, abort, asked: Instant::now() })
    }
}

impl Ready {
    async fn send(mut self) -> Result<Answer, Died> {
        if self.asking.order.fault == Some(Fault::EmptyBody) {
            self.asking.entry.answered();
            return Ok(if self.question.stream { events(stream::empty().boxed()) } else { whole_json("") });
        }
        if !self.question.stream {
            return self.whole().await;
        }
        let version = self.envelope.version;
        let speech = async move {
            let opened = self.open().await;
            self.speak(opened)
        };
        // 0.5.7 sends the head at once; 0.5.23 waits for the first event, so that an error can still have a status.
        Ok(match version {
            Version::V0_5_7 => events(speech.flatten_stream().boxed()),
            Version::V0_5_23 => events(speech.await),
        })
    }

    /// Waits for a place and for the first token.
    async fn open(&mut self) -> Opened {
        let abort = self.abort.clone();
        tokio::select! {
            biased;
            place = self.read() => place.map_or_else(|Full| Opened::Full, Opened::Here),
            () = abort.cancelled() => Opened::Aborted,
        }
    }

    /// Waits for a place, and for as long as the prompt takes.
    async fn read(&mut self) -> Result<Place, Full> {
        let Server { queue, kv, computes, settings, .. } = &*self.asking.server;
        let tokens = self.question.prompt_tokens;
        let place = queue.enter(tokens).await?;
        self.prompt = kv.as_ref().map(|_| Prefixes::of(&self.question.salt, &self.question.prompt));
        // Prompts are computed one after the other, and each finds in the cache what those before it have left.
        let computes = if settings.prefill.is_zero() { None } else { Some(computes.lock().await) };
        let cached = kv.as_ref().zip(self.prompt.as_ref()).map_or(0, |(kv, prompt)| kv.cached(prompt));
        self.envelope.cached_tokens = cached;
        self.asking.entry.reads(tokens, cached);
        let time = settings.prefill * (tokens - cached);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        if let (Some(kv), Some(prompt)) = (kv, &self.prompt) {
            kv.filled(prompt);
        }
        drop(computes);
        if !settings.ttft.is_zero() {
            tokio::time::sleep(settings.ttft).await;
        }
        if let Some(pause) = &self.asking.order.pause {
            pause.wait(0).await;
        }
        Ok(place)
    }

    /// The prompt is read, and this is going to be written.
    fn grow(&self, writing: &Writing) -> Option<Growth> {
        let text: String = writing.segments.iter().map(|segment| segment.text.as_str()).collect();
        Some(self.asking.server.kv.as_ref()?.grows(self.prompt.as_ref()?, &text))
    }

    fn speak(mut self, opened: Opened) -> Events {
        let old = self.envelope.version == Version::V0_5_7;
        let place = match opened {
            Opened::Here(place) => place,
            Opened::Full | Opened::Aborted if old => {
                self.asking.entry.answered();
                return stream::empty().boxed();
            }
            Opened::Full => {
                self.asking.entry.answered();
                return error_events(&Refusal::queue_full());
            }
            Opened::Aborted => {
                self.asking.entry.answered();
                return self.aborted_events();
            }
        };
        let writing = self.writing();
        let growth = self.grow(&writing);
        let frames = self.frames(writing);
        let clock = Clock::new(self.asking.server.clone());
        let Asking { order, entry, .. } = self.asking;
        Speech { frames, clock, asked: self.asked, order, growth, abort: self.abort, entry, place }.stream().boxed()
    }

    fn frames(&self, writing: Writing) -> Frames {
        if let Some(kind) = self.asking.kind {
            return Frames::plain(kind, self.envelope.clone(), writing);
        }
        let mut choices = Vec::new();
        for _ in 1..self.question.choices {
            // Each further choice has an id of its own.
            let envelope = Envelope { id: self.asking.server.new_id().into(), ..self.envelope.clone() };
            choices.push((envelope, writing.clone()));
        }
        choices.insert(0, (self.envelope.clone(), writing));
        Frames::chat(choices, self.question.usage)
    }

    /// The head of a stream and its end.
    fn aborted_events(&self) -> Events {
        let mut frames = self.frames(Writing::new(&Reply::default(), &Limits::default()));
        frames.abort();
        let rest = std::iter::from_fn(move || frames.next()).filter_map(|(frame, _)| frame);
        stream::iter(rest.collect::<Vec<_>>()).map(|frame| Ok(Frame::data(frame))).boxed()
    }

    async fn whole(mut self) -> Result<Answer, Died> {
        let opened = self.open().await;
        let old = self.envelope.version == Version::V0_5_7;
        let fault = self.asking.order.fault;
        let body = match (opened, fault) {
            (Opened::Full, _) => Err(Refusal::queue_full()),
            (Opened::Aborted, _) if old => Err(Refusal::aborted_in_queue()),
            (Opened::Aborted, _) => {
                self.envelope.prompt_tokens = 0;
                self.question.choices = 1;
                Ok(self.body(Writing::new(&Reply::default(), &Limits::default()), &Ending::abort()))
            }
            (Opened::Here(_), Some(Fault::DieAfter(_))) => {
                self.asking.entry.answered();
                return Err(Died);
            }
            (Opened::Here(_place), Some(Fault::StallAfter(_))) => std::future::pending().await,
            (Opened::Here(_), Some(Fault::ErrorAfter(_))) => Err(Refusal::too_slow()),
            (Opened::Here(_place), _) => Ok(self.write_whole().await),
        };
        self.asking.entry.answered();
        Ok(match (body, fault) {
            (Err(refusal), _) => json(refusal.status, &refusal.body),
            (Ok(body), Some(Fault::GarbageAfter(_))) => whole_json(body[..body.len() / 2].to_owned()),
            (Ok(_), Some(Fault::EndAfter(_))) => whole_json(""),
            (Ok(body), _) => whole_json(body),
        })
    }

    /// Writes in its time, and less when it is aborted.
    async fn write_whole(&self) -> String {
        let mut writing = self.writing();
        let mut ending = Ending::of(&writing, self.envelope.native_calls);
        let mut clock = Clock::new(self.asking.server.clone());
        let tokens = writing.tokens();
        let growth = self.grow(&writing);
        if !clock.wait(tokens, &self.abort).await {
            writing.cut(clock.written(tokens));
            ending = Ending::abort();
        }
        if matches!(self.asking.order.fault, Some(Fault::AbortAfter(_))) {
            ending = Ending::abort();
        }
        if let Some(mut growth) = growth {
            growth.wrote(writing.tokens());
        }
        self.body(writing, &ending)
    }

    fn body(&self, writing: Writing, ending: &Ending) -> String {
        match self.asking.kind {
            None => {
                let choices = vec![(writing, ending.clone()); self.question.choices as usize];
                chat_wire::whole(&self.envelope, choices)
            }
            Some(kind) => {
                let text =
                    Text { so_far: writing.text(), last: String::new(), tokens: writing.tokens(), first_token: None };
                kind.whole(&self.envelope, &text, ending)
            }
        }
    }

    fn writing(&self) -> Writing {
        let Question { begun, limits, .. } = &self.question;
        match begun.as_str() {
            "" => Writing::new(&self.reply(), limits),
            begun => Writing::continued(&self.reply(), begun, limits),
        }
    }

    fn reply(&self) -> Reply {
        let mut conversation = self.question.conversation.clone();
        conversation.repeats = self.asking.server.repeats(&conversation.user);
        let mut reply = model::reply(&conversation);
        if self.question.one_call {
            reply.calls.truncate(1);
        }
        if conversation.forced.is_some() && !self.envelope.native_calls {
            // The grammar forces a JSON list, and without a parser that is the content.
            let calls: Vec<_> = reply
                .calls
                .drain(..)
                .map(|Call { name, arguments }| value!({"name": name, "parameters": arguments}))
                .collect();
            reply.prose = value!(calls).to_string();
        }
        reply
    }
}

fn error_events(refusal: &Refusal) -> Events {
    stream::iter([refusal.event(), sse::frame(sse::DONE)]).map(|frame| Ok(Frame::data(frame))).boxed()
}

fn events(events: Events) -> Answer {
    response(StatusCode::OK, "text/event-stream; charset=utf-8", StreamBody::new(events).boxed_unsync())
}

fn whole_json(body: impl Into<Bytes>) -> Answer {
    response(StatusCode::OK, "application/json", whole_body(body))
}

/// A response with its content type.
pub fn response(status: StatusCode, kind: &'static str, body: UnsyncBoxBody<Bytes, Died>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
