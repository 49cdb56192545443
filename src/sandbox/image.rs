//! Makes the image that every interpreter begins as: Python woken, as its memory is then, and which pages of it a run
//! changes.

use super::flatten::Flat;
use super::guest::Image;
use super::job::Job;
use super::memory::Memories;
use super::outcome::Ended;
use super::wasi::{Conditions, Lasting};
use super::worker::Line;
use crate::policy::Limits;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use wasmtime::{Engine, Module, bail};

/// This code itself: an image that was made by other code is not to be used for what this would make.
pub(super) const CODE: &str = include_str!("image.rs");

/// The program whose pages are held ready. What it changes, every program changes; to hold more ready would cost every run
/// more than it saves some.
const SMALLEST: &str = "print(1 + 1)";

/// Beside the image: what is known of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Pages that a run changes, in order, first and the one after the last.
    pub hot: Vec<Range<usize>>,
    /// What its host has for it, as the directory that it is in.
    pub wasi: Lasting,
}

/// The memory of a guest that has woken and run nothing, from the compiled module of `flat`, and what its host has for it.
pub(super) fn make(
    flat: &Flat,
    module: impl FnOnce(&Engine) -> wasmtime::Result<Module>,
) -> wasmtime::Result<(Vec<u8>, Lasting)> {
    let image = Image::new(Memories::blank(), Lasting::default(), module)?;
    on_own_stack(|| {
        let mut guest = image.start(&Arc::new(Line::nowhere()), None)?;
        guest.fill(&flat.data)?;
        guest.wake()?;
        Ok((guest.memory().to_vec(), guest.wasi().clone()))
    })
}

/// What the smallest program does to the image in a file.
pub(super) fn find_facts(
    memory: &Path,
    wasi: Lasting,
    module: impl FnOnce(&Engine) -> wasmtime::Result<Module>,
) -> wasmtime::Result<Facts> {
    let memories = Memories::of(File::open(memory)?, Vec::new())?;
    let pages = fs::metadata(memory)?.len() / rustix::param::page_size() as u64;
    let image = Image::new(memories.clone(), wasi.clone(), module)?;
    on_own_stack(|| {
        let mut guest = image.start(&Arc::new(Line::nowhere()), None)?;
        let (limits, conditions) = (Limits::default(), Conditions::default());
        let job = Job { source: SMALLEST.into(), arguments: None, limits, conditions };
        let (_, outcome) = guest.run(&job);
        if outcome.ended != Ended::Completed {
            bail!("it cannot run a program: {outcome:?}");
        }
        let mut hot = memories.changed_pages(guest.memory());
        hot.retain(|run| run.end as u64 <= pages);
        Ok(Facts { hot, wasi })
    })
}

/// Guests need more stack than a thread has unasked.
fn on_own_stack<T: Send>(work: impl FnOnce() -> wasmtime::Result<T> + Send) -> wasmtime::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("sandbox".into()).stack_size(super::engine::STACK_BYTES);
        builder.spawn_scoped(scope, work)?.join().unwrap_or_else(|_| bail!("it panicked"))
    })
}
