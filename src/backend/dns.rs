//! Names behind which servers are found: looked up again and again, as a headless service's pods come and go.

use super::pool::Pool;
use super::server::Server;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

/// How long one look-up may take.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are taken. Chosen.
const ADDRESSES_MAX: usize = 256;

/// Keeps the pool's backends behind `server`'s name as DNS has them, for as long as there is a pool. While DNS fails,
/// what is known stays.
pub(super) async fn follow(pool: Weak<Pool>, server: Server, name: String) {
    let mut failing = false;
    loop {
        let found = look_up(&name).await;
        let Some(pool) = pool.upgrade() else { return };
        match found {
            Ok(found) => {
                if std::mem::replace(&mut failing, false) {
                    tracing::info!(name, "the name can be looked up again");
                }
                pool.found(&server, &found);
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(name, error, "the name cannot be looked up; the backends known so far are kept");
            }
            Err(_) => {}
        }
        let every = Duration::from_millis(pool.snapshot().settings.dns_ms);
        drop(pool);
        sleep(every).await;
    }
}

async fn look_up(name: &str) -> Result<BTreeSet<SocketAddr>, String> {
    let found = timeout(LOOK_UP_TIMEOUT, lookup_host(name)).await;
    let found = found.map_err(|_| format!("no answer for {LOOK_UP_TIMEOUT:?}"))?.map_err(|error| error.to_string())?;
    let found: BTreeSet<_> = found.take(ADDRESSES_MAX).collect();
    if found.is_empty() { Err("it has no addresses".to_owned()) } else { Ok(found) }
}
