//! Backends that are killed under load, for some seconds. `make chaos` does it for minutes, with processes, and with
//! backends that are bad in other ways.

use crate::gateway::{Gateway, Setup, four_ways, question, until};
use crate::wires::Port;
use futures_util::future::join_all;
use loopgate::mock::{self, Outcome, Running};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

/// Kills, of two backends by turns. Chosen: each takes about a second, until the gateway has seen that the victim is back.
const KILLS: usize = 4;
const CLIENTS: usize = 6;

/// An answer that takes a while, in every form, and turns with hidden executions whose answers do.
fn questions() -> Vec<Value> {
    let program = "```python\nfor number in range(60):\n    print('line', number)\n```";
    let mut questions = four_ways("Count aloud from 1 to 150");
    questions.extend([question(program, true), question(program, false), question("What is 6 * 7?", true)]);
    questions
}

async fn start(port: &Port) -> Running {
    port.backend(mock::Settings { pace: Duration::from_millis(1), ..mock::Settings::default() }).await
}

async fn is_up(gateway: &Gateway, backend: &Running) -> bool {
    let name = backend.addr().to_string();
    crate::operators::list(gateway).await.iter().any(|seen| seen["name"] == name && seen["state"] == "up")
}

async fn is_at_work(backend: &Running) {
    backend.wait_until(|log| log.asked().any(|request| request.outcome == Outcome::Open)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_killed_one_after_the_other_and_no_client_notices() {
    let mut victims = VecDeque::new();
    for port in [Port::new(), Port::new()] {
        victims.push_back((start(&port).await, port));
    }
    let settings = mock::Settings { pace: Duration::from_millis(1), ..mock::Settings::default() };
    let setup =
        Setup::default().backend(settings).flag("admin-key", crate::operators::KEY).flag("balance", "round-robin");
    let gateway = setup.other_backend(victims[0].0.url()).other_backend(victims[1].0.url()).start().await;
    for (victim, _) in &victims {
        until("all are up", async || is_up(&gateway, victim).await).await;
    }
    let questions = questions();
    let wanted = join_all(questions.iter().map(async |body| gateway.ask(body).await.text())).await;
    assert!(wanted.iter().all(|text| !text.is_empty()), "{wanted:?}");

    let (numbers, over) = (Cell::new(0), Cell::new(false));
    let load = join_all((0..CLIENTS).map(async |_| {
        while !over.get() {
            let number = numbers.replace(numbers.get() + 1);
            let mut body = questions[number % questions.len()].clone();
            // Nobody has sent the same before: a re-send would join its turn.
            body["seed"] = json!(number);
            let answer = gateway.ask(&body).await;
            assert_eq!((answer.status, answer.text()), (200, wanted[number % questions.len()].clone()), "{body}");
        }
    }));
    let killing = async {
        for _ in 0..KILLS {
            let (victim, port) = victims.pop_front().expect("a backend");
            is_at_work(&victim).await;
            victim.stop().await;
            let back = start(&port).await;
            until("it is back", async || is_up(&gateway, &back).await).await;
            victims.push_back((back, port));
        }
        over.set(true);
    };
    tokio::join!(load, killing);
    let metrics = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    let continued = metrics.lines().find_map(|line| line.strip_prefix("loopgate_answers_continued_total "));
    assert_ne!(continued, Some("0"), "no kill met an answer in its middle");
}
