//! GSM8K's questions, and the numbers in answers: both as SGLang's `few_shot_gsm8k` has them, so that figures can be compared.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Bytes of a data file. GSM8K's test set has 750 KB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What is wrong with the data.
#[derive(Debug, thiserror::Error)]
pub enum NoData {
    /// There is no file.
    #[error("{path}: {why}. {HOW}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A line is no question.
    #[error("{path}, line {line}: {why}; each line is an object like {{\"question\": \"…\", \"answer\": \"… #### 42\"}}", path = .path.display())]
    Line {
        /// Of which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// There are fewer lines than examples.
    #[error("{path} has {lines} questions; --num-shots {shots} needs at least as many, and one to ask", path = .path.display())]
    Short {
        /// Which.
        path: PathBuf,
        /// How many it has.
        lines: usize,
        /// How many were wanted.
        shots: usize,
    },
}

/// How to get the data.
pub const HOW: &str = "GSM8K's test set is one file of OpenAI's grade-school-math repository: \
    curl -LO https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/test.jsonl, then \
    --data-path test.jsonl";

#[derive(Debug, Deserialize)]
struct Line {
    question: String,
    answer: String,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked, with the examples before it.
    pub prompt: String,
    /// The right number.
    pub label: String,
}

/// The first `count` questions, each after `shots` examples, which are the file's first lines.
///
/// # Errors
/// When the file is not there, is no list of questions, or is too short.
pub fn read(path: &Path, count: usize, shots: usize) -> Result<Vec<Question>, NoData> {
    let unreadable = |why: String| NoData::Unreadable { path: path.to_owned(), why };
    let length = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(format!("{length} bytes; at most {FILE_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let wanted = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')).take(count.max(shots));
    let mut lines = Vec::new();
    for (at, line) in wanted {
        let wrong = |why: String| NoData::Line { path: path.to_owned(), line: at + 1, why };
        let line: Line = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let label = value(&line.answer).ok_or_else(|| wrong("the answer has no number".to_owned()))?;
        lines.push((line, label));
    }
    if lines.is_empty() || lines.len() < shots {
        return Err(NoData::Short { path: path.to_owned(), lines: lines.len(), shots });
    }
    let example = |(line, _): &(Line, String)| format!("{} {}\n\n", asked(&line.question), line.answer);
    let examples: String = lines[..shots].iter().map(example).collect();
    let question = |(line, label): &(Line, String)| Question {
        prompt: format!("{examples}{}", asked(&line.question)),
        label: label.clone(),
    };
    Ok(lines.iter().take(count).map(question).collect())
}

fn asked(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

/// The number that an answer gives: its last digits, commas taken out. What Python would not read as a number, such as `007`,
/// is none.
pub fn value(answer: &str) -> Option<String> {
    let text = answer.replace(',', "");
    let digits = text.rsplit(|letter: char| !letter.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    if digits.bytes().all(|digit| digit == b'0') {
        return Some("0".to_owned());
    }
    (!digits.starts_with('0')).then(|| digits.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    #[test]
    fn the_number_is_the_last_one_as_python_reads_it() {
        for (answer, number) in [
            ("It is 7 + 5 = 12.\n#### 1,234", Some("1234")),
            ("$18.50", Some("50")),
            ("-3", Some("3")),
            ("007", None),
            ("00", Some("0")),
            ("none", None),
            ("", None),
            ("12 apples", Some("12")),
        ] {
            assert_eq!(value(answer).as_deref(), number, "{answer}");
        }
    }

    #[test]
    fn questions_come_after_the_examples_which_are_the_first_lines() {
        let file = file(
            "# a comment\n{\"question\": \"A?\", \"answer\": \"1 #### 1\"}\n{\"question\": \"B?\", \"answer\": \"#### 2\"}\n",
        );
        let questions = read(file.path(), 200, 1).expect("questions");
        assert_eq!(questions[1].prompt, "Question: A?\nAnswer: 1 #### 1\n\nQuestion: B?\nAnswer:");
        assert_eq!(questions.iter().map(|it| it.label.as_str()).collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(read(file.path(), 1, 2).expect("questions").len(), 1);
    }

    #[test]
    fn wrong_data_is_named_with_its_place_and_the_way_out() {
        let missing = read(Path::new("/no/such/file"), 1, 0).expect_err("no file").to_string();
        assert!(missing.contains("/no/such/file") && missing.contains("--data-path test.jsonl"), "{missing}");
        for (text, told) in [
            ("{\"question\": \"A?\", \"answer\": \"#### 1\"}\nnonsense\n", "line 2"),
            ("{\"question\": \"A?\"}\n", "missing field `answer`"),
            ("{\"question\": \"A?\", \"answer\": \"many\"}\n", "the answer has no number"),
            ("", "has 0 questions"),
            ("{\"question\": \"A?\", \"answer\": \"#### 1\"}\n", "--num-shots 5"),
        ] {
            let refused = read(file(text).path(), 9, 5).expect_err("wrong data").to_string();
            assert!(refused.contains(told), "{refused}");
        }
    }
}
