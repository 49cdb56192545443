//! A guest's memory, as its host reads and writes it.

use super::host::State;
use super::span::{self, Span};
use wasmtime::{AsContext, AsContextMut, Caller, Instance, Memory, TypedFunc, bail};

/// What its host needs of a guest.
#[derive(Clone)]
pub(super) struct Reach {
    pub memory: Memory,
    realloc: TypedFunc<(u32, u32, u32, u32), u32>,
}

impl Reach {
    pub fn of(instance: &Instance, mut store: impl AsContextMut) -> wasmtime::Result<Self> {
        let Some(memory) = instance.get_memory(&mut store, "memory") else { bail!("it exports no memory") };
        let realloc = instance.get_typed_func(&mut store, "cabi_realloc")?;
        Ok(Self { memory, realloc })
    }

    pub fn read<'s>(&self, store: &'s impl AsContext<Data = State>, span: Span) -> wasmtime::Result<&'s [u8]> {
        Ok(span.of(self.memory.data(store))?)
    }

    /// The same, with the host's own state, which may change meanwhile.
    pub fn read_beside<'s>(
        &self,
        store: &'s mut Caller<'_, State>,
        span: Span,
    ) -> wasmtime::Result<(&'s [u8], &'s mut State)> {
        let (memory, state) = self.memory.data_and_store_mut(store);
        Ok((span.of(memory)?, state))
    }

    pub fn write(&self, mut store: impl AsContextMut, address: u32, bytes: &[u8]) -> wasmtime::Result<()> {
        Ok(span::write(self.memory.data_mut(&mut store), address, bytes)?)
    }

    /// Gives the guest bytes of its own: asks it for memory and fills that.
    pub fn give(&self, mut store: impl AsContextMut, bytes: &[u8], align: u32) -> wasmtime::Result<Span> {
        let Ok(count) = u32::try_from(bytes.len()) else { bail!("{} bytes are too many for it", bytes.len()) };
        let address = self.realloc.call(&mut store, (0, 0, align, count))?;
        self.write(store, address, bytes)?;
        Ok(Span { address, bytes: count })
    }
}
