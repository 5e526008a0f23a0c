//! One HTTP request of the gateway's own: to an administrator's webhook, and from the command line to the admin interface.
//!
//! Invariants: it ends within the time it is given; TLS is verified against the system's authorities (`SSL_CERT_FILE` names
//! others), or Mozilla's where the system has none; an answer is bounded. Deliberately absent: redirects, connections that live
//! on, and requests of clients, which go through `upstream.rs`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sluice_policy::config::url::BaseUrl;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer: a report of 10,000 lines, or as many keys with their budgets.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nobody could be reached.
    NotReached(String),
    /// Somebody was, and did not answer as HTTP demands.
    NotAnswered(String),
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a request to `url`'s host and port; the request's own URI is its target. The answer's status and body.
///
/// # Errors
/// In words that repeat nothing of the request.
pub async fn ask(
    url: &BaseUrl,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<(hyper::StatusCode, Bytes), Failure> {
    let late = || Failure::NotReached("no answer in time".to_owned());
    let all = async {
        let stream = TcpStream::connect((&*url.host, url.port)).await;
        let stream = stream.map_err(|error| Failure::NotReached(error.to_string()))?;
        if !url.tls {
            return exchange(stream, request).await;
        }
        let failed = |error: AnyError| Failure::NotReached(format!("TLS: {error}"));
        let name = ServerName::try_from(url.host.clone()).map_err(|error| failed(error.into()))?;
        let connector = connector().map_err(|error| failed(error.into()))?;
        let stream = connector.connect(name, stream).await;
        exchange(stream.map_err(|error| failed(error.into()))?, request).await
    };
    tokio::time::timeout(patience, all).await.map_err(|_| late())?
}

/// Makes TLS sessions that are verified against the system's authorities.
///
/// # Errors
/// The TLS library lacks what it needs.
pub fn connector() -> Result<TlsConnector, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(hyper::StatusCode, Bytes), Failure> {
    let failed = |error: AnyError| Failure::NotAnswered(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.into()))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?;
        Ok::<_, AnyError>((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    // Both in this task, so that nothing outlives the patience. The connection may end first: the answer knows why.
    let answer = tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    answer.map_err(failed)
}
