//! What commands that measure for long have in common: they end when they are told to, show how far they are, and print what
//! they have found before they write files.

use super::{Failed, exec, runtime, told_to_stop};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::fmt::Display;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Does it until the process is told to stop: then what has ended is reported, and who says it again has it at once.
pub(super) fn until_told<T>(work: impl AsyncFnOnce(&CancellationToken) -> Result<T, Failed>) -> Result<T, Failed> {
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let told = told_to_stop()?;
        // The shell's end, such as a connection's that is lost: what was measured until then is still worth something.
        let mut hang_up = signal(SignalKind::hangup())?;
        let stops = async {
            tokio::select! {
                () = told => {}
                _ = hang_up.recv() => {}
            }
            stop.cancel();
            told_to_stop()?.await;
            Err(Failed::Other("stopped".to_owned()))
        };
        tokio::select! {
            done = work(&stop) => done,
            stopped = stops => stopped,
        }
    })
}

/// A bar on stderr, where a person looks at it.
pub(super) fn progress(name: &str, count: usize, things: &str) -> ProgressBar {
    let bar = ProgressBar::new(count as u64).with_prefix(name.to_owned());
    let template = format!("{{prefix}} {{bar:40}} {{pos}}/{{len}} {things}, {{elapsed}} so far, {{eta}} left{{msg}}");
    let style = ProgressStyle::with_template(&template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Prints what was found: as text, or with `--json -` as JSON. Gives what is still to be written where `--json` says.
pub(super) fn print_found<'a>(
    flag: Option<&'a Path>,
    found: &Value,
    text: impl Display,
) -> Option<(&'static str, &'a Path, String)> {
    let stdout = Path::new("-");
    if flag == Some(stdout) {
        exec::print_json(found);
    } else {
        say!("{text}");
    }
    flag.filter(|path| *path != stdout).map(|path| ("--json", path, format!("{found:#}\n")))
}
