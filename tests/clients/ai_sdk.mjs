// Vercel's ai-sdk: `ai` with `@ai-sdk/openai-compatible`.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";
import { serve } from "./driver.mjs";

async function ask(job, history, heard, fetch) {
  const provider = createOpenAICompatible({
    name: "loopgate",
    apiKey: job.key,
    baseURL: job.base_url,
    headers: job.headers,
    includeUsage: true,
    fetch,
  });
  const leave = new AbortController();
  const request = {
    model: provider(job.model),
    messages: [...history],
    temperature: job.options.temperature,
    maxOutputTokens: job.options.max_tokens,
    maxRetries: 0,
    abortSignal: leave.signal,
  };
  if (job.tools.length > 0) request.tools = Object.fromEntries(job.tools.map(toolOf));
  if (job.way === "whole") return seen(await generateText(request));

  // Its default writes errors to stderr; they come in the stream as well.
  const result = streamText({ ...request, onError: () => {} });
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta" && heard(part.text)) {
      // Leaving the loop would not do: the stream is teed, and the other branch reads on.
      leave.abort();
      return {};
    }
  }
  const { text, finishReason, toolCalls, usage, response } = result;
  return seen({
    text: await text,
    finishReason: await finishReason,
    toolCalls: await toolCalls,
    usage: await usage,
    response: await response,
  });
}

function toolOf({ function: { name, description, parameters } }) {
  return [name, tool({ description, inputSchema: jsonSchema(parameters) })];
}

function seen({ text, finishReason, toolCalls, usage, response }) {
  const answer = {
    text,
    // It says `tool-calls`.
    finish: finishReason.replace("-", "_"),
    calls: toolCalls.map((call) => ({
      id: call.toolCallId,
      name: call.toolName,
      arguments: JSON.stringify(call.input),
    })),
    // It drops members that it does not know.
    executed: null,
    tokens: usage.totalTokens ?? null,
  };
  return { answer, messages: response.messages };
}

function result(call, text) {
  const output = { type: "text", value: text };
  return { role: "tool", content: [{ type: "tool-result", toolCallId: call.id, toolName: call.name, output }] };
}

serve({ ask, result });
