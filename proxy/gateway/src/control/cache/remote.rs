//! The vector of a text, from a service that speaks OpenAI's embeddings API.
//!
//! Invariants: an answer is taken only if it is one vector of as many dimensions as were asked for; every request ends within
//! [`PATIENCE`], whatever a core waits for; the key goes nowhere but into the header of these requests. Deliberately absent:
//! retries, because the request that wanted the vector has gone on by then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sluice_policy::cache::embed::{DIMENSIONS, Vector};
use sluice_policy::config::CacheEmbedding;
use sluice_policy::config::url::BaseUrl;
use sluice_wire::limits::{CACHE_EMBEDDING_ANSWER_BYTES_MAX, CACHE_EMBEDDINGS_MAX};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::control::ask;

/// Longest time that a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service.
pub struct Remote {
    url: BaseUrl,
    model: String,
    key: Option<String>,
    timeout_ms: u64,
    /// Connections that wait for another request.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    embedding: Vec<f32>,
}

impl Remote {
    /// As configured; `key` is its secret.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(config: &CacheEmbedding, key: Option<String>) -> Result<Self> {
        Ok(Self {
            url: config.base_url.parse().map_err(|why: String| anyhow!(why))?,
            model: config.model.clone(),
            key,
            timeout_ms: config.timeout.0.into(),
            idle: Mutex::default(),
        })
    }

    /// What tells vectors of this service and model from all others.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [&self.url.authority(), &self.url.path, &self.model] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// How long a request waits.
    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }

    /// The vector of a text.
    ///
    /// # Errors
    /// In words that repeat nothing of the text, or of the key.
    pub async fn embed(&self, text: &str) -> Result<Vector, String> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(text)).await;
        let answer = asked.map_err(|_| "no answer in time".to_owned())?;
        let body = answer.map_err(|error| format!("{error:#}"))?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| "the answer is no list of vectors".to_owned())?;
        let [item] = &answer.data[..] else {
            return Err(format!("{} vectors for one text", answer.data.len()));
        };
        let dimensions = item.embedding.len();
        Vector::of(&item.embedding).ok_or_else(|| format!("a vector of {dimensions} dimensions, or of none"))
    }

    async fn ask(&self, text: &str) -> Result<Bytes> {
        let body = serde_json::json!({
            "model": self.model,
            "input": text,
            "dimensions": DIMENSIONS,
            "encoding_format": "float",
        });
        let mut request = Request::post(format!("{}/embeddings", self.url.path))
            .header("host", self.url.authority())
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())))?;
        let mut sender = match self.take_idle() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), CACHE_EMBEDDING_ANSWER_BYTES_MAX).collect();
        let body = body.await.map_err(|error| anyhow!(error))?.to_bytes();
        if !status.is_success() {
            return Err(anyhow!("it answers {status}"));
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CACHE_EMBEDDINGS_MAX {
            idle.push(sender);
        }
        Ok(body)
    }

    /// A connection that is still open, the one used last first.
    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(SendRequest::is_ready)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect((&*self.url.host, self.url.port)).await?;
        stream.set_nodelay(true)?;
        if !self.url.tls {
            return handshake(stream).await;
        }
        let name = ServerName::try_from(self.url.host.clone())?;
        handshake(ask::connector()?.connect(name, stream).await?).await
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its sender, or with the service; whoever sends next learns of it.
    tokio::spawn(async move { _ = connection.await });
    Ok(sender)
}
