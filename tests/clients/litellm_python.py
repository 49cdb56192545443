"""litellm. It sees OpenAI's objects, so its answers are read as openai-python's are."""

import os

# Else it looks for a newer list on the network when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import driver
import httpx
import litellm
from openai_python import message

litellm.suppress_debug_info = True


def ask(job, history, heard):
    request = {
        "model": "openai/" + job["model"],
        "messages": history,
        "api_key": job["key"],
        "api_base": job["base_url"],
        "extra_headers": job["headers"],
        "max_retries": 0,
        "timeout": httpx.Timeout(60, read=job["idle_ms"] / 1000),
        **job["options"],
    }
    if job["tools"]:
        request["tools"] = job["tools"]
    if job["way"] == "whole":
        return seen(litellm.completion(**request))
    chunks, finish = [], None
    stream = litellm.completion(**request, stream=True, stream_options={"include_usage": True})
    try:
        for chunk in stream:
            chunks.append(chunk)
            for choice in chunk.choices:
                heard(choice.delta.content)
                finish = choice.finish_reason or finish
    finally:
        # Its wrapper has no close() of its own, and a dropped wrapper does not close what it wraps.
        stream.completion_stream.close()
    answer, said = seen(litellm.stream_chunk_builder(chunks))
    # The builder takes the last chunk's, which is that of the usage and has none: it makes `stop` of it.
    return {**answer, "finish": finish}, said


def seen(completion):
    choice = completion.choices[0]
    answer = {
        "text": choice.message.content or "",
        "finish": choice.finish_reason,
        "calls": [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in choice.message.tool_calls or []
        ],
        "executed": None,
        "tokens": completion.usage and completion.usage.total_tokens,
    }
    return answer, message(answer)


if __name__ == "__main__":
    driver.serve(ask)
