//! `loopgate health`: is a gateway up. For images that have nothing else to ask with.
//!
//! It needs the address alone: a mistake in a configuration that is not in force yet makes nobody unhealthy.

use super::{Failed, runtime};
use crate::client::{Patience, Target};
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// Chosen: the page is answered at once, or something is wrong.
const PATIENCE: Patience = Patience::of(Duration::from_secs(2));
/// What sets a gateway's address, too.
const LISTEN_VARIABLE: &str = "LOOPGATE_LISTEN";
/// Where a gateway listens if nobody says otherwise.
const LISTEN: &str = "127.0.0.1:8080";

#[derive(Args)]
pub(super) struct Flags {
    /// Ask also whether a backend is up: /readiness and not /liveness
    #[arg(long)]
    ready: bool,
    /// Where it listens [default: `LOOPGATE_LISTEN`, else 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let listen = reached(flags.listen.map_or_else(of_environment, Ok)?);
    let path = if flags.ready { "/readiness" } else { "/liveness" };
    let target = Target::new(&format!("http://{listen}"), None, PATIENCE).map_err(Failed::Other)?;
    let said = runtime()?.block_on(target.get(path));
    let said = said.map_err(|failure| Failed::Other(format!("http://{listen}{path}: {failure}")))?;
    say!("{said}");
    Ok(ExitCode::SUCCESS)
}

fn of_environment() -> Result<SocketAddr, Failed> {
    let text = std::env::var(LISTEN_VARIABLE).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| LISTEN.to_owned());
    let wrong = |_| Failed::Other(format!("{LISTEN_VARIABLE}: `{text}` is not an address; write ip:port"));
    text.parse().map_err(wrong)
}

/// An address that stands for all of the machine's is reached at its own.
fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
