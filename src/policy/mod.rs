//! Who may use what, with which limits: reads `policies/`; `Caller × Checked → Permit`, or a denial with its reason.

use crate::access::Caller;
use crate::tools::Checked;

/// The limits of one execution. All of them are enforced by the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time of one call, in milliseconds.
    pub wall_ms: u64,
    /// Linear memory of the interpreter, in bytes.
    pub memory_bytes: usize,
    /// Bytes of stdout that are kept, and as many of stderr; the middle of more is cut out.
    pub output_bytes: usize,
    /// Bytes of the last expression's `repr()` that are kept.
    pub result_bytes: usize,
}

/// Leave to run one checked call under limits. Only [`decide`] makes one, and the sandbox takes nothing else.
#[derive(Debug)]
pub struct Permit {
    caller: Caller,
    checked: Checked,
    limits: Limits,
}

impl Permit {
    /// On whose behalf.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
    /// What.
    pub fn checked(&self) -> &Checked {
        &self.checked
    }
    /// Within which limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
