//! `wasi:filesystem`: [`Files`] as the canonical ABI lowers it.
//!
//! Here is what the guest's C library imports, and no more. It has one directory to begin with: the root.

use super::lasting::{Handle, Open};
use super::{Call, Wasi, answer};
use crate::sandbox::files::{Error, Files, How, Inode, ROOT, Stat, Time};
use crate::sandbox::span::{HOST_CALL_BYTES_MAX, Span};
use wasmtime::{Linker, bail};

/// Files, and what reads and writes them, that a guest may have open at once. An open file takes up to three of these.
/// Chosen: enough for 300 files, which few programs open at once.
const OPEN_MAX: usize = 900;

/// WASI's flags of a descriptor.
const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const MUTATE_DIRECTORY: u32 = 1 << 5;

/// WASI's flags of an opening.
const CREATE: u32 = 1 << 0;
const DIRECTORY: u32 = 1 << 1;
const EXCLUSIVE: u32 = 1 << 2;
const TRUNCATE: u32 = 1 << 3;

/// What a function answers. The outer errors are a guest's that uses what it has not got: they end its run.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl Wasi {
    /// `make` holds the file that it gives.
    pub(super) fn open(&mut self, make: impl FnOnce(&mut Files) -> Result<Open, Error>) -> Answer<u32> {
        let open = self.lasting.handles.iter().filter(|handle| matches!(handle, Some(Handle::Open(_)))).count();
        if open >= OPEN_MAX {
            return Ok(Err(Error::TooManyOpen));
        }
        match make(&mut self.lasting.files) {
            Ok(open) => self.new_handle(Handle::Open(open)).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    fn descriptor(&mut self, handle: u32) -> wasmtime::Result<(Inode, u32)> {
        match self.slot(handle)? {
            Some(Handle::Open(Open::Descriptor { inode, flags })) => Ok((*inode, *flags)),
            _ => bail!("it uses handle {handle} as a file, which it is not"),
        }
    }

    /// The file behind a descriptor, if it was opened for this.
    fn opened_for(&mut self, flag: u32, handle: u32) -> Answer<Inode> {
        let (inode, flags) = self.descriptor(handle)?;
        Ok(if flags & flag == 0 { Err(Error::BadDescriptor) } else { Ok(inode) })
    }

    fn open_reader(&mut self, file: u32, offset: u64) -> Answer<u32> {
        let inode = self.opened_for(READ, file)?;
        self.open(|files| {
            let inode = inode?;
            files.read(inode, offset, 0)?;
            files.hold(inode)?;
            Ok(Open::Reader { inode, offset })
        })
    }

    fn open_writer(&mut self, file: u32, offset: Option<u64>) -> Answer<u32> {
        let inode = self.opened_for(WRITE, file)?;
        self.open(|files| {
            let inode = inode?;
            files.hold(inode)?;
            Ok(Open::Writer { inode, offset })
        })
    }

    fn open_entries(&mut self, directory: u32) -> Answer<u32> {
        let (inode, _) = self.descriptor(directory)?;
        self.open(|files| {
            files.entry_after(inode, "")?;
            files.hold(inode)?;
            Ok(Open::Entries { inode, last: String::new() })
        })
    }

    fn open_at(&mut self, directory: u32, path: &str, opening: u32, flags: u32) -> Answer<u32> {
        let (from, _) = self.descriptor(directory)?;
        let how = How {
            create: opening & CREATE != 0,
            exclusive: opening & EXCLUSIVE != 0,
            truncate: opening & TRUNCATE != 0,
            directory: opening & DIRECTORY != 0,
            write: flags & WRITE != 0,
        };
        let now = self.clock.latest();
        self.open(|files| Ok(Open::Descriptor { inode: files.open(from, path, how, now)?, flags }))
    }

    fn next_entry(&mut self, entries: u32) -> Answer<Option<(String, bool)>> {
        let slot = (entries as usize).checked_sub(1).and_then(|slot| self.lasting.handles.get_mut(slot));
        let Some(Some(Handle::Open(Open::Entries { inode, last }))) = slot else {
            bail!("it uses handle {entries} as a directory's entries, which it is not")
        };
        let next = match self.lasting.files.entry_after(*inode, last) {
            Ok(next) => next.map(|(name, inode)| (name.to_owned(), inode)),
            Err(refused) => return Ok(Err(refused)),
        };
        let Some((name, inode)) = next else { return Ok(Ok(None)) };
        last.clone_from(&name);
        Ok(self.lasting.files.stat(inode).map(|stat| Some((name, stat.is_directory))))
    }

    fn set_times(&mut self, inode: Inode, accessed: NewTime, modified: NewTime) -> Result<(), Error> {
        let now = self.clock.latest();
        self.lasting.files.set_times(inode, accessed.at(now)?, modified.at(now)?, now)
    }
}

/// WASI's `new-timestamp`: which one, and if it is the third, seconds and nanoseconds.
struct NewTime(u32, u64, u32);

impl NewTime {
    fn at(self, now: Time) -> Result<Option<Time>, Error> {
        match self {
            Self(0, _, _) => Ok(None),
            Self(1, _, _) => Ok(Some(now)),
            Self(2, seconds, nanoseconds @ ..1_000_000_000) => Ok(Some(Time::new(seconds, nanoseconds))),
            _ => Err(Error::Invalid),
        }
    }
}

// === what is done with descriptors ===

/// Defines one function of a descriptor that takes no path, if it is known.
pub(super) fn define(linker: &mut Linker<super::State>, module: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "[method]descriptor.read-via-stream" => {
            linker.func_wrap(module, name, |mut call: Call, file: u32, offset: u64, out: u32| {
                let reader = call.data_mut().wasi.open_reader(file, offset)?;
                answer_handle(&mut call, out, reader)
            })?
        }
        "[method]descriptor.write-via-stream" => {
            linker.func_wrap(module, name, |mut call: Call, file: u32, offset: u64, out: u32| {
                let writer = call.data_mut().wasi.open_writer(file, Some(offset))?;
                answer_handle(&mut call, out, writer)
            })?
        }
        "[method]descriptor.append-via-stream" => {
            linker.func_wrap(module, name, |mut call: Call, file: u32, out: u32| {
                let writer = call.data_mut().wasi.open_writer(file, None)?;
                answer_handle(&mut call, out, writer)
            })?
        }
        "[method]descriptor.read" => linker.func_wrap(module, name, read)?,
        "[method]descriptor.write" => linker.func_wrap(module, name, write)?,
        "[method]descriptor.set-size" => {
            linker.func_wrap(module, name, |mut call: Call, file: u32, bytes: u64, out: u32| {
                let wasi = &mut call.data_mut().wasi;
                let (inode, now) = (wasi.opened_for(WRITE, file)?, wasi.clock.latest());
                let done = inode.and_then(|inode| wasi.lasting.files.resize(inode, bytes, now));
                answer_done(&mut call, out, done)
            })?
        }
        "[method]descriptor.set-times" => linker.func_wrap(
            module,
            name,
            |mut call: Call, file: u32, a: u32, a_s: u64, a_ns: u32, m: u32, m_s: u64, m_ns: u32, out: u32| {
                let wasi = &mut call.data_mut().wasi;
                let (inode, _) = wasi.descriptor(file)?;
                let done = wasi.set_times(inode, NewTime(a, a_s, a_ns), NewTime(m, m_s, m_ns));
                answer_done(&mut call, out, done)
            },
        )?,
        "[method]descriptor.stat" => linker.func_wrap(module, name, |mut call: Call, file: u32, out: u32| {
            let wasi = &mut call.data_mut().wasi;
            let (inode, _) = wasi.descriptor(file)?;
            let stat = wasi.lasting.files.stat(inode);
            answer_stat(&mut call, out, stat)
        })?,
        "[method]descriptor.metadata-hash" => {
            linker.func_wrap(module, name, |mut call: Call, file: u32, out: u32| {
                let (inode, _) = call.data_mut().wasi.descriptor(file)?;
                answer_hash(&mut call, out, Ok(inode))
            })?
        }
        "[method]descriptor.get-flags" => linker.func_wrap(module, name, |mut call: Call, file: u32, out: u32| {
            let (_, flags) = call.data_mut().wasi.descriptor(file)?;
            answer_result(&mut call, out, 1, Ok(&flags.to_le_bytes()[..1]))
        })?,
        "[method]descriptor.advise" => linker.func_wrap(
            module,
            name,
            |mut call: Call, file: u32, _offset: u64, _bytes: u64, _advice: u32, out: u32| {
                call.data_mut().wasi.descriptor(file)?;
                answer_done(&mut call, out, Ok(()))
            },
        )?,
        "[method]descriptor.sync" | "[method]descriptor.sync-data" => {
            linker.func_wrap(module, name, |mut call: Call, file: u32, out: u32| {
                call.data_mut().wasi.descriptor(file)?;
                answer_done(&mut call, out, Ok(()))
            })?
        }
        "[method]descriptor.read-directory" => {
            linker.func_wrap(module, name, |mut call: Call, directory: u32, out: u32| {
                let entries = call.data_mut().wasi.open_entries(directory)?;
                answer_handle(&mut call, out, entries)
            })?
        }
        "[method]directory-entry-stream.read-directory-entry" => {
            linker.func_wrap(module, name, read_directory_entry)?
        }
        _ => return define_at(linker, module, name),
    };
    Ok(())
}

/// Defines one function of a directory that takes paths in it, if it is known.
fn define_at(linker: &mut Linker<super::State>, module: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "[method]descriptor.open-at" => linker.func_wrap(
            module,
            name,
            |mut call: Call, from: u32, _follow: u32, address: u32, bytes: u32, opening: u32, flags: u32, out: u32| {
                let path = text(&call, Span { address, bytes })?;
                let file = call.data_mut().wasi.open_at(from, &path, opening, flags)?;
                answer_handle(&mut call, out, file)
            },
        )?,
        "[method]descriptor.stat-at" => linker.func_wrap(
            module,
            name,
            |mut call: Call, from: u32, _follow: u32, address: u32, bytes: u32, out: u32| {
                let inode = find(&mut call, from, Span { address, bytes })?;
                let stat = inode.and_then(|inode| call.data().wasi.lasting.files.stat(inode));
                answer_stat(&mut call, out, stat)
            },
        )?,
        "[method]descriptor.metadata-hash-at" => linker.func_wrap(
            module,
            name,
            |mut call: Call, from: u32, _follow: u32, address: u32, bytes: u32, out: u32| {
                let inode = find(&mut call, from, Span { address, bytes })?;
                answer_hash(&mut call, out, inode)
            },
        )?,
        "[method]descriptor.set-times-at" => linker.func_wrap(
            module,
            name,
            |mut call: Call,
             from: u32,
             _follow: u32,
             address: u32,
             bytes: u32,
             a: u32,
             a_s: u64,
             a_ns: u32,
             m: u32,
             m_s: u64,
             m_ns: u32,
             out: u32| {
                let inode = find(&mut call, from, Span { address, bytes })?;
                let wasi = &mut call.data_mut().wasi;
                let done = inode.and_then(|inode| wasi.set_times(inode, NewTime(a, a_s, a_ns), NewTime(m, m_s, m_ns)));
                answer_done(&mut call, out, done)
            },
        )?,
        "[method]descriptor.create-directory-at" => change(linker, module, name, Files::create_directory)?,
        "[method]descriptor.remove-directory-at" => change(linker, module, name, Files::remove_directory)?,
        "[method]descriptor.unlink-file-at" => change(linker, module, name, Files::remove_file)?,
        "[method]descriptor.rename-at" => linker.func_wrap(
            module,
            name,
            |mut call: Call,
             from: u32,
             address: u32,
             bytes: u32,
             to: u32,
             new_address: u32,
             new_bytes: u32,
             out: u32| {
                let path = text(&call, Span { address, bytes })?;
                let new_path = text(&call, Span { address: new_address, bytes: new_bytes })?;
                let wasi = &mut call.data_mut().wasi;
                let ((from, _), (to, _), now) = (wasi.descriptor(from)?, wasi.descriptor(to)?, wasi.clock.latest());
                let done = wasi.lasting.files.rename(from, &path, to, &new_path, now);
                answer_done(&mut call, out, done)
            },
        )?,
        // There are no links.
        "[method]descriptor.readlink-at" => {
            linker.func_wrap(module, name, |mut call: Call, from: u32, address: u32, bytes: u32, out: u32| {
                let inode = find(&mut call, from, Span { address, bytes })?;
                let refused = inode.and(Err::<[u8; 0], _>(Error::Invalid));
                answer_result(&mut call, out, 4, refused)
            })?
        }
        "[method]descriptor.link-at" => linker.func_wrap(
            module,
            name,
            |mut call: Call, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, out: u32| {
                answer_done(&mut call, out, Err(Error::NotPermitted))
            },
        )?,
        "[method]descriptor.symlink-at" => {
            linker.func_wrap(module, name, |mut call: Call, _: u32, _: u32, _: u32, _: u32, _: u32, out: u32| {
                answer_done(&mut call, out, Err(Error::NotPermitted))
            })?
        }
        _ => linker,
    };
    Ok(())
}

/// Defines a function that changes what is at one path.
fn change<'l>(
    linker: &'l mut Linker<super::State>,
    module: &str,
    name: &str,
    change: fn(&mut Files, Inode, &str, Time) -> Result<(), Error>,
) -> wasmtime::Result<&'l mut Linker<super::State>> {
    linker.func_wrap(module, name, move |mut call: Call, from: u32, address: u32, bytes: u32, out: u32| {
        let path = text(&call, Span { address, bytes })?;
        let wasi = &mut call.data_mut().wasi;
        let ((from, _), now) = (wasi.descriptor(from)?, wasi.clock.latest());
        let done = change(&mut wasi.lasting.files, from, &path, now);
        answer_done(&mut call, out, done)
    })
}

fn read(mut call: Call<'_>, file: u32, bytes: u64, offset: u64, out: u32) -> wasmtime::Result<()> {
    let bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX).min(HOST_CALL_BYTES_MAX);
    let wasi = &mut call.data_mut().wasi;
    let inode = wasi.opened_for(READ, file)?;
    let bytes = inode.and_then(|inode| wasi.lasting.files.read(inode, offset, bytes_max).map(<[u8]>::to_vec));
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(refused) => return answer_result(&mut call, out, 4, Err::<[u8; 0], _>(refused)),
    };
    let reach = call.data().reach()?;
    let list = reach.give(&mut call, &bytes, 1)?;
    let is_end = u32::from(bytes.is_empty() && bytes_max > 0);
    answer_result(&mut call, out, 4, Ok([list.address, list.bytes, is_end].map(u32::to_le_bytes).as_flattened()))
}

fn write(mut call: Call<'_>, file: u32, address: u32, bytes: u32, offset: u64, out: u32) -> wasmtime::Result<()> {
    let reach = call.data().reach()?;
    let (bytes, state) = reach.read_beside(&mut call, Span { address, bytes })?;
    let (inode, now) = (state.wasi.opened_for(WRITE, file)?, state.wasi.clock.latest());
    let written = inode.and_then(|inode| state.wasi.lasting.files.write(inode, offset, bytes, now));
    answer_result(&mut call, out, 8, written.map(|count| (count as u64).to_le_bytes()))
}

fn read_directory_entry(mut call: Call<'_>, entries: u32, out: u32) -> wasmtime::Result<()> {
    let entry = match call.data_mut().wasi.next_entry(entries)? {
        Ok(Some(entry)) => entry,
        // An `option` with nothing in it.
        Ok(None) => return answer_result(&mut call, out, 4, Ok([0])),
        Err(refused) => return answer_result(&mut call, out, 4, Err::<[u8; 0], _>(refused)),
    };
    let (name, is_directory) = entry;
    let reach = call.data().reach()?;
    let name = reach.give(&mut call, name.as_bytes(), 1)?;
    let kind = u32::from(kind_of(is_directory));
    answer_result(&mut call, out, 4, Ok([1, kind, name.address, name.bytes].map(u32::to_le_bytes).as_flattened()))
}

/// `wasi:filesystem/preopens`: the root, by its name.
pub(super) fn get_directories(mut call: Call<'_>, out: u32) -> wasmtime::Result<()> {
    let root = call.data_mut().wasi.open(|files| {
        files.hold(ROOT)?;
        Ok(Open::Descriptor { inode: ROOT, flags: READ | MUTATE_DIRECTORY })
    })?;
    let Ok(root) = root else { bail!("it opens the root too often") };
    let reach = call.data().reach()?;
    let name = reach.give(&mut call, b"/", 1)?;
    let element = [root, name.address, name.bytes].map(u32::to_le_bytes);
    let list = reach.give(&mut call, element.as_flattened(), 4)?;
    answer(&mut call, out, [list.address, 1].map(u32::to_le_bytes).as_flattened())
}

// === how paths are read and answers are written ===

fn text(call: &Call, span: Span) -> wasmtime::Result<String> {
    Ok(str::from_utf8(call.data().reach()?.read(call, span)?)?.to_owned())
}

fn find(call: &mut Call, from: u32, path: Span) -> Answer<Inode> {
    let path = text(call, path)?;
    let wasi = &mut call.data_mut().wasi;
    let (from, _) = wasi.descriptor(from)?;
    Ok(wasi.lasting.files.find(from, &path))
}

/// A `result` whose content begins at this byte, by its alignment.
fn answer_result(
    call: &mut Call,
    out: u32,
    at: usize,
    result: Result<impl AsRef<[u8]>, Error>,
) -> wasmtime::Result<()> {
    let mut bytes = vec![0; at];
    match result {
        Ok(content) => bytes.extend_from_slice(content.as_ref()),
        Err(refused) => {
            bytes[0] = 1;
            bytes.push(refused as u8);
        }
    }
    answer(call, out, &bytes)
}

fn answer_done(call: &mut Call, out: u32, done: Result<(), Error>) -> wasmtime::Result<()> {
    answer_result(call, out, 1, done.map(|()| []))
}

fn answer_handle(call: &mut Call, out: u32, handle: Result<u32, Error>) -> wasmtime::Result<()> {
    answer_result(call, out, 4, handle.map(u32::to_le_bytes))
}

/// Its number is what Python calls `st_ino`, so that one file is known as one.
fn answer_hash(call: &mut Call, out: u32, inode: Result<Inode, Error>) -> wasmtime::Result<()> {
    answer_result(call, out, 8, inode.map(|Inode(number)| [number.to_le_bytes(), [0; 8]].concat()))
}

fn answer_stat(call: &mut Call, out: u32, stat: Result<Stat, Error>) -> wasmtime::Result<()> {
    answer_result(call, out, 8, stat.map(|stat| descriptor_stat(&stat)))
}

/// WASI's `descriptor-stat`.
fn descriptor_stat(stat: &Stat) -> [u8; 96] {
    let mut bytes = [0; 96];
    bytes[0] = kind_of(stat.is_directory);
    bytes[8..16].copy_from_slice(&stat.links.to_le_bytes());
    bytes[16..24].copy_from_slice(&(stat.bytes as u64).to_le_bytes());
    for (place, time) in [(24, stat.accessed), (48, stat.modified), (72, stat.changed)] {
        bytes[place] = 1;
        bytes[place + 8..place + 16].copy_from_slice(&time.as_secs().to_le_bytes());
        bytes[place + 16..place + 20].copy_from_slice(&time.subsec_nanos().to_le_bytes());
    }
    bytes
}

/// WASI's `descriptor-type`.
fn kind_of(is_directory: bool) -> u8 {
    const DIRECTORY: u8 = 3;
    const REGULAR_FILE: u8 = 6;
    if is_directory { DIRECTORY } else { REGULAR_FILE }
}
