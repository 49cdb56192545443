//! One backend: it reads prompts one after the other, and writes all answers side by side.

use super::cache::{Cache, Need};
use super::sessions::seconds;
use crate::backend::balance::{Load, Moment, TryId, float};
use std::collections::VecDeque;
use std::time::Duration;

/// Tokens a second that it reads.
const PREFILL_TOKENS_PER_S: f64 = 10_000.0;
/// Seconds for one token of every running answer…
const STEP_S: f64 = 0.012;
/// …and how many answers make a step take twice as long.
const BATCH: f64 = 24.0;

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub id: TryId,
    pub seat: usize,
    /// As admission knows it.
    pub conversation: u64,
    pub need: Need,
    /// Tokens that were in the cache.
    pub cached: u32,
}

/// A backend.
pub(super) struct Worker {
    cache: Cache,
    kv_tokens: u64,
    queue: VecDeque<Job>,
    reading: Option<Job>,
    /// Each with what will have been written by every one when it is done.
    running: Vec<(f64, Job)>,
    written: f64,
    at: Moment,
    /// Grows with everything that changes when the next answer is done.
    pub version: u64,
}

impl Worker {
    pub fn new(kv_tokens: u64) -> Self {
        Self {
            cache: Cache::new(kv_tokens),
            kv_tokens,
            queue: VecDeque::new(),
            reading: None,
            running: Vec::new(),
            written: 0.0,
            at: Moment::ZERO,
            version: 0,
        }
    }

    pub fn push(&mut self, job: Job) {
        self.queue.push_back(job);
    }

    /// Begins to read the next prompt, if none is being read and there is room: how long it takes.
    pub fn read_next(&mut self) -> Option<Duration> {
        if self.reading.is_some() {
            return None;
        }
        let cached = self.cache.hold(&self.queue.front()?.need)?;
        let job = self.queue.pop_front()?;
        self.reading = Some(Job { cached, ..job });
        Some(seconds(f64::from(job.need.context - cached) / PREFILL_TOKENS_PER_S))
    }

    /// A prompt has been read: its answer begins.
    pub fn read(&mut self, now: Moment) -> Option<Job> {
        let job = self.reading.take()?;
        self.advance(now);
        self.running.push((self.written + f64::from(job.need.answer), job));
        Some(job)
    }

    /// How long until the next answer is done.
    pub fn next_done(&self) -> Option<Duration> {
        let first = self.running.iter().map(|(end, _)| *end).min_by(f64::total_cmp)?;
        Some(seconds(((first - self.written) * self.step()).max(0.0)))
    }

    /// The answer that is done now.
    pub fn done(&mut self, now: Moment) -> Option<Job> {
        self.advance(now);
        let ends = self.running.iter().enumerate().map(|(at, (end, _))| (at, *end));
        let (at, _) = ends.min_by(|left, right| left.1.total_cmp(&right.1))?;
        let (_, job) = self.running.swap_remove(at);
        self.cache.release(&job.need);
        Some(job)
    }

    pub fn load(&self) -> Load {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Load {
            running: count(self.running.len()),
            waiting: count(self.queue.len()),
            used_tokens: 0,
            kv_tokens_max: Some(self.kv_tokens),
        }
    }

    fn step(&self) -> f64 {
        STEP_S * (1.0 + float(self.running.len() as u64) / BATCH)
    }

    fn advance(&mut self, now: Moment) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        if !self.running.is_empty() {
            self.written += passed / self.step();
        }
        self.at = now;
        self.version += 1;
    }
}
