//! A report as a person reads it: `bench_serving`'s block of 0.5.7, to the letter, and two of them side by side.

use super::report::Report;
use serde_json::Value;
use std::fmt::{self, Write as _};

/// Columns of a rule.
const WIDTH: usize = 50;

/// One line of the block.
enum Line {
    /// A title in the middle of a rule of this letter.
    Rule(&'static str, char),
    /// A label and a figure as it is.
    Plain(&'static str, &'static str),
    /// A label and a figure with two decimals.
    Decimal(&'static str, &'static str),
}

const LINES: &[Line] = &[
    Line::Rule(" Serving Benchmark Result ", '='),
    Line::Plain("Backend:", "backend"),
    Line::Plain("Traffic request rate:", "request_rate"),
    Line::Plain("Max request concurrency:", "max_concurrency"),
    Line::Plain("Successful requests:", "completed"),
    Line::Decimal("Benchmark duration (s):", "duration"),
    Line::Plain("Total input tokens:", "total_input_tokens"),
    Line::Plain("Total input text tokens:", "total_input_text_tokens"),
    Line::Plain("Total generated tokens:", "total_output_tokens"),
    Line::Plain("Total generated tokens (retokenized):", "total_output_tokens_retokenized"),
    Line::Decimal("Request throughput (req/s):", "request_throughput"),
    Line::Decimal("Input token throughput (tok/s):", "input_throughput"),
    Line::Decimal("Output token throughput (tok/s):", "output_throughput"),
    Line::Decimal("Peak output token throughput (tok/s):", "max_output_tokens_per_s"),
    Line::Plain("Peak concurrent requests:", "max_concurrent_requests"),
    Line::Decimal("Total token throughput (tok/s):", "total_throughput"),
    Line::Decimal("Concurrency:", "concurrency"),
    Line::Rule("End-to-End Latency", '-'),
    Line::Decimal("Mean E2E Latency (ms):", "mean_e2e_latency_ms"),
    Line::Decimal("Median E2E Latency (ms):", "median_e2e_latency_ms"),
    Line::Decimal("P90 E2E Latency (ms):", "p90_e2e_latency_ms"),
    Line::Decimal("P99 E2E Latency (ms):", "p99_e2e_latency_ms"),
    Line::Rule("Time to First Token", '-'),
    Line::Decimal("Mean TTFT (ms):", "mean_ttft_ms"),
    Line::Decimal("Median TTFT (ms):", "median_ttft_ms"),
    Line::Decimal("P99 TTFT (ms):", "p99_ttft_ms"),
    Line::Rule("Time per Output Token (excl. 1st token)", '-'),
    Line::Decimal("Mean TPOT (ms):", "mean_tpot_ms"),
    Line::Decimal("Median TPOT (ms):", "median_tpot_ms"),
    Line::Decimal("P99 TPOT (ms):", "p99_tpot_ms"),
    Line::Rule("Inter-Token Latency", '-'),
    Line::Decimal("Mean ITL (ms):", "mean_itl_ms"),
    Line::Decimal("Median ITL (ms):", "median_itl_ms"),
    Line::Decimal("P95 ITL (ms):", "p95_itl_ms"),
    Line::Decimal("P99 ITL (ms):", "p99_itl_ms"),
    Line::Decimal("Max ITL (ms):", "max_itl_ms"),
    Line::Rule("", '='),
];

/// The block. A line whose figure the report has not is left out.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = LINES.iter().filter_map(|line| {
            Some(match line {
                Line::Rule(title, fill) => rule(title, *fill, WIDTH),
                Line::Plain(label, _) | Line::Decimal(label, _) => format!("{label:<40} {}", self.shown(line)?),
            })
        });
        out.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

impl Report {
    /// What went wrong, by reason, for below the block; nothing if nothing did.
    pub fn failures(&self) -> String {
        let mut out = String::new();
        for (label, name) in [("Failed requests:", "failed"), ("Requests not sent:", "not_sent")] {
            if let Some(count) = self.number(name).filter(|count| *count > 0.0) {
                let _ = writeln!(out, "{label:<40} {count}");
            }
            let reasons = self.0.get("failures").and_then(Value::as_object).filter(|_| name == "failed");
            for (reason, count) in reasons.into_iter().flatten() {
                let _ = writeln!(out, "  {reason:<38} {count}");
            }
        }
        out.trim_end().to_owned()
    }

    /// A line's figure.
    fn shown(&self, line: &Line) -> Option<String> {
        match line {
            Line::Rule(..) => None,
            Line::Plain(_, name) => Some(match self.0.get(*name)? {
                Value::Null => "not set".to_owned(),
                Value::String(text) => text.clone(),
                number => number.to_string(),
            }),
            Line::Decimal(_, name) => Some(format!("{:.2}", self.number(name)?)),
        }
    }
}

/// Label and figures of every line of the block, for other ways to show them.
pub(super) fn rows(reports: &[&Report]) -> Vec<(&'static str, Vec<String>)> {
    let shown = |line: &Line, report: &Report| report.shown(line).unwrap_or_else(|| "-".to_owned());
    let row = |line: &Line| match line {
        Line::Rule(..) => None,
        Line::Plain(label, _) | Line::Decimal(label, _) => {
            Some((*label, reports.iter().map(|report| shown(line, report)).collect::<Vec<_>>()))
        }
    };
    LINES.iter().filter_map(row).filter(|(_, figures)| figures.iter().any(|figure| figure != "-")).collect()
}

/// Two reports, line by line, with what the second has more.
pub fn compare(names: [&str; 2], reports: [&Report; 2]) -> String {
    const WIDE: usize = 91;
    let mut out = rule(" Comparison ", '=', WIDE);
    let _ = write!(out, "\n{:<40} {:>14} {:>14} {:>12} {:>7}", "", names[0], names[1], "difference", "%");
    for line in LINES {
        let (label, name) = match line {
            Line::Rule("", _) | Line::Rule(_, '=') => continue,
            Line::Rule(title, fill) => {
                let _ = write!(out, "\n{}", rule(title, *fill, WIDE));
                continue;
            }
            Line::Plain(label, name) | Line::Decimal(label, name) => (label, name),
        };
        let [Some(first), Some(second)] = reports.map(|report| report.shown(line)) else { continue };
        let _ = write!(out, "\n{label:<40} {first:>14} {second:>14}");
        if let [Some(first), Some(second)] = reports.map(|report| report.number(name)) {
            let percent = if first == 0.0 { String::new() } else { format!("{:+.1}", 100.0 * (second / first - 1.0)) };
            let _ = write!(out, " {:>+12.2} {percent:>7}", second - first);
        }
    }
    let _ = write!(out, "\n{}", "=".repeat(WIDE));
    out
}

/// As Python centres: of an odd rest the smaller half goes before.
fn rule(title: &str, fill: char, width: usize) -> String {
    let rest = width.saturating_sub(title.chars().count());
    let fill = |count: usize| fill.to_string().repeat(count);
    format!("{}{title}{}", fill(rest / 2), fill(rest - rest / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(figures: Value) -> Report {
        let Value::Object(figures) = figures else { panic!("no object") };
        Report(figures)
    }

    /// The page's first block, from its figures.
    fn cookbook() -> Report {
        report(json!({
            "backend": "sglang", "request_rate": "inf", "max_concurrency": 1, "completed": 10, "duration": 73.79,
            "total_input_tokens": 6101, "total_input_text_tokens": 6101, "total_output_tokens": 4220,
            "total_output_tokens_retokenized": 4104, "request_throughput": 0.14, "input_throughput": 82.68,
            "output_throughput": 57.19, "max_output_tokens_per_s": 59.0, "max_concurrent_requests": 2,
            "total_throughput": 139.86, "concurrency": 1.0, "mean_e2e_latency_ms": 7376.26,
            "median_e2e_latency_ms": 5851.51, "p90_e2e_latency_ms": 13351.89, "p99_e2e_latency_ms": 16908.32,
            "mean_ttft_ms": 191.93, "median_ttft_ms": 126.06, "p99_ttft_ms": 662.15, "mean_tpot_ms": 17.06,
            "median_tpot_ms": 17.07, "p99_tpot_ms": 17.08, "mean_itl_ms": 17.06, "median_itl_ms": 17.06,
            "p95_itl_ms": 17.14, "p99_itl_ms": 17.19, "max_itl_ms": 18.53, "failed": 0, "not_sent": 0, "failures": {},
        }))
    }

    #[test]
    fn what_a_report_has_not_is_left_out() {
        let mut report = cookbook();
        report.0.remove("total_output_tokens_retokenized");
        report.0.insert("max_concurrency".to_owned(), Value::Null);
        let block = report.to_string();
        assert!(!block.contains("retokenized") && block.contains("Max request concurrency:                 not set\n"));
        assert_eq!(cookbook().failures(), "");
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let report =
            report(json!({"failed": 3, "not_sent": 2, "failures": {"status 503": 2, "the stream has no end": 1}}));
        let expected = "Failed requests:                         3\n  status 503                             2\n  \
                        the stream has no end                  1\nRequests not sent:                       2";
        assert_eq!(report.failures(), expected);
    }

    #[test]
    fn the_block_is_the_cookbook_s_to_the_letter() {
        let expected = "\
============ Serving Benchmark Result ============
Backend:                                 sglang
Traffic request rate:                    inf
Max request concurrency:                 1
Successful requests:                     10
Benchmark duration (s):                  73.79
Total input tokens:                      6101
Total input text tokens:                 6101
Total generated tokens:                  4220
Total generated tokens (retokenized):    4104
Request throughput (req/s):              0.14
Input token throughput (tok/s):          82.68
Output token throughput (tok/s):         57.19
Peak output token throughput (tok/s):    59.00
Peak concurrent requests:                2
Total token throughput (tok/s):          139.86
Concurrency:                             1.00
----------------End-to-End Latency----------------
Mean E2E Latency (ms):                   7376.26
Median E2E Latency (ms):                 5851.51
P90 E2E Latency (ms):                    13351.89
P99 E2E Latency (ms):                    16908.32
---------------Time to First Token----------------
Mean TTFT (ms):                          191.93
Median TTFT (ms):                        126.06
P99 TTFT (ms):                           662.15
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          17.06
Median TPOT (ms):                        17.07
P99 TPOT (ms):                           17.08
---------------Inter-Token Latency----------------
Mean ITL (ms):                           17.06
Median ITL (ms):                         17.06
P95 ITL (ms):                            17.14
P99 ITL (ms):                            17.19
Max ITL (ms):                            18.53
==================================================";
        assert_eq!(cookbook().to_string(), expected);
    }

    #[test]
    fn two_stand_side_by_side_with_their_difference() {
        let mut slower = cookbook();
        slower.0.insert("mean_ttft_ms".to_owned(), json!(201.53));
        slower.0.remove("max_itl_ms");
        let text = compare(["direct", "gateway"], [&cookbook(), &slower]);
        let line = "Mean TTFT (ms):                                  191.93         201.53        +9.60    +5.0";
        assert!(text.lines().any(|it| it == line), "{text}");
        assert!(!text.contains("Max ITL"), "{text}");
    }
}
