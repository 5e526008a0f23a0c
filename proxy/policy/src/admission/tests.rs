//! The gate, step by step and under random schedules.

use super::*;

fn limits(concurrency: u32, queue: u32) -> Limits {
    Limits {
        concurrency,
        queue,
        queue_ms: 100,
        adaptive: false,
    }
}

fn waits(entry: Entry) -> Ticket {
    match entry {
        Entry::Waiting(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn beyond_the_limit_requests_wait_and_beyond_the_queue_they_are_refused() {
    let mut gate = Gate::new(limits(2, 1));
    assert_eq!(gate.enter(0, 1000), Entry::Admitted);
    assert_eq!(gate.enter(0, 1000), Entry::Admitted);
    let ticket = waits(gate.enter(0, 1000));
    assert_eq!(gate.enter(0, 1000), Entry::Refused);
    assert_eq!(gate.next(0), None, "no place is free");
    gate.leave();
    assert_eq!(gate.next(0), Some(ticket));
    assert_eq!(gate.next(0), None);
    assert_eq!((gate.in_flight(), gate.waiting()), (2, 0));
}

#[test]
fn a_free_place_goes_to_those_who_wait_and_not_to_the_next_to_come() {
    let mut gate = Gate::new(limits(1, 8));
    gate.enter(0, 1000);
    let first = waits(gate.enter(0, 1000));
    gate.leave();
    waits(gate.enter(0, 1000));
    assert_eq!(gate.next(0), Some(first));
}

#[test]
fn order_is_kept_until_the_queue_has_been_busy_for_long_then_the_newest_come_first() {
    let mut gate = Gate::new(limits(1, 8));
    gate.enter(0, 1000);
    let tickets: Vec<Ticket> = (0..4).map(|ms| waits(gate.enter(ms, 1000))).collect();
    gate.leave();
    assert_eq!(gate.next(49), Some(tickets[0]));
    gate.leave();
    assert_eq!(gate.next(50), Some(tickets[3]), "50 ms of 100 have passed");
    gate.leave();
    assert_eq!(gate.next(51), Some(tickets[2]));
    gate.leave();
    assert_eq!(gate.next(52), Some(tickets[1]));
    // The queue was empty: order is kept again.
    let (first, second) = (waits(gate.enter(60, 1000)), waits(gate.enter(61, 1000)));
    gate.leave();
    assert_eq!(gate.next(70), Some(first));
    gate.leave();
    assert_eq!(gate.next(71), Some(second));
}

#[test]
fn nobody_waits_beyond_the_queues_or_the_requests_own_time() {
    let mut gate = Gate::new(limits(1, 8));
    gate.enter(0, 1000);
    let patient = waits(gate.enter(10, 1000));
    let hasty = waits(gate.enter(10, 40));
    assert_eq!(gate.expire(39), None);
    assert_eq!(gate.expire(40), Some(hasty));
    assert_eq!(gate.expire(109), None);
    assert_eq!(gate.expire(110), Some(patient));
    assert_eq!(gate.enter(200, 200), Entry::Refused, "no time to wait");
}

#[test]
fn who_leaves_the_queue_makes_room_in_it() {
    let mut gate = Gate::new(limits(1, 1));
    gate.enter(0, 1000);
    let ticket = waits(gate.enter(0, 1000));
    assert!(gate.abandon(ticket));
    assert!(!gate.abandon(ticket));
    let other = waits(gate.enter(0, 1000));
    assert_ne!(ticket, other);
    gate.leave();
    assert_eq!(gate.next(0), Some(other));
}

#[test]
fn a_lower_limit_holds_for_the_next_and_a_higher_one_at_once() {
    let mut gate = Gate::new(limits(2, 4));
    gate.enter(0, 1000);
    gate.enter(0, 1000);
    let ticket = waits(gate.enter(0, 1000));
    gate.set_limits(limits(1, 4));
    gate.leave();
    assert_eq!(gate.next(0), None);
    gate.set_limits(limits(5, 4));
    assert_eq!(gate.next(0), Some(ticket));
}

/// Random arrivals, ends, departures and expiries: places are neither lost nor given twice, the queue stays bounded, and
/// every request that waits hears of it.
#[test]
fn no_place_is_lost_or_given_twice_under_random_schedules() {
    for seed in 0..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut pick = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let (concurrency, queue) = (1 + pick(4) as u32, pick(6) as u32);
        let mut gate = Gate::new(limits(concurrency, queue));
        let (mut inside, mut waiting) = (0_u32, Vec::new());
        for step in 0..400 {
            let now_ms = step * 7;
            match pick(4) {
                0 | 1 => match gate.enter(now_ms, now_ms + pick(200)) {
                    Entry::Admitted => inside += 1,
                    Entry::Waiting(ticket) => waiting.push(ticket),
                    Entry::Refused => {}
                },
                2 if inside > 0 => {
                    gate.leave();
                    inside -= 1;
                }
                3 if !waiting.is_empty() => {
                    let ticket = waiting.swap_remove(pick(waiting.len() as u64) as usize);
                    assert!(gate.abandon(ticket));
                }
                _ => {}
            }
            while let Some(ticket) = gate.expire(now_ms) {
                assert!(waiting.contains(&ticket));
                waiting.retain(|known| *known != ticket);
            }
            while let Some(ticket) = gate.next(now_ms) {
                assert!(waiting.contains(&ticket));
                waiting.retain(|known| *known != ticket);
                inside += 1;
            }
            assert_eq!(
                (gate.in_flight(), gate.waiting()),
                (inside, waiting.len()),
                "seed {seed}"
            );
            assert!(inside <= concurrency && waiting.len() <= queue as usize, "seed {seed}");
            assert!(
                waiting.is_empty() || inside == concurrency,
                "a place is idle; seed {seed}"
            );
        }
    }
}
