//! A guest's memory, as its host reads and writes it. Every address and length comes from the guest and is checked here.

use super::host::State;
use wasmtime::{AsContext, AsContextMut, Instance, Memory, TypedFunc, bail};

/// Bytes that one call may hand over, in either direction. The guest's streams send chunks of 64 KiB; a call with more
/// ends the run.
pub(super) const HOST_CALL_BYTES_MAX: usize = 1 << 20;

/// What its host needs of a guest.
#[derive(Clone)]
pub(super) struct Reach {
    pub memory: Memory,
    realloc: TypedFunc<(u32, u32, u32, u32), u32>,
}

/// A list or a text in the guest's memory.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub address: u32,
    pub bytes: u32,
}

impl Reach {
    pub fn of(instance: &Instance, mut store: impl AsContextMut) -> wasmtime::Result<Self> {
        let Some(memory) = instance.get_memory(&mut store, "memory") else { bail!("it exports no memory") };
        let realloc = instance.get_typed_func(&mut store, "cabi_realloc")?;
        Ok(Self { memory, realloc })
    }

    pub fn read<'s>(&self, store: &'s impl AsContext<Data = State>, span: Span) -> wasmtime::Result<&'s [u8]> {
        let (address, bytes) = (span.address as usize, span.bytes as usize);
        if bytes > HOST_CALL_BYTES_MAX {
            bail!("it hands over {bytes} bytes at once");
        }
        match self.memory.data(store).get(address..address.saturating_add(bytes)) {
            Some(bytes) => Ok(bytes),
            None => bail!("it hands over {bytes} bytes at {address}, which is outside its memory"),
        }
    }

    pub fn write(&self, mut store: impl AsContextMut, address: u32, bytes: &[u8]) -> wasmtime::Result<()> {
        let address = address as usize;
        match self.memory.data_mut(&mut store).get_mut(address..address.saturating_add(bytes.len())) {
            Some(place) => place.copy_from_slice(bytes),
            None => bail!("it wants {} bytes at {address}, which is outside its memory", bytes.len()),
        }
        Ok(())
    }

    /// Gives the guest bytes of its own: asks it for memory and fills that.
    pub fn give(&self, mut store: impl AsContextMut, bytes: &[u8], align: u32) -> wasmtime::Result<Span> {
        let Ok(count) = u32::try_from(bytes.len()) else { bail!("{} bytes are too many for it", bytes.len()) };
        let address = self.realloc.call(&mut store, (0, 0, align, count))?;
        self.write(store, address, bytes)?;
        Ok(Span { address, bytes: count })
    }
}
