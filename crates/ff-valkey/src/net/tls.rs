//! The TLS configuration of every connection of this process: rustls over ring, the configured authority or the
//! system's, and the client certificate if one is configured.
//!
//! If sentinels name the server, its certificate must be for the host that they named.

use std::{path::Path, sync::Arc};

use ff_core::EngineError;
use fred::types::config::TlsConnector;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::{ValkeyConfig, net::primary::ResolvedAddress};

pub(crate) fn connector(
    config: &ValkeyConfig,
    leads_to: Option<&Arc<ResolvedAddress>>,
) -> Result<TlsConnector, EngineError> {
    if let Some(name) = config.tls_server_name.as_deref().filter(|name| ServerName::try_from(*name).is_err()) {
        let what = format!("TLS server name `{}`", name.escape_debug());
        return Err(EngineError::invalid(what, "it is neither a host name nor an IP address"));
    }
    let roots = match &config.ca_file {
        Some(path) => roots_of(path)?,
        None => system_roots()?,
    };
    // The provider is explicit: the application chooses the process-wide default.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| EngineError::invalid("setting up TLS", error.to_string()))?;
    let builder = match leads_to {
        None => builder.with_root_certificates(roots),
        Some(leads_to) => {
            let named = NamedServer::new(roots, leads_to.clone(), config.tls_server_name.clone())?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(named))
        }
    };
    let client = match &config.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private = pem(key)
                .and_then(|text| PrivateKeyDer::from_pem_slice(&text).map_err(|error| error.to_string()))
                .map_err(|reason| unusable("private key", key, &reason))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                let reason = match error {
                    TlsError::InconsistentKeys(_) => {
                        format!("the private key {} belongs to another certificate", key.display())
                    }
                    other => other.to_string(),
                };
                EngineError::invalid(format!("client certificate {}", certificate.display()), reason)
            })?
        }
    };
    Ok(client.into())
}

/// The ClientHello of a TLS handshake. It does not name a host, and nothing follows it.
pub(crate) fn hello() -> Option<Vec<u8>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().ok()?;
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("0.0.0.0").ok()?).ok()?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello).ok()?;
    Some(hello)
}

fn roots_of(path: &Path) -> Result<RootCertStore, EngineError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable("CA file", path, &error.to_string()))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, EngineError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(EngineError::invalid("the system's root certificates", "there are none; name a CA file"));
    }
    Ok(roots)
}

/// The text of a PEM file, without the byte order mark that some editors write.
fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    Ok(text.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(text))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EngineError> {
    let read = |text: Vec<u8>| {
        CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
    };
    match pem(path).and_then(read) {
        Ok(certificates) if certificates.is_empty() => Err(unusable("certificate", path, "it holds none")),
        Ok(certificates) => Ok(certificates),
        Err(reason) => Err(unusable("certificate", path, &reason)),
    }
}

fn unusable(what: &str, path: &Path, reason: &str) -> EngineError {
    EngineError::invalid(format!("{what} {}", path.display()), format!("{reason}; expected a readable PEM file"))
}

/// Verifies certificates as usual, but against the host name that the sentinels returned for this connection.
#[derive(Debug)]
struct NamedServer {
    usual: Arc<WebPkiServerVerifier>,
    leads_to: Arc<ResolvedAddress>,
    /// The expected name, whatever server the connection leads to.
    fixed: Option<String>,
}

impl NamedServer {
    fn new(roots: RootCertStore, leads_to: Arc<ResolvedAddress>, fixed: Option<String>) -> Result<Self, EngineError> {
        let provider = Arc::new(ring::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let usual = usual.map_err(|error| EngineError::invalid("setting up TLS", error.to_string()))?;
        Ok(Self { usual, leads_to, fixed })
    }
}

impl ServerCertVerifier for NamedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let host = self.fixed.clone().or_else(|| Some(self.leads_to.get()?.host));
        let named = host.and_then(|host| ServerName::try_from(host).ok());
        let name = named.ok_or(TlsError::InvalidCertificate(CertificateError::NotValidForName))?;
        self.usual.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::net::address::Address;

    /// An authority, and a certificate of it for this host.
    fn certificate(host: &str) -> (RootCertStore, CertificateDer<'static>) {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.self_signed(&key).unwrap().der().clone()).unwrap();
        let issuer = Issuer::new(authority, key);
        let server = CertificateParams::new([host.to_owned()]).unwrap();
        let server = server.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        (roots, server.der().clone())
    }

    #[test]
    fn a_certificate_must_be_for_the_host_that_the_sentinels_named() {
        let (roots, shown) = certificate("db2.example");
        let leads_to = Arc::<ResolvedAddress>::default();
        let verifier = NamedServer::new(roots, leads_to.clone(), None).unwrap();
        let placeholder = ServerName::try_from("0.0.0.0").unwrap();
        let judged = || verifier.verify_server_cert(&shown, &[], &placeholder, &[], UnixTime::now()).is_ok();
        assert!(!judged(), "nobody was named");
        for (host, right) in [("db1.example", false), ("10.0.0.1", false), ("db2.example", true)] {
            leads_to.set(Address { host: host.into(), port: 6379 });
            assert_eq!(judged(), right, "{host}");
        }
    }
}
