//! What is in docker/ and on the page about it: what an engine or systemd would only show at the wrong moment.

use crate::gateway::root;
use loopgate::config::KEYS;
use std::fs;

fn file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Seconds that a running turn has by default, after the gateway was told to stop.
fn grace() -> u64 {
    let key = KEYS.iter().find(|key| key.name == "server.shutdown_grace_ms").expect("a setting");
    key.default_text().parse::<u64>().expect("milliseconds").div_ceil(1000)
}

/// The number after this.
#[track_caller]
fn number(text: &str, before: &str) -> u64 {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{before} in {text}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

/// By default it would tell every process of the unit to stop, and programs end at once.
#[test]
fn systemd_tells_the_gateway_alone_to_stop_and_waits_for_its_turns() {
    let unit = file("docker/loopgate.service");
    assert!(unit.lines().any(|line| line == "KillMode=mixed"), "{unit}");
    assert!(number(&unit, "\nTimeoutStopSec=") > grace());
}

#[test]
fn engines_wait_for_running_turns() {
    for (path, before) in [("docker/compose.yaml", "stop_grace_period: "), ("docs/deploy.md", "--stop-timeout ")] {
        assert!(number(&file(path), before) > grace(), "{path}");
    }
    assert!(number(&file("docs/deploy.md"), "terminationGracePeriodSeconds: ") > grace() + 5);
}

#[test]
fn the_page_s_container_can_write_where_it_has_to_and_run_what_it_compiles() {
    let page = file("docs/deploy.md");
    let (_, run) = page.split_once("$ docker run ").expect("an example");
    let (run, _) = run.split_once("```").expect("its end");
    for place in [":/var/lib/loopgate ", ":/var/cache/loopgate "] {
        assert!(run.contains("--read-only") && run.contains(place), "{place} in {run}");
    }
    for (at, _) in page.match_indices("--tmpfs /var/cache/loopgate") {
        let options = page[at..].split('`').next().unwrap_or_default();
        assert!(options.contains(":exec,uid=10001,gid=10001"), "{options}");
    }
}

#[test]
fn whoever_reaches_grafana_may_only_look() {
    let compose = file("docker/compose.yaml");
    for line in ["GF_AUTH_DISABLE_LOGIN_FORM: \"true\"", "GF_AUTH_BASIC_ENABLED: \"false\""] {
        assert!(compose.lines().any(|it| it.trim() == line), "{line}");
    }
}
