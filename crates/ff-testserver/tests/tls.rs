//! TLS servers. If the server does not support TLS these tests fail with that reason; they are never skipped.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ff_testserver::{RawClient, TestServer, TlsFiles};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// Sends a PING over TLS and returns the reply.
fn ping(port: u16, files: &TlsFiles, with_client_cert: bool) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&files.ca_cert)).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if with_client_cert {
        let key = PrivateKeyDer::from_pem_file(&files.client_key).unwrap();
        config.with_client_auth_cert(vec![certificate(&files.client_cert)], key).unwrap()
    } else {
        config.with_no_client_auth()
    };
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("127.0.0.1").unwrap()).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

#[tokio::test]
async fn a_tls_server_answers_clients_that_trust_its_authority() {
    let server = TestServer::builder().tls().build().await.unwrap();
    assert_eq!(server.url(), format!("rediss://127.0.0.1:{}", server.port()));
    let files = server.tls().expect("TLS was asked for");
    assert_eq!(ping(server.port(), files, false).unwrap(), "+PONG\r\n");
    assert_eq!(ping(server.port(), files, true).unwrap(), "+PONG\r\n");
    server.restart().await.unwrap();
    assert_eq!(ping(server.port(), files, false).unwrap(), "+PONG\r\n");
}

#[tokio::test]
async fn a_tls_port_does_not_speak_plain_text() {
    let server = TestServer::builder().tls().build().await.unwrap();
    let mut client = RawClient::connect(server.port()).await.unwrap();
    assert!(client.command(&["PING"]).await.is_err());
    assert_eq!(server.command(&["PING"]).await.unwrap().text(), "PONG", "raw commands use the plain port");
}

#[tokio::test]
async fn client_certificates_are_required_when_asked_for() {
    let server = TestServer::builder().tls_client_auth().build().await.unwrap();
    let files = server.tls().expect("TLS was asked for");
    assert!(ping(server.port(), files, false).is_err());
    assert_eq!(ping(server.port(), files, true).unwrap(), "+PONG\r\n");
}
