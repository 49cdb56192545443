//! The clients that `loopgate connect` knows: one entry each. `docs/clients.md` shows the same texts; a test compares them.
//!
//! In a text, `<URL>` is the gateway's base URL without `/v1`, `<MODEL>` the model's name and `<KEY>` the name of the
//! environment variable that holds the key.

/// A client and how it is told of the gateway.
pub struct Client {
    /// As `loopgate connect` takes it.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Where the text belongs.
    pub place: Place,
    /// What it needs to be told.
    pub text: &'static str,
    /// What is left to do.
    pub then: &'static str,
}

/// Where a client's text belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A JSON file, relative to the home folder: the text is merged into what is there.
    Json(&'static str),
    /// A YAML file, relative to the home folder: written if there is none. Merging would lose comments.
    Yaml(&'static str),
    /// Nowhere that a program could write to: a shell, a user's own program, a window.
    Shown,
}

/// All of them, the agents first.
pub const CLIENTS: &[Client] = &[
    Client {
        name: "qwen-code",
        about: "Qwen Code, the agent CLI",
        place: Place::Json(".qwen/settings.json"),
        text: r#"{
  "modelProviders": {
    "openai": [
      {
        "id": "<MODEL>",
        "name": "<MODEL> (Loopgate)",
        "baseUrl": "<URL>/v1",
        "envKey": "<KEY>"
      }
    ]
  }
}"#,
        then: "export <KEY>=…, then: qwen --auth-type openai -m <MODEL>",
    },
    Client {
        name: "opencode",
        about: "opencode, the agent CLI",
        place: Place::Json(".config/opencode/opencode.json"),
        text: r#"{
  "provider": {
    "loopgate": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "Loopgate",
      "options": {
        "baseURL": "<URL>/v1",
        "apiKey": "{env:<KEY>}"
      },
      "models": {
        "<MODEL>": {}
      }
    }
  }
}"#,
        then: "export <KEY>=…, then: opencode -m loopgate/<MODEL>",
    },
    Client {
        name: "continue",
        about: "Continue, in editors and as `cn`",
        place: Place::Yaml(".continue/config.yaml"),
        text: r"name: Loopgate
version: 1.0.0
schema: v1
models:
  - name: <MODEL> (Loopgate)
    provider: openai
    model: <MODEL>
    apiBase: <URL>/v1
    apiKey: ${{ secrets.<KEY> }}
    roles: [chat, edit, apply]
    capabilities: [tool_use]",
        then: "put <KEY>=… into ~/.continue/.env, then: cn",
    },
    Client {
        name: "cline",
        about: "Cline's CLI; its extension has the same fields in its settings",
        place: Place::Shown,
        text: r#"cline auth -p openai-compatible -k "$<KEY>" -m '<MODEL>' -b <URL>/v1"#,
        then: "cline keeps the key in a file of its own; then: cline -P openai-compatible -m <MODEL>",
    },
    Client {
        name: "aider",
        about: "aider, the agent CLI that edits by text",
        place: Place::Shown,
        text: r#"export OPENAI_API_BASE=<URL>/v1
export OPENAI_API_KEY="$<KEY>"
aider --model 'openai/<MODEL>+plain'"#,
        then: "",
    },
    Client {
        name: "zed",
        about: "Zed, the editor",
        place: Place::Json(".config/zed/settings.json"),
        text: r#"{
  "language_models": {
    "openai_compatible": {
      "Loopgate": {
        "api_url": "<URL>/v1",
        "available_models": [
          {
            "name": "<MODEL>",
            "display_name": "<MODEL> (Loopgate)",
            "max_tokens": 262144
          }
        ]
      }
    }
  }
}"#,
        then: "Zed takes the key from LOOPGATE_API_KEY, whose name it makes of the provider's, or from its settings window",
    },
    Client {
        name: "copilot",
        about: "Copilot Chat in VS Code, as a custom endpoint",
        place: Place::Shown,
        text: r#"[
  {
    "name": "Loopgate",
    "vendor": "customendpoint",
    "apiType": "chat-completions",
    "models": [
      {
        "id": "<MODEL>",
        "name": "<MODEL> (Loopgate)",
        "url": "<URL>/v1/chat/completions",
        "toolCalling": true,
        "vision": false,
        "maxInputTokens": 229376,
        "maxOutputTokens": 32768
      }
    ]
  }
]"#,
        then: "Chat: Manage Language Models, Add, Custom Endpoint; give it the key there, and the rest in the file that it opens",
    },
    Client {
        name: "open-webui",
        about: "Open WebUI, as a container",
        place: Place::Shown,
        text: r#"docker run -d --network host -e PORT=3000 \
  -e OPENAI_API_BASE_URL=<URL>/v1 -e OPENAI_API_KEY="$<KEY>" \
  -v open-webui:/app/backend/data --name open-webui ghcr.io/open-webui/open-webui:main"#,
        then: "",
    },
    Client {
        name: "openai-python",
        about: "OpenAI's Python SDK",
        place: Place::Shown,
        text: r#"import os
from openai import OpenAI

client = OpenAI(base_url="<URL>/v1", api_key=os.environ["<KEY>"])
answer = client.chat.completions.create(model="<MODEL>", messages=[{"role": "user", "content": "What is 12 * 34?"}])
print(answer.choices[0].message.content)"#,
        then: "",
    },
    Client {
        name: "openai-node",
        about: "OpenAI's JavaScript SDK",
        place: Place::Shown,
        text: r#"import OpenAI from "openai";

const client = new OpenAI({ baseURL: "<URL>/v1", apiKey: process.env.<KEY> });
const messages = [{ role: "user", content: "What is 12 * 34?" }];
const answer = await client.chat.completions.create({ model: "<MODEL>", messages });
console.log(answer.choices[0].message.content);"#,
        then: "",
    },
    Client {
        name: "ai-sdk",
        about: "Vercel's AI SDK",
        place: Place::Shown,
        text: r#"import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";

const loopgate = createOpenAICompatible({ name: "loopgate", baseURL: "<URL>/v1", apiKey: process.env.<KEY> });
const { text } = await generateText({ model: loopgate("<MODEL>"), prompt: "What is 12 * 34?" });
console.log(text);"#,
        then: "",
    },
    Client {
        name: "langchain",
        about: "LangChain for Python",
        place: Place::Shown,
        text: r#"import os
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="<MODEL>", base_url="<URL>/v1", api_key=os.environ["<KEY>"])
print(model.invoke("What is 12 * 34?").content)"#,
        then: "",
    },
    Client {
        name: "llm",
        about: "llm, the command line by Simon Willison",
        place: Place::Shown,
        text: r#"cat >> "$(dirname "$(llm logs path)")/extra-openai-models.yaml" <<'END'
- model_id: loopgate
  model_name: <MODEL>
  api_base: <URL>/v1
  api_key_name: loopgate
  supports_tools: true
END
llm keys set loopgate --value "$<KEY>"
llm -m loopgate 'What is 12 * 34?'"#,
        then: "",
    },
    Client {
        name: "curl",
        about: "curl",
        place: Place::Shown,
        text: r#"curl -N <URL>/v1/chat/completions \
  -H "authorization: Bearer $<KEY>" -H 'content-type: application/json' \
  -d '{"model": "<MODEL>", "stream": true, "messages": [{"role": "user", "content": "What is 12 * 34?"}]}'"#,
        then: "",
    },
];
