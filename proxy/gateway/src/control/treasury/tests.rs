//! The whole way from a client's key to the store's record, with threads for cores, and with deaths.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sluice_policy::budget::{Purse, Refusal, Span, Window};
use sluice_policy::keyring::VirtualKey;
use sluice_policy::rate::{Ask, Pass, Unit};

use super::super::store::tests::cluster::Postgres;
use super::super::store::{Change, LimitRow, NewKey, ScopeKind, Tx};
use super::*;

const SETTINGS: Settings = Settings {
    cores: 3,
    ledger_days: 30,
    sums_days: 400,
    webhook: None,
};

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sluice-treasury-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn store(&self) -> Store {
        Store::open(&self.0.join("sluice.db"), unix_s(), false).unwrap().0
    }

    fn path(&self) -> &Path {
        &self.0
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
        unix_s: unix_s(),
    }
}

fn budget(scope: i64, limit: u64, soft: Option<u64>) -> BudgetRow {
    BudgetRow {
        id: 0,
        scope,
        limit: NanoUsd(limit),
        soft: soft.map(NanoUsd),
        window: Window::Rolling(Span::Day),
        provider: None,
        model: None,
    }
}

/// A customer, a team and a key, each with a budget; the key's with a soft limit and a limit of requests at a time.
fn populate(tx: &mut Tx<'_>, limit: u64) -> crate::control::store::Result<i64> {
    let key = VirtualKey::from_random(&[1; 32]);
    let key = NewKey {
        digest: key.digest(),
        hint: key.hint().to_owned(),
        expires_s: None,
    };
    let customer = tx.add_scope(&change(), ScopeKind::Customer, "acme", None, None)?;
    let team = tx.add_scope(&change(), ScopeKind::Team, "press-line-2", Some(customer), None)?;
    let key = tx.add_scope(&change(), ScopeKind::Key, "station-7", Some(team), Some(&key))?;
    tx.add_budget(&change(), &budget(customer, 10 * limit, None))?;
    tx.add_budget(&change(), &budget(team, 3 * limit, None))?;
    tx.add_limit(
        &change(),
        &LimitRow {
            id: 0,
            scope: key,
            unit: "concurrent".to_owned(),
            window: Window::Total,
            most: 2,
            provider: None,
            model: None,
        },
    )?;
    tx.add_budget(&change(), &budget(key, limit, Some(limit / 2)))
}

fn credential() -> VirtualKey {
    VirtualKey::from_random(&[1; 32])
}

/// What a core would have been told so far.
fn obey(events: &mut mpsc::UnboundedReceiver<Event>, purses: &[&Purse], keyring: &mut Arc<Keyring>) -> bool {
    let mut warned = false;
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Funds(funds) => {
                for purse in purses {
                    funds.iter().for_each(|(id, account)| purse.fund(*id, account.clone()));
                }
            }
            Event::Keyring(new) => *keyring = new,
            Event::Settled(whoever) => drop(whoever),
            Event::Soft { owner, spent, limit } => {
                assert!(&*owner == "station-7" && spent.0 >= limit.0 / 2);
                assert!(!std::mem::replace(&mut warned, true), "it was told twice");
            }
        }
    }
    warned
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_key_spends_its_budgets_and_its_owner_is_warned_once() {
    let place = Place::new("way");
    let (row, spent) = runtime().block_on(async {
        let store = place.store();
        let row = store.ask(|tx| populate(tx, 1_000_000)).await.unwrap();
        let (treasury, mut events) = Treasury::start(store, SETTINGS).await.unwrap();
        let purse = Purse::new(1);
        let mut keyring = Arc::new(Keyring::default());
        assert!(!obey(&mut events, &[&purse], &mut keyring));
        let caller = keyring.find(credential().expose().as_bytes(), unix_s()).unwrap();
        let budgets: Vec<BudgetId> = keyring.budgets(caller, "openai", "gpt-5").collect();
        assert_eq!(budgets.len(), 3);
        let pass = || {
            let mut pass = Pass::default();
            let limits = keyring.limits(caller, "openai", "gpt-5");
            let limits = limits.map(|id| keyring.limiter(id).clone());
            pass.enter(limits, Ask::default(), unix_s()).map(|()| pass)
        };
        let held = (pass().unwrap(), pass().unwrap());
        assert!(pass().is_err(), "two at a time");
        drop(held);
        let mut spent = 0;
        let mut warnings = 0;
        let mut idle = 0;
        while idle < 40 {
            match purse.reserve(&budgets, NanoUsd(9_999), unix_s()) {
                Ok(reservation) => {
                    reservation.settle(NanoUsd(9_000));
                    spent += 9_000;
                    idle = 0;
                }
                Err(refused) => {
                    assert!(matches!(refused.why, Refusal::Exhausted | Refusal::NotLeased));
                    idle += 1;
                    purse.tick();
                    tokio::time::sleep(PERIOD).await;
                    warnings += usize::from(obey(&mut events, &[&purse], &mut keyring.clone()));
                }
            }
        }
        assert!((980_000..=1_000_000).contains(&spent), "{spent}");
        assert_eq!(warnings, 1);
        purse.close();
        treasury.close().await;
        (row, spent)
    });
    let store = place.store();
    let recorded = runtime()
        .block_on(store.ask(move |tx| Ok(tx.vault(row)?.clone())))
        .unwrap();
    assert_eq!(
        (recorded.spent.0, recorded.leases.len()),
        (spent, 0),
        "{:?}",
        place.path()
    );
}

#[test]
fn changes_come_into_force_without_losing_what_is_used() {
    let place = Place::new("changes");
    runtime().block_on(async {
        let store = place.store();
        let row = store.ask(|tx| populate(tx, 1_000)).await.unwrap();
        let (treasury, mut events) = Treasury::start(store, SETTINGS).await.unwrap();
        let purse = Purse::new(1);
        let mut keyring = Arc::new(Keyring::default());
        obey(&mut events, &[&purse], &mut keyring);
        let caller = keyring.find(credential().expose().as_bytes(), unix_s()).unwrap();
        let mut held = Pass::default();
        let limits = keyring.limits(caller, "a", "b").map(|id| keyring.limiter(id).clone());
        held.enter(limits, Ask::default(), unix_s()).unwrap();
        let budgets: Vec<BudgetId> = keyring.budgets(caller, "a", "b").collect();
        purse
            .reserve(&budgets, NanoUsd(10), unix_s())
            .unwrap()
            .settle(NanoUsd(10));
        treasury
            .store()
            .ask(move |tx| tx.delete_budget(&change(), row))
            .await
            .unwrap();
        treasury
            .store()
            .ask(|tx| tx.set_disabled(&change(), 1, false))
            .await
            .unwrap();
        treasury
            .store()
            .ask(|tx| tx.add_budget(&change(), &budget(3, 77_000, None)))
            .await
            .unwrap();
        treasury.reload().await.unwrap();
        let mut next = keyring.clone();
        obey(&mut events, &[&purse], &mut next);
        let caller = next.find(credential().expose().as_bytes(), unix_s()).unwrap();
        let now: Vec<BudgetId> = next.budgets(caller, "a", "b").collect();
        assert_eq!(now[1..], budgets[1..], "a budget keeps its number");
        assert_ne!(now[0], budgets[0], "and a new one gets its own");
        purse.reserve(&now, NanoUsd(100), unix_s()).unwrap().release();
        let standing = next
            .limiter(next.limits(caller, "a", "b").next().unwrap())
            .standing(unix_s());
        assert_eq!(standing.remaining, 1, "what is under way is known to the new keyring");
        drop(held);
        treasury
            .store()
            .ask(|tx| tx.set_disabled(&change(), 1, true))
            .await
            .unwrap();
        treasury.reload().await.unwrap();
        obey(&mut events, &[&purse], &mut next);
        assert!(next.find(credential().expose().as_bytes(), unix_s()).is_err());
        treasury.record(vec![Entry::default(); 3]);
        purse.close();
        let store = treasury.store().clone();
        treasury.close().await;
        let rows = store
            .ask(|tx| tx.sql.one("SELECT count(*) FROM ledger", &[])?.get::<i64>(0))
            .await;
        assert_eq!(rows, Ok(3));
    });
}

/// Cores on threads of their own spend as fast as they can until the process is killed; the provider keeps a bill.
fn live_and_die(place: &Place, seed: u64) -> u64 {
    let bill = Arc::new(AtomicU64::new(0));
    let killed = Arc::new(AtomicBool::new(false));
    let runtime = runtime();
    let (treasury, mut events) = runtime.block_on(Treasury::start(place.store(), SETTINGS)).unwrap();
    let mut cores = Vec::new();
    let mut ways = Vec::new();
    for core in 0..u64::from(SETTINGS.cores) {
        let (way, orders) = std::sync::mpsc::channel::<Funds>();
        ways.push(way);
        let (bill, killed) = (bill.clone(), killed.clone());
        cores.push(std::thread::spawn(move || {
            let purse = Purse::new(SETTINGS.cores);
            let mut under_way = Vec::new();
            let mut random = fastrand::Rng::with_seed(seed ^ core << 32);
            while !killed.load(Ordering::Relaxed) {
                for funds in orders.try_iter() {
                    funds.iter().for_each(|(id, account)| purse.fund(*id, account.clone()));
                }
                let budgets = [0, 1, 2].map(BudgetId);
                if let Ok(mut reservation) = purse.reserve(&budgets, NanoUsd(500), unix_s()) {
                    let cost = random.u64(0..=500);
                    reservation.sent();
                    // The provider charges when it answers, whoever is there to hear it.
                    bill.fetch_add(cost, Ordering::Relaxed);
                    under_way.push((reservation, cost));
                } else {
                    std::thread::yield_now();
                }
                while under_way.len() > random.usize(0..8) {
                    let (reservation, cost) = under_way.swap_remove(0);
                    reservation.settle(NanoUsd(cost));
                }
                if random.u8(0..16) == 0 {
                    purse.tick();
                }
            }
        }));
    }
    runtime.block_on(async {
        let end = tokio::time::Instant::now() + Duration::from_millis(60 + seed % 150);
        while let Ok(Some(event)) = tokio::time::timeout_at(end, events.recv()).await {
            if let Event::Funds(funds) = event {
                ways.iter().for_each(|way| drop(way.send(funds.clone())));
            }
        }
        treasury.task.abort();
    });
    killed.store(true, Ordering::Relaxed);
    cores.into_iter().for_each(|core| core.join().unwrap());
    bill.load(Ordering::Relaxed)
}

#[test]
fn whatever_moment_a_process_is_killed_the_record_is_between_the_bill_and_the_limit() {
    const LIMIT: u64 = 400_000;
    let place = Place::new("killed");
    runtime().block_on(place.store().ask(|tx| populate(tx, LIMIT))).unwrap();
    let mut bill = 0;
    for life in 0..12 {
        bill += live_and_die(&place, life * 37);
        let store = place.store();
        let spent = runtime().block_on(store.ask(|tx| Ok(tx.vault(3)?.spent.0))).unwrap();
        assert!(
            bill <= spent && spent <= LIMIT,
            "life {life}: billed {bill}, recorded {spent} of {LIMIT}"
        );
    }
    assert!(bill > LIMIT / 2, "the lives were too short to say anything: {bill}");
}

/// One of the gateways that share a store.
struct Replica {
    treasury: Treasury,
    keyring: Arc<Keyring>,
}

impl Replica {
    async fn start(url: &str) -> Self {
        let url = url.to_owned();
        let connect = move || Store::connect(&url, unix_s()).unwrap().0;
        let store = tokio::task::spawn_blocking(connect).await.unwrap();
        let (treasury, mut events) = Treasury::start(store, SETTINGS).await.unwrap();
        let mut keyring = Arc::new(Keyring::default());
        obey(&mut events, &[], &mut keyring);
        Self { treasury, keyring }
    }

    fn limiter(&self, unit: Unit) -> Arc<Limiter> {
        let caller = self.keyring.find(credential().expose().as_bytes(), unix_s()).unwrap();
        let limits = self.keyring.limits(caller, "a", "b").map(|id| self.keyring.limiter(id));
        limits
            .into_iter()
            .find(|limiter| limiter.unit() == unit)
            .unwrap()
            .clone()
    }

    fn enter(&self, unit: Unit) -> Option<Pass<Arc<Limiter>>> {
        let mut pass = Pass::default();
        let entered = pass.enter([self.limiter(unit)], Ask::default(), unix_s());
        entered.ok().map(|()| pass)
    }

    fn remaining(&self, unit: Unit) -> u64 {
        self.limiter(unit).standing(unix_s()).remaining
    }

    async fn remains(&self, unit: Unit, expected: u64) {
        let reached = async {
            while self.remaining(unit) != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
        let now = self.remaining(unit);
        assert!(reached.is_ok(), "{now} {} remain instead of {expected}", unit.name());
    }
}

#[test]
fn replicas_know_of_each_others_rate_limits_and_of_their_own_after_a_restart() {
    let Some(server) = Postgres::start() else { return };
    let (store, _) = Store::connect(&server.url(), unix_s()).unwrap();
    let limit = |unit: Unit| LimitRow {
        id: 0,
        scope: 3,
        unit: unit.name().to_owned(),
        window: Window::Total,
        most: 20,
        provider: None,
        model: None,
    };
    runtime().block_on(async {
        store.ask(|tx| populate(tx, 1_000_000)).await.unwrap();
        let made = move |tx: &mut Tx<'_>| tx.add_limit(&change(), &limit(Unit::Requests));
        let row = store.ask(made).await.unwrap();
        let (first, second) = (Replica::start(&server.url()).await, Replica::start(&server.url()).await);
        let under_way = first.enter(Unit::Concurrent).unwrap();
        for _ in 0..7 {
            first.enter(Unit::Requests).unwrap().settle(Ask::default());
        }
        second.remains(Unit::Requests, 13).await;
        second.remains(Unit::Concurrent, 1).await;
        for _ in 0..13 {
            second.enter(Unit::Requests).unwrap().settle(Ask::default());
        }
        assert!(second.enter(Unit::Requests).is_none(), "the limit is one for both");
        first.remains(Unit::Requests, 0).await;
        drop(under_way);
        second.remains(Unit::Concurrent, 2).await;

        // What a replica has counted outlives it, all but what was under way.
        let under_way = first.enter(Unit::Concurrent).unwrap();
        second.remains(Unit::Concurrent, 1).await;
        first.treasury.close().await;
        second.remains(Unit::Concurrent, 2).await;
        drop(under_way);
        let third = Replica::start(&server.url()).await;
        assert_eq!(third.remaining(Unit::Requests), 0, "known before the first request");
        third.treasury.close().await;

        // A limit that is gone leaves nothing behind.
        let kept = store.ask(move |tx| {
            tx.forget_counts(unix_s())?;
            let kept = tx.sql.one("SELECT count(*) FROM counts", &[])?.get::<i64>(0)?;
            tx.delete_limit(&change(), row)?;
            tx.forget_counts(unix_s())?;
            Ok((kept, tx.sql.one("SELECT count(*) FROM counts", &[])?.get::<i64>(0)?))
        });
        let (kept, left) = kept.await.unwrap();
        assert!(kept >= 2 && left <= 1, "{kept} {left}");
        second.treasury.close().await;
    });
}

#[test]
fn a_replica_that_was_taken_for_dead_does_not_count_twice() {
    let Some(server) = Postgres::start() else { return };
    let (store, _) = Store::connect(&server.url(), unix_s()).unwrap();
    runtime().block_on(async {
        store.ask(|tx| populate(tx, 1_000_000)).await.unwrap();
        let (first, second) = (Replica::start(&server.url()).await, Replica::start(&server.url()).await);
        let pass = first.enter(Unit::Concurrent).unwrap();
        second.remains(Unit::Concurrent, 1).await;
        let holder = first.treasury.store().holder();
        let fence = move |tx: &mut Tx<'_>| {
            let fence = "UPDATE replicas SET gone = 1 WHERE id = ?1";
            tx.sql.execute(fence, &[holder.into()])
        };
        assert_eq!(store.ask(fence).await, Ok(1));
        let renamed = async {
            while first.treasury.store().holder() == holder {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), renamed).await.unwrap();
        second.remains(Unit::Concurrent, 1).await;
        first.remains(Unit::Concurrent, 1).await;
        drop(pass);
        second.remains(Unit::Concurrent, 2).await;
        first.treasury.close().await;
        second.treasury.close().await;
    });
}
