//! One core module, taken apart.

use super::{Result, unexpected};
use wasmparser::{
    Data, Element, Export, FuncType, FunctionBody, Global, Import, MemoryType, Parser, Payload, SectionLimited, Table,
};

#[derive(Default)]
pub(super) struct Module<'a> {
    pub types: Vec<FuncType>,
    pub imports: Vec<Import<'a>>,
    /// Type of each function that is defined here.
    pub functions: Vec<u32>,
    pub bodies: Vec<FunctionBody<'a>>,
    pub tables: Vec<Table<'a>>,
    pub memories: Vec<MemoryType>,
    pub globals: Vec<Global<'a>>,
    pub exports: Vec<Export<'a>>,
    pub elements: Vec<Element<'a>>,
    pub data: Vec<Data<'a>>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Module<'_>> {
    let mut module = Module::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::TypeSection(section) => {
                module.types = section.into_iter_err_on_gc_types().collect::<std::result::Result<_, _>>()?;
            }
            Payload::ImportSection(section) => {
                module.imports = section.into_imports().collect::<std::result::Result<_, _>>()?;
            }
            Payload::FunctionSection(section) => module.functions = all(section)?,
            Payload::TableSection(section) => module.tables = all(section)?,
            Payload::MemorySection(section) => module.memories = all(section)?,
            Payload::GlobalSection(section) => module.globals = all(section)?,
            Payload::ExportSection(section) => module.exports = all(section)?,
            Payload::ElementSection(section) => module.elements = all(section)?,
            Payload::DataSection(section) => module.data = all(section)?,
            Payload::CodeSectionEntry(body) => module.bodies.push(body),
            Payload::CodeSectionStart { .. }
            | Payload::DataCountSection { .. }
            | Payload::Version { .. }
            | Payload::CustomSection(_)
            | Payload::End(_) => {}
            // A guest that was started when it was built has nothing to do at its start.
            other => return unexpected(format!("one of its modules has {other:?}")),
        }
    }
    if module.functions.len() == module.bodies.len() {
        Ok(module)
    } else {
        unexpected("one of its modules has functions without code")
    }
}

fn all<'a, T: wasmparser::FromReader<'a>>(section: SectionLimited<'a, T>) -> Result<Vec<T>> {
    Ok(section.into_iter().collect::<std::result::Result<_, _>>()?)
}
