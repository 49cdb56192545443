//! Where something is in a guest's memory, as the guest says it: nothing that it says is believed.

/// Bytes that one call may hand over, in either direction. The guest's streams send chunks of 64 KiB; a call with more
/// ends the run.
pub(super) const HOST_CALL_BYTES_MAX: usize = 1 << 20;

/// A list or a text in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub address: u32,
    pub bytes: u32,
}

/// A guest says what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("it hands over {0} bytes at once")]
    TooMany(u32),
    #[error("it hands over {} bytes at {}, which is outside its memory", _0.bytes, _0.address)]
    Outside(Span),
    #[error("it wants {bytes} bytes at {address}, which is outside its memory")]
    NoPlace { address: u32, bytes: usize },
}

impl Span {
    /// What is there.
    pub fn of(self, memory: &[u8]) -> Result<&[u8], Wrong> {
        let (address, bytes) = (self.address as usize, self.bytes as usize);
        if bytes > HOST_CALL_BYTES_MAX {
            return Err(Wrong::TooMany(self.bytes));
        }
        memory.get(address..address.saturating_add(bytes)).ok_or(Wrong::Outside(self))
    }
}

/// Writes what a guest has asked for to where it wants it.
pub(super) fn write(memory: &mut [u8], address: u32, bytes: &[u8]) -> Result<(), Wrong> {
    let from = address as usize;
    match memory.get_mut(from..from.saturating_add(bytes.len())) {
        Some(place) => place.copy_from_slice(bytes),
        None => return Err(Wrong::NoPlace { address, bytes: bytes.len() }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_memory_is_neither_read_nor_written() {
        let mut memory = vec![7; HOST_CALL_BYTES_MAX + 2];
        let size = u32::try_from(memory.len()).unwrap();
        for (address, bytes, wrong) in [
            (0, size, "it hands over 1048578 bytes at once"),
            (size, 1, "it hands over 1 bytes at 1048578, which is outside its memory"),
            (size - 1, 2, "it hands over 2 bytes at 1048577, which is outside its memory"),
            (u32::MAX, 1, "it hands over 1 bytes at 4294967295, which is outside its memory"),
        ] {
            assert_eq!(Span { address, bytes }.of(&memory).unwrap_err().to_string(), wrong);
        }
        let wrong = write(&mut memory, size - 1, b"ab").unwrap_err().to_string();
        assert_eq!(wrong, "it wants 2 bytes at 1048577, which is outside its memory");
        assert_eq!(memory, vec![7; memory.len()]);
    }

    #[test]
    fn what_is_in_memory_is_read_and_written_to_its_last_byte() {
        let mut memory = vec![0; 3];
        write(&mut memory, 1, b"ab").unwrap();
        write(&mut memory, 3, b"").unwrap();
        assert_eq!(Span { address: 1, bytes: 2 }.of(&memory), Ok(&b"ab"[..]));
        assert_eq!(Span { address: 3, bytes: 0 }.of(&memory), Ok(&b""[..]));
    }
}
