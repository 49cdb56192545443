"""LangChain's ChatOpenAI, from langchain-openai."""

import json

import driver
import openai
from langchain_openai import ChatOpenAI


def ask(job, history, heard):
    model = ChatOpenAI(
        model=job["model"],
        api_key=job["key"],
        base_url=job["base_url"],
        default_headers=job["headers"],
        max_retries=0,
        timeout=openai.Timeout(60, read=job["idle_ms"] / 1000),
        stream_usage=True,
        **job["options"],
    )
    if job["tools"]:
        model = model.bind_tools(job["tools"])
    said = model.invoke(history) if job["way"] == "whole" else streamed(model, history, heard)
    answer = {
        "text": said.text,
        "finish": said.response_metadata.get("finish_reason"),
        "calls": [
            {"id": call["id"], "name": call["name"], "arguments": json.dumps(call["args"])} for call in said.tool_calls
        ],
        # It drops members that it does not know.
        "executed": None,
        "tokens": said.usage_metadata and said.usage_metadata["total_tokens"],
    }
    return answer, said


def streamed(model, history, heard):
    said = None
    for chunk in model.stream(history):
        said = chunk if said is None else said + chunk
        heard(chunk.text)
    return said


if __name__ == "__main__":
    driver.serve(ask)
