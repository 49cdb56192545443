//! Folders → [`Tools`]. What is wrong is found here, at start, and not when a model calls.

use super::{Example, Program, Settings, State, Tool, Tools, check};
use jsonschema::{PatternOptions, Validator};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Characters of a tool's name: the limit that the chat-completions API sets for functions.
const NAME_CHARS_MAX: usize = 64;

/// The schema language of `schema.json`.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A file of `tools/` or `policies/` that cannot be used: which, what about it, and the way out.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct LoadError {
    path: PathBuf,
    what: String,
}

/// `tool.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolFile {
    description: String,
    state: State,
    argument: Option<String>,
    program: Option<String>,
}

impl LoadError {
    /// `what` says what is wrong and what to do about it.
    pub(crate) fn new(path: &Path, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into() }
    }
}

impl Tools {
    /// Reads every folder of the tools' folder, except hidden ones. Files beside them are nobody's business.
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        let mut by_name = BTreeMap::new();
        for path in entries(&settings.dir, "set `tools.dir` to the folder that holds the tools")? {
            let name = file_name(&path);
            if path.is_dir() && !name.starts_with('.') {
                by_name.insert(name.clone(), Arc::new(tool(&path, name)?));
            }
        }
        Ok(Self { by_name })
    }
}

fn tool(dir: &Path, name: String) -> Result<Tool, LoadError> {
    let is_name_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.len() > NAME_CHARS_MAX || !name.bytes().all(is_name_char) {
        let what = "no name for a tool; name the folder with 1 to 64 letters, digits, `_` and `-`";
        return Err(LoadError::new(dir, what));
    }
    let path = dir.join("tool.toml");
    let file: ToolFile = read_toml(&path, "a tool is a folder with tool.toml and schema.json")?;
    if file.description.trim().is_empty() {
        return Err(LoadError::new(&path, "`description` is empty; tell the model what the tool does"));
    }
    let (schema, validator) = read_schema(&dir.join("schema.json"))?;
    let program = read_program(&path, &file, &schema)?;
    let examples = read_examples(&dir.join("examples"))?;
    let declaration = json!({
        "type": "function",
        "function": {"name": name, "description": file.description, "parameters": schema},
    });
    Ok(Tool {
        declaration: declaration.to_string().into(),
        signature: check::signature(&schema),
        description: file.description,
        state: file.state,
        name,
        schema,
        program,
        examples,
        validator,
    })
}

fn read_schema(path: &Path) -> Result<(Value, Validator), LoadError> {
    let text = read(path, "a tool is a folder with tool.toml and schema.json")?;
    let schema: Value =
        serde_json::from_str(&text).map_err(|error| LoadError::new(path, format!("not JSON: {error}")))?;
    if let Some(other) = schema.get("$schema").filter(|draft| **draft != DRAFT) {
        return Err(LoadError::new(path, format!("`$schema` is {other}; write {DRAFT} or leave it out")));
    }
    // Arguments are an object, and backends build grammars from this very word.
    if schema.get("type").is_none_or(|kind| kind != "object") {
        return Err(LoadError::new(path, "`type` is not \"object\"; write {\"type\": \"object\", \"properties\": …}"));
    }
    let options = jsonschema::draft202012::options().offline().with_pattern_options(PatternOptions::regex());
    match options.build(&schema) {
        Ok(validator) => Ok((schema, validator)),
        Err(error) => Err(LoadError::new(path, format!("no JSON schema: at {}: {error}", place(&error)))),
    }
}

/// Where in the schema an error is, `/` for the schema as a whole.
fn place<'a>(error: &'a jsonschema::ValidationError<'_>) -> &'a str {
    match error.instance_path().as_str() {
        "" => "/",
        path => path,
    }
}

fn read_program(path: &Path, file: &ToolFile, schema: &Value) -> Result<Program, LoadError> {
    match (&file.argument, &file.program) {
        (Some(name), None) => {
            let required = schema["required"].as_array().is_some_and(|names| names.iter().any(|other| other == name));
            if !required || schema["properties"][name]["type"] != "string" {
                let what =
                    format!("`argument` is `{name}`, which is no required string in schema.json; name one that is");
                return Err(LoadError::new(path, what));
            }
            Ok(Program::Argument(name.clone()))
        }
        (None, Some(name)) => {
            if name.contains(['/', '\\']) || name.starts_with('.') {
                let what = format!("`program` is `{name}`; name a file of the tool's own folder, such as program.py");
                return Err(LoadError::new(path, what));
            }
            let text = read(&path.with_file_name(name), "`program` in tool.toml names it")?;
            Ok(Program::File(text.into()))
        }
        (Some(_), Some(_)) => Err(LoadError::new(path, "both `argument` and `program` are set; keep one")),
        (None, None) => {
            let what = "neither `argument` nor `program` is set; write argument = \"<the string argument that is the \
                        program>\" or program = \"program.py\"";
            Err(LoadError::new(path, what))
        }
    }
}

fn read_examples(dir: &Path) -> Result<Vec<Example>, LoadError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut examples = Vec::new();
    for path in entries(dir, "make the folder readable")? {
        if let Some(name) = file_name(&path).strip_suffix(".toml") {
            let example: Example = read_toml(&path, "make the file readable")?;
            examples.push(Example { name: name.to_owned(), ..example });
        }
    }
    Ok(examples)
}

/// What is in a folder, sorted, so that errors and lists come in the same order everywhere.
pub(crate) fn entries(dir: &Path, way_out: &str) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error: std::io::Error| LoadError::new(dir, format!("cannot be read: {error}; {way_out}"));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Reads a TOML file. The parser's message shows the line, names what is wrong in it and lists the known keys.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path, way_out: &str) -> Result<T, LoadError> {
    let text = read(path, way_out)?;
    toml::from_str(&text).map_err(|error| LoadError::new(path, error.to_string().trim_end()))
}

fn read(path: &Path, way_out: &str) -> Result<String, LoadError> {
    std::fs::read_to_string(path).map_err(|error| LoadError::new(path, format!("cannot be read: {error}; {way_out}")))
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::chat::Status;
    use std::fs;

    const CODE_SCHEMA: &str = r#"{"type":"object","properties":{"code":{"type":"string"}},"required":["code"]}"#;
    const WEATHER_SCHEMA: &str = r#"{
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "days": {"type": ["integer", "null"], "maximum": 14},
            "unit": {"enum": ["C", "F"]},
            "tags": {"type": "array", "items": {"type": "string"}}
        },
        "required": ["city"],
        "additionalProperties": false
    }"#;
    const CODE_TOML: &str = "description = 'Runs code'\nstate = 'turn'\nargument = 'code'";
    const WEATHER_TOML: &str = "description = 'Weather'\nstate = 'none'\nprogram = 'program.py'";

    /// `execute_code`, and a second tool that was only dropped in as a folder.
    pub fn tools() -> Tools {
        load(&[
            ("execute_code/tool.toml", CODE_TOML),
            ("execute_code/schema.json", CODE_SCHEMA),
            ("weather/tool.toml", WEATHER_TOML),
            ("weather/schema.json", WEATHER_SCHEMA),
            ("weather/program.py", "arguments['city']\n"),
            ("weather/examples/oslo.toml", "arguments.city = 'Oslo'\nexpect.value = \"'Oslo'\""),
            ("weather/examples/README.md", "not read"),
            ("weather/guest/main.py", "not read"),
            (".hidden/tool.toml", "not read"),
            ("README.md", "not read"),
        ])
        .expect("good tools")
    }

    fn load(files: &[(&str, &str)]) -> Result<Tools, String> {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        let root = format!("{}/", dir.path().display());
        Tools::load(&Settings { dir: dir.path().to_owned() }).map_err(|error| error.to_string().replace(&root, ""))
    }

    fn refused(tool: &str, schema: &str) -> String {
        load(&[("t/tool.toml", tool), ("t/schema.json", schema)]).expect_err("a bad tool")
    }

    #[test]
    fn a_missing_folder_or_file_is_named() {
        let nowhere = Settings { dir: "no/such/dir".into() };
        assert_eq!(
            Tools::load(&nowhere).expect_err("nothing there").to_string(),
            "no/such/dir: cannot be read: No such file or directory (os error 2); \
             set `tools.dir` to the folder that holds the tools"
        );
        for (files, missing) in
            [(&[("t/schema.json", CODE_SCHEMA)][..], "t/tool.toml"), (&[("t/tool.toml", CODE_TOML)], "t/schema.json")]
        {
            assert_eq!(
                load(files).expect_err("a missing file"),
                format!(
                    "{missing}: cannot be read: No such file or directory (os error 2); \
                     a tool is a folder with tool.toml and schema.json"
                )
            );
        }
        assert!(refused(WEATHER_TOML, WEATHER_SCHEMA).starts_with("t/program.py: cannot be read: No such file"));
    }

    #[test]
    fn a_bad_name_is_refused() {
        let told = load(&[("a tool/tool.toml", CODE_TOML)]).expect_err("a bad name");
        assert_eq!(told, "a tool: no name for a tool; name the folder with 1 to 64 letters, digits, `_` and `-`");
    }

    #[test]
    fn a_bad_tool_file_is_refused_with_its_line_and_the_known_keys() {
        let told = refused("description = 'a'\nstat = 'turn'", CODE_SCHEMA);
        assert!(told.starts_with("t/tool.toml: TOML parse error at line 2, column 1"), "{told}");
        assert!(told.ends_with("unknown field `stat`, expected one of `description`, `state`, `argument`, `program`"));
        let told = refused("description = 'a'\nstate = 'day'", CODE_SCHEMA);
        assert!(told.contains("state = 'day'") && told.ends_with("expected `turn` or `none`"), "{told}");

        for (toml, expected) in [
            ("description = ' '\nstate = 'turn'", "`description` is empty; tell the model what the tool does"),
            (
                "description = 'a'\nstate = 'turn'",
                "neither `argument` nor `program` is set; write argument = \"<the string argument that is the \
                 program>\" or program = \"program.py\"",
            ),
            (
                "description = 'a'\nstate = 'turn'\nargument = 'code'\nprogram = 'a.py'",
                "both `argument` and `program` are set; keep one",
            ),
            (
                "description = 'a'\nstate = 'turn'\nargument = 'script'",
                "`argument` is `script`, which is no required string in schema.json; name one that is",
            ),
            (
                "description = 'a'\nstate = 'turn'\nprogram = '../a.py'",
                "`program` is `../a.py`; name a file of the tool's own folder, such as program.py",
            ),
        ] {
            assert_eq!(refused(toml, CODE_SCHEMA), format!("t/tool.toml: {expected}"));
        }
    }

    #[test]
    fn a_bad_schema_is_refused_with_its_place() {
        for (schema, expected) in [
            ("{", "not JSON: EOF while parsing an object at line 1 column 1"),
            ("true", "`type` is not \"object\"; write {\"type\": \"object\", \"properties\": …}"),
            (
                r#"{"$schema": "x"}"#,
                "`$schema` is \"x\"; write https://json-schema.org/draft/2020-12/schema or leave it out",
            ),
        ] {
            assert_eq!(refused(CODE_TOML, schema), format!("t/schema.json: {expected}"));
        }
        for (property, expected) in [
            (r#"{"type": "strin"}"#, "no JSON schema: at /properties/code/type: \"strin\" is not"),
            (r#"{"pattern": "(?=a)"}"#, "no JSON schema: at /"),
            (r#"{"$ref": "https://example.org/a.json"}"#, "no JSON schema: at /"),
            (r#"{"$ref": "file:///etc/passwd"}"#, "no JSON schema: at /"),
        ] {
            let schema = format!(r#"{{"type": "object", "properties": {{"code": {property}}}}}"#);
            let told = refused(CODE_TOML, &schema);
            assert!(told.starts_with(&format!("t/schema.json: {expected}")), "{told}");
        }
    }

    #[test]
    fn a_bad_example_is_refused() {
        let example = ("t/examples/e.toml", "arguments.code = '1'\nexpect.valu = '1'");
        let told = load(&[("t/tool.toml", CODE_TOML), ("t/schema.json", CODE_SCHEMA), example]).expect_err("a bad key");
        assert!(told.starts_with("t/examples/e.toml: TOML parse error at line 2"), "{told}");
        assert!(told.ends_with("unknown field `valu`, expected one of `status`, `value`, `stdout`, `error`"), "{told}");
    }

    #[test]
    fn a_second_tool_is_a_folder_and_nothing_else() {
        let tools = tools();
        assert_eq!(tools.names().collect::<Vec<_>>(), ["execute_code", "weather"]);
        let weather = tools.get("weather").expect("loaded");
        assert_eq!(weather.state, State::None);
        assert_eq!(weather.examples[0].name, "oslo");
        assert_eq!(weather.examples[0].call(weather).arguments, r#"{"city":"Oslo"}"#);
        assert_eq!(weather.examples[0].expect.status, Status::Completed);
    }

    #[test]
    fn a_tool_is_declared_as_a_function_with_its_schema_untouched() {
        let tools = tools();
        let code = tools.get("execute_code").expect("loaded");
        let expected = format!(
            r#"{{"type":"function","function":{{"name":"execute_code","description":"Runs code","parameters":{CODE_SCHEMA}}}}}"#
        );
        assert_eq!(code.declaration(), expected);
        let parameters = serde_json::from_str(CODE_SCHEMA).expect("JSON");
        assert!(code.matches("execute_code", &parameters));
        assert!(!code.matches("run", &parameters) && !code.matches("execute_code", &json!({})));
    }

    #[test]
    fn the_tools_of_the_repository_load_and_their_examples_check() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tools").into();
        let tools = Tools::load(&Settings { dir }).expect("good tools");
        for tool in tools.iter() {
            assert!(!tool.examples.is_empty(), "{} has no example", tool.name);
            for example in &tool.examples {
                let is_valid = tools.check(&example.call(tool)).is_ok();
                assert_eq!(is_valid, example.expect.status != Status::Invalid, "{}: {}", tool.name, example.name);
            }
        }
    }
}
