"""The stage of one scenario: mock, gateway, and a recording relay on either side of the gateway."""

import hashlib
import json
import os
import re
import select
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MODEL = "qwen3-coder"
KEY = "lg-agents-key"
# Seconds until a server says that it serves. The first start compiles the guest, on a slow machine for a minute.
START_S = 180
# Bytes of one read. Chosen.
READ_BYTES = 65536


class Asked:
    """A request that went through a relay."""

    def __init__(self, path, headers, body):
        self.path = path
        self.headers = headers
        self.raw = body
        self.answer = b""
        # "open" until the answer's last byte ("whole"), the client's leaving ("left") or the server's ("cut").
        self.end = "open"
        # The longest time between two pieces of the exchange, of which the request is the first.
        self.silence_s, self.heard = 0.0, time.monotonic()

    def hears(self, data):
        now = time.monotonic()
        self.silence_s, self.heard = max(self.silence_s, now - self.heard), now
        self.answer += data

    @property
    def body(self):
        return json.loads(self.raw)

    @property
    def status(self):
        found = re.match(rb"HTTP/1\.1 (\d+)", self.answer)
        return int(found[1]) if found else None

    def tools(self):
        return [tool["function"]["name"] for tool in self.body.get("tools") or [] if "function" in tool]

    def is_whole(self):
        head, gap, rest = self.answer.partition(b"\r\n\r\n")
        if not gap:
            return False
        length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
        return len(rest) >= int(length[1]) if length else rest.endswith(b"0\r\n\r\n")


class Relay:
    """Hands bytes on as they are, and writes down the requests among them."""

    def __init__(self, target):
        self.target = target
        self.requests = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def asked(self):
        return [request for request in list(self.requests) if request.path.endswith("/chat/completions")]

    def aborts(self):
        return [request for request in list(self.requests) if request.path == "/abort_request"]

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        current, unread = None, b""
        try:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    data = client.recv(READ_BYTES)
                    if not data:
                        break
                    server.sendall(data)
                    unread += data
                    while request := take_request(unread):
                        current, unread = request
                        self.requests.append(current)
                if server in ready:
                    data = server.recv(READ_BYTES)
                    if not data:
                        if current and current.end == "open":
                            current.end = "cut"
                        break
                    if current and current.end == "open":
                        current.hears(data)
                        if current.is_whole():
                            current.end = "whole"
                    client.sendall(data)
        except OSError:
            pass
        finally:
            if current and current.end == "open":
                current.end = "left"
            client.close()
            server.close()


def take_request(data):
    """The first request in these bytes, if it is there to its last byte, and the bytes after it."""
    head, gap, rest = data.partition(b"\r\n\r\n")
    if not gap:
        return None
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body, used = take_chunks(rest)
    else:
        used = int(headers.get("content-length", 0))
        body = rest[:used] if len(rest) >= used else None
    if body is None:
        return None
    return Asked(line.split(" ")[1], headers, body), rest[used:]


def take_chunks(data):
    body, at = b"", 0
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].split(b";")[0], 16)
        body, at = body + data[line + 2 : line + 2 + size], line + 2 + size + 2
        if at > len(data):
            break
        if size == 0:
            return body, at
    return None, 0


class Stage:
    """`with Stage(...) as stage`: everything runs, each on a port of its own."""

    def __init__(self, binary, cache, mock=(), offer="when-no-tools", heartbeat_ms=10000, running_max=256):
        self.binary, self.cache, self.mock_flags = binary, cache, list(mock)
        self.offer, self.heartbeat_ms, self.running_max = offer, heartbeat_ms, running_max
        self.processes = []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="loopgate-agents-")
        folder = Path(self.folder.name)
        try:
            mock_port = self._start("mock", ["mock", "--listen", "127.0.0.1:0", *self.mock_flags], "stdout")
            self.back = Relay(mock_port)
            self._configure(folder)
            serve = ["serve", "--config", str(folder / "loopgate.toml"), "--listen", "127.0.0.1:0"]
            gateway_port = self._start("gateway", [*serve, "--backend", f"http://127.0.0.1:{self.back.port}"], "stderr")
            self.front = Relay(gateway_port)
        except BaseException:
            self.__exit__()
            raise
        self.url = f"http://127.0.0.1:{self.front.port}"
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self.folder.cleanup()

    def executions(self):
        """The audit's lines."""
        path = Path(self.folder.name) / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def hold(self, relay):
        """Takes a place behind a relay with a long answer, until the socket that is returned is closed."""
        body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Write a binary search"}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        place = socket.create_connection(("127.0.0.1", relay.target))
        place.sendall((head + body).encode())
        seen = b""
        while b'"content":"`' not in seen and (piece := place.recv(READ_BYTES)):
            seen += piece
        assert piece, seen
        return place

    def _configure(self, folder):
        """The repository's own policy, but for what a scenario is about, and one caller with a key."""
        policy = (ROOT / "policies/default.toml").read_text()
        policy = set_line(policy, "offer", f'"{self.offer}"')
        policy = set_line(policy, "heartbeat_ms", str(self.heartbeat_ms))
        policy = set_line(policy, "commit_after_ms", str(min(self.heartbeat_ms, 5000)))
        (folder / "policies").mkdir()
        (folder / "policies/default.toml").write_text(policy)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        (folder / "loopgate.toml").write_text(
            f'[tools]\ndir = "{ROOT}/tools"\n[policy]\ndir = "{folder}/policies"\n'
            f'[sandbox]\ncache_dir = "{self.cache}"\n[audit]\npath = "{folder}/audit.jsonl"\n'
            f'[memory]\npath = "{folder}/memory.redb"\n'
            f"[access]\nconcurrent_max = {self.running_max}\n"
            f'[[callers]]\nname = "agent"\nkey_sha256 = "{digest}"\n'
        )

    def _start(self, name, arguments, stream):
        """Starts the binary and waits until it names its port."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LOOPGATE_")}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: subprocess.PIPE}
        process = subprocess.Popen([self.binary, *arguments], env=environment, text=True, **pipes)
        self.processes.append(process)
        output, said = getattr(process, stream), []
        deadline = threading.Timer(START_S, process.kill)
        deadline.start()
        for line in output:
            said.append(line)
            if found := re.search(r" on http://127\.0\.0\.1:(\d+)", line):
                deadline.cancel()
                threading.Thread(target=lambda: [None for _ in output], daemon=True).start()
                return int(found[1])
        deadline.cancel()
        raise SystemExit(f"{name} did not start: {''.join(said)}")


def set_line(text, key, value):
    changed, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
    assert count == 1, f"policies/default.toml has {count} lines of {key}"
    return changed


def wait_until(condition, seconds):
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
