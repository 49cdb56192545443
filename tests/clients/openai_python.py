"""openai-python."""

import driver
import openai


def ask(job, history, heard):
    client = openai.OpenAI(
        api_key=job["key"],
        base_url=job["base_url"],
        default_headers=job["headers"],
        max_retries=0,
        timeout=openai.Timeout(60, read=job["idle_ms"] / 1000),
    )
    request = {"model": job["model"], "messages": history, **job["options"]}
    if job["tools"]:
        request["tools"] = job["tools"]
    ways = {"whole": whole, "streamed": streamed, "accumulated": accumulated}
    return ways[job["way"]](client.chat.completions, request, heard)


def whole(completions, request, _):
    return seen(completions.create(**request))


def accumulated(completions, request, heard):
    """From chunks, put together by the SDK."""
    with completions.stream(**request, stream_options={"include_usage": True}) as stream:
        for event in stream:
            if event.type == "content.delta":
                heard(event.delta)
        return seen(stream.get_final_completion())


def seen(completion):
    choice = completion.choices[0]
    answer = {
        "text": choice.message.content or "",
        "finish": choice.finish_reason,
        "calls": [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in choice.message.tool_calls or []
        ],
        "executed": (choice.message.model_extra or {}).get("executed_tools") or [],
        "tokens": completion.usage and completion.usage.total_tokens,
    }
    return answer, choice.message.model_dump(exclude_none=True)


def streamed(completions, request, heard):
    """From chunks, put together by hand as most programs do it."""
    answer, calls = {"text": "", "finish": None, "executed": [], "tokens": None}, {}
    with completions.create(**request, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            if chunk.usage:
                answer["tokens"] = chunk.usage.total_tokens
            for choice in chunk.choices:
                delta = choice.delta
                heard(delta.content)
                answer["text"] += delta.content or ""
                answer["finish"] = choice.finish_reason or answer["finish"]
                answer["executed"] += (delta.model_extra or {}).get("executed_tools") or []
                for call in delta.tool_calls or []:
                    known = calls.setdefault(call.index, {"id": call.id, "name": "", "arguments": ""})
                    known["name"] += call.function.name or ""
                    known["arguments"] += call.function.arguments or ""
    answer["calls"] = [calls[index] for index in sorted(calls)]
    return answer, message(answer)


def message(answer):
    """An answer as it goes back in the next request."""
    said = {"role": "assistant", "content": answer["text"]}
    if answer["calls"]:
        said["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in answer["calls"]
        ]
    return said


if __name__ == "__main__":
    driver.serve(ask)
