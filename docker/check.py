#!/usr/bin/env python3
"""Starts the image's root as an engine would, and asks it a question.

    check.py ROOT

ROOT is what rootfs.sh made. It is mounted read-only; only /var/lib/loopgate can be written to. In it run the gateway, as
the Dockerfile says, and the scripted model, without privileges to gain. To be started as root in mount, network and
process namespaces of its own, as check.sh does: nothing is undone here.
"""

import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
GATEWAY = "http://127.0.0.1:8080"
# Chosen: a hundred times what a start takes that compiles nothing.
START_SECONDS = 30
STOP_SECONDS = 10
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def main(root):
    bring_loopback_up()
    mount(root)
    image = read_dockerfile()
    environment = image["ENV"] | {"LOOPGATE_BACKENDS": "http://localhost:30000", "LOOPGATE_ALLOW_ANONYMOUS": "true"}

    def start(*command, more={}, **how):
        # Whoever changes from root to another user has no capabilities left; no new privileges: they stay away.
        user = ["--setgid", image["USER"], "--setuid", image["USER"]]
        inside = ["setpriv", "--no-new-privs", "unshare", "--root", root, "--wd", image["WORKDIR"], *user]
        return subprocess.Popen([*inside, *command], env=environment | more, text=True, **how)

    # That place can be written to, but is mounted noexec, as engines mount --tmpfs unless they are told otherwise.
    elsewhere = {"LOOPGATE_CACHE_DIR": "/var/lib/loopgate/guest"}
    refused = start(*image["ENTRYPOINT"], *image["CMD"], stderr=subprocess.PIPE, more=elsewhere)
    said = refused.communicate(timeout=START_SECONDS)[1]
    expect(refused.returncode and "mounted noexec" in said, "a cache that is mounted noexec is refused as such", said)
    os.rmdir(os.path.join(root, "var/lib/loopgate/guest"))

    def health():
        asked = start(*image["HEALTHCHECK"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = asked.communicate(timeout=START_SECONDS)[1]
        return asked.returncode, said

    mock = start(*image["ENTRYPOINT"], "mock", "--listen", "0.0.0.0:30000", stdout=subprocess.DEVNULL)
    gateway = start(*image["ENTRYPOINT"], *image["CMD"], stderr=subprocess.PIPE)
    wait_until_up(gateway)
    up = health()
    expect(up == (0, ""), "the image's HEALTHCHECK passes while it is up", up)

    # The /proc of this namespace is the one that is mounted there.
    state = pathlib.Path(root, f"proc/{gateway.pid}/status").read_text()
    facts = dict(re.findall(r"^(Uid|CapEff|NoNewPrivs):\s*(\S+)", state, re.M))
    unprivileged = {"Uid": image["USER"], "CapEff": "0" * 16, "NoNewPrivs": "1"}
    expect(facts == unprivileged, "the gateway runs as the image's user, without privileges", facts)

    answer = ask("Calculate the factorial of 10 using Python")
    message = answer["choices"][0]["message"]
    expect("3628800" in message["content"], "it answers a question", answer)
    ran = [(run["name"], run["status"], run["result"]) for run in message["executed_tools"]]
    expect(ran == [("execute_code", "completed", "3628800")], "by a program that ran in the sandbox", ran)

    written = sorted(path.name for path in pathlib.Path(root, "var/lib/loopgate").iterdir())
    expect(written == ["audit.jsonl", "memory.redb"], "what it writes is in /var/lib/loopgate", written)
    shown = metrics_shown()
    unknown = shown - metrics_exported()
    expect(shown and not unknown, f"it has the {len(shown)} metrics of the dashboard and of docs/deploy.md", unknown)

    for name, process in (("the gateway", gateway), ("the scripted model", mock)):
        process.send_signal(signal.SIGTERM)
        expect(process.wait(STOP_SECONDS) == 0, f"{name} ends on SIGTERM", process.returncode)
    down = health()
    expect(down[0] == 1 and "cannot connect" in down[1], "the image's HEALTHCHECK fails when it is not", down)
    log = gateway.stderr.read()
    expect("compiling" not in log, "the guest came with the image, compiled", log)


def expect(right, claim, seen):
    if not right:
        sys.exit(f"docker/check.py: not so: {claim}; seen: {seen}")
    print(f"ok: {claim}", flush=True)


def bring_loopback_up():
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


def mount(root):
    def at(path, *arguments):
        subprocess.run(["mount", *arguments, os.path.join(root, path)], check=True)

    at("", "--bind", root)
    at("", "-o", "remount,bind,ro,nosuid,nodev")
    at("proc", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc")
    at("dev", "-t", "tmpfs", "-o", "mode=755,nosuid,noexec", "tmpfs")
    null = os.path.join(root, "dev/null")
    os.mknod(null, stat.S_IFCHR, os.makedev(1, 3))
    os.chmod(null, 0o666)
    user = read_dockerfile()["USER"]
    at("var/lib/loopgate", "-t", "tmpfs", "-o", f"uid={user},gid={user},mode=700,nosuid,nodev,noexec", "tmpfs")


def read_dockerfile():
    """What the image's stage, the last one, says of how it is run."""
    text = (HERE / "Dockerfile").read_text().replace("\\\n", " ")
    stage = re.split(r"^FROM ", text, flags=re.M)[-1]
    said = dict(re.findall(r"^(ENTRYPOINT|CMD|USER|WORKDIR|ENV) (.*)$", stage, re.M))
    said["USER"] = said["USER"].split(":")[0]
    said["ENV"] = dict(pair.split("=", 1) for pair in said["ENV"].split())
    # Its options are the engine's.
    said["HEALTHCHECK"] = re.search(r"^HEALTHCHECK (?:--\S+ +)*CMD (\[.*\])$", stage, re.M)[1]
    return said | {name: json.loads(said[name]) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")}


def wait_until_up(gateway):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and gateway.poll() is None:
        try:
            with urllib.request.urlopen(f"{GATEWAY}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    gateway.kill()
    sys.exit(f"docker/check.py: the gateway is not up:\n{gateway.stderr.read()}")


def ask(question):
    body = json.dumps({"model": "qwen3-coder", "messages": [{"role": "user", "content": question}]})
    request = urllib.request.Request(
        f"{GATEWAY}/v1/chat/completions", body.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def metrics_shown():
    """Names of metrics in the dashboard and on the page on deployment."""
    texts = [(HERE / "dashboard.json").read_text(), (HERE.parent / "docs/deploy.md").read_text()]
    return set(re.findall(r"\bloopgate_[a-z0-9_]+", "\n".join(texts)))


def metrics_exported():
    with urllib.request.urlopen(f"{GATEWAY}/metrics", timeout=10) as page:
        families = re.findall(r"^# TYPE (\S+) (\S+)$", page.read().decode(), re.M)
    endings = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return {name + ending for name, kind in families for ending in endings[kind]}


if __name__ == "__main__":
    main(os.path.realpath(sys.argv[1]))
