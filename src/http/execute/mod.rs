//! `POST /v1/sandbox/execute`: a program instead of a conversation, answered as a stream or as a whole.

mod wire;

pub(super) use wire::shapes;

use super::limits;
use super::refusal::Refusal;
use super::{Front, RequestId, body, form_headers, stopping};
use crate::access::Slot;
use crate::agent::{Run, Told};
use crate::chat::Failure;
use crate::dialect;
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
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Where it is.
pub(super) const PATH: &str = "/v1/sandbox/execute";

/// A comment, which readers of a stream skip.
const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

pub(super) async fn answer(
    State(front): State<Arc<Front>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let (head, mut body) = request.into_parts();
    let answered = front.while_running(pin!(admitted(&front, id, &head.headers, &mut body))).await;
    body::answered(answered, &head.headers, body, dialect::ERRORS).await
}

async fn admitted(
    front: &Front,
    RequestId { made: request_id, sent: client_id }: RequestId,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, Refusal> {
    let live = front.live();
    let caller = front.identify(&live, headers)?;
    let (slot, load) = limits::enter(&caller)?;
    let session = body::session(headers)?;
    let body = body::whole(headers, body, &live.body_limits).await?;
    let (script, streamed) = body::read(body, move |body| wire::read(body, session)).await?;
    let run = live.agent.run(Who { request_id, client_id, caller }, script)?;
    let body = if streamed { stream_of(run, slot, front.over.clone()).await? } else { whole(run, slot).await? };
    let mut response = Response::new(body);
    form_headers(&mut response, streamed);
    load.tell(response.headers_mut());
    Ok(response)
}

/// The answer at once. Its status is that of the end, however late: who cannot wait so long without a sign of life asks
/// for a stream.
async fn whole(run: Run, slot: Slot) -> Result<Body, Failure> {
    let execution = run.ended().await?;
    drop(slot);
    Ok(Body::from(wire::execution(*execution)))
}

/// The answer as it comes. A failure before its beginning has a status.
async fn stream_of(mut run: Run, slot: Slot, over: CancellationToken) -> Result<Body, Failure> {
    let (commit_after, heartbeat) = run.patience();
    let first = match timeout(commit_after, run.next()).await {
        Err(_) => HEARTBEAT,
        Ok(Some(Told::Ended(ended))) => wire::last_event(*ended?),
        Ok(told) => told.map(bytes).unwrap_or_default(),
    };
    let answering = Answering { run: Some(run), heartbeat, over, _slot: slot };
    let rest = stream::unfold(answering, async |mut answering| Some((answering.next_bytes().await?, answering)));
    Ok(Body::from_stream(stream::iter(Some(first)).chain(rest).map(Ok::<_, Infallible>)))
}

/// A program on its way to the client. Dropped with the response's body, it stops the program.
struct Answering {
    /// `None`: it was stopped, and there is no more to say.
    run: Option<Run>,
    heartbeat: Duration,
    /// The gateway stops, and waits no longer.
    over: CancellationToken,
    _slot: Slot,
}

impl Answering {
    async fn next_bytes(&mut self) -> Option<Bytes> {
        let run = self.run.as_mut()?;
        tokio::select! {
            // What is there needs no ear for the end.
            biased;
            told = timeout(self.heartbeat, run.next()) => match told {
                Err(_) => Some(HEARTBEAT),
                Ok(told) => told.map(bytes),
            },
            () = self.over.cancelled() => {
                self.run = None;
                Some(dialect::ERRORS.error_in_stream(&stopping()))
            }
        }
    }
}

fn bytes(told: Told) -> Bytes {
    match told {
        Told::Stdout(text) => wire::stdout(text),
        Told::Stderr(text) => wire::stderr(text),
        Told::Ended(Ok(execution)) => wire::last_event(*execution),
        Told::Ended(Err(failure)) => dialect::ERRORS.error_in_stream(&failure),
    }
}
