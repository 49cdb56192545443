//! Launch commands for SGLang: a choice of hardware, model and quantization → the command that is known to work, or why
//! there is none.
//!
//! The rules are data, [`OURS`]; nothing here knows a GPU or a model. [`recipes`] holds them, [`write`] puts a command into
//! the form that is wanted, [`compare`] holds a running server against it.

pub mod compare;
mod recipes;
pub mod write;

pub use recipes::{Argument, Choice, Recipe, Recipes, Refused, WrongRecipes};

/// SGLang's Qwen3-Coder page.
pub const OURS: &str = include_str!("qwen3-coder.toml");

#[cfg(test)]
mod tests;
