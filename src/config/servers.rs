//! `[[backends]]`: servers with details, beside or instead of the plain list in `backend.urls`.

use super::{BACKENDS, ConfigError, Origin, Resolved};
use crate::backend::{Server, URL, WrittenServer, WrongMember};
use std::collections::BTreeMap;

/// Brings the servers with details into the list. One that `backend.urls` has too is that one. A list that was given by a
/// flag or a variable is all there is: then the file only says more of what is on it. A server whose URL is wrong is left out,
/// as long as another is left.
pub fn merge(
    resolved: &mut Resolved,
    listed: Vec<WrittenServer>,
    env: &BTreeMap<String, String>,
    origin: &Origin,
) -> Result<(), ConfigError> {
    if listed.is_empty() {
        return Ok(());
    }
    let urls = resolved.origin("backend.urls");
    if urls == Origin::Default {
        resolved.backend.servers.clear();
    }
    let is_closed = matches!(urls, Origin::Flag(_) | Origin::Env(_));
    let mut seen: Vec<String> = Vec::new();
    let mut left_out = Vec::new();
    for (at, written) in listed.into_iter().enumerate() {
        let refuse = |(key, why): WrongMember| ConfigError::Value {
            place: origin.place(&format!("{BACKENDS}[{at}].{key}")),
            why,
        };
        let server = match written.read(|name| env.get(name).cloned()) {
            Ok(server) if seen.iter().any(|name| name == server.address.name()) => {
                left_out.push(refuse((URL, format!("`{}` is listed twice; keep one", server.address))));
                continue;
            }
            Ok(server) => server,
            Err(wrong) if wrong.0 == URL => {
                left_out.push(refuse(wrong));
                continue;
            }
            Err(wrong) => return Err(refuse(wrong)),
        };
        seen.push(server.address.name().to_owned());
        let servers = &mut resolved.backend.servers;
        match servers.iter_mut().find(|it| it.address.name() == server.address.name()) {
            Some(known) => *known = server,
            None if is_closed => {}
            None => servers.push(server),
        }
    }
    if resolved.backend.servers.is_empty() {
        return left_out.into_iter().next().map_or(Ok(()), Err);
    }
    resolved.left_out.extend(left_out.iter().map(ToString::to_string));
    resolved.origins.insert(BACKENDS, origin.clone());
    Ok(())
}

/// There is more to tell of it than its address.
pub fn is_special(server: &Server) -> bool {
    *server != Server::at(server.address.clone())
}

/// Its details as text, for `loopgate check`.
pub fn describe(server: &Server) -> String {
    let mut parts = vec![format!("weight {}", server.weight)];
    parts.extend(server.api_key.iter().map(|_| "api_key ***".to_owned()));
    parts.extend(server.in_flight_max.map(|max| format!("in_flight_max {max}")));
    parts.extend(server.labels.iter().map(|(name, value)| format!("{name}={value}")));
    parts.extend((!server.models.is_empty()).then(|| format!("models {}", server.models.join(" "))));
    parts.join(", ")
}
