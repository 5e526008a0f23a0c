//! What is PostgreSQL's alone: several replicas, their deaths, and a server that is gone for a while.

use super::*;

const PATIENCE: Duration = Duration::from_secs(2);

fn replica(server: &Postgres) -> Store {
    Store::connect_with(&server.url(), NOW_S, PATIENCE).unwrap().0
}

/// A replica's side of the only budget.
struct Core {
    feeder: Feeder,
    purse: std::rc::Rc<Purse>,
    spent: u64,
}

impl Core {
    fn new(limit: u64) -> Self {
        Self {
            feeder: Feeder::new(NanoUsd(limit), Window::Total, 1),
            purse: Purse::new(1),
            spent: 0,
        }
    }

    /// As the treasury does it.
    fn feed(&mut self, store: &Store, holder: &mut Holder, row: i64) {
        let plan = self.feeder.plan(NOW_S);
        if plan.is_empty() {
            return;
        }
        match block_on(store.feed(*holder, Arc::new([(row, plan.clone())]), NOW_S)) {
            Ok(done) => {
                for account in self.feeder.done(&plan, &done[0]) {
                    self.purse.fund(sluice_policy::budget::BudgetId(0), account);
                }
            }
            Err(StoreError::Fenced) => {
                self.feeder.failed(&plan);
                self.feeder.fenced();
                *holder = store.holder();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn spend(&mut self, amount: u64) -> bool {
        let reserved = self
            .purse
            .reserve(&[sluice_policy::budget::BudgetId(0)], NanoUsd(amount), NOW_S);
        let is_admitted = reserved.is_ok();
        if let Ok(reservation) = reserved {
            reservation.settle(NanoUsd(amount));
            self.spent += amount;
        }
        self.purse.tick();
        is_admitted
    }
}

fn vault(store: &Store, row: i64) -> sluice_policy::budget::Vault {
    block_on(store.ask(move |tx| Ok(tx.vaults_now()?[&row].clone()))).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn replicas_share_a_budget_to_its_last_cent_and_never_beyond() {
    const LIMIT: u64 = 20_000;
    let Some(server) = Postgres::start() else { return };
    let first = replica(&server);
    let row = block_on(first.ask(|tx| populate(tx, LIMIT, Window::Total))).unwrap();
    let spent = Arc::new(AtomicU64::new(0));
    let replicas: Vec<_> = (0..3)
        .map(|_| {
            let (url, spent) = (server.url(), spent.clone());
            std::thread::spawn(move || {
                let (mut store, _) = Store::connect_with(&url, NOW_S, PATIENCE).unwrap();
                let (mut core, mut holder) = (Core::new(LIMIT), store.holder());
                let mut refused = 0;
                while refused < 100 {
                    core.feed(&store, &mut holder, row);
                    refused = if core.spend(7) { 0 } else { refused + 1 };
                }
                spent.fetch_add(core.spent, Ordering::Relaxed);
                core.purse.close();
                let plan = core.feeder.close();
                block_on(store.feed(holder, Arc::new([(row, plan)]), NOW_S)).unwrap();
                store.close();
            })
        })
        .collect();
    replicas.into_iter().for_each(|replica| replica.join().unwrap());
    let (spent, vault) = (spent.load(Ordering::Relaxed), vault(&first, row));
    assert_eq!((vault.spent.0, vault.leases.len()), (spent, 0));
    assert!((LIMIT - 600..=LIMIT).contains(&spent), "{spent}");
}

#[test]
fn a_replica_that_dies_is_noticed_and_one_that_only_slept_goes_on_without_counting_twice() {
    const LIMIT: u64 = 16_000;
    let Some(server) = Postgres::start() else { return };
    let watcher = replica(&server);
    let row = block_on(watcher.ask(|tx| populate(tx, LIMIT, Window::Total))).unwrap();
    // A database that nobody beats for: as a process that is stopped.
    let health = Arc::new(Health::default());
    let (mut sleeper, _) = Server::connect(&server.url(), NOW_S, PATIENCE, health).unwrap();
    let mut core = Core::new(LIMIT);
    let plan = core.feeder.plan(NOW_S);
    let (holder, plans) = (sleeper.holder(), [(row, plan.clone())]);
    let done = sleeper.transact(|tx| tx.feed(holder, &plans, NOW_S)).unwrap();
    for account in core.feeder.done(&plan, &done[0]) {
        core.purse.fund(sluice_policy::budget::BudgetId(0), account);
    }
    let leased = vault(&watcher, row).leased(0).0;
    assert!(leased > 100 && core.spend(100));
    until("the sleeper's lease counts as spent", || {
        vault(&watcher, row).spent.0 == leased
    });
    // It wakes up, and spends what it has.
    while core.spend(100) {}
    assert!(core.spent > 100 && core.spent <= leased);
    let plan = core.feeder.plan(NOW_S);
    let plans = [(row, plan.clone())];
    let fenced = sleeper.transact(|tx| tx.within(|tx| tx.feed(holder, &plans, NOW_S).map(drop)));
    assert!(matches!(fenced, Err(Error::Conflict(_))), "{fenced:?}");
    let fenced = sleeper.transact(|tx| tx.within(|tx| tx.feed(holder, &plans, NOW_S).map(drop)));
    assert_eq!(fenced, Ok(Err(StoreError::Fenced)), "it has another name now");
    assert_ne!(sleeper.holder(), holder);
    core.feeder.failed(&plan);
    core.feeder.fenced();
    let plan = core.feeder.plan(NOW_S);
    let (holder, plans) = (sleeper.holder(), [(row, plan.clone())]);
    let done = sleeper.transact(|tx| tx.feed(holder, &plans, NOW_S)).unwrap();
    core.feeder.done(&plan, &done[0]);
    assert_eq!(vault(&watcher, row).spent.0, leased, "nothing was counted twice");
    assert!(core.spend(100));
    sleeper.close(NOW_S);
    until("what it held at its end counts as spent", || {
        vault(&watcher, row).leases.is_empty()
    });
}

#[test]
fn what_one_replica_changes_the_others_hear_of_in_under_two_seconds() {
    let Some(server) = Postgres::start() else { return };
    let (one, other) = (replica(&server), replica(&server));
    for _ in 0..3 {
        let begun = Instant::now();
        block_on(async {
            let name = format!("team-{}", fastrand::u32(..));
            let change = move |tx: &mut Tx<'_>| tx.add_scope(&change(), ScopeKind::Team, &name, None, None);
            one.ask(change).await.unwrap();
            other.changed().await;
        });
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    let heard = block_on(async { tokio::time::timeout(Duration::from_millis(1_500), one.changed()).await });
    assert!(heard.is_err(), "nobody is told of his own changes");
}

#[test]
fn a_server_that_is_killed_or_frozen_delays_and_neither_loses_nor_doubles() {
    let Some(mut server) = Postgres::start() else { return };
    let store = Arc::new(replica(&server));
    let row = block_on(store.ask(|tx| populate(tx, 1_000_000, Window::Total))).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let worker = std::thread::spawn({
        let (store, done, stop) = (store.clone(), done.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                let spend = move |tx: &mut Tx<'_>| {
                    tx.vault(row)?.settle(0, 0, NanoUsd(1), NOW_S);
                    tx.record(&[entry(1), entry(1)])
                };
                block_on(store.ask(spend)).unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let goes_on = |what: &str| {
        let before = done.load(Ordering::Relaxed);
        until(what, || done.load(Ordering::Relaxed) > before + 20);
    };
    goes_on("it works");
    for _ in 0..3 {
        server.kill();
        until("it is noticed", || store.health().is_failing());
        server.revive();
        goes_on("it works again");
    }
    server.freeze();
    until("it is noticed", || store.health().is_failing());
    server.thaw();
    goes_on("it works again");
    stop.store(true, Ordering::Relaxed);
    worker.join().unwrap();
    let spent = vault(&store, row).spent.0;
    let rows = block_on(store.ask(|tx| count(tx, "SELECT count(*) FROM ledger"))).unwrap();
    assert_eq!(
        (spent, rows),
        (done.load(Ordering::Relaxed), 2 * done.load(Ordering::Relaxed))
    );
}

#[test]
fn a_url_that_is_wrong_is_refused_without_repeating_it() {
    let begun = Instant::now();
    for url in [
        "postgres://user:geheim@127.0.0.1:1/x",
        "postgres://user:geheim@127.0.0.1:port/x",
    ] {
        let refused = Store::at(url, NOW_S, false).err().unwrap();
        assert!(!format!("{refused:#}").contains("geheim"), "{refused:#}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let Some(server) = Postgres::start() else { return };
    let mut store = replica(&server);
    block_on(store.ask(|tx| tx.sql.execute("UPDATE meta SET value = 99 WHERE name = 'version'", &[]))).unwrap();
    store.close();
    let refused = Store::connect(&server.url(), NOW_S).err().unwrap();
    assert!(format!("{refused:#}").contains("version 99"), "{refused:#}");
}
