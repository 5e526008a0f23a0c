//! TLS over byte slices: rustls' state beside a [`crate::net::Stream`], which does the reading and sending.
//!
//! Invariants: plaintext is never sent where TLS was asked for; a stream that ends without close_notify ends with an error
//! (RFC 8446 §6.1), so a cut body cannot look complete. Deliberately absent: sockets, and kernel TLS.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::buffer::{Buffers, Chunk, Size};
use crate::net::Received;

/// The TLS state of one connection.
pub struct Tls {
    connection: Connection,
    ciphertext: Chunk,
    outgoing: Vec<u8>,
    ended: bool,
}

impl Tls {
    /// The server's side of a connection that a client opened.
    ///
    /// # Errors
    /// When the configuration does not allow a connection.
    pub fn server(config: &Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self::new(Connection::Server(
            ServerConnection::new(config.clone()).map_err(io::Error::other)?,
        )))
    }

    /// The client's side of a connection to a provider.
    ///
    /// # Errors
    /// When the configuration does not allow a connection.
    pub fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        Ok(Self::new(Connection::Client(
            ClientConnection::new(config.clone(), name).map_err(io::Error::other)?,
        )))
    }

    fn new(mut connection: Connection) -> Self {
        // The caller bounds what it hands over; rustls' own limit would only make writes partial.
        connection.set_buffer_limit(None);
        Self {
            connection,
            ciphertext: Chunk::empty(),
            outgoing: Vec::new(),
            ended: false,
        }
    }

    /// True until both sides have proven themselves.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Hands over bytes from the socket.
    pub fn ciphertext(&mut self, chunk: Chunk) {
        debug_assert!(self.ciphertext.is_empty(), "the last chunk was not used up");
        self.ciphertext = chunk;
    }

    /// The socket has ended.
    pub fn end_of_stream(&mut self) {
        self.ended = true;
    }

    /// Works off what arrived, and makes what must be sent ready.
    ///
    /// # Errors
    /// Those of TLS; an alert that says so is then outgoing.
    pub fn process(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        while !self.ciphertext.is_empty() && result.is_ok() {
            result = self.step();
        }
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.outgoing)?;
        }
        result
    }

    /// The next plaintext: `None` if more must arrive first.
    pub fn plaintext(&mut self, buffers: &Buffers) -> Option<Received> {
        loop {
            let mut block = buffers.lease(Size::Small);
            let mut reader = self.connection.reader();
            match block.fill(|free| reader.read(free)) {
                Ok(0) => return Some(Ok(None)),
                Ok(_) => return Some(Ok(Some(block.into_chunk()))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Some(Err(error)),
            }
            if self.ciphertext.is_empty() {
                return self.ended.then(|| Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Err(error) = self.step() {
                return Some(Err(error));
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let mut bytes = &self.ciphertext[..];
        let before = bytes.len();
        self.connection.read_tls(&mut bytes)?;
        let used = before - bytes.len();
        self.ciphertext.advance(used);
        if self.ciphertext.is_empty() {
            self.ciphertext = Chunk::empty();
        }
        self.connection
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(())
    }

    /// Encrypts; the records are then outgoing.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(plaintext)
    }

    /// Says that nothing more will be sent.
    pub fn close_notify(&mut self) {
        self.connection.send_close_notify();
    }

    /// Bytes that are ready to be sent.
    pub fn outgoing(&self) -> usize {
        self.outgoing.len()
    }

    /// Takes the bytes to be sent; give the vector back with [`Tls::restore_outgoing`].
    ///
    /// # Errors
    /// Those of TLS.
    pub fn take_outgoing(&mut self) -> io::Result<Vec<u8>> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.outgoing)?;
        }
        Ok(std::mem::take(&mut self.outgoing))
    }

    /// Gives the vector back for reuse.
    pub fn restore_outgoing(&mut self, mut sent: Vec<u8>) {
        const KEPT_BYTES_MAX: usize = 16 * 1024;
        sent.clear();
        sent.shrink_to(KEPT_BYTES_MAX);
        self.outgoing = sent;
    }
}

/// Configuration files → rustls configurations; the control thread's work.
pub mod settings {
    use std::path::Path;
    use std::sync::Arc;

    use anyhow::{Context, Result, bail};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};

    /// The only application protocol spoken here (RFC 7301).
    const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

    /// How clients must prove themselves.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ClientCertificates {
        /// Not asked for.
        None,
        /// Verified if offered.
        Optional,
        /// No connection without one.
        Required,
    }

    /// The configuration of a TLS listener.
    ///
    /// # Errors
    /// When a file cannot be read or holds no usable certificate or key.
    pub fn server(
        certificate: &Path,
        key: &Path,
        clients: ClientCertificates,
        ca: Option<&Path>,
    ) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match (clients, ca) {
            (ClientCertificates::None, _) => builder.with_no_client_auth(),
            (_, None) => bail!("client certificates are asked for, but no `client_ca` says whose"),
            (mode, Some(ca)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots_from(ca)?), provider);
                let verifier = match mode {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().context("client certificate verifier")?)
            }
        };
        let mut config = builder
            .with_single_cert(certificates(certificate)?, private_key(key)?)
            .with_context(|| format!("certificate {} with key {}", certificate.display(), key.display()))?;
        config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// The configuration towards a provider: the system's and Mozilla's roots, or only the given CA file's.
    ///
    /// # Errors
    /// When a file cannot be read or holds nothing usable.
    pub fn client(ca: Option<&Path>, certificate: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match ca {
            Some(path) => roots_from(path)?,
            None => public_roots(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match certificate {
            Some((certificate, key)) => builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
        config.resumption = rustls::client::Resumption::in_memory_sessions(256);
        Ok(Arc::new(config))
    }

    fn public_roots() -> RootCertStore {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        for certificate in rustls_native_certs::load_native_certs().certs {
            // A broken certificate in the system's store is the system's affair: the others still count.
            let _ = roots.add(certificate);
        }
        roots
    }

    fn roots_from(path: &Path) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .with_context(|| format!("{} holds an unusable certificate", path.display()))?;
        }
        Ok(roots)
    }

    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("cannot read certificates (PEM) from {}", path.display()))?;
        if certificates.is_empty() {
            bail!("{} holds no certificate (expected PEM)", path.display());
        }
        Ok(certificates)
    }

    fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_file(path)
            .with_context(|| format!("cannot read a private key (PEM) from {}", path.display()))
    }
}
