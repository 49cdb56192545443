//! `loopgate bench` as a user runs it. Its bars are for a release build on an idle machine, and not looked at here.

use crate::cli::Place;
use serde_json::Value;

/// As few of everything as there can be.
const TINY: [&str; 7] =
    ["bench", "sandbox", "--runs=2", "--seconds=0.05", "--workers=2", "--isolation=thread", "--json"];

fn measured(more: &[&str]) -> (Value, String) {
    let said = Place::new().run(&[&TINY, more].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    (serde_json::from_str(&said.out).expect("JSON"), said.err)
}

#[test]
fn bench_refuses_what_it_cannot_measure() {
    let place = Place::with_policy("callers = [\"*\"]\n");
    let denied = place.run(&TINY);
    assert!(denied.code == Some(1) && denied.err.contains("not allowed"), "{denied:?}");
    place.run(&["bench", "sandbox", "--runs=0"]).assert_refused(&["--runs"]);
    place.run(&["bench", "sandbox", "--seconds=0"]).assert_refused(&["--seconds", "0.01 to 3600"]);
    place.run(&["bench", "sandbox", "--as=bob"]).assert_refused(&["unknown caller `bob`"]);
}

#[test]
fn bench_gives_every_figure() {
    let (figures, progress) = measured(&[]);
    for (spread, runs) in [("fresh", 2), ("program", 2), ("session", 2), ("park", 2), ("restore", 2)] {
        check_spread(&figures[spread], runs);
    }
    assert!(figures["fresh"]["p50_ms"].as_f64() > figures["program"]["p50_ms"].as_f64(), "{figures}");
    assert!(figures["parked_bytes"].as_u64().expect("bytes") > 10_000, "{figures}");
    let throughput = figures["throughput"].as_array().expect("a list");
    assert_eq!(throughput.len(), 2);
    assert!(throughput.iter().all(|it| it["per_second"].as_f64() > Some(1.0)), "{figures}");
    check_spread(&figures["native"]["print"], 2);
    assert!(figures["native"]["version"].as_str().expect("a version").starts_with("Python 3."));
    let workloads = figures["native"]["workloads"].as_array().expect("a list");
    assert_eq!(workloads.len(), 13);
    let is_timed = |it: &Value| ["sandbox_ms", "native_ms", "ratio"].iter().all(|of| it[*of].as_f64() > Some(0.0));
    assert!(workloads.iter().all(is_timed), "{figures}");
    assert!(figures["native"]["geometric_mean"].as_f64() > Some(0.0));
    assert_eq!(figures["bars"].as_array().expect("a list").len(), 8);
    assert!(progress.contains("big_numbers, in the sandbox and by Python 3."), "{progress}");
}

#[test]
fn bench_without_a_native_python_says_so() {
    let (figures, _) = measured(&["--python=/no/such/python"]);
    assert_eq!(figures["native"], Value::Null);
    let why = figures["no_native"].as_str().expect("why");
    assert!(why.contains("/no/such/python: No such file") && why.contains("--python"), "{why}");
    let bars = figures["bars"].as_array().expect("a list");
    let unmeasured: Vec<_> = bars.iter().filter(|bar| bar["is"].is_null()).collect();
    assert_eq!((bars.len(), unmeasured.len()), (8, 2), "{figures}");
    assert!(unmeasured.iter().all(|bar| bar["met"] == false), "{figures}");
    let checked = Place::new().run(&[&TINY[..], &["--python=/no/such/python", "--check"]].concat());
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.err.contains("not measured, and so not met: workloads, over native Python"), "{checked:?}");
}

fn check_spread(spread: &Value, runs: u64) {
    assert_eq!(spread["runs"], runs);
    let [p50, p90, p99] = ["p50_ms", "p90_ms", "p99_ms"].map(|it| spread[it].as_f64().expect("a time"));
    assert!(0.0 < p50 && p50 <= p90 && p90 <= p99, "{spread}");
}
