//! Linear memories that begin as one image, without a copy of it: private mappings of its file.
//!
//! A guest that ends leaves its memory to the next one. What it has changed is put back: pages that every run changes are
//! copied over, since a page that is given back to the kernel costs the next run a fault; the others are given back. To
//! find the others takes as long as a small program; a thread that had no fault since has changed none.
//!
//! Beside it a guest has a page that it only reads, and that stops it when it is taken away: [`Brake`].
//!
//! All that depends on what is mapped where is in this file.

#![expect(unsafe_code, reason = "wasmtime leaves the memory of its guests to whoever implements these traits")]

use super::parked::Changes;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType, bail};

/// Address space of one memory: all that a 32-bit program can name, so that its code needs no checks.
pub(super) const RESERVED_BYTES: usize = 4 << 30;

/// Address space behind it that faults: what an instruction can add to an address without a check. wasmtime's default.
pub(super) const GUARD_BYTES: usize = 32 << 20;

/// The size of the page that stops a guest: the least that a memory can have, and the only one that cannot grow.
const STOP_BYTES: usize = 64 << 10;

/// Bits of an entry in `/proc/self/pagemap`: the page is there, is swapped out, is the file's own.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// What memories begin as.
struct Image {
    file: File,
    /// The whole file, for reading.
    mapped: Mapping,
    /// Pages that a run is known to change, in order.
    hot: Vec<Range<usize>>,
}

/// Makes memories of one kind. Cheap to clone.
#[derive(Clone)]
pub(super) struct Memories(Arc<Shared>);

struct Shared {
    image: Option<Image>,
    page: usize,
    /// Says which pages were changed; where a kernel does not tell, any may be.
    pagemap: Option<File>,
    free: Mutex<Vec<Slot>>,
}

impl Memories {
    /// Memories of zeros.
    pub fn blank() -> Self {
        Self::with(None)
    }

    /// Memories that begin as what is in `file`, which must not change any more. `hot` are the pages that a run changes.
    pub fn of(file: File, hot: Vec<Range<usize>>) -> io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if bytes == 0 || bytes % page_size() != 0 || bytes > RESERVED_BYTES {
            return Err(io::Error::other(format!("an image of {bytes} bytes, which are no pages")));
        }
        if hot.iter().any(|run| run.start > run.end || run.end > bytes / page_size()) {
            return Err(io::Error::other("its hot pages are outside the image"));
        }
        let mapped = Mapping::of_file(&file, bytes)?;
        Ok(Self::with(Some(Image { file, mapped, hot })))
    }

    fn with(image: Option<Image>) -> Self {
        let pagemap = File::open("/proc/self/pagemap").ok();
        Self(Arc::new(Shared { image, page: page_size(), pagemap, free: Mutex::default() }))
    }

    /// Which pages of a memory of this kind may have been changed, in order.
    pub fn changed_pages(&self, memory: &[u8]) -> Vec<Range<usize>> {
        self.0.changed(memory.as_ptr() as usize, memory.len())
    }

    /// Makes a memory what it began as, for its next guest; not one that has grown. `since` is what this has returned when
    /// it was put back before, if it was.
    ///
    /// # Safety
    /// It must be one that [`MemoryCreator::new_memory`] of `self` has made, from its start, and all of that is in it.
    pub unsafe fn put_back(&self, memory: &mut [u8], since: Option<Faults>) -> io::Result<Option<Faults>> {
        let image = self.0.image();
        if memory.len() != image.len() {
            return Ok(None);
        }
        if since.is_some() && since == Faults::now() {
            for hot in self.0.hot() {
                let bytes = hot.start * self.0.page..hot.end * self.0.page;
                memory[bytes.clone()].copy_from_slice(&image[bytes]);
            }
        } else {
            // SAFETY: as the caller promises, and it is borrowed from whoever else could use it.
            unsafe { self.0.put_back(memory.as_mut_ptr().cast(), memory.len())? };
        }
        Ok(Faults::now())
    }

    /// What was changed in a memory of this kind, if that are no more than so many bytes of pages.
    pub fn changes(&self, memory: &[u8], bytes_max: usize) -> Option<Changes> {
        let (page, image) = (self.0.page, self.0.image());
        let mut changes = Changes { memory_bytes: memory.len(), page, pages: Vec::new(), bytes: Vec::new() };
        // What lies behind the image began as zeros.
        let zeros = vec![0; page];
        for number in self.changed_pages(memory).into_iter().flatten() {
            let at = number * page..(number + 1) * page;
            let (now, first) = (&memory[at.clone()], image.get(at).unwrap_or(&zeros));
            if now == first {
                continue;
            }
            if changes.bytes.len() + page > bytes_max {
                return None;
            }
            changes.pages.push(u32::try_from(number).ok()?);
            changes.bytes.extend(now.iter().zip(first).map(|(now, first)| now ^ first));
        }
        Some(changes)
    }
}

impl Shared {
    fn image(&self) -> &[u8] {
        self.image.as_ref().map_or(&[], |image| image.mapped.bytes())
    }

    fn hot(&self) -> &[Range<usize>] {
        self.image.as_ref().map_or(&[], |image| &image.hot)
    }

    fn changed(&self, address: usize, bytes: usize) -> Vec<Range<usize>> {
        let (first, count) = (address / self.page, bytes / self.page);
        let mut entries = vec![[0; 8]; count];
        let told = self
            .pagemap
            .as_ref()
            .is_some_and(|pagemap| pagemap.read_exact_at(entries.as_flattened_mut(), (first * 8) as u64).is_ok());
        if !told {
            return iter::once(0..count).collect();
        }
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (number, entry) in entries.into_iter().map(u64::from_ne_bytes).enumerate() {
            let is_private = entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT;
            match runs.last_mut() {
                _ if !is_private => {}
                Some(run) if run.end == number => run.end += 1,
                _ => runs.push(number..number + 1),
            }
        }
        runs
    }

    /// Makes the first `bytes` of a slot what they were when it was new.
    ///
    /// # Safety
    /// They must be open, and nobody may use them meanwhile.
    unsafe fn put_back(&self, start: *mut c_void, bytes: usize) -> io::Result<()> {
        let mut hot = self.hot().iter().peekable();
        for changed in self.changed(start as usize, bytes) {
            let mut from = changed.start;
            while from < changed.end {
                while hot.next_if(|run| run.end <= from).is_some() {}
                let (is_hot, to) = match hot.peek() {
                    Some(run) if run.start <= from => (true, run.end.min(changed.end)),
                    Some(run) => (false, run.start.min(changed.end)),
                    None => (false, changed.end),
                };
                // SAFETY: changed pages are among the first `bytes`, and hot ones within the image as well.
                unsafe {
                    if is_hot {
                        self.copy_back(start, &(from..to));
                    } else {
                        self.give_back(start, &(from..to))?;
                    }
                }
                from = to;
            }
        }
        Ok(())
    }

    /// # Safety
    /// The pages must be within the image and open in the slot that begins at `start`, and nobody may use them meanwhile.
    unsafe fn copy_back(&self, start: *mut c_void, pages: &Range<usize>) {
        let source = &self.image()[pages.start * self.page..pages.end * self.page];
        // SAFETY: as the caller promises; the image is mapped elsewhere.
        unsafe {
            let target = start.cast::<u8>().add(pages.start * self.page);
            target.copy_from_nonoverlapping(source.as_ptr(), source.len());
        }
    }

    /// The kernel forgets what was written there: the pages are the file's again, or zeros.
    ///
    /// # Safety
    /// The pages must be open in the slot that begins at `start`, and nobody may use them meanwhile.
    unsafe fn give_back(&self, start: *mut c_void, pages: &Range<usize>) -> io::Result<()> {
        let bytes = pages.len() * self.page;
        // SAFETY: as the caller promises.
        unsafe { madvise(start.byte_add(pages.start * self.page), bytes, Advice::LinuxDontNeed)? };
        Ok(())
    }

    fn slot(&self) -> io::Result<Slot> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.map_or_else(|| Slot::new(self), Ok)
    }
}

// SAFETY: a memory of this creator has the whole reservation and the guard behind it to itself, never moves, and begins as
// zeros or, with an image, as what wasmtime would have made of a module with that much data. Nobody else writes to it.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved != Some(RESERVED_BYTES) || guard > GUARD_BYTES {
            return Err(format!("wasmtime reserves {reserved:?} bytes and {guard} behind them"));
        }
        if maximum == Some(STOP_BYTES) {
            return Ok(Box::new(StopPage::new().map_err(|error| error.to_string())?));
        }
        let mut slot = self.0.slot().map_err(|error| error.to_string())?;
        let bytes = minimum.max(self.0.image().len());
        slot.open(bytes).map_err(|error| error.to_string())?;
        Ok(Box::new(Memory { slot: Some(slot), bytes, shared: Arc::clone(&self.0) }))
    }
}

struct Memory {
    /// There until it is dropped.
    slot: Option<Slot>,
    bytes: usize,
    shared: Arc<Shared>,
}

// SAFETY: see the creator. `as_ptr` is the start of the reservation, of which `byte_size` bytes can be read and written.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        RESERVED_BYTES
    }

    fn grow_to(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if let Some(slot) = &mut self.slot {
            slot.open(bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.as_ref().map_or(null_mut(), |slot| slot.space.start.cast())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What cannot be put back is given back whole, by being dropped.
        if let Some(mut slot) = self.slot.take()
            && slot.put_back(&self.shared, self.bytes).is_ok()
        {
            self.shared.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
    }
}

/// The memory that a guest reads wherever it can be stopped.
struct StopPage(Mapping);

impl StopPage {
    fn new() -> io::Result<Self> {
        let space = Mapping::reserve(RESERVED_BYTES + GUARD_BYTES)?;
        Brake(space.start).release();
        Ok(Self(space))
    }
}

// SAFETY: `as_ptr` is the start of the reservation, of which `byte_size` bytes can be read; no guest has code that writes
// there. Without a brake that is pulled, that stays so.
unsafe impl LinearMemory for StopPage {
    fn byte_size(&self) -> usize {
        STOP_BYTES
    }

    fn byte_capacity(&self) -> usize {
        RESERVED_BYTES
    }

    fn grow_to(&mut self, _: usize) -> wasmtime::Result<()> {
        bail!("it stays one page")
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.start.cast()
    }
}

/// Stops a guest from any thread: what it reads wherever it could go on for long faults, which wasmtime makes a trap of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brake(*mut c_void);

// SAFETY: an address range belongs to the process, whichever thread names it.
unsafe impl Send for Brake {}

impl Brake {
    /// Of the guest whose stop page begins there.
    ///
    /// # Safety
    /// There must be such a page, and neither this nor a copy may be pulled or released once it is gone.
    pub unsafe fn of(page: *mut u8) -> Self {
        Self(page.cast())
    }

    pub fn pull(self) {
        self.protect(MprotectFlags::empty());
    }

    pub fn release(self) {
        self.protect(MprotectFlags::READ);
    }

    fn protect(self, flags: MprotectFlags) {
        // SAFETY: the page is there, nothing but its guest's reads depends on it, and these become traps. A failure leaves a guest to run on,
        // until its gateway ends the worker.
        let _ = unsafe { mprotect(self.0, STOP_BYTES, flags) };
    }
}

/// The address space of one memory, as its next guest is to find it.
struct Slot {
    space: Mapping,
    /// Bytes from its start that can be read and written.
    open: usize,
}

impl Slot {
    fn new(shared: &Shared) -> io::Result<Self> {
        let space = Mapping::reserve(RESERVED_BYTES + GUARD_BYTES)?;
        let Some(image) = &shared.image else { return Ok(Self { space, open: 0 }) };
        let (bytes, both) = (image.mapped.bytes, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the range is the start of `space`, which is nobody else's, and is replaced as a whole.
        unsafe { mmap(space.start, bytes, both, MapFlags::PRIVATE | MapFlags::FIXED, &image.file, 0)? };
        // Written once, they are this slot's own from now on.
        for run in &image.hot {
            // SAFETY: hot pages are within the image, which was mapped at the start, and nobody has the slot yet.
            unsafe { shared.copy_back(space.start, run) };
        }
        Ok(Self { space, open: bytes })
    }

    /// Makes so many bytes from the start readable and writable.
    fn open(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > self.open {
            // SAFETY: wasmtime asks for no more than it had reserved, so the range is within `space`.
            unsafe { self.protect(self.open..bytes, MprotectFlags::READ | MprotectFlags::WRITE)? };
            self.open = bytes;
        }
        Ok(())
    }

    /// Makes it what it was when it was new. A guest has used the first `bytes` of it.
    fn put_back(&mut self, shared: &Shared, bytes: usize) -> io::Result<()> {
        // SAFETY: a guest could not have used what is not open, and it is gone.
        unsafe { shared.put_back(self.space.start, bytes)? };
        let image = shared.image();
        if self.open > image.len() {
            // SAFETY: within `space`, and the guest is gone.
            unsafe { self.protect(image.len()..self.open, MprotectFlags::empty())? };
            self.open = image.len();
        }
        Ok(())
    }

    /// # Safety
    /// `bytes` must be within `space`, and nobody may need what is taken away.
    unsafe fn protect(&self, bytes: Range<usize>, flags: MprotectFlags) -> io::Result<()> {
        // SAFETY: as the caller promises.
        unsafe { mprotect(self.space.start.byte_add(bytes.start), bytes.len(), flags)? };
        Ok(())
    }
}

/// How often a thread has met a page that was not there, or not its own yet. To write for the first time to a page of an
/// image is one of them, whoever does it for the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faults {
    thread: libc::pid_t,
    minor: libc::c_long,
    major: libc::c_long,
}

impl Faults {
    /// Nothing where they are not counted: some that stand in for a kernel say that there never was one.
    fn now() -> Option<Self> {
        static ARE_COUNTED: LazyLock<bool> = LazyLock::new(|| {
            let before = Faults::read();
            // SAFETY: a new mapping, which nobody else has.
            let page = unsafe { mmap_anonymous(null_mut(), page_size(), ProtFlags::WRITE, MapFlags::PRIVATE) };
            let Ok(start) = page else { return false };
            let fresh = Mapping { start, bytes: page_size() };
            // SAFETY: it is one page, for writing.
            unsafe { fresh.start.cast::<u8>().write_volatile(1) };
            before.is_some() && before != Faults::read()
        });
        if *ARE_COUNTED { Self::read() } else { None }
    }

    fn read() -> Option<Self> {
        // SAFETY: all zeros are a value of it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one `rusage`, and that is one.
        let done = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        (done == 0).then_some(Self { thread, minor: usage.ru_minflt, major: usage.ru_majflt })
    }
}

/// Address space that is unmapped when this is dropped.
struct Mapping {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: an address range belongs to the process, whichever thread holds it.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn reserve(bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let start = unsafe { mmap_anonymous(null_mut(), bytes, ProtFlags::empty(), flags)? };
        Ok(Self { start, bytes })
    }

    fn of_file(file: &File, bytes: usize) -> io::Result<Self> {
        // SAFETY: as above.
        let start = unsafe { mmap(null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, file, 0)? };
        Ok(Self { start, bytes })
    }

    /// What is in a mapping of a file.
    fn bytes(&self) -> &[u8] {
        // SAFETY: only called for mappings of `of_file`: readable as a whole, for as long as `self` lives, and the file
        // does not change.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: whoever has used it is gone. A failure leaves address space behind.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PAGES: usize = 8;
    const HOT: Range<usize> = 2..4;

    fn image() -> Vec<u8> {
        (1..).take(PAGES).flat_map(|number| iter::repeat_n(number, page_size())).collect()
    }

    /// A memory of an image of some pages, as one would find it.
    fn with_memory(test: impl FnOnce(&Memories, &mut [u8])) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image()).unwrap();
        let memories = Memories::of(file, vec![HOT]).unwrap();
        let one = MemoryCreator::new_memory;
        let memory = one(&memories, MemoryType::new(0, None), 0, None, Some(RESERVED_BYTES), GUARD_BYTES).unwrap();
        // SAFETY: so says the trait.
        test(&memories, unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_size()) });
    }

    #[test]
    fn every_page_is_put_back_time_and_again() {
        with_memory(|memories, memory| {
            let mut since = None;
            for written in (0..PAGES).chain((0..PAGES).rev()).chain(HOT).chain([7, 2, 7, 7, 3]) {
                memory[written * page_size() + 7] = 99;
                // SAFETY: it is all of a memory of theirs.
                since = unsafe { memories.put_back(memory, since).unwrap() };
                assert!(since.is_some());
                assert!(memory == image(), "page {written}");
            }
        });
    }

    #[test]
    fn what_a_thread_has_put_back_is_looked_at_again_by_another_one() {
        with_memory(|memories, memory| {
            memory.fill(99);
            // SAFETY: it is all of a memory of theirs, here and below.
            let since = unsafe { memories.put_back(memory, None).unwrap() };
            memory.fill(99);
            std::thread::scope(|scope| {
                scope.spawn(|| unsafe { memories.put_back(memory, since).unwrap() }).join().unwrap()
            });
            assert!(memory == image());
        });
    }

    #[test]
    fn a_memory_that_has_grown_is_not_put_back() {
        with_memory(|memories, memory| {
            // SAFETY: its length is not an image's, so that nothing is touched.
            assert_eq!(unsafe { memories.put_back(&mut memory[page_size()..], None).unwrap() }, None);
        });
    }
}
