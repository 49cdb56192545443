//! How a component puts its modules together, as far as it concerns the modules.

use super::{Result, at, unexpected};
use std::collections::HashMap;
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExport, ComponentExternalKind, ComponentImport,
    ComponentTypeRef, ExternalKind, Instance, Parser, Payload,
};

#[derive(Default)]
pub(super) struct Component<'a> {
    pub modules: Vec<&'a [u8]>,
    pub instances: Vec<CoreInstance<'a>>,
    pub functions: Vec<CoreFunction<'a>>,
    pub tables: Vec<Item<'a>>,
    pub memories: Vec<Item<'a>>,
    pub globals: Vec<Item<'a>>,
    pub exports: Vec<Export<'a>>,
    names: Names<'a>,
}

pub(super) enum CoreInstance<'a> {
    Module {
        module: u32,
        /// Module names in its imports, and the instance that stands behind each.
        arguments: HashMap<&'a str, u32>,
    },
    Bag(HashMap<&'a str, (ExternalKind, u32)>),
}

/// An instance's export.
pub(super) struct Item<'a> {
    pub instance: u32,
    pub name: &'a str,
}

pub(super) enum CoreFunction<'a> {
    Item(Item<'a>),
    Host(HostName<'a>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct HostName<'a> {
    pub interface: &'a str,
    pub name: String,
}

/// A function that the component exports, and the core functions behind it.
pub(super) struct Export<'a> {
    pub name: &'a str,
    pub lift: Lift,
}

#[derive(Clone)]
pub(super) struct Lift {
    pub function: u32,
    pub post_return: Option<u32>,
    pub realloc: Option<u32>,
}

/// The component's own index spaces, of which only names matter here.
#[derive(Default)]
struct Names<'a> {
    instances: Vec<&'a str>,
    functions: Vec<Function<'a>>,
    types: Vec<Option<Named<'a>>>,
}

#[derive(Clone, Copy)]
struct Named<'a> {
    interface: &'a str,
    name: &'a str,
}

#[derive(Clone)]
enum Function<'a> {
    Imported(Named<'a>),
    Lifted(Lift),
}

/// The interface of what a component imports by itself.
const ROOT: &str = "$root";

pub(super) fn read(bytes: &[u8]) -> Result<Component<'_>> {
    let mut component = Component::default();
    // Modules and components within this one. What they contain is not its own.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { unchecked_range, .. } => {
                if depth == 0 {
                    match bytes.get(unchecked_range) {
                        Some(module) => component.modules.push(module),
                        None => return unexpected("a module is cut"),
                    }
                }
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            payload if depth == 0 => component.take(payload)?,
            _ => {}
        }
    }
    Ok(component)
}

impl<'a> Component<'a> {
    fn take(&mut self, payload: Payload<'a>) -> Result<()> {
        match payload {
            Payload::InstanceSection(section) => each(section, |instance| {
                self.instances.push(core_instance(instance));
                Ok(())
            }),
            Payload::ComponentAliasSection(section) => each(section, |alias| self.alias(&alias)),
            Payload::ComponentCanonicalSection(section) => each(section, |function| self.canonical(function)),
            Payload::ComponentImportSection(section) => each(section, |import| self.names.import(&import)),
            Payload::ComponentExportSection(section) => each(section, |export| self.export(&export)),
            Payload::ComponentTypeSection(section) => each(section, |_| {
                self.names.types.push(None);
                Ok(())
            }),
            Payload::ComponentInstanceSection(section) => each(section, |_| {
                self.names.instances.push("");
                Ok(())
            }),
            Payload::Version { .. } | Payload::CustomSection(_) => Ok(()),
            other => unexpected(format!("it has {other:?}")),
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'a>) -> Result<()> {
        match *alias {
            ComponentAlias::CoreInstanceExport { kind, instance_index: instance, name } => {
                let item = Item { instance, name };
                match kind {
                    ExternalKind::Func => self.functions.push(CoreFunction::Item(item)),
                    ExternalKind::Table => self.tables.push(item),
                    ExternalKind::Memory => self.memories.push(item),
                    ExternalKind::Global => self.globals.push(item),
                    ExternalKind::Tag | ExternalKind::FuncExact => return unexpected(format!("{name} is a {kind:?}")),
                }
                Ok(())
            }
            ComponentAlias::InstanceExport { kind, instance_index, name } => {
                self.names.instance_export(kind, instance_index, name)
            }
            ComponentAlias::Outer { .. } => unexpected("it refers to a component around it"),
        }
    }

    fn canonical(&mut self, function: CanonicalFunction) -> Result<()> {
        match function {
            CanonicalFunction::Lower { func_index, options } if options.iter().copied().all(is_plain) => {
                match at(&self.names.functions, func_index, "function")? {
                    Function::Imported(Named { interface, name }) => {
                        self.functions.push(CoreFunction::Host(HostName { interface, name: (*name).to_owned() }));
                    }
                    Function::Lifted(_) => {
                        return unexpected(format!("function {func_index} is its own and called as another's"));
                    }
                }
            }
            CanonicalFunction::ResourceDrop { resource } => match at(&self.names.types, resource, "type")? {
                Some(Named { interface, name }) => {
                    let name = format!("[resource-drop]{name}");
                    self.functions.push(CoreFunction::Host(HostName { interface, name }));
                }
                None => return unexpected(format!("type {resource} is no resource of the host's")),
            },
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                let mut lift = Lift { function: core_func_index, post_return: None, realloc: None };
                for option in options.iter().copied() {
                    match option {
                        CanonicalOption::PostReturn(function) => lift.post_return = Some(function),
                        CanonicalOption::Realloc(function) => lift.realloc = Some(function),
                        option if is_plain(option) => {}
                        other => return unexpected(format!("function {core_func_index} is exported with {other:?}")),
                    }
                }
                self.names.functions.push(Function::Lifted(lift));
            }
            other => return unexpected(format!("it has a {other:?}")),
        }
        Ok(())
    }

    fn export(&mut self, export: &ComponentExport<'a>) -> Result<()> {
        let name = export.name.name;
        match export.kind {
            ComponentExternalKind::Func => {
                let function = at(&self.names.functions, export.index, "function")?.clone();
                if let Function::Lifted(lift) = &function {
                    self.exports.push(Export { name, lift: lift.clone() });
                }
                self.names.functions.push(function);
            }
            ComponentExternalKind::Type => self.names.types.push(*at(&self.names.types, export.index, "type")?),
            // What initialised the guest, when it was built.
            ComponentExternalKind::Instance => self.names.instances.push(name),
            kind => return unexpected(format!("its export {name} is a {kind:?}")),
        }
        Ok(())
    }
}

impl<'a> Names<'a> {
    fn import(&mut self, import: &ComponentImport<'a>) -> Result<()> {
        let name = import.name.name;
        let named = Named { interface: ROOT, name };
        match import.ty {
            ComponentTypeRef::Instance(_) => self.instances.push(name),
            ComponentTypeRef::Func(_) => self.functions.push(Function::Imported(named)),
            ComponentTypeRef::Type(_) => self.types.push(Some(named)),
            other => return unexpected(format!("its import {name} is a {other:?}")),
        }
        Ok(())
    }

    fn instance_export(&mut self, kind: ComponentExternalKind, instance: u32, name: &'a str) -> Result<()> {
        let named = Named { interface: at(&self.instances, instance, "instance")?, name };
        match kind {
            ComponentExternalKind::Func => self.functions.push(Function::Imported(named)),
            ComponentExternalKind::Type => self.types.push(Some(named)),
            kind => return unexpected(format!("{name} of {} is a {kind:?}", named.interface)),
        }
        Ok(())
    }
}

fn core_instance(instance: Instance) -> CoreInstance {
    match instance {
        Instance::Instantiate { module_index, args } => CoreInstance::Module {
            module: module_index,
            arguments: args.iter().map(|argument| (argument.name, argument.index)).collect(),
        },
        Instance::FromExports(exports) => {
            CoreInstance::Bag(exports.iter().map(|export| (export.name, (export.kind, export.index))).collect())
        }
    }
}

/// Whether a function with this option takes and gives numbers, and bytes of UTF-8 in memory.
fn is_plain(option: CanonicalOption) -> bool {
    matches!(option, CanonicalOption::UTF8 | CanonicalOption::Memory(_) | CanonicalOption::Realloc(_))
}

/// Does something with each entry of a section.
fn each<'a, T: wasmparser::FromReader<'a>>(
    section: wasmparser::SectionLimited<'a, T>,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    section.into_iter().try_for_each(|entry| take(entry?))
}
