//! What of a guest's WASI lasts from run to run, and is parked with its memory: its handles, files and clocks.

use super::clock::Ages;
use crate::sandbox::bounded;
use crate::sandbox::files::{Bounds, Broken, Files, Inode};
use serde::{Deserialize, Serialize};

/// Handles (clocks' timers, streams, files) that a guest may hold at once. The standard library holds a handful; chosen.
pub(super) const HANDLES_MAX: usize = 1024;

/// What lasts from run to run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(in crate::sandbox) struct Lasting {
    /// By handle, less one.
    #[serde(deserialize_with = "bounded::list::<HANDLES_MAX, _, _>")]
    pub(super) handles: Vec<Option<Handle>>,
    pub(super) ages: Ages,
    pub files: Files,
}

impl Lasting {
    /// Makes sure of what came from a worker: see [`Files::check`].
    pub fn check(&mut self, bounds: Bounds) -> Result<(), Broken> {
        let open = self.handles.iter().flatten().filter_map(Handle::inode);
        self.files.check(bounds, open)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Handle {
    /// Something to wait for, which is there at this time of the monotonic clock, in nanoseconds.
    Pollable(u64),
    Open(Open),
    /// Standard input, output or error, and networks: they do nothing.
    Dead,
}

impl Handle {
    pub fn inode(&self) -> Option<Inode> {
        match self {
            Self::Open(open) => Some(open.inode()),
            Self::Pollable(_) | Self::Dead => None,
        }
    }
}

/// A file that is open, or what reads or writes it. Each keeps the file alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Open {
    Descriptor {
        inode: Inode,
        flags: u32,
    },
    Reader {
        inode: Inode,
        offset: u64,
    },
    Writer {
        inode: Inode,
        /// None is always the end.
        offset: Option<u64>,
    },
    Entries {
        inode: Inode,
        /// The name that was read last.
        last: String,
    },
}

impl Open {
    fn inode(&self) -> Inode {
        match self {
            Self::Descriptor { inode, .. }
            | Self::Reader { inode, .. }
            | Self::Writer { inode, .. }
            | Self::Entries { inode, .. } => *inode,
        }
    }
}
