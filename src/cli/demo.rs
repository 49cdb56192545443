//! `loopgate demo`: the whole gateway with a scripted model inside, one question asked through its own API, and then
//! it stays.

use super::{ConfigFlags, Failed, quiet_by_default, runtime, start_log, told_to_stop};
use crate::app::App;
use crate::backend::{NotAnAddress, Server};
use crate::config::Origin;
use crate::memory::Store;
use crate::mock;
use crate::sse::{DONE, Frames};
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

/// The page's example, whose answer everybody can check.
const QUESTION: &str = "Calculate the factorial of 10 using Python";
/// Pace of the scripted model: as fast as a person reads along.
const PACE: Duration = Duration::from_millis(12);
/// Bytes of one event. The demo's own are far smaller.
const FRAME_BYTES_MAX: usize = 1 << 20;

#[derive(Args)]
pub(super) struct Flags {
    /// What to ask
    #[arg(long, value_name = "TEXT", default_value = QUESTION)]
    question: String,
    /// End after the answer instead of serving on
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let mut resolved = flags.config.resolve_anywhere()?;
    if resolved.origin("backend.urls") == Origin::Flag("backend") {
        return Err(Failed::Usage("--backend: the demo brings its own model; use `loopgate serve`".to_owned()));
    }
    quiet_by_default(&mut resolved, "warn,loopgate::sandbox=info");
    start_log(&resolved.log);
    runtime()?.block_on(async {
        let model = mock::start(mock::Settings { pace: PACE, ..mock::Settings::default() }).await;
        let model = model.map_err(|error| Failed::Other(error.to_string()))?;
        let address = model.url().parse().map_err(|error: NotAnAddress| Failed::Other(error.to_string()))?;
        resolved.backend.servers = vec![Server::at(address)];
        if !matches!(resolved.origin("memory.path"), Origin::Flag(_)) {
            resolved.memory.path = Some(Store::Ram);
        }
        let app = App::start(&resolved).await?;
        let base = format!("http://{}", app.addr()?);
        app.pool().until_ready().await;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(app.serve(async {
            let _ = stopped.await;
        }));
        ask(&base, &flags.question).await?;
        if !flags.once {
            let stop = told_to_stop()?;
            invite(&base);
            stop.await;
        }
        let _ = stop.send(());
        serving.await.map_err(|error| Failed::Other(error.to_string()))?;
        model.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn invite(base: &str) {
    say!("\nServing on {base} (Ctrl-C stops). The model is a script: plain rules, no neural network. Try:\n");
    say!("  curl -N {base}/v1/chat/completions -H 'content-type: application/json' \\");
    say!(
        "    -d '{{\"model\": \"qwen3-coder\", \"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"What is 12 * 34?\"}}]}}'"
    );
    say!("\n  base_url for SDKs: {base}/v1   (any api_key)\n");
}

/// Asks through the gateway's own API and shows what comes.
async fn ask(base: &str, question: &str) -> Result<(), Failed> {
    let body = json!({"model": "qwen3-coder", "stream": true, "messages": [{"role": "user", "content": question}]});
    let request = http::Request::post(format!("{base}/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(Full::<bytes::Bytes>::from(body.to_string()))
        .map_err(|error| Failed::Other(error.to_string()))?;
    let failed = |error: &dyn std::fmt::Display| Failed::Other(format!("the demo's own question failed: {error}"));
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.map_err(|error| failed(&error))?;
    if !response.status().is_success() {
        return Err(failed(&response.status()));
    }
    say!("\nquestion  {question}\n");
    let mut frames = Frames::new(FRAME_BYTES_MAX);
    let mut body = response.into_body();
    let mut screen = Screen::default();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(|error| failed(&error))?.into_data() {
            frames.feed(&bytes);
        }
        while let Some(frame) = frames.next_frame().map_err(|error| failed(&error))? {
            if frame != DONE {
                screen.show(&serde_json::from_slice(&frame).unwrap_or_default())?;
            }
        }
    }
    say!("");
    Ok(())
}

/// The exchange as it is printed.
#[derive(Default)]
struct Screen {
    in_text: bool,
    calls: usize,
}

impl Screen {
    fn show(&mut self, chunk: &Value) -> io::Result<()> {
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
            if !self.in_text {
                self.in_text = true;
                print!("{}    ", if self.calls == 0 { "model " } else { "answer" });
            }
            print!("{}", text.trim_start_matches('\n'));
            io::stdout().flush()?;
        }
        match chunk["loopgate"]["event"].as_str() {
            Some("executing") => {
                self.calls += 1;
                let arguments = chunk["loopgate"]["arguments"].as_str().unwrap_or_default();
                let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
                self.block("code  ", arguments["code"].as_str().unwrap_or_default());
            }
            Some("executed") => {
                let told = &chunk["loopgate"];
                self.block("output", told["output"].as_str().unwrap_or_default());
                let (status, took) = (told["status"].as_str().unwrap_or_default(), told["duration_ms"].as_f64());
                say!("          ({status}, {:.1} ms)\n", took.unwrap_or_default());
            }
            _ => {}
        }
        Ok(())
    }

    fn block(&mut self, label: &str, text: &str) {
        if std::mem::take(&mut self.in_text) {
            say!("\n");
        }
        for (number, line) in text.lines().enumerate() {
            say!("{}    {line}", if number == 0 { label } else { "      " });
        }
        if label.starts_with("code") {
            say!("");
        }
    }
}
