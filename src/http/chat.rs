//! A request for an answer, in whatever dialect: let in, read, planned, and answered as a stream or as a whole.

use super::handed_back::{Life, Receiver, handed_back, late};
use super::limits;
use super::refusal::Refusal;
use super::resends::{Begun, Sent};
use super::shared::{Listener, Shared};
use super::{EXECUTE_HEADER, Front, RequestId, body, form_headers, stopping};
use crate::access::{Caller, Slot};
use crate::agent::{Plan, Turn};
use crate::backend::{Call, Forwarded, Pool};
use crate::chat::{Ask, Event, Execute, Failure, FailureKind};
use crate::dialect::{Dialect, Form, Stamp, Writer};
use crate::record::Who;
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Headers in which clients name their session: opencode and Kilo; Codex and Copilot; Claude Code; Open `WebUI`.
const SESSION_NAMES: [&str; 6] = [
    "x-session-affinity",
    "x-session-id",
    "session-id",
    "thread-id",
    "x-claude-code-session-id",
    "x-openwebui-chat-id",
];

pub(super) async fn answer(
    dialect: &'static dyn Dialect,
    State(front): State<Arc<Front>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let (head, mut body) = request.into_parts();
    // Pinned here, since what a function is given it keeps twice: once as given, once as awaited.
    let answered = front.while_running(pin!(admitted(dialect, &front, id, &head.headers, &mut body))).await;
    body::answered(answered, &head.headers, body, dialect).await
}

async fn admitted(
    dialect: &'static dyn Dialect,
    front: &Arc<Front>,
    RequestId { made: id, sent: client_id }: RequestId,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, Refusal> {
    let live = front.live();
    let caller = front.identify(&live, headers)?;
    let (slot, load) = limits::enter(&caller).inspect_err(|_| front.resends.refused(&caller))?;
    let (execute, session) = (execute(headers)?, body::session(headers)?);
    let body = body::whole(headers, body, &live.body_limits).await?;
    let (mut ask, form) = body::read(body.clone(), move |body| dialect.read(body, execute)).await?;
    ask.session = affinity(headers).or(ask.session);
    let stamp = Stamp { request_id: id.clone(), created: (front.clock)().as_second(), model: ask.model.clone() };
    let who = Who { request_id: id.clone(), client_id, caller: caller.clone() };
    let mut response = match live.agent.plan(who, ask, session.as_deref())? {
        Plan::Forward { mut ask, model } => {
            live.agent.restore(&caller, &mut ask).await;
            let (commit_after, heartbeat) = live.agent.patience(&caller);
            let signs = Life { stamp: Stamp { model: model.clone(), ..stamp }, streamed: form.stream, heartbeat };
            let to = Receiver { dialect, over: front.over.clone(), life: Some(signs), slot };
            // Boxed, since it may go on in the answer's body.
            let mut opening = Box::pin(forward(front.pool.clone(), caller, ask, model, id, form));
            match timeout(commit_after, &mut opening).await {
                Ok(forwarded) => Ok(handed_back(to, forwarded?)),
                Err(_) => Ok(late(to, opening)),
            }
        }
        Plan::Act(turn) => {
            let sent = Sent::new(&caller, dialect.path(), body, headers).await?;
            Box::pin(act(dialect, front, *turn, sent, stamp, form, slot)).await
        }
    }?;
    load.tell(response.headers_mut());
    Ok(response)
}

/// What the client's headers call its session; the body may name it, too. Without a name, the conversation's beginning tells
/// it from others.
fn affinity(headers: &HeaderMap) -> Option<String> {
    let named = |name: &&str| headers.get(*name).and_then(|value| value.to_str().ok()).filter(|name| !name.is_empty());
    SESSION_NAMES.iter().find_map(named).map(str::to_owned)
}

/// Reads [`EXECUTE_HEADER`].
fn execute(headers: &HeaderMap) -> Result<Option<Execute>, Failure> {
    let Some(value) = headers.get(EXECUTE_HEADER) else { return Ok(None) };
    match value.as_bytes() {
        b"gateway" => Ok(Some(Execute::Gateway)),
        b"client" => Ok(Some(Execute::Client)),
        b"off" => Ok(Some(Execute::Off)),
        _ => {
            let message = format!("the header {EXECUTE_HEADER} must be gateway, client or off");
            Err(Failure::new(FailureKind::Invalid, message))
        }
    }
}

/// A request on which the gateway cannot act. It owns what it needs, since it may outlast the answer's head.
async fn forward(
    pool: Arc<Pool>,
    caller: Caller,
    mut ask: Box<Ask>,
    model: String,
    id: Arc<str>,
    form: Form,
) -> Result<Forwarded, Failure> {
    // By its id a request can be aborted; several answers would each need one. A client's own is never sent: SGLang aborts
    // every request whose id begins with the one that it is told, which would be everybody's with `chatcmpl-`.
    let rid = (ask.choices == 1).then_some(&*id);
    match rid {
        Some(rid) => ask.body.set("rid", serde_json::Value::from(rid).to_string()),
        None => ask.body.remove("rid"),
    }
    let call = Call { ask: &ask, model: &model, caller: caller.name() };
    pool.forward(call, rid, form.stream).await
}

/// A request on which the gateway acts.
async fn act(
    dialect: &'static dyn Dialect,
    front: &Front,
    turn: Turn,
    sent: Sent,
    stamp: Stamp,
    form: Form,
    slot: Slot,
) -> Result<Response, Refusal> {
    let (commit_after, heartbeat) = turn.patience();
    let streamed = form.stream;
    let caller = turn.caller().clone();
    let events = front.resends.arrive(&caller, &sent, |begun| begin(front, turn, begun, stamp));
    let mut answering = Answering {
        writer: dialect.writer(events.shared().stamp.clone(), form),
        events,
        heartbeat,
        ended: false,
        over: front.over.clone(),
        _slot: slot,
    };
    let first = answering.before_commit(commit_after, streamed).await?;
    let rest = stream::unfold(answering, async |mut answering| Some((answering.next_bytes().await?, answering)));
    let body = stream::iter(Some(first)).chain(rest).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(body));
    form_headers(&mut response, streamed);
    Ok(response)
}

fn begin(front: &Front, turn: Turn, begun: Begun, stamp: Stamp) -> Listener {
    let record = front.recorder.metrics().turn();
    let events = turn.start(begun.outcomes.clone());
    Shared::start(events, record, stamp, Box::new(move |end| begun.over(end)))
}

/// A turn on its way to the client. Dropped with the response's body, it stops the turn.
struct Answering {
    events: Listener,
    writer: Box<dyn Writer>,
    heartbeat: Duration,
    ended: bool,
    /// The gateway stops, and waits no longer.
    over: CancellationToken,
    _slot: Slot,
}

impl Answering {
    /// What the response begins with. Until then a failure is a status; for how long, `commit_after` says. A stream
    /// begins with its first event, a whole answer is complete by then or kept alive from there.
    async fn before_commit(&mut self, commit_after: Duration, stream: bool) -> Result<Bytes, Failure> {
        let deadline = Instant::now() + commit_after;
        loop {
            match timeout_at(deadline, self.events.next()).await {
                Err(_) => return Ok(self.writer.heartbeat()),
                Ok(None) => return Err(Failure::new(FailureKind::Internal, "the turn ended without an answer")),
                Ok(Some(Event::Failed(failure))) => return Err(failure),
                Ok(Some(event)) => {
                    let bytes = self.hear(event);
                    if stream || self.ended {
                        return Ok(bytes);
                    }
                }
            }
        }
    }

    async fn next_bytes(&mut self) -> Option<Bytes> {
        // Counted from the last bytes, not from the last event: a whole answer sends nothing for most of them.
        let silent_until = Instant::now() + self.heartbeat;
        while !self.ended {
            let event = tokio::select! {
                event = timeout_at(silent_until, self.events.next()) => event,
                () = self.over.cancelled() => Ok(Some(Event::Failed(stopping()))),
            };
            let bytes = match event {
                Ok(event) => self.hear(event?),
                Err(_) => self.writer.heartbeat(),
            };
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
        None
    }

    fn hear(&mut self, event: Event) -> Bytes {
        self.ended = matches!(event, Event::Ended(_) | Event::Failed(_));
        self.writer.hear(event)
    }
}
