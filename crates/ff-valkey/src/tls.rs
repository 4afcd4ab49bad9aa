//! TLS as every connection of this process uses it: rustls over ring, the given authority or the system's, and the
//! client certificate where one is configured.

use std::{path::Path, sync::Arc};

use ff_core::EngineError;
use fred::types::config::TlsConnector;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::ValkeyConfig;

pub(crate) fn connector(config: &ValkeyConfig) -> Result<TlsConnector, EngineError> {
    let roots = match &config.ca_file {
        Some(path) => roots_of(path)?,
        None => system_roots()?,
    };
    // The provider is named: the process-wide default is somebody else's to choose.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| EngineError::transport("setting up TLS", error))?
        .with_root_certificates(roots);
    let client = match &config.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("private key", key, &error.to_string()))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| unusable("client certificate", certificate, &error.to_string()))?
        }
    };
    Ok(client.into())
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

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EngineError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unusable("certificate", path, "it holds none")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable("certificate", path, &error.to_string())),
    }
}

fn unusable(what: &str, path: &Path, reason: &str) -> EngineError {
    EngineError::invalid(format!("{what} {}", path.display()), format!("{reason}; expected a readable PEM file"))
}
