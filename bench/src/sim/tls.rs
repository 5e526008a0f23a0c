//! TLS for the simulator: rustls between two byte buffers, with nothing of the runtime in it.
//!
//! Absent on purpose: kTLS, 0-RTT. Every write is one or more whole records; a cut or stalled response is cut between records.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// One connection's TLS state.
pub struct Tls {
    session: ServerConnection,
    /// The buffer that ciphertext is read into.
    pub raw: Vec<u8>,
    records: Vec<u8>,
    counted: bool,
}

/// Where the server's identity lies.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: std::path::PathBuf,
    /// Private key, PEM.
    pub key: std::path::PathBuf,
    /// Authorities whose client certificates are demanded, PEM.
    pub client_ca: Option<std::path::PathBuf>,
}

/// Loads the server's identity: ALPN http/1.1, TLS 1.2 and 1.3, resumption by tickets.
///
/// # Errors
/// A sentence naming the file or the reason.
pub fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| format!("{}: {error}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| error.to_string())?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: rustls_pki_types::pem::Error| format!("{}: {error}", path.display());
    CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<_, _>>()
        .map_err(wrong)
}

impl Tls {
    /// A new session.
    ///
    /// # Errors
    /// What rustls says against the configuration.
    pub fn new(config: &Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut session = ServerConnection::new(Arc::clone(config))?;
        session.set_buffer_limit(None);
        Ok(Self {
            session,
            raw: Vec::with_capacity(17 << 10),
            records: Vec::new(),
            counted: false,
        })
    }

    /// Takes in `count` bytes of ciphertext and appends what they decrypt to; false ends the connection.
    pub fn decrypt(&mut self, raw: Vec<u8>, count: usize, plain: &mut Vec<u8>) -> bool {
        let mut rest = &raw[..count];
        let mut good = true;
        while good && !rest.is_empty() {
            good = self.session.read_tls(&mut rest).is_ok();
            match self.session.process_new_packets() {
                Ok(state) => {
                    let from = plain.len();
                    plain.resize(from + state.plaintext_bytes_to_read(), 0);
                    good &= self.session.reader().read_exact(&mut plain[from..]).is_ok();
                    good &= !state.peer_has_closed();
                }
                Err(_) => good = false,
            }
        }
        self.raw = raw;
        self.raw.clear();
        good
    }

    /// Encrypts `plain`.
    ///
    /// # Errors
    /// What rustls says.
    pub fn encrypt(&mut self, plain: &[u8]) -> io::Result<()> {
        self.session.writer().write_all(plain)
    }

    /// Records wait to be sent.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.session.wants_write()
    }

    /// The records to send now.
    pub fn take_records(&mut self) -> Vec<u8> {
        let mut records = std::mem::take(&mut self.records);
        while self.session.wants_write() && self.session.write_tls(&mut records).is_ok() {}
        records
    }

    /// Returns a buffer for the next records.
    pub fn give_back(&mut self, mut records: Vec<u8>) {
        records.clear();
        self.records = records;
    }

    /// Queues the closing alert.
    pub fn close(&mut self) {
        self.session.send_close_notify();
    }

    /// Once, when the handshake is complete: whether it was a resumption.
    pub fn finished(&mut self) -> Option<bool> {
        if self.counted || self.session.is_handshaking() {
            return None;
        }
        self.counted = true;
        self.session.handshake_kind().map(|kind| kind == HandshakeKind::Resumed)
    }
}
