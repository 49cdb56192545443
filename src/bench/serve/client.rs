//! One request over a connection of its own, as `bench_serving` makes them: the clock starts before the connection.

use super::failure::Failure;
use super::sample::Sample;
use super::wire::{Backend, Reading};
use crate::sse::Frames;
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that takes no connection by then takes none. Chosen.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of one event: the text of `/generate` grows with every event. Chosen: many times a full context.
const EVENT_BYTES_MAX: usize = 16 << 20;
/// Bytes of an answer that is no stream. Chosen.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Whom to ask, and how long to wait.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host and port.
    authority: String,
    /// What stands before every path.
    prefix: String,
    api_key: Option<String>,
    /// Without a byte.
    silent_max: Duration,
    /// To the answer's end.
    total_max: Duration,
}

impl Target {
    /// From a URL.
    ///
    /// # Errors
    /// When it is none that can be asked.
    pub fn new(url: &str, api_key: Option<String>, silent_max: Duration, total_max: Duration) -> Result<Self, String> {
        let wrong = |why: &str| format!("{url}: {why}; write one such as http://127.0.0.1:30000");
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("{error}")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("https is not spoken here")),
            _ => return Err(wrong("it does not begin with http://")),
        }
        let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority, prefix, api_key, silent_max, total_max })
    }

    /// As a URL.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.authority, self.prefix)
    }

    /// What a server says of itself.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.whole(self.request(Method::GET, path, Bytes::new())?).await
    }

    /// An answer that is no stream, in its time: a server that says a byte now and then is never silent.
    async fn whole(&self, request: Request<Full<Bytes>>) -> Result<Value, Failure> {
        timeout(self.total_max, self.json(request)).await.unwrap_or(Err(Failure::Late(self.total_max)))
    }

    async fn json(&self, request: Request<Full<Bytes>>) -> Result<Value, Failure> {
        let mut said = Vec::new();
        self.exchange(request, |bytes| {
            said.extend_from_slice(&bytes);
            if said.len() > BODY_BYTES_MAX { Err(Failure::garbage(&said)) } else { Ok(()) }
        })
        .await?;
        serde_json::from_slice(&said).map_err(|_| Failure::garbage(&said))
    }

    /// Asks for an answer that is no stream.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.whole(self.request(Method::POST, path, body.to_string().into())?).await
    }

    /// The first model that the server lists. The error is for people.
    pub(crate) async fn first_model(&self) -> Result<String, String> {
        let listed = self.get("/v1/models").await.map_err(|failure| failure.to_string())?;
        let first = listed["data"][0]["id"].as_str();
        let none = || format!("it lists no model but {}", listed.get("data").unwrap_or(&Value::Null));
        first.map(str::to_owned).ok_or_else(none)
    }

    /// Asks, and notes in the sample what comes and when, to wherever it comes.
    pub(super) async fn ask(&self, backend: Backend, body: String, sample: &mut Sample) -> String {
        let mut hearing = Hearing {
            begun: Instant::now(),
            last: Duration::ZERO,
            frames: Frames::new(EVENT_BYTES_MAX),
            reading: Reading::new(backend),
            sample,
        };
        let asked = timeout(self.total_max, async {
            let request = self.request(Method::POST, backend.path(), body.into())?;
            self.exchange(request, |bytes| hearing.feed(&bytes)).await
        });
        let asked = asked.await.unwrap_or(Err(Failure::Late(self.total_max)));
        hearing.end(asked)
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        request.body(Full::new(body)).map_err(|error| Failure::Unreachable(error.to_string()))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        mut hear: impl FnMut(Bytes) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let stream = timeout(CONNECT, TcpStream::connect(&self.authority)).await;
        let stream = stream.map_err(|_| Failure::Unreachable(format!("no answer for {} s", CONNECT.as_secs())))?;
        let stream = stream.map_err(|error| Failure::Unreachable(said(&error)))?;
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        let talk = async move {
            let response = self.patiently(sender.send_request(request)).await?.map_err(|error| lost(&error))?;
            let (status, mut body) = (response.status().as_u16(), response.into_body());
            if status != 200 {
                let said = self.patiently(Limited::new(body, BODY_BYTES_MAX).collect()).await?;
                return Err(Failure::status(status, &said.map(Collected::to_bytes).unwrap_or_default()));
            }
            while let Some(frame) = self.patiently(body.frame()).await? {
                if let Ok(bytes) = frame.map_err(|error| lost(&error))?.into_data() {
                    hear(bytes)?;
                }
            }
            Ok(())
        };
        // In one task, so that a byte that has come is heard of at once, and not when another task is scheduled.
        let (mut talk, mut connection) = (pin!(talk), pin!(connection));
        tokio::select! {
            biased;
            done = &mut talk => done,
            _ = &mut connection => talk.await,
        }
    }

    async fn patiently<T>(&self, what: impl Future<Output = T>) -> Result<T, Failure> {
        timeout(self.silent_max, what).await.map_err(|_| Failure::Silent(self.silent_max))
    }
}

/// Without the number that the system gives an error.
fn said(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

fn lost(error: &hyper::Error) -> Failure {
    Failure::Lost(error.to_string())
}

/// An answer that is being heard.
struct Hearing<'a> {
    begun: Instant,
    /// When the last token came.
    last: Duration,
    frames: Frames,
    reading: Reading,
    sample: &'a mut Sample,
}

impl Hearing<'_> {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.frames.feed(bytes);
        while let Some(event) = self.frames.next_frame().map_err(|long| Failure::Garbage(long.to_string()))? {
            let now = self.begun.elapsed();
            self.sample.latency = now;
            let tokens = self.reading.hear(&event)?;
            if tokens == 0 {
                continue;
            }
            if self.sample.ttft.is_none() {
                self.sample.ttft = Some(now);
            } else {
                self.sample.gaps.push((now.saturating_sub(self.last) / tokens, tokens));
            }
            self.last = now;
        }
        Ok(())
    }

    /// The sample is complete; gives the text.
    fn end(self, asked: Result<(), Failure>) -> String {
        let Self { reading, sample, begun, .. } = self;
        sample.events = reading.events;
        sample.server_ttft = reading.server_ttft;
        sample.output_tokens = reading.output_tokens.unwrap_or(sample.output_tokens);
        let failed = match asked {
            Err(failure) if !reading.ended || failure == Failure::Aborted => Some(failure),
            // What follows the end is nobody's.
            Err(_) => None,
            Ok(()) if reading.ended => None,
            Ok(()) if reading.events == 0 => Some(Failure::Empty),
            Ok(()) => Some(Failure::Cut),
        };
        if let Some(failure) = failed {
            sample.latency = begun.elapsed();
            sample.output_tokens = sample.heard_tokens();
            sample.failure = Some(failure);
        }
        reading.into_text()
    }
}
