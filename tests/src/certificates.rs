//! Certificates for the length of a test.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::temp::TempDir;

/// An authority that exists for one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub file: PathBuf,
}

/// A certificate with its key, in files.
pub struct Identity {
    /// The chain, PEM.
    pub cert: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When the library fails.
    #[must_use]
    pub fn new(dir: &TempDir, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no name is a valid list of names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority signs itself");
        let file = dir.write(&format!("{name}.pem"), issuer.pem());
        Self { issuer, file }
    }

    /// Issues a certificate for `host`.
    ///
    /// # Panics
    /// When the library fails.
    #[must_use]
    pub fn issue(&self, dir: &TempDir, name: &str, host: &str) -> Identity {
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a host is a valid name");
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("an authority signs");
        Identity {
            cert: dir.write(&format!("{name}.pem"), cert.pem()),
            key: dir.write(&format!("{name}.key"), key.serialize_pem()),
        }
    }
}

/// A client that trusts `authority` and shows `identity`.
///
/// # Panics
/// When the files cannot be used.
#[must_use]
pub fn client(authority: &Authority, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&authority.file).expect("the authority's file is PEM"))
        .expect("the authority can be trusted");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let cert = CertificateDer::from_pem_file(&identity.cert).expect("the certificate is PEM");
            let key = PrivateKeyDer::from_pem_file(&identity.key).expect("the key is PEM");
            builder
                .with_client_auth_cert(vec![cert], key)
                .expect("key and certificate fit")
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
