//! How the pool changes while requests run: by a reload, by DNS, and by operators.

use super::Settings;
use super::backend::{Backend, Details, Origin};
use super::balance::BackendId;
use super::client::Target;
use super::dns;
use super::lines::Place;
use super::pool::{Pool, Snapshot, balance_of};
use super::server::{Address, Server};
use super::watch::Watch;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio_util::task::AbortOnDropHandle;

/// Whoever changes the pool holds this, so that changes come one after the other.
#[derive(Default)]
pub(super) struct Work {
    next_id: u32,
    watches: BTreeMap<BackendId, AbortOnDropHandle<()>>,
    names: BTreeMap<Address, Name>,
}

/// A name behind which backends are found.
struct Name {
    server: Server,
    origin: Origin,
    _looked_up: AbortOnDropHandle<()>,
}

/// Why the pool is not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It is there.
    #[error("the backend `{0}` is in the pool already; remove it first")]
    There(String),
    /// It is not there.
    #[error("there is no backend `{0}`; GET /admin/backends lists them")]
    NotThere(String),
}

impl Pool {
    fn work(&self) -> MutexGuard<'_, Work> {
        // A change that panicked has not replaced the snapshot.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes other settings. Servers that the old and the new ones list stay as they are, also if an operator has
    /// removed them; those that an operator has added stay. What hangs on `connect_ms` and `tls_ca` needs a
    /// restart.
    ///
    /// # Errors
    /// When the balance policy is unknown; then nothing is changed.
    pub fn reload(&self, settings: &Settings) -> Result<(), String> {
        let mut work = self.work();
        let old = self.snapshot();
        let same_balance = old.settings.balance == settings.balance;
        let (policy, balance) = if same_balance { (old.policy, old.balance.clone()) } else { balance_of(settings)? };
        let mut next =
            Snapshot { settings: Arc::new(settings.clone()), policy, balance, backends: Vec::new(), began: old.began };

        let mut had: BTreeSet<_> = work.names.keys().cloned().collect();
        had.extend(old.backends.iter().map(|backend| backend.details().server.address.clone()));
        let listed = |address: &Address| settings.servers.iter().find(|server| server.address == *address);
        work.names.retain(|address, name| name.origin == Origin::Added || listed(address) == Some(&name.server));
        next.backends.clone_from(&old.backends);
        next.backends.retain(|backend| match &backend.origin {
            Origin::Added => true,
            Origin::Found(name) => work.names.contains_key(name) || listed(name).is_some(),
            Origin::Listed => listed(&backend.details().server.address).is_some(),
        });
        for server in &settings.servers {
            let was_listed = old.settings.servers.iter().any(|it| it.address == server.address);
            let is_removed = was_listed && !had.contains(&server.address);
            if !is_removed {
                self.take(&mut work, &mut next, server, &Origin::Listed);
            }
        }
        self.replace(&mut work, next);
        Ok(())
    }

    /// Brings a server into the next snapshot, or what is new about it.
    fn take(&self, work: &mut Work, next: &mut Snapshot, server: &Server, origin: &Origin) {
        let is_here = |backend: &&Arc<Backend>| match &backend.origin {
            Origin::Found(name) => *name == server.address,
            Origin::Listed | Origin::Added => backend.details().server.address == server.address,
        };
        let here: Vec<_> = next.backends.iter().filter(is_here).cloned().collect();
        for backend in &here {
            backend.change(details(server, &backend.name, &next.settings));
        }
        if let Some(name) = server.address.to_look_up() {
            if !work.names.contains_key(&server.address) {
                let follow = dns::follow(self.itself.clone(), server.clone(), name);
                let name = Name {
                    server: server.clone(),
                    origin: origin.clone(),
                    _looked_up: AbortOnDropHandle::new(tokio::spawn(follow)),
                };
                work.names.insert(server.address.clone(), name);
            }
        } else if !next.backends.iter().any(|backend| backend.name == server.address.name()) {
            self.make(work, next, server, server.address.name(), origin.clone());
        }
    }

    fn make(&self, work: &mut Work, next: &mut Snapshot, server: &Server, name: &str, origin: Origin) {
        let id = BackendId(work.next_id);
        work.next_id += 1;
        let details = details(server, name, &next.settings);
        let backend = Arc::new(Backend::new(id, name.to_owned(), origin, details));
        let about = Watch {
            client: self.client.clone(),
            backend: backend.clone(),
            snapshots: self.snapshot.subscribe(),
            gate: self.gate.clone(),
            queue: self.queue.clone(),
        };
        work.watches.insert(id, AbortOnDropHandle::new(tokio::spawn(about.run())));
        next.backends.push(backend);
    }

    /// From now on the pool is this one.
    fn replace(&self, work: &mut Work, next: Snapshot) {
        work.watches.retain(|id, _| next.backends.iter().any(|backend| backend.id == *id));
        let old = self.snapshot.send_replace(Arc::new(next));
        let now = self.snapshot();
        for backend in &old.backends {
            if !now.backends.iter().any(|it| it.id == backend.id) {
                tracing::info!(backend = backend.name, "backend is removed; its running requests may finish");
                now.balance.restarted(backend.id);
                self.gate.gone(backend.id);
            }
        }
        // Somebody may be waiting for a backend that has just come.
        self.queue.changed();
    }

    /// What DNS knows of a name: its backends come and go by that.
    pub(super) fn found(&self, server: &Server, found: &BTreeSet<SocketAddr>) {
        let mut work = self.work();
        let old = self.snapshot();
        if work.names.get(&server.address).is_none_or(|name| name.server != *server) {
            return;
        }
        let origin = Origin::Found(server.address.clone());
        let wanted: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
        let gone = |backend: &Arc<Backend>| backend.origin == origin && !wanted.contains(&backend.name);
        let is_there = |name: &String| old.backends.iter().any(|backend| backend.name == *name);
        if !old.backends.iter().any(gone) && wanted.iter().all(is_there) {
            return;
        }
        let mut next = old.as_is();
        next.backends.retain(|backend| !gone(backend));
        for name in wanted.iter().filter(|name| !is_there(name)) {
            tracing::info!(backend = name, name = server.address.name(), "backend is found");
            self.make(&mut work, &mut next, server, name, origin.clone());
        }
        self.replace(&mut work, next);
    }

    /// Adds a server, or the servers behind a name, until it is removed or the gateway stops.
    ///
    /// # Errors
    /// When it is there.
    pub fn add(&self, server: &Server) -> Result<(), ChangeError> {
        let mut work = self.work();
        let mut next = self.snapshot().as_is();
        let name = server.address.name();
        if work.names.contains_key(&server.address) || next.backends.iter().any(|backend| backend.name == name) {
            return Err(ChangeError::There(name.to_owned()));
        }
        tracing::info!(backend = name, "backend is added");
        self.take(&mut work, &mut next, server, &Origin::Added);
        self.replace(&mut work, next);
        Ok(())
    }

    /// Removes a backend, or a name and all backends behind it. Running requests finish.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<(), ChangeError> {
        let mut work = self.work();
        let mut next = self.snapshot().as_is();
        let before = (next.backends.len(), work.names.len());
        work.names.retain(|address, _| address.name() != name);
        let found_by_it = |backend: &Backend| matches!(&backend.origin, Origin::Found(by) if by.name() == name);
        next.backends.retain(|backend| backend.name != name && !found_by_it(backend));
        if (next.backends.len(), work.names.len()) == before {
            return Err(ChangeError::NotThere(name.to_owned()));
        }
        self.replace(&mut work, next);
        Ok(())
    }

    /// A backend that drains gets no new turns; those that it has begun go on. Or takes that back.
    ///
    /// # Errors
    /// When it is not there.
    pub fn drain(&self, name: &str, draining: bool) -> Result<(), ChangeError> {
        let snapshot = self.snapshot();
        let backend = snapshot.backends.iter().find(|backend| backend.name == name);
        let backend = backend.ok_or_else(|| ChangeError::NotThere(name.to_owned()))?;
        tracing::info!(backend = name, draining, "backend is told to drain, or not to");
        backend.drain(draining);
        self.queue.changed();
        Ok(())
    }
}

impl Snapshot {
    /// The same, to be changed.
    fn as_is(&self) -> Self {
        let (settings, balance) = (self.settings.clone(), self.balance.clone());
        Self { settings, policy: self.policy, balance, backends: self.backends.clone(), began: self.began }
    }
}

fn details(server: &Server, name: &str, settings: &Settings) -> Details {
    let key = server.api_key.as_ref().or(settings.api_key.as_ref());
    // A server that was found has an address of its own, and shows the certificate of its name.
    let host = if name == server.address.name() { server.address.host_header() } else { name };
    let place = Place { to: name.to_owned(), certified: server.address.certified() };
    Details { server: server.clone(), target: Arc::new(Target::new(host, place, key)) }
}
