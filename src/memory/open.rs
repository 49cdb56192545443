//! The file: made so that only its owner can read it, and refused with the way out when it cannot be used.

use super::shelf::{Shelf, ShelfError};
use super::{Settings, Store};
use crate::chat::Clock;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, DatabaseError};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Bytes of the file that redb keeps in RAM. Chosen: a few hundred conversations; the system caches the rest.
const CACHE_BYTES: usize = 64 << 20;

/// The memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system does not let us.
    #[error("memory file `{}`: {why}; set memory.path (LOOPGATE_MEMORY) to a file that can be written, or to :memory:", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Another process has it open.
    #[error("memory file `{}`: another process uses it; stop that one, or set another memory.path (LOOPGATE_MEMORY)", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// It is damaged, of another version, or no memory at all.
    #[error(
        "memory file `{}` cannot be used: {why}; set another memory.path (LOOPGATE_MEMORY), or remove the file: only the \
         context of old conversations is lost",
        path.display()
    )]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl OpenError {
    fn unusable(settings: &Settings, why: String) -> Self {
        Self::Unusable { path: path_of(settings), why }
    }

    pub(super) fn of(settings: &Settings, error: redb::Error) -> Self {
        let path = path_of(settings);
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse { path },
            // This is how redb says that a file is none of its own.
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Unusable { path, why: "it is no memory file".to_owned() }
            }
            redb::Error::Io(error) => Self::Io { path, why: error.to_string() },
            error => Self::Unusable { path, why: error.to_string() },
        }
    }
}

fn path_of(settings: &Settings) -> PathBuf {
    match &settings.path {
        Store::Disk(path) => path.clone(),
        Store::Ram => ":memory:".into(),
    }
}

pub fn open(settings: &Settings, clock: Clock) -> Result<Shelf, OpenError> {
    let opened = || {
        let db = match &settings.path {
            Store::Disk(path) => disk(path),
            Store::Ram => builder().create_with_backend(InMemoryBackend::new()),
        };
        Shelf::new(db.map_err(redb::Error::from)?, settings, clock().as_millisecond())
    };
    // redb panics on some kinds of damage.
    match catch_unwind(AssertUnwindSafe(opened)) {
        Ok(Ok(shelf)) => Ok(shelf),
        Ok(Err(ShelfError::Redb(error))) => Err(OpenError::of(settings, error)),
        Ok(Err(error @ ShelfError::Format)) => Err(OpenError::unusable(settings, error.to_string())),
        Err(_) => Err(OpenError::unusable(settings, "it is damaged".to_owned())),
    }
}

fn disk(path: &Path) -> Result<Database, DatabaseError> {
    builder().create_with_backend(FileBackend::new(file(path)?)?)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// What clients said is in it: nobody else's business.
fn file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
