// What openai-node sees of a gateway. Prints one JSON object, of the same form as openai_python.py does.
//
// usage: openai_node.mjs BASE_URL SCENE
// Ends when stdin does. The key is that of OPENAI_API_KEY.

import OpenAI from "openai";

const EXECUTE_CODE = {
  type: "function",
  function: {
    name: "execute_code",
    description: "Execute Python code and return the result",
    parameters: {
      type: "object",
      properties: { code: { type: "string", description: "The Python code to execute" } },
      required: ["code"],
    },
  },
};
const READ_FILE = {
  type: "function",
  function: {
    name: "read_file",
    parameters: { type: "object", properties: { path: { type: "string" } }, required: ["path"] },
  },
};
const FACTORIAL = "Calculate the factorial of 10 using Python";

const user = (content) => ({ role: "user", content });
const asked = (text, more) => ({ model: "qwen3-coder", messages: [user(text)], ...more });

function clientOf(baseURL, more) {
  const apiKey = process.env.OPENAI_API_KEY ?? "EMPTY";
  return new OpenAI({ apiKey, baseURL, maxRetries: 0, timeout: 30_000, ...more });
}

/** A completion as the tests compare it. */
function seen(completion) {
  const { message, finish_reason: finish } = completion.choices[0];
  return {
    text: message.content,
    finish,
    calls: (message.tool_calls ?? []).map((call) => [call.function.name, call.function.arguments]),
    executed: message.executed_tools ?? [],
    tokens: completion.usage?.total_tokens ?? null,
  };
}

async function whole(client, request) {
  return seen(await client.chat.completions.create(request));
}

/** The same from chunks, put together by hand as most programs do it. */
async function streamed(client, request) {
  const all = { text: "", finish: null, calls: [], executed: [], tokens: null };
  const stream = await client.chat.completions.create({
    ...request,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    all.tokens = chunk.usage?.total_tokens ?? all.tokens;
    for (const { delta, finish_reason } of chunk.choices) {
      all.text += delta.content ?? "";
      all.finish = finish_reason ?? all.finish;
      all.executed.push(...(delta.executed_tools ?? []));
      for (const call of delta.tool_calls ?? []) {
        const known = (all.calls[call.index] ??= ["", ""]);
        known[0] += call.function.name ?? "";
        known[1] += call.function.arguments ?? "";
      }
    }
  }
  return { ...all, text: all.text || null };
}

/** The same from chunks, put together by the SDK. */
async function accumulated(client, request) {
  const stream = client.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
  return seen(await stream.finalChatCompletion());
}

async function eachWay(client, request) {
  return {
    whole: await whole(client, request),
    streamed: await streamed(client, request),
    accumulated: await accumulated(client, request),
  };
}

/** What is thrown, and how much text came before it. */
async function thrown(client, request) {
  const ways = {};
  for (const way of ["whole", "streamed"]) {
    let text = "";
    try {
      const answer = await client.chat.completions.create({ ...request, stream: way === "streamed" });
      if (way === "streamed") {
        for await (const chunk of answer) text += chunk.choices[0].delta.content ?? "";
      }
      ways[way] = { error: null, text };
    } catch (error) {
      if (!(error instanceof OpenAI.APIError)) throw error;
      ways[way] = {
        error: error.constructor.name,
        status: error.status ?? null,
        code: error.code ?? null,
        text,
      };
    }
  }
  return ways;
}

// === the scenes ===

const SCENES = {
  plain: (baseURL) => eachWay(clientOf(baseURL), asked("Hello")),

  hidden: (baseURL) => eachWay(clientOf(baseURL), asked(FACTORIAL)),

  /** The client examples of SGLang's Qwen3-Coder page: chat, and a declared execute_code. */
  async page(baseURL) {
    const client = new OpenAI({ apiKey: "EMPTY", baseURL, timeout: 3600_000 });
    const binarySearch = await client.chat.completions.create({
      model: "Qwen/Qwen3-Coder-480B-A35B-Instruct",
      messages: [user("Write a binary search function in Python, with docstring and type hints.")],
      max_tokens: 2048,
      temperature: 0.7,
    });
    const factorial = await client.chat.completions.create({
      model: "Qwen/Qwen3-Coder-30B-A3B-Instruct",
      messages: [user(FACTORIAL)],
      tools: [EXECUTE_CODE],
      temperature: 0.7,
    });
    return { chat: seen(binarySearch), tool: seen(factorial) };
  },

  client_executes(baseURL) {
    const client = clientOf(baseURL, { defaultHeaders: { "x-loopgate-execute": "client" } });
    return eachWay(client, asked(FACTORIAL, { tools: [EXECUTE_CODE] }));
  },

  /** A tool of the client's: the call, and the answer to its result. */
  async own_tool(baseURL) {
    const client = clientOf(baseURL);
    const request = asked('Use the tool read_file with {"path": "notes.txt"}', { tools: [READ_FILE] });
    const calls = await eachWay(client, request);
    const { message } = (await client.chat.completions.create(request)).choices[0];
    request.messages.push(message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: "buy milk" });
    return { calls, answers: await eachWay(client, request) };
  },

  unknown_model: (baseURL) => thrown(clientOf(baseURL), asked("Hello", { model: "gpt-nothing" })),

  bad_request: (baseURL) => thrown(clientOf(baseURL), { model: "qwen3-coder", messages: "Hello" }),

  failing: (baseURL) => thrown(clientOf(baseURL), asked("Hello")),

  /** Leaves a stream in its middle. The process does not end with it. */
  async leaving(baseURL) {
    const request = asked("Write a binary search", { stream: true });
    for await (const chunk of await clientOf(baseURL).chat.completions.create(request)) {
      const heard = chunk.choices[0].delta.content;
      if (heard) return { heard };
    }
  },
};

const [baseURL, name] = process.argv.slice(2);
console.log(JSON.stringify(await SCENES[name](baseURL)));
process.stdin.resume();
