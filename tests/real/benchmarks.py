"""SGLang's own benchmarks through the gateway, and whether Loopgate's count the same.

`sglang.bench_serving` with both of its backends, as SGLang's Qwen3-Coder page runs it first, and
`sglang.test.few_shot_gsm8k`: of their flags only URL, data, tokenizer and model are set. Then `loopgate bench serve` and
`loopgate eval gsm8k` are asked for the same of the same gateway: their totals must be equal, and their figures alike.
"""

import json
import pathlib
import re
import subprocess
import tempfile
import urllib.request

PAGE = ["--dataset-name", "random", "--random-input-len", "1000", "--random-output-len", "1000"]
PAGE += ["--num-prompts", "10", "--max-concurrency", "1"]
# What bench_serving begins with if it is not told: in 0.5.23, and in 0.5.7.
SEEDS = ("42", "1")
BACKENDS = ("sglang", "sglang-oai-chat")
TOTALS = ("completed", "total_input_tokens", "total_output_tokens")
# Only where the tokenizer is a file, which Loopgate needs.
RETOKENIZED = "total_output_tokens_retokenized"
# Both run so often in turns, and the best of each count: what else the machine does makes a run worse, never better.
RUNS = 3
# Each figure, which of several runs is the best, and by how much Loopgate's may differ, as a part of SGLang's. Chosen: on two
# cores, where server, gateway and bench get in each other's way, the best of three runs of one tool differ by about half of it.
# The client is a part of a first token's time that a single request pays once: so it may differ by some milliseconds, too.
FIGURES = {"median_ttft_ms": (min, 0.25), "mean_tpot_ms": (min, 0.15), "output_throughput": (max, 0.15)}
TTFT_SLACK_MS = 5.0
# The first five stand as examples before each.
SHOTS = 5
QUESTIONS = 25
# Chosen: an hour for a benchmark of ten requests is too long on any machine.
SECONDS_MAX = 3600


def same_figures(python, binary, base, model):
    """Both find the same through the gateway, with every backend and of the grade-school problems."""
    with urllib.request.urlopen(base + "/server_info", timeout=10) as response:
        tokenizer = json.load(response)["tokenizer_path"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ways = [serving(python, binary, base, model, tokenizer, backend, folder) for backend in BACKENDS]
        return all([*ways, problems(python, binary, base, folder)])


def serving(python, binary, base, model, tokenizer, backend, folder):
    data = folder / "conversations.json"
    talk = [{"value": f"Tell me what {number} stones are worth, and why."} for number in range(2)]
    data.write_text(json.dumps([{"conversations": talk} for _ in range(10)]))
    asked = ["--backend", backend, "--base-url", base, "--model", model, "--dataset-path", str(data), *PAGE]
    counted = (pathlib.Path(tokenizer) / "tokenizer.json").exists()
    counts = ["--tokenizer", tokenizer] if counted else []
    totals = (*TOTALS, RETOKENIZED) if counted else TOTALS
    runs, seed = [], None
    for number in range(RUNS):
        # Where it puts its figures if nobody says where: in the folder that it runs in.
        inside = folder / f"{backend}-{number}"
        inside.mkdir()
        run([python, "-m", "sglang.bench_serving", *asked, "--tokenizer", tokenizer], inside)
        theirs = json.loads(next(inside.glob("*.jsonl")).read_text().splitlines()[-1])
        wanted = theirs["total_input_tokens"]
        seed = seed or next((it for it in SEEDS if drawn(binary, [*asked, *counts, "--seed", it]) == wanted), None)
        if seed is None:
            print(f"bench_serving --backend {backend}: FAILED, no seed of {SEEDS} draws {wanted} tokens")
            return False
        ours = run([binary, "bench", "serve", *asked, *counts, "--seed", seed, "--json", "-"], folder)
        runs.append((theirs, json.loads(ours)))
    what = f"bench_serving --backend {backend}"
    same = [told(what, *({key: of[key] for key in totals} for of in pair)) for pair in runs]
    return all([*same, alike(what, runs)])


def alike(what, runs):
    """Whether the best of all runs differ by no more than noise."""
    fine = True
    for figure, (best, tolerance) in FIGURES.items():
        theirs, ours = (best(pair[tool][figure] for pair in runs) for tool in (0, 1))
        slack = max(theirs * tolerance, TTFT_SLACK_MS if figure == "median_ttft_ms" else 0)
        ok = abs(ours - theirs) <= slack
        fine = fine and ok
        spread = " ".join(f"{pair[tool][figure]:.2f}" for tool in (0, 1) for pair in runs)
        print(
            f"{what}: {figure}: {'ok' if ok else 'FAILED'}, SGLang's {theirs:.2f}, Loopgate's {ours:.2f}, "
            f"which may differ by {slack:.2f} (all: {spread})",
            flush=True,
        )
    return fine


def drawn(binary, asked):
    """Tokens of all prompts."""
    return int(re.search(r"#Input tokens: (\d+)", run([binary, "bench", "serve", *asked, "--dry-run"]))[1])


def problems(python, binary, base, folder):
    """A model that knows no arithmetic has none right, with any tool. So half of the questions get the model's own number
    as their label, and the others one that it has not: both tools must find just this half."""
    data = folder / "problems.jsonl"
    labels = [2 * n + 3 for n in range(QUESTIONS)]
    write_problems(data, labels)
    port = base.rpartition(":")[2]
    asked = ["--port", port, "--data-path", str(data), "--num-questions", str(QUESTIONS), "--num-shots", str(SHOTS)]
    answers = json.loads(run([binary, "eval", "gsm8k", *asked, "--json", "-"], folder))["answers"]
    # The labels of the first are part of every prompt.
    for number, answer in list(enumerate(answers))[SHOTS:]:
        if answer["prediction"] is not None:
            labels[number] = int(answer["prediction"]) + number % 2
    write_problems(data, labels)
    theirs = run([python, "-m", "sglang.test.few_shot_gsm8k", *asked], folder)
    ours = run([binary, "eval", "gsm8k", *asked], folder)
    counted = [dict(re.findall(r"^(Accuracy|Invalid): (\S+)$", text, re.M)) for text in (theirs, ours)]
    some = all(0 < float(of.get("Accuracy", 0)) < 1 for of in counted)
    if not some:
        print("few_shot_gsm8k: FAILED, an accuracy of none or of all says nothing")
    return told("few_shot_gsm8k", *counted) and some


def write_problems(path, labels):
    lines = [
        {"question": f"Ann has {n} stones and finds {n + 3}. How many has she?", "answer": f"#### {label}"}
        for n, label in enumerate(labels)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def told(what, theirs, ours):
    same = bool(theirs) and theirs == ours
    print(f"{what}: {'ok' if same else 'FAILED'}, SGLang's {theirs}, Loopgate's {ours}", flush=True)
    return same


def run(command, folder=None):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
