//! This program with another command, as a process of its own.

use super::Broken;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// This program, also when its file was replaced.
const PROGRAM: &str = "/proc/self/exe";
/// Until it says where it listens. Chosen: a gateway compiles its guest the first time, which takes a minute on two cores.
const START_MAX: Duration = Duration::from_mins(5);
/// Lines before that which are kept, for whoever asks why it does not start. Chosen.
const LINES_MAX: usize = 100;
/// What the environment says of every gateway starts with this…
const OURS: &str = "LOOPGATE_";
/// …and only where things lie is for those here, too.
const KEPT: [&str; 4] = ["LOOPGATE_TOOLS_DIR", "LOOPGATE_POLICY_DIR", "LOOPGATE_GUEST", "LOOPGATE_CACHE_DIR"];

/// A process, killed when this is dropped.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// What it says later must not fill the pipe.
    listener: Option<AbortOnDropHandle<()>>,
}

impl Process {
    /// Starts it, and waits until it says where it listens. On the main thread: when the thread ends that has started it, it is
    /// killed.
    pub async fn start(name: &'static str, flags: Vec<String>) -> Result<Self, Broken> {
        let wrong = |error: io::Error| Broken::Start(name, error.to_string());
        let (child, said) = spawn(name, flags).map_err(wrong)?;
        let mut process = Self { child, address: String::new(), listener: None };
        let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(said.into()).map_err(wrong)?).lines();
        let mut before = Vec::new();
        let announced = async {
            while let Some(line) = lines.next_line().await.ok().flatten() {
                let address = line.split_once(" on http://").and_then(|(_, rest)| rest.split_whitespace().next());
                if let Some(address) = address {
                    return Some(address.to_owned());
                }
                if before.len() < LINES_MAX {
                    before.push(line);
                }
            }
            None
        };
        let announced = timeout(START_MAX, announced).await;
        let late = announced.is_err();
        let Some(address) = announced.ok().flatten() else {
            if late {
                before.push(format!("it has not said where it listens for {} s", START_MAX.as_secs()));
            }
            return Err(Broken::Start(name, before.join("\n")));
        };
        process.address = address;
        process.listener = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = tokio::io::copy(&mut lines.into_inner(), &mut tokio::io::sink()).await;
        })));
        Ok(process)
    }
}

/// The process, and everything that it says.
fn spawn(name: &str, flags: Vec<String>) -> io::Result<(Child, io::PipeReader)> {
    let (said, says) = io::pipe()?;
    let mut command = Command::new(PROGRAM);
    command.args([name, "--listen", "127.0.0.1:0"]).args(flags);
    // Ctrl-C is the bench's: what it measures must not end before its report.
    command.process_group(0).stdin(Stdio::null()).stdout(says.try_clone()?).stderr(says);
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|it| it.starts_with(OURS) && !KEPT.contains(&it)) {
            command.env_remove(variable);
        }
    }
    die_with_us(&mut command);
    // The command has the other end of the pipe, and goes here: so the end of the process is the end of what it says.
    Ok((command.spawn()?, said))
}

#[expect(unsafe_code, reason = "what is done between fork and exec cannot be seen by the compiler")]
fn die_with_us(command: &mut Command) {
    // SAFETY: one system call, which takes no lock and no memory.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
