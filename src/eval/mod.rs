//! `loopgate eval gsm8k`: how many grade-school problems a model solves, as SGLang's `few_shot_gsm8k` counts them, and what
//! it gains by running programs.
//!
//! [`data`] has the questions, [`ask`] asks one; this file asks all, and counts.

mod ask;
mod data;

pub use ask::{Answer, Executions, Mode};
pub use data::{HOW, NoData, Question, read};

use crate::client::{Failure, Target};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What is to be asked, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whom to ask.
    pub target: Target,
    /// In which way.
    pub mode: Mode,
    /// Which model; without one the first that the server lists. SGLang's /generate needs none.
    pub model: Option<String>,
    /// What to ask.
    pub questions: Vec<Question>,
    /// Tokens of one model call's answer.
    pub tokens_max: u32,
    /// Questions at once.
    pub parallel: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    mode: Mode,
    /// Who was asked.
    url: String,
    took: Duration,
    /// In the data's order.
    answers: Vec<(Question, Result<Answer, Failure>)>,
}

/// Asks everything. `tell` hears of each question that is done. With `stop`, what is not done by then has failed.
///
/// # Errors
/// When the server does not say which model it has, or not before `stop`.
pub async fn run(plan: Plan, stop: &CancellationToken, tell: impl Fn()) -> Result<Report, String> {
    let Plan { target, mode, model, questions, tokens_max, parallel } = plan;
    let model = match model {
        Some(model) => model,
        None if mode == Mode::Completion => String::new(),
        None => {
            let first = stop.run_until_cancelled(target.first_model()).await;
            first.ok_or("stopped before anything was asked")?.map_err(|error| error.to_string())?
        }
    };
    let (target, model, seats) = (Arc::new(target), Arc::new(model), Arc::new(Semaphore::new(parallel)));
    let (url, begun) = (target.url(), Instant::now());
    let mut running = JoinSet::new();
    for (at, question) in questions.into_iter().enumerate() {
        let (target, model, seats, stop) = (target.clone(), model.clone(), seats.clone(), stop.clone());
        running.spawn(async move {
            let asked = async {
                let _seat = seats.acquire().await;
                mode.ask(&target, &model, &question.prompt, tokens_max).await
            };
            let answer = stop.run_until_cancelled(asked).await.unwrap_or(Err(Failure::Stopped));
            (at, question, answer)
        });
    }
    let mut answers = gathered(running, tell).await;
    answers.sort_by_key(|(at, ..)| *at);
    let answers = answers.into_iter().map(|(_, question, answer)| (question, answer)).collect();
    Ok(Report { mode, url, took: begun.elapsed(), answers })
}

/// What all tasks have found. One that panicked is a mistake of ours: it is not left out as if nobody had asked.
async fn gathered<T: 'static>(mut running: JoinSet<T>, tell: impl Fn()) -> Vec<T> {
    let mut found = Vec::new();
    while let Some(done) = running.join_next().await {
        match done {
            Ok(done) => found.push(done),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        tell();
    }
    found
}

#[expect(clippy::cast_precision_loss, reason = "counts of questions and tokens are far below 2^52")]
impl Report {
    /// Every question was answered.
    pub fn is_whole(&self) -> bool {
        self.answers.iter().all(|(_, answer)| answer.is_ok())
    }

    fn answered(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter_map(|(_, answer)| answer.as_ref().ok())
    }

    /// Of all questions, those for which this holds. A question that nobody answered is neither right nor invalid.
    fn share(&self, holds: impl Fn(&Question, Option<&str>) -> bool) -> f64 {
        let hold = self.answers.iter().filter(|(question, answer)| {
            answer.as_ref().is_ok_and(|answer| holds(question, data::value(&answer.text).as_deref()))
        });
        hold.count() as f64 / self.answers.len().max(1) as f64
    }

    fn accuracy(&self) -> f64 {
        self.share(|question, number| number == Some(&question.label))
    }

    fn invalid(&self) -> f64 {
        self.share(|_, number| number.is_none())
    }

    fn tokens_per_s(&self) -> f64 {
        self.answered().map(|answer| answer.tokens).sum::<u64>() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// Programs of all questions, and questions with at least one.
    fn executions(&self) -> (Executions, usize) {
        let sum = |of: fn(&Answer) -> u64| self.answered().map(of).sum();
        let executions =
            Executions { count: sum(|answer| answer.executions.count), failed: sum(|answer| answer.executions.failed) };
        (executions, self.answered().filter(|answer| answer.executions.count > 0).count())
    }

    /// How many questions have no answer, by reason.
    fn failures(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for failure in self.answers.iter().filter_map(|(_, answer)| answer.as_ref().err()) {
            *reasons.entry(failure.reason()).or_default() += 1;
        }
        reasons
    }

    /// Everything, question by question.
    pub fn json(&self) -> Value {
        let (Executions { count, failed }, with_one) = self.executions();
        let answers = self.answers.iter().map(|(question, answer)| match answer {
            Ok(answer) => json!({
                "prompt": question.prompt, "label": question.label, "prediction": data::value(&answer.text),
                "answer": answer.text, "completion_tokens": answer.tokens,
                "executions": answer.executions.count, "executions_failed": answer.executions.failed,
            }),
            Err(failure) => json!({"prompt": question.prompt, "label": question.label, "failure": failure.to_string()}),
        });
        json!({
            "mode": self.mode.as_str(), "url": self.url, "accuracy": self.accuracy(), "invalid": self.invalid(),
            "latency": self.took.as_secs_f64(), "output_throughput": self.tokens_per_s(),
            "questions": self.answers.len(), "failures": self.failures(), "executions": count,
            "executions_failed": failed, "questions_with_executions": with_one,
            "answers": answers.collect::<Vec<_>>(),
        })
    }
}

/// `few_shot_gsm8k`'s four lines, and what it has none for.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "Accuracy: {:.3}", self.accuracy())?;
        writeln!(out, "Invalid: {:.3}", self.invalid())?;
        writeln!(out, "Latency: {:.3} s", self.took.as_secs_f64())?;
        write!(out, "Output throughput: {:.3} token/s", self.tokens_per_s())?;
        if self.mode == Mode::Tools {
            let (Executions { count, failed }, with_one) = self.executions();
            write!(out, "\nExecutions: {count}, {failed} of them failed, in {with_one} questions")?;
        }
        for (reason, count) in self.failures() {
            // What a server says with a status tells more than the status.
            let all = self.answers.iter().filter_map(|(_, answer)| answer.as_ref().err());
            let first = all.filter(|failure| failure.reason() == reason).map(Failure::to_string).next();
            let first =
                first.filter(|first| *first != reason).map_or_else(String::new, |first| format!("; first {first}"));
            write!(out, "\nNot answered by {}: {count}: {reason}{first}", self.url)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "a mistake of ours")]
    async fn a_question_whose_task_panics_is_not_left_out() {
        let mut running = JoinSet::new();
        running.spawn(async { panic!("a mistake of ours") });
        let _: Vec<()> = gathered(running, || {}).await;
    }
}
