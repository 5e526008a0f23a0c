//! The administration as an administrator sees it: over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use serde_json::{Value, json};
use sluice_policy::keyring::Keyring;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::*;
use crate::control::store::{Entry, Store};
use crate::control::treasury::{Event, Settings, Treasury};

const CREDENTIAL: &str = "a-long-secret-of-the-administrators";

/// The administration on a port of its own, on a thread of its own.
struct Served {
    address: SocketAddr,
    events: UnboundedReceiver<Event>,
    desk: Desk,
    folder: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Served {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sluice-accounts-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (address, events, desk) = runtime.block_on(async {
            let (store, _) = Store::open(&folder.join("sluice.db"), unix_s(), false).unwrap();
            let settings = Settings {
                cores: 1,
                ledger_days: 30,
                sums_days: 400,
                webhook: None,
            };
            let (treasury, mut told) = Treasury::start(store, settings).await.unwrap();
            let (pass_on, events) = mpsc::unbounded_channel();
            // In the place of the cores, which take their orders at once.
            tokio::spawn(async move {
                while let Some(event) = told.recv().await {
                    let _ = match event {
                        Event::Settled(whoever) => whoever.send(()),
                        event => pass_on.send(event).map_err(drop),
                    };
                }
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let routes = Accounts::new(treasury.desk(), CREDENTIAL, None).routes();
            tokio::spawn(async move { axum::serve(listener, routes).await });
            (address, events, treasury.desk())
        });
        Self {
            address,
            events,
            desk,
            folder,
            runtime,
        }
    }

    fn raw(&self, method: &str, path: &str, credential: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).unwrap();
        write!(
            socket,
            "{method} /admin/v1{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {credential}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, answer) = self.raw(method, path, CREDENTIAL, &body);
        (status, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    fn keyring(&mut self) -> Arc<Keyring> {
        let mut latest = None;
        while let Ok(event) = self.events.try_recv() {
            if let Event::Keyring(keyring) = event {
                latest = Some(keyring);
            }
        }
        latest.expect("a change brings a new keyring")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn nothing_is_answered_without_the_credential_and_every_operation_exists() {
    let served = Served::start("guard");
    for (method, path, summary, _) in describe::OPERATIONS {
        let path = path
            .replace("{kind}", "keys")
            .replace("{name}", "x")
            .replace("{id}", "7");
        let method = method.to_ascii_uppercase();
        for wrong in ["", "a-long-secret-of-the-administrator", "sk-sluice-x"] {
            assert_eq!(served.raw(&method, &path, wrong, "{}").0, 401, "{method} {path}");
        }
        let (status, answer) = served.raw(&method, &path, CREDENTIAL, "{}");
        assert!(status != 401 && status != 405, "{summary}: {status} {answer}");
        assert!(status != 404 || answer.contains("no such thing"), "{summary}: {answer}");
    }
    let (status, document) = served.ask("GET", "/openapi.json", &Value::Null);
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let operations: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|path| path.as_object().unwrap().len())
        .sum();
    assert_eq!(operations, describe::OPERATIONS.len());
    assert_eq!(
        document["paths"]["/admin/v1/keys/{name}/rotate"]["post"]["parameters"][0]["name"],
        "name"
    );
}

#[test]
fn a_key_lives_from_its_making_to_its_end_and_its_secret_is_told_once() {
    let mut served = Served::start("life");
    assert_eq!(served.ask("POST", "/customers", &json!({"name": "acme"})).0, 201);
    assert_eq!(
        served
            .ask("POST", "/teams", &json!({"name": "press-line-2", "customer": "acme"}))
            .0,
        201
    );
    let new = json!({"name": "station-7", "team": "press-line-2", "models": ["gpt-*"],
        "budgets": [{"limit": "50", "window": "day", "soft": "40"}]});
    let (status, added) = served.ask("POST", "/keys", &new);
    assert_eq!(status, 201, "{added}");
    let secret = added["key"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("sk-sluice-") && secret.len() == 53);
    let caller = served.keyring().find(secret.as_bytes(), unix_s());
    assert!(caller.is_ok(), "in force with the answer");

    let (_, listed) = served.ask("GET", "/keys", &Value::Null);
    assert!(!listed.to_string().contains(&secret[10..40]));
    assert_eq!(
        (&listed[0]["team"], &listed[0]["ends_with"]),
        (&json!("press-line-2"), &json!(secret[49..]))
    );
    assert_eq!(
        (&listed[0]["budgets"][0]["limit"], &listed[0]["budgets"][0]["window"]),
        (&json!("50"), &json!("day"))
    );
    assert_eq!(
        listed[0]["budgets"][0]["leased"], "3.125",
        "a sixteenth of the limit is in hand"
    );

    its_later_life(&mut served, &secret);
}

fn its_later_life(served: &mut Served, secret: &str) {
    let (status, rotated) = served.ask("POST", "/keys/station-7/rotate", &json!({"overlap_s": 3_600}));
    assert_eq!(status, 200);
    let keyring = served.keyring();
    let fresh = rotated["key"].as_str().unwrap();
    assert_eq!(
        keyring.find(fresh.as_bytes(), unix_s()),
        keyring.find(secret.as_bytes(), unix_s())
    );
    assert_eq!(
        served
            .ask(
                "PATCH",
                "/keys/station-7",
                &json!({"disabled": true, "providers": ["openai"]})
            )
            .0,
        204
    );
    assert!(served.keyring().find(fresh.as_bytes(), unix_s()).is_err());
    assert_eq!(
        served.ask("DELETE", "/teams/press-line-2", &Value::Null).0,
        400,
        "a key belongs to it"
    );
    assert_eq!(served.ask("DELETE", "/keys/station-7", &Value::Null).0, 204);
    assert_eq!(served.ask("DELETE", "/keys/station-7", &Value::Null).0, 404);
    let (_, log) = served.ask("GET", "/audit", &Value::Null);
    let actions: Vec<&str> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "delete",
            "allow",
            "disable",
            "rotate",
            "add-budget",
            "allow",
            "add",
            "add",
            "add"
        ]
    );
    assert!(!log.to_string().contains(&fresh[10..40]));
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let served = Served::start("wrong");
    for (path, body, expected) in [
        (
            "/keys",
            json!({"name": "a", "budgets": [{"limit": "-5", "window": "day"}]}),
            "not an amount",
        ),
        (
            "/keys",
            json!({"name": "a", "budgets": [{"limit": "5", "window": "fortnight"}]}),
            "a window is",
        ),
        ("/keys", json!({"name": "a", "team": "nobody"}), "no such thing"),
        (
            "/keys",
            json!({"name": "a", "team": "x", "customer": "y"}),
            "team or the customer",
        ),
        ("/keys", json!({"name": "a", "buget": []}), "buget"),
        ("/teams", json!({"name": "a b"}), "a name has"),
        ("/robots", json!({"name": "a"}), "robots"),
    ] {
        let (status, answer) = served.ask("POST", path, &body);
        assert!((400..500).contains(&status), "{path} {body}: {status}");
        assert!(answer.to_string().contains(expected), "{body}: {answer}");
    }
    assert_eq!(served.ask("GET", "/keys", &Value::Null).1, json!([]));
    assert_eq!(served.ask("GET", "/audit", &Value::Null).1, json!([]));
}

#[test]
fn budgets_are_set_topped_up_reset_and_deleted_and_limits_too() {
    let mut served = Served::start("budgets");
    served.ask("POST", "/customers", &json!({"name": "acme"}));
    let (status, added) = served.ask(
        "POST",
        "/customers/acme/budgets",
        &json!({"limit": "10", "window": "rolling-hour"}),
    );
    assert_eq!(status, 201);
    let path = format!("/budgets/{}", added["id"]);
    assert_eq!(served.ask("PATCH", &path, &json!({"limit": "20.5"})).0, 204);
    assert_eq!(
        served.ask("POST", &format!("{path}/top-up"), &json!({"amount": "1"})).0,
        204
    );
    assert_eq!(served.ask("POST", &format!("{path}/reset"), &Value::Null).0, 204);
    let limit = json!({"unit": "requests", "window": "minute", "most": 60});
    let (status, added) = served.ask("POST", "/customers/acme/limits", &limit);
    assert_eq!(status, 201);
    let (_, listed) = served.ask("GET", "/customers", &Value::Null);
    assert_eq!(
        (&listed[0]["budgets"][0]["limit"], &listed[0]["limits"][0]["most"]),
        (&json!("20.5"), &json!(60))
    );
    assert_eq!(
        served
            .ask(
                "POST",
                "/customers/acme/limits",
                &json!({"unit": "requests", "most": 1})
            )
            .0,
        400
    );
    assert_eq!(
        served
            .ask("DELETE", &format!("/limits/{}", added["id"]), &Value::Null)
            .0,
        204
    );
    assert_eq!(served.ask("DELETE", &path, &Value::Null).0, 204);
    assert_eq!(served.ask("DELETE", &path, &Value::Null).0, 404);
    assert!(served.keyring().is_empty(), "a customer without a key lets nobody in");
}

#[test]
fn spending_is_reported_as_json_and_as_a_table() {
    let served = Served::start("spend");
    let entry = Entry {
        unix_s: unix_s(),
        provider: "openai".into(),
        model: "gpt-5".into(),
        outcome: "done",
        cost: sluice_policy::money::NanoUsd(1_250_000),
        ..Entry::default()
    };
    served
        .runtime
        .block_on(served.desk.store().record(Arc::new([entry])))
        .unwrap();
    let (_, rows) = served.ask("GET", "/spend?by=model", &Value::Null);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["cost_usd"]),
        (&json!("openai/gpt-5"), &json!("0.00125"))
    );
    let (_, table) = served.raw("GET", "/spend?by=provider&format=csv", CREDENTIAL, "");
    assert!(table.ends_with("\"openai\",1,0,0,0,0.00125\r\n"), "{table}");
    assert_eq!(
        served.ask("GET", "/spend?by=model&month=2020-01", &Value::Null).1,
        json!([])
    );
    assert_eq!(served.ask("GET", "/spend?by=colour", &Value::Null).0, 400);
    assert_eq!(served.ask("GET", "/spend?by=key&month=soon", &Value::Null).0, 400);
}
