//! TLS to backends: whose certificates are believed. Those of the machine's own authorities, and of one more that the
//! configuration names, such as a company's.
//!
//! There is no way to believe everybody: a key and every prompt go over these connections.

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// What is spoken over it. A load balancer that is not told may choose HTTP/2.
const PROTOCOL: &[u8] = b"http/1.1";

/// Opens TLS over a connection. `ca` is a file of certificates in PEM.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub(super) fn connector(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    // A machine without any has no use for them, or names its own.
    let found = rustls_native_certs::load_native_certs();
    let (known, _) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(known, errors = ?found.errors, "certificate authorities of this machine");
    if let Some(path) = ca {
        add(&mut roots, path)
            .map_err(|why| format!("backend.tls_ca: {}: {why}; name a file of certificates in PEM", path.display()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut count = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        count += 1;
    }
    if count == 0 { Err("it has no certificate".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_without_a_certificate_is_refused_with_its_name() {
        for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(text.as_bytes()).expect("a written file");
            let told = connector(Some(file.path())).err().expect("no connector");
            assert!(told.starts_with("backend.tls_ca: ") && told.contains("in PEM"), "{told}");
        }
        assert!(connector(Some(Path::new("/nowhere/ca.pem"))).is_err());
    }
}
