//! `loopgate bench serve` as a user runs it, against a scripted server on a real socket.

use crate::cli::Place;
use crate::gateway::Setup;
use crate::isolation::children;
use crate::wires::{NEVER, Pages};
use loopgate::mock::{self, Fault, Running, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpgid, kill_process, kill_process_group, pidfd_open};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

const SMALL: [&str; 6] =
    ["bench", "serve", "--num-prompts=6", "--max-concurrency=2", "--random-input-len=20", "--random-output-len=12"];

async fn server(settings: Settings) -> Running {
    mock::start(settings).await.expect("a server")
}

/// Off this thread, which serves the other side.
async fn run(url: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut args: Vec<String> = SMALL.iter().chain(more).map(|&arg| arg.to_owned()).collect();
    args.push(format!("--base-url={url}"));
    let said = tokio::task::spawn_blocking(move || {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        Place::new().run(&args)
    });
    let said = said.await.expect("a run");
    (said.code, said.out, said.err)
}

async fn report(url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let (code, out, err) = run(url, &[&["--json=-"], more].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}")))
}

#[test]
fn bad_usage_names_the_way_out() {
    let place = Place::new();
    for (flags, words) in [
        (&["--dataset-name=jsonl"][..], &["--dataset-path FILE"][..]),
        (&["--dataset-name=random-ids"], &["--tokenizer FILE"]),
        (&["--dataset-name=sharegpt"], &["random-ids", "coding-sessions", "jsonl"]),
        (&["--dataset-name=jsonl", "--dataset-path=/no/such"], &["/no/such: No such file"]),
        (&["--tokenizer=/no/such"], &["tokenizer /no/such: No such file"]),
        (&["--api-key=a\nb"], &["the API key", "line break"]),
        (&["--base-url=https://example.com"], &["https is not spoken here", "http://127.0.0.1:30000"]),
        (&["--backend=sglang-oai-chat", "--tokenize-prompt"], &["--tokenize-prompt", "--backend sglang"]),
        (&["--request-rate=0"], &["--request-rate", "0.0001 to 1000000, or inf"]),
        (&["--request-rate=1e-300"], &["--request-rate", "0.0001 to 1000000, or inf"]),
        (&["--request-rate=NaN"], &["--request-rate", "0.0001 to 1000000, or inf"]),
        (&["--speed=2", "--num-prompts=2"], &["--speed is for --scenario cookbook"]),
        (&["--dataset-name=jsonl", "--tokenize-prompt"], &["--tokenize-prompt needs --tokenizer FILE"]),
        (&["--dataset-name=coding-sessions", "--dataset-path=/no/such"], &["--dataset-path", "made up"]),
        (&["--json=/no/such"], &["--dry-run measures nothing"]),
        (&["--num-prompts=0"], &["--num-prompts"]),
        (&["--compare", "/no/a.json", "/no/b.json"], &["/no/a.json: No such file"]),
    ] {
        let dry: &[&str] = if flags[0] == "--compare" { &[] } else { &["--dry-run"] };
        place.run(&[&["bench", "serve"], flags, dry].concat()).assert_refused(words);
    }
}

#[test]
fn a_dry_run_prints_the_cookbook_s_totals() {
    let said = Place::new().run(&[
        "bench",
        "serve",
        "--dry-run",
        "--num-prompts=80",
        "--random-input-len=1000",
        "--random-output-len=1000",
    ]);
    assert_eq!(said.out, "#Requests: 80\n#Input tokens: 39668\n#Output tokens: 40805\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_named() {
    let running = server(Settings::default()).await;
    let url = running.url();
    running.stop().await;
    let (code, out, err) = run(&url, &[]).await;
    assert!(code == Some(1) && out.is_empty() && err.contains(&format!("{url}/v1/models: cannot connect")), "{err}");
    let (code, _, err) = run(&url, &["--model=m"]).await;
    assert!(code == Some(1) && err.contains("the warm-up request failed: cannot connect"), "{err}");
}

#[test]
fn a_scenario_takes_no_flag_that_it_would_not_heed() {
    let place = Place::new();
    for flag in ["--num-prompts=3", "--backend=sglang", "--max-concurrency=1", "--seed=2", "--timeout=1"] {
        place.run(&["bench", "serve", "--scenario=cookbook", flag]).assert_refused(&["cannot be used with"]);
    }
    place.run(&["bench", "serve", "--scenario=cost", "--speed=2"]).assert_refused(&["--scenario cookbook"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_says_its_model_is_given_up_in_time() {
    let running = server(Settings { fault: Some(Fault::Hang), ..Settings::default() }).await;
    let (code, out, err) = run(&running.url(), &["--timeout=0.3"]).await;
    assert!(code == Some(1) && out.is_empty() && err.contains("/v1/models: not finished after 0.3 s"), "{err}");
}

#[test]
fn ctrl_c_ends_also_what_goes_before_the_first_request() {
    let questions = Place::new().file("q.jsonl", "{\"question\": \"What is 2 + 2?\", \"answer\": \"#### 4\"}\n");
    let gsm8k = ["eval", "gsm8k", "--mode=chat", "--num-shots=0", "--data-path=q.jsonl"];
    for (command, asked, told) in [
        (&["bench", "serve"][..], "GET /v1/models", "stopped before anything was measured"),
        (&["bench", "serve", "--model=m"], "POST /generate", "stopped before anything was measured"),
        (&gsm8k, "GET /v1/models", "stopped before anything was asked"),
    ] {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("--base-url=http://{}", silent.local_addr().expect("an address"));
        let mut command = questions.command(&[command, &[url.as_str(), "--timeout=30"]].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a binary");
        let (mut line, (stream, _)) = (String::new(), silent.accept().expect("a client"));
        BufReader::new(&stream).read_line(&mut line).expect("a request");
        assert!(line.starts_with(asked), "{line}");
        kill_process(Pid::from_child(&child), Signal::INT).expect("a process");
        let done = child.wait_with_output().expect("an end");
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(1) && err.contains(told), "{err}");
    }
}

/// A terminal's Ctrl-C is a signal to everybody in the foreground. The folder's gateway asks for keys, the scenario's not.
#[test]
fn the_cookbook_s_runs_that_are_done_outlive_ctrl_c_in_a_folder_of_any_setup() {
    let callers = format!("[[callers]]\nname = \"a\"\nkey_sha256 = \"{}\"\n", "0".repeat(64));
    let place = Place::new().file("loopgate.toml", callers);
    let mut command = place.command(&["bench", "serve", "--scenario=cookbook", "--speed=100", "--html=page.html"]);
    let mut child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a binary");
    let said = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut lines = said.lines().map(|line| line.expect("text"));
    let before: Vec<_> = lines.by_ref().take_while(|line| line != "80 requests, 16 at once, direct").collect();
    let group = Pid::from_child(&child);
    let groups: Vec<_> = children(child.id()).into_iter().map(|pid| getpgid(Some(pid)).expect("a process")).collect();
    assert!(groups.len() == 2 && !groups.contains(&group), "{groups:?}");
    kill_process_group(group, Signal::INT).expect("a group");
    let mut out = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut out).expect("text");
    let after: Vec<_> = lines.collect();
    assert_eq!(child.wait().expect("an end").code(), Some(1), "{before:?} {after:?}\n{out}");
    let row = |label: &str| {
        let row = out.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("{label} in {out}"));
        row.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("Successful requests:"), ["10", "10"]);
    assert!(!out.contains("320 requests") && out.matches("Comparison").count() == 1, "{out}");
    assert!(std::fs::read_to_string(place.path("page.html")).expect("a page").contains("10 requests, 1 at once"));
}

#[test]
fn a_scenario_s_servers_start_in_any_environment_and_end_with_it_however_it_ends() {
    let place = Place::new();
    let mut command = place.command(&["bench", "serve", "--scenario=cookbook", "--speed=100"]);
    // With these a gateway would not say where it listens, or not start.
    command.env("LOOPGATE_LOG", "warn").env("LOOPGATE_LOG_FORMAT", "json").env("LOOPGATE_BODY_MS", "nonsense");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a binary");
    let said = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut before = Vec::new();
    let begun = said.lines().map_while(Result::ok).any(|line| {
        before.push(line.clone());
        line == "10 requests, 1 at once, direct"
    });
    assert!(begun, "{before:?}");
    let servers: Vec<_> = children(child.id()).into_iter().map(|pid| pidfd_open(pid, PidfdFlags::empty())).collect();
    assert_eq!(servers.len(), 2);
    child.kill().expect("a process");
    child.wait().expect("an end");
    for server in servers {
        let server = server.expect("a process");
        let limit = Timespec::try_from(NEVER).expect("a time");
        assert_eq!(poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&limit)), Ok(1), "it has not ended");
    }
}

#[test]
fn a_scenario_that_cannot_begin_says_why_with_the_path() {
    for (variable, words) in [
        ("LOOPGATE_TOOLS_DIR", &["`loopgate serve` does not start: ", "tools"][..]),
        ("TMPDIR", &["/no/such: No such file", "TMPDIR"]),
    ] {
        let place = Place::new();
        let done = place.command(&["bench", "serve", "--scenario=cookbook"]).env(variable, "/no/such").output();
        let done = done.expect("a binary");
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(1) && words.iter().all(|word| err.contains(word)), "{variable}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_takes_neither_the_block_nor_the_other_file() {
    let running = server(Settings::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    for (bad, good) in [("--html", "--json"), ("--json", "--html")] {
        let path = folder.path().join(good);
        let flags = [format!("{bad}=/no/such/file"), format!("{good}={}", path.display())];
        let (code, out, err) = run(&running.url(), &flags.each_ref().map(String::as_str)).await;
        assert!(code == Some(1) && err.contains(&format!("{bad} /no/such/file: No such file")), "{err}");
        assert!(out.contains("Successful requests:                     6") && path.exists(), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_counted_by_reason_and_the_rest_is_kept() {
    for (fault, reason) in [
        (Fault::RefuseAll, "status 503"),
        (Fault::ErrorAfter(2), "error 503 in the stream"),
        (Fault::EndAfter(2), "the stream has no end"),
        (Fault::DieAfter(2), "the connection broke"),
        (Fault::StallAfter(2), "silent for 0.5 s"),
        (Fault::GarbageAfter(1), "unreadable"),
        (Fault::EmptyBody, "an answer without a word"),
    ] {
        for backend in ["--backend=sglang", "--backend=sglang-oai-chat"] {
            let running = server(Settings::default()).await;
            for number in [1, 3] {
                running.fault_at(number, fault);
            }
            let (code, report) =
                report(&running.url(), &["--warmup-requests=0", "--random-range-ratio=1", "--silence=0.5", backend])
                    .await;
            let (failed, completed) = (report["failed"].as_u64(), report["completed"].as_u64());
            assert_eq!((code, failed, completed), (Some(1), Some(2), Some(4)), "{fault:?} {report}");
            assert_eq!(report["failures"][reason], 2, "{fault:?} {}", report["failures"]);
            assert_eq!(report["not_sent"], 0, "{report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_a_word_is_no_answer() {
    let empty = Pages::start(|_| Some("data: [DONE]\n\n")).await;
    for backend in ["--backend=sglang", "--backend=sglang-oai-chat"] {
        let (code, report) = report(&empty.url, &["--warmup-requests=0", "--model=m", backend]).await;
        assert_eq!((code, report["completed"].as_u64()), (Some(1), Some(0)), "{backend} {report}");
        assert_eq!(report["failures"], json!({"an answer without a word": 6}), "{backend}");
        assert_eq!(report["partial_output_tokens"], 0, "{backend}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_count_has_written_as_much_as_was_asked_for() {
    let uncounted = Pages::start(|path| {
        Some(match path {
            "/generate" => {
                "data: {\"text\":\"a\",\"meta_info\":{\"finish_reason\":{\"type\":\"length\"}}}\n\ndata: [DONE]\n\n"
            }
            _ => {
                "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n"
            }
        })
    })
    .await;
    for backend in ["--backend=sglang", "--backend=sglang-oai-chat"] {
        let (code, report) = report(&uncounted.url, &["--random-range-ratio=1", "--model=m", backend]).await;
        assert_eq!((code, report["total_output_tokens"].as_u64()), (Some(0), Some(6 * 12)), "{backend} {report}");
    }
}

/// Of a file the last lines may be missing: what was asked counts, not what could have been.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_s_title_counts_the_requests_that_there_were() {
    let running = server(Settings::default()).await;
    let place = Place::new().file("three.jsonl", "{\"prompt\": \"Hello\", \"output_len\": 2}\n".repeat(3));
    let (data, html) = (place.path("three.jsonl").display().to_string(), place.path("a.html").display().to_string());
    let flags = ["--dataset-name=jsonl", "--dataset-path", &data, "--html", &html];
    let (code, _, err) = run(&running.url(), &flags).await;
    let page = std::fs::read_to_string(&html).expect("a page");
    assert!(code == Some(0) && page.contains("<h1>3 requests to "), "{err} {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_finishes_is_given_up_and_what_came_is_told() {
    let running = server(Settings { pace: Duration::from_millis(100), ..Settings::default() }).await;
    let more = ["--warmup-requests=0", "--timeout=0.6", "--random-range-ratio=1"];
    let (code, report) = report(&running.url(), &more).await;
    assert_eq!((code, report["completed"].as_u64()), (Some(1), Some(0)));
    assert_eq!(report["failures"]["not finished after 0.6 s"], 6);
    assert!(report["partial_output_tokens"].as_u64() > Some(6), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_backends_give_the_same_totals_direct_and_through_the_gateway() {
    let gateway = Setup::default().start().await;
    let mut totals = Vec::new();
    for url in [&gateway.url, &gateway.backend.url()] {
        for backend in ["--backend=sglang", "--backend=sglang-oai-chat"] {
            let (code, report) = report(url, &[backend]).await;
            assert_eq!((code, report["failed"].as_u64()), (Some(0), Some(0)), "{report}");
            totals.push((report["total_input_tokens"].clone(), report["total_output_tokens"].clone()));
        }
    }
    assert!(totals[0].0.as_u64() > Some(0) && totals.iter().all(|it| *it == totals[0]), "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gives_the_block_the_report_the_page_and_a_comparison() {
    let running = server(Settings::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let flags = [format!("--json={}", path("a.json")), format!("--html={}", path("a.html"))];
    let (code, out, err) = run(&running.url(), &flags.each_ref().map(String::as_str)).await;
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.first(), Some(&"============ Serving Benchmark Result ============"), "{out}");
    assert_eq!(lines[lines.len() - 2], "==================================================", "{out}");
    assert!(lines[lines.len() - 1].contains("lengths of prompts are estimates"), "{out}");
    assert!(lines.contains(&"Successful requests:                     6") && !out.contains("retokenized"), "{out}");
    let page = std::fs::read_to_string(path("a.html")).expect("a page");
    assert!(page.matches("<svg").count() == 6 && !page.contains("<script") && !page.contains("http-equiv"), "{page}");
    assert!(page.contains("<h1>6 requests to ") && page.contains("lengths of prompts are estimates"), "{page}");
    let said = Place::new().run(&["bench", "serve", "--compare", &path("a.json"), &path("a.json")]);
    assert!(said.code == Some(0) && said.out.contains("+0.00"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn coding_sessions_go_on_from_what_was_answered() {
    let running = server(Settings::default()).await;
    let (code, report) =
        report(&running.url(), &["--dataset-name=coding-sessions", "--backend=sglang-oai-chat", "--warmup-requests=0"])
            .await;
    assert_eq!((code, report["completed"].as_u64()), (Some(0), Some(6)), "{report}");
    let asked: Vec<_> = running.requests().iter().map(|request| request.json()["messages"].clone()).collect();
    let roles = |messages: &Value| {
        let roles =
            messages.as_array().into_iter().flatten().map(|message| message["role"].as_str().unwrap_or_default());
        roles.collect::<Vec<_>>().join(" ")
    };
    assert_eq!((asked.len(), roles(&asked[0]).as_str()), (6, "system user"));
    assert_eq!(roles(&asked[2]), "system user assistant user assistant user");
}
