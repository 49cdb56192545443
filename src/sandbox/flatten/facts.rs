//! What holds for the whole program, whatever it runs.

use super::link::{Function, Origin, Program, Space};
use super::{Result, at};
use wasmparser::{FunctionBody, Operator};

pub(super) struct Facts {
    /// What each function comes to: itself, or the one that it only passes its call on to.
    pub actual: Vec<u32>,
    /// What can be called or read at all.
    pub functions: Vec<bool>,
    pub tables: Vec<bool>,
    /// The others keep their first values for ever.
    pub globals_written: Vec<bool>,
    /// The others keep their entries for ever.
    pub tables_written: Vec<bool>,
}

/// Libraries that call each other in a circle reach one another through the table, and the C library reaches the host
/// so: some 480 functions are nothing but such a call. This is their bound, in instructions: as many parameters are rare.
const PASSED_ON_MAX: usize = 32;

pub(super) fn find(program: &Program) -> Result<Facts> {
    let uses = program.functions.iter().map(|function| uses(program, function)).collect::<Result<Vec<_>>>()?;
    let mut tables_written = vec![false; program.tables.len()];
    for table in uses.iter().flat_map(|uses| &uses.tables_written) {
        tables_written[*table as usize] = true;
    }
    let mut facts = Facts {
        actual: actual(program, &tables_written)?,
        functions: vec![false; program.functions.len()],
        tables: vec![false; program.tables.len()],
        globals_written: vec![false; program.globals.len()],
        tables_written,
    };
    facts.reach(program, &uses);
    Ok(facts)
}

impl Facts {
    /// Follows every call from the exports on, and every table to all that is in it.
    fn reach(&mut self, program: &Program, uses: &[Uses]) {
        let mut open: Vec<u32> = program.exports.iter().map(|(_, function)| *function).collect();
        while let Some(function) = open.pop() {
            let function = self.actual[function as usize] as usize;
            if std::mem::replace(&mut self.functions[function], true) {
                continue;
            }
            let uses = &uses[function];
            open.extend(&uses.functions);
            for global in &uses.globals_written {
                self.globals_written[*global as usize] = true;
            }
            for table in &uses.tables {
                if !std::mem::replace(&mut self.tables[*table as usize], true) {
                    open.extend(program.tables[*table as usize].slots.iter().flatten());
                }
            }
        }
    }
}

/// What one function names.
#[derive(Default)]
struct Uses {
    functions: Vec<u32>,
    tables: Vec<u32>,
    globals_written: Vec<u32>,
    tables_written: Vec<u32>,
}

fn uses(program: &Program, function: &Function) -> Result<Uses> {
    let mut uses = Uses::default();
    let Origin::Code { space, body } = &function.origin else { return Ok(uses) };
    let space = &program.spaces[*space];
    for operator in body.get_operators_reader()? {
        let table = |table: u32| at(&space.tables, table, "table").copied();
        let function = |function: u32| at(&space.functions, function, "function").copied();
        match operator? {
            Operator::Call { function_index }
            | Operator::ReturnCall { function_index }
            | Operator::RefFunc { function_index } => uses.functions.push(function(function_index)?),
            Operator::CallIndirect { table_index, .. }
            | Operator::ReturnCallIndirect { table_index, .. }
            | Operator::TableGet { table: table_index }
            | Operator::TableSize { table: table_index } => uses.tables.push(table(table_index)?),
            Operator::TableSet { table: table_index }
            | Operator::TableGrow { table: table_index }
            | Operator::TableFill { table: table_index }
            | Operator::TableInit { table: table_index, .. } => {
                uses.tables.push(table(table_index)?);
                uses.tables_written.push(table(table_index)?);
            }
            Operator::TableCopy { dst_table, src_table } => {
                uses.tables.extend([table(dst_table)?, table(src_table)?]);
                uses.tables_written.push(table(dst_table)?);
            }
            Operator::GlobalSet { global_index } => {
                uses.globals_written.push(*at(&space.globals, global_index, "global")?);
            }
            _ => {}
        }
    }
    Ok(uses)
}

fn actual(program: &Program, tables_written: &[bool]) -> Result<Vec<u32>> {
    let mut next = Vec::with_capacity(program.functions.len());
    for function in &program.functions {
        next.push(match &function.origin {
            Origin::Host(_) => None,
            Origin::Code { space, body } => {
                passed_on(program, function, &program.spaces[*space], body, tables_written)?
            }
        });
    }
    let follow = |start: usize| {
        let mut function = start;
        // Longer chains than there are functions go in a circle.
        for _ in 0..next.len() {
            match next[function] {
                Some(further) => function = further as usize,
                None => return function,
            }
        }
        start
    };
    #[expect(clippy::cast_possible_truncation, reason = "they were counted in 32 bits")]
    Ok((0..next.len()).map(|function| follow(function) as u32).collect())
}

/// The function that this one calls with its own parameters, if it does nothing else and a table says which.
fn passed_on(
    program: &Program,
    function: &Function,
    space: &Space,
    body: &FunctionBody,
    tables_written: &[bool],
) -> Result<Option<u32>> {
    let mut operators = Vec::new();
    for operator in body.get_operators_reader()?.into_iter().take(PASSED_ON_MAX) {
        operators.push(operator?);
    }
    let [parameters @ .., Operator::I32Const { value: slot }, call, Operator::End] = operators.as_slice() else {
        return Ok(None);
    };
    let Operator::CallIndirect { type_index, table_index } = call else { return Ok(None) };
    let in_order = parameters.len() == function.ty.params().len()
        && (0..).zip(parameters).all(|(index, operator)| *operator == Operator::LocalGet { local_index: index });
    let table = *at(&space.tables, *table_index, "table")? as usize;
    let called = program.tables[table].slots.get(slot.cast_unsigned() as usize).copied().flatten();
    Ok(called.filter(|called| {
        in_order
            && !tables_written[table]
            && space.types.get(*type_index as usize) == Some(&function.ty)
            && program.functions[*called as usize].ty == function.ty
    }))
}
