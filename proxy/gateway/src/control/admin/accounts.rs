//! The administration of customers, teams, keys, budgets and limits, and reports of what was spent, over HTTP.
//!
//! Invariants: nothing is answered without the administrator's credential, whose digest alone is kept and is compared in
//! constant time; a key's secret is in the answer to the request that made it and nowhere else; every change is in force, and
//! in the audit log, before its answer. Deliberately absent: a listener of its own, and administrators with fewer rights.

mod answers;
mod changes;
mod describe;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use sluice_policy::keyring::{Digest, PairIssuer};

use crate::control::store::{Change, StoreError};
use crate::control::treasury::Desk;

/// Largest body of a request: an allow-list of 4,096 names fits.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How long an answer may take: a database that is away must not keep an administrator waiting for ever.
const PATIENCE: Duration = Duration::from_secs(15);

/// What handlers share.
pub struct Accounts {
    desk: Desk,
    credential: Digest,
    pairs: Option<Arc<PairIssuer>>,
}

/// Why a request is not carried out.
#[derive(Debug)]
enum Refusal {
    Wrong(String),
    Missing,
    Unavailable,
}

impl Accounts {
    /// For the administrator with that credential. With `pairs`, whoever makes a key is told its pair for AWS SDKs as well.
    pub fn new(desk: Desk, credential: &str, pairs: Option<Arc<PairIssuer>>) -> Self {
        Self {
            desk,
            pairs,
            credential: Digest::of(credential.as_bytes()),
        }
    }

    /// The routes, below `/admin/v1`.
    pub fn routes(self) -> Router {
        let shared = Arc::new(self);
        let routes = Router::new()
            .route("/{kind}", get(answers::list).post(changes::add))
            .route(
                "/{kind}/{name}",
                get(answers::one).patch(changes::alter).delete(changes::remove),
            )
            .route("/{kind}/{name}/budgets", post(changes::add_budget))
            .route("/{kind}/{name}/limits", post(changes::add_limit))
            .route("/keys/{name}/rotate", post(changes::rotate))
            .route(
                "/budgets/{id}",
                patch(changes::set_budget).delete(changes::delete_budget),
            )
            .route("/budgets/{id}/top-up", post(changes::top_up))
            .route("/budgets/{id}/reset", post(changes::reset))
            .route("/limits/{id}", delete(changes::delete_limit))
            .route("/spend", get(answers::spend))
            .route("/requests", get(answers::requests))
            .route("/audit", get(answers::audit))
            .route("/openapi.json", get(describe::document));
        let guarded = routes
            .layer(axum::middleware::from_fn_with_state(shared.clone(), guard))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        Router::new().nest("/admin/v1", guarded.with_state(shared))
    }

    /// Brings a change into force.
    async fn in_force(&self) -> Result<(), Refusal> {
        Ok(self.desk.bring_into_force().await?)
    }
}

async fn guard(State(accounts): State<Arc<Accounts>>, request: Request, next: Next) -> Response {
    let value = request.headers().get(header::AUTHORIZATION);
    let token = value
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("Bearer "));
    // A digest is compared in constant time, and says nothing of how much of a guess is right.
    if token.is_some_and(|token| Digest::of(token.as_bytes()) == accounts.credential) {
        let answered = tokio::time::timeout(PATIENCE, next.run(request)).await;
        return answered.unwrap_or_else(|_| {
            let why = "the store does not answer; what was asked may still come into force";
            error(StatusCode::SERVICE_UNAVAILABLE, why)
        });
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (
        challenge,
        error(
            StatusCode::UNAUTHORIZED,
            "the administrator's credential is missing or wrong",
        ),
    )
        .into_response()
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) if why == "there is no such thing" => Self::Missing,
            StoreError::Refused(why) => Self::Wrong(why),
            StoreError::Closed | StoreError::Fenced => Self::Unavailable,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Wrong(why) => error(StatusCode::BAD_REQUEST, &why),
            Self::Missing => error(StatusCode::NOT_FOUND, "there is no such thing"),
            Self::Unavailable => error(StatusCode::SERVICE_UNAVAILABLE, "the store is closed"),
        }
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    let body = serde_json::json!({"error": {"message": message}});
    (status, axum::Json(body)).into_response()
}

fn wrong(why: impl Into<String>) -> Refusal {
    Refusal::Wrong(why.into())
}

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn change() -> Change {
    Change {
        actor: "admin".to_owned(),
        unix_s: unix_s(),
    }
}

#[cfg(test)]
mod tests;
