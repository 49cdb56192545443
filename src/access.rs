//! Bearer key → [`Caller`].

use std::sync::Arc;

/// Who asks. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    name: Arc<str>,
}

impl Caller {
    /// The caller's name, as config, audit and metrics know it. Without keys everybody is `anonymous`.
    pub fn name(&self) -> &str {
        &self.name
    }
}
