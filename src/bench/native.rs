//! This machine's own Python, to compare with.

use std::ffi::OsStr;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

/// A Python that can be started.
pub(super) struct Native<'a> {
    python: &'a OsStr,
    /// As it says it, such as `Python 3.11.7`.
    pub version: String,
}

impl<'a> Native<'a> {
    /// # Errors
    /// Why there is none.
    pub fn find(python: &'a OsStr) -> io::Result<Self> {
        let output = Command::new(python).arg("--version").output()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if version.starts_with("Python 3") {
            Ok(Self { python, version })
        } else {
            Err(io::Error::other("it is no Python 3"))
        }
    }

    /// What the program prints, and how long it takes from its start to its end.
    pub fn run(&self, program: &str) -> io::Result<(String, Duration)> {
        let began = Instant::now();
        let output = Command::new(self.python).arg("-c").arg(program).output()?;
        let took = began.elapsed();
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), took))
    }
}
