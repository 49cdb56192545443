//! `loopgate launch` as a user runs it. What it prints for which choice is tested beside the rules, in `src/launch`.

use crate::cli::{Place, Said};
use crate::wires::Pages;
use loopgate::launch::OURS;
use loopgate::mock;
use serde_json::json;

/// The page's own command for its figures, with which it shows what the generator prints.
const OF_THE_FIGURES: &str = r"SGLANG_USE_AITER=0 python -m sglang.launch_server \
  --model Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8 \
  --tp 8 \
  --ep 2 \
  --context-length 8192 \
  --page-size 32 \
  --trust-remote-code
";

/// Rules for the scripted model, as it runs.
const OF_THE_MOCK: &str = r#"
program = "python -m other.server"
default = { hardware = "own", model_size = "small", quantization = "none", tool_call_parser = "on" }
hardware = [{ id = "own", vendor = "us", gpus = 4, image = "own:1" }]
model_size = [{ id = "small", name = "480B-A35B", tp = { own = 1 } }]
quantization = [{ id = "none", model = "Qwen/Qwen3-Coder-{name}-Instruct", vendors = ["us"], refusal = "" }]
tool_call_parser = [{ id = "on" }, { id = "off" }]
address_argument = [{ flag = "--port", value = "{port}" }]
compose = { us = "" }

[[argument]]
flag = "--model"
value = "{model}"
field = "model_path"

[[argument]]
flag = "--context-length"
value = "262144"
field = "context_length"

[[argument]]
flag = "--tool-call-parser"
value = "qwen3_coder"
field = "tool_call_parser"
when = { tool_call_parser = ["on"] }
"#;

fn launch(args: &[&str]) -> Said {
    Place::new().run(&[&["launch"], args].concat())
}

/// Off this thread, which serves the other side; with a key in the environment, if there is one.
async fn check(url: &str, args: &[&str], key: &'static str) -> Said {
    let mut args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
    args.push(format!("--check={url}"));
    let run = move || {
        let place = Place::new().file("mine.toml", OF_THE_MOCK);
        let args: Vec<_> = ["launch"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let output = place.command(&args).env("LOOPGATE_BACKEND_API_KEY", key).output().expect("a binary");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    };
    tokio::task::spawn_blocking(run).await.expect("a run")
}

#[test]
fn the_command_alone_is_on_stdout_and_what_to_know_about_it_on_stderr() {
    let said = launch(&["--quantization=fp8"]);
    assert_eq!((said.code, &*said.out), (Some(0), OF_THE_FIGURES));
    assert_eq!(
        said.err,
        "# Memory: verified with --context-length 8192. A longer context may fit, but takes more memory.\n\
         # Expert parallelism: 480B-A35B in FP8 needs --ep 2, or its dimensions cannot be aligned.\n\
         # Page size: --page-size 32 is recommended for mixture-of-experts models; it saves memory.\n\
         # Environment: SGLANG_USE_AITER=0 keeps clear of trouble with aiter.\n\
         # Tool calls: --tool-call-parser enabled adds --tool-call-parser qwen3_coder. Without it calls come as text, which \
         Loopgate reads, too.\n"
    );
    let said = launch(&["--hardware=b200", "--quantization=nvfp4", "--tool-call-parser=enabled"]);
    assert_eq!(
        said.out,
        r"python -m sglang.launch_server \
  --model nvidia/Qwen3-Coder-480B-A35B-Instruct-NVFP \
  --tp 8 \
  --ep 1 \
  --enable-dp-attention \
  --moe-runner-backend flashinfer_cutlass \
  --quantization modelopt_fp4 \
  --tool-call-parser qwen3_coder
"
    );
    let tips: Vec<_> = said.err.lines().filter_map(|line| line.strip_prefix("# ")?.split(' ').next()).collect();
    assert_eq!(tips, ["MoE", "NVFP4", "DP"], "{}", said.err);
}

#[test]
fn nothing_chosen_is_the_page_s_default_and_capitals_do_not_matter() {
    let chosen = ["--hardware=MI300X", "--model-size=480B", "--quantization=BF16", "--tool-call-parser=Disabled"];
    let (none, chosen) = (launch(&[]), launch(&chosen));
    assert_eq!((none.code, &none.out, &none.err), (Some(0), &chosen.out, &chosen.err));
    assert!(none.out.contains("--model Qwen/Qwen3-Coder-480B-A35B-Instruct \\\n  --tp 8 \\\n"), "{}", none.out);
}

#[test]
fn what_cannot_be_launched_prints_no_command() {
    for (args, told) in [
        (&["--hardware=h100"][..], "--hardware: `h100` is unknown; write mi300x, mi325x, mi355x, b200 or gb200"),
        (
            &["--hardware=b200", "--model-size=30b"],
            "30B model has not been verified on B200; it is on MI300X, MI325X or",
        ),
        (&["--quantization=nvfp4"], "NVFP4 quantization is only available on NVIDIA B200/GB200 hardware. MI300X has"),
        (&["--hardware=gb200"], "BF16 deployment on GB200 has not been verified yet. GB200 has 480B in FP8 or NVFP4"),
        (&["--host=example.com"], "write an IP address"),
        (&["--instances=0"], "0 is not in 1..=256"),
        (&["--instances=9", "--port=65530"], "--port: 9 instances from 65530 on go beyond 65535"),
        (&["--list", "--hardware=b200"], "cannot be used with"),
        (&["--api-key=k"], "--check"),
    ] {
        let said = launch(args);
        said.assert_refused(&[told]);
        assert!(said.out.is_empty() && !said.err.contains("# "), "{said:?}");
    }
}

#[test]
fn the_list_has_every_choice_once_and_the_defaults() {
    let said = launch(&["--list"]);
    assert!(said.code == Some(0) && said.err.is_empty(), "{said:?}");
    let rows: Vec<Vec<_>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["hardware", "model", "size", "quantization", "model", "GPUs"]);
    let mut at = 1;
    for hardware in ["mi300x", "mi325x", "mi355x", "b200", "gb200"] {
        for size in ["480b", "30b"] {
            for quantization in ["bf16", "fp8", "nvfp4"] {
                assert_eq!(rows[at][..3], [hardware, size, quantization]);
                at += 1;
            }
        }
    }
    assert_eq!(rows[2][3..], ["Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "8"]);
    assert_eq!(rows[4][3..], ["Qwen/Qwen3-Coder-30B-A3B-Instruct", "1"]);
    assert_eq!(rows.iter().filter(|row| row.get(3) == Some(&"no:")).count(), 14);
    assert_eq!(
        said.out.lines().skip(at).collect::<Vec<_>>(),
        [
            "",
            "--tool-call-parser is one of: disabled, enabled",
            "default: --hardware mi300x --model-size 480b --quantization bf16 --tool-call-parser disabled",
        ]
    );
}

#[test]
fn instances_are_commands_and_a_configuration_that_the_gateway_takes() {
    let said = launch(&["--model-size=30b", "--tool-call-parser=enabled", "--instances=2", "--port=31000"]);
    let command = |number: u32, port: u16| {
        format!(
            r"# instance {number} of 2, http://127.0.0.1:{port}
SGLANG_USE_AITER=0 python -m sglang.launch_server \
  --model Qwen/Qwen3-Coder-30B-A3B-Instruct \
  --tp 1 \
  --tool-call-parser qwen3_coder \
  --context-length 8192 \
  --page-size 32 \
  --enable-metrics \
  --enable-cache-report \
  --host 127.0.0.1 \
  --port {port} \
  --base-gpu-id {}

",
            number - 1
        )
    };
    let (commands, configuration) = said.out.split_once("# loopgate.toml\n").expect("a configuration");
    assert_eq!(commands, command(1, 31_000) + &command(2, 31_001));
    let checked = Place::new().file("loopgate.toml", configuration).run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for part in ["http://127.0.0.1:31000", "http://127.0.0.1:31001", "qwen3-coder=Qwen/Qwen3-Coder-30B-A3B-Instruct"] {
        assert!(checked.out.contains(part), "{part} in {}", checked.out);
    }
}

#[test]
fn several_instances_that_each_take_several_machines_are_told_how_many_in_all() {
    let said = launch(&["--hardware=gb200", "--quantization=fp8", "--instances=2"]);
    let advice: Vec<_> = said.err.lines().filter(|line| line.contains("machine")).collect();
    assert_eq!(
        advice,
        [
            "# 2 instances with 8 GPUs each, and a machine has 4: 2 machines for each, 4 in all. Start an instance's command on 2 \
          machines, with --nnodes 2 --dist-init-addr FIRST-MACHINE:PORT, and with --node-rank 0 to 1 one on each. Put the \
          name of its first machine for machine-…"
        ]
    );
    assert!(said.out.contains("# instance 2 of 2, http://machine-2:30000\n"), "{}", said.out);
}

#[test]
fn one_machine_s_address_is_none_for_instances_on_several() {
    let several = ["--quantization=fp8", "--instances=2"];
    let said = launch(&[&several[..], &["--host=127.0.0.1"]].concat());
    said.assert_refused(&[
        "--host: 2 instances do not fit on one machine",
        "127.0.0.1",
        "write 0.0.0.0, or leave it out",
    ]);
    let (left_out, every) = (launch(&several), launch(&[&several[..], &["--host=0.0.0.0"]].concat()));
    assert!(every.code == Some(0) && every.out == left_out.out, "{every:?}");
}

#[test]
fn a_compose_file_takes_no_address_of_ours() {
    let said = launch(&["--format=compose", "--host=10.0.0.1"]);
    said.assert_refused(&["--host", "containers have addresses of their own"]);
    assert_eq!(said.out, "");
}

#[test]
fn what_no_machine_has_the_gpus_for_is_a_command_for_two_and_no_compose_file() {
    let wide = ["--hardware=gb200", "--quantization=fp8"];
    let said = launch(&wide);
    assert!(said.code == Some(0) && said.err.contains("start its command on 2 machines"), "{said:?}");
    let said = launch(&[&wide[..], &["--format=compose"]].concat());
    said.assert_refused(&["one instance takes 8 GPUs", "--format shell"]);
    assert_eq!(said.out, "");
}

#[test]
fn rules_of_ones_own_have_their_own_names_and_defaults() {
    let place = Place::new().file("mine.toml", OF_THE_MOCK);
    let run = |args: &[&str]| place.run(&[&["launch", "--recipes=mine.toml"], args].concat());
    let said = run(&[]);
    let command = r"python -m other.server \
  --model Qwen/Qwen3-Coder-480B-A35B-Instruct \
  --context-length 262144 \
  --tool-call-parser qwen3_coder
";
    assert_eq!((said.code, &*said.out, &*said.err), (Some(0), command, ""));
    assert!(!run(&["--tool-call-parser=off"]).out.contains("--tool-call-parser"));
    run(&["--hardware=mi300x"]).assert_refused(&["--hardware: `mi300x` is unknown; write own"]);
    let list = run(&["--list"]).out;
    assert!(list.ends_with("--hardware own --model-size small --quantization none --tool-call-parser on\n"), "{list}");
}

#[test]
fn rules_that_are_wrong_name_the_file_the_thing_and_the_way_out() {
    launch(&["--recipes=nothing.toml"]).assert_refused(&["--recipes: nothing.toml: No such file"]);
    let place = Place::new().file("mine.toml", OF_THE_MOCK.replace("[\"on\"]", "[\"enabled\"]"));
    let said = place.run(&["launch", "--recipes=mine.toml"]);
    said.assert_refused(&[
        "--recipes: mine.toml: argument `--tool-call-parser`, `when`: unknown tool_call_parser `enabled`; known: `on`, `off`",
    ]);
}

#[test]
fn names_and_defaults_in_the_help_and_on_the_page_are_those_of_the_rules() {
    let rules: toml::Table = OURS.parse().expect("TOML");
    let help = launch(&["--help"]).out.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = std::fs::read_to_string(crate::gateway::root().join("docs/launch.md")).expect("a page");
    for axis in ["hardware", "model_size", "quantization", "tool_call_parser"] {
        let entries = rules[axis].as_array().expect("a list");
        let ids: Vec<_> = entries.iter().map(|entry| entry["id"].as_str().expect("an id")).collect();
        let default = rules["default"][axis].as_str().expect("an id");
        let line = format!(": {} [default: {default}]", ids.join(", "));
        assert!(help.contains(&line), "{line} in {help}");
        let start = format!("| `--{}` | `{default}` | `{}`", axis.replace('_', "-"), ids.join("`, `"));
        assert!(page.contains(&start), "{start} in {page}");
    }
    assert!(help.contains("with --recipes they are the file's own, which --list shows"), "{help}");
}

// === --check ===

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_as_the_recipe_has_it_is_told_so() {
    let server = mock::start(mock::Settings::default()).await.expect("a server");
    let said = check(&server.url(), &["--recipes=mine.toml"], "").await;
    assert_eq!((said.code, &*said.err), (Some(0), ""), "{said:?}");
    let url = server.url();
    assert!(said.out.starts_with(&format!("{url} runs SGLang 0.5.23\n\nargument ")), "{}", said.out);
    assert!(said.out.ends_with("\n\nall as in the recipe\n") && !said.out.contains("differs"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_otherwise_ends_the_check_with_1_and_says_in_what() {
    let server = mock::start(mock::Settings::default()).await.expect("a server");
    let said = check(&server.url(), &[], "").await;
    assert_eq!((said.code, &*said.err), (Some(1), ""), "{said:?}");
    let rows: Vec<String> =
        said.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in [
        "--model Qwen/Qwen3-Coder-480B-A35B-Instruct Qwen/Qwen3-Coder-480B-A35B-Instruct",
        "--tp 8 (not said) differs",
        "--context-length 8192 262144 differs",
        "--tool-call-parser (not set) qwen3_coder differs",
        "--trust-remote-code (not set) (not said)",
        "4 of 10 differ",
    ] {
        assert!(rows.iter().any(|it| it == row), "{row} in {}", said.out);
    }
    // What only gateways make use of counts when it is asked for.
    let said = check(&server.url(), &["--for-gateway"], "").await;
    assert!(said.code == Some(1) && said.out.ends_with("\n6 of 12 differ\n"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_key_is_asked_with_it() {
    let settings = mock::Settings { api_key: Some("right".to_owned()), ..mock::Settings::default() };
    let server = mock::start(settings).await.expect("a server");
    let url = server.url();
    let mine = "--recipes=mine.toml";
    check(&url, &[mine], "").await.assert_failed(1, &[&format!("{url} asks for a key; give it with --api-key")]);
    let wrong = check(&url, &[mine, "--api-key=wrong"], "").await;
    wrong.assert_failed(1, &[&format!("{url} takes another key than this one")]);
    assert_eq!(check(&url, &[mine, "--api-key=right"], "").await.code, Some(0));
    assert_eq!(check(&url, &[mine], "right").await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_is_asked_by_the_older_name() {
    let info = async || {
        axum::Json(json!({
            "model_path": "Qwen/Qwen3-Coder-480B-A35B-Instruct", "context_length": 262_144,
            "tool_call_parser": "qwen3_coder",
        }))
    };
    let router = axum::Router::new().route("/get_server_info", axum::routing::get(info));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let said = check(&url, &["--recipes=mine.toml"], "").await;
    assert!(said.code == Some(0) && said.out.contains("runs SGLang of an unknown version"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_server_of_sglang_s_is_said_to_be_none() {
    let server = mock::start(mock::Settings::default()).await.expect("a server");
    let said = check(&format!("{}/v1", server.url()), &[], "").await;
    said.assert_failed(1, &["has neither /server_info nor /get_server_info", "without /v1"]);
    let other = Pages::start(|_| Some("[]")).await;
    let said = check(&other.url, &[], "").await;
    said.assert_failed(1, &[&format!("{}/server_info: it has no settings; is that an SGLang server?", other.url)]);
    assert_eq!(said.out, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_named() {
    let server = mock::start(mock::Settings::default()).await.expect("a server");
    let url = server.url();
    server.stop().await;
    let said = check(&url, &[], "").await;
    said.assert_failed(1, &[&format!("{url}/server_info: cannot connect")]);
    assert!(said.out.is_empty() && !said.err.contains("is that an SGLang server"), "{said:?}");
    check("localhost:30000", &[], "").await.assert_refused(&["localhost:30000", "http://127.0.0.1:30000"]);
}
