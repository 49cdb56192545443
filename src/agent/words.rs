//! The words of a turn: what its client has seen, and what is said where the model says nothing.

use crate::chat::Finish;

/// What the client has seen of the answer.
#[derive(Default)]
pub(super) struct Shown {
    text: String,
    /// The last line that was shown has no end yet.
    open_line: bool,
    /// A new model call has begun since.
    joint_due: bool,
}

impl Shown {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A model call begins.
    pub fn begin_round(&mut self) {
        self.joint_due = self.open_line;
    }

    /// What is to be shown of this text: the texts of two model calls are kept a paragraph apart.
    pub fn add(&mut self, text: String) -> String {
        let joint = self.joint_due && !text.starts_with('\n');
        let text = if joint { format!("\n\n{text}") } else { text };
        self.text.push_str(&text);
        self.open_line = !text.ends_with('\n');
        self.joint_due = false;
        text
    }

    /// Why there is nothing to see: clients take an empty answer for a lost one, and send it again for ever.
    pub fn why_nothing(&self, finish: Finish) -> Option<&'static str> {
        if !self.text.trim().is_empty() {
            return None;
        }
        match finish {
            Finish::Length => {
                Some("The answer was cut by max_tokens, or at the end of the context, before it had any text.")
            }
            Finish::ContentFilter => Some("The answer was withheld by a filter of the model's server."),
            // Empty ones of these kinds are asked for again, or are errors.
            Finish::Stop | Finish::ToolCalls | Finish::Abort => None,
        }
    }
}

/// For a model that does not answer although it can do nothing else.
pub(super) fn instead_of_an_answer(last_output: Option<&str>) -> String {
    match last_output {
        Some(output) => format!("The model gave no answer. The last result was:\n{output}"),
        None => "The model gave no answer.".to_owned(),
    }
}
