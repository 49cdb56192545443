//! The scripted model: plain rules from a conversation to a reply. No neural network, no state, no I/O.
//!
//! It acts on the last user message and on the tool results after it. What it can do is the table [`RULES`]; each
//! entry is one function of `rules.rs`, and the first that knows the message answers.

use super::rules::RULES;
use serde_json::{Map, Value};

/// The tool that runs Python.
pub const CODE_TOOL: &str = "execute_code";

/// What the model looks at.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// The text of the last user message.
    pub user: String,
    /// The tool results after it: one list per assistant message that called tools.
    pub rounds: Vec<Vec<String>>,
    /// The names of the tools that the model may call.
    pub tools: Vec<String>,
    /// A call must be made.
    pub forced: Option<Forced>,
    /// How often this server was asked the very same before.
    pub repeats: u32,
}

/// A call that must be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forced {
    /// Of any tool.
    Any,
    /// Of this tool.
    Tool(String),
}

/// What the model says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// Thinking, before everything else.
    pub reasoning: String,
    /// The answer, or what is said before the calls.
    pub prose: String,
    /// The calls, in order.
    pub calls: Vec<Call>,
}

/// One tool call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

impl Call {
    /// Runs a program.
    pub fn code(code: impl Into<String>) -> Self {
        Self {
            name: CODE_TOOL.to_owned(),
            arguments: Map::from_iter([("code".to_owned(), Value::String(code.into()))]),
        }
    }
}

impl Reply {
    /// Text alone.
    pub fn text(prose: impl Into<String>) -> Self {
        Self { prose: prose.into(), ..Self::default() }
    }
}

impl Conversation {
    /// The user's words, without blanks around them.
    pub fn words(&self) -> &str {
        self.user.trim()
    }

    /// Programs first; once they have run, an answer made of their results.
    pub fn run(&self, prose: &str, programs: impl IntoIterator<Item = String>) -> Reply {
        self.call(prose, programs.into_iter().map(Call::code).collect())
    }

    /// Calls first; once they have run, an answer made of their results.
    pub fn call(&self, prose: &str, calls: Vec<Call>) -> Reply {
        if self.rounds.is_empty() {
            Reply { prose: prose.to_owned(), calls, ..Reply::default() }
        } else {
            self.answer()
        }
    }

    /// An answer made of the last results.
    pub fn answer(&self) -> Reply {
        let results: Vec<&str> = self.rounds.last().into_iter().flatten().map(|result| result.trim()).collect();
        if let Some(failed) = results.iter().find(|result| is_failure(result)) {
            return Reply::text(format!("The code failed to run: {}", failed.lines().last().unwrap_or_default()));
        }
        Reply::text(match &results[..] {
            [] => "I have no result.".to_owned(),
            [one] if one.contains('\n') => format!("The output is:\n\n```\n{one}\n```"),
            [one] => format!("The result is {one}."),
            [first @ .., last] => format!("The results are {} and {last}.", first.join(", ")),
        })
    }
}

/// The model's turn.
pub fn reply(conversation: &Conversation) -> Reply {
    let reply = known(conversation).unwrap_or_else(|| Reply::text(what_it_can_do()));
    match &conversation.forced {
        Some(forced) => forced_calls(reply, forced, conversation),
        None if reply.calls.iter().all(|call| conversation.tools.contains(&call.name)) => reply,
        None => without_tools(&reply),
    }
}

/// By the whole message, else by the last line that is a known sentence: agents put text of their own around the user's.
fn known(conversation: &Conversation) -> Option<Reply> {
    let by_rules = |conversation: &Conversation| RULES.iter().find_map(|rule| (rule.act)(conversation));
    by_rules(conversation).or_else(|| {
        let mut narrowed = Conversation { user: String::new(), ..conversation.clone() };
        conversation.user.lines().rev().find_map(|line| {
            line.clone_into(&mut narrowed.user);
            by_rules(&narrowed)
        })
    })
}

fn is_failure(result: &str) -> bool {
    let last = result.lines().last().unwrap_or_default();
    result.contains("Traceback (most recent call last)") || result.starts_with("Error:") || last.starts_with("Error:")
}

/// `tool_choice` leaves no way around a call: only calls of allowed tools are made, or one that says nothing.
fn forced_calls(mut reply: Reply, forced: &Forced, conversation: &Conversation) -> Reply {
    let allowed = match forced {
        Forced::Any => &conversation.tools[..],
        Forced::Tool(name) => std::slice::from_ref(name),
    };
    reply.calls.retain(|call| allowed.contains(&call.name));
    if reply.calls.is_empty() {
        reply.calls.extend(allowed.first().map(|name| match name.as_str() {
            CODE_TOOL => Call::code("print('a call was asked for')"),
            name => Call { name: name.to_owned(), arguments: Map::new() },
        }));
    }
    // Constrained decoding leaves no room for prose.
    Reply { prose: String::new(), ..reply }
}

fn without_tools(reply: &Reply) -> Reply {
    let calls: Vec<String> = reply.calls.iter().map(described).collect();
    Reply::text(format!("No tool to run this is offered to me. I would have called:\n\n{}", calls.join("\n\n")))
}

fn described(call: &Call) -> String {
    match call.arguments.get("code").and_then(Value::as_str) {
        Some(code) if call.name == CODE_TOOL => format!("```python\n{code}\n```"),
        _ => format!("`{}` with `{}`", call.name, Value::Object(call.arguments.clone())),
    }
}

fn what_it_can_do() -> String {
    let examples: Vec<String> = RULES.iter().map(|rule| format!("- {}", rule.example)).collect();
    format!("I am a scripted demo model and know only a few sentences. Try one of these:\n\n{}", examples.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: &str, rounds: &[&[&str]]) -> Reply {
        reply(&Conversation {
            user: user.to_owned(),
            rounds: rounds.iter().map(|round| round.iter().map(|&result| result.to_owned()).collect()).collect(),
            tools: vec![CODE_TOOL.to_owned(), "read_file".to_owned()],
            ..Conversation::default()
        })
    }

    fn codes(reply: &Reply) -> Vec<&str> {
        reply.calls.iter().map(|call| call.arguments["code"].as_str().expect("code")).collect()
    }

    #[test]
    fn a_sentence_on_a_line_of_its_own_is_found_and_the_last_one_counts() {
        let ask = |user: &str| reply(&Conversation { user: user.to_owned(), ..Conversation::default() }).prose;
        assert!(ask("He said: hello to you").starts_with("I am a scripted demo model"));
        assert_eq!(ask("<reminder>\nThanks\n</reminder>\nHello\n\nReply in English."), "Hello! How can I help you?");
    }

    #[test]
    fn unknown_sentences_get_the_list_of_known_ones() {
        for user in ["", "Flurb?", "12 +", "What is (1 + 2?", "Use the tool x with {", "Sleep for ever seconds"] {
            let reply = asked(user, &[]);
            assert!(reply.prose.contains("- What is 12 * 34?") && reply.calls.is_empty(), "{user:?}: {reply:?}");
        }
    }

    #[test]
    fn sums_become_programs_and_results_become_sentences() {
        for (user, code) in [
            ("What is 12 * 34?", "print(12 * 34)"),
            ("Calculate 7 + 8 using Python", "print(7 + 8)"),
            ("12 + 5", "print(12 + 5)"),
            ("what is (2 + 3) * 4 - 10 // 3 % 2", "print((2 + 3) * 4 - 10 // 3 % 2)"),
            ("Sort the list [3, 1, 2]", "numbers = [3, 1, 2]\nprint(sorted(numbers))"),
        ] {
            assert_eq!(codes(&asked(user, &[])), [code], "{user:?}");
        }
        assert_eq!(asked("What is 12 * 34?", &[&["408\n"]]).prose, "The result is 408.");
        assert_eq!(asked("Run two programs: 3 + 4 and 5 * 6", &[&["7", "30"]]).prose, "The results are 7 and 30.");
        assert_eq!(
            asked("Loop forever", &[&["Error: no time left"]]).prose,
            "The code failed to run: Error: no time left"
        );
        let traceback = "half\nTraceback (most recent call last):\n  File\nZeroDivisionError: division by zero";
        assert!(asked("Divide by zero", &[&[traceback]]).prose.ends_with(": ZeroDivisionError: division by zero"));
    }

    #[test]
    fn the_cookbooks_factorial_is_called_as_on_its_page() {
        let reply = asked("Calculate the factorial of 10 using Python", &[]);
        let code = "def factorial(n):\n    if n == 0 or n == 1:\n        return 1\n    else:\n        \
                    return n * factorial(n-1)\n\nresult = factorial(10)\nresult";
        assert_eq!((reply.prose.as_str(), codes(&reply)), ("I'll run this with Python.", vec![code]));
    }

    #[test]
    fn two_steps_take_two_rounds() {
        let user = "First compute 12 + 30, then multiply the result by 5";
        assert_eq!(codes(&asked(user, &[])), ["print(12 + 30)"]);
        assert_eq!(codes(&asked(user, &[&["42"]])), ["print((42) * 5)"]);
        assert_eq!(asked(user, &[&["42"], &["210"]]).prose, "The result is 210.");
    }

    #[test]
    fn a_fenced_block_is_run_exactly_as_it_is_written() {
        let reply = asked("Please run\n```python\nif True:\n    print('a')\n\n```\nthanks", &[]);
        assert_eq!(codes(&reply), ["if True:\n    print('a')\n"]);
    }

    #[test]
    fn a_wrong_call_is_repaired_when_the_error_says_so() {
        let user = "Call the tool wrongly";
        assert!(asked(user, &[]).calls[0].arguments.get("code").is_none());
        assert_eq!(codes(&asked(user, &[&["Error: invalid arguments: `code` is missing"]])), ["print(6 * 7)"]);
        assert_eq!(asked(user, &[&["Error: invalid arguments"], &["42"]]).prose, "The result is 42.");
    }

    #[test]
    fn other_tools_are_called_by_name_and_with_code_beside_them() {
        let alone = asked(r#"Use the tool read_file with {"path": "a"}"#, &[]);
        assert_eq!((alone.calls[0].name.as_str(), alone.calls[0].arguments["path"].as_str()), ("read_file", Some("a")));
        let mixed = asked(r#"Use read_file with {"path": "a"} and run 1 + 2"#, &[]);
        let names: Vec<&str> = mixed.calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, [CODE_TOOL, "read_file"]);
    }

    #[test]
    fn without_a_tool_nothing_is_called_and_when_forced_always_something() {
        let mut conversation = Conversation { user: "What is 1 + 1?".to_owned(), ..Conversation::default() };
        assert!(reply(&conversation).calls.is_empty());
        conversation.user = "Hello".to_owned();
        conversation.tools = vec!["read_file".to_owned()];
        conversation.forced = Some(Forced::Any);
        assert_eq!(reply(&conversation).calls[0].name, "read_file");
    }
}
