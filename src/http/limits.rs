//! What a caller may still do, as the headers that clients know from OpenAI.
//!
//! The gateway bounds requests at once, not requests a minute: the limit is how many may run, what remains is how many
//! more may begin, and a place is free again when a request ends, for which no time can be promised.

use super::refusal::Refusal;
use crate::access::{Caller, Full, Slot};
use crate::chat::{Failure, FailureKind};
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// When one who finds no place should look again. Chosen: a short answer's length.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Names of the headers.
pub(super) const LIMIT: &str = "x-ratelimit-limit-requests";
pub(super) const REMAINING: &str = "x-ratelimit-remaining-requests";
pub(super) const RESET: &str = "x-ratelimit-reset-requests";

/// A caller's places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    limit: u32,
    free: u32,
}

impl Load {
    pub fn of(caller: &Caller) -> Self {
        Self { limit: caller.concurrent_max(), free: caller.free() }
    }

    pub fn tell(self, headers: &mut HeaderMap) {
        let reset = if self.free == 0 { RETRY_AFTER.as_secs() } else { 0 };
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.free));
        // OpenAI writes a duration. Digits and a letter are a header's value.
        if let Ok(reset) = HeaderValue::try_from(format!("{reset}s")) {
            headers.insert(RESET, reset);
        }
    }
}

/// A place for a request, and what its caller may still do.
pub(super) fn enter(caller: &Caller) -> Result<(Slot, Load), Refusal> {
    let slot = caller.enter();
    let load = Load::of(caller);
    match slot {
        Ok(slot) => Ok((slot, load)),
        Err(full) => Err(refusal(&full, load)),
    }
}

/// What one is told who finds no place.
fn refusal(full: &Full, load: Load) -> Refusal {
    let failure = Failure::new(FailureKind::RateLimited, full.to_string()).retry_after(RETRY_AFTER);
    // By now a place may be free again; what was true for this request is told.
    Refusal { failure, load: Some(Load { free: 0, ..load }) }
}
