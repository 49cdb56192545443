//! The files of one interpreter: a tree in memory, with `/tmp` and `/workspace` in it. Pure data.
//!
//! It behaves as a disk does, down to a removed file that is still open, so that `sqlite3` and `tempfile` work. It has no
//! owners, permissions and links: whoever wants one is refused, as on a FAT disk.
//!
//! It is parked with an interpreter's memory, and comes back from a worker that a program may have taken over: then
//! [`Files::check`] is to be called first.

mod check;
mod contents;
mod tree;
mod workspace;

pub(super) use workspace::{Listed, WorkspacePath};

pub(super) use check::Broken;
pub(super) use tree::How;

use crate::policy::Limits;
use contents::Contents;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of a file's path from the root on. Also bounds how deep directories nest, and what a listing takes. Chosen:
/// Linux has 4096, macOS 1024.
pub(super) const PATH_BYTES_MAX: usize = 1024;

/// Bytes of one name, as on Linux.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of one file as it is parked, beside what is in it: its name, and what is known of it, in numbers.
pub(super) const ENTRY_BYTES_MAX: usize = NAME_BYTES_MAX + 65;

/// What the files of one interpreter may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bounds {
    /// Files and directories, beside the three that are always there.
    pub files_max: usize,
    /// Bytes of all files, removed ones among them that are still open.
    pub bytes_max: usize,
}

impl Bounds {
    pub fn of(limits: &Limits) -> Self {
        Self { files_max: limits.files as usize, bytes_max: usize::try_from(limits.file_bytes).unwrap_or(usize::MAX) }
    }
}

/// A file or directory, as long as it lives. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Inode(pub u64);

/// No file has this number or a higher one. Counting from the first one never comes here, but a hostile worker may have
/// begun anywhere below.
const INODE_MAX: Inode = Inode(u64::MAX / 2);

/// These three are always there, as if each were a disk of its own.
pub(super) const ROOT: Inode = Inode(1);
const TMP: Inode = Inode(2);
const WORKSPACE: Inode = Inode(3);

/// How many of them are always there.
const FIXED: usize = 3;

/// Since 1970.
pub(super) type Time = Duration;

/// All files of one interpreter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Files {
    /// Not part of what is parked: limits are whoever's who runs the next program.
    #[serde(skip)]
    bounds: Bounds,
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
    /// Of all files.
    #[serde(skip)]
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Node {
    /// None once it is removed. The root is its own.
    parent: Option<Inode>,
    kind: Kind,
    accessed: Time,
    modified: Time,
    changed: Time,
    /// Descriptors and streams that keep it alive.
    #[serde(skip)]
    holders: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    File(Contents),
    Directory(BTreeMap<String, Inode>),
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub is_directory: bool,
    pub bytes: usize,
    /// Names that lead to it: one, or none.
    pub links: u64,
    pub accessed: Time,
    pub modified: Time,
    pub changed: Time,
}

/// Why something was refused. The numbers are `wasi:filesystem`'s `error-code`, which Python's own follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub(crate) enum Error {
    #[error("it is not open for that")]
    BadDescriptor = 3,
    #[error("it is one of the directories that are always there")]
    Busy = 4,
    /// WASI has no error for it that would say so.
    #[error("too many files are open")]
    TooManyOpen = 6,
    #[error("it exists")]
    Exist = 7,
    #[error("its path has a zero byte")]
    ZeroByte = 9,
    #[error("that is not possible")]
    Invalid = 12,
    #[error("it is a directory")]
    IsDirectory = 14,
    #[error("its path is too long")]
    NameTooLong = 18,
    #[error("it does not exist")]
    NoEntry = 20,
    #[error("no space is left for it")]
    NoSpace = 23,
    #[error("it is not a directory")]
    NotDirectory = 24,
    #[error("the directory is not empty")]
    NotEmpty = 25,
    #[error("its path does not begin at a directory of its own")]
    NotPermitted = 31,
}

pub(super) type Result<T> = std::result::Result<T, Error>;

impl Default for Files {
    /// The three directories that are always there, and room for nothing else.
    fn default() -> Self {
        let root = [("tmp".to_owned(), TMP), ("workspace".to_owned(), WORKSPACE)];
        let nodes = [
            (ROOT, Node::new(ROOT, Kind::Directory(root.into()), Time::ZERO)),
            (TMP, Node::new(ROOT, Kind::directory(), Time::ZERO)),
            (WORKSPACE, Node::new(ROOT, Kind::directory(), Time::ZERO)),
        ];
        Self { bounds: Bounds::default(), nodes: nodes.into(), next: Inode(4), bytes: 0 }
    }
}

impl Files {
    /// A run begins. What is beyond its bounds already may stay.
    pub fn begin(&mut self, bounds: Bounds, now: Time) {
        self.bounds = bounds;
        // Those of the image are of no time.
        for inode in [ROOT, TMP, WORKSPACE] {
            if let Some(node @ Node { changed: Time::ZERO, .. }) = self.nodes.get_mut(&inode) {
                (node.accessed, node.modified, node.changed) = (now, now, now);
            }
        }
    }

    pub fn stat(&self, inode: Inode) -> Result<Stat> {
        let node = self.node(inode)?;
        let (is_directory, bytes) = match &node.kind {
            Kind::File(contents) => (false, contents.len()),
            Kind::Directory(_) => (true, 0),
        };
        let links = u64::from(node.parent.is_some());
        let Node { accessed, modified, changed, .. } = *node;
        Ok(Stat { is_directory, bytes, links, accessed, modified, changed })
    }

    /// Up to so many bytes from there on; none at the end.
    pub fn read(&self, inode: Inode, offset: u64, bytes_max: usize) -> Result<&[u8]> {
        let contents = self.file(inode)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| contents.get(offset..)).unwrap_or_default();
        Ok(&rest[..rest.len().min(bytes_max)])
    }

    /// How many bytes can be written there.
    pub fn room(&self, inode: Inode, offset: u64) -> Result<usize> {
        let end = self.file(inode)?.len().saturating_add(self.bytes_left());
        Ok(end.saturating_sub(usize::try_from(offset).unwrap_or(usize::MAX)))
    }

    /// Writes as much as there is room for, and says how much that was. A gap before it is filled with zeros.
    pub fn write(&mut self, inode: Inode, offset: u64, bytes: &[u8], now: Time) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let count = bytes.len().min(self.room(inode, offset)?);
        let offset = usize::try_from(offset).map_err(|_| Error::NoSpace)?;
        if count == 0 {
            return Err(Error::NoSpace);
        }
        let contents = self.file_mut(inode, now)?;
        let before = contents.len();
        contents.write(offset, &bytes[..count]);
        self.bytes += contents.len() - before;
        Ok(count)
    }

    /// Cuts the file, or fills it up with zeros.
    pub fn resize(&mut self, inode: Inode, bytes: u64, now: Time) -> Result<()> {
        let before = self.file(inode)?.len();
        let bytes = usize::try_from(bytes).map_err(|_| Error::NoSpace)?;
        if bytes.saturating_sub(before) > self.bytes_left() {
            return Err(Error::NoSpace);
        }
        self.file_mut(inode, now)?.resize(bytes);
        self.bytes = self.bytes - before + bytes;
        Ok(())
    }

    pub fn set_times(&mut self, inode: Inode, accessed: Option<Time>, modified: Option<Time>, now: Time) -> Result<()> {
        let node = self.node_mut(inode)?;
        node.accessed = accessed.unwrap_or(node.accessed);
        node.modified = modified.unwrap_or(node.modified);
        node.changed = now;
        Ok(())
    }

    /// The entry behind this name, in the names' order. So a directory can be listed while it changes.
    pub fn entry_after(&self, directory: Inode, name: &str) -> Result<Option<(&str, Inode)>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut behind = self.directory(directory)?.range::<str, _>((Excluded(name), Unbounded));
        Ok(behind.next().map(|(name, inode)| (name.as_str(), *inode)))
    }

    /// A removed file lives on until all its holders have released it.
    pub fn hold(&mut self, inode: Inode) -> Result<()> {
        self.node_mut(inode)?.holders += 1;
        Ok(())
    }

    pub fn release(&mut self, inode: Inode) {
        if let Ok(node) = self.node_mut(inode) {
            node.holders = node.holders.saturating_sub(1);
            self.forget_if_unused(inode);
        }
    }

    // === how the tree is kept ===

    fn forget_if_unused(&mut self, inode: Inode) {
        let Ok(Node { parent: None, holders: 0, kind, .. }) = self.node(inode) else { return };
        if let Kind::File(contents) = kind {
            self.bytes -= contents.len();
        }
        self.nodes.remove(&inode);
    }

    fn bytes_left(&self) -> usize {
        self.bounds.bytes_max.saturating_sub(self.bytes)
    }

    fn node(&self, inode: Inode) -> Result<&Node> {
        self.nodes.get(&inode).ok_or(Error::NoEntry)
    }

    fn node_mut(&mut self, inode: Inode) -> Result<&mut Node> {
        self.nodes.get_mut(&inode).ok_or(Error::NoEntry)
    }

    fn file(&self, inode: Inode) -> Result<&Contents> {
        match &self.node(inode)?.kind {
            Kind::File(contents) => Ok(contents),
            Kind::Directory(_) => Err(Error::IsDirectory),
        }
    }

    /// To change what is in it.
    fn file_mut(&mut self, inode: Inode, now: Time) -> Result<&mut Contents> {
        let node = self.node_mut(inode)?;
        match &mut node.kind {
            Kind::File(contents) => {
                node.modified = later(node.modified, now);
                node.changed = node.modified;
                Ok(contents)
            }
            Kind::Directory(_) => Err(Error::IsDirectory),
        }
    }

    fn directory(&self, inode: Inode) -> Result<&BTreeMap<String, Inode>> {
        match &self.node(inode)?.kind {
            Kind::Directory(entries) => Ok(entries),
            Kind::File(_) => Err(Error::NotDirectory),
        }
    }

    /// To change what is in it.
    fn directory_mut(&mut self, inode: Inode, now: Time) -> Result<&mut BTreeMap<String, Inode>> {
        let node = self.node_mut(inode)?;
        match &mut node.kind {
            Kind::Directory(entries) => {
                node.modified = later(node.modified, now);
                node.changed = node.modified;
                Ok(entries)
            }
            Kind::File(_) => Err(Error::NotDirectory),
        }
    }
}

/// Python takes what has the same time for unchanged, as a module's file, and has times as floats, which tell
/// microseconds apart. The clock may not have gone on by as much.
fn later(last: Time, now: Time) -> Time {
    now.max(last.saturating_add(Time::from_micros(1)))
}

impl Node {
    fn new(parent: Inode, kind: Kind, now: Time) -> Self {
        Self { parent: Some(parent), kind, accessed: now, modified: now, changed: now, holders: 0 }
    }
}

impl Kind {
    fn file() -> Self {
        Self::File(Contents::default())
    }

    fn directory() -> Self {
        Self::Directory(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests;
