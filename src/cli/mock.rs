//! `loopgate mock`

use super::{Failed, runtime, told_to_stop};
use crate::mock::{self, Fault, Settings, Version};
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// The scripted model as an SGLang server.
#[derive(Args)]
pub(super) struct Flags {
    /// Address to serve on
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:30000")]
    listen: SocketAddr,
    /// Whose wire it speaks: 0.5.7 or 0.5.23
    #[arg(long, default_value_t = Version::V0_5_23)]
    sglang: Version,
    /// As without --tool-call-parser: calls are written out in the answer's text
    #[arg(long)]
    no_parser: bool,
    /// A model that it lists; may be given several times [default: those of the cookbook, and qwen3-coder]
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Ask for this key, as SGLang's --api-key
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Tokens of prompt and answer together
    #[arg(long, value_name = "TOKENS", default_value_t = Settings::default().context_length)]
    context_length: u32,
    /// Milliseconds until the first event
    #[arg(long, value_name = "MS", default_value = "0", value_parser = milliseconds)]
    ttft_ms: Duration,
    /// Microseconds per token of a prompt that is not cached
    #[arg(long, value_name = "US", default_value = "0", value_parser = microseconds)]
    prefill_us: Duration,
    /// Microseconds per token
    #[arg(long, value_name = "US", default_value = "0", value_parser = microseconds)]
    pace_us: Duration,
    /// Microseconds more per token for each other request that runs
    #[arg(long, value_name = "US", default_value = "0", value_parser = microseconds)]
    pace_batch_us: Duration,
    /// Requests that run at once, as SGLang's --max-running-requests
    #[arg(long, value_name = "N")]
    running_max: Option<usize>,
    /// Requests that wait, as SGLang's --max-queued-requests
    #[arg(long, value_name = "N")]
    queue_max: Option<usize>,
    /// Tokens of a KV cache that remembers prompts and answers by their beginnings
    #[arg(long, value_name = "TOKENS")]
    kv_tokens: Option<usize>,
    /// As SGLang's: tell in the usage how much of the prompt was cached
    #[arg(long, requires = "kv_tokens")]
    enable_cache_report: bool,
    /// What goes wrong: die-after=N, stall-after=N, garbage-after=N, error-after=N, end-after=N, abort-after=N
    /// (chunks), refuse-all, unhealthy or empty-body
    #[arg(long)]
    fault: Option<Fault>,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    time(text, 1e3)
}

fn microseconds(text: &str) -> Result<Duration, String> {
    time(text, 1e6)
}

/// Fractions too: a model of a fast server has times below a microsecond. A day is enough for anybody.
fn time(text: &str, units_in_a_second: f64) -> Result<Duration, String> {
    let most = 86_400.0 * units_in_a_second;
    let units = text.parse().ok().filter(|units| (0.0..=most).contains(units));
    units.map(|units| Duration::from_secs_f64(units / units_in_a_second)).ok_or_else(|| format!("write 0 to {most}"))
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let mut settings = Settings {
        listen: flags.listen,
        version: flags.sglang,
        parser: !flags.no_parser,
        api_key: flags.api_key.clone(),
        context_length: flags.context_length,
        ttft: flags.ttft_ms,
        prefill: flags.prefill_us,
        pace: flags.pace_us,
        pace_batch: flags.pace_batch_us,
        running_max: flags.running_max,
        queue_max: flags.queue_max,
        kv_tokens: flags.kv_tokens,
        cache_report: flags.enable_cache_report,
        fault: flags.fault,
        ..Settings::default()
    };
    if !flags.models.is_empty() {
        settings.models.clone_from(&flags.models);
    }
    runtime()?.block_on(async {
        let running = mock::start(settings).await.map_err(|error| Failed::Other(error.to_string()))?;
        let stop = told_to_stop()?;
        say!("scripted model (plain rules, no neural network) on {}", running.url());
        stop.await;
        running.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_be_fractions() {
        assert_eq!(microseconds("0.36"), Ok(Duration::from_nanos(360)));
        assert_eq!(milliseconds("9.1"), Ok(Duration::from_micros(9100)));
        for text in ["-1", "NaN", "inf", "a"] {
            assert!(microseconds(text).unwrap_err().starts_with("write 0 to"), "{text}");
        }
    }
}
