"""SGLang's own benchmarks through the gateway, and whether Loopgate's count the same.

`sglang.bench_serving` with both of its backends, as SGLang's Qwen3-Coder page runs it first, and
`sglang.test.few_shot_gsm8k`: of their flags only URL, data, tokenizer and model are set. Then `loopgate bench serve` and
`loopgate eval gsm8k` are asked for the same of the same gateway.
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
# Five of them stand as examples before each.
QUESTIONS = 8
# Chosen: an hour for a benchmark of ten requests is too long on any machine.
SECONDS_MAX = 3600


def same_totals(python, binary, base, model):
    """Both count the same through the gateway, with every backend and of the grade-school problems."""
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
    # Where it puts its figures if nobody says where: in the folder that it runs in.
    inside = folder / backend
    inside.mkdir()
    run([python, "-m", "sglang.bench_serving", *asked, "--tokenizer", tokenizer], inside)
    theirs = json.loads(next(inside.glob("*.jsonl")).read_text().splitlines()[-1])
    if (pathlib.Path(tokenizer) / "tokenizer.json").exists():
        asked += ["--tokenizer", tokenizer]
    seed = next((seed for seed in SEEDS if drawn(binary, [*asked, "--seed", seed]) == theirs["total_input_tokens"]), None)
    if seed is None:
        print(f"bench_serving --backend {backend}: FAILED, no seed of {SEEDS} draws {theirs['total_input_tokens']} tokens")
        return False
    ours = json.loads(run([binary, "bench", "serve", *asked, "--seed", seed, "--json", "-"], folder))
    return told(f"bench_serving --backend {backend}", *({key: of[key] for key in TOTALS} for of in (theirs, ours)))


def drawn(binary, asked):
    """Tokens of all prompts."""
    return int(re.search(r"#Input tokens: (\d+)", run([binary, "bench", "serve", *asked, "--dry-run"]))[1])


def problems(python, binary, base, folder):
    data = folder / "problems.jsonl"
    lines = [
        {"question": f"Ann has {n} stones and finds {n + 3}. How many has she?", "answer": f"#### {2 * n + 3}"}
        for n in range(QUESTIONS)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    port = base.rpartition(":")[2]
    theirs = run([python, "-m", "sglang.test.few_shot_gsm8k", "--port", port, "--data-path", str(data)], folder)
    ours = run([binary, "eval", "gsm8k", "--port", port, "--data-path", str(data)], folder)
    counted = [dict(re.findall(r"^(Accuracy|Invalid): (\S+)$", text, re.M)) for text in (theirs, ours)]
    return told("few_shot_gsm8k", *counted)


def told(what, theirs, ours):
    same = bool(theirs) and theirs == ours
    print(f"{what}: {'ok' if same else 'FAILED'}, SGLang's {theirs}, Loopgate's {ours}", flush=True)
    return same


def run(command, folder=None):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
