//! Whose is which tool: what the gateway owns in a request, what it offers, and what the backend is told of both.

use crate::chat::{Ask, Execute, Failure, FailureKind, ToolChoice, ToolSpec};
use crate::policy::{Offer, Policy};
use crate::tools::{Tool, Tools};
use bytes::Bytes;

/// The tool that stands for OpenAI's `{"type":"code_interpreter"}`.
const CODE_INTERPRETER: &str = "execute_code";

/// How a request's tools are shared out.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Names whose calls the gateway runs. Empty: the gateway cannot act.
    pub owned: Vec<String>,
    /// Every tool that the model knows of, for reading its calls.
    pub specs: Vec<ToolSpec>,
}

/// Shares out the tools of `ask` and writes the result into its body where that changes anything.
///
/// # Errors
/// When several answers are wanted (`n`) and the gateway would have to run calls for each.
pub(super) fn share(ask: &mut Ask, tools: &Tools, policy: &Policy) -> Result<Share, Failure> {
    ask.body.remove("loopgate");
    let sent = ask.tools.clone().unwrap_or_default();
    let mut share = Share::default();
    let mut changed = false;
    for spec in sent {
        let interpreter = spec.parameters.is_none() && spec.name == "code_interpreter";
        let known = tools.get(if interpreter { CODE_INTERPRETER } else { &spec.name });
        match known {
            Some(tool) if interpreter => {
                changed = true;
                if ask.execute == Some(Execute::Off) {
                    continue;
                }
                if owns(ask, policy, tool) {
                    share.owned.push(tool.name.clone());
                }
                share.specs.push(declared(tool));
            }
            Some(tool) if is_ours(ask, &spec, tool) && owns(ask, policy, tool) => {
                share.owned.push(tool.name.clone());
                share.specs.push(spec);
            }
            Some(_) | None => share.specs.push(spec),
        }
    }
    for tool in offered(ask, tools, policy) {
        if !share.specs.iter().any(|spec| spec.name == tool.name) {
            changed = true;
            share.owned.push(tool.name.clone());
            share.specs.push(declared(tool));
        }
    }
    if changed {
        write_tools(ask, &share.specs);
    }
    if ask.tool_choice == ToolChoice::None {
        share.owned.clear();
    }
    if ask.choices > 1 && !share.owned.is_empty() {
        let message = format!(
            "`n` is {}, but calls of `{}` are run by the gateway, which gives one answer; send n = 1, or the header \
             x-loopgate-execute: client to get the calls yourself",
            ask.choices,
            share.owned.join("`, `")
        );
        return Err(Failure::new(FailureKind::Invalid, message));
    }
    Ok(share)
}

/// A tool of the request is the gateway's when name and parameters are, or when the request says so.
fn is_ours(ask: &Ask, spec: &ToolSpec, tool: &Tool) -> bool {
    ask.execute == Some(Execute::Gateway)
        || spec.parameters.as_ref().is_some_and(|parameters| tool.matches(&spec.name, parameters))
}

fn owns(ask: &Ask, policy: &Policy, tool: &Tool) -> bool {
    !matches!(ask.execute, Some(Execute::Client | Execute::Off)) && policy.grants(&tool.name)
}

/// The gateway's tools that this request gets although it does not bring them.
fn offered<'a>(ask: &Ask, tools: &'a Tools, policy: &Policy) -> Vec<&'a Tool> {
    let wanted = match (ask.execute, policy.offer) {
        (Some(Execute::Client | Execute::Off), _) | (None, Offer::Never) => false,
        (Some(Execute::Gateway), _) | (None, Offer::Always) => true,
        (None, Offer::WhenNoTools) => ask.tools.is_none(),
    };
    let barred = ask.tool_choice == ToolChoice::None
        || ask.choices > 1
        || ask.plain_only.is_some()
        || ask.tools.as_ref().is_some_and(Vec::is_empty);
    if !wanted || barred {
        return Vec::new();
    }
    tools.iter().map(|tool| &**tool).filter(|tool| policy.grants(&tool.name)).collect()
}

fn declared(tool: &Tool) -> ToolSpec {
    ToolSpec { name: tool.name.clone(), parameters: Some(tool.schema.clone()), text: tool.declaration() }
}

fn write_tools(ask: &mut Ask, specs: &[ToolSpec]) {
    if specs.is_empty() {
        ask.body.remove("tools");
        return;
    }
    let texts: Vec<&[u8]> = specs.iter().map(|spec| &spec.text[..]).collect();
    ask.body.set("tools", Bytes::from([b"[", &texts.join(&b","[..])[..], b"]"].concat()));
}
