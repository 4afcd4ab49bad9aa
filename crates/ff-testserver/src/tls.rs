//! Temporary certificates: an authority, a server certificate for this machine's names, a client certificate.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::error::{Doing, Result};

/// PEM files that a client of a TLS server needs. They are deleted with the server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TlsFiles {
    /// The authority that signed the server's certificate.
    pub ca_cert: PathBuf,
    /// A certificate for clients, signed by the same authority.
    pub client_cert: PathBuf,
    /// The key of the client's certificate.
    pub client_key: PathBuf,
    pub(crate) server_cert: PathBuf,
    pub(crate) server_key: PathBuf,
}

impl TlsFiles {
    /// Generates all files in an existing directory.
    pub(crate) fn generate(dir: &Path) -> Result<Self> {
        let mut ca_params = named("ff-testserver authority", &[])?;
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate()?;
        let ca_cert = ca_params.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca_params, ca_key);

        let signed = |name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose| -> Result<(PathBuf, PathBuf)> {
            let mut params = named(name, names)?;
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let cert = params.signed_by(&key, &issuer)?;
            let stem = name.rsplit(' ').next().unwrap_or(name);
            Ok((write(dir, stem, "crt", &cert.pem())?, write(dir, stem, "key", &key.serialize_pem())?))
        };
        let own_names = ["localhost", "127.0.0.1", "::1"];
        let (server_cert, server_key) =
            signed("ff-testserver server", &own_names, ExtendedKeyUsagePurpose::ServerAuth)?;
        let (client_cert, client_key) = signed("ff-testserver client", &[], ExtendedKeyUsagePurpose::ClientAuth)?;
        let ca_cert = write(dir, "ca", "crt", &ca_cert.pem())?;
        Ok(Self { ca_cert, client_cert, client_key, server_cert, server_key })
    }
}

fn named(name: &str, alternatives: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(alternatives.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn write(dir: &Path, stem: &str, extension: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(format!("{stem}.{extension}"));
    std::fs::write(&path, text).doing("writing the TLS files")?;
    Ok(path)
}
