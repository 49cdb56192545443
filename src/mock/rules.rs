//! What the scripted model knows: one table, one small function per kind of sentence.

use super::model::{Call, Conversation, Reply};
use serde_json::{Map, Value};

/// A kind of sentence that the model understands.
pub struct Rule {
    /// A sentence of this kind, for the list that the model gives when it understands nothing.
    pub example: &'static str,
    /// The reply, if the sentence is of this kind.
    pub act: fn(&Conversation) -> Option<Reply>,
}

/// All kinds, in the order in which they are tried.
pub const RULES: &[Rule] = &[
    Rule { example: "a message with a block that begins with ```python", act: fenced_block },
    Rule {
        example: "Use the tool NAME with {\"json\": \"arguments\"} (also Use NAME with {…} and run 6 * 7, which calls two tools)",
        act: named_tool,
    },
    Rule { example: "What is 12 * 34?", act: arithmetic },
    Rule { example: "Calculate the factorial of 10 using Python", act: factorial },
    Rule {
        example: "Sum the list [3, 14, 159] (also Sort, Count, Find the maximum of, Find the minimum of)",
        act: list,
    },
    Rule { example: "First compute 12 + 30, then multiply the result by 5", act: two_steps },
    Rule { example: "Run two programs: 3 + 4 and 5 * 6", act: two_programs },
    Rule { example: "Sleep for 3 seconds", act: sleep },
    Rule {
        example: "Divide by zero, Loop forever, Print a lot, Use all the memory, Read /etc/passwd",
        act: fixed_program,
    },
    Rule { example: "Write a binary search", act: binary_search },
    Rule { example: "Count aloud from 1 to 300", act: count_aloud },
    Rule { example: "Keep calling, Call the tool wrongly, Say nothing, Think first", act: misbehaviour },
    Rule { example: "Hello, Who are you?, Thanks, Show the tool call format", act: small_talk },
];

/// Numbers of one answer. Chosen: far more than an answer of a model's has room for.
const COUNT_MAX: u32 = 100_000;

const PROGRAMS: &[(&str, &str)] = &[
    ("loop forever", "while True:\n    pass"),
    ("divide by zero", "print(1 / 0)"),
    ("use all the memory", "blocks = []\nwhile True:\n    blocks.append(bytearray(16 * 1024 * 1024))"),
    ("print a lot", "for i in range(200_000):\n    print(i)"),
    ("read /etc/passwd", "print(open('/etc/passwd').read())"),
    ("open a network connection", "import socket\nsocket.create_connection(('127.0.0.1', 80))"),
];

const SMALL_TALK: &[(&str, &str)] = &[
    ("hello", "Hello! How can I help you?"),
    ("hi", "Hello! How can I help you?"),
    ("thanks", "You are welcome."),
    (
        "who are you?",
        "I am Loopgate's scripted demo model: plain rules, no neural network. I know a few sentences by heart and call \
         the tool execute_code where one of them needs a program.",
    ),
    ("show the tool call format", "Use `<tool_call>` and `<function=name>` tags."),
];

const BINARY_SEARCH: &str = r#"```python
from collections.abc import Sequence


def binary_search(items: Sequence[int], target: int) -> int:
    """Find a value in a sorted list.

    Args:
        items: Numbers in ascending order.
        target: The number to look for.

    Returns:
        The index of `target` in `items`, or -1 if it is not there.
    """
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1
```

Each step halves the part of the list that can still hold the target, so the search takes O(log n) steps."#;

fn fenced_block(conversation: &Conversation) -> Option<Reply> {
    let (_, rest) = conversation.user.split_once("```python\n")?;
    let (code, _) = rest.split_once("\n```")?;
    Some(conversation.run("", [code.to_owned()]))
}

/// `Use the tool NAME with {…}`, or `Use NAME with {…} and run 1 + 2` for two tools in one message.
fn named_tool(conversation: &Conversation) -> Option<Reply> {
    let rest = after(conversation.words(), "use the tool ").or_else(|| after(conversation.words(), "use "))?;
    let (name, rest) = rest.split_once(" with ")?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Map<String, Value>>();
    let arguments = values.next()?.ok()?;
    let and_run = after(rest[values.byte_offset()..].trim(), "and run ").and_then(expression);
    let mut calls: Vec<Call> = and_run.map(|sum| Call::code(printed(sum))).into_iter().collect();
    calls.push(Call { name: name.trim().to_owned(), arguments });
    Some(conversation.call("", calls))
}

fn arithmetic(conversation: &Conversation) -> Option<Reply> {
    let words = conversation.words();
    let sum = ["what is ", "calculate ", "compute "].iter().find_map(|&lead| after(words, lead)).unwrap_or(words);
    Some(conversation.run("", [printed(expression(plain_end(sum))?)]))
}

/// The program is the one that the cookbook's page shows for this prompt.
fn factorial(conversation: &Conversation) -> Option<Reply> {
    let rest = after(conversation.words(), "calculate the factorial of ")?;
    let n: u32 = plain_end(rest).parse().ok()?;
    let program = format!(
        "def factorial(n):\n    if n == 0 or n == 1:\n        return 1\n    else:\n        \
         return n * factorial(n-1)\n\nresult = factorial({n})\nresult"
    );
    Some(conversation.run("I'll run this with Python.", [program]))
}

fn list(conversation: &Conversation) -> Option<Reply> {
    const KINDS: &[(&str, &str)] = &[
        ("sum the list ", "sum"),
        ("sort the list ", "sorted"),
        ("count the list ", "len"),
        ("find the maximum of the list ", "max"),
        ("find the minimum of the list ", "min"),
        ("find the maximum of ", "max"),
        ("find the minimum of ", "min"),
        ("count ", "len"),
    ];
    let (rest, function) =
        KINDS.iter().find_map(|&(lead, function)| Some((after(conversation.words(), lead)?, function)))?;
    let numbers = plain_end(rest);
    serde_json::from_str::<Vec<f64>>(numbers).ok()?;
    Some(conversation.run("", [format!("numbers = {numbers}\nprint({function}(numbers))")]))
}

fn two_steps(conversation: &Conversation) -> Option<Reply> {
    const STEPS: &[(&str, &str)] =
        &[("multiply the result by ", "*"), ("divide the result by ", "//"), ("add ", "+"), ("subtract ", "-")];
    let (first, then) = after(conversation.words(), "first compute ")?.split_once(", then ")?;
    let (number, operator) = STEPS.iter().find_map(|&(lead, operator)| Some((after(then, lead)?, operator)))?;
    let number: i64 = plain_end(number).parse().ok()?;
    match &conversation.rounds[..] {
        [results] if results.len() == 1 && results[0].trim().parse::<f64>().is_ok() => Some(Reply {
            calls: vec![Call::code(printed(&format!("({}) {operator} {number}", results[0].trim())))],
            ..Reply::default()
        }),
        _ => Some(conversation.run("", [printed(expression(first)?)])),
    }
}

fn two_programs(conversation: &Conversation) -> Option<Reply> {
    let (first, second) = after(conversation.words(), "run two programs: ")?.split_once(" and ")?;
    Some(conversation.run("", [printed(expression(first)?), printed(expression(plain_end(second))?)]))
}

fn sleep(conversation: &Conversation) -> Option<Reply> {
    let seconds = after(conversation.words(), "sleep for ")?.split(' ').next()?;
    seconds.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)?;
    Some(conversation.run("", [format!("import time\ntime.sleep({seconds})\nprint('slept')")]))
}

fn fixed_program(conversation: &Conversation) -> Option<Reply> {
    let words = conversation.words();
    let (_, program) = PROGRAMS.iter().find(|(name, _)| words.eq_ignore_ascii_case(name))?;
    Some(conversation.run("", [(*program).to_owned()]))
}

fn binary_search(conversation: &Conversation) -> Option<Reply> {
    conversation.words().to_ascii_lowercase().contains("binary search").then(|| Reply::text(BINARY_SEARCH))
}

/// A long answer in which nothing can be lost or said twice unnoticed.
fn count_aloud(conversation: &Conversation) -> Option<Reply> {
    let (first, last) = after(conversation.words(), "count aloud from ")?.split_once(" to ")?;
    let (first, last): (u32, u32) = (first.parse().ok()?, plain_end(last).parse().ok()?);
    let numbers = first..=last.min(first.saturating_add(COUNT_MAX));
    Some(Reply::text(numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(", ")))
}

/// What a model should not do, for tests of those who must bear it.
fn misbehaviour(conversation: &Conversation) -> Option<Reply> {
    let rounds = conversation.rounds.len();
    let words = conversation.words().to_ascii_lowercase();
    Some(match words.as_str() {
        "say nothing" => Reply::default(),
        // Every other time, so that a second test on the same server finds it as the first one did.
        "say nothing once" if conversation.repeats.is_multiple_of(2) => Reply::default(),
        "say nothing once" => Reply::text("You asked again, so I say something."),
        "think first" => Reply {
            reasoning: "The user wants me to think. Done.".to_owned(),
            ..Reply::text("I have thought about it.")
        },
        "keep calling" if conversation.tools.is_empty() => conversation.answer(),
        "keep calling" => Reply { calls: vec![Call::code(format!("print({})", rounds + 1))], ..Reply::default() },
        "call the tool wrongly" if rounds == 0 => {
            let mut call = Call::code("");
            call.arguments = Map::from_iter([("cod".to_owned(), Value::from("print(6 * 7)"))]);
            conversation.call("", vec![call])
        }
        "call the tool wrongly" if rounds == 1 && complains_of_arguments(&conversation.rounds[0]) => {
            Reply { calls: vec![Call::code("print(6 * 7)")], ..Reply::default() }
        }
        "call the tool wrongly" => conversation.answer(),
        _ => return None,
    })
}

fn small_talk(conversation: &Conversation) -> Option<Reply> {
    let words = conversation.words().trim_end_matches(['!', '.']);
    let (_, answer) = SMALL_TALK.iter().find(|(name, _)| words.eq_ignore_ascii_case(name))?;
    // Only the tags of the last one can be misread as a call, and then its result is there to be answered.
    Some(if conversation.rounds.is_empty() { Reply::text(*answer) } else { conversation.answer() })
}

fn complains_of_arguments(results: &[String]) -> bool {
    results.iter().any(|result| result.to_ascii_lowercase().contains("invalid arguments"))
}

/// The rest after a lead-in, whatever its case.
fn after<'a>(words: &'a str, lead: &str) -> Option<&'a str> {
    let start = words.get(..lead.len())?;
    start.eq_ignore_ascii_case(lead).then(|| &words[lead.len()..])
}

/// Without the end of a sentence.
fn plain_end(words: &str) -> &str {
    let words = words.trim().trim_end_matches(['?', '.', '!']).trim_end();
    words.strip_suffix(" using Python").unwrap_or(words)
}

/// Numbers, operators and balanced parentheses, with at least one operator between two of them.
fn expression(words: &str) -> Option<&str> {
    let sum = words.trim();
    let known = sum.bytes().all(|byte| byte.is_ascii_digit() || b" +-*/%().".contains(&byte));
    let ends = sum.starts_with(|c: char| c.is_ascii_digit() || c == '(' || c == '-')
        && sum.ends_with(|c: char| c.is_ascii_digit() || c == ')');
    let operator = sum.bytes().skip(1).any(|byte| b"+-*/%".contains(&byte));
    (known && ends && operator && is_balanced(sum)).then_some(sum)
}

fn is_balanced(sum: &str) -> bool {
    let mut depth = 0_i32;
    for byte in sum.bytes() {
        depth += i32::from(byte == b'(') - i32::from(byte == b')');
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

fn printed(sum: &str) -> String {
    format!("print({sum})")
}
