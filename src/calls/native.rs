//! Native calls: putting together the fragments of `tool_calls` deltas.

use super::{CALL_BYTES_MAX, CALLS_MAX, Pending};
use crate::chat::CallFragment;

/// Adds a fragment to its call. `true` when it begins a new one.
pub(super) fn take(calls: &mut Vec<Pending>, fragment: &CallFragment) -> bool {
    let known = calls.iter().rposition(|call| continues(call, fragment));
    if known.is_none() {
        if calls.len() == CALLS_MAX {
            return false;
        }
        calls.push(Pending { index: Some(fragment.index), ..Pending::default() });
    }
    let at = known.unwrap_or(calls.len() - 1);
    let call = &mut calls[at];
    if let (true, Some(id)) = (call.id.is_empty(), &fragment.id) {
        call.id.clone_from(id);
    }
    if let (true, Some(name)) = (call.name.is_empty(), &fragment.name) {
        call.name.clone_from(name);
    }
    // Once over the bound they stay over it: a call with a hole in its arguments might still be valid.
    if call.arguments.len() <= CALL_BYTES_MAX {
        call.arguments.push_str(&fragment.arguments);
    }
    known.is_none()
}

/// Whether `fragment` is a later piece of `call`.
///
/// Some backends send id and name again with each piece; SGLang 0.5.7 gives every call of a whole answer the index
/// -1, and there each id stands for a call of its own.
fn continues(call: &Pending, fragment: &CallFragment) -> bool {
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    call.index == Some(fragment.index)
        && if is_given(&fragment.id) {
            fragment.index >= 0 && fragment.id.as_ref() == Some(&call.id)
        } else {
            call.name.is_empty() || !is_given(&fragment.name)
        }
}
