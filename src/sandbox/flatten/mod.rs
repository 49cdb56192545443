//! Makes one core module of the Python component: bytes to bytes, and nothing of wasmtime.
//!
//! componentize-py links shared libraries as a component does: fourteen modules that import from each other the functions,
//! the memory, the table, and each address in a global of its own. To start a guest so means to make fourteen instances
//! and to hand on thousands of imports. None of it changes from guest to guest, so it is done once, here:
//!
//! 1. [`component`] reads how the component puts its modules together.
//! 2. [`link`] follows it as an engine would, and keeps what came out: functions, globals, tables, memory, data.
//! 3. [`facts`] finds what nothing reaches, which globals are constants, which functions only pass a call on.
//! 4. [`stops`] finds where it can be stopped.
//! 5. [`write`] writes the rest as one module.
//!
//! The data stays apart: an image of the memory has more in it than the data, and is made elsewhere.
//!
//! The module's imports are the component's, named `interface` and `function` (`$root` for the world's own; `[resource-drop]x` frees
//! a handle), to be called as the canonical ABI lowers them. Its exports are the component's functions, lifted by the same
//! rules, what frees their results (`cabi_post_*`), `cabi_realloc`, `memory`, and `global N` for each of its globals: with
//! the memory all that it can change, so that a host can make an instance new again. And `stop`, a memory that it only reads.
//! A host that takes it away stops the instance, at the end of whatever loop or call it is in.
//!
//! The module is no more trusted than the component was: an engine validates it as it does any other.

mod component;
mod facts;
mod link;
mod module;
mod stops;
mod write;

use wasm_encoder::reencode;
use wasmparser::BinaryReaderError;

/// Why a component cannot be made into one module.
#[derive(Debug, thiserror::Error)]
pub(super) enum FlattenError {
    #[error("it is no WebAssembly component: {0}")]
    Malformed(#[from] BinaryReaderError),
    #[error("it is not built as componentize-py builds: {0}")]
    Unexpected(String),
}

impl From<reencode::Error<Self>> for FlattenError {
    fn from(error: reencode::Error<Self>) -> Self {
        match error {
            reencode::Error::UserError(error) => error,
            reencode::Error::ParseError(error) => Self::Malformed(error),
            other => Self::Unexpected(other.to_string()),
        }
    }
}

/// This code itself: a module that was made by other code is not to be used for what this would make.
pub(super) const CODE: [&str; 7] = [
    include_str!("mod.rs"),
    include_str!("component.rs"),
    include_str!("module.rs"),
    include_str!("link.rs"),
    include_str!("facts.rs"),
    include_str!("stops.rs"),
    include_str!("write.rs"),
];

type Result<T> = std::result::Result<T, FlattenError>;

/// A component as one core module.
pub(super) struct Flat {
    pub module: Vec<u8>,
    /// What its memory begins with, by address.
    pub data: Vec<(u32, Vec<u8>)>,
}

/// One core module that does what the component does.
pub(super) fn flatten(component: &[u8]) -> Result<Flat> {
    let component = component::read(component)?;
    let program = link::link(&component)?;
    let facts = facts::find(&program)?;
    let data = program.data.iter().map(|data| (data.address.cast_unsigned(), data.bytes.to_vec())).collect();
    Ok(Flat { module: write::write(&program, &facts)?, data })
}

fn unexpected<T>(what: impl Into<String>) -> Result<T> {
    Err(FlattenError::Unexpected(what.into()))
}

/// What is at an index that the bytes gave.
fn at<'a, T>(list: &'a [T], index: u32, what: &str) -> Result<&'a T> {
    match list.get(index as usize) {
        Some(item) => Ok(item),
        None => unexpected(format!("there is no {what} {index}")),
    }
}

#[cfg(test)]
mod tests;
