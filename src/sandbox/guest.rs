//! One Python interpreter: an instance with a store of its own, in which programs run one after another.

use super::cut::Cut;
use super::engine;
use super::host::{self, Said, State as HostState};
use super::job::Job;
use super::memory::{Brake, Faults, Memories};
use super::outcome::{Ended, Outcome};
use super::parked;
use super::reach::Reach;
use super::span::Span;
use super::wasi::{Exit, Lasting};
use super::watch::{Stop, Watch};
use super::worker::Line;
use crate::policy::Limits;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::{Engine, Export, Global, InstancePre, Module, Store, Trap, TypedFunc, Val, bail};

/// Makes guests, each from the same image.
#[derive(Clone)]
pub(super) struct Image {
    engine: Engine,
    python: InstancePre<HostState>,
    memories: Memories,
    /// As it is after waking.
    wasi: Lasting,
    watch: Arc<Watch>,
}

impl Image {
    pub fn new(
        memories: Memories,
        wasi: Lasting,
        module: impl FnOnce(&Engine) -> wasmtime::Result<Module>,
    ) -> wasmtime::Result<Self> {
        let (engine, watch) = (engine::new(&memories)?, Watch::start()?);
        let module = module(&engine)?;
        let python = host::linker(&engine, &module)?.instantiate_pre(&module)?;
        Ok(Self { engine, python, memories, wasi, watch })
    }

    /// A guest as in the image. `old` is one whose last run has ended by itself; what of it can be used again is.
    pub fn start(&self, line: &Arc<Line>, old: Option<Guest>) -> wasmtime::Result<Guest> {
        self.guest(HostState::new(Arc::clone(line), self.wasi.clone()), old)
    }

    /// What would be parked of such a guest.
    pub fn parked(&self) -> parked::State {
        parked::State { changes: parked::Changes::none(), wasi: self.wasi.clone() }
    }

    /// A guest as it was when it was parked, if its memory is no larger than that or an image's; of `old` as above.
    pub fn restore(
        &self,
        line: &Arc<Line>,
        state: &parked::State,
        memory_bytes_max: usize,
        old: Option<Guest>,
    ) -> wasmtime::Result<Guest> {
        let mut guest = self.guest(HostState::new(Arc::clone(line), state.wasi.clone()), old)?;
        let (store, memory) = (&mut guest.store, guest.reach.memory);
        let parked::Changes { memory_bytes, page, pages, bytes } = &state.changes;
        let image_bytes = memory.data_size(&*store);
        if *memory_bytes > memory_bytes_max.max(image_bytes) {
            bail!("its memory has {memory_bytes} bytes, where {memory_bytes_max} are the most");
        }
        let more = memory_bytes.saturating_sub(image_bytes) as u64 / memory.page_size(&*store);
        memory.grow(&mut *store, more)?;
        let memory = memory.data_mut(&mut *store);
        for (number, changes) in pages.iter().zip(bytes.chunks_exact(*page)) {
            let at = *number as usize * page;
            let Some(place) = memory.get_mut(at..at + page) else { bail!("its page {number} is outside its memory") };
            for (byte, change) in place.iter_mut().zip(changes) {
                *byte ^= change;
            }
        }
        Ok(guest)
    }

    fn guest(&self, mut state: HostState, old: Option<Guest>) -> wasmtime::Result<Guest> {
        if let Some(mut old) = old {
            match old.renew(state)? {
                None => return Ok(old),
                Some(unused) => state = unused,
            }
        }
        self.instance(state)
    }

    fn instance(&self, state: HostState) -> wasmtime::Result<Guest> {
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.memory);
        let instance = self.python.instantiate(&mut store)?;
        let reach = Reach::of(&instance, &mut store)?;
        store.data_mut().meet(reach.clone());
        let run = instance.get_typed_func(&mut store, "run")?;
        let run_end = instance.get_typed_func(&mut store, "cabi_post_run")?;
        let exported: Vec<_> = instance.exports(&mut store).filter_map(Export::into_global).collect();
        let globals = exported.into_iter().map(|global| (global, global.get(&mut store))).collect();
        let Some(stop) = instance.get_memory(&mut store, "stop") else { bail!("it exports nothing to stop it by") };
        #[expect(unsafe_code, reason = "who holds a guest knows how long its memory is there")]
        // SAFETY: the memory is the instance's, and so is there as long as `store`, which is the guest's. No run is watched
        // longer than it takes.
        let brake = unsafe { Brake::of(stop.data_ptr(&store)) };
        let (memories, watch) = (self.memories.clone(), Arc::clone(&self.watch));
        Ok(Guest { store, reach, run, run_end, instance, globals, memories, put_back: None, brake, watch })
    }
}

/// An interpreter that is up.
pub(super) struct Guest {
    store: Store<HostState>,
    reach: Reach,
    /// Takes the addresses and lengths of the source and, if the number between them is one, of the arguments; and how
    /// deep calls may go.
    run: TypedFunc<(u32, u32, u32, u32, u32, u32), u32>,
    /// Frees what the run's answer took.
    run_end: TypedFunc<u32, ()>,
    instance: wasmtime::Instance,
    /// All that it can change beside its memory, and what they began as.
    globals: Vec<(Global, Val)>,
    memories: Memories,
    /// When its memory was put back, if it was.
    put_back: Option<Faults>,
    brake: Brake,
    watch: Arc<Watch>,
}

/// `world.wit`'s `ending`.
#[derive(Clone, Copy)]
enum Ending {
    Completed,
    Raised,
}

impl Guest {
    /// Runs one program. Whether the guest can run another one comes with the outcome.
    pub fn run(&mut self, job: &Job) -> (bool, Outcome) {
        let limits = &job.limits;
        let state = self.store.data_mut();
        let (bounds, line) = (state.begin(limits, &job.conditions), state.line());
        let began = Instant::now();
        let watch = Arc::clone(&self.watch);
        let watched = watch.over(bounds, line, self.brake);
        let end = self.call(job);
        let stopped = watched.end();
        let duration = began.elapsed();
        let Said { mut texts, denied, readings } = self.store.data_mut().end();

        let (kept, ended, error) = match end {
            Ok(Ending::Completed) => (true, Ended::Completed, None),
            Ok(Ending::Raised) => (true, Ended::Raised, None),
            Err(trap) => {
                let (ended, error) = crash(&trap, stopped, denied, limits);
                (false, ended, Some(error))
            }
        };
        if ended == Ended::Completed {
            // A program can say what it likes. Whoever completed had no error.
            texts.error = Cut::new(0);
        }
        let mut outcome = Outcome::of_run(ended, error, duration, texts);
        if outcome.ended == Ended::Raised {
            explain_memory_error(&mut outcome, limits);
        }
        outcome.readings = readings;
        (kept, outcome)
    }

    /// Makes it what a new one would be: 60 µs less of the next run, in which an instance meets each of its functions for
    /// the first time. Gives back `state` when it cannot be done.
    fn renew(&mut self, state: HostState) -> wasmtime::Result<Option<HostState>> {
        let memory = self.reach.memory.data_mut(&mut self.store);
        #[expect(unsafe_code, reason = "who holds a guest knows whose its memory is")]
        // SAFETY: the engine has its memories from these, and `data_mut` is all of one.
        let put_back = unsafe { self.memories.put_back(memory, self.put_back)? };
        self.put_back = put_back;
        if self.put_back.is_none() {
            return Ok(Some(state));
        }
        for (global, first) in &self.globals {
            global.set(&mut self.store, *first)?;
        }
        *self.store.data_mut() = state;
        self.store.data_mut().meet(self.reach.clone());
        Ok(None)
    }

    /// The interpreter at rest, between two runs, if it has changed no more than so many bytes of memory.
    pub fn park(&self, bytes_max: usize) -> Option<parked::State> {
        let changes = self.memories.changes(self.reach.memory.data(&self.store), bytes_max)?;
        Some(parked::State { changes, wasi: self.store.data().wasi.lasting().clone() })
    }

    fn call(&mut self, job: &Job) -> wasmtime::Result<Ending> {
        let source = self.reach.give(&mut self.store, job.source.as_bytes(), 1)?;
        let (given, arguments) = match &job.arguments {
            Some(arguments) => (1, self.reach.give(&mut self.store, arguments.as_bytes(), 1)?),
            None => (0, Span { address: 0, bytes: 0 }),
        };
        let recursion = job.limits.recursion;
        let parameters = (source.address, source.bytes, given, arguments.address, arguments.bytes, recursion);
        let ending = self.run.call(&mut self.store, parameters)?;
        self.run_end.call(&mut self.store, ending)?;
        match ending {
            0 => Ok(Ending::Completed),
            1 => Ok(Ending::Raised),
            other => bail!("it answers {other}"),
        }
    }

    // === while the image is made ===

    /// Writes what the module's data segments would.
    pub fn fill(&mut self, data: &[(u32, Vec<u8>)]) -> wasmtime::Result<()> {
        data.iter().try_for_each(|(address, bytes)| self.reach.write(&mut self.store, *address, bytes))
    }

    /// `world.wit`'s `wake`.
    pub fn wake(&mut self) -> wasmtime::Result<()> {
        let wake: TypedFunc<(), ()> = self.instance.get_typed_func(&mut self.store, "wake")?;
        wake.call(&mut self.store, ())?;
        let wake_end: TypedFunc<(), ()> = self.instance.get_typed_func(&mut self.store, "cabi_post_wake")?;
        wake_end.call(&mut self.store, ())
    }

    pub fn memory(&self) -> &[u8] {
        self.reach.memory.data(&self.store)
    }

    pub fn wasi(&self) -> &Lasting {
        self.store.data().wasi.lasting()
    }
}

/// Python's own message for it is empty. It comes without a request to the host when an object would be larger than any
/// memory of 32 bits.
fn explain_memory_error(outcome: &mut Outcome, limits: &Limits) {
    if let Some(error) = &mut outcome.error
        && is_memory_error(error)
    {
        outcome.ended = Ended::Memory;
        let limit = limits.memory_bytes >> 20;
        *error = format!("{error}(the memory limit is {limit} MiB for all that this interpreter holds)\n");
    }
}

/// Whether it is the traceback of one: its last line stands where an exception's name stands, not in the message of
/// another one.
fn is_memory_error(traceback: &str) -> bool {
    let mut lines = traceback.lines().rev();
    if lines.next() != Some("MemoryError") {
        return false;
    }
    // The frames before it are indented, however many there are, unless the cut goes through one.
    let before = lines.find(|line| !line.starts_with(' '));
    before.is_none_or(|line| line == "Traceback (most recent call last):" || line.contains(" bytes omitted]…"))
}

pub(super) fn timed_out(limits: &Limits) -> String {
    format!("execution timed out after {} ms", limits.wall_ms)
}

fn crash(trap: &wasmtime::Error, stopped: Option<Stop>, denied: bool, limits: &Limits) -> (Ended, String) {
    // A host function that waits sees for itself that it must not go on.
    match stopped.as_ref().or_else(|| trap.downcast_ref()) {
        Some(Stop::Wall) => return (Ended::Timeout, timed_out(limits)),
        Some(Stop::Cpu) => return (Ended::Timeout, format!("execution used up its {} ms of CPU time", limits.cpu_ms)),
        // Nobody reads it.
        Some(Stop::Gone) => return (Ended::Crashed, Stop::Gone.to_string()),
        None => {}
    }
    if trap.is::<Exit>() {
        return (Ended::Raised, "the program ended its own process, as os._exit() does".to_owned());
    }
    if denied {
        return (Ended::Memory, format!("memory limit of {} MiB exceeded", limits.memory_bytes >> 20));
    }
    if let Some(Trap::StackOverflow) = trap.downcast_ref() {
        return (Ended::Crashed, "the recursion was too deep for the stack".to_owned());
    }
    (Ended::Crashed, format!("the interpreter crashed ({})", trap.root_cause()))
}

#[cfg(test)]
mod tests {
    use super::is_memory_error;

    #[test]
    fn a_memory_error_is_what_is_named_as_the_exception_and_not_what_is_said_in_a_message() {
        let frames = "Traceback (most recent call last):\n  File \"<call 1>\", line 1\n    x * 2\n    ~~^~~\n";
        for real in [
            "MemoryError\n".to_owned(),
            format!("{frames}MemoryError\n"),
            format!("{frames}ValueError: x\n\nDuring handling of the above …:\n\n{frames}MemoryError\n"),
            "Traceback (most recent call last):\n  Fi…[9 bytes omitted]…ne 7\n    f()\nMemoryError\n".to_owned(),
        ] {
            assert!(is_memory_error(&real), "{real}");
        }
        for other in
            [format!("{frames}Exception: x\nMemoryError\n"), format!("{frames}MemoryError: x\n"), String::new()]
        {
            assert!(!is_memory_error(&other), "{other}");
        }
    }
}
