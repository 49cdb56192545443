//! Adds what a client needs to a JSON file that is its user's, and never takes anything away.

use serde_json::{Map, Value};

/// What an entry of the gateway's own is called, by its `name` or where it has none by its key: within such an entry, and
/// only there, a value is replaced.
const OWN: &str = "Loopgate";
/// How the name of an own entry for one model ends.
const OWN_ENDING: &str = " (Loopgate)";

/// A place where the file says something else.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict(pub String);

/// Merges `wanted` into `file`: objects member by member, lists by their elements' `id` or `name`.
///
/// # Errors
/// If the file has another value in a place that is not the gateway's own. `file` is then half changed.
pub fn merge(file: &mut Value, wanted: &Value) -> Result<(), Conflict> {
    merge_at("", false, file, wanted)
}

fn merge_at(path: &str, own: bool, file: &mut Value, wanted: &Value) -> Result<(), Conflict> {
    match (file, wanted) {
        (Value::Object(file), Value::Object(wanted)) => members(path, own, file, wanted),
        (Value::Array(file), Value::Array(wanted)) => elements(path, own, file, wanted),
        (file, wanted) if file == wanted => Ok(()),
        (file, wanted) if own => {
            file.clone_from(wanted);
            Ok(())
        }
        _ => Err(Conflict(path.to_owned())),
    }
}

fn members(path: &str, own: bool, file: &mut Map<String, Value>, wanted: &Map<String, Value>) -> Result<(), Conflict> {
    for (name, value) in wanted {
        match file.get_mut(name) {
            Some(known) => {
                let own = own || is_own(known, name);
                merge_at(&format!("{path}/{name}"), own, known, value)?;
            }
            None => drop(file.insert(name.clone(), value.clone())),
        }
    }
    Ok(())
}

fn elements(path: &str, own: bool, file: &mut Vec<Value>, wanted: &[Value]) -> Result<(), Conflict> {
    for element in wanted {
        if let Some(known) = file.iter_mut().find(|known| is_same(known, element)) {
            let own = own || is_own(known, "");
            merge_at(&format!("{path}/{}", label(element)), own, known, element)?;
        } else {
            file.push(element.clone());
        }
    }
    Ok(())
}

fn is_same(known: &Value, wanted: &Value) -> bool {
    let by = |name: &str| known.get(name).is_some() && known.get(name) == wanted.get(name);
    known == wanted || if wanted.get("id").is_some() { by("id") } else { by("name") }
}

fn is_own(known: &Value, key: &str) -> bool {
    let name = known.get("name").map_or(Some(key), Value::as_str);
    name.is_some_and(|name| name == OWN || name.ends_with(OWN_ENDING))
}

fn label(element: &Value) -> &str {
    element.get("id").or(element.get("name")).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(mut file: Value, wanted: &Value) -> Result<Value, Conflict> {
        merge(&mut file, wanted).map(|()| file)
    }

    #[test]
    fn a_value_that_is_the_users_is_never_replaced() {
        let wanted = json!({"a": {"b": 1}, "list": [{"id": "m", "url": "x"}]});
        assert_eq!(merged(json!({"a": 7}), &wanted), Err(Conflict("/a".to_owned())));
        assert_eq!(merged(json!({"a": {"b": "1"}}), &wanted), Err(Conflict("/a/b".to_owned())));
        let other = json!({"list": [{"id": "m", "url": "y"}]});
        assert_eq!(merged(other, &wanted), Err(Conflict("/list/m/url".to_owned())));
    }

    #[test]
    fn an_element_is_replaced_by_the_name_that_it_has_not_the_one_it_would_get() {
        let wanted = json!([{"id": "m", "name": "m (Loopgate)", "url": "new"}]);
        let users = json!([{"id": "m", "name": "m", "url": "old"}]);
        assert_eq!(merged(users, &wanted), Err(Conflict("/m/name".to_owned())));
        let own = json!([{"id": "m", "name": "m (Loopgate)", "url": "old", "more": 1}]);
        assert_eq!(merged(own, &wanted), Ok(json!([{"id": "m", "name": "m (Loopgate)", "url": "new", "more": 1}])));
    }

    #[test]
    fn an_entry_that_only_has_our_key_is_the_users() {
        let wanted = json!({"loopgate": {"name": "Loopgate", "url": "new"}});
        for users in [json!({"url": "old"}), json!({"name": "My own", "url": "old"}), json!({"name": 7, "url": "old"})]
        {
            assert!(merged(json!({"loopgate": users}), &wanted).is_err(), "{users}");
        }
        let own = json!({"loopgate": {"name": "Loopgate", "url": "old"}});
        assert_eq!(merged(own, &wanted), Ok(wanted));
    }

    #[test]
    fn what_is_there_stays_and_what_is_missing_is_added_once() {
        let wanted = json!({"p": {"Loopgate": {"url": "new", "models": [{"name": "m"}]}}});
        let file = json!({"z": [1.5, null], "p": {"other": {}, "Loopgate": {"url": "old", "models": [{"name": "n"}]}}});
        let once = merged(file, &wanted).expect("no conflict");
        let expected = json!({"z": [1.5, null], "p": {
            "other": {}, "Loopgate": {"url": "new", "models": [{"name": "n"}, {"name": "m"}]}}});
        assert_eq!(once, expected);
        assert_eq!(merged(once.clone(), &wanted), Ok(once));
    }
}
