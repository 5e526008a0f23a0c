//! What budgets promise to one request.

use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::money::NanoUsd;

const NOW_S: u64 = 1_000_000;
const A: BudgetId = BudgetId(0);
const B: BudgetId = BudgetId(1);

/// One process with its cores, and one budget in a vault.
struct Process {
    vault: Vault,
    feeder: Feeder,
    purses: Vec<Rc<Purse>>,
}

impl Process {
    fn new(limit: u64, window: Window, cores: u32) -> Self {
        let limit = NanoUsd(limit);
        let mut process = Self {
            vault: Vault::new(limit, window, NOW_S),
            feeder: Feeder::new(limit, window, cores),
            purses: (0..cores).map(|_| Purse::new(cores)).collect(),
        };
        process.feed(NOW_S);
        process
    }

    fn feed(&mut self, now_s: u64) {
        let plan = self.feeder.plan(now_s);
        let done = plan.apply(&mut self.vault, 1, 1, now_s);
        for account in self.feeder.done(&plan, &done) {
            self.purses.iter().for_each(|purse| purse.fund(A, account.clone()));
        }
    }

    fn reserve(&self, core: usize, amount: u64) -> Result<Reservation, Refused> {
        self.purses[core].reserve(&[A], NanoUsd(amount), NOW_S)
    }

    /// What is recorded as spent once everything has been told.
    fn spent(&mut self) -> u64 {
        self.purses.iter().for_each(|purse| purse.tick());
        self.feed(NOW_S);
        self.vault.spent.0
    }
}

fn account(granted: u64) -> Arc<Account> {
    let account = Account::new(Period::of(Window::Total, NOW_S), granted);
    account.grant(granted);
    account.set_exhausted(true);
    Arc::new(account)
}

#[test]
fn every_ending_of_a_reservation_charges_what_it_should_and_only_once() {
    let mut process = Process::new(16_000, Window::Total, 1);
    process.reserve(0, 100).unwrap().settle(NanoUsd(30));
    assert_eq!(process.spent(), 30);
    process.reserve(0, 100).unwrap().release();
    drop(process.reserve(0, 100).unwrap());
    assert_eq!(process.spent(), 30, "nothing was sent");
    let mut sent = process.reserve(0, 100).unwrap();
    sent.sent();
    drop(sent);
    assert_eq!(process.spent(), 130, "what the provider may bill is charged");
    let mut refused = process.reserve(0, 100).unwrap();
    refused.sent();
    refused.release();
    assert_eq!(process.spent(), 130, "a provider's refusal costs nothing");
    process.reserve(0, 100).unwrap().settle(NanoUsd(250));
    assert_eq!(
        process.spent(),
        380,
        "what it cost beyond the reservation is charged too"
    );
    assert_eq!(process.purses[0].reserved(), NanoUsd::ZERO);
}

#[test]
fn one_request_may_need_all_that_is_left_even_of_what_was_allowed_on_top() {
    for (spent, extra) in [(0, 0), (300, 0), (0, 500), (700, 500), (999, 10_000)] {
        let mut process = Process::new(1_000, Window::Total, 3);
        for _ in 0..spent {
            process
                .reserve(0, 1)
                .or_else(|_| {
                    process.feed(NOW_S);
                    process.reserve(0, 1)
                })
                .unwrap()
                .settle(NanoUsd(1));
        }
        process.vault.top_up(NanoUsd(extra), NOW_S);
        process.feeder.ask();
        let rest = 1_000 + extra - spent;
        // Two thirds of it, so that most of it is at hand, then all of it.
        for amount in [rest * 2 / 3, rest] {
            let admitted = (0..4).any(|_| {
                process.purses.iter().for_each(|purse| purse.tick());
                process.feed(NOW_S);
                process.reserve(1, amount).map(Reservation::release).is_ok()
            });
            assert!(admitted, "{amount} of {rest} left, {spent} spent, {extra} on top");
        }
        assert!(process.reserve(1, rest + 1).is_err());
    }
}

#[test]
fn a_budget_with_room_for_so_many_worst_cases_admits_so_many_on_any_cores() {
    for cores in [1, 2, 7] {
        for worst in [1, 10, 333, 1_000, 10_000] {
            let limit = 10_000;
            let mut process = Process::new(limit, Window::Total, cores);
            let mut held = Vec::new();
            for at in 0..limit / worst {
                let core = at as usize % cores as usize;
                // A refusal for want of a lease makes the control thread fetch one; no tick has passed on any core.
                let reservation = process.reserve(core, worst).or_else(|_| {
                    process.feed(NOW_S);
                    process.reserve(core, worst)
                });
                match reservation {
                    Ok(reservation) => held.push(reservation),
                    Err(refused) => {
                        let room = limit - held.len() as u64 * worst;
                        let lease = process.feeder.lease().0;
                        assert!(
                            room < worst + lease,
                            "{cores} cores, {worst}: {refused:?} with room for {room}"
                        );
                        break;
                    }
                }
            }
            // After a tick nobody keeps what another needs.
            process.purses.iter().for_each(|purse| purse.tick());
            process.purses.iter().for_each(|purse| purse.tick());
            while held.len() as u64 * worst + worst <= limit {
                process.feed(NOW_S);
                held.push(process.reserve(0, worst).unwrap());
            }
            assert!(process.reserve(0, limit % worst + 1).is_err());
        }
    }
}

#[test]
fn what_is_free_again_can_be_spent_at_once() {
    let process = Process::new(1_600, Window::Total, 2);
    process.purses[0].close();
    let all = process.purses[0].affordable(&[A], NOW_S).unwrap();
    let reservation = process.reserve(0, all.0).unwrap();
    assert!(process.reserve(1, 1).is_err());
    reservation.settle(NanoUsd(1));
    // Near the limit a core keeps nothing: the other one finds it.
    process.reserve(1, all.0 - 1).unwrap().release();
}

#[test]
fn a_request_is_charged_to_all_of_its_budgets_or_to_none() {
    let purse = Purse::new(1);
    let (rich, poor) = (account(1_000), account(10));
    purse.fund(A, rich.clone());
    purse.fund(B, poor.clone());
    let refused = purse.reserve(&[A, B], NanoUsd(11), NOW_S).unwrap_err();
    assert_eq!((refused.budget, refused.why), (B, Refusal::Exhausted));
    assert_eq!(purse.reserved(), NanoUsd::ZERO);
    assert_eq!(purse.affordable(&[A, B], NOW_S), Ok(NanoUsd(10)));
    purse.reserve(&[A, B], NanoUsd(10), NOW_S).unwrap().settle(NanoUsd(4));
    purse.close();
    assert_eq!((rich.spent(), poor.spent()), (4, 4));
    assert_eq!((rich.free(), poor.free()), (996, 6));
}

#[test]
fn what_costs_nothing_is_admitted_by_a_budget_that_is_used_up() {
    let purse = Purse::new(1);
    purse.fund(A, account(0));
    assert!(purse.reserve(&[A], NanoUsd(1), NOW_S).is_err());
    purse
        .reserve(&[A, B], NanoUsd::ZERO, NOW_S)
        .unwrap()
        .settle(NanoUsd::ZERO);
}

#[test]
fn a_refusal_says_whether_the_budget_is_used_up_or_its_lease_is_late() {
    let purse = Purse::new(1);
    assert_eq!(
        purse.reserve(&[B], NanoUsd(1), NOW_S).unwrap_err().why,
        Refusal::NotLeased
    );
    let late = Arc::new(Account::new(Period::of(Window::Calendar(Span::Day), NOW_S), 0));
    purse.fund(B, late.clone());
    let refused = purse.reserve(&[B], NanoUsd(7), NOW_S).unwrap_err();
    assert_eq!(refused.why, Refusal::NotLeased);
    assert_eq!(refused.resets_s, 1_036_800, "the end of the day");
    assert_eq!(late.take_wanted(), 7);
    let many = [A; 17];
    assert_eq!(
        purse.reserve(&many, NanoUsd(1), NOW_S).unwrap_err().why,
        Refusal::OutOfBounds
    );
    let dear = NanoUsd(NanoUsd::LIMIT_MAX.0 + 1);
    assert_eq!(purse.reserve(&[A], dear, NOW_S).unwrap_err().why, Refusal::OutOfBounds);
}

#[test]
fn a_new_period_has_its_whole_limit_at_once_and_the_old_one_never_comes_back() {
    let window = Window::Calendar(Span::Minute);
    let begins_s = Period::of(window, NOW_S).ends_s;
    let mut process = Process::new(1_600, window, 1);
    while process
        .reserve(0, 100)
        .map(|reservation| reservation.settle(NanoUsd(100)))
        .is_ok()
        || process.spent() < 1_600
    {
        process.feed(NOW_S);
    }
    let straddling = process.purses[0].reserve(&[A], NanoUsd::ZERO, begins_s - 1).unwrap();
    process.feed(begins_s - 1);
    // The clock strikes; the store has not been asked since.
    let reservation = process.purses[0].reserve(&[A], NanoUsd(100), begins_s).unwrap();
    reservation.settle(NanoUsd(100));
    straddling.settle(NanoUsd::ZERO);
    process.purses[0].tick();
    process.feed(begins_s);
    assert_eq!(process.vault.spent.0, 100);
    // And is set back: the new period goes on.
    process.purses[0]
        .reserve(&[A], NanoUsd(50), NOW_S)
        .unwrap()
        .settle(NanoUsd(50));
    process.purses[0].tick();
    process.feed(NOW_S);
    assert_eq!(process.vault.spent.0, 150);
}

#[test]
fn a_rolling_window_frees_what_was_spent_once_it_is_older_than_the_window() {
    let mut process = Process::new(1_000, Window::Rolling(Span::Hour), 1);
    let mut now_s = NOW_S;
    let spend = |process: &mut Process, now_s: u64| {
        let mut total = 0;
        for _ in 0..110 {
            if let Ok(reservation) = process.purses[0].reserve(&[A], NanoUsd(10), now_s) {
                reservation.settle(NanoUsd(10));
                total += 10;
            }
            process.purses[0].tick();
            process.feeder.ask();
            process.feed(now_s);
        }
        total
    };
    assert_eq!(spend(&mut process, now_s), 1_000);
    now_s += 3_599;
    assert_eq!(spend(&mut process, now_s), 0);
    now_s += 121;
    assert_eq!(spend(&mut process, now_s), 1_000);
}

#[test]
fn a_crash_counts_as_spent_what_was_leased_and_no_more() {
    let mut process = Process::new(16_000, Window::Total, 1);
    process.reserve(0, 100).unwrap().settle(NanoUsd(40));
    assert_eq!(process.spent(), 40);
    let leased = process.vault.leased(0);
    assert!(leased.0 <= process.feeder.lease().0);
    assert_eq!(process.vault.reclaim(&|holder| holder == 2, NOW_S), leased);
    assert_eq!(process.vault.spent.0, 40 + leased.0);
    assert_eq!(process.vault.leased(0), NanoUsd::ZERO);
}

#[test]
fn a_process_that_ends_in_order_gives_back_everything_it_has_not_spent() {
    let mut process = Process::new(16_000, Window::Total, 2);
    process.reserve(1, 100).unwrap().settle(NanoUsd(40));
    process.purses.iter().for_each(|purse| purse.close());
    let plan = process.feeder.close();
    plan.apply(&mut process.vault, 1, 1, NOW_S);
    assert_eq!(process.vault.leases, []);
    assert_eq!((process.vault.spent.0, process.vault.remaining(0)), (40, 15_960));
}

#[test]
fn top_ups_and_resets_hold_for_the_current_period() {
    let window = Window::Calendar(Span::Minute);
    let mut vault = Vault::new(NanoUsd(100), window, NOW_S);
    vault.settle(1, vault.period, NanoUsd(90), NOW_S);
    vault.top_up(NanoUsd(50), NOW_S);
    assert_eq!(vault.remaining(vault.period), 60);
    vault.reset(NOW_S);
    assert_eq!(vault.remaining(vault.period), 150);
    vault.advance(NOW_S + 60);
    assert_eq!(vault.remaining(vault.period), 100);
}

#[test]
fn replicas_leave_one_another_their_share() {
    let mut vault = Vault::new(NanoUsd(1_200), Window::Total, NOW_S);
    let first = vault.grant(1, 0, 10_000, 6, false, NOW_S);
    assert_eq!((first.amount, first.exhausted), (NanoUsd(200), false));
    let urgent = vault.grant(2, 900, 900, 6, false, NOW_S);
    assert_eq!(urgent.amount, NanoUsd(900));
    let last = vault.grant(3, 500, 500, 6, false, NOW_S);
    assert_eq!((last.amount, last.exhausted), (NanoUsd(100), true));
}

#[test]
fn what_remains_is_the_limit_less_what_was_spent_whatever_other_cores_hold() {
    let mut process = Process::new(16_000, Window::Total, 2);
    let remaining = |process: &Process, core: usize| process.purses[core].remaining(&[A], NOW_S);
    process.reserve(0, 100).unwrap().settle(NanoUsd(30));
    assert_eq!(remaining(&process, 0), Some(NanoUsd(15_970)));
    assert_eq!(remaining(&process, 1), Some(NanoUsd(16_000)), "not told yet");
    assert_eq!(process.spent(), 30);
    let held = process.reserve(0, 100).unwrap();
    assert_eq!(remaining(&process, 0), Some(NanoUsd(15_870)), "less what is reserved");
    assert_eq!(remaining(&process, 1), Some(NanoUsd(15_970)));
    held.settle(NanoUsd(15_990));
    assert_eq!(remaining(&process, 0), Some(NanoUsd::ZERO), "never less than nothing");
}
