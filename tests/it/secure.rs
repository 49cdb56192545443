//! Backends behind TLS.

use crate::gateway::{Gateway, Setup, four_ways, question, until};
use crate::wires::Relay;
use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const KEY: &str = "an-operator's-long-key";

/// A way to a backend that speaks TLS, with a certificate for `localhost` by nobody but itself.
struct Secured {
    port: u16,
    folder: TempDir,
    task: JoinHandle<()>,
}

impl Secured {
    async fn before(to: SocketAddr) -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), cert.pem()).expect("a written file");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a configuration");
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await);
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let task = tokio::spawn(async move {
            loop {
                let (from, _) = listener.accept().await.expect("a connection");
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who does not believe the certificate says so and goes.
                    let Ok(mut from) = acceptor.accept(from).await else { return };
                    let mut to = TcpStream::connect(to).await.expect("the backend");
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { port, folder, task }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What operators see of the backend whose name ends in this.
async fn seen(gateway: &Gateway, port: u16) -> Value {
    let page = gateway
        .send(http::Method::GET, "/admin/backends", &[("authorization", &*format!("Bearer {KEY}"))], String::new())
        .await;
    let ends = |it: &&Value| it["name"].as_str().is_some_and(|name| name.ends_with(&format!(":{port}")));
    page.json()["backends"].as_array().expect("a list").iter().find(ends).expect("the backend").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_behind_tls_answers_like_any_other() {
    let mock = loopgate::mock::start(loopgate::mock::Settings::default()).await.expect("a backend");
    let secured = Secured::before(mock.addr()).await;
    let gateway =
        Setup::default().flag("backend", secured.url()).flag("backend-tls-ca", secured.ca().display()).start().await;
    for body in four_ways("Calculate the factorial of 10 using Python") {
        let answer = gateway.ask(&body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if !body["tools"].is_array() {
            assert!(answer.text().ends_with("The result is 3628800."), "{answer:?}");
        }
    }
    assert!(gateway.backend.requests().is_empty(), "nothing went to the one without TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_believed_is_out_with_its_reason_and_the_others_serve() {
    let mock = loopgate::mock::start(loopgate::mock::Settings::default()).await.expect("a backend");
    let secured = Secured::before(mock.addr()).await;
    let plain = Relay::start(mock.addr()).await;
    let plain_port = plain.url.rsplit_once(':').expect("a port").1.parse().expect("a number");
    for (url, port, believed, told) in [
        (secured.url(), secured.port, false, "UnknownIssuer"),
        (format!("https://127.0.0.1:{}", secured.port), secured.port, true, "not valid for name"),
        (plain.url.replace("http://", "https://"), plain_port, true, "TLS: "),
        (secured.url().replace("https://", "http://"), secured.port, true, "cannot be reached"),
    ] {
        let mut setup = Setup::default().flag("admin-key", KEY).other_backend(url.clone());
        if believed {
            setup = setup.flag("backend-tls-ca", secured.ca().display());
        }
        let gateway = setup.start().await;
        until(format!("{url}: {told}"), async || {
            seen(&gateway, port).await["last_error"]["message"].as_str().is_some_and(|why| why.contains(told))
        })
        .await;
        assert_eq!(gateway.ask(&question("Hello", true)).await.text(), "Hello! How can I help you?");
    }
}
