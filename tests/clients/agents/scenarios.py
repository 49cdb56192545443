"""What each CLI is put through. A scenario is a function of a `Run`; it fails by raising `Failed`."""

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from agents import Connect
from stage import KEY, Stage, wait_until

# Seconds for one CLI and one question. Continue was seen to take 103 s for a stream that always breaks, on a busy machine.
LIMIT_S = 300
# Seconds for the gateway to tell the backend that the client has left. Chosen.
ABORT_S = 10
# How long a client may hear nothing when a sign of life is due each second. Chosen: leaves a busy machine two more.
SILENCE_MOST_S = 3
# Such that the answer to "Write a binary search" takes a minute, and the greeting seven seconds.
SLOWLY = ["--pace-us", "200000"]
# One for the conversation, and one for what some ask beside it.
PLACES = 2
# More than one word: Cline takes a single one for a command.
GREETING = "Who are you?"
# In a file of the CLI's working folder, and nowhere else.
SECRET = "the secret word is xyzzy"


class Failed(Exception):
    pass


class Run:
    """One CLI in one scenario."""

    def __init__(self, agent, binary, cache):
        self.agent, self.binary, self.cache = agent, binary, cache
        self.code, self.out, self.err = None, "", ""

    def stage(self, **settings):
        return Stage(self.binary, self.cache, **settings)

    def ask(self, stage, prompt, *later, key=KEY, when=None):
        """Has the CLI answer a prompt, and each later one in the same conversation; `when` is called with its process once
        it runs."""
        with tempfile.TemporaryDirectory(prefix="loopgate-agents-home-") as folder:
            home = Path(folder)
            (home / "work").mkdir()
            (home / "work/note.txt").write_text(SECRET + "\n")
            connect = Connect(self.binary, home, stage.url, key)
            environment = {**connect.environment, "TERM": "dumb", "NO_COLOR": "1"}
            environment |= self.agent.configure(home, connect)
            prompts = [text.replace("FILE", str(home / "work/note.txt")) for text in (prompt, *later)]
            for command, typed in self.agent.conversation(home, prompts):
                self._run([str(part) for part in command], typed, home / "work", environment, when)
            self.talk = [asked for asked in stage.front.asked() if not self.agent.aside(asked.body)]
            self.calls = [asked for asked in stage.back.asked() if not self.agent.aside(asked.body)]

    def _run(self, command, typed, folder, environment, when):
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, errors="replace", start_new_session=True,
            stdin=subprocess.PIPE if typed else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        try:
            if when:
                when(process)
            self.out, self.err = process.communicate(typed or None, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {LIMIT_S} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                self.out, self.err = process.communicate()
        self.code = process.returncode

    def check(self, claim, what):
        if not claim:
            raise Failed(what)

    def answered(self, text):
        self.check(self.code == 0, f"exit code {self.code}")
        self.check(text in self.out, f"`{text}` is not in its output")

    def counts(self, requests, calls):
        self.check(len(self.talk) == requests, f"{len(self.talk)} requests, not {requests}")
        self.check(len(self.calls) == calls, f"{len(self.calls)} model calls, not {calls}")
        bodies = [asked.raw for asked in self.talk]
        self.check(len(set(bodies)) == len(bodies), "the same request was sent again")

    def executed(self, stage, count):
        """So many programs in the conversation itself: with `offer = "always"` a title's request may run some too."""
        answers = b"".join(asked.answer for asked in self.talk)
        ours = [line for line in stage.executions() if line["request_id"].encode() in answers]
        self.check(len(ours) == count, f"{len(ours)} executions, not {count}")

    def restored(self, request, result):
        """This request is told a result that its client does not have."""
        asked = self.talk[request]
        self.check(b"execute_code" not in asked.raw, "the CLI sent back a call that it was not to see")
        call = next(call for call in self.calls if call.body["messages"][-1] == asked.body["messages"][-1])
        results = [message["content"] for message in call.body["messages"] if message["role"] == "tool"]
        self.check(any(result in text for text in results), f"of {results}, none is {result}")

    def comes_back(self, stage, status, held):
        """It is refused with this status once or more; once what is held is let go it has its answer, or its user sees an
        error."""
        def relieve(_):
            aside = self.agent.aside
            seen = lambda: any(asked.status == status and not aside(asked.body) for asked in stage.front.asked())
            self.check(wait_until(seen, LIMIT_S), f"nothing was refused with {status}")
            for place in held:
                place.close()

        self.ask(stage, GREETING, when=relieve)
        statuses = [asked.status for asked in self.talk]
        self.check(set(statuses) <= {status, 200}, f"it was answered with {statuses}")
        if 200 not in statuses:
            return self.ended_badly(self.agent.sends_max["refused"])
        self.answered("I am Loopgate's scripted demo model")
        return f"answered at send {len(statuses)}"

    def ended_badly(self, bound):
        self.check(len(self.talk) >= 1, "it asked nothing")
        self.check(len(self.talk) <= bound, f"{len(self.talk)} sends, more than {bound}")
        # Some CLIs end with 0 after an error; their user must still see that there was one.
        seen = (self.out + self.err).lower()
        self.check(self.code != 0 or "error" in seen or "fail" in seen, "it shows no error")
        return f"{len(self.talk)} sends, exit code {self.code}"

    def said(self):
        return "\n".join("      " + line[:200] for line in (self.out[-1500:] + self.err[-1500:]).splitlines())


def own_tool(agent):
    name, arguments = agent.tool
    return name, json.dumps(arguments)


def plain(run):
    """A plain answer: its text, exit code 0, one model call."""
    with run.stage() as stage:
        run.ask(stage, GREETING)
        run.answered("I am Loopgate's scripted demo model")
        run.counts(requests=1, calls=1)
    return "1 request, 1 model call"


def hidden(run):
    """The gateway runs the program; the CLI sees an answer and no call."""
    with run.stage(offer="always") as stage:
        run.ask(stage, "First compute 12 + 30, then multiply the result by 5")
        run.answered("210")
        run.counts(requests=1, calls=3)
        run.executed(stage, 2)
        run.check(b'"tool_calls"' not in run.talk[0].answer, "the CLI was shown a tool call")
    return "1 request, 3 model calls, 2 programs"


def own(run):
    """A tool of the CLI's own: it runs it and comes back with the result."""
    name, arguments = own_tool(run.agent)
    with run.stage() as stage:
        run.ask(stage, f"Use the tool {name} with {arguments}")
        run.answered(SECRET)
        run.counts(requests=2, calls=2)
        run.check(not stage.executions(), "the gateway ran something")
    return f"{name}; 2 requests, 2 model calls"


def mixed(run):
    """A program of the gateway's and a tool of the CLI's in one answer, and what follows."""
    name, arguments = own_tool(run.agent)
    with run.stage(offer="always") as stage:
        run.ask(stage, f"Use {name} with {arguments} and run 1 + 2")
        run.answered(SECRET)
        run.counts(requests=2, calls=2)
        run.executed(stage, 1)
        run.restored(1, "3")
    return f"execute_code and {name}; 2 requests, 2 model calls, 1 program"


def memory(run):
    """Two turns: what the first one ran is there in the second, for the model alone."""
    with run.stage(offer="always") as stage:
        # Equal results, since qwen-code asks the last one first.
        run.ask(stage, "What is 12 * 34?", "What is 34 * 12?")
        run.answered("408")
        run.counts(requests=2, calls=4)
        run.executed(stage, 2)
        run.restored(1, "408")
    return "2 requests, 4 model calls, 2 programs"


def wrong_key(run):
    """401 ends it."""
    with run.stage() as stage:
        run.ask(stage, GREETING, key="wrong")
        run.check(all(asked.status == 401 for asked in run.talk), "a wrong key was let in")
        run.check(not run.calls, "a wrong key reached the backend")
        return run.ended_badly(run.agent.sends_max["401"])


def limited(run):
    """429 while other requests have the caller's places."""
    with run.stage(mock=SLOWLY, running_max=PLACES) as stage:
        held = [stage.hold(stage.front) for _ in range(PLACES)]
        return run.comes_back(stage, 429, held)


def full(run):
    """503 while other requests have the backend's places."""
    with run.stage(mock=[*SLOWLY, "--running-max", str(PLACES), "--queue-max", "0"]) as stage:
        held = [stage.hold(stage.back) for _ in range(PLACES)]
        return run.comes_back(stage, 503, held)


def broken(run):
    """The backend dies in the middle of every stream."""
    with run.stage(mock=["--fault", "die-after=3"]) as stage:
        run.ask(stage, "Write a binary search")
        return run.ended_badly(run.agent.sends_max["broken"])


def slow(run):
    """A program sleeps for several seconds: the CLI waits and does not send again."""
    with run.stage(offer="always", heartbeat_ms=1000) as stage:
        run.ask(stage, "Sleep for 6 seconds")
        run.answered("slept")
        run.counts(requests=1, calls=2)
        # No CLI that is run here gives up so soon: without signs of life it would be six seconds, and nobody would notice.
        longest = max(asked.silence_s for asked in stage.front.asked())
        run.check(longest <= SILENCE_MOST_S, f"{longest:.1f} s without a byte")
    return "6 s without text; 1 request"


def cancel(run):
    """SIGINT in the middle of an answer: the backend's request is closed and aborted."""
    with run.stage(mock=["--pace-us", "500000"]) as stage:
        def interrupt(process):
            aside = run.agent.aside
            begun = lambda: any(b"content" in asked.answer and not aside(asked.body) for asked in stage.back.asked())
            run.check(wait_until(begun, LIMIT_S), "no answer began")
            os.killpg(process.pid, signal.SIGINT)

        run.ask(stage, "Write a binary search", when=interrupt)
        closed = wait_until(lambda: all(asked.end == "left" for asked in run.calls), ABORT_S)
        run.check(closed, f"the backend's request ended as {[asked.end for asked in run.calls]}")
        rids = {asked.body.get("rid") for asked in run.calls}
        aborted = wait_until(lambda: rids <= {abort.body["rid"] for abort in stage.back.aborts()}, ABORT_S)
        run.check(aborted, f"{len(stage.back.aborts())} aborts for {len(rids)} requests")
    return f"closed and aborted; exit code {run.code}"


class Scenario:
    def __init__(self, name, play):
        self.name, self.play = name, play

    def __call__(self, run):
        return self.play(run)


ALL = [
    Scenario("plain", plain), Scenario("hidden", hidden), Scenario("own tool", own), Scenario("mixed", mixed),
    Scenario("memory", memory), Scenario("wrong key", wrong_key), Scenario("limited", limited),
    Scenario("full", full), Scenario("broken", broken), Scenario("slow", slow), Scenario("cancel", cancel),
]
