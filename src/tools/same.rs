//! When two parameter schemas are the same but for their wording.

use serde_json::{Map, Value};

/// Keywords whose members are named by the schema's author: there `description` is a name like any other.
const NAMING: &[&str] = &["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// Keywords whose values are data and not schemas: there `description` counts.
const DATA: &[&str] = &["const", "enum", "default", "examples"];

/// Equal as JSON values, `description` annotations aside. Recursion is as deep as the shallower of the two, and our
/// own schemas are shallow.
pub fn same_schema(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            same_members(left, right, |keyword| keyword != "description", same_keyword)
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_schema(left, right))
        }
        _ => left == right,
    }
}

fn same_keyword(keyword: &str, left: &Value, right: &Value) -> bool {
    match (left, right) {
        _ if DATA.contains(&keyword) => left == right,
        (Value::Object(left), Value::Object(right)) if NAMING.contains(&keyword) => {
            same_members(left, right, |_| true, |_, left, right| same_schema(left, right))
        }
        _ => same_schema(left, right),
    }
}

fn same_members(
    left: &Map<String, Value>,
    right: &Map<String, Value>,
    counts: fn(&str) -> bool,
    same: fn(&str, &Value, &Value) -> bool,
) -> bool {
    let size = |members: &Map<String, Value>| members.keys().filter(|name| counts(name)).count();
    size(left) == size(right)
        && left
            .iter()
            .filter(|(name, _)| counts(name))
            .all(|(name, value)| right.get(name).is_some_and(|other| same(name, value, other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "Code"},
                "description": {"type": "string"},
                "mode": {"enum": [{"description": "a"}]}
            },
            "required": ["code"]
        })
    }

    #[test]
    fn another_type_name_requirement_or_value_is_another_schema() {
        let changes: &[fn(&mut Value)] = &[
            |it| it["properties"]["code"]["type"] = json!("integer"),
            |it| it["properties"]["code"]["minLength"] = json!(1),
            |it| it["properties"]["description"] = json!({"type": "integer"}),
            |it| it["properties"]["mode"]["enum"] = json!([{"description": "b"}]),
            |it| it["required"] = json!([]),
            |it| it["additionalProperties"] = json!(false),
            |it| {
                it["properties"].as_object_mut().expect("object").remove("description");
            },
            |it| *it = json!(null),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut other = schema();
            change(&mut other);
            assert!(!same_schema(&schema(), &other) && !same_schema(&other, &schema()), "change {at}");
        }
    }

    #[test]
    fn order_and_descriptions_do_not_matter() {
        let other = json!({
            "required": ["code"],
            "description": "Arguments",
            "properties": {
                "mode": {"enum": [{"description": "a"}], "description": "How"},
                "description": {"type": "string", "description": "What for"},
                "code": {"type": "string"}
            },
            "type": "object"
        });
        assert!(same_schema(&schema(), &other) && same_schema(&other, &schema()));
    }
}
