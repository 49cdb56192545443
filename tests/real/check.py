#!/usr/bin/env python3
"""Asks a real SGLang server through the gateway: 40 questions with known answers, streamed and whole, the two client
examples of SGLang's Qwen3-Coder page, a conversation of ten turns for how much of it the server has cached, and the
questions again while every second of the server's streams is cut off. Then SGLang's own benchmarks run through the gateway,
by the interpreter that SGLANG_PYTHON names.

    check.py BINARY URL [-n 40] [--least 38] [--no-cache-report] [--no-benchmarks]

Starts the gateway BINARY in front of the SGLang server at URL. Exit code 0: at least so many right, in each way, and the
conversation over its bar, and the benchmarks find what Loopgate's find. The server tells of its cache with
--enable-cache-report only; without, that part fails, unless --no-cache-report says that this is known. So do the benchmarks
without SGLANG_PYTHON, unless --no-benchmarks says that they are to be left out. The examples need the
`openai` package: run it with the interpreter of `make clients`.
"""

import argparse
import json
import math
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

import benchmarks
from tap import Cuts, Tap

PAGE_MODELS = ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "Qwen/Qwen3-Coder-30B-A3B-Instruct")
PAGE_TRIES = 3
TURNS = 10
# Of the prompt of a turn's last model call, what the next turn's first must find in the cache.
CACHED_LEAST = 0.95
ROOT = pathlib.Path(__file__).resolve().parents[2]


def questions(count):
    """(question, text of the right answer); the same ones every time."""
    dice = random.Random(2026)
    kinds = [arithmetic, python_sum, listing, ordering, factorial, two_steps, two_programs, division, forever, hello]
    return [kinds[number % len(kinds)](dice) for number in range(count)]


def arithmetic(dice):
    left, right = dice.randint(2, 99), dice.randint(2, 99)
    return f"What is {left} * {right}?", str(left * right)


def python_sum(dice):
    left, right = dice.randint(0, 999), dice.randint(0, 999)
    return f"Calculate {left} + {right} using Python", str(left + right)


def listing(dice):
    numbers = [dice.randint(0, 999) for _ in range(dice.randint(2, 5))]
    return f"Sum the list {numbers}", str(sum(numbers))


def ordering(dice):
    numbers = [dice.randint(0, 999) for _ in range(dice.randint(2, 5))]
    return f"Sort the list {numbers}", str(sorted(numbers))


def factorial(dice):
    number = dice.randint(2, 15)
    return f"Calculate the factorial of {number} using Python", str(math.factorial(number))


def two_steps(dice):
    first, second, third = dice.randint(0, 999), dice.randint(0, 999), dice.randint(1, 99)
    return f"First compute {first} + {second}, then multiply the result by {third}", str((first + second) * third)


def two_programs(dice):
    first, second, third, fourth = (dice.randint(1, 99) for _ in range(4))
    return f"Run two programs: {first} + {second} and {third} * {fourth}", f"{first + second} and {third * fourth}"


def division(_):
    return "Divide by zero", "failed"


def forever(_):
    return "Loop forever", "failed"


def hello(_):
    return "Hello", "Hello"


def ask(base, model, messages, stream):
    body = {"model": model, "messages": messages, "stream": stream, "temperature": 0, "max_tokens": 400}
    request = urllib.request.Request(
        base + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        if not stream:
            return json.load(response)["choices"][0]["message"]["content"] or ""
        return "".join(texts(response))


def texts(lines):
    for line in lines:
        data = line.removeprefix(b"data: ").strip()
        if not data or data == b"[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise RuntimeError(chunk["error"]["message"])
        for choice in chunk["choices"]:
            if choice["delta"].get("tool_calls"):
                raise RuntimeError("a call of the gateway's own reached the client")
            yield choice["delta"].get("content") or ""


def answered(base, model, count, stream, way=None):
    right = 0
    for question, wanted in questions(count):
        try:
            got = ask(base, model, [{"role": "user", "content": question}], stream)
        except Exception as error:  # one broken exchange must not hide the others
            got = f"{type(error).__name__}: {error}"
        right += wanted in got
        if wanted not in got:
            print(f"  wrong: {question!r} -> {got!r}, wanted {wanted!r}")
    print(f"{way or ('streamed' if stream else 'whole')}: {right} of {count} right", flush=True)
    return right


def page_examples(base):
    """Conversations that the test suite has too. The page samples at temperature 0.7, so a small model may miss once."""
    schema = json.loads((ROOT / "tools/execute_code/schema.json").read_text())
    execute_code = {"name": "execute_code", "description": "Execute Python code", "parameters": schema}
    job = {"base_url": base + "/v1", "way": "whole", "key": "EMPTY", "headers": {}, "idle_ms": 3600_000}
    job |= {"result": None, "leaves": False}
    chat = job | {
        "number": 0,
        "turns": ["Write a binary search function in Python, with docstring and type hints."],
        "model": PAGE_MODELS[0],
        "options": {"max_tokens": 2048, "temperature": 0.7},
        "tools": [],
    }
    tool = job | {
        "number": 1,
        "turns": ["Calculate the factorial of 10 using Python"],
        "model": PAGE_MODELS[1],
        "options": {"temperature": 0.7},
        "tools": [{"type": "function", "function": execute_code}],
    }
    command = [sys.executable, ROOT / "tests/clients/openai_python.py"]
    jobs = f"{json.dumps(chat)}\n{json.dumps(tool)}\n"
    for _ in range(PAGE_TRIES):
        played = subprocess.run(command, input=jobs, stdout=subprocess.PIPE, text=True, check=True)
        done = sorted(map(json.loads, played.stdout.splitlines()), key=lambda one: one["number"])
        texts = [answer["text"] for one in done for answer in one["seen"]["answers"]]
        print(f"the page's second example: {texts[1:]!r}")
        if len(texts) == 2 and texts[0] and "3628800" in texts[1]:
            return True
    return False


def conversation(base, model, log, seed, tail):
    """Ten turns of a client that sends back what it saw, with `tail` after each answer. The usages of each turn's model
    calls, as the server told them."""
    dice = random.Random(seed)
    messages, turns = [], []
    for turn in range(TURNS):
        question, _ = [arithmetic, python_sum, listing, two_steps][turn % 4](dice)
        messages.append({"role": "user", "content": question})
        before = len(log)
        answer = ask(base, model, messages, True)
        messages.append({"role": "assistant", "content": answer + tail})
        turns.append(log[before:])
    return turns


def shares(turns):
    """For each turn but the last: prompt tokens of its last model call, and those cached at the next turn's first."""
    for turn, following in zip(turns, turns[1:]):
        details = following[0]["prompt_tokens_details"] or {}
        yield turn[-1]["prompt_tokens"], details.get("cached_tokens") or 0


def cache(base, model, log, may_skip):
    """The same conversation twice: restored, and with a word after each answer, by which the gateway does not know it
    again. They ask for different numbers, so that neither finds the other's prompts."""
    restored = conversation(base, model, log, 1, "")
    if not any(usage.get("prompt_tokens_details") for turn in restored for usage in turn):
        print("the cache: NOT MEASURED, the server reports no cached tokens; start it with --enable-cache-report")
        return may_skip
    altered = conversation(base, model, log, 2, " So.")
    print("prompt tokens of a turn's last model call, and how many of them the next turn's first had cached")
    print("  turn  model calls   restored              not restored")
    least = 1.0
    for turn, ((all_r, hit_r), (all_a, hit_a)) in enumerate(zip(shares(restored), shares(altered)), 1):
        least = min(least, hit_r / all_r)
        row = f"  {turn:>4}  {len(restored[turn - 1]):>11}"
        print(f"{row}   {all_r:>5} {hit_r:>5} {hit_r / all_r:>6.1%}   {all_a:>5} {hit_a:>5} {hit_a / all_a:>6.1%}")
    print(f"the cache: least {least:.1%} of a turn, bar {CACHED_LEAST:.0%}: {'ok' if least >= CACHED_LEAST else 'FAILED'}")
    return least >= CACHED_LEAST


def cut_off(binary, server, count):
    """Two ways to the server, so that there is another backend to go on with."""
    cuts = Cuts()
    ways = [Tap(server, cuts) for _ in range(2)]
    gateway = Gateway(binary, [way.url for way in ways], [])
    try:
        right = answered(gateway.base, gateway.wait_for_model(), count, True, "streamed, every second stream cut off")
    finally:
        gateway.stop()
    print(f"  {cuts.done} streams were cut off")
    return right if cuts.done else 0


def sglangs_own(python, binary, server, served):
    """Straight before the server: nothing of Python's stands in what is measured."""
    # It is started in other folders.
    python, binary = (os.path.abspath(shutil.which(program) or program) for program in (python, binary))
    gateway = Gateway(binary, [server], [])
    try:
        gateway.wait_for_model()
        return benchmarks.same_figures(python, binary, gateway.base, served)
    finally:
        gateway.stop()


class Gateway:
    def __init__(self, binary, backends, aliases):
        self.folder = tempfile.TemporaryDirectory()
        policy = pathlib.Path(self.folder.name, "policies")
        policy.mkdir()
        text = (ROOT / "policies/default.toml").read_text()
        # A program that loops for ever is one of the questions.
        (policy / "default.toml").write_text(re.sub(r"(?m)^wall_ms = .*$", "wall_ms = 2000", text))
        command = [binary, "serve", "--listen", "127.0.0.1:0"]
        for backend in backends:
            command += ["--backend", backend]
        command += ["--policy-dir", str(policy), "--tools-dir", str(ROOT / "tools")]
        command += ["--audit", str(pathlib.Path(self.folder.name, "audit.jsonl"))]
        command += ["--memory", str(pathlib.Path(self.folder.name, "memory.redb"))]
        for alias in aliases:
            command += ["--alias", alias]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.base = None
        for line in self.process.stderr:
            if found := re.search(r"serving on (http://[\d.:]+)", line):
                self.base = found[1]
                break
            print(line, end="", file=sys.stderr)
        if not self.base:
            sys.exit("the gateway did not start")

    def wait_for_model(self):
        while True:
            with urllib.request.urlopen(self.base + "/v1/models", timeout=10) as response:
                models = json.load(response)["data"]
            if models:
                return models[0]["id"]

    def stop(self):
        self.process.terminate()
        self.process.communicate()
        self.folder.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("url")
    parser.add_argument("-n", type=int, default=40)
    parser.add_argument("--least", type=int, default=38)
    parser.add_argument("--no-cache-report", action="store_true")
    parser.add_argument("--no-benchmarks", action="store_true")
    args = parser.parse_args()
    sglang_python = os.environ.get("SGLANG_PYTHON")
    # Said at once: what comes before them takes minutes.
    if not sglang_python and not args.no_benchmarks:
        way_out = "SGLANG_PYTHON=/path/to/python names one in which sglang is installed; --no-benchmarks leaves them out"
        parser.error(f"SGLang's own benchmarks need a Python of their own: {way_out}")
    with urllib.request.urlopen(args.url + "/v1/models", timeout=10) as response:
        served = json.load(response)["data"][0]["id"]
    tap = Tap(args.url)
    gateway = Gateway(args.binary, [tap.url], [f"{name}={served}" for name in PAGE_MODELS if name != served])
    try:
        model = gateway.wait_for_model()
        right = [answered(gateway.base, model, args.n, stream) for stream in (True, False)]
        examples = page_examples(gateway.base)
        print(f"the page's examples: {'ok' if examples else 'FAILED'}")
        cached = cache(gateway.base, model, tap.log, args.no_cache_report)
    finally:
        gateway.stop()
    right.append(cut_off(args.binary, args.url, args.n))
    if args.no_benchmarks:
        print("SGLang's own benchmarks: left out, as --no-benchmarks says")
    alike = args.no_benchmarks or sglangs_own(sglang_python, args.binary, args.url, served)
    return 0 if min(right) >= args.least and examples and cached and alike else 1


if __name__ == "__main__":
    sys.exit(main())
