//! The files of an interpreter, under programs and clients that do anything in any order.

use super::files::{Bounds, Files, How, Inode, ROOT, Stat, WorkspacePath};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use std::time::Duration;

const BOUNDS: Bounds = Bounds { files_max: 12, bytes_max: 1000 };
/// Names that there is something about.
const NAMES: [&str; 12] = ["a", "b", "c", "é", ".", "..", "", "tmp", "workspace", "/", "a\0", "...."];

/// Acts as the bytes say. The tree is whole after each act.
pub fn files(data: &[u8]) {
    let _ = act(&mut Unstructured::new(data));
}

fn act(any: &mut Unstructured) -> Result<()> {
    let mut files = Files::default();
    let mut held = Vec::new();
    let mut now = Duration::from_secs(1);
    files.begin(BOUNDS, now);
    while !any.is_empty() {
        now += Duration::from_micros(u64::from(any.arbitrary::<u8>()?));
        // A client does nothing while a program has a file open.
        if any.ratio(1, 4)? {
            client(any, &mut files, now)?;
        } else {
            program(any, &mut files, &mut held, now)?;
        }
        let mut checked = files.clone();
        checked.check(BOUNDS, held.iter().copied()).expect("a whole tree");
        assert_eq!(checked, files, "bytes and holders are counted");
    }
    Ok(())
}

fn program(any: &mut Unstructured, files: &mut Files, held: &mut Vec<Inode>, now: Duration) -> Result<()> {
    // Paths begin at the root or at whatever is open, removed or not.
    let places = [&[ROOT], held.as_slice()].concat();
    let (from, to) = (*any.choose(&places)?, *any.choose(&places)?);
    let path = path(any)?;
    match any.int_in_range(0..=8)? {
        0 | 1 => {
            let [create, exclusive, truncate, directory, write] = any.arbitrary()?;
            let how = How { create, exclusive, truncate, directory, write };
            held.extend(files.open(from, &path, how, now));
        }
        2 => drop(files.create_directory(from, &path, now)),
        3 => drop(files.remove_file(from, &path, now)),
        4 => drop(files.remove_directory(from, &path, now)),
        5 => drop(files.rename(from, &path, to, &self::path(any)?, now)),
        6 => {
            let (offset, bytes) = (offset(any)?, any.arbitrary::<&[u8]>()?);
            if let Ok(count @ 1..) = files.write(from, offset, bytes, now) {
                assert_eq!(files.read(from, offset, count), Ok(&bytes[..count]));
            }
        }
        7 => {
            let bytes = offset(any)?;
            if files.resize(from, bytes, now).is_ok() {
                assert_eq!(files.stat(from).expect("a file").bytes as u64, bytes);
            }
        }
        _ => {
            if !held.is_empty() {
                files.release(held.swap_remove(any.choose_index(held.len())?));
            }
        }
    }
    Ok(())
}

/// Whatever a client says, nothing outside of `/workspace` is seen or changed, and what is refused is undone.
fn client(any: &mut Unstructured, files: &mut Files, now: Duration) -> Result<()> {
    let Ok(path) = WorkspacePath::new(path(any)?) else { return Ok(()) };
    let elsewhere = (below(files, "tmp"), below(files, "."));
    if any.arbitrary()? {
        let before = contents(files);
        let bytes = any.arbitrary::<&[u8]>()?;
        match files.put(&path, bytes, now) {
            Ok(is_new) => {
                assert_eq!(files.get(&path), Ok(bytes));
                assert_eq!(contents(files).len(), before.len() + usize::from(is_new));
            }
            Err(_) => assert_eq!(contents(files), before),
        }
    } else if files.delete(&path, now).is_ok() {
        assert!(files.get(&path).is_err());
    }
    assert!(below(files, "tmp") == elsewhere.0 && below(files, ".") == elsewhere.1);
    Ok(())
}

fn contents(files: &Files) -> Vec<(String, Vec<u8>)> {
    let listed = files.list().into_iter().filter(|listed| !listed.path.ends_with('/'));
    listed
        .map(|listed| {
            let path = WorkspacePath::new(listed.path.clone()).expect("a path that was listed");
            (listed.path, files.get(&path).expect("a file that was listed").to_vec())
        })
        .collect()
}

/// What a directory's entries are, but for `/workspace`.
fn below(files: &Files, directory: &str) -> Vec<(String, Inode, Stat)> {
    let directory = files.find(ROOT, directory).expect("a directory that is always there");
    let mut entries = Vec::new();
    let mut last = String::new();
    while let Some((name, inode)) = files.entry_after(directory, &last).expect("a directory") {
        last = name.to_owned();
        if name != "workspace" {
            entries.push((last.clone(), inode, files.stat(inode).expect("an entry")));
        }
    }
    entries
}

fn path(any: &mut Unstructured) -> Result<String> {
    if any.ratio(1, 8)? {
        return any.arbitrary();
    }
    let parts = (0..any.int_in_range(1..=5)?).map(|_| {
        // Long enough that four of them are too long for a path.
        Ok(if any.ratio(1, 16)? { "x".repeat(any.int_in_range(250..=257)?) } else { (*any.choose(&NAMES)?).to_owned() })
    });
    Ok(parts.collect::<Result<Vec<_>>>()?.join("/"))
}

/// Near the bound, or anywhere.
fn offset(any: &mut Unstructured) -> Result<u64> {
    if any.ratio(7, 8)? { any.int_in_range(0..=1100) } else { any.arbitrary() }
}
