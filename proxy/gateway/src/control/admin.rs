//! The admin interface: `/health`, `/ready`, `/metrics`, and `/admin` with the state of the configuration.
//!
//! Invariants: it answers on the control thread, on its own address, and touches no request; it holds no secret.
//! Deliberately absent: anything that changes the configuration; what an operator may clear is in `health.rs`.

mod health;

pub mod accounts;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sluice_policy::meter::{CoreMeter, Kind};

use crate::clock;
use crate::plane::Plane;

/// What the admin interface shows.
pub struct Status {
    started: Instant,
    meters: Vec<Arc<CoreMeter>>,
    state: Mutex<Facts>,
}

struct Facts {
    generation: u64,
    reloads: u64,
    refused: u64,
    refusal: Option<String>,
    plane: Arc<Plane>,
    draining: bool,
    soft_limits: u64,
    /// Entries of the ledger that were lost, and whether the store cannot be written now; `None` without a store.
    store: Option<(u64, bool)>,
}

impl Status {
    /// The state at start.
    pub fn new(meters: Vec<Arc<CoreMeter>>, plane: Arc<Plane>) -> Self {
        let state = Facts {
            generation: 1,
            reloads: 0,
            refused: 0,
            refusal: None,
            plane,
            draining: false,
            soft_limits: 0,
            store: None,
        };
        Self {
            started: Instant::now(),
            meters,
            state: Mutex::new(state),
        }
    }

    /// A new configuration is in force.
    pub fn reloaded(&self, generation: u64) {
        self.change(|state| {
            state.generation = generation;
            state.reloads += 1;
            state.refusal = None;
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
        });
    }

    /// A budget's soft limit was passed.
    pub fn soft_limit_passed(&self) {
        self.change(|state| state.soft_limits += 1);
    }

    /// Entries of the ledger that were lost, and whether the store cannot be written now.
    pub fn store(&self, troubles: (u64, bool)) {
        self.change(|state| state.store = Some(troubles));
    }

    /// The gateway is stopping.
    pub fn draining(&self) {
        self.change(|state| state.draining = true);
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
        .route("/metrics", get(metrics))
        .route("/admin", get(overview))
        .route("/admin/keys/{provider}/{key}/clear", post(health::clear_key))
        .route("/admin/targets/reset", post(health::reset_target))
        .route("/admin/forget", post(health::forget))
        .with_state(status)
        .merge(changes.unwrap_or_default());
    if let Err(error) = axum::serve(socket, routes).await {
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
        })
    });
    json(StatusCode::OK, body.to_string())
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    let mut text = String::with_capacity(8192);
    let values: Vec<_> = status.meters.iter().map(|meter| meter.values()).collect();
    for (index, (name, help, kind)) in CoreMeter::TABLE.iter().enumerate() {
        let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (core, values) in values.iter().enumerate() {
            let _ = writeln!(text, "{name}{{core=\"{core}\"}} {}", values[index]);
        }
    }
    health::write_codes(&mut text, &status.meters);
    health::write_metrics(&mut text, &status.plane(), clock::shared_ms());
    status.change(|state| {
        for (name, help, kind, value) in [
            (
                "sluice_config_generation",
                "Generation of the configuration in force.",
                "gauge",
                state.generation,
            ),
            (
                "sluice_config_reloads_total",
                "Configurations taken over since start.",
                "counter",
                state.reloads,
            ),
            (
                "sluice_config_refused_total",
                "Configurations refused since start.",
                "counter",
                state.refused,
            ),
            (
                "sluice_budget_soft_limits_passed_total",
                "Times that a budget's soft limit was passed.",
                "counter",
                state.soft_limits,
            ),
            (
                "sluice_ledger_entries_lost_total",
                "Requests missing in the ledger because the store did not follow. Budgets have counted them all the same.",
                "counter",
                state.store.map_or(0, |(lost, _)| lost),
            ),
            (
                "sluice_store_failing",
                "1 while the store of keys and budgets cannot be written.",
                "gauge",
                state.store.map_or(0, |(_, failing)| u64::from(failing)),
            ),
        ] {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    });
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}
