//! What stores keep, through failures and restarts: the same tests for SQLite and PostgreSQL, and those of each.

#[path = "../../../../../tests/src/postgres.rs"]
pub mod cluster;
mod file;
mod server;

use std::path::PathBuf;
use std::time::Instant;

use sluice_policy::budget::{Feeder, Purse, Span, Window};
use sluice_policy::keyring::VirtualKey;

use self::cluster::Postgres;
use super::*;

const NOW_S: u64 = 1_795_371_600;

/// A store of its own, removed when the test ends.
struct Place {
    folder: PathBuf,
    server: Option<Postgres>,
}

impl Place {
    /// A place for a file.
    fn file(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sluice-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder, server: None }
    }

    /// One of each kind that can be had here.
    fn all(name: &str) -> Vec<Self> {
        let server = Postgres::start().map(|server| Self {
            folder: PathBuf::new(),
            server: Some(server),
        });
        std::iter::once(Self::file(name)).chain(server).collect()
    }

    fn path(&self) -> PathBuf {
        self.folder.join("sluice.db")
    }

    fn store(&self) -> Store {
        match &self.server {
            Some(server) => Store::connect(&server.url(), NOW_S),
            None => Store::at(self.path().to_str().unwrap(), NOW_S, false),
        }
        .unwrap()
        .0
    }

    fn database(&self) -> Database {
        match &self.server {
            Some(server) => {
                let health = Arc::new(Health::default());
                let (server, _) = Server::connect(&server.url(), NOW_S, postgres::PATIENCE, health).unwrap();
                Database::Server(Box::new(server))
            }
            None => Database::File(Box::new(File::open(&self.path(), NOW_S, false).unwrap().0)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.server.is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl Database {
    /// As if the last transaction had failed without a word of what became of it.
    fn forget_last_commit(&mut self) {
        match self {
            Self::File(file) => file.forget_last_commit(),
            Self::Server(server) => server.forget_last_commit(),
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn count(tx: &Tx<'_>, sql: &str) -> Result<u64> {
    tx.sql.one(sql, &[])?.get(0)
}

fn change() -> Change {
    Change {
        actor: "test".to_owned(),
        unix_s: NOW_S,
    }
}

fn new_key(seed: u8) -> NewKey {
    let key = VirtualKey::from_random(&[seed; 32]);
    NewKey {
        digest: key.digest(),
        hint: key.hint().to_owned(),
        expires_s: None,
    }
}

fn budget(scope: i64, limit: u64, window: Window) -> BudgetRow {
    BudgetRow {
        id: 0,
        scope,
        limit: NanoUsd(limit),
        soft: None,
        window,
        provider: None,
        model: None,
    }
}

/// A team with a key that has one budget; the budget's row.
fn populate(tx: &mut Tx<'_>, limit: u64, window: Window) -> Result<i64> {
    let team = tx.add_scope(&change(), ScopeKind::Team, "press-line-2", None, None)?;
    let key = tx.add_scope(&change(), ScopeKind::Key, "station-7", Some(team), Some(&new_key(7)))?;
    tx.add_budget(&change(), &budget(key, limit, window))
}

fn entry(cost: u64) -> Entry {
    Entry {
        unix_s: NOW_S,
        request: 7,
        scopes: [2, 1, 0],
        provider: "openai".into(),
        model: "gpt-5".into(),
        status: 200,
        outcome: "done",
        attempts: 1,
        input: 10,
        output: 5,
        cost: NanoUsd(cost),
        priced: true,
        tags: Box::new([("line".into(), "2".into())]),
        ..Entry::default()
    }
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    for place in Place::all("restart") {
        let mut store = place.store();
        let added = block_on(store.ask(|tx| {
            let budget = populate(tx, 1_000, Window::Total)?;
            tx.set_allowed(&change(), 2, &["gpt-*".to_owned(), "claude-*".to_owned()], &[])?;
            tx.set_disabled(&change(), 1, true)?;
            tx.set_expiry(&change(), 2, u64::MAX)?;
            tx.top_up(&change(), budget, NanoUsd(50))?;
            tx.vault(budget)?.settle(9, 0, NanoUsd(30), NOW_S);
            Ok(budget)
        }));
        let budget = added.unwrap();
        let before = block_on(store.ask(|tx| tx.scopes())).unwrap();
        store.close();
        let store = place.store();
        let after = block_on(store.ask(|tx| tx.scopes())).unwrap();
        assert_eq!(before, after);
        assert_eq!(after.scopes[1].models, ["gpt-*", "claude-*"]);
        assert!(after.scopes[0].disabled && after.scopes[1].digest == Some(new_key(7).digest));
        assert_eq!(after.scopes[1].expires_s, Some(i64::MAX as u64));
        let remaining = block_on(store.ask(move |tx| Ok(tx.vault(budget)?.remaining(0)))).unwrap();
        assert_eq!(remaining, 1_020);
        let lines = block_on(store.ask(|tx| count(tx, "SELECT count(*) FROM audit"))).unwrap();
        assert_eq!(lines, 7);
        let log = block_on(store.ask(|tx| tx.audit_log(2))).unwrap();
        assert_eq!(
            (log.len(), &*log[0].action, &*log[0].subject),
            (2, "top-up", "key station-7")
        );
    }
}

#[test]
fn what_contradicts_the_store_is_refused_alone_and_the_rest_happens() {
    for place in Place::all("refused") {
        let store = place.store();
        block_on(refusals(&store));
    }
}

async fn refusals(store: &Store) {
    let row = store.ask(|tx| populate(tx, 1_000, Window::Total)).await.unwrap();
    let twice = store.ask(|tx| {
        tx.vault(1)?.settle(1, 0, NanoUsd(999), NOW_S);
        tx.add_scope(&change(), ScopeKind::Team, "press-line-2", None, None)
    });
    let good = store.ask(move |tx| {
        tx.vault(row)?.settle(1, 0, NanoUsd(1), NOW_S);
        Ok(())
    });
    let (twice, good) = tokio::join!(twice, good);
    assert_eq!(twice, Err(StoreError::Refused("the name is taken".to_owned())));
    assert_eq!(good, Ok(()));
    let spent = store.ask(move |tx| Ok(tx.vault(row)?.spent)).await.unwrap();
    assert_eq!(spent, NanoUsd(1), "what the refused one had changed is undone");
    for (kind, name, parent, key) in [
        (ScopeKind::Team, "a b", None, None),
        (ScopeKind::Key, "no-secret", None, None),
        (ScopeKind::Team, "of-a-key", Some(2), None),
        (ScopeKind::Customer, "of-a-team", Some(1), None),
        (ScopeKind::Key, "of-nobody", Some(77), Some(new_key(8))),
        (ScopeKind::Key, "same-secret", None, Some(new_key(7))),
    ] {
        let added = store
            .ask(move |tx| tx.add_scope(&change(), kind, name, parent, key.as_ref()))
            .await;
        assert!(matches!(added, Err(StoreError::Refused(_))), "{name}: {added:?}");
    }
    let gone = store.ask(|tx| tx.delete_budget(&change(), 77)).await;
    assert_eq!(gone, Err(StoreError::Refused("there is no such thing".to_owned())));
    assert!(store.ask(|tx| tx.delete_scope(&change(), 1)).await.is_err());
    store.ask(|tx| tx.delete_scope(&change(), 2)).await.unwrap();
    let holder = store.holder();
    let done = store
        .feed(holder, Arc::new([(row, Plan::default())]), NOW_S)
        .await
        .unwrap();
    assert_eq!(done, [Done::default()], "a budget that is gone grants nothing");
}

#[test]
fn whether_a_failed_transaction_has_happened_is_known_afterwards() {
    for place in Place::all("uncertain") {
        let mut database = place.database();
        let row = database.transact(|tx| populate(tx, 1_000, Window::Total)).unwrap();
        let spend = |tx: &mut Tx<'_>| {
            tx.vault(row)?.settle(1, 0, NanoUsd(10), NOW_S);
            Ok(())
        };
        database.transact(spend).unwrap();
        database.forget_last_commit();
        assert_eq!(database.recover(), Ok(Recovery::Applied));
        assert_eq!(database.recover(), Ok(Recovery::NotApplied));
        database.transact(spend).unwrap();
        assert_eq!(database.transact(|tx| Ok(tx.vault(row)?.spent)), Ok(NanoUsd(20)));
    }
}

#[test]
fn reports_add_up_what_was_recorded_and_old_requests_are_forgotten_before_their_sums() {
    for place in Place::all("ledger") {
        report(&mut place.database());
    }
}

fn report(database: &mut Database) {
    database.transact(|tx| populate(tx, 1_000, Window::Total)).unwrap();
    let later = Entry {
        unix_s: NOW_S + 7_200,
        model: "gpt-5-mini".into(),
        scopes: [99, 0, 0],
        tags: Box::new([]),
        input: u64::MAX,
        ..entry(1)
    };
    database
        .transact(|tx| tx.record(&[entry(1_500_000_000), entry(500_000_000), later.clone()]))
        .unwrap();
    let mut spend = |by: GroupBy, hours: u64| -> Vec<(String, u64, String)> {
        let query = SpendQuery {
            by,
            from_s: NOW_S - NOW_S % 3_600,
            to_s: NOW_S + hours * 3_600,
        };
        let rows = database.transact(|tx| tx.spend(&query)).unwrap();
        rows.into_iter()
            .map(|row| (row.name, row.requests, row.cost_usd))
            .collect()
    };
    let line = |name: &str, requests: u64, cost: &str| (name.to_owned(), requests, cost.to_owned());
    let small = "0.000000001";
    assert_eq!(spend(GroupBy::Key, 1), [line("station-7", 2, "2")]);
    assert_eq!(
        spend(GroupBy::Key, 3),
        [line("station-7", 2, "2"), line("deleted-99", 1, small)]
    );
    assert_eq!(
        spend(GroupBy::Team, 3),
        [line("press-line-2", 2, "2"), line("-", 1, small)]
    );
    assert_eq!(spend(GroupBy::Model, 3)[1], line("openai/gpt-5-mini", 1, small));
    assert_eq!(spend(GroupBy::Provider, 3), [line("openai", 3, "2.000000001")]);
    assert_eq!(spend(GroupBy::Tag, 3), [line("line=2", 2, "2")]);
    assert_eq!(database.transact(|tx| tx.forget(NOW_S + 1, 0, 1)), Ok(1));
    assert_eq!(database.transact(|tx| tx.forget(NOW_S + 1, 0, 100)), Ok(1));
    let sums = "SELECT CAST(sum(requests) AS bigint) FROM hours";
    let requests = database.transact(|tx| count(tx, sums)).unwrap();
    assert_eq!(requests, 3);
    database.transact(|tx| tx.forget(0, NOW_S + 3_600, 100)).unwrap();
    let requests = database.transact(|tx| count(tx, sums)).unwrap();
    assert_eq!(requests, 1);
}

#[test]
fn a_core_spends_only_what_the_store_has_durably() {
    for place in Place::all("durable") {
        spend_down(&place);
    }
}

fn spend_down(place: &Place) {
    let (mut store, other) = (place.store(), place.server.as_ref().map(|_| place.store()));
    let id = sluice_policy::budget::BudgetId(0);
    let purse = Purse::new(1);
    let mut feeder = Feeder::new(NanoUsd(1_600), Window::Total, 1);
    let mut spent = 0;
    let row = block_on(store.ask(|tx| populate(tx, 1_600, Window::Total))).unwrap();
    for _ in 0..300 {
        let plan = feeder.plan(NOW_S);
        let done = block_on(store.feed(store.holder(), Arc::new([(row, plan.clone())]), NOW_S)).unwrap();
        for account in feeder.done(&plan, &done[0]) {
            purse.fund(id, account);
        }
        if let Ok(reservation) = purse.reserve(&[id], NanoUsd(30), NOW_S) {
            reservation.settle(NanoUsd(20));
            spent += 20;
            // Read by another connection, as after a crash: what is stored is at least what was spent.
            let recorded = match &other {
                Some(other) => block_on(other.ask(move |tx| {
                    let vault = &tx.vaults_now()?[&row];
                    Ok(vault.spent.0 + vault.leased(0).0)
                }))
                .unwrap(),
                None => {
                    let file = rusqlite::Connection::open(place.path()).unwrap();
                    let columns = tx::VAULT_COLUMNS;
                    let rows = sql::Sql::Sqlite(&file)
                        .query(&format!("SELECT {columns} FROM budgets"), &[])
                        .unwrap();
                    let (_, vault) = tx::read_vault(&rows[0]).unwrap();
                    vault.spent.0 + vault.leased(0).0
                }
            };
            assert!((spent..=1_600).contains(&recorded), "{spent} {recorded}");
        }
        purse.tick();
    }
    assert!(spent > 1_570, "{spent}");
    store.close();
    assert_eq!(block_on(store.ask(|_| Ok(()))), Err(StoreError::Closed));
}
