//! The admin interface: `/health`, `/ready`, `/metrics`, and `/admin` with the state of the configuration.
//!
//! Invariants: it answers on the control thread, on its own address, and touches no request; it holds no secret.
//! Deliberately absent: anything that changes the configuration; what an operator may clear is in `health.rs`.

mod cache;
mod health;
mod kernel;
mod metrics;
pub mod spent;
mod status;

pub mod accounts;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sluice_policy::meter::CoreMeter;
use tokio::sync::Notify;

use self::spent::Spent;
use super::accounts::Troubles;
use super::cache::Desk;
use super::treasury::{BudgetView, Budgets};
use super::{SharedKernel, lock};
use crate::clock;
use crate::plane::Plane;

/// What the admin interface shows.
pub struct Status {
    started: Instant,
    started_at: SystemTime,
    scrapes: AtomicU64,
    /// How long the last one took, in microseconds.
    scrape_us: AtomicU64,
    budgets: OnceLock<Budgets>,
    meters: Vec<Arc<CoreMeter>>,
    kernel: SharedKernel,
    retired: Notify,
    cache: Arc<Desk>,
    state: Mutex<Facts>,
}

struct Facts {
    generation: u64,
    reloads: u64,
    refused: u64,
    refusal: Option<String>,
    plane: Arc<Plane>,
    draining: bool,
    spent: Spent,
    soft_limits: u64,
    /// `None` without a store.
    store: Option<Troubles>,
    config_hash: String,
    /// When a configuration was last taken over or refused, in milliseconds since the epoch.
    reloaded_at_ms: u64,
}

impl Status {
    /// The state at start.
    pub fn new(meters: Vec<Arc<CoreMeter>>, plane: Arc<Plane>, cache: Arc<Desk>, kernel: SharedKernel) -> Self {
        let state = Facts {
            generation: 1,
            reloads: 0,
            refused: 0,
            refusal: None,
            plane,
            draining: false,
            spent: Spent::default(),
            soft_limits: 0,
            store: None,
            config_hash: String::new(),
            reloaded_at_ms: clock::unix_ms(),
        };
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            scrapes: AtomicU64::new(0),
            scrape_us: AtomicU64::new(0),
            budgets: OnceLock::new(),
            meters,
            kernel,
            retired: Notify::new(),
            cache,
            state: Mutex::new(state),
        }
    }

    /// Where budgets are to be seen, if there are any.
    pub fn shows(&self, budgets: Budgets) {
        self.budgets.get_or_init(|| budgets);
    }

    fn budgets(&self) -> Vec<BudgetView> {
        self.budgets.get().map(Budgets::all).unwrap_or_default()
    }

    /// What the configuration file in force hashes to.
    pub fn hashes_to(&self, hash: String) {
        self.change(|state| state.config_hash = hash);
    }

    /// A new configuration is in force.
    pub fn reloaded(&self, generation: u64) {
        self.change(|state| {
            state.generation = generation;
            state.reloads += 1;
            state.refusal = None;
            state.reloaded_at_ms = clock::unix_ms();
        });
    }

    /// What the cores are served by from now on.
    pub fn serves(&self, plane: Arc<Plane>) {
        self.change(|state| state.plane = plane);
    }

    fn plane(&self) -> Arc<Plane> {
        self.change(|state| state.plane.clone())
    }

    /// A new configuration was refused.
    pub fn refused(&self, reason: String) {
        self.change(|state| {
            state.refused += 1;
            state.refusal = Some(reason);
            state.reloaded_at_ms = clock::unix_ms();
        });
    }

    /// A budget's soft limit was passed.
    pub fn soft_limit_passed(&self) {
        self.change(|state| state.soft_limits += 1);
    }

    /// How the store does.
    pub fn store(&self, troubles: Troubles) {
        self.change(|state| state.store = Some(troubles));
    }

    /// The gateway is stopping.
    pub fn draining(&self) {
        self.change(|state| state.draining = true);
    }

    /// Another process answers at this address from now on.
    pub fn retired(&self) {
        self.retired.notify_one();
    }

    /// Requests have ended: `act` adds them up.
    pub fn spend(&self, act: impl FnOnce(&mut Spent)) {
        self.change(|state| act(&mut state.spent));
    }

    fn change<T>(&self, act: impl FnOnce(&mut Facts) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves the admin interface until the process ends.
pub async fn serve(socket: tokio::net::TcpListener, status: Arc<Status>, changes: Option<Router>) {
    let routes = Router::new()
        .route("/health", get(async || json(StatusCode::OK, r#"{"status":"alive"}"#)))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics::metrics))
        .route("/admin/status", get(status::status))
        .route("/admin", get(overview))
        .route("/admin/keys/{provider}/{key}/clear", post(health::clear_key))
        .route("/admin/targets/reset", post(health::reset_target))
        .route("/admin/forget", post(health::forget))
        .route("/admin/steering", post(kernel::set_mode))
        .route("/admin/latency", get(kernel::latency))
        .route("/admin/cache", get(cache::stats))
        .route("/admin/cache/purge", post(cache::purge))
        .route("/admin/cache/bump", post(cache::bump))
        .route("/admin/cache/release", post(cache::release))
        .route("/admin/cache/explain", post(cache::explain))
        .with_state(status.clone())
        .merge(changes.unwrap_or_default());
    let serving = axum::serve(socket, routes).with_graceful_shutdown(async move { status.retired.notified().await });
    if let Err(error) = serving.await {
        tracing::error!(%error, "the admin interface has stopped");
    }
}

async fn ready(State(status): State<Arc<Status>>) -> Response {
    let (draining, plane) = status.change(|state| (state.draining, state.plane.clone()));
    let body = plane.report(clock::shared_ms()).to_string();
    match (draining, plane.snapshot.ready()) {
        (true, _) => json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#),
        (false, true) => json(StatusCode::OK, body),
        (false, false) => json(StatusCode::SERVICE_UNAVAILABLE, body),
    }
}

async fn overview(State(status): State<Arc<Status>>) -> Response {
    let body = status.change(|state| {
        let mut report = state.plane.report(clock::shared_ms());
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": status.started.elapsed().as_secs(),
            "cores": status.meters.len(),
            "draining": state.draining,
            "configuration": {
                "generation": state.generation,
                "reloads": state.reloads,
                "refused": state.refused,
                "last_refusal": state.refusal,
            },
            "providers": report["providers"].take(),
            "targets": report["targets"].take(),
            "kernel": kernel::overview(&lock(&status.kernel)),
        })
    });
    json(StatusCode::OK, body.to_string())
}

fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}
