"""Has an SDK carry out conversations: reads them from stdin, one JSON object a line, and prints what was seen of each.

They run side by side, since most of their time is waiting. After the end of stdin no more begin. What a conversation is,
and what is said in it, is in tests/it/sdks.rs and clients.rs. An SDK is one function:

    ask(job, history, heard) -> (answer, message)

`history` holds OpenAI's messages, and what came as `message` from earlier answers. `heard` is called with each piece of
text of a stream.
"""

import json
import sys
import threading


class Left(Exception):
    """The client has heard enough."""


class Heard:
    """The text of a stream, as it comes."""

    def __init__(self, job):
        self.text = ""
        self.leaves = job["leaves"]

    def __call__(self, text):
        self.text += text or ""
        if self.leaves and self.text:
            raise Left


def serve(ask):
    printing = threading.Lock()

    def carry_out(line):
        job = json.loads(line)
        seen = json.dumps({"number": job["number"], "seen": converse(ask, job)})
        with printing:
            print(seen, flush=True)

    for line in sys.stdin:
        threading.Thread(target=carry_out, args=[line]).start()


def converse(ask, job):
    history, answers = [], []

    def turn():
        heard.text = ""
        answer, message = ask(job, history, heard)
        answers.append(answer)
        history.append(message)
        return answer["calls"]

    heard, error = Heard(job), None
    try:
        for text in job["turns"]:
            history.append({"role": "user", "content": text})
            calls = turn()
            if calls and job["result"] is not None:
                history.extend({"role": "tool", "tool_call_id": call["id"], "content": job["result"]} for call in calls)
                turn()
    except Left:
        pass
    except Exception as raised:
        error = {
            "name": type(raised).__name__,
            "status": getattr(raised, "status_code", None),
            "code": getattr(raised, "code", None),
            "message": str(raised),
        }
    return {"answers": answers, "heard": heard.text, "error": error}
