//! An interpreter at rest, as a worker that a program has taken over may hand it in.

use super::files::{Bounds, WorkspacePath};
use super::parked::State;
use crate::heap;
use std::time::Duration;

/// Bytes that a state may take unpacked. Chosen: inputs can be longer.
const BYTES_MAX: usize = 8 << 10;
/// Memory for each of them, while it is unpacked: once as it was packed, once as it is, and what its files are kept in.
const MEMORY_PER_BYTE: usize = 8;

/// Unpacks the bytes. The first one says whether the rest is compressed already, as hardly anything is by chance.
pub fn parked(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let packed = if how & 1 == 0 { rest.to_vec() } else { lz4_flex::compress_prepend_size(rest) };
    let (state, bytes) = heap::peak(|| State::unpack(&packed, BYTES_MAX));
    assert!(bytes <= MEMORY_PER_BYTE * BYTES_MAX, "{} bytes of a state took {bytes}", packed.len());
    let Ok(mut state) = state else { return };
    assert_eq!(State::unpack(&state.pack(), BYTES_MAX).expect("what was packed here"), state);
    for (page, at) in state.changes.pages.iter().zip(0..) {
        assert!((*page as usize + 1) * state.changes.page <= state.changes.memory_bytes, "page {at}");
    }
    change(&mut state);
    assert_eq!(
        State::unpack(&state.pack(), 2 * BYTES_MAX).expect("what was changed here").wasi.files.list(),
        state.wasi.files.list()
    );
}

/// As a client that sees to its session's files.
fn change(state: &mut State) {
    let (files, now) = (&mut state.wasi.files, Duration::from_secs(1 << 30));
    files.begin(Bounds { files_max: 1000, bytes_max: BYTES_MAX }, now);
    for listed in files.list() {
        let Ok(path) = WorkspacePath::new(listed.path.trim_end_matches('/')) else {
            panic!("a file that nobody can name: {:?}", listed.path);
        };
        if listed.path.ends_with('/') {
            files.delete(&path, now).expect("a directory");
        } else {
            assert_eq!(files.get(&path).expect("a file").len(), listed.bytes);
            let _ = files.put(&path, b"new", now);
        }
    }
    let new = WorkspacePath::new("new/file").expect("a path");
    if files.put(&new, b"text", now).is_ok() {
        assert_eq!(files.get(&new), Ok(&b"text"[..]));
    }
}
