//! What is SQLite's alone: the file, its lock, and a disk that is full.

use super::*;
use crate::control::treasury::{Event, Settings, Treasury};

fn feed(file: &mut File, budget: i64, plan: &Plan) -> Done {
    let (holder, plans) = (file.holder(), [(budget, plan.clone())]);
    file.transact(|tx| tx.feed(holder, &plans, NOW_S)).unwrap().remove(0)
}

fn open(place: &Place) -> File {
    File::open(&place.path(), NOW_S, false).unwrap().0
}

#[test]
fn leases_of_a_process_that_was_killed_count_as_spent_once() {
    let place = Place::file("killed");
    let mut database = open(&place);
    let row = database
        .transact(|tx| populate(tx, 16_000, Window::Rolling(Span::Day)))
        .unwrap();
    let mut feeder = Feeder::new(NanoUsd(16_000), Window::Rolling(Span::Day), 1);
    let plan = feeder.plan(NOW_S);
    let done = feed(&mut database, row, &plan);
    feeder.done(&plan, &done);
    let held = feeder.account().unwrap().free();
    assert!(held > 0);
    // No close, no word to the store.
    drop(database);
    let (mut database, recovered) = File::open(&place.path(), NOW_S + 1, false).unwrap();
    assert_eq!((recovered.reclaimed.0, recovered.budgets), (held as u64, 1));
    let vault = database.transact(|tx| Ok(tx.vault(row)?.clone())).unwrap();
    assert_eq!((vault.spent.0, vault.leases.len()), (held as u64, 0));
    drop(database);
    // Before anything was written, the next process finds the same, once; after that, nothing more.
    let (mut database, recovered) = File::open(&place.path(), NOW_S + 2, false).unwrap();
    assert_eq!(recovered.reclaimed.0, held as u64);
    let spend = |tx: &mut Tx<'_>| Ok(tx.vault(row)?.settle(0, 0, NanoUsd(1), NOW_S + 2));
    database.transact(spend).unwrap();
    let vault = database.transact(|tx| Ok(tx.vault(row)?.clone())).unwrap();
    assert_eq!(vault.spent.0, held as u64 + 1);
    drop(database);
    let (mut database, recovered) = File::open(&place.path(), NOW_S + 3, false).unwrap();
    assert_eq!(recovered.reclaimed, NanoUsd::ZERO);
    let spent = database.transact(|tx| Ok(tx.vault(row)?.spent.0)).unwrap();
    assert_eq!(spent, held as u64 + 1);
}

#[test]
fn two_processes_do_not_share_a_store_and_a_later_version_is_refused() {
    let place = Place::file("lock");
    let database = open(&place);
    let second = File::open(&place.path(), NOW_S, false).err().unwrap();
    assert!(
        format!("{second:#}").contains("in use by another process"),
        "{second:#}"
    );
    database.close();
    let later = rusqlite::Connection::open(place.path()).unwrap();
    later.pragma_update(None, "user_version", 99).unwrap();
    drop(later);
    let refused = File::open(&place.path(), NOW_S, false).err().unwrap();
    assert!(format!("{refused:#}").contains("version 99"), "{refused:#}");
}

#[test]
fn who_takes_over_shares_the_store_and_only_leases_of_the_dead_count_as_spent() {
    let place = Place::file("shared");
    let limit = NanoUsd(16_000);
    let mut old = open(&place);
    let row = old.transact(|tx| populate(tx, limit.0, Window::Total)).unwrap();
    let lease = |file: &mut File| {
        let mut feeder = Feeder::new(limit, Window::Total, 1);
        let plan = feeder.plan(NOW_S);
        let done = feed(file, row, &plan);
        feeder.done(&plan, &done);
        feeder.account().unwrap().free() as u64
    };
    let held = lease(&mut old);
    let (mut new, recovered) = File::open(&place.path(), NOW_S, true).unwrap();
    assert_eq!(recovered.reclaimed, NanoUsd::ZERO, "the other one is alive");
    assert_ne!(old.holder(), new.holder());
    let more = lease(&mut new);
    let of = |file: &mut File| {
        let vault = file.transact(|tx| Ok(tx.vault(row)?.clone())).unwrap();
        (vault.spent.0, vault.leased(0).0)
    };
    assert_eq!((of(&mut old), of(&mut new)), ((0, held + more), (0, held + more)));
    // Each counts its own transactions: what became of one that failed is known whatever the other has done since.
    new.transact(|tx| Ok(tx.vault(row)?.settle(0, 0, NanoUsd(1), NOW_S)))
        .unwrap();
    assert_eq!(old.recover(), Ok(Recovery::NotApplied));
    old.forget_last_commit();
    assert_eq!(old.recover(), Ok(Recovery::Applied));
    // No close, no word to the store, as if it were killed.
    drop(old);
    let (spent, leased) = wait_for(|| Some(of(&mut new)).filter(|(spent, _)| *spent > 1));
    assert_eq!((spent, leased), (held + 1, more));
    let third = File::open(&place.path(), NOW_S, false).err().unwrap();
    assert!(format!("{third:#}").contains("in use by another process"), "{third:#}");
    new.close();
}

/// What there is to see within some seconds.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "not within 20 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_full_disk_delays_and_neither_loses_nor_doubles() {
    let place = Place::file("full");
    let mut database = open(&place);
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
            is_patient: false,
            act,
            answer: None,
            reply,
        }));
        answers.push(answer);
    }
    let health = Health::default();
    let mut database = Database::File(Box::new(database));
    let outcomes = carry_out(&mut database, &mut jobs, &health, &AtomicBool::new(false));
    assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(health.counts(), (1, 1), "it failed, and succeeded once there was room");
    assert!(!health.is_failing());
    let vault = database.transact(|tx| Ok(tx.vault(row)?.clone())).unwrap();
    assert_eq!(vault.spent, NanoUsd(30));
    let count = "SELECT count(*) FROM ledger";
    let rows = database.transact(|tx| super::count(tx, count)).unwrap();
    assert_eq!(rows, 6_000);
}

#[test]
fn what_a_tool_of_the_administrators_writes_is_seen_by_the_next_transaction() {
    let place = Place::file("tool");
    let mut database = open(&place);
    let row = database.transact(|tx| populate(tx, 1_000, Window::Total)).unwrap();
    let tool = rusqlite::Connection::open(place.path()).unwrap();
    tool.execute("UPDATE budgets SET limit_nanos = 5000", []).unwrap();
    assert_eq!(database.transact(|tx| Ok(tx.vault(row)?.limit)), Ok(NanoUsd(5_000)));
}

#[test]
fn a_store_with_10_000_keys_and_a_million_requests_opens_in_under_a_second() {
    let place = Place::file("large");
    let mut database = open(&place);
    let mut feeder = Feeder::new(NanoUsd(16_000), Window::Total, 1);
    let plan = feeder.plan(NOW_S);
    let holder = database.holder();
    let mut plans = Vec::new();
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
            plans.push((row, plan.clone()));
        }
        tx.feed(holder, &plans, NOW_S)?;
        tx.sql.execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999)
             INSERT INTO ledger (unix_s, request, key, provider, model, status, outcome, attempts, input, cached, output, cost,
             priced, first_byte_us, total_us, tags)
             SELECT 1795000000 + i / 10, zeroblob(16), i % 10000 + 1, 'openai', 'gpt-5', 200, 'done', 1, 1000, 0, 100, 2000000, 1,
             500000, 900000, '' FROM n",
            &[],
        )
    });
    assert_eq!(filled, Ok(1_000_000));
    let mut best = Duration::MAX;
    // The best of several: other programs of the machine are not what is measured.
    for _ in 0..6 {
        // As if it were killed: the log is replayed, and 10,000 leases count as spent.
        drop(database);
        let begun = Instant::now();
        let (opened, recovered) = File::open(&place.path(), NOW_S, false).unwrap();
        let opening = begun.elapsed();
        assert_eq!(
            (recovered.budgets, recovered.reclaimed),
            (10_000, NanoUsd(10_000 * 1_000))
        );
        opened.close();
        let begun = Instant::now();
        let store = Store::open(&place.path(), NOW_S, false).unwrap().0;
        let ready = block_on(async {
            let (_treasury, mut events) = Treasury::start(store, settings()).await.unwrap();
            let mut funds = 0;
            while let Ok(event) = events.try_recv() {
                match event {
                    Event::Funds(accounts) => funds += accounts.len(),
                    Event::Keyring(keyring) => assert!(!keyring.is_empty()),
                    Event::Settled(_) | Event::Soft { .. } => {}
                }
            }
            assert_eq!(funds, 10_000);
            begun.elapsed()
        });
        println!("open and reclaim: {opening:?}; open, lease and make the keyring: {ready:?}");
        best = best.min(opening + ready);
        if best.as_millis() < 500 {
            break;
        }
        database = open(&place);
        let holder = database.holder();
        database.transact(|tx| tx.feed(holder, &plans, NOW_S)).unwrap();
    }
    assert!(best.as_millis() < 1_000, "{best:?}");
}

fn settings() -> Settings {
    Settings {
        cores: 4,
        ledger_days: 90,
        sums_days: 800,
        webhook: None,
    }
}
