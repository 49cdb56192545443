//! Paths, and what is done by them: to create, open, rename and remove.

use super::{
    Error, FIXED, Files, INODE_MAX, Inode, Kind, NAME_BYTES_MAX, Node, PATH_BYTES_MAX, ROOT, Result, TMP, Time,
    WORKSPACE,
};
use std::collections::BTreeMap;

/// How a file is opened, and what happens before.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are the flags of `open`, each as a caller sets it")]
pub(in crate::sandbox) struct How {
    pub create: bool,
    /// Only to create it.
    pub exclusive: bool,
    pub truncate: bool,
    /// Only if it is a directory.
    pub directory: bool,
    /// To be written to.
    pub write: bool,
}

/// Where a path leads.
enum Place<'p> {
    /// To a directory that the path does not name, as `.` does.
    Unnamed(Inode),
    Named(Entry<'p>),
}

/// A name in a directory. There may be nothing of that name.
#[derive(Clone, Copy)]
struct Entry<'p> {
    directory: Inode,
    name: &'p str,
    /// It ends in a slash, which only a directory's may.
    slash: bool,
}

impl Files {
    /// What is there.
    pub fn find(&self, from: Inode, path: &str) -> Result<Inode> {
        match self.place(from, path)? {
            Place::Unnamed(directory) => Ok(directory),
            Place::Named(entry) => {
                let inode = self.lookup(entry)?.ok_or(Error::NoEntry)?;
                if entry.slash {
                    self.directory(inode)?;
                }
                Ok(inode)
            }
        }
    }

    /// The caller holds it until it calls [`Files::release`].
    pub fn open(&mut self, from: Inode, path: &str, how: How, now: Time) -> Result<Inode> {
        let inode = match self.place(from, path)? {
            Place::Unnamed(directory) => self.open_there(directory, how, now)?,
            Place::Named(entry) => match self.lookup(entry)? {
                Some(inode) => {
                    if entry.slash {
                        self.directory(inode)?;
                    }
                    self.open_there(inode, how, now)?
                }
                None if !how.create => return Err(Error::NoEntry),
                None if entry.slash => return Err(Error::IsDirectory),
                None if how.directory => return Err(Error::Invalid),
                None => self.add(entry, Kind::file(), now)?,
            },
        };
        self.hold(inode)?;
        Ok(inode)
    }

    fn open_there(&mut self, inode: Inode, how: How, now: Time) -> Result<Inode> {
        if how.create && how.exclusive {
            return Err(Error::Exist);
        }
        if self.stat(inode)?.is_directory {
            return if how.create || how.truncate || how.write { Err(Error::IsDirectory) } else { Ok(inode) };
        }
        if how.directory {
            return Err(Error::NotDirectory);
        }
        if how.truncate {
            self.resize(inode, 0, now)?;
        }
        Ok(inode)
    }

    pub fn create_directory(&mut self, from: Inode, path: &str, now: Time) -> Result<()> {
        match self.place(from, path)? {
            Place::Named(entry) if self.lookup(entry)?.is_none() => {
                self.add(entry, Kind::directory(), now)?;
                Ok(())
            }
            Place::Named(_) | Place::Unnamed(_) => Err(Error::Exist),
        }
    }

    pub fn remove_file(&mut self, from: Inode, path: &str, now: Time) -> Result<()> {
        let Place::Named(entry) = self.place(from, path)? else { return Err(Error::IsDirectory) };
        let inode = self.lookup(entry)?.ok_or(Error::NoEntry)?;
        if self.stat(inode)?.is_directory {
            return Err(Error::IsDirectory);
        }
        if entry.slash {
            return Err(Error::NotDirectory);
        }
        self.remove(entry, now)
    }

    pub fn remove_directory(&mut self, from: Inode, path: &str, now: Time) -> Result<()> {
        let entry = match self.place(from, path)? {
            Place::Named(entry) => entry,
            Place::Unnamed(ROOT) => return Err(Error::Busy),
            Place::Unnamed(_) => return Err(Error::Invalid),
        };
        let inode = self.lookup(entry)?.ok_or(Error::NoEntry)?;
        let is_empty = self.directory(inode)?.is_empty();
        not_fixed(inode)?;
        if !is_empty {
            return Err(Error::NotEmpty);
        }
        self.remove(entry, now)
    }

    /// Takes the place of what has the new name. Only an empty directory gives way, and only to a directory.
    pub fn rename(&mut self, from: Inode, path: &str, to: Inode, new_path: &str, now: Time) -> Result<()> {
        let (Place::Named(old), Place::Named(new)) = (self.place(from, path)?, self.place(to, new_path)?) else {
            return Err(Error::Busy);
        };
        let inode = self.lookup(old)?.ok_or(Error::NoEntry)?;
        not_fixed(inode)?;
        let is_directory = self.stat(inode)?.is_directory;
        if !is_directory && (old.slash || new.slash) {
            return Err(Error::NotDirectory);
        }
        if is_directory && self.is_within(new.directory, inode) {
            return Err(Error::Invalid);
        }
        let replaced = self.lookup(new)?;
        if let Some(replaced) = replaced {
            if replaced == inode {
                return Ok(());
            }
            not_fixed(replaced)?;
            match (is_directory, &self.node(replaced)?.kind) {
                (true, Kind::File(_)) => return Err(Error::NotDirectory),
                (false, Kind::Directory(_)) => return Err(Error::IsDirectory),
                (true, Kind::Directory(entries)) if !entries.is_empty() => return Err(Error::NotEmpty),
                (true, Kind::Directory(_)) | (false, Kind::File(_)) => {}
            }
        }
        self.fits(new, self.longest_below(inode))?;
        if replaced.is_some() {
            self.remove(new, now)?;
        }
        self.directory_mut(old.directory, now)?.remove(old.name);
        self.directory_mut(new.directory, now)?.insert(new.name.to_owned(), inode);
        let node = self.node_mut(inode)?;
        (node.parent, node.changed) = (Some(new.directory), now);
        Ok(())
    }

    // === how paths are followed ===

    /// Above the root there is the root again.
    fn place<'p>(&self, from: Inode, path: &'p str) -> Result<Place<'p>> {
        if path.is_empty() {
            return Err(Error::NoEntry);
        }
        if path.starts_with('/') {
            return Err(Error::NotPermitted);
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        if path.contains('\0') {
            return Err(Error::ZeroByte);
        }
        let mut directory = from;
        self.directory(directory)?;
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            if part.len() > NAME_BYTES_MAX {
                return Err(Error::NameTooLong);
            }
            let next = match part {
                "." => directory,
                ".." => self.node(directory)?.parent.ok_or(Error::NoEntry)?,
                name if parts.peek().is_none() => {
                    return Ok(Place::Named(Entry { directory, name, slash: path.ends_with('/') }));
                }
                name => *self.directory(directory)?.get(name).ok_or(Error::NoEntry)?,
            };
            self.directory(next)?;
            directory = next;
        }
        Ok(Place::Unnamed(directory))
    }

    fn lookup(&self, entry: Entry) -> Result<Option<Inode>> {
        Ok(self.directory(entry.directory)?.get(entry.name).copied())
    }

    fn is_within(&self, mut inode: Inode, directory: Inode) -> bool {
        loop {
            if inode == directory {
                return true;
            }
            match self.node(inode) {
                Ok(Node { parent: Some(parent), .. }) if *parent != inode => inode = *parent,
                _ => return false,
            }
        }
    }

    /// Bytes of its path from the root on.
    pub(super) fn path_bytes(&self, mut inode: Inode) -> Result<usize> {
        let mut bytes = 0;
        while inode != ROOT {
            let parent = self.node(inode)?.parent.ok_or(Error::NoEntry)?;
            let name = self.directory(parent)?.iter().find(|(_, entry)| **entry == inode);
            bytes += 1 + name.map_or(0, |(name, _)| name.len());
            inode = parent;
        }
        Ok(bytes)
    }

    /// Bytes of the longest path from there on.
    fn longest_below(&self, inode: Inode) -> usize {
        let mut longest = 0;
        let mut open = vec![(inode, 0)];
        while let Some((inode, bytes)) = open.pop() {
            longest = longest.max(bytes);
            let entries = self.directory(inode).into_iter().flatten();
            open.extend(entries.map(|(name, inode)| (*inode, bytes + 1 + name.len())));
        }
        longest
    }

    /// Whether a path may go on so far from this entry on. Not in a directory that was removed.
    fn fits(&self, entry: Entry, below: usize) -> Result<()> {
        let bytes = self.path_bytes(entry.directory)? + 1 + entry.name.len() + below;
        if bytes > PATH_BYTES_MAX { Err(Error::NameTooLong) } else { Ok(()) }
    }

    // === how entries come and go ===

    fn add(&mut self, entry: Entry, kind: Kind, now: Time) -> Result<Inode> {
        self.fits(entry, 0)?;
        if self.nodes.len() >= self.bounds.files_max.saturating_add(FIXED) || self.next >= INODE_MAX {
            return Err(Error::NoSpace);
        }
        let inode = self.next;
        self.next = Inode(inode.0 + 1);
        self.directory_mut(entry.directory, now)?.insert(entry.name.to_owned(), inode);
        self.nodes.insert(inode, Node::new(entry.directory, kind, now));
        Ok(inode)
    }

    fn remove(&mut self, entry: Entry, now: Time) -> Result<()> {
        let inode = self.directory_mut(entry.directory, now)?.remove(entry.name).ok_or(Error::NoEntry)?;
        let node = self.node_mut(inode)?;
        (node.parent, node.changed) = (None, now);
        self.forget_if_unused(inode);
        Ok(())
    }

    /// Empties a directory, however deep.
    pub(super) fn clear(&mut self, directory: Inode, now: Time) -> Result<()> {
        let mut open: Vec<Inode> = std::mem::take(self.directory_mut(directory, now)?).into_values().collect();
        while let Some(inode) = open.pop() {
            let node = self.node_mut(inode)?;
            (node.parent, node.changed) = (None, now);
            if let Kind::Directory(entries) = &mut node.kind {
                open.extend(std::mem::take::<BTreeMap<_, _>>(entries).into_values());
            }
            self.forget_if_unused(inode);
        }
        Ok(())
    }
}

fn not_fixed(inode: Inode) -> Result<()> {
    if matches!(inode, ROOT | TMP | WORKSPACE) { Err(Error::Busy) } else { Ok(()) }
}
