//! A caller's sessions and the files in them, between its turns.

use super::session::{Session, allowed};
use super::{Agent, RETRY_AFTER};
use crate::access::Caller;
use crate::chat::{Failure, FailureKind};
use crate::sandbox::{FileInfo, FilesError, SessionFiles, SessionInfo};
use bytes::Bytes;
use std::error::Error;

impl Agent {
    /// The caller's sessions, the latest first.
    ///
    /// # Errors
    /// When its policy has none.
    pub fn sessions(&self, caller: &Caller) -> Result<Vec<SessionInfo>, Failure> {
        allowed(self.desk.policies.of(caller))?;
        Ok(self.desk.sandbox.sessions(caller))
    }

    /// Ends a session, with its names and files, once no request uses it.
    ///
    /// # Errors
    /// When there is none, or it is in use for too long.
    pub async fn end_session(&self, caller: &Caller, name: &str) -> Result<(), Failure> {
        let Session { key, rules } = Session::named(name, caller, self.desk.policies.of(caller))?;
        match self.desk.sandbox.end_session(key, rules).await {
            Some(true) => Ok(()),
            Some(false) => Err(failure(&FilesError::NoSession)),
            None => Err(failure(&FilesError::Busy)),
        }
    }

    /// The files of a session.
    ///
    /// # Errors
    /// When there is no such session, or it is in use for too long.
    pub async fn files(&self, caller: &Caller, session: &str) -> Result<Vec<FileInfo>, Failure> {
        self.files_of(caller, session)?.list().await.map_err(|error| failure(&error))
    }

    /// What is in a file.
    ///
    /// # Errors
    /// As of [`Agent::files`], and when there is no such file.
    pub async fn file(&self, caller: &Caller, session: &str, path: &str) -> Result<Vec<u8>, Failure> {
        self.files_of(caller, session)?.get(path).await.map_err(|error| failure(&error))
    }

    /// Writes a file. Whether it is new. A session that is not there begins with it.
    ///
    /// # Errors
    /// When the session is in use for too long, or the file cannot be there.
    pub async fn put_file(&self, caller: &Caller, session: &str, path: &str, bytes: Bytes) -> Result<bool, Failure> {
        self.files_of(caller, session)?
            .put(path, bytes, self.desk.recorder.since_1970())
            .await
            .map_err(|error| failure(&error))
    }

    /// Removes a file, or a folder with all that is in it.
    ///
    /// # Errors
    /// As of [`Agent::file`].
    pub async fn delete_file(&self, caller: &Caller, session: &str, path: &str) -> Result<(), Failure> {
        self.files_of(caller, session)?
            .delete(path, self.desk.recorder.since_1970())
            .await
            .map_err(|error| failure(&error))
    }

    fn files_of(&self, caller: &Caller, session: &str) -> Result<SessionFiles, Failure> {
        let policy = self.desk.policies.of(caller);
        Ok(Session::named(session, caller, policy)?.files(&self.desk.sandbox, policy))
    }
}

fn failure(error: &FilesError) -> Failure {
    let failure = |kind| Failure::new(kind, error.to_string());
    match error {
        FilesError::Busy => failure(FailureKind::NoInterpreter).retry_after(RETRY_AFTER),
        FilesError::NoSession | FilesError::NoFile(_) => failure(FailureKind::NotThere),
        FilesError::BadPath(_) => failure(FailureKind::Invalid).param("path"),
        FilesError::InTheWay { .. } => failure(FailureKind::InTheWay),
        FilesError::NoSpace { .. } => failure(FailureKind::NoSpace),
        FilesError::Broken(_) => {
            tracing::error!(error = error.source(), "a parked session cannot be read");
            failure(FailureKind::Internal)
        }
    }
}
