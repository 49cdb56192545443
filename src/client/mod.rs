//! A server as its clients see it: asked over HTTP, a connection for each request, and the few reasons why it has no answer.
//!
//! For the tools that measure and examine servers. What the gateway itself asks goes through `backend`.

mod failure;

pub(crate) use failure::Failure;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that takes no connection by then takes none. Chosen.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of an answer that is no stream. Chosen.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How long a server is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without a byte; as long as for the whole if there is none.
    pub silent_max: Option<Duration>,
    /// To the answer's end.
    pub total_max: Duration,
}

impl Patience {
    /// So long for the whole.
    pub const fn of(total_max: Duration) -> Self {
        Self { silent_max: None, total_max }
    }
}

/// Whom to ask, and how long to wait.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host and port.
    authority: String,
    /// What stands before every path.
    prefix: String,
    authorization: Option<HeaderValue>,
    patience: Patience,
}

/// The server does not say which model it has.
#[derive(Debug, thiserror::Error)]
#[error("{url}/v1/models: {why}; is the server up? name another with --base-url, or the model with --model")]
pub struct NoModel {
    /// The server.
    url: String,
    /// Its trouble.
    why: String,
}

impl Target {
    /// From a URL. An empty key is none.
    ///
    /// # Errors
    /// When it is none that can be asked, or with a key that cannot be sent.
    pub fn new(url: &str, api_key: Option<&str>, patience: Patience) -> Result<Self, String> {
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
        let authorization = api_key.filter(|key| !key.is_empty()).map(bearer).transpose()?;
        Ok(Self { authority, prefix, authorization, patience })
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
        self.in_time(self.json(request)).await
    }

    /// Not longer than for the whole.
    pub(crate) async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let total_max = self.patience.total_max;
        timeout(total_max, asked).await.unwrap_or(Err(Failure::Late(total_max)))
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

    /// The first model that the server lists.
    pub(crate) async fn first_model(&self) -> Result<String, NoModel> {
        let no_model = |why| NoModel { url: self.url(), why };
        let listed = self.get("/v1/models").await.map_err(|failure| no_model(failure.to_string()))?;
        let first = listed["data"][0]["id"].as_str();
        let none = || no_model(format!("it lists no model but {}", listed.get("data").unwrap_or(&Value::Null)));
        first.map(str::to_owned).ok_or_else(none)
    }

    /// A request of this server.
    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| Failure::Unreachable(error.to_string()))
    }

    /// Sends it over a new connection, and hands on what comes, as it comes.
    pub(crate) async fn exchange(
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
        let Some(silent_max) = self.patience.silent_max else { return Ok(what.await) };
        timeout(silent_max, what).await.map_err(|_| Failure::Silent(silent_max))
    }
}

/// Without the number that the system gives an error.
fn said(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

fn lost(error: &hyper::Error) -> Failure {
    Failure::Lost(error.to_string())
}

/// Keys come from files and variables, which may bring the end of a line along.
fn bearer(key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.trim()))
        .map_err(|_| "the API key has letters that no header may have; is there a line break in it?".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_sent_is_no_server_that_is_down() {
        let target = |key: &str| Target::new("http://h:1", Some(key), Patience::of(Duration::from_secs(1)));
        assert!(target("a\nb").unwrap_err().contains("is there a line break in it?"));
        assert_eq!(target("").unwrap().authorization, None);
        let sent = target("sk-1\n").unwrap().authorization.unwrap();
        assert_eq!((sent.to_str().unwrap(), sent.is_sensitive()), ("Bearer sk-1", true));
    }
}
