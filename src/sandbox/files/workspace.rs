//! The files in `/workspace` as a client sees them, from outside and between two programs.

use super::{Error, Files, How, Inode, Kind, PATH_BYTES_MAX, Result, Time, WORKSPACE};

/// A file's path in `/workspace`, as a client may name it: no way out of it, and no second way to write the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct WorkspacePath(String);

/// One file, or a directory that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Listed {
    /// In `/workspace`. A directory's ends in a slash.
    pub path: String,
    pub bytes: usize,
    pub modified: Time,
}

impl WorkspacePath {
    /// # Errors
    ///
    /// A path that is empty or too long, begins or ends with a slash, has an empty part, `.` or `..` as a part, or a zero
    /// byte.
    pub fn new(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        if path.len() > PATH_BYTES_MAX - "/workspace/".len() {
            return Err(Error::NameTooLong);
        }
        if path.contains('\0') {
            return Err(Error::ZeroByte);
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::NotPermitted);
        }
        Ok(Self(path))
    }
}

impl Files {
    /// All of them, in the order of their paths.
    pub fn list(&self) -> Vec<Listed> {
        let mut listed = Vec::new();
        let mut open = vec![(WORKSPACE, String::new())];
        while let Some((inode, path)) = open.pop() {
            let Ok(node) = self.node(inode) else { continue };
            match &node.kind {
                Kind::Directory(entries) if !entries.is_empty() || inode == WORKSPACE => {
                    let prefix = if inode == WORKSPACE { path } else { path + "/" };
                    open.extend(entries.iter().map(|(name, inode)| (*inode, format!("{prefix}{name}"))));
                }
                Kind::Directory(_) => listed.push(Listed { path: path + "/", bytes: 0, modified: node.modified }),
                Kind::File(contents) => listed.push(Listed { path, bytes: contents.len(), modified: node.modified }),
            }
        }
        listed.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        listed
    }

    pub fn get(&self, path: &WorkspacePath) -> Result<&[u8]> {
        Ok(self.file(self.find(WORKSPACE, &path.0)?)?)
    }

    /// Creates the directories that are missing. Says whether the file is new. When it is refused nothing has changed,
    /// but for those directories.
    pub fn put(&mut self, path: &WorkspacePath, bytes: &[u8], now: Time) -> Result<bool> {
        let is_new = match self.find(WORKSPACE, &path.0) {
            Ok(inode) => {
                let before = self.file(inode)?.len();
                self.has_room_for(bytes.len().saturating_sub(before))?;
                false
            }
            Err(Error::NoEntry) => {
                self.has_room_for(bytes.len())?;
                self.create_parents(path, now)?;
                true
            }
            Err(refused) => return Err(refused),
        };
        let how = How { create: true, truncate: true, write: true, ..How::default() };
        let inode = self.open(WORKSPACE, &path.0, how, now)?;
        let written = self.write(inode, 0, bytes, now);
        self.release(inode);
        written.map(|_| is_new)
    }

    /// A directory goes with all that is in it.
    pub fn delete(&mut self, path: &WorkspacePath, now: Time) -> Result<()> {
        let inode: Inode = self.find(WORKSPACE, &path.0)?;
        if self.stat(inode)?.is_directory {
            self.clear(inode, now)?;
            self.remove_directory(WORKSPACE, &path.0, now)
        } else {
            self.remove_file(WORKSPACE, &path.0, now)
        }
    }

    fn create_parents(&mut self, path: &WorkspacePath, now: Time) -> Result<()> {
        for (slash, _) in path.0.match_indices('/') {
            match self.create_directory(WORKSPACE, &path.0[..slash], now) {
                Ok(()) | Err(Error::Exist) => {}
                Err(refused) => return Err(refused),
            }
        }
        Ok(())
    }

    fn has_room_for(&self, bytes: usize) -> Result<()> {
        if bytes > self.bytes_left() { Err(Error::NoSpace) } else { Ok(()) }
    }
}
