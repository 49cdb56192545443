// openai-node.

import OpenAI from "openai";
import { serve } from "./driver.mjs";

async function ask(job, history, heard, fetch) {
  const client = new OpenAI({
    apiKey: job.key,
    baseURL: job.base_url,
    defaultHeaders: job.headers,
    maxRetries: 0,
    timeout: 60_000,
    fetch,
  });
  const request = { model: job.model, messages: history, ...job.options };
  if (job.tools.length > 0) request.tools = job.tools;
  return { whole, streamed, accumulated }[job.way](client.chat.completions, request, heard);
}

async function whole(completions, request) {
  return seen(await completions.create(request));
}

/** From chunks, put together by the SDK. */
async function accumulated(completions, request, heard) {
  const stream = completions.stream({ ...request, stream_options: { include_usage: true } });
  stream.on("content", (text) => {
    if (heard(text)) stream.abort();
  });
  return seen(await stream.finalChatCompletion());
}

function seen(completion) {
  const { message, finish_reason: finish } = completion.choices[0];
  const answer = {
    text: message.content ?? "",
    finish,
    calls: (message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function })),
    executed: message.executed_tools ?? [],
    tokens: completion.usage?.total_tokens ?? null,
  };
  return { answer, messages: [message] };
}

/** From chunks, put together by hand as most programs do it. */
async function streamed(completions, request, heard) {
  const answer = { text: "", finish: null, calls: [], executed: [], tokens: null };
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await completions.create({ ...request, ...options })) {
    answer.tokens = chunk.usage?.total_tokens ?? answer.tokens;
    for (const { delta, finish_reason } of chunk.choices) {
      if (heard(delta.content)) return {};
      answer.text += delta.content ?? "";
      answer.finish = finish_reason ?? answer.finish;
      answer.executed.push(...(delta.executed_tools ?? []));
      for (const call of delta.tool_calls ?? []) {
        const known = (answer.calls[call.index] ??= { id: call.id, name: "", arguments: "" });
        known.name += call.function.name ?? "";
        known.arguments += call.function.arguments ?? "";
      }
    }
  }
  const message = { role: "assistant", content: answer.text };
  if (answer.calls.length > 0) {
    message.tool_calls = answer.calls.map(({ id, ...call }) => ({ id, type: "function", function: call }));
  }
  return { answer, messages: [message] };
}

serve({ ask, result: (call, text) => ({ role: "tool", tool_call_id: call.id, content: text }) });
