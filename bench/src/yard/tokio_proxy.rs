//! A minimal HTTP reverse proxy on tokio and hyper: what a conventional Rust service would be built on.
//!
//! One current-thread runtime, hyper's server on one side and its pooled client on the other, bodies passed through
//! as they come.

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, Scheme, Uri};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::Flags;
use crate::rt;

/// Most idle upstream connections.
const IDLE_MAX: usize = 4096;

type Upstream = Client<HttpConnector, Incoming>;

/// Serves until killed.
///
/// # Errors
/// When the runtime or the listener cannot be had.
pub fn run(flags: &Flags) -> Result<()> {
    rt::pin(flags.cpu)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(flags))
}

async fn serve(flags: &Flags) -> Result<()> {
    let listener = TcpListener::bind(flags.listen)
        .await
        .with_context(|| format!("listen on {}", flags.listen))?;
    rt::announce(listener.local_addr()?);
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstream = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(IDLE_MAX)
        .pool_timer(TokioTimer::new())
        .build(connector);
    let authority: Authority = flags.upstream.to_string().parse()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, authority) = (client.clone(), authority.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| forward(client.clone(), authority.clone(), request));
            // What ends a connection is of no interest here; the generator counts what it did not get.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn forward(
    client: Upstream,
    authority: Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().remove(TE);
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(HOST, host);
    }
    parts.authority = Some(authority);
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    let mut response = client.request(request).await?;
    response.headers_mut().remove(CONNECTION);
    response.headers_mut().remove(TRANSFER_ENCODING);
    Ok(response)
}
