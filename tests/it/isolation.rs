//! Programs in processes of their own, which have nothing and reach nothing, and whose end is nobody else's.

use crate::cli::{Place, Serving};
use crate::gateway::{question, until};
use loopgate::mock;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// The built binary in front of a scripted backend, for which `file` is all of its policies' limits.
async fn serve(limits: &str) -> (mock::Running, Place, Serving) {
    let backend = mock::start(mock::Settings::default()).await.expect("a backend");
    let policy = format!("callers = ['*']\n{limits}\n[[grants]]\ntools = ['execute_code']\nwhy = 'the tests run it'\n");
    let place = Place::with_policy(&policy);
    let serving =
        Serving::start(&mut place.command(&["serve", "--listen", "127.0.0.1:0", "--backend", &backend.url()]), false);
    (backend, place, serving)
}

/// The processes that another one has started.
pub fn children(pid: u32) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children: String = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn status(pid: Pid, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_behind_a_second_wall() {
    let (_backend, _place, serving) = serve("").await;
    // Those that are just starting have their walls to come.
    until("ready workers", async || children(serving.pid()).len() >= 2).await;
    for worker in children(serving.pid()) {
        until("a filter", async || status(worker, "Seccomp").as_deref() == Some("2")).await;
        assert_eq!(status(worker, "NoNewPrivs").as_deref(), Some("1"));
        assert_eq!(status(worker, "CapEff").as_deref(), Some("0000000000000000"));
        // Root alone may look.
        for descriptor in fs::read_dir(format!("/proc/{}/fd", worker.as_raw_pid())).into_iter().flatten().flatten() {
            let leads_to = fs::read_link(descriptor.path()).unwrap_or_default().display().to_string();
            let known =
                ["socket:", "anon_inode:[event", "/dev/null", "/proc/"].iter().any(|it| leads_to.starts_with(it));
            assert!(known || leads_to.contains("/python-"), "a descriptor of {leads_to}");
        }
        let limits = fs::read_to_string(format!("/proc/{}/limits", worker.as_raw_pid())).expect("limits");
        // Descriptor 0 is taken.
        for (name, most) in
            [("Max open files", "1"), ("Max processes", "0"), ("Max file size", "0"), ("Max core file size", "0")]
        {
            let limit = limits.lines().find(|line| line.starts_with(name)).expect("a limit");
            assert_eq!(limit[name.len()..].split_whitespace().take(2).collect::<Vec<_>>(), [most, most], "{limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_fails_its_own_call_and_no_other() {
    let (_backend, _place, serving) = serve("limits.wall_ms = 600000").await;
    let endless = question("Loop forever", false);
    let ask = serving.ask(&endless);
    let mut killed = Vec::new();
    // The others must not be hit: a call that finds no worker is not what this is about.
    let kill = until("a busy worker", async || {
        killed.extend(children(serving.pid()).into_iter().filter(|worker| is_idle_class(*worker)));
        for worker in &killed {
            kill_process(*worker, Signal::KILL).expect("a worker");
        }
        !killed.is_empty()
    });
    let (answer, ()) = tokio::join!(ask, kill);
    let executed = &answer.json()["choices"][0]["message"]["executed_tools"][0];
    assert_eq!(executed["status"], "error", "{executed}");
    assert!(executed["error"].as_str().is_some_and(|it| it.contains("process broke down")), "{executed}");
    // The kernel takes its time to end a process. What it has ended while it waited is nobody's trouble.
    until("the end of the killed", async || {
        killed.iter().all(|worker| status(*worker, "State").is_none_or(|state| state.starts_with('Z')))
    })
    .await;
    assert_eq!(serving.ask(&question("What is 12 * 34?", false)).await.text(), "The result is 408.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_leaves_no_workers() {
    let (_backend, _place, mut serving) = serve("limits.wall_ms = 600000").await;
    until("ready workers", async || children(serving.pid()).len() >= 2).await;
    let endless = question("Loop forever", false);
    let busy = || children(serving.pid()).into_iter().any(is_idle_class);
    tokio::select! {
        answer = serving.ask(&endless) => panic!("it ended: {answer:?}"),
        () = until("a busy worker", async || busy()) => {}
    }
    let workers = children(serving.pid());
    serving.kill();
    until("all gone", async || workers.iter().all(|worker| status(*worker, "Name").is_none())).await;
}

#[test]
fn both_kinds_of_isolation_run_the_same() {
    let program = "import sys\nprint('a')\nprint('b', file=sys.stderr)\nx = 20\nx + 1";
    let [process, thread] =
        ["process", "thread"].map(|isolation| Place::new().exec(program, &["--isolation", isolation]));
    assert_eq!((process.code, &process.out, &process.err), (thread.code, &thread.out, &thread.err));
    assert!(process.code == Some(0) && process.out.contains("21"), "{process:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_is_ended_by_its_gateway() {
    let (_backend, _place, serving) = serve("limits.wall_ms = 1000").await;
    until("ready workers", async || children(serving.pid()).len() >= 2).await;
    for worker in children(serving.pid()) {
        kill_process(worker, Signal::STOP).expect("a worker");
    }
    let answer = serving.ask(&question("What is 12 * 34?", false)).await.json();
    let executed = &answer["choices"][0]["message"]["executed_tools"][0];
    assert_eq!(executed["status"], "timeout", "{executed}");
    // The worker itself would have ended it after one second.
    assert!(executed["duration_ms"].as_f64().is_some_and(|it| it >= 6000.0), "{executed}");
}

/// Tokio ends a thread that has had no work for ten seconds. The worker that it has started goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_the_thread_that_started_its_worker() {
    let (_backend, _place, serving) = serve("").await;
    let sleeper = question("Sleep for 12 seconds", false);
    // The third one's worker is not one of those that were started with the gateway.
    let (first, second, third) = tokio::join!(serving.ask(&sleeper), serving.ask(&sleeper), serving.ask(&sleeper));
    for answer in [first, second, third] {
        let executed = &answer.json()["choices"][0]["message"]["executed_tools"][0];
        assert_eq!(executed["status"], "completed", "{executed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_run_gives_way_and_ends_with_its_client() {
    let (_backend, _place, serving) = serve("limits.wall_ms = 600000").await;
    let endless = question("Loop forever", false);
    let idle = || children(serving.pid()).into_iter().find(|worker| is_idle_class(*worker));
    tokio::select! {
        answer = serving.ask(&endless) => panic!("it ended: {answer:?}"),
        () = until("a worker that gives way", async || idle().is_some()) => {}
    }
    // The client has left.
    until("its end", async || idle().is_none()).await;
}

/// Whether the kernel runs the thread that guests run on only when nobody else wants to run: `SCHED_IDLE`.
fn is_idle_class(pid: Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    // The third field comes after the name, which may hold anything; the policy is the 41st.
    let is_idle = |stat: &str| {
        stat.rsplit_once(") ")
            .is_some_and(|(name, fields)| name.ends_with("(sandbox") && fields.split(' ').nth(38) == Some("5"))
    };
    stats.into_iter().any(|stat| is_idle(&stat))
}
