// Has an SDK carry out conversations; see driver.py, which does the same. An SDK is two functions:
//
//   ask(job, history, heard, fetch) -> { answer, messages }
//   result(call, text) -> a message
//
// `fetch` gives up when nothing comes for `idle_ms`. `heard` returns true when the client is to leave.

import { createInterface } from "node:readline";

export function serve({ ask, result }) {
  createInterface({ input: process.stdin }).on("line", async (line) => {
    const job = JSON.parse(line);
    console.log(JSON.stringify({ number: job.number, seen: await converse({ ask, result }, job) }));
  });
}

async function converse({ ask, result }, job) {
  const history = [];
  const seen = { answers: [], heard: "", error: null };
  const heard = (text) => {
    seen.heard += text ?? "";
    return job.leaves && seen.heard !== "";
  };
  const turn = async () => {
    seen.heard = "";
    const { answer, messages } = await ask(job, history, heard, impatient(job.idle_ms));
    if (answer) seen.answers.push(answer);
    history.push(...(messages ?? []));
    return answer?.calls ?? [];
  };
  try {
    for (const text of job.turns) {
      history.push({ role: "user", content: text });
      const calls = await turn();
      if (calls.length > 0 && job.result !== null) {
        history.push(...calls.map((call) => result(call, job.result)));
        await turn();
      }
    }
  } catch (raised) {
    // What comes as an error inside a stream, ai-sdk hands on as it is: no Error, but a text.
    const error = raised instanceof Error ? raised : new Error(JSON.stringify(raised));
    seen.error = {
      // openai-node names only the class, ai-sdk only the instance.
      name: error.name === "Error" ? error.constructor.name : error.name,
      status: error.status ?? error.statusCode ?? null,
      code: error.code ?? error.data?.error?.code ?? null,
      message: String(error),
    };
  }
  return seen;
}

/** A fetch whose answer breaks off when nothing comes for a while. */
function impatient(idleMs) {
  return async (url, init) => {
    const idle = new AbortController();
    const timer = setTimeout(() => idle.abort(new Error(`nothing came for ${idleMs} ms`)), idleMs);
    // Not AbortSignal.any: Node 18 has none.
    init.signal?.addEventListener("abort", () => idle.abort(init.signal.reason));
    try {
      const response = await fetch(url, { ...init, signal: idle.signal });
      const chunks = new TransformStream({
        transform(chunk, controller) {
          timer.refresh();
          controller.enqueue(chunk);
        },
        flush: () => clearTimeout(timer),
      });
      return new Response(response.body?.pipeThrough(chunks), response);
    } catch (error) {
      clearTimeout(timer);
      throw error;
    }
  };
}
