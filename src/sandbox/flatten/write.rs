//! Writes the program as one module.

use super::facts::Facts;
use super::link::{Origin, Program, Space};
use super::{FlattenError, Result, at, stops, unexpected};
use std::collections::HashMap;
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    CodeSection, ConstExpr, ElementSection, Elements, EntityType, ExportKind, ExportSection, FunctionSection,
    GlobalSection, ImportSection, Instruction, MemorySection, Module, TableSection, TableType, TypeSection,
};
use wasmparser::{FuncType, FunctionBody, Operator};

pub(super) fn write(program: &Program, facts: &Facts) -> Result<Vec<u8>> {
    if let Some(table) = kept(&facts.tables).find(|table| facts.tables_written[*table as usize]) {
        return unexpected(format!("it writes to its table {table}, so that no host could make it new again"));
    }
    let [memory] = program.memories.as_slice() else {
        return unexpected(format!("it has {} memories", program.memories.len()));
    };
    let (imported, defined): (Vec<u32>, Vec<u32>) = kept(&facts.functions)
        .partition(|function| matches!(program.functions[*function as usize].origin, Origin::Host(_)));
    let mut writer = Writer {
        program,
        facts,
        types: Types::default(),
        functions: numbered(program.functions.len(), imported.iter().chain(&defined).copied()),
        tables: numbered(program.tables.len(), kept(&facts.tables)),
        globals: numbered(program.globals.len(), kept(&facts.globals_written)),
        stops_at_start: stops::at_start(program, facts)?,
    };

    let imports = writer.imports(&imported)?;
    let functions = writer.function_types(&defined)?;
    let code = writer.code(&defined)?;
    let tables = writer.tables();
    let mut memories = MemorySection::new();
    memories.memory((*memory).into());
    memories.memory(stops::PAGE);
    let globals = writer.globals()?;
    let exports = writer.exports()?;
    let elements = writer.elements()?;

    let mut module = Module::new();
    module.section(&writer.types.section).section(&imports).section(&functions).section(&tables).section(&memories);
    module.section(&globals).section(&exports).section(&elements).section(&code);
    Ok(module.finish())
}

/// The places of those that are kept.
fn kept(list: &[bool]) -> impl Iterator<Item = u32> {
    (0..).zip(list).filter(|(_, kept)| **kept).map(|(index, _)| index)
}

/// Where each is found in the module. What is left out has no place that code could name.
fn numbered(count: usize, kept: impl Iterator<Item = u32>) -> Vec<Option<u32>> {
    let mut places = vec![None; count];
    for (place, index) in (0..).zip(kept) {
        places[index as usize] = Some(place);
    }
    places
}

struct Writer<'p, 'a> {
    program: &'p Program<'a>,
    facts: &'p Facts,
    types: Types,
    functions: Vec<Option<u32>>,
    tables: Vec<Option<u32>>,
    globals: Vec<Option<u32>>,
    stops_at_start: Vec<bool>,
}

/// The module's types, each once.
#[derive(Default)]
struct Types {
    places: HashMap<FuncType, u32>,
    section: TypeSection,
}

impl Types {
    fn place(&mut self, ty: &FuncType) -> Result<u32> {
        if let Some(place) = self.places.get(ty) {
            return Ok(*place);
        }
        let place = self.section.len();
        let encoded = reencode::RoundtripReencoder.func_type(ty.clone());
        self.section.ty().func_type(&encoded.or_else(|error| unexpected(error.to_string()))?);
        self.places.insert(ty.clone(), place);
        Ok(place)
    }
}

impl Writer<'_, '_> {
    fn function(&self, function: u32) -> Result<u32> {
        let actual = *at(&self.facts.actual, function, "function")?;
        place(&self.functions, actual, "function")
    }

    fn imports(&mut self, imported: &[u32]) -> Result<ImportSection> {
        let mut section = ImportSection::new();
        for function in imported {
            let function = &self.program.functions[*function as usize];
            if let Origin::Host(host) = &function.origin {
                section.import(host.interface, &host.name, EntityType::Function(self.types.place(&function.ty)?));
            }
        }
        Ok(section)
    }

    fn function_types(&mut self, defined: &[u32]) -> Result<FunctionSection> {
        let mut section = FunctionSection::new();
        for function in defined {
            section.function(self.types.place(&self.program.functions[*function as usize].ty)?);
        }
        Ok(section)
    }

    fn code(&mut self, defined: &[u32]) -> Result<CodeSection> {
        let mut section = CodeSection::new();
        for function in defined {
            if let Origin::Code { space, body } = &self.program.functions[*function as usize].origin {
                let space = &self.program.spaces[*space];
                let stops_at_start = self.stops_at_start[*function as usize];
                Code { writer: self, space, stops_at_start }.parse_function_body(&mut section, body.clone())?;
            }
        }
        Ok(section)
    }

    fn tables(&self) -> TableSection {
        let mut section = TableSection::new();
        for index in kept(&self.facts.tables) {
            let table = &self.program.tables[index as usize];
            let slots = table.slots.len() as u64;
            section.table(TableType {
                element_type: wasm_encoder::RefType::FUNCREF,
                table64: false,
                minimum: slots,
                // An engine checks indices against a constant when a table cannot grow.
                maximum: Some(slots),
                shared: false,
            });
        }
        section
    }

    fn globals(&self) -> Result<GlobalSection> {
        let mut section = GlobalSection::new();
        for index in kept(&self.facts.globals_written) {
            let global = &self.program.globals[index as usize];
            let ty = reencode::RoundtripReencoder.global_type(global.ty);
            section.global(ty.or_else(|error| unexpected(error.to_string()))?, &ConstExpr::i32_const(global.value));
        }
        Ok(section)
    }

    fn exports(&self) -> Result<ExportSection> {
        let mut section = ExportSection::new();
        section.export("memory", ExportKind::Memory, 0);
        section.export(stops::NAME, ExportKind::Memory, stops::MEMORY);
        for place in 0..self.globals.iter().flatten().count() {
            section.export(&format!("global {place}"), ExportKind::Global, u32::try_from(place).unwrap_or(u32::MAX));
        }
        for (name, function) in &self.program.exports {
            section.export(name, ExportKind::Func, self.function(*function)?);
        }
        Ok(section)
    }

    /// One segment for each run of slots that are taken.
    fn elements(&self) -> Result<ElementSection> {
        let mut section = ElementSection::new();
        for index in kept(&self.facts.tables) {
            let table = place(&self.tables, index, "table")?;
            let mut first = 0_usize;
            for run in self.program.tables[index as usize].slots.chunk_by(|one, next| one.is_some() == next.is_some()) {
                if run.iter().all(Option::is_some) {
                    let functions =
                        run.iter().flatten().map(|function| self.function(*function)).collect::<Result<Vec<_>>>()?;
                    // A table's size is bounded.
                    let first = ConstExpr::i32_const(i32::try_from(first).unwrap_or(i32::MAX));
                    section.active(Some(table), &first, Elements::Functions(functions.into()));
                }
                first += run.len();
            }
        }
        Ok(section)
    }
}

/// Copies one function's code, with the indices of the module it comes from turned into those of the one that is written,
/// and with the places at which it can be stopped.
struct Code<'w, 'p, 'a> {
    writer: &'w mut Writer<'p, 'a>,
    space: &'p Space,
    stops_at_start: bool,
}

impl Reencode for Code<'_, '_, '_> {
    type Error = FlattenError;

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Reencoded<()> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        if self.stops_at_start {
            stops::place(&mut function);
        }
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let operator = reader.read()?;
            let loops = matches!(operator, Operator::Loop { .. });
            function.instruction(&self.instruction(operator)?);
            if loops {
                stops::place(&mut function);
            }
        }
        code.function(&function);
        Ok(())
    }

    fn instruction<'i>(&mut self, operator: Operator<'i>) -> Reencoded<Instruction<'i>> {
        if let Operator::GlobalGet { global_index } = operator {
            let global = *at(&self.space.globals, global_index, "global").map_err(reencode::Error::UserError)?;
            if !self.writer.facts.globals_written[global as usize] {
                return Ok(Instruction::I32Const(self.writer.program.globals[global as usize].value));
            }
        }
        reencode::utils::instruction(self, operator)
    }

    fn type_index(&mut self, index: u32) -> Reencoded<u32> {
        at(&self.space.types, index, "type")
            .and_then(|ty| self.writer.types.place(ty))
            .map_err(reencode::Error::UserError)
    }

    fn function_index(&mut self, index: u32) -> Reencoded<u32> {
        let function = at(&self.space.functions, index, "function");
        function.and_then(|function| self.writer.function(*function)).map_err(reencode::Error::UserError)
    }

    fn table_index(&mut self, index: u32) -> Reencoded<u32> {
        moved(&self.space.tables, &self.writer.tables, index, "table")
    }

    fn global_index(&mut self, index: u32) -> Reencoded<u32> {
        moved(&self.space.globals, &self.writer.globals, index, "global")
    }

    fn memory_index(&mut self, index: u32) -> Reencoded<u32> {
        // There is one.
        at(&self.space.memories, index, "memory").copied().map_err(reencode::Error::UserError)
    }

    fn data_index(&mut self, index: u32) -> Reencoded<u32> {
        unexpected(format!("it uses data segment {index} when it runs")).map_err(reencode::Error::UserError)
    }

    fn element_index(&mut self, index: u32) -> Reencoded<u32> {
        unexpected(format!("it uses element segment {index} when it runs")).map_err(reencode::Error::UserError)
    }
}

type Reencoded<T> = std::result::Result<T, reencode::Error<FlattenError>>;

fn moved(space: &[u32], places: &[Option<u32>], index: u32, what: &str) -> Reencoded<u32> {
    at(space, index, what).and_then(|index| place(places, *index, what)).map_err(reencode::Error::UserError)
}

fn place(places: &[Option<u32>], index: u32, what: &str) -> Result<u32> {
    match at(places, index, what)? {
        Some(place) => Ok(*place),
        None => unexpected(format!("{what} {index} is used where nothing was found to use it")),
    }
}
