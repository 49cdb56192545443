//! The pages say what the code does: where a page lists what the code lists too, both are compared, and examples run.

use crate::gateway::{Setup, question, root, start};
use loopgate::config::{self, KEYS, Origin, Resolved, Sources};
use std::fs;
use std::path::Path;

#[test]
fn the_page_lists_every_setting_as_it_is() {
    let page = page("docs/configuration.md");
    for key in KEYS {
        let default = key.default_text();
        let default = if default.is_empty() { "(none)".to_owned() } else { format!("`{default}`") };
        let row = format!("| `{}` | `{}` | `--{}` | {default} | {} |", key.name, key.env, key.flag, key.help);
        assert!(page.lines().any(|line| line == row), "docs/configuration.md lacks the row\n{row}");
    }
    assert_eq!(page.matches("| `LOOPGATE_").count(), KEYS.len(), "docs/configuration.md has rows for no key");
}

#[test]
fn the_example_file_changes_nothing_as_it_is_and_shows_every_default() {
    let text = page("docs/loopgate.example.toml");
    let as_it_is = resolve(&text);
    assert!(KEYS.iter().all(|key| as_it_is.origin(key.name) == Origin::Default));

    let uncommented: Vec<_> = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
    // What is left with a blank in front was prose.
    let settings: Vec<_> = uncommented.into_iter().filter(|line| !line.starts_with(' ')).collect();
    let everything = resolve(&settings.join("\n"));
    for key in KEYS {
        assert!(matches!(everything.origin(key.name), Origin::File(_)), "the example lacks {}", key.name);
        let default = key.default_text();
        assert!(default.is_empty() || (key.show)(&everything) == default, "the example has another {}", key.name);
    }
    assert_eq!(everything.access.callers().len(), 1);
}

#[test]
fn every_piece_of_configuration_on_the_pages_is_taken() {
    for name in ["README.md", "docs/configuration.md"] {
        let page = page(name);
        let blocks: Vec<_> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```")).collect();
        assert!(!blocks.is_empty(), "{name} shows no configuration");
        for (block, _) in blocks {
            resolve(block);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_s_tool_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = page("docs/tools.md");
    let mut policy = None;
    for (path, text) in files(&page) {
        if path == "policies/default.toml" {
            policy = Some(text);
            continue;
        }
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let tools = folder.path().join("tools");
    std::os::unix::fs::symlink(root().join("tools/execute_code"), tools.join("execute_code")).expect("a link");
    let gateway = Setup::default().flag("tools-dir", tools.display()).policy(policy.expect("a policy")).start().await;
    let ask = r#"Use the tool convert_temperature with {"degrees": 100, "to": "F"}"#;
    let answer = gateway.ask(&question(ask, false)).await;
    assert!(answer.text().contains("212.0"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_lists_what_the_scripted_model_knows() {
    let page = page("docs/mock.md");
    let answer = start().await.ask(&question("Flurb?", false)).await.text();
    let examples: Vec<_> = answer.lines().filter(|line| line.starts_with("- ")).collect();
    assert!(examples.len() > 5, "{answer}");
    for example in examples {
        assert!(page.lines().any(|line| line == example), "docs/mock.md lacks the line\n{example}");
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut pages = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).expect("docs") {
        pages.push(format!("docs/{}", entry.expect("an entry").file_name().display()));
    }
    for name in pages.iter().filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "md")) {
        let folder = root().join(name).parent().expect("a folder").to_owned();
        for (target, _) in page(name).split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://");
            assert!(elsewhere || folder.join(path).exists(), "{name} links to {target}");
        }
    }
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn resolve(text: &str) -> Resolved {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("loopgate.toml");
    fs::write(&file, text).expect("a file");
    let sources = Sources { file: Some(file), ..Sources::default() };
    config::resolve(&sources).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The files that a page shows: a line `**path**`, then a block.
fn files(page: &str) -> Vec<(&str, &str)> {
    let shown = page.split("\n**").skip(1).filter_map(|rest| {
        let (path, rest) = rest.split_once("**\n```")?;
        let (_, block) = rest.split_once('\n')?;
        Some((path, block.split_once("```")?.0))
    });
    shown.collect()
}
