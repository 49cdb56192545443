//! Samples as figures, under the names that `bench_serving` gives them in its own JSON, so that either's files can be
//! compared with the other's.

use super::data::Wanted;
use super::load::{Asking, Ran};
use super::sample::Sample;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report(pub(super) Map<String, Value>);

/// A file that is no report.
#[derive(Debug, thiserror::Error)]
pub enum NoReport {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It is something else.
    #[error("{0}: not a report of `loopgate bench serve --json` or of bench_serving's --output-file")]
    Other(PathBuf),
}

/// What a run was, beside its samples.
pub(super) struct About<'a> {
    pub asking: &'a Asking,
    pub wanted: &'a Wanted,
    pub at_once: Option<usize>,
    /// Requests of the data set.
    pub requests: usize,
}

impl Report {
    /// Reads one: ours, or the last line of a file to which `bench_serving` has written.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(path: &Path) -> Result<Self, NoReport> {
        let text = fs::read_to_string(path).map_err(|error| NoReport::Read(path.to_owned(), error))?;
        // Python's JSON has a word for it that JSON has not.
        let text = text.replace(": Infinity", ": \"inf\"");
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let read = serde_json::from_str(&text).or_else(|_| serde_json::from_str(last));
        let read: Map<String, Value> = read.map_err(|_| NoReport::Other(path.to_owned()))?;
        if read.contains_key("mean_ttft_ms") { Ok(Self(read)) } else { Err(NoReport::Other(path.to_owned())) }
    }

    pub(super) fn of(about: &About<'_>, ran: &Ran) -> Self {
        let (answered, failed): (Vec<_>, Vec<_>) = ran.samples.iter().partition(|sample| sample.failure.is_none());
        let mut report = Self(Map::new());
        report.put_about(about);
        report.put_totals(about, &answered, ran.took);
        report.put_times(&answered, ran.took);
        report.put_failures(about, &answered, &failed);
        report.put_cost(ran);
        report.put("requests", ran.samples.iter().map(Sample::row).collect::<Vec<_>>());
        report
    }

    /// Whether every request was answered.
    pub fn is_whole(&self) -> bool {
        self.number("failed") == Some(0.0) && self.number("not_sent") == Some(0.0)
    }

    /// Requests of the data set, also those that were not sent.
    pub fn requests(&self) -> u64 {
        let count = |name| self.0.get(name).and_then(Value::as_u64).unwrap_or_default();
        count("completed") + count("failed") + count("not_sent")
    }

    /// Whether the lengths of its prompts were not counted by the model's tokenizer.
    pub fn lengths_estimated(&self) -> bool {
        self.0.get("lengths_estimated") == Some(&Value::Bool(true))
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        Value::Object(self.0.clone())
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    /// A figure of what the bench itself needed.
    pub(super) fn cost(&self, name: &str) -> Option<f64> {
        self.0.get("cost")?[name].as_f64()
    }

    pub(super) fn numbers(&self, of: &str, name: &str) -> Vec<f64> {
        let list = self.0.get(of).and_then(|of| of[name].as_array());
        list.into_iter().flatten().filter_map(Value::as_f64).collect()
    }

    fn put(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    fn put_about(&mut self, about: &About<'_>) {
        let About { asking, wanted, at_once, .. } = about;
        self.put("backend", json!(asking.backend));
        self.put("base_url", asking.target.url());
        self.put("model", asking.model.as_str());
        self.put("dataset_name", json!(wanted.data_set));
        self.put("request_rate", wanted.request_rate.map_or_else(|| json!("inf"), |rate| json!(rate)));
        self.put("max_concurrency", json!(at_once));
        self.put("random_input_len", wanted.input_len);
        self.put("random_output_len", wanted.output_len);
        self.put("random_range_ratio", wanted.range_ratio);
        self.put("seed", wanted.seed);
        self.put("lengths_estimated", wanted.tokenizer.is_none());
    }

    fn put_totals(&mut self, about: &About<'_>, answered: &[&Sample], took: Duration) {
        let sum = |of: fn(&Sample) -> u32| answered.iter().map(|sample| u64::from(of(sample))).sum::<u64>();
        let (input, output) = (sum(|sample| sample.input_tokens), sum(|sample| sample.output_tokens));
        self.put("duration", took.as_secs_f64());
        self.put("completed", answered.len());
        self.put("total_input_tokens", input);
        self.put("total_input_text_tokens", input);
        self.put("total_output_tokens", output);
        let retokenized = answered.iter().map(|sample| sample.retokenized.map(u64::from)).sum::<Option<u64>>();
        if let Some(retokenized) = retokenized.filter(|_| about.wanted.tokenizer.is_some()) {
            self.put("total_output_tokens_retokenized", retokenized);
        }
        for (name, count) in [
            ("request_throughput", answered.len() as u64),
            ("input_throughput", input),
            ("output_throughput", output),
            ("total_throughput", input + output),
        ] {
            self.put(name, float(count) / took.as_secs_f64());
        }
    }

    fn put_times(&mut self, answered: &[&Sample], took: Duration) {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let e2e = Spread::of(answered.iter().map(|sample| milliseconds(sample.latency)).collect());
        self.put("concurrency", e2e.sum() / milliseconds(took));
        let mut percentiles = Map::new();
        for (name, spread) in [
            ("e2e_latency", e2e),
            ("ttft", Spread::of(answered.iter().filter_map(|sample| sample.ttft.map(milliseconds)).collect())),
            ("tpot", Spread::of(answered.iter().filter_map(|sample| sample.tpot().map(milliseconds)).collect())),
            ("itl", Spread::of(answered.iter().flat_map(|sample| sample.itls().map(milliseconds)).collect())),
        ] {
            self.put(format!("mean_{name}_ms"), spread.mean());
            self.put(format!("median_{name}_ms"), spread.percentile(50.0));
            self.put(format!("std_{name}_ms"), spread.deviation());
            for percent in [90, 95, 99] {
                self.put(format!("p{percent}_{name}_ms"), spread.percentile(f64::from(percent)));
            }
            self.put(format!("max_{name}_ms"), spread.percentile(100.0));
            let all = (0..=100).map(|percent| spread.percentile(f64::from(percent))).collect::<Vec<_>>();
            percentiles.insert(name.to_owned(), all.into());
        }
        self.put("percentiles_ms", percentiles);
        let seconds = Seconds::of(answered);
        self.put("max_output_tokens_per_s", float(seconds.tokens.iter().copied().max().unwrap_or_default()));
        self.put("max_concurrent_requests", seconds.touching.iter().copied().max().unwrap_or_default());
        self.put("per_second", json!({"output_tokens": seconds.tokens, "running": seconds.running}));
    }

    fn put_failures(&mut self, about: &About<'_>, answered: &[&Sample], failed: &[&Sample]) {
        let mut reasons = BTreeMap::<_, u64>::new();
        for failure in failed.iter().filter_map(|sample| sample.failure.as_ref()) {
            *reasons.entry(failure.reason()).or_default() += 1;
        }
        self.put("failed", failed.len());
        self.put("not_sent", about.requests - answered.len() - failed.len());
        self.put("failures", json!(reasons));
        self.put("partial_output_tokens", failed.iter().map(|sample| u64::from(sample.output_tokens)).sum::<u64>());
    }

    /// What we ourselves needed.
    fn put_cost(&mut self, ran: &Ran) {
        let events: u64 = ran.samples.iter().map(|sample| u64::from(sample.events)).sum();
        let cpu = ran.cpu.as_secs_f64();
        let busy = cpu / ran.took.as_secs_f64();
        // What network and client add to the time that the server itself measured.
        let beyond = |sample: &Sample| Some((sample.ttft?.as_secs_f64() - sample.server_ttft?) * 1e3);
        let beyond = Spread::of(ran.samples.iter().filter_map(beyond).collect());
        let ttft = |percent| (!beyond.0.is_empty()).then(|| beyond.percentile(percent));
        self.put(
            "cost",
            json!({
                "events": events, "cpu_s": cpu, "cores_busy": busy, "events_per_cpu_s": float(events) / cpu,
                "ttft_beyond_server_p50_ms": ttft(50.0), "ttft_beyond_server_p99_ms": ttft(99.0),
            }),
        );
    }
}

/// Numbers in order.
struct Spread(Vec<f64>);

impl Spread {
    fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        Self(numbers)
    }

    /// From 0 on: `sum` of nothing is -0, and is shown so.
    fn sum(&self) -> f64 {
        self.0.iter().fold(0.0, |sum, number| sum + number)
    }

    /// 0 of nothing, as there.
    fn mean(&self) -> f64 {
        self.sum() / float(self.0.len().max(1) as u64)
    }

    fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares = Self(self.0.iter().map(|number| (number - mean).powi(2)).collect());
        (squares.sum() / float(self.0.len().max(1) as u64)).sqrt()
    }

    /// Between two numbers in proportion, as `NumPy`'s.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
    fn percentile(&self, percent: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return 0.0 };
        let place = float(last as u64) * percent / 100.0;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        self.0[below] + (self.0[above] - self.0[below]) * place.fract()
    }
}

/// The run second by second, from the first request's beginning.
struct Seconds {
    /// Tokens that came.
    tokens: Vec<u64>,
    /// Requests of which a part lies in it, as there: of requests one after the other, all that begin or end in it.
    touching: Vec<u64>,
    /// Requests under way on average.
    running: Vec<f64>,
}

impl Seconds {
    fn of(answered: &[&Sample]) -> Self {
        let first = answered.iter().map(|sample| sample.start).min().unwrap_or_default();
        let second = |time: Duration| usize::try_from(time.saturating_sub(first).as_secs()).unwrap_or_default();
        let last = answered.iter().map(|sample| sample.start + sample.latency).max().unwrap_or_default();
        let count = if answered.is_empty() { 0 } else { second(last) + 1 };
        let mut seconds = Self { tokens: vec![0; count], touching: vec![0; count], running: vec![0.0; count] };
        for sample in answered {
            let Some(ttft) = sample.ttft else { continue };
            let mut at = sample.start + ttft;
            seconds.tokens[second(at).min(count - 1)] += 1;
            for gap in sample.itls() {
                at += gap;
                seconds.tokens[second(at).min(count - 1)] += 1;
            }
        }
        for sample in answered {
            let (begin, end) =
                (sample.start.saturating_sub(first), (sample.start + sample.latency).saturating_sub(first));
            for at in second(sample.start)..=second(sample.start + sample.latency) {
                seconds.touching[at] += 1;
                let from = Duration::from_secs(at as u64);
                let part = end.min(from + Duration::from_secs(1)).saturating_sub(begin.max(from));
                seconds.running[at] += part.as_secs_f64();
            }
        }
        seconds
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_everything_is_nought() {
        let none = Spread::of(Vec::new());
        assert_eq!((none.mean(), none.deviation(), none.percentile(99.0)), (0.0, 0.0, 0.0));
        assert_eq!(Seconds::of(&[]).tokens, [0; 0]);
    }

    #[test]
    fn a_block_of_nothing_has_no_negative_nought() {
        let mut report = Report(Map::new());
        report.put_times(&[], Duration::from_secs(1));
        let block = report.to_string();
        assert!(block.contains("Mean TTFT (ms):                          0.00\n") && !block.contains("-0"), "{block}");
    }

    /// What `NumPy` says of the same.
    #[test]
    fn percentiles_lie_between_numbers() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 10.0]);
        assert_eq!((spread.mean(), spread.percentile(50.0), spread.percentile(100.0)), (4.25, 3.0, 10.0));
        assert!((spread.percentile(90.0) - 8.2).abs() < 1e-9 && (spread.deviation() - 3.491_060_01).abs() < 1e-6);
    }

    #[test]
    fn tokens_fall_into_the_second_in_which_they_come() {
        let at = Duration::from_millis;
        let sample = Sample {
            start: at(500),
            ttft: Some(at(900)),
            gaps: vec![(at(50), 1), (at(25), 2), (at(1000), 1)],
            latency: at(2100),
            ..Sample::default()
        };
        let later = Sample { start: at(1600), ttft: Some(at(100)), latency: at(100), ..Sample::default() };
        let seconds = Seconds::of(&[&sample, &later]);
        assert_eq!((seconds.tokens, seconds.touching), (vec![3, 2, 1], vec![1, 2, 1]));
        let averages: Vec<_> = seconds.running.iter().map(|running| format!("{running:.2}")).collect();
        assert_eq!(averages, ["1.00", "1.10", "0.10"]);
    }

    #[test]
    fn a_day_of_requests_is_counted_in_no_time() {
        let second = Duration::from_secs(1);
        let sample = |start| Sample { start: second * start, ttft: Some(second), latency: second, ..Sample::default() };
        let samples: Vec<_> = (0..86_400).map(sample).collect();
        let begun = std::time::Instant::now();
        let seconds = Seconds::of(&samples.iter().collect::<Vec<_>>());
        assert_eq!((seconds.touching.len(), seconds.touching[1]), (86_401, 2));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_file_of_something_else_is_no_report() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "{}", "nonsense\n", "[1]"] {
            fs::write(file.path(), text).unwrap();
            let why = Report::read(file.path()).unwrap_err().to_string();
            assert!(why.contains("not a report"), "{why}");
        }
        fs::write(file.path(), "{\"mean_ttft_ms\": 1}\n{\"request_rate\": Infinity, \"mean_ttft_ms\": 2.5}\n").unwrap();
        assert_eq!(Report::read(file.path()).unwrap().number("mean_ttft_ms"), Some(2.5));
    }
}
