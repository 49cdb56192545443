//! Makes the image that every interpreter begins as: Python woken, as its memory is then, and which pages of it a run
//! changes.

use super::flatten::Flat;
use super::guest::Image;
use super::job::Job;
use super::memory::Memories;
use super::outcome::Ended;
use super::wasi::Conditions;
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

/// Programs whose pages are held ready: such as models write, in small. What they change, most programs change.
const TYPICAL: [&str; 3] = [
    "print(1 + 1)",
    "def f(x):\n    return [x * 2, {'a': x}, f'{x:.2f}']\nfor i in range(50):\n    print(f(i))\nf(1)",
    "import json, math, re, collections\nclass A:\n    b = 1\n[json.dumps({'a': A().b}), math.sqrt(2), re.findall('a', 'aa')]",
];

/// Beside the image: what is known of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Pages that a run changes, in order, first and the one after the last.
    pub hot: Vec<Range<usize>>,
}

/// The memory of a guest that has woken and run nothing, from the compiled module of `flat`.
pub(super) fn make(flat: &Flat, module: impl FnOnce(&Engine) -> wasmtime::Result<Module>) -> wasmtime::Result<Vec<u8>> {
    let image = Image::new(Memories::blank(), module)?;
    on_own_stack(|| {
        let mut guest = image.start(&Arc::new(Line::nowhere()))?;
        guest.fill(&flat.data)?;
        guest.wake()?;
        Ok(guest.memory().to_vec())
    })
}

/// What typical programs do to the image in a file.
pub(super) fn find_facts(
    memory: &Path,
    module: impl FnOnce(&Engine) -> wasmtime::Result<Module>,
) -> wasmtime::Result<Facts> {
    let memories = Memories::of(File::open(memory)?, Vec::new())?;
    let pages = fs::metadata(memory)?.len() / rustix::param::page_size() as u64;
    let image = Image::new(memories.clone(), module)?;
    on_own_stack(|| {
        let mut guest = image.start(&Arc::new(Line::nowhere()))?;
        for source in TYPICAL {
            let (limits, conditions) = (Limits::default(), Conditions::default());
            let job = Job { source: source.into(), arguments: None, limits, conditions };
            let (_, outcome) = guest.run(&job);
            if outcome.ended != Ended::Completed {
                bail!("it cannot run a program: {outcome:?}");
            }
        }
        let mut hot = memories.changed_pages(guest.memory());
        hot.retain(|run| run.end as u64 <= pages);
        Ok(Facts { hot })
    })
}

/// Guests need more stack than a thread has unasked.
fn on_own_stack<T: Send>(work: impl FnOnce() -> wasmtime::Result<T> + Send) -> wasmtime::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("sandbox".into()).stack_size(super::engine::STACK_BYTES);
        builder.spawn_scoped(scope, work)?.join().unwrap_or_else(|_| bail!("it panicked"))
    })
}
