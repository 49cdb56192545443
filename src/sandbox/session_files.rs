//! The files of a session, for its caller: seen and changed between two of its programs.
//!
//! The session's parked state is unpacked, changed and packed again; no program runs for it. What is changed is what the
//! session has come to last. A conversation that goes on from an earlier moment finds the files as they were then.

use super::files::{self, Bounds, Files, WorkspacePath};
use super::parked::{Room, State};
use super::sessions::{Moment, SessionKey, Visit, Wanted};
use super::{Sandbox, Shared};
use crate::policy::{self, Limits};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// States that are unpacked for their files at once, each of which may take what the policy gives an interpreter. Chosen:
/// it takes milliseconds, so that few wait.
pub(super) const UNPACKED_MAX: usize = 2;

/// A file of a session, or a directory that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Within `/workspace`. A directory's ends in a slash.
    pub path: String,
    /// Bytes in it.
    pub bytes: usize,
    /// Since 1970, by the clock that its program was given.
    pub modified: Duration,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Another request did not leave it in time.
    #[error("another request uses this session, and has not ended in time; try again later")]
    Busy,
    /// It never was, or has ended.
    #[error("there is no such session; a program that names it begins it, and so does a file that is put there")]
    NoSession,
    /// Nothing is there.
    #[error("there is no file `{0}` in this session; the list of its files has those that there are")]
    NoFile(String),
    /// It could never be a file's.
    #[error("the path of a file is wrong: {0}; write it as it is within /workspace, such as data/in.csv")]
    BadPath(String),
    /// Something else is there.
    #[error("`{path}` cannot be used as a file: it, or what is before a slash in it, is something else ({why})")]
    InTheWay {
        /// As the caller named it.
        path: String,
        /// What is there.
        why: String,
    },
    /// It does not fit.
    #[error(
        "no space is left for it: a session may have {files} files and folders with {file_bytes} bytes, and all sessions \
         of this caller {parked_bytes} bytes, compressed; delete some"
    )]
    NoSpace {
        /// The policy's `limits.files`.
        files: u32,
        /// The policy's `limits.file_mib`.
        file_bytes: u64,
        /// The policy's `sessions.mib`, compressed.
        parked_bytes: usize,
    },
    /// What is parked cannot be read. It came from a worker.
    #[error("the session cannot be read; end it and begin another")]
    Broken(#[source] io::Error),
}

type Result<T> = std::result::Result<T, FilesError>;

/// The files of one session. Each look and change waits for the requests that use the session.
pub struct SessionFiles {
    shared: Arc<Shared>,
    wanted: Wanted,
    limits: Limits,
}

impl Sandbox {
    /// The files of a session, within these limits.
    pub fn files(&self, key: SessionKey, rules: policy::Sessions, limits: Limits) -> SessionFiles {
        SessionFiles {
            shared: Arc::clone(&self.shared),
            wanted: Wanted { key, rules, moment: Moment::default() },
            limits,
        }
    }
}

impl SessionFiles {
    /// All of them, in the order of their paths.
    ///
    /// # Errors
    /// When there is no such session, or it is in use for too long.
    pub async fn list(&self) -> Result<Vec<FileInfo>> {
        let info = |files::Listed { path, bytes, modified }| FileInfo { path, bytes, modified };
        self.look("", move |files| Ok(files.list().into_iter().map(info).collect())).await
    }

    /// What is in a file.
    ///
    /// # Errors
    /// As of [`SessionFiles::list`], and when it is no file.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        let place = self.place(path)?;
        self.look(path, move |files| files.get(&place).map(<[u8]>::to_vec)).await
    }

    /// Writes a file, with the folders that it is in, at this time since 1970. Whether it is new. There need not be such
    /// a session.
    ///
    /// # Errors
    /// When the session is in use for too long, or the file cannot be there. Then nothing has changed.
    pub async fn put(&self, path: &str, bytes: impl AsRef<[u8]> + Send + 'static, now: Duration) -> Result<bool> {
        let place = self.place(path)?;
        let begins = Some(self.shared.fresh.clone());
        self.change(path, begins, now, move |files| files.put(&place, bytes.as_ref(), now)).await
    }

    /// Removes a file, or a folder with all that is in it, at this time since 1970.
    ///
    /// # Errors
    /// As of [`SessionFiles::get`].
    pub async fn delete(&self, path: &str, now: Duration) -> Result<()> {
        let place = self.place(path)?;
        self.change(path, None, now, move |files| files.delete(&place, now)).await
    }

    async fn look<T: Send + 'static>(
        &self,
        path: &str,
        look: impl FnOnce(&Files) -> files::Result<T> + Send + 'static,
    ) -> Result<T> {
        let bytes_max = Room::of(&self.limits).bytes;
        let look = move |visit: Visit| {
            let state = unpack(&visit, bytes_max)?.ok_or(FilesError::NoSession)?;
            Ok(look(&state.wasi.files))
        };
        self.visit(look).await?.map_err(|error| self.refused(path, error))
    }

    /// `begins` is what a session begins with that is not there.
    async fn change<T: Send + 'static>(
        &self,
        path: &str,
        begins: Option<State>,
        now: Duration,
        change: impl FnOnce(&mut Files) -> files::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (bytes_max, bounds) = (Room::of(&self.limits).bytes, Bounds::of(&self.limits));
        let change = move |visit: Visit| {
            let mut state = unpack(&visit, bytes_max)?.or(begins).ok_or(FilesError::NoSession)?;
            state.wasi.files.begin(bounds, now);
            let changed = change(&mut state.wasi.files);
            // One that was refused may have left folders.
            let kept = changed.is_err() || visit.amend(state.pack());
            Ok(if kept { changed } else { Err(files::Error::NoSpace) })
        };
        self.visit(change).await?.map_err(|error| self.refused(path, error))
    }

    /// Acts where nobody waits for the thread. What has begun is done, whether or not its client stays.
    async fn visit<T: Send + 'static>(&self, act: impl FnOnce(Visit) -> Result<T> + Send + 'static) -> Result<T> {
        let Shared { sessions, unpacking, wait, .. } = &*self.shared;
        let visit = sessions.visit(&self.wanted, *wait).await.ok_or(FilesError::Busy)?;
        let unpacking = timeout(*wait, Arc::clone(unpacking).acquire_owned()).await;
        let Ok(Ok(unpacking)) = unpacking else { return Err(FilesError::Busy) };
        let acting = spawn_blocking(move || {
            let _unpacking = unpacking;
            act(visit)
        });
        acting.await.unwrap_or_else(|panicked| Err(FilesError::Broken(io::Error::other(panicked))))
    }

    fn place(&self, path: &str) -> Result<WorkspacePath> {
        WorkspacePath::new(path).map_err(|error| self.refused(path, error))
    }

    fn refused(&self, path: &str, error: files::Error) -> FilesError {
        use files::Error;
        let Limits { files, file_bytes, .. } = self.limits;
        match error {
            Error::NoEntry => FilesError::NoFile(path.to_owned()),
            Error::NoSpace => FilesError::NoSpace { files, file_bytes, parked_bytes: self.wanted.rules.bytes },
            Error::IsDirectory | Error::NotDirectory | Error::Exist | Error::NotEmpty | Error::Busy => {
                FilesError::InTheWay { path: path.to_owned(), why: error.to_string() }
            }
            Error::BadDescriptor
            | Error::TooManyOpen
            | Error::ZeroByte
            | Error::Invalid
            | Error::NameTooLong
            | Error::NotPermitted => FilesError::BadPath(error.to_string()),
        }
    }
}

fn unpack(visit: &Visit, bytes_max: usize) -> Result<Option<State>> {
    visit.from.as_ref().map(|from| State::unpack(&from.state, bytes_max)).transpose().map_err(FilesError::Broken)
}
