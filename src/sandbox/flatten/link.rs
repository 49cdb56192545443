//! Puts the component's modules together as an engine would, but with nothing running: what each import stands for, what
//! is in the tables, which values the globals begin with.

use super::component::{Component, CoreFunction, CoreInstance, HostName, Item};
use super::module::{self, Module};
use super::{Result, at, unexpected};
use std::collections::{HashMap, HashSet};
use wasmparser::{
    ConstExpr, DataKind, ElementItems, ElementKind, ExternalKind, FuncType, FunctionBody, GlobalType, MemoryType,
    Operator, TypeRef, ValType,
};

/// Slots of all tables. Python's has 5672 (measured); this much would take 8 MiB of each guest.
const TABLE_SLOTS_MAX: u64 = 1 << 20;

/// All that the component's instances are made of. Indices into these lists name things from here on.
#[derive(Default)]
pub(super) struct Program<'a> {
    pub functions: Vec<Function<'a>>,
    pub globals: Vec<Global>,
    pub tables: Vec<Table>,
    pub memories: Vec<MemoryType>,
    pub data: Vec<Data<'a>>,
    /// One for each instance that code came from.
    pub spaces: Vec<Space>,
    pub exports: Vec<(String, u32)>,
}

pub(super) struct Function<'a> {
    pub ty: FuncType,
    pub origin: Origin<'a>,
}

pub(super) enum Origin<'a> {
    Host(HostName<'a>),
    Code {
        /// By which space its indices go.
        space: usize,
        body: FunctionBody<'a>,
    },
}

pub(super) struct Global {
    pub ty: GlobalType,
    /// Its first value. All of them are numbers of 32 bits: addresses, and indices of the table.
    pub value: i32,
}

/// A table of functions.
pub(super) struct Table {
    pub slots: Vec<Option<u32>>,
}

pub(super) struct Data<'a> {
    pub address: i32,
    pub bytes: &'a [u8],
}

/// What the indices in a module's code stand for.
#[derive(Default)]
pub(super) struct Space {
    pub types: Vec<FuncType>,
    pub functions: Vec<u32>,
    pub tables: Vec<u32>,
    pub memories: Vec<u32>,
    pub globals: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq)]
enum Thing {
    Function(u32),
    Table(u32),
    Memory(u32),
    Global(u32),
}

pub(super) fn link<'a>(component: &Component<'a>) -> Result<Program<'a>> {
    let mut linker = Linker {
        component,
        program: Program::default(),
        instances: Vec::new(),
        instantiated: HashSet::new(),
        hosts: HashMap::new(),
    };
    for instance in &component.instances {
        let exports = match instance {
            CoreInstance::Module { module, arguments } => linker.instantiate(*module, arguments)?,
            CoreInstance::Bag(items) => {
                let mut bag = HashMap::new();
                for (name, (kind, index)) in items {
                    bag.insert(*name, linker.core_item(*kind, *index)?);
                }
                Exports(bag)
            }
        };
        linker.instances.push(exports);
    }
    linker.export()?;
    Ok(linker.program)
}

/// What an instance offers to others.
struct Exports<'a>(HashMap<&'a str, Offer<'a>>);

#[derive(Clone)]
enum Offer<'a> {
    Thing(Thing),
    /// A function of the host's, which gets its type from the module that imports it.
    Host(HostName<'a>),
}

struct Linker<'c, 'a> {
    component: &'c Component<'a>,
    program: Program<'a>,
    instances: Vec<Exports<'a>>,
    instantiated: HashSet<u32>,
    /// The host's functions that were imported already.
    hosts: HashMap<HostName<'a>, u32>,
}

impl<'a> Linker<'_, 'a> {
    fn core_item(&self, kind: ExternalKind, index: u32) -> Result<Offer<'a>> {
        let component = self.component;
        let item = match kind {
            ExternalKind::Func => match at(&component.functions, index, "core function")? {
                CoreFunction::Host(name) => return Ok(Offer::Host(name.clone())),
                CoreFunction::Item(item) => item,
            },
            ExternalKind::Table => at(&component.tables, index, "core table")?,
            ExternalKind::Memory => at(&component.memories, index, "core memory")?,
            ExternalKind::Global => at(&component.globals, index, "core global")?,
            ExternalKind::Tag | ExternalKind::FuncExact => return unexpected(format!("it has a {kind:?}")),
        };
        self.offer(item)
    }

    fn offer(&self, &Item { instance, name }: &Item) -> Result<Offer<'a>> {
        match at(&self.instances, instance, "core instance")?.0.get(name) {
            Some(offer) => Ok(offer.clone()),
            None => unexpected(format!("core instance {instance} has no export {name}")),
        }
    }

    // === one instance ===

    fn instantiate(&mut self, index: u32, arguments: &HashMap<&'a str, u32>) -> Result<Exports<'a>> {
        if !self.instantiated.insert(index) {
            return unexpected(format!("module {index} has two instances"));
        }
        let module = module::read(at(&self.component.modules, index, "module")?)?;
        let mut space = Space { types: module.types.clone(), ..Space::default() };
        self.import(&module, arguments, &mut space)?;
        self.define(&module, &mut space)?;
        self.fill_tables(&module, &space)?;
        self.fill_memory(&module, &space)?;
        let exports = module
            .exports
            .iter()
            .map(|export| {
                let thing = match export.kind {
                    ExternalKind::Func => Thing::Function(*at(&space.functions, export.index, "function")?),
                    ExternalKind::Table => Thing::Table(*at(&space.tables, export.index, "table")?),
                    ExternalKind::Memory => Thing::Memory(*at(&space.memories, export.index, "memory")?),
                    ExternalKind::Global => Thing::Global(*at(&space.globals, export.index, "global")?),
                    kind => return unexpected(format!("{} is a {kind:?}", export.name)),
                };
                Ok((export.name, Offer::Thing(thing)))
            })
            .collect::<Result<_>>()?;
        self.program.spaces.push(space);
        Ok(Exports(exports))
    }

    fn import(&mut self, module: &Module<'a>, arguments: &HashMap<&'a str, u32>, space: &mut Space) -> Result<()> {
        for import in &module.imports {
            let Some(instance) = arguments.get(import.module) else {
                return unexpected(format!("nothing stands for {} that a module imports", import.module));
            };
            let offer = self.offer(&Item { instance: *instance, name: import.name })?;
            match (import.ty, offer) {
                (TypeRef::Func(ty), Offer::Host(name)) => {
                    let ty = at(&space.types, ty, "type")?.clone();
                    space.functions.push(self.host_function(name, ty)?);
                }
                (TypeRef::Func(ty), Offer::Thing(Thing::Function(function)))
                    if at(&self.program.functions, function, "function")?.ty == *at(&space.types, ty, "type")? =>
                {
                    space.functions.push(function);
                }
                (TypeRef::Table(_), Offer::Thing(Thing::Table(table))) => space.tables.push(table),
                (TypeRef::Memory(_), Offer::Thing(Thing::Memory(memory))) => space.memories.push(memory),
                (TypeRef::Global(_), Offer::Thing(Thing::Global(global))) => space.globals.push(global),
                _ => return unexpected(format!("{} of {} is of another type", import.name, import.module)),
            }
        }
        Ok(())
    }

    fn host_function(&mut self, name: HostName<'a>, ty: FuncType) -> Result<u32> {
        let Some(function) = self.hosts.get(&name) else {
            let function = add(&mut self.program.functions, Function { ty, origin: Origin::Host(name.clone()) });
            self.hosts.insert(name, function);
            return Ok(function);
        };
        if self.program.functions[*function as usize].ty == ty {
            Ok(*function)
        } else {
            unexpected(format!("{} of {} is imported with two types", name.name, name.interface))
        }
    }

    fn define(&mut self, module: &Module<'a>, space: &mut Space) -> Result<()> {
        for (ty, body) in module.functions.iter().zip(&module.bodies) {
            let ty = at(&space.types, *ty, "type")?.clone();
            let origin = Origin::Code { space: self.program.spaces.len(), body: body.clone() };
            space.functions.push(add(&mut self.program.functions, Function { ty, origin }));
        }
        for table in &module.tables {
            let slots = self.program.tables.iter().map(|table| table.slots.len() as u64).sum::<u64>();
            if table.ty.initial > TABLE_SLOTS_MAX - slots || !table.ty.element_type.is_func_ref() || table.ty.table64 {
                return unexpected(format!("it has a table of {} {}", table.ty.initial, table.ty.element_type));
            }
            let slots = (0..table.ty.initial).map(|_| None).collect();
            space.tables.push(add(&mut self.program.tables, Table { slots }));
        }
        for memory in &module.memories {
            space.memories.push(add(&mut self.program.memories, *memory));
        }
        for global in &module.globals {
            if global.ty.content_type != ValType::I32 {
                return unexpected(format!("it has a global of type {}", global.ty.content_type));
            }
            let value = self.value(&global.init_expr, space)?;
            space.globals.push(add(&mut self.program.globals, Global { ty: global.ty, value }));
        }
        Ok(())
    }

    /// Later entries overwrite earlier ones, of other instances also.
    fn fill_tables(&mut self, module: &Module<'a>, space: &Space) -> Result<()> {
        for element in &module.elements {
            let ElementKind::Active { table_index, offset_expr } = &element.kind else {
                return unexpected("it has table entries that no table begins with");
            };
            let ElementItems::Functions(functions) = element.items.clone() else {
                return unexpected("it has table entries that are no functions");
            };
            let first = self.value(offset_expr, space)?.cast_unsigned() as usize;
            let table = *at(&space.tables, table_index.unwrap_or(0), "table")?;
            let slots = &mut self.program.tables[table as usize].slots;
            for (slot, function) in functions.into_iter().enumerate() {
                let function = *at(&space.functions, function?, "function")?;
                match slots.get_mut(first.saturating_add(slot)) {
                    Some(slot) => *slot = Some(function),
                    None => return unexpected("it has entries beyond a table's end"),
                }
            }
        }
        Ok(())
    }

    fn fill_memory(&mut self, module: &Module<'a>, space: &Space) -> Result<()> {
        for data in &module.data {
            let DataKind::Active { memory_index, offset_expr } = &data.kind else {
                return unexpected("it has data that no memory begins with");
            };
            at(&space.memories, *memory_index, "memory")?;
            let address = self.value(offset_expr, space)?;
            self.program.data.push(Data { address, bytes: data.data });
        }
        Ok(())
    }

    /// The value of an expression that has one before anything runs.
    fn value(&self, expression: &ConstExpr, space: &Space) -> Result<i32> {
        let mut stack: Vec<i32> = Vec::new();
        for operator in expression.get_operators_reader() {
            let value = match (operator?, stack.as_slice()) {
                (Operator::I32Const { value }, _) => value,
                (Operator::GlobalGet { global_index }, _) => {
                    let global = *at(&space.globals, global_index, "global")?;
                    at(&self.program.globals, global, "global")?.value
                }
                (Operator::I32Add, [.., one, other]) => {
                    let sum = one.wrapping_add(*other);
                    stack.truncate(stack.len() - 2);
                    sum
                }
                (Operator::End, [value]) => return Ok(*value),
                (other, _) => return unexpected(format!("a first value has {other:?}")),
            };
            stack.push(value);
        }
        unexpected("a first value does not end")
    }

    // === the component's own exports ===

    fn export(&mut self) -> Result<()> {
        let mut realloc = None;
        for export in &self.component.exports {
            self.export_function(export.name.to_owned(), export.lift.function)?;
            if let Some(post_return) = export.lift.post_return {
                self.export_function(format!("cabi_post_{}", export.name), post_return)?;
            }
            realloc = realloc.or(export.lift.realloc);
        }
        // Imports name another one, of another library. All of them are the `realloc` of the one C library.
        match realloc {
            Some(realloc) => self.export_function("cabi_realloc".into(), realloc),
            None => Ok(()),
        }
    }

    fn export_function(&mut self, name: String, index: u32) -> Result<()> {
        match self.core_item(ExternalKind::Func, index)? {
            Offer::Thing(Thing::Function(function)) => self.program.exports.push((name, function)),
            _ => return unexpected(format!("its export {name} is a function of the host's")),
        }
        Ok(())
    }
}

/// Puts something at the end of a list and says where it is.
#[expect(
    clippy::cast_possible_truncation,
    reason = "each item has at least a byte of a file that is read into memory whole"
)]
fn add<T>(list: &mut Vec<T>, item: T) -> u32 {
    list.push(item);
    (list.len() - 1) as u32
}
