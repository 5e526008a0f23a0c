//! A seeded simulation of cores, replicas, crashes, mistaken deaths and clock jumps over one budget: 100,000 schedules, checked after each
//! step. A failure names its seed; `schedule(seed)` replays it.
//!
//! What is real: vault, feeders, accounts, purses and reservations. What is modelled: the provider and its bill, the store's
//! transaction (which can fail, or succeed and not be heard of), the clock, and death.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;
use crate::money::NanoUsd;

const SCHEDULES: u64 = 100_000;
const STEPS: u64 = 50;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A request under way, and what the provider charges for it if it was sent.
struct Flight {
    reservation: Reservation,
    period: u64,
    cost: u64,
    sent: bool,
}

struct Replica {
    holder: Holder,
    feeder: Feeder,
    purses: Vec<Rc<Purse>>,
    flights: Vec<Flight>,
    /// Of each core: the latest period that it admitted a request in.
    latest: Vec<u64>,
    /// What the store was asked, and its answer if it got that far.
    pending: Option<(Plan, Option<Done>)>,
    /// Others have taken it for dead, and it has not heard of that.
    fenced: bool,
}

struct World {
    random: Random,
    vault: Vault,
    replicas: Vec<Replica>,
    holders: Holder,
    now_s: u64,
    /// What the provider has charged, by period.
    bill: BTreeMap<u64, u64>,
    /// What the store had recorded of a period when it ended.
    closed: BTreeMap<u64, u64>,
    /// Whether requests may cost more than was reserved.
    estimates: bool,
    seen: Seen,
}

/// How often what the schedules are about has come about.
#[derive(Debug, Default)]
struct Seen {
    admitted: u64,
    exhausted: u64,
    not_leased: u64,
    unknown_cost: u64,
    lost_in_crash: u64,
    fenced: u64,
    store_failed: u64,
    periods: u64,
    beyond_limit: u64,
}

const BUDGET: BudgetId = BudgetId(3);

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let windows = [
            Window::Total,
            Window::Calendar(Span::Minute),
            Window::Calendar(Span::Day),
            Window::Rolling(Span::Minute),
            Window::Rolling(Span::Hour),
        ];
        let window = windows[random.below(5) as usize];
        let limit = NanoUsd([0, 5, 100, 10_000, 1_000_000][random.below(5) as usize]);
        let now_s = 1_000_000 + random.below(120);
        let mut world = Self {
            vault: Vault::new(limit, window, now_s),
            replicas: Vec::new(),
            holders: 0,
            now_s,
            bill: BTreeMap::new(),
            closed: BTreeMap::new(),
            estimates: random.below(4) == 0,
            seen: Seen::default(),
            random,
        };
        for _ in 0..=world.random.below(3) {
            let replica = world.start();
            world.replicas.push(replica);
        }
        world
    }

    fn start(&mut self) -> Replica {
        self.holders += 1;
        let cores = 1 + self.random.below(4) as u32;
        Replica {
            holder: self.holders,
            feeder: Feeder::new(self.vault.limit, self.vault.window, cores),
            purses: (0..cores).map(|_| Purse::new(cores)).collect(),
            flights: Vec::new(),
            latest: vec![0; cores as usize],
            pending: None,
            fenced: false,
        }
    }

    fn step(&mut self) {
        let at = self.random.below(self.replicas.len() as u64) as usize;
        match self.random.below(100) {
            0..30 => self.reserve(at),
            30..50 => self.end(at),
            50..56 => {
                let replica = &self.replicas[at];
                let core = self.random.below(replica.purses.len() as u64) as usize;
                replica.purses[core].tick();
            }
            56..90 => self.sync(at),
            90..92 => self.crash(at),
            92 => self.fence(at),
            93..97 => self.jump(),
            97 => {
                let before = self.vault.clone();
                self.vault.top_up(NanoUsd(self.random.below(50)), self.now_s);
                self.close_period(&before);
            }
            98 => {
                self.vault.limit = NanoUsd(self.vault.limit.0.saturating_mul(1 + self.random.below(3)).max(1));
                let limit = self.vault.limit;
                self.replicas
                    .iter_mut()
                    .for_each(|replica| replica.feeder.set_limit(limit));
            }
            _ => self.now_s += 1,
        }
    }

    fn jump(&mut self) {
        let far = [1, 7, 59, 61, 3_600, 90_000][self.random.below(6) as usize];
        if self.random.below(3) == 0 {
            self.now_s = self.now_s.saturating_sub(far);
        } else {
            self.now_s += far;
        }
    }

    fn reserve(&mut self, at: usize) {
        let largest = (self.vault.limit.0 / (1 + self.random.below(20))).max(1);
        let amount = self.random.below(largest + 1);
        let cost = if self.estimates {
            self.random.below(2 * amount + 1)
        } else {
            self.random.below(amount + 1)
        };
        let replica = &mut self.replicas[at];
        let core = self.random.below(replica.purses.len() as u64) as usize;
        // Clocks of cores differ a little.
        let now_s = self.now_s + self.random.below(2);
        let purse = &replica.purses[core];
        match purse.reserve(&[BUDGET], NanoUsd(amount), now_s) {
            Ok(reservation) => {
                let Some(period) = reservation.period() else { return };
                assert!(period >= replica.latest[core], "a period opened again");
                replica.latest[core] = period;
                self.seen.admitted += 1;
                replica.flights.push(Flight {
                    reservation,
                    period,
                    cost,
                    sent: false,
                });
            }
            Err(refused) if refused.why == Refusal::Exhausted => self.seen.exhausted += 1,
            Err(_) => self.seen.not_leased += 1,
        }
    }

    fn end(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        if replica.flights.is_empty() {
            return;
        }
        let which = self.random.below(replica.flights.len() as u64) as usize;
        if !replica.flights[which].sent {
            replica.flights[which].sent = true;
            replica.flights[which].reservation.sent();
            return;
        }
        let flight = replica.flights.swap_remove(which);
        match self.random.below(4) {
            // Refused by the provider, which charges nothing.
            0 => flight.reservation.release(),
            // The client has gone, nobody knows what it cost.
            1 if !self.estimates => {
                *self.bill.entry(flight.period).or_default() += flight.cost;
                self.seen.unknown_cost += 1;
                drop(flight.reservation);
            }
            _ => {
                *self.bill.entry(flight.period).or_default() += flight.cost;
                flight.reservation.settle(NanoUsd(flight.cost));
            }
        }
    }

    /// One third of talking to the store: ask, be heard, hear.
    fn sync(&mut self, at: usize) {
        let replicas = self.replicas.len() as u64;
        let replica = &mut self.replicas[at];
        match replica.pending.take() {
            None => {
                let plan = replica.feeder.plan(self.now_s);
                replica.pending = (!plan.is_empty()).then_some((plan, None));
            }
            Some((plan, None)) if self.random.below(8) == 0 => {
                self.seen.store_failed += 1;
                replica.feeder.failed(&plan);
            }
            Some((plan, None)) if replica.fenced => {
                replica.feeder.failed(&plan);
                self.hear_of_fence(at);
            }
            Some((plan, None)) => {
                let before = self.vault.clone();
                let done = plan.apply(&mut self.vault, replica.holder, replicas, self.now_s);
                self.close_period(&before);
                self.replicas[at].pending = Some((plan, Some(done)));
            }
            Some((plan, Some(done))) => {
                for account in replica.feeder.done(&plan, &done) {
                    replica
                        .purses
                        .iter()
                        .for_each(|purse| purse.fund(BUDGET, account.clone()));
                }
            }
        }
    }

    fn close_period(&mut self, before: &Vault) {
        if before.period != self.vault.period {
            assert!(before.period < self.vault.period, "a period opened again");
            self.closed
                .insert(before.period, before.spent.0 + before.leased(before.period).0);
            // Of a period that was skipped, what was leased ahead of time.
            for lease in before.leases.iter().filter(|lease| lease.period < self.vault.period) {
                self.closed
                    .entry(lease.period)
                    .or_insert_with(|| before.leased(lease.period).0);
            }
            self.seen.periods += 1;
        }
    }

    /// A replica dies, and is replaced by one that counts what it had leased as spent.
    fn crash(&mut self, at: usize) {
        let next = self.start();
        let dead = std::mem::replace(&mut self.replicas[at], next);
        for flight in &dead.flights {
            if flight.sent {
                self.seen.lost_in_crash += 1;
                *self.bill.entry(flight.period).or_default() += flight.cost;
            }
        }
        let before = self.vault.clone();
        self.vault.reclaim(&|holder| holder != dead.holder, self.now_s);
        self.close_period(&before);
    }

    /// A replica is taken for dead that is not: it goes on spending what it has.
    fn fence(&mut self, at: usize) {
        let fenced = self.replicas[at].holder;
        self.replicas[at].fenced = true;
        let before = self.vault.clone();
        self.vault.reclaim(&|holder| holder != fenced, self.now_s);
        self.close_period(&before);
        self.seen.fenced += 1;
    }

    /// It goes on under another name.
    fn hear_of_fence(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        if std::mem::take(&mut replica.fenced) {
            self.holders += 1;
            replica.holder = self.holders;
            replica.feeder.fenced();
        }
    }

    fn check(&mut self) {
        let vault = &self.vault;
        let counted = vault.limit.0 + vault.extra.0;
        let used = vault.spent.0 + vault.leased(vault.period).0;
        let balance = i128::from(vault.remaining(vault.period)) + i128::from(used);
        assert_eq!(balance, i128::from(counted), "the vault's conservation");
        let slices: u64 = vault.slices.iter().map(|(_, amount)| amount.0).sum();
        assert!(!matches!(vault.window, Window::Rolling(_)) || slices == vault.spent.0);
        for replica in &self.replicas {
            for (account, granted, told) in replica.feeder.books() {
                let held: u64 = replica.purses.iter().map(|purse| purse.held(BUDGET, account)).sum();
                let known = i128::from(account.free()) + i128::from(held) + i128::from(account.spent());
                assert_eq!(known, i128::from(granted), "the account's conservation");
                let period = account.period().index;
                let of = |lease: &&Lease| (lease.holder, lease.period) == (replica.holder, period);
                let lease = vault.leases.iter().find(of).map_or(0, |lease| lease.amount.0);
                if replica.pending.is_none() && !replica.fenced {
                    assert_eq!(
                        lease,
                        granted.saturating_sub(told),
                        "what is leased is what was granted and not told"
                    );
                }
            }
            let reserved: u64 = replica.purses.iter().map(|purse| purse.reserved().0).sum();
            let flights: u64 = replica.flights.iter().map(|flight| flight.reservation.amount().0).sum();
            assert_eq!(reserved, flights, "what is reserved is what is under way");
        }
        self.seen.beyond_limit += u64::from(used > counted);
        if !self.estimates && matches!(vault.window, Window::Calendar(_) | Window::Total) {
            assert!(used <= counted, "spent {used} of {counted}");
            for (period, bill) in &self.bill {
                let open = if *period == vault.period {
                    used
                } else {
                    vault.leased(*period).0
                };
                let recorded = self.closed.get(period).copied().unwrap_or(open);
                assert!(*bill <= recorded, "billed {bill}, recorded {recorded} in {period}");
            }
        }
    }

    /// Traffic stops: nothing stays reserved, and everything that was not spent can be spent.
    fn settle_down(&mut self) {
        for replica in &mut self.replicas {
            replica.flights.clear();
        }
        for at in 0..self.replicas.len() {
            self.replicas[at].purses.iter().for_each(|purse| purse.close());
            // Whatever was being asked is answered first.
            while self.replicas[at].pending.is_some() {
                self.sync(at);
            }
            self.hear_of_fence(at);
            let plan = self.replicas[at].feeder.close();
            let before = self.vault.clone();
            let done = plan.apply(&mut self.vault, self.replicas[at].holder, 1, self.now_s);
            self.close_period(&before);
            self.replicas[at].feeder.done(&plan, &done);
            self.check_without_bill();
            assert!(
                self.replicas[at]
                    .feeder
                    .books()
                    .all(|(_, granted, told)| granted == told)
            );
        }
        let alive = |lease: &&Lease| lease.holder != 0;
        assert_eq!(self.vault.leases.iter().find(alive), None, "a lease was left behind");
    }

    fn check_without_bill(&self) {
        let vault = &self.vault;
        let used = i128::from(vault.spent.0) + i128::from(vault.leased(vault.period).0);
        assert_eq!(
            i128::from(vault.remaining(vault.period)) + used,
            i128::from(vault.limit.0) + i128::from(vault.extra.0)
        );
    }
}

fn schedule(seed: u64) -> Seen {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.settle_down();
    world.seen
}

fn explore(seeds: std::ops::Range<u64>) {
    let mut total = Seen::default();
    for seed in seeds {
        match std::panic::catch_unwind(|| schedule(seed)) {
            Ok(seen) => total.add(&seen),
            Err(panic) => {
                eprintln!("replay with: schedule({seed})");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{total:?}");
    assert!(total.least() > 2, "the schedules miss what they are about: {total:?}");
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.admitted += other.admitted;
        self.exhausted += other.exhausted;
        self.not_leased += other.not_leased;
        self.unknown_cost += other.unknown_cost;
        self.lost_in_crash += other.lost_in_crash;
        self.fenced += other.fenced;
        self.store_failed += other.store_failed;
        self.periods += other.periods;
        self.beyond_limit += other.beyond_limit;
    }

    fn least(&self) -> u64 {
        let refused = self.exhausted.min(self.not_leased);
        let ended = self.unknown_cost.min(self.lost_in_crash).min(self.fenced);
        let stored = self.store_failed.min(self.periods);
        self.admitted.min(refused).min(ended).min(stored).min(self.beyond_limit)
    }
}

#[test]
fn money_is_conserved_in_every_schedule_of_the_first_half() {
    explore(0..SCHEDULES / 2);
}

#[test]
fn money_is_conserved_in_every_schedule_of_the_second_half() {
    explore(SCHEDULES / 2..SCHEDULES);
}
