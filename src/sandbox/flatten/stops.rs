//! Where a guest can be stopped: there it reads a byte of a memory of its own, which its host can take away.
//!
//! Every loop has such a place, and as many functions as it takes for every circle of calls to have one. So code that has
//! none is run through at most once at each depth of the stack, and whatever goes on for long meets some again and again.

use super::facts::Facts;
use super::link::{Origin, Program};
use super::{Result, at};
use wasm_encoder::{Function, Instruction, MemArg, MemoryType};
use wasmparser::{FunctionBody, Operator};

/// The memory's place in the module, and the name it is exported by.
pub(super) const MEMORY: u32 = 1;
pub(super) const NAME: &str = "stop";

/// A page that stays one.
pub(super) const PAGE: MemoryType =
    MemoryType { minimum: 1, maximum: Some(1), memory64: false, shared: false, page_size_log2: None };

/// Reads the byte. As one that another thread may change, so that a compiler does not take an earlier read for this one.
pub(super) fn place(function: &mut Function) {
    function.instruction(&Instruction::I32Const(0));
    function.instruction(&Instruction::I32AtomicLoad8U(MemArg { offset: 0, align: 0, memory_index: MEMORY }));
    function.instruction(&Instruction::Drop);
}

/// Functions that have a place at their start: those that call by a table, and of the others those that may call
/// themselves.
pub(super) fn at_start(program: &Program, facts: &Facts) -> Result<Vec<bool>> {
    let mut stops = vec![false; program.functions.len()];
    let mut calls = vec![Vec::new(); program.functions.len()];
    for (index, function) in program.functions.iter().enumerate() {
        let Origin::Code { space, body } = &function.origin else { continue };
        let (by_table, direct) = calls_of(body)?;
        stops[index] = by_table;
        for called in direct {
            let called = *at(&program.spaces[*space].functions, called, "function")?;
            calls[index].push(*at(&facts.actual, called, "function")? as usize);
        }
    }
    // A circle that leads through one with a place has one.
    let mut left: Vec<bool> = stops.iter().map(|stops| !stops).collect();
    loop {
        let goes_on = |index: usize| calls[index].iter().any(|called| left[*called]);
        let mut is_called = vec![false; left.len()];
        for called in (0..left.len()).filter(|index| left[*index]).flat_map(|index| &calls[index]) {
            is_called[*called] = true;
        }
        let next: Vec<_> = (0..left.len()).map(|index| left[index] && goes_on(index) && is_called[index]).collect();
        if next == left {
            break;
        }
        left = next;
    }
    for (stops, in_circle) in stops.iter_mut().zip(left) {
        *stops |= in_circle;
    }
    Ok(stops)
}

/// Whether a function calls by a table, and which ones it calls directly.
fn calls_of(body: &FunctionBody) -> Result<(bool, Vec<u32>)> {
    let (mut by_table, mut direct) = (false, Vec::new());
    for operator in body.get_operators_reader()? {
        match operator? {
            Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => by_table = true,
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => direct.push(function_index),
            _ => {}
        }
    }
    Ok((by_table, direct))
}
