//! `loopgate health`: is a gateway of this configuration up. For images that have nothing else to ask with.

use super::{ConfigFlags, Failed, runtime};
use crate::bench::serve::Target;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// Chosen: the page is answered at once, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Flags {
    /// Ask also whether a backend is up: /readiness and not /liveness
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let listen = reached(flags.config.resolve()?.server.listen);
    let path = if flags.ready { "/readiness" } else { "/liveness" };
    let target = Target::new(&format!("http://{listen}"), None, PATIENCE, PATIENCE).map_err(Failed::Usage)?;
    let said = runtime()?.block_on(target.get(path));
    let said = said.map_err(|failure| Failed::Other(format!("http://{listen}{path}: {failure}")))?;
    say!("{said}");
    Ok(ExitCode::SUCCESS)
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
