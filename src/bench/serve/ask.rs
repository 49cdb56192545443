//! One request over a connection of its own, as `bench_serving` makes them: the clock starts before the connection.

use super::sample::Sample;
use super::wire::{Backend, Reading};
use crate::client::{Failure, Target};
use crate::sse::Frames;
use http::Method;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Bytes of one event: the text of `/generate` grows with every event. Chosen: many times a full context.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// Asks, and notes in the sample what comes and when, to wherever it comes, also when it is stopped. Gives the text.
pub(super) async fn ask(
    target: &Target,
    backend: Backend,
    body: String,
    stop: &CancellationToken,
    sample: &mut Sample,
) -> String {
    let mut hearing = Hearing {
        begun: Instant::now(),
        last: Duration::ZERO,
        frames: Frames::new(EVENT_BYTES_MAX),
        reading: Reading::new(backend),
        sample,
    };
    let asked = target.in_time(async {
        let request = target.request(Method::POST, backend.path(), body.into())?;
        target.exchange(request, |bytes| hearing.feed(&bytes)).await
    });
    let asked = stop.run_until_cancelled(asked).await.unwrap_or(Err(Failure::Stopped));
    hearing.end(asked)
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
        // Tokens that show nothing, such as one that ends a text, are an answer if the server counts them.
        let has_answer = sample.ttft.is_some() || reading.output_tokens > Some(0);
        let failed = match asked {
            Err(failure) if !reading.ended || failure == Failure::Aborted => Some(failure),
            // What follows the end is nobody's.
            Err(_) | Ok(()) if reading.ended && has_answer => None,
            Err(_) | Ok(()) if reading.ended || reading.events == 0 => Some(Failure::Empty),
            Err(_) | Ok(()) => Some(Failure::Cut),
        };
        if let Some(failure) = failed {
            sample.latency = begun.elapsed();
            sample.output_tokens = sample.heard_tokens();
            sample.failure = Some(failure);
        }
        reading.into_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Patience;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    /// Far more turns than the other side needs to read what has come, and the runtime to see that it has.
    const TURNS: usize = 10_000;

    #[tokio::test]
    async fn what_had_come_when_it_was_told_to_stop_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = Target::new(&url, None, Patience::of(Duration::from_mins(1))).unwrap();
        let stop = CancellationToken::new();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let event = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
            let said = ["HTTP/1.1 200 OK\r\n\r\n", &event("a"), &event("b")].concat();
            stream.write_all(said.as_bytes()).await.unwrap();
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            stop.cancel();
            stream
        };
        let mut sample = Sample { output_tokens: 9, ..Sample::default() };
        let asked = ask(&target, Backend::SglangOaiChat, "{}".to_owned(), &stop, &mut sample);
        let (text, _open) = tokio::join!(asked, server);
        assert_eq!((text.as_str(), sample.events, sample.output_tokens), ("ab", 2, 2));
        assert_eq!(sample.failure, Some(Failure::Stopped));
    }
}
