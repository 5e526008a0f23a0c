//! What the store keeps, through failures and restarts.

use std::path::PathBuf;
use std::time::Instant;

use sluice_policy::budget::{Feeder, Lease, Purse, Window};
use sluice_policy::keyring::VirtualKey;
use sluice_policy::money::NanoUsd;

use super::*;

const NOW_S: u64 = 1_795_371_600;

/// A file of its own, removed when the test ends.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sluice-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("sluice.db")
    }

    fn open(&self) -> Database {
        Database::open(&self.file(), NOW_S).unwrap().0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
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
fn populate(tx: &mut Tx<'_>, limit: u64, window: Window) -> rusqlite::Result<i64> {
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
    let place = Place::new("restart");
    let mut database = place.open();
    let added = database.transact(|tx| {
        let budget = populate(tx, 1_000, Window::Total)?;
        tx.set_allowed(&change(), 2, &["gpt-*".to_owned(), "claude-*".to_owned()], &[])?;
        tx.set_disabled(&change(), 1, true)?;
        tx.top_up(&change(), budget, NanoUsd(50))?;
        tx.vault(budget)?.settle(9, 0, NanoUsd(30), NOW_S);
        Ok(budget)
    });
    let budget = added.unwrap();
    let before = database.transact(|tx| tx.scopes()).unwrap();
    database.close();
    let mut database = place.open();
    let after = database.transact(|tx| tx.scopes()).unwrap();
    assert_eq!(before, after);
    assert_eq!(after.scopes[1].models, ["gpt-*", "claude-*"]);
    assert!(after.scopes[0].disabled && after.scopes[1].digest == Some(new_key(7).digest));
    let remaining = database.transact(|tx| Ok(tx.vault(budget)?.remaining(0))).unwrap();
    assert_eq!(remaining, 1_020);
    let audit = "SELECT count(*) FROM audit";
    let lines: i64 = database
        .transact(|tx| tx.sql.query_row(audit, [], |row| row.get(0)))
        .unwrap();
    assert_eq!(lines, 6);
}

#[test]
fn leases_of_a_process_that_was_killed_count_as_spent_once() {
    let place = Place::new("killed");
    let mut database = place.open();
    let row = database
        .transact(|tx| populate(tx, 16_000, Window::Rolling(sluice_policy::budget::Span::Day)))
        .unwrap();
    let mut feeder = Feeder::new(NanoUsd(16_000), Window::Rolling(sluice_policy::budget::Span::Day), 1);
    let plan = feeder.plan(NOW_S);
    let done = database.transact(|tx| tx.feed(row, &plan, NOW_S)).unwrap();
    feeder.done(&plan, &done);
    let held = feeder.account().unwrap().free();
    assert!(held > 0);
    // No close, no word to the store.
    drop(database);
    let (mut database, recovered) = Database::open(&place.file(), NOW_S + 1).unwrap();
    assert_eq!((recovered.reclaimed.0, recovered.budgets), (held as u64, 1));
    let vault = database.transact(|tx| Ok(tx.vault(row)?.clone())).unwrap();
    assert_eq!((vault.spent.0, vault.leases), (held as u64, Vec::<Lease>::new()));
    drop(database);
    let (_, recovered) = Database::open(&place.file(), NOW_S + 2).unwrap();
    assert_eq!(recovered.reclaimed, NanoUsd::ZERO);
}

#[test]
fn two_processes_do_not_share_a_store_and_a_later_version_is_refused() {
    let place = Place::new("lock");
    let database = place.open();
    let second = Database::open(&place.file(), NOW_S).err().unwrap();
    assert!(
        format!("{second:#}").contains("in use by another process"),
        "{second:#}"
    );
    database.close();
    let later = rusqlite::Connection::open(place.file()).unwrap();
    later.pragma_update(None, "user_version", 99).unwrap();
    drop(later);
    let refused = Database::open(&place.file(), NOW_S).err().unwrap();
    assert!(format!("{refused:#}").contains("version 99"), "{refused:#}");
}

#[test]
fn what_contradicts_the_store_is_refused_alone_and_the_rest_happens() {
    let place = Place::new("refused");
    let (store, _) = Store::open(&place.file(), NOW_S).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
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
        let done = store.feed(Arc::new([(row, Plan::default())]), NOW_S).await.unwrap();
        assert_eq!(done, [Done::default()], "a budget that is gone grants nothing");
    });
}

#[test]
fn a_full_disk_delays_and_neither_loses_nor_doubles() {
    let place = Place::new("full");
    let mut database = place.open();
    let row = database.transact(|tx| populate(tx, 1_000, Window::Total)).unwrap();
    database.fill_disk();
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let (reply, answer) = oneshot::channel();
        let act = move |tx: &mut Tx<'_>| {
            tx.vault(row)?.settle(1, 0, NanoUsd(10), NOW_S);
            tx.record(&vec![entry(10); 2_000])
        };
        jobs.push(Box::new(Ask {
            act,
            answer: None,
            reply,
        }));
        answers.push(answer);
    }
    let health = Health::default();
    let outcomes = carry_out(&mut database, &mut jobs, &health, &AtomicBool::new(false));
    assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(health.counts(), (1, 1), "it failed, and succeeded once there was room");
    assert!(!health.is_failing());
    let vault = database.transact(|tx| Ok(tx.vault(row)?.clone())).unwrap();
    assert_eq!(vault.spent, NanoUsd(30));
    let count = "SELECT count(*) FROM ledger";
    let rows: i64 = database
        .transact(|tx| tx.sql.query_row(count, [], |row| row.get(0)))
        .unwrap();
    assert_eq!(rows, 6_000);
}

#[test]
fn whether_a_failed_transaction_has_happened_is_known_afterwards() {
    let place = Place::new("uncertain");
    let mut database = place.open();
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

#[test]
fn what_a_tool_of_the_administrators_writes_is_seen_by_the_next_transaction() {
    let place = Place::new("tool");
    let mut database = place.open();
    let row = database.transact(|tx| populate(tx, 1_000, Window::Total)).unwrap();
    let tool = rusqlite::Connection::open(place.file()).unwrap();
    tool.execute("UPDATE budgets SET limit_nanos = 5000", []).unwrap();
    assert_eq!(database.transact(|tx| Ok(tx.vault(row)?.limit)), Ok(NanoUsd(5_000)));
}

#[test]
fn reports_add_up_what_was_recorded_and_old_requests_are_forgotten_before_their_sums() {
    let place = Place::new("ledger");
    let mut database = place.open();
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
    let sums = "SELECT sum(requests) FROM hours";
    let requests: i64 = database
        .transact(|tx| tx.sql.query_row(sums, [], |row| row.get(0)))
        .unwrap();
    assert_eq!(requests, 3);
    database.transact(|tx| tx.forget(0, NOW_S + 3_600, 100)).unwrap();
    let requests: i64 = database
        .transact(|tx| tx.sql.query_row(sums, [], |row| row.get(0)))
        .unwrap();
    assert_eq!(requests, 1);
}

#[test]
fn a_store_with_10_000_keys_and_a_million_requests_opens_in_under_a_second() {
    let place = Place::new("large");
    let mut database = place.open();
    let mut feeder = Feeder::new(NanoUsd(16_000), Window::Total, 1);
    let plan = feeder.plan(NOW_S);
    let filled = database.transact(|tx| {
        for at in 0..10_000_u32 {
            let mut bits = [0; 32];
            bits[..4].copy_from_slice(&at.to_le_bytes());
            let key = VirtualKey::from_random(&bits);
            let key = NewKey {
                digest: key.digest(),
                hint: key.hint().to_owned(),
                expires_s: None,
            };
            let scope = tx.add_scope(&change(), ScopeKind::Key, &format!("key-{at}"), None, Some(&key))?;
            let row = tx.add_budget(&change(), &budget(scope, 16_000, Window::Total))?;
            tx.feed(row, &plan, NOW_S)?;
        }
        tx.sql.execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999)
             INSERT INTO ledger (unix_s, request, key, provider, model, status, outcome, attempts, input, cached, output, cost,
             priced, first_byte_us, total_us, tags)
             SELECT 1795000000 + i / 10, zeroblob(16), i % 10000 + 1, 'openai', 'gpt-5', 200, 'done', 1, 1000, 0, 100, 2000000, 1,
             500000, 900000, '' FROM n",
            [],
        )
    });
    assert_eq!(filled, Ok(1_000_000));
    let mut best = Duration::MAX;
    // The best of several: other programs of the machine are not what is measured.
    for _ in 0..6 {
        // As if it were killed: the log is replayed, and 10,000 leases count as spent.
        drop(database);
        let begun = Instant::now();
        let (opened, recovered) = Database::open(&place.file(), NOW_S).unwrap();
        database = opened;
        let scopes = database.transact(|tx| tx.scopes()).unwrap();
        best = best.min(begun.elapsed());
        assert_eq!((scopes.scopes.len(), recovered.budgets), (10_000, 10_000));
        assert_eq!(recovered.reclaimed, NanoUsd(10_000 * 1_000));
        if best.as_millis() < 500 {
            break;
        }
        database
            .transact(|tx| (1..=10_000).try_for_each(|row| tx.feed(row, &plan, NOW_S).map(drop)))
            .unwrap();
    }
    println!("open, reclaim and read 10,000 keys: {best:?}");
    assert!(best.as_millis() < 1_000, "{best:?}");
}

#[test]
fn a_core_spends_only_what_the_store_has_durably() {
    let place = Place::new("durable");
    let (mut store, _) = Store::open(&place.file(), NOW_S).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let id = sluice_policy::budget::BudgetId(0);
    let purse = Purse::new(1);
    let mut feeder = Feeder::new(NanoUsd(1_600), Window::Total, 1);
    let mut spent = 0;
    let row = runtime
        .block_on(store.ask(|tx| populate(tx, 1_600, Window::Total)))
        .unwrap();
    for _ in 0..200 {
        let plan = feeder.plan(NOW_S);
        let done = runtime
            .block_on(store.feed(Arc::new([(row, plan.clone())]), NOW_S))
            .unwrap();
        for account in feeder.done(&plan, &done[0]) {
            purse.fund(id, account);
        }
        if let Ok(reservation) = purse.reserve(&[id], NanoUsd(30), NOW_S) {
            reservation.settle(NanoUsd(20));
            spent += 20;
            // Read by another connection, as after a crash: what the file says is at least what was spent.
            let file = rusqlite::Connection::open(place.file()).unwrap();
            let sql = "SELECT spent + coalesce((SELECT sum(amount) FROM leases), 0) FROM budgets";
            let recorded: u64 = file.query_row(sql, [], |row| row.get(0)).unwrap();
            assert!((spent..=1_600).contains(&recorded), "{spent} {recorded}");
        }
        purse.tick();
    }
    assert!(spent > 1_570, "{spent}");
    store.close();
    assert_eq!(runtime.block_on(store.ask(|_| Ok(()))), Err(StoreError::Closed));
}
