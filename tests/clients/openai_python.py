"""What openai-python sees of a gateway. Prints one JSON object, of the same form as openai_node.mjs does.

usage: openai_python.py BASE_URL SCENE
Ends when stdin does. The key is that of OPENAI_API_KEY.
"""

import json
import os
import sys

import openai

EXECUTE_CODE = {
    "type": "function",
    "function": {
        "name": "execute_code",
        "description": "Execute Python code and return the result",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The Python code to execute"}},
            "required": ["code"],
        },
    },
}
READ_FILE = {
    "type": "function",
    "function": {
        "name": "read_file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
FACTORIAL = "Calculate the factorial of 10 using Python"


def user(text):
    return {"role": "user", "content": text}


def asked(text, model="qwen3-coder", **more):
    return {"model": model, "messages": [user(text)], **more}


def whole(client, request):
    return seen(client.chat.completions.create(**request))


def seen(completion):
    """A completion as the tests compare it."""
    choice = completion.choices[0]
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "calls": [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or []],
        "executed": (choice.message.model_extra or {}).get("executed_tools") or [],
        "tokens": completion.usage.total_tokens if completion.usage else None,
    }


def streamed(client, request):
    """The same from chunks, put together by hand as most programs do it."""
    text, finish, calls, executed, tokens = "", None, {}, [], None
    stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        if chunk.usage:
            tokens = chunk.usage.total_tokens
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            executed += (choice.delta.model_extra or {}).get("executed_tools") or []
            for call in choice.delta.tool_calls or []:
                known = calls.setdefault(call.index, ["", ""])
                known[0] += call.function.name or ""
                known[1] += call.function.arguments or ""
    return {
        "text": text or None,
        "finish": finish,
        "calls": [calls[index] for index in sorted(calls)],
        "executed": executed,
        "tokens": tokens,
    }


def accumulated(client, request):
    """The same from chunks, put together by the SDK."""
    with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
        for _ in stream:
            pass
        return seen(stream.get_final_completion())


def each_way(client, request):
    ways = {"whole": whole, "streamed": streamed, "accumulated": accumulated}
    return {name: way(client, request) for name, way in ways.items()}


# === the scenes ===


def plain(base_url):
    return each_way(client_of(base_url), asked("Hello"))


def hidden(base_url):
    return each_way(client_of(base_url), asked(FACTORIAL))


def page(base_url):
    """The client examples of SGLang's Qwen3-Coder page: chat, and a declared execute_code."""
    client = openai.OpenAI(api_key="EMPTY", base_url=base_url, timeout=3600)
    binary_search = client.chat.completions.create(
        model="Qwen/Qwen3-Coder-480B-A35B-Instruct",
        messages=[user("Write a binary search function in Python, with docstring and type hints.")],
        max_tokens=2048,
        temperature=0.7,
    )
    factorial = client.chat.completions.create(
        model="Qwen/Qwen3-Coder-30B-A3B-Instruct",
        messages=[user(FACTORIAL)],
        tools=[EXECUTE_CODE],
        temperature=0.7,
    )
    return {"chat": seen(binary_search), "tool": seen(factorial)}


def client_executes(base_url):
    client = client_of(base_url, default_headers={"x-loopgate-execute": "client"})
    return each_way(client, asked(FACTORIAL, tools=[EXECUTE_CODE]))


def own_tool(base_url):
    """A tool of the client's: the call, and the answer to its result."""
    client = client_of(base_url)
    request = asked('Use the tool read_file with {"path": "notes.txt"}', tools=[READ_FILE])
    calls = each_way(client, request)
    message = client.chat.completions.create(**request).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "buy milk"}
    request["messages"] += [message.model_dump(exclude_none=True), result]
    return {"calls": calls, "answers": each_way(client, request)}


def unknown_model(base_url):
    return raised(client_of(base_url), asked("Hello", model="gpt-nothing"))


def bad_request(base_url):
    return raised(client_of(base_url), {"model": "qwen3-coder", "messages": "Hello"})


def failing(base_url):
    return raised(client_of(base_url), asked("Hello"))


def leaving(base_url):
    """Leaves a stream in its middle. The process does not end with it."""
    with client_of(base_url).chat.completions.create(**asked("Write a binary search"), stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                return {"heard": chunk.choices[0].delta.content}


def client_of(base_url, **more):
    key = os.environ.get("OPENAI_API_KEY", "EMPTY")
    return openai.OpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=30, **more)


def raised(client, request):
    """What is raised, and how much text came before it."""
    ways = {}
    for way in ("whole", "streamed"):
        text = ""
        try:
            answer = client.chat.completions.create(**request, stream=way == "streamed")
            if way == "streamed":
                for chunk in answer:
                    text += chunk.choices[0].delta.content or ""
            ways[way] = {"error": None, "text": text}
        except openai.APIError as error:
            ways[way] = {
                "error": type(error).__name__,
                "status": getattr(error, "status_code", None),
                "code": error.code,
                "text": text,
            }
    return ways


SCENES = [plain, hidden, page, client_executes, own_tool, unknown_model, bad_request, failing, leaving]

if __name__ == "__main__":
    base_url, name = sys.argv[1:]
    scene = next(scene for scene in SCENES if scene.__name__ == name)
    print(json.dumps(scene(base_url)), flush=True)
    sys.stdin.read()
