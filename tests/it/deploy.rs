//! What is in docker/ and on the page about it: what an engine or systemd would only show at the wrong moment.

use crate::cli::Place;
use crate::gateway::root;
use loopgate::config::KEYS;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

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

/// A service of a compose file: what each of its keys has, in one line, with the variables' defaults. Keys of its environment
/// are by themselves. As much of YAML as these files use.
fn service(text: &str, name: &str) -> BTreeMap<String, String> {
    let text = text.replace("    <<: *hardened\n", &hardened(text).unwrap_or_default());
    let (_, rest) = text.split_once(&format!("\n  {name}:\n")).unwrap_or_else(|| panic!("{name} in {text}"));
    let mut service = BTreeMap::<String, String>::new();
    let mut key = String::new();
    for line in rest.lines().take_while(|line| line.is_empty() || line.starts_with("    ")) {
        let word = line.trim();
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let value = match (word.split_once(':'), line.len() - word.len()) {
            (Some((name, value)), 4) => {
                name.clone_into(&mut key);
                value
            }
            (Some((name, value)), 6) if key.starts_with("environment") => {
                key = format!("environment.{name}");
                value
            }
            _ => word,
        };
        let has = service.entry(key.clone()).or_default();
        format!("{has} {}", plain(value)).trim().clone_into(has);
    }
    service
}

/// Of the compose file's own block with that name: its lines, as a service has them.
fn hardened(text: &str) -> Option<String> {
    let (block, _) = text.split_once("&hardened\n")?.1.split_once("\n\n")?;
    Some(block.lines().flat_map(|line| ["  ", line, "\n"]).collect())
}

/// Without quotes and anchors, and with the default of a variable for the variable.
fn plain(value: &str) -> String {
    let mut value = value.trim().replace('"', "");
    if let Some((anchor, rest)) = value.strip_prefix('&').and_then(|rest| rest.split_once(' ')) {
        assert!(!anchor.is_empty());
        value = rest.to_owned();
    }
    while let Some((before, rest)) = value.split_once("${") {
        let (variable, after) = rest.split_once('}').expect("its end");
        let (_, default) = variable.split_once('-').expect("a default");
        value = format!("{before}{default}{after}");
    }
    value
}

#[test]
fn the_launched_services_are_those_of_the_compose_file() {
    let choice = ["--hardware=mi300x", "--model-size=30b", "--quantization=bf16", "--tool-call-parser=enabled"];
    let said = Place::new().run(&[&["launch", "--format=compose", "--for-gateway"], &choice[..]].concat());
    let (launched, ours) = (said.out, file("docker/compose.yaml"));

    let mut sglang = service(&ours, "sglang");
    assert_eq!(sglang.remove("profiles").as_deref(), Some("[sglang]"));
    assert_eq!(service(&launched, "sglang-1"), sglang);

    let (mut launched, mut gateway) = (service(&launched, "gateway"), service(&ours, "gateway"));
    assert!(gateway.remove("build").is_some() && gateway.remove("environment.LOOPGATE_BACKEND_API_KEY").is_some());
    for (service, url) in [(&mut launched, "http://sglang-1:30000"), (&mut gateway, "http://mock:30000")] {
        assert_eq!(service.remove("environment.LOOPGATE_BACKENDS").as_deref(), Some(url));
    }
    assert_eq!(launched, gateway);
}

#[test]
fn every_image_is_one_that_cannot_change_under_its_name_or_says_how_to_pin_it() {
    let dockerfile = file("docker/Dockerfile");
    assert!(!dockerfile.contains("# syntax=") && dockerfile.contains("\nFROM "), "{dockerfile}");
    let mut stages = vec!["scratch"];
    for line in dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        let (image, stage) = line.split_once(" AS ").unwrap_or((line, ""));
        assert!(stages.contains(&image) || image.contains("@sha256:"), "{line}");
        stages.push(stage);
    }
    let compose = file("docker/compose.yaml");
    let images: Vec<_> = compose.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    assert_eq!(images.len(), 5, "{images:?}");
    for image in images.iter().map(|image| plain(image)) {
        let ours = image == "loopgate:local" || image == "*image";
        let sglang = image.starts_with("lmsysorg/sglang:v0.5.7-") && compose.contains("RepoDigests 0}}' ");
        assert!(ours || sglang || image.contains("@sha256:"), "{image}");
    }
}

/// A run of all that is done for a newcomer, in which nothing is done.
fn run_of_ci(user: &str) -> String {
    let place = Place::new().file(".ci/run", file(".ci/run"));
    for (program, does) in [
        ("make", "case $1 in run) echo 'The result is 3628800.' ;; esac"),
        ("id", "echo $USER_NUMBER"),
        ("cargo", ""),
        ("cc", ""),
        ("node", ""),
        ("npm", ""),
        ("python3", ""),
    ] {
        let path = place.path("bin").join(program);
        fs::create_dir_all(place.path("bin")).expect("a folder");
        fs::write(&path, format!("#!/usr/bin/env bash\n{does}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    }
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").expect("a path"));
    let mut run = Command::new("bash");
    let run = run.arg(place.path(".ci/run")).env("PATH", path).env("USER_NUMBER", user).env("CI_BOUNDED", "1");
    let output = run.output().expect("bash");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn ci_says_at_its_end_what_it_did_not_do() {
    let whole = run_of_ci("0");
    assert!(whole.ends_with("==== all is well\n") && whole.contains("==== make docker-check\n"), "{whole}");
    let part = run_of_ci("1000");
    assert!(!part.contains("==== all is well") && part.contains("NOT ALL WAS DONE"), "{part}");
    let last = part.lines().last().expect("a line");
    assert!(last.contains("make docker-check") && last.contains("root"), "{part}");
}
