//! Who may not come in stays out, whatever becomes of the configuration, and leaves no trace but the gateway's own.

use crate::cli::{Place, Serving};
use crate::gateway::{question, send};
use crate::wires::NEVER;
use http::Method;
use loopgate::access::KeyHash;
use std::fs;
use std::time::Instant;

const KEY: &str = "lg-a-key-of-a-callers";
const OTHERS_REACH_IT: &str = "[server]\nlisten = '0.0.0.0:0'\n";

#[tokio::test(flavor = "multi_thread")]
async fn no_reload_lets_anybody_in_without_a_key() {
    let caller = format!("[[callers]]\nname = 'a'\nkey_sha256 = '{}'\n", KeyHash::of(KEY).hex());
    let callers = format!("{OTHERS_REACH_IT}{caller}");
    let place = Place::new().file("loopgate.toml", &callers);
    let gateway = Serving::start(&mut place.command(&["serve"]), false);
    let file = place.path("loopgate.toml");
    let models = async |headers: &[(&str, &str)]| send(&gateway.url(), Method::GET, "/v1/models", headers, "").await;
    models(&[]).await.refused(401);

    for (text, told) in [
        (None, "the configuration file is gone"),
        (Some(""), "no caller has a key"),
        (Some("callers = []"), "no caller has a key"),
        (Some("[server]\nlisten = '127.0.0.1:0'\n"), "no caller has a key"),
        (Some("[server]\nlisten = '0.0.0.0:0'\nallow_anonymous = true\n"), "no caller has a key"),
    ] {
        match text {
            None => fs::rename(&file, place.path("gone.toml")).expect("a file"),
            Some(text) => fs::write(&file, text).expect("a file"),
        }
        let line = gateway.until_said("nothing is reloaded");
        assert!(line.contains(told), "{text:?}: {line}");
        models(&[]).await.refused(401);
    }
    fs::write(&file, format!("{callers}concurrent_max = 7\n")).expect("a file");
    gateway.until_said("reloaded: ");
    models(&[]).await.refused(401);
    let known = models(&[("authorization", &format!("Bearer {KEY}"))]).await;
    assert_ne!(known.status, 401, "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_came_with_a_reload_do_not_go_with_one() {
    let place = Place::new().file("loopgate.toml", "[server]\nlisten = '127.0.0.1:0'\n");
    let gateway = Serving::start(&mut place.command(&["serve"]), false);
    let caller = format!("[[callers]]\nname = 'a'\nkey_sha256 = '{}'\n", KeyHash::of(KEY).hex());
    fs::write(place.path("loopgate.toml"), caller).expect("a file");
    gateway.until_said("reloaded: ");
    // Behind a proxy, everybody comes from this machine.
    fs::write(place.path("loopgate.toml"), "").expect("a file");
    gateway.until_said("nothing is reloaded");
    send(&gateway.url(), Method::GET, "/v1/models", &[], "").await.refused(401);
}

#[test]
fn an_address_that_others_reach_is_held_against_the_file_until_it_is_given_up() {
    let place = Place::new().file("loopgate.toml", format!("{OTHERS_REACH_IT}allow_anonymous = true\n"));
    let gateway = Serving::start(&mut place.command(&["serve"]), false);
    fs::write(place.path("loopgate.toml"), "[server]\nlisten = '127.0.0.1:0'\n").expect("a file");
    let line = gateway.until_said("nothing is reloaded");
    assert!(line.contains("0.0.0.0:0 until it is restarted"), "{line}");
}

#[test]
fn a_configuration_file_that_leads_nowhere_is_no_configuration_without_callers() {
    let place = Place::new();
    std::os::unix::fs::symlink("nowhere", place.path("loopgate.toml")).expect("a link");
    place.run(&["check"]).assert_refused(&["loopgate.toml: cannot be read"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_operators_pages_are_for_this_machines_own_names() {
    let place = Place::new();
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let gateway = Serving::start(&mut place.command(&args), false);
    let line = gateway.until_said("backends can be seen");
    let (_, url) = line.split_once("changed on ").expect("a URL");
    let url = url.trim_end().strip_suffix("/admin/backends").unwrap_or(url);
    let list = async |host: &str| send(url, Method::GET, "/admin/backends", &[("host", host)], "").await;
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8081", "[::1]:8081", "10.0.0.7"] {
        assert_eq!(list(host).await.status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
        assert_eq!(list(host).await.status, 403, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_writes_makes_no_line_of_its_own_in_the_log() {
    let place = Place::new();
    let mock = Serving::start(&mut place.command(&["mock", "--listen", "127.0.0.1:0"]), true);
    let args = ["serve", "--listen", "127.0.0.1:0", "--backend", &mock.url()];
    let gateway = Serving::start(&mut place.command(&args), false);
    let begun = Instant::now();
    while !gateway.get("/v1/models").contains("qwen3-coder") {
        assert!(begun.elapsed() < NEVER, "its backend is never seen");
    }
    let mut body = question("Hello", false);
    body["model"] = "a\nforged \u{1b}[31mred".into();
    let error = gateway.ask(&body).await.refused(404);
    assert!(!error["message"].as_str().expect("text").contains(char::is_control), "{error}");
    let line = gateway.until_said("forged");
    assert!(line.contains("request refused") && !line.contains('\u{1b}'), "{line:?}");

    // Whatever else of a request a message repeats.
    body = question("Hello", false);
    body["\nmade up"] = "\n".into();
    let text = body.to_string();
    let twice = format!("{},\"\\nmade up\":1}}", &text[..text.len() - 1]);
    assert_eq!(send(&gateway.url(), Method::POST, "/v1/chat/completions", &[], twice).await.status, 400);
    let line = gateway.until_said("made up");
    assert!(line.contains("request refused"), "{line:?}");
}
