//! Whose is which tool: what the gateway owns in a request, what it offers, and what the backend is told of both.

use crate::chat::{Ask, Execute, Failure, FailureKind, ToolChoice, ToolSpec};
use crate::policy::{Offer, Policy};
use crate::tools::{Tool, Tools};
use bytes::Bytes;
use serde_json::{Value, json};

/// OpenAI's own tool for running code, and the tool of ours that stands for it.
const INTERPRETER_TYPE: &str = "code_interpreter";
const INTERPRETER_TOOL: &str = "execute_code";

/// What makes no sense over several model calls: the tokens of hidden ones would be told, and later ones have nothing to
/// continue.
const NOT_IN_TURNS: &[&str] = &["logprobs", "continue_final_message"];

/// In which OpenAI's older clients bring their tools: they are the backend's business, but tools all the same.
const FUNCTIONS: &str = "functions";

/// How a request's tools are shared out.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Names whose calls the gateway runs. Empty: the gateway cannot act.
    pub owned: Vec<String>,
    /// Names whose calls the client runs.
    left: Vec<String>,
    /// Every tool that the model knows of, for reading its calls.
    pub specs: Vec<ToolSpec>,
    /// The backend is to be told something else than what the client sent.
    rewritten: bool,
}

/// Shares out the tools of `ask`.
///
/// # Errors
/// When several answers are wanted (`n`) and the gateway would have to run calls for each, when something is wanted that
/// an answer made of several model calls cannot have, when a name would mean two tools, and when the gateway is told to run
/// calls for a caller that may not use its tools.
pub(super) fn share(ask: &Ask, tools: &Tools, policy: &Policy) -> Result<Share, Failure> {
    may_insist(ask, policy)?;
    let mut share = Share::default();
    for spec in ask.tools.iter().flatten() {
        share.take(ask, tools, policy, spec)?;
    }
    // A call has only its name to tell whose it is: in doubt it is the client's.
    share.owned.retain(|name| !share.left.contains(name));
    let mut insisted = false;
    for tool in offered(ask, tools, policy) {
        if !share.has(&tool.name) {
            insisted = ask.execute == Some(Execute::Gateway);
            share.rewritten = true;
            share.add(declared(tool), true);
        }
    }
    if ask.tool_choice == ToolChoice::None {
        share.owned.clear();
    }
    let is_barred = |member: &&str| (insisted || NOT_IN_TURNS.contains(member)) && !share.owned.is_empty();
    if let Some(member) = ask.plain_only.filter(is_barred) {
        let message = format!(
            "`{member}` is set, but calls of `{}` are run by the gateway, whose answer is made of several model calls; leave \
             it out",
            share.owned.join("`, `")
        );
        return Err(Failure::new(FailureKind::Invalid, message).param(member).unless_client_runs());
    }
    if ask.choices > 1 && !share.owned.is_empty() {
        let message = format!(
            "`n` is {}, but calls of `{}` are run by the gateway, which gives one answer; send n = 1",
            ask.choices,
            share.owned.join("`, `")
        );
        return Err(Failure::new(FailureKind::Invalid, message).param("n").unless_client_runs());
    }
    Ok(share)
}

/// A request that leaves the choice to the gateway is served without its tools; one that insists on them would get an
/// answer that looks as if the model had not wanted any.
fn may_insist(ask: &Ask, policy: &Policy) -> Result<(), Failure> {
    let (what, lacks) = if ask.execute == Some(Execute::Gateway) && policy.granted().next().is_none() {
        ("the gateway is told to run calls (`execute: gateway`)", "no tool".to_owned())
    } else if forces_interpreter(ask) && !policy.grants(INTERPRETER_TOOL) {
        ("`tool_choice` asks for a code_interpreter", format!("no `{INTERPRETER_TOOL}`"))
    } else {
        return Ok(());
    };
    let message =
        format!("{what}, but policy `{}` grants this caller {lacks}; send the request without it", policy.name);
    Err(Failure::new(FailureKind::Forbidden, message))
}

fn forces_interpreter(ask: &Ask) -> bool {
    let choice: Option<Value> = ask.body.read("tool_choice").ok().flatten();
    choice.is_some_and(|choice| choice["type"] == INTERPRETER_TYPE)
}

impl Share {
    /// Writes the outcome into the request's body. Nothing is touched that says the same already.
    pub fn write(&self, ask: &mut Ask) {
        ask.body.remove("loopgate");
        if !self.rewritten {
            return;
        }
        if self.specs.is_empty() {
            // SGLang refuses a choice where there is nothing to choose from.
            ask.body.remove("tools");
            ask.body.remove("tool_choice");
        } else {
            let texts: Vec<&[u8]> = self.specs.iter().map(|spec| &spec.text[..]).collect();
            ask.body.set("tools", Bytes::from([b"[", &texts.join(&b","[..])[..], b"]"].concat()));
        }
        if forces_interpreter(ask) && !self.has(INTERPRETER_TOOL) {
            ask.body.remove("tool_choice");
        } else if forces_interpreter(ask) {
            let renamed = json!({"type": "function", "function": {"name": INTERPRETER_TOOL}});
            ask.body.set("tool_choice", renamed.to_string());
        }
    }

    /// Takes in a tool that the request brings.
    fn take(&mut self, ask: &Ask, tools: &Tools, policy: &Policy, spec: &ToolSpec) -> Result<(), Failure> {
        let gateway_runs = !matches!(ask.execute, Some(Execute::Client | Execute::Off));
        let interpreter = is_interpreter(spec);
        match tools.get(if interpreter { INTERPRETER_TOOL } else { &spec.name }) {
            // No backend knows this type: it becomes the function that it stands for, or goes.
            Some(tool) if interpreter => {
                self.rewritten = true;
                let takes_part = policy.grants(&tool.name) && ask.execute != Some(Execute::Off);
                if takes_part && !declares(ask, tool)? && !self.has(&tool.name) {
                    self.add(declared(tool), gateway_runs);
                }
            }
            Some(tool) => {
                let ours = gateway_runs && is_ours(ask, spec, tool) && policy.grants(&tool.name);
                self.add(spec.clone(), ours);
            }
            None => self.add(spec.clone(), false),
        }
        Ok(())
    }

    fn add(&mut self, spec: ToolSpec, ours: bool) {
        let names = if ours { &mut self.owned } else { &mut self.left };
        if !names.contains(&spec.name) {
            names.push(spec.name.clone());
        }
        self.specs.push(spec);
    }

    fn has(&self, name: &str) -> bool {
        self.specs.iter().any(|spec| spec.name == name)
    }
}

fn is_interpreter(spec: &ToolSpec) -> bool {
    spec.parameters.is_none() && spec.name == INTERPRETER_TYPE
}

/// Whether the request declares the interpreter's function itself. Nobody could say whose a call is if it stood beside
/// another of its name.
fn declares(ask: &Ask, interpreter: &Tool) -> Result<bool, Failure> {
    let mut namesakes = ask.tools.iter().flatten().filter(|spec| spec.name == interpreter.name).peekable();
    let any = namesakes.peek().is_some();
    if namesakes.all(|spec| is_same(spec, interpreter)) {
        return Ok(any);
    }
    let message = format!(
        "`tools` holds a {INTERPRETER_TYPE}, which is the gateway's `{name}`, and a function `{name}` with other \
         parameters; rename the function or leave one of them out",
        name = interpreter.name
    );
    Err(Failure::new(FailureKind::Invalid, message).param("tools"))
}

/// A tool of the request is the gateway's when name and parameters are, or when the request says so.
fn is_ours(ask: &Ask, spec: &ToolSpec, tool: &Tool) -> bool {
    ask.execute == Some(Execute::Gateway) || is_same(spec, tool)
}

fn is_same(spec: &ToolSpec, tool: &Tool) -> bool {
    spec.parameters.as_ref().is_some_and(|parameters| tool.matches(&spec.name, parameters))
}

/// The gateway's tools that this request gets although it does not bring them.
fn offered<'a>(ask: &Ask, tools: &'a Tools, policy: &Policy) -> Vec<&'a Tool> {
    let wanted = match (ask.execute, policy.offer) {
        (Some(Execute::Client | Execute::Off), _) | (None, Offer::Never) => false,
        (Some(Execute::Gateway), _) | (None, Offer::Always) => true,
        (None, Offer::WhenNoTools) => ask.tools.is_none() && ask.body.sent(FUNCTIONS).is_none_or(|sent| sent == "null"),
    };
    let plain = ask.choices > 1 || ask.plain_only.is_some() || ask.tools.as_ref().is_some_and(Vec::is_empty);
    // Who insists is told what is in the way, and not served without.
    let barred = ask.tool_choice == ToolChoice::None || plain && ask.execute != Some(Execute::Gateway);
    if !wanted || barred {
        return Vec::new();
    }
    tools.iter().map(|tool| &**tool).filter(|tool| policy.grants(&tool.name)).collect()
}

fn declared(tool: &Tool) -> ToolSpec {
    ToolSpec { name: tool.name.clone(), parameters: Some(tool.schema.clone()), text: tool.declaration() }
}
