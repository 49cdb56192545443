use super::write::{compose, gateway, instances, shell};
use super::*;
use serde_json::json;

fn choice(hardware: &str, model_size: &str, quantization: &str, parser: &str) -> Choice {
    Choice {
        hardware: hardware.to_owned(),
        model_size: model_size.to_owned(),
        quantization: quantization.to_owned(),
        tool_call_parser: parser.to_owned(),
    }
}

fn ours() -> Recipes {
    Recipes::read(OURS).expect("our own rules")
}

fn recipe(hardware: &str, model_size: &str, quantization: &str, parser: &str) -> Recipe {
    ours().recipe(&choice(hardware, model_size, quantization, parser)).expect("a recipe")
}

/// The page's generator, written down once more from the page and not from the rules. An error is the beginning of what is
/// refused and why.
fn page(hardware: &str, size: &str, quantization: &str, parser: bool) -> Result<String, &'static str> {
    let nvidia = matches!(hardware, "b200" | "gb200");
    if size == "30b" && nvidia {
        return Err("30B model has not been verified on ");
    }
    if quantization == "nvfp4" && !nvidia {
        return Err("NVFP4 quantization is only available on NVIDIA B200/GB200 hardware");
    }
    if quantization == "bf16" && nvidia {
        return Err("BF16 deployment on ");
    }
    let base = if size == "480b" { "480B-A35B" } else { "30B-A3B" };
    let mut lines = vec![match quantization {
        "nvfp4" => format!("--model nvidia/Qwen3-Coder-{base}-Instruct-NVFP"),
        "fp8" => format!("--model Qwen/Qwen3-Coder-{base}-Instruct-FP8"),
        _ => format!("--model Qwen/Qwen3-Coder-{base}-Instruct"),
    }];
    lines.push(if size == "480b" { "--tp 8" } else { "--tp 1" }.to_owned());
    let mut say = |line: &str| lines.push(line.to_owned());
    if quantization == "nvfp4" {
        say("--ep 1");
        say("--enable-dp-attention");
        say("--moe-runner-backend flashinfer_cutlass");
        say("--quantization modelopt_fp4");
    } else if size == "480b" && quantization == "fp8" {
        say("--ep 2");
    }
    if nvidia && quantization == "fp8" {
        say("--moe-runner-backend triton");
    }
    if parser {
        say("--tool-call-parser qwen3_coder");
    }
    if !nvidia {
        say("--context-length 8192");
        say("--page-size 32");
        if quantization == "fp8" {
            say("--trust-remote-code");
        }
    }
    let aiter = if nvidia { "" } else { "SGLANG_USE_AITER=0 " };
    Ok(format!("{aiter}python -m sglang.launch_server \\\n  {}", lines.join(" \\\n  ")))
}

/// Every choice of the page's, from the page and not from the rules.
fn choices() -> Vec<(Choice, bool)> {
    let mut choices = Vec::new();
    for hardware in ["mi300x", "mi325x", "mi355x", "b200", "gb200"] {
        for size in ["480b", "30b"] {
            for quantization in ["bf16", "fp8", "nvfp4"] {
                for (parser, on) in [("disabled", false), ("enabled", true)] {
                    choices.push((choice(hardware, size, quantization, parser), on));
                }
            }
        }
    }
    choices
}

#[test]
fn every_choice_is_launched_or_refused_as_the_page_has_it() {
    let recipes = ours();
    for (choice, on) in choices() {
        let wanted = page(&choice.hardware, &choice.model_size, &choice.quantization, on);
        match (recipes.recipe(&choice), wanted) {
            (Ok(recipe), Ok(command)) => assert_eq!(shell(&recipe, None), command, "{choice:?}"),
            (Err(refused), Err(why)) => assert!(refused.to_string().starts_with(why), "{choice:?}: {refused}"),
            (got, wanted) => panic!("{choice:?}: {got:?}, and the page has {wanted:?}"),
        }
    }
}

#[test]
fn the_rules_have_the_page_s_choices_and_no_others() {
    let by_default = |(choice, on): (Choice, bool)| (!on).then_some(choice);
    assert_eq!(ours().choices(), choices().into_iter().filter_map(by_default).collect::<Vec<_>>());
    assert_eq!(ours().tool_call_parsers(), ["disabled", "enabled"]);
    assert_eq!(ours().default, choice("mi300x", "480b", "bf16", "disabled"));
}

#[test]
fn what_is_not_possible_says_what_is() {
    for ((hardware, size, quantization), told) in [
        (
            ("b200", "30b", "nvfp4"),
            "30B model has not been verified on B200; it is on MI300X, MI325X or MI355X. B200 has 480B in FP8 or NVFP4",
        ),
        (
            ("gb200", "480b", "bf16"),
            "BF16 deployment on GB200 has not been verified yet. GB200 has 480B in FP8 or NVFP4",
        ),
        (
            ("mi300x", "30b", "nvfp4"),
            "NVFP4 quantization is only available on NVIDIA B200/GB200 hardware. MI300X has 480B or 30B in BF16 or FP8",
        ),
        (("h100", "480b", "fp8"), "--hardware: `h100` is unknown; write mi300x, mi325x, mi355x, b200 or gb200"),
        (("b200", "7b", "fp8"), "--model-size: `7b` is unknown; write 480b or 30b"),
        (("b200", "480b", "int4"), "--quantization: `int4` is unknown; write bf16, fp8 or nvfp4"),
    ] {
        let refused = ours().recipe(&choice(hardware, size, quantization, "enabled")).expect_err("no recipe");
        assert_eq!(refused.to_string(), told);
    }
    let refused = ours().recipe(&choice("b200", "480b", "fp8", "on")).expect_err("no recipe");
    assert_eq!(refused.to_string(), "--tool-call-parser: `on` is unknown; write disabled or enabled");
}

#[test]
fn rules_that_cannot_be_read_say_where() {
    let told = Recipes::read("program = 7").expect_err("wrong").to_string();
    assert!(told.contains("line 1") && told.contains("qwen3-coder.toml"), "{told}");
    let told =
        Recipes::read(&OURS.replacen("vendor = \"amd\"", "vendor = \"other\"", 1)).expect_err("wrong").to_string();
    assert!(told.contains("`mi300x`") && told.contains("`compose.other`"), "{told}");
    let told = Recipes::read(&OURS.replacen("vendor = [", "vendors = [", 1)).expect_err("wrong").to_string();
    assert!(told.contains("vendors"), "{told}");
}

#[test]
fn rules_that_name_what_there_is_not_say_what_there_is() {
    for (written, instead, told) in [
        ("id = \"mi325x\"", "id = \"mi300x\"", "hardware `mi300x`: it is there twice; give one of them another id"),
        ("id = \"30b\"", "id = \"480b\"", "model_size `480b`: it is there twice"),
        ("id = \"b200\"", "id = \"B200\"", "hardware `B200`: write its id in lower-case letters, digits"),
        ("gpus = 4", "gpus = 0", "hardware `gb200`: `gpus` is 0; write how many one machine has"),
        ("\nnvidia = ", "\nintel = ", "hardware `b200`: there is no `compose.nvidia`"),
        ("\namd = ", "\nintel = \"\"\namd = ", "compose: unknown vendor `intel`; known: `amd`, `nvidia`"),
        ("gb200 = 8", "gb300 = 8", "model_size `480b`, `tp`: unknown hardware `gb300`; known: `mi300x`, `mi325x`"),
        ("gb200 = 8", "gb200 = 0", "model_size `480b`, `tp`: `gb200` is 0; write how many GPUs one instance takes"),
        ("\"amd\", \"nvidia\"", "\"amd\", \"nvida\"", "quantization `fp8`, `vendors`: unknown vendor `nvida`"),
        (
            "\"amd\", \"nvidia\"",
            "\"amd\"",
            "quantization `fp8`, `refusal`: it is empty; write why it is not for `nvidia`",
        ),
        (
            "{name}-Instruct\"",
            "{base}\"",
            "quantization `bf16`, `model`: `{base}` stands for nothing here; known: `{name}`",
        ),
        ("on {hardware} has", "on {gpu} has", "quantization `bf16`, `refusal`: `{gpu}` stands for nothing here"),
        ("hardware = \"mi300x\"", "hardware = \"mi300\"", "default: unknown hardware `mi300`; known: `mi300x`"),
        ("model_size = \"480b\"", "model_size = \"480B\"", "default: unknown model_size `480B`; known: `480b`, `30b`"),
        ("quantization = \"bf16\"", "quantization = \"nvfp4\"", "default: NVFP4 quantization is only available on"),
        (
            "{ vendor = [\"amd\"] }",
            "{ vendor = [\"adm\"] }",
            "environment `SGLANG_USE_AITER`, `when`: unknown vendor `adm`",
        ),
        (
            "{ quantization = [\"nvfp4\"",
            "{ quantization = [\"fp4\"",
            "argument `--ep`, `when`: unknown quantization `fp4`",
        ),
        (
            "parser = [\"enabled\"]",
            "parser = [\"on\"]",
            "argument `--tool-call-parser`, `when`: unknown tool_call_parser `on`",
        ),
        ("{ tool_call_parser = [\"disabled\"] }", "{ hardware = [\"all\"] }", "`when`: unknown hardware `all`"),
        ("{ model_size = [\"480b\"]", "{ model_size = [\"480\"]", "argument `--ep`, `when`: unknown model_size `480`"),
        ("\"{tp}\"", "\"{gpus}\"", "argument `--tp`: `{gpus}` stands for nothing here; known: `{model}`, `{tp}`"),
        ("\"{port}\"", "\"{prot}\"", "address_argument `--port`: `{prot}` stands for nothing here"),
        ("flag = \"--tp\"", "flag = \"tp\"", "argument `tp`: write its flag with the dashes"),
        ("\"SGLANG_USE_AITER\"", "\"SGLANG USE\"", "environment `SGLANG USE`: a shell takes no such name"),
        ("python -m sglang.launch_server", " ", "`program` is empty; write what is started"),
    ] {
        assert!(OURS.contains(written), "{written}");
        let refused = Recipes::read(&OURS.replacen(written, instead, 1)).expect_err(told).to_string();
        assert!(refused.contains(told), "{told}: {refused}");
    }
    // Braces with more than a word in them are no placeholder.
    let json = OURS.replacen("value = \"qwen3_coder\"", "value = '{\"a\": {}}'", 1);
    Recipes::read(&json).expect("rules");
}

/// Rules of one's own may have anything in their values.
#[test]
fn what_is_special_to_a_shell_to_compose_or_to_toml_reaches_the_server_as_it_is() {
    let odd = OURS
        .replacen("value = \"0\"", "value = \"a b\"", 1)
        .replacen("value = \"qwen3_coder\"", "value = '''{\"it's\": \"$HOME\"}'''", 1)
        .replacen("\"Qwen/Qwen3-Coder-{name}-Instruct\"", "'my \"{name}\"'", 1);
    let recipe = Recipes::read(&odd).expect("rules").recipe(&choice("mi300x", "30b", "bf16", "enabled"));
    let recipe = recipe.expect("a recipe");
    let command = shell(&recipe, None);
    for part in [
        "SGLANG_USE_AITER='a b' python ",
        " --model 'my \"30B-A3B\"' \\\n",
        r#" --tool-call-parser '{"it'\''s": "$HOME"}' "#,
        " --context-length 8192 ",
    ] {
        assert!(command.contains(part), "{part}: {command}");
    }
    let one = instances(&recipe, 1, None, 30_000);
    let file = compose(&recipe, &one, true).expect("a file");
    for part in [
        r#"      SGLANG_USE_AITER: "a b""#,
        r#"      - "my \"30B-A3B\"""#,
        r#"      - "{\"it's\": \"$$HOME\"}""#,
        r#"LOOPGATE_ALIASES: "qwen3-coder=my \"30B-A3B\"""#,
    ] {
        assert!(file.contains(part), "{part}: {file}");
    }
    let configuration: toml::Table = gateway(&recipe, &one).parse().expect("TOML");
    assert_eq!(configuration["aliases"]["qwen3-coder"].as_str(), Some("my \"30B-A3B\""));
}

#[test]
fn instances_share_a_machine_where_they_fit_and_have_one_each_where_not() {
    let small = recipe("mi300x", "30b", "fp8", "enabled");
    let two = instances(&small, 2, None, 30_000);
    let command = shell(&small, Some(&two[1]));
    assert!(
        command.ends_with(
            "  --enable-metrics \\\n  --enable-cache-report \\\n  --host 127.0.0.1 \\\n  --port 30001 \\\n  --base-gpu-id 1"
        ),
        "{command}"
    );
    assert_eq!(
        gateway(&small, &two),
        "[backend]\nurls = [\n    \"http://127.0.0.1:30000\",\n    \"http://127.0.0.1:30001\",\n]\n\n[aliases]\nqwen3-coder = \
         \"Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8\"\n"
    );
    let large = recipe("mi300x", "480b", "fp8", "enabled");
    let two = instances(&large, 2, None, 30_000);
    assert!(shell(&large, Some(&two[1])).ends_with("  --host 0.0.0.0 \\\n  --port 30000"));
    assert_eq!(
        two.iter().map(write::Instance::url).collect::<Vec<_>>(),
        ["http://machine-1:30000", "http://machine-2:30000"]
    );
    let refused = compose(&large, &two, true).expect_err("too many").to_string();
    assert!(refused.contains("take 16 GPUs") && refused.contains("--instances 1"), "{refused}");
}

#[test]
fn one_instance_that_no_machine_has_the_gpus_for_says_how_several_run_it() {
    let wide = recipe("gb200", "480b", "fp8", "enabled");
    for gateway in [false, true] {
        let refused = compose(&wide, &instances(&wide, 1, None, 30_000), gateway).expect_err("too many").to_string();
        assert!(refused.starts_with("one instance takes 8 GPUs, and a machine has 4;"), "{refused}");
        assert!(refused.contains("--format shell, which says how 2"), "{refused}");
    }
}

#[test]
fn instances_that_do_not_fit_on_a_machine_are_placed_in_one_line() {
    let placing = |hardware: &str, count: u32| write::placing(&recipe(hardware, "480b", "fp8", "enabled"), count);
    assert_eq!(placing("b200", 1), None);
    let one_each = "2 instances with 8 GPUs each, and a machine has 8: a machine for each. Put its name for machine-…";
    assert_eq!(placing("b200", 2).as_deref(), Some(one_each));
    let spread =
        "on 2 machines, with --nnodes 2 --dist-init-addr FIRST-MACHINE:PORT, and with --node-rank 0 to 1 one on each.";
    let one = format!("One instance takes 8 GPUs, and a machine has 4: start its command {spread}");
    assert_eq!(placing("gb200", 1), Some(one));
    let several = format!(
        "2 instances with 8 GPUs each, and a machine has 4: 2 machines for each, 4 in all. Start an instance's command \
         {spread} Put the name of its first machine for machine-…"
    );
    assert_eq!(placing("gb200", 2), Some(several));
}

#[test]
fn a_compose_file_has_the_servers_and_with_a_gateway_all_that_it_needs() {
    let small = recipe("b200", "480b", "nvfp4", "enabled");
    let one = instances(&small, 1, None, 30_000);
    let alone = compose(&small, &one, false).expect("a file");
    assert!(
        alone.contains("      - \"--quantization\"\n      - \"modelopt_fp4\"\n") && !alone.contains("loopgate"),
        "{alone}"
    );
    // A switch of the recipe's own is no gateway's.
    assert!(alone.contains("\"--enable-dp-attention\""), "{alone}");
    assert!(alone.contains("driver: nvidia") && !alone.contains("--enable-metrics"), "{alone}");
    assert!(
        alone.contains("      - \"0.0.0.0\"\n") && alone.contains("    ports: [\"127.0.0.1:30000:30000\"]\n"),
        "{alone}"
    );
    let small = recipe("mi355x", "30b", "bf16", "enabled");
    let three = compose(&small, &instances(&small, 3, None, 30_000), true).expect("a file");
    for part in [
        "  sglang-3:\n",
        "      - \"--host\"\n      - \"0.0.0.0\"\n      - \"--port\"\n      - \"30002\"\n",
        "      SGLANG_USE_AITER: \"0\"\n",
        "    devices: [/dev/kfd, /dev/dri]\n",
        "LOOPGATE_BACKENDS: \"http://sglang-1:30000,http://sglang-2:30001,http://sglang-3:30002\"",
        "LOOPGATE_ALIASES: \"qwen3-coder=Qwen/Qwen3-Coder-30B-A3B-Instruct\"",
        "    read_only: true\n    cap_drop: [ALL]\n    security_opt: [\"no-new-privileges:true\"]\n",
        "      - \"state:/var/lib/loopgate\"\n",
        "      - \"cache:/var/cache/loopgate\"\n",
        "\nvolumes:\n  models: {}\n  state: {}\n  cache: {}\n",
    ] {
        assert!(three.contains(part), "{part}: {three}");
    }
}

#[test]
fn a_running_server_is_held_against_every_argument_of_which_it_says_something() {
    let recipe = recipe("mi300x", "480b", "fp8", "enabled");
    let mut info = json!({
        "model_path": "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "tp_size": 8, "ep_size": 2, "context_length": 8192,
        "tool_call_parser": "qwen3_coder", "page_size": 32, "trust_remote_code": true, "enable_metrics": true,
    });
    assert!(compare::compare(&recipe, false, &info).iter().all(compare::Line::is_as_wanted));
    (info["tp_size"], info["tool_call_parser"]) = (json!(4), json!(null));
    let differ: Vec<_> =
        compare::compare(&recipe, true, &info).into_iter().filter(|line| !line.is_as_wanted()).collect();
    let told: Vec<_> = differ.iter().map(|line| (line.flag.as_str(), line.running.as_deref())).collect();
    assert_eq!(told, [("--tp", Some("4")), ("--tool-call-parser", None), ("--enable-cache-report", None)]);
}

#[test]
fn a_server_with_more_than_the_recipe_differs_unless_that_is_what_servers_have_anyway() {
    let recipe = recipe("mi300x", "480b", "bf16", "disabled");
    let mut info = json!({
        "model_path": "/weights/qwen", "served_model_name": "Qwen/Qwen3-Coder-480B-A35B-Instruct", "tp_size": 8,
        "context_length": 8192, "page_size": 32, "ep_size": 1, "moe_runner_backend": "auto", "quantization": null,
        "tool_call_parser": null, "trust_remote_code": false, "enable_dp_attention": false,
    });
    let differ = |info: &serde_json::Value| {
        let lines = compare::compare(&recipe, false, info).into_iter().filter(|line| !line.is_as_wanted());
        lines.map(|line| (line.flag, line.wanted, line.running.unwrap_or_default())).collect::<Vec<_>>()
    };
    assert_eq!(differ(&info), []);
    (info["tool_call_parser"], info["ep_size"]) = (json!("qwen3_coder"), json!(2));
    let more = |flag: &str, running: &str| (flag.to_owned(), None, running.to_owned());
    assert_eq!(differ(&info), [more("--ep", "2"), more("--tool-call-parser", "qwen3_coder")]);
    info["served_model_name"] = json!("mine");
    assert_eq!(differ(&info)[0].2, "/weights/qwen");
}
