//! Arguments of a call as a history may have them: SGLang refuses one whose arguments are no JSON object.

use serde_json::{Map, Value};

/// What stands for arguments that are none: an object without members.
const NONE: &str = "{}";

/// These arguments, if they are a JSON object.
pub(super) fn acceptable(arguments: &str) -> &str {
    if serde_json::from_str::<Map<String, Value>>(arguments).is_ok() { arguments } else { NONE }
}
