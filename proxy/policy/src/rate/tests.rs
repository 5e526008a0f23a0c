//! What limits admit, and for how long.

use std::sync::atomic::Ordering;

use super::*;
use crate::budget::Span;

const NOW_S: u64 = 1_200_000;

fn minute(unit: Unit, most: u64) -> Limiter {
    Limiter::new(unit, Window::Calendar(Span::Minute), most)
}

fn enter<'a>(
    limits: impl IntoIterator<Item = &'a Limiter>,
    ask: Ask,
    now_s: u64,
) -> Result<Pass<&'a Limiter>, Limited> {
    let mut pass = Pass::default();
    pass.enter(limits, ask, now_s).map(|()| pass)
}

fn passes(limiter: &Limiter, now_s: u64) -> bool {
    enter([limiter], Ask::default(), now_s).is_ok()
}

#[test]
fn a_calendar_window_admits_its_limit_and_begins_anew_with_the_next() {
    let limiter = minute(Unit::Requests, 3);
    assert_eq!((0..5).filter(|_| passes(&limiter, NOW_S)).count(), 3);
    let limited = enter([&limiter], Ask::default(), NOW_S + 59).unwrap_err();
    assert_eq!(
        (limited.unit, limited.most, limited.retry_after_s),
        (Unit::Requests, 3, 1)
    );
    assert!(passes(&limiter, NOW_S + 60));
    let standing = limiter.standing(NOW_S + 70);
    assert_eq!((standing.remaining, standing.resets_in_s), (2, 50));
}

#[test]
fn a_window_does_not_open_again_when_the_clock_is_set_back() {
    let limiter = minute(Unit::Requests, 1);
    assert!(passes(&limiter, NOW_S + 60));
    assert!(!passes(&limiter, NOW_S));
    assert!(!passes(&limiter, NOW_S + 119));
    assert!(passes(&limiter, NOW_S + 120));
}

#[test]
fn no_rolling_window_holds_more_than_the_limit_wherever_it_begins() {
    let limiter = Limiter::new(Unit::Requests, Window::Rolling(Span::Minute), 10);
    let mut admitted = Vec::new();
    for now_s in NOW_S..NOW_S + 1_000 {
        for _ in 0..(now_s % 3) {
            if passes(&limiter, now_s) {
                admitted.push(now_s);
            }
        }
    }
    for from in &admitted {
        let within = admitted.iter().filter(|at| (*from..from + 60).contains(*at)).count();
        assert!(within <= 10, "{within} from {from}");
    }
    assert!(admitted.len() > 120, "{}", admitted.len());
}

#[test]
fn tokens_are_counted_at_their_most_and_corrected_to_what_they_were() {
    let limiter = minute(Unit::TotalTokens, 1_000);
    let ask = |input_tokens, output_tokens| Ask {
        input_tokens,
        output_tokens,
    };
    let mut pass = enter([&limiter], ask(300, 600), NOW_S).unwrap();
    assert!(enter([&limiter], ask(100, 1), NOW_S).is_err());
    pass.settle(ask(200, 50));
    assert_eq!(limiter.standing(NOW_S).remaining, 750);
    enter([&limiter], ask(700, 0), NOW_S).unwrap().release();
    assert_eq!(limiter.standing(NOW_S).remaining, 750);
    drop(enter([&limiter], ask(700, 0), NOW_S).unwrap());
    assert_eq!(limiter.standing(NOW_S).remaining, 50, "it may have been sent");
    enter([&limiter], ask(0, 0), NOW_S).unwrap().settle(ask(500, 500));
    assert_eq!(limiter.standing(NOW_S).remaining, 0, "what was used beyond counts");
}

#[test]
fn a_correction_after_its_slice_has_passed_takes_nothing_from_a_later_one() {
    let limiter = minute(Unit::InputTokens, 100);
    let ask = |input_tokens| Ask {
        input_tokens,
        output_tokens: 0,
    };
    let mut early = enter([&limiter], ask(100), NOW_S).unwrap();
    let mut late = enter([&limiter], ask(80), NOW_S + 60).unwrap();
    early.settle(ask(1));
    assert_eq!(limiter.standing(NOW_S + 60).remaining, 20);
    late.settle(ask(10));
    assert_eq!(limiter.standing(NOW_S + 60).remaining, 90);
    assert_eq!(limiter.used.load(Ordering::Relaxed), 10);
}

#[test]
fn requests_at_a_time_are_free_again_however_they_end() {
    let limiter = Limiter::new(Unit::Concurrent, Window::Total, 2);
    let held = [(); 2].map(|()| enter([&limiter], Ask::default(), NOW_S).unwrap());
    assert_eq!(enter([&limiter], Ask::default(), NOW_S).unwrap_err().retry_after_s, 1);
    let [mut one, other] = held;
    one.settle(Ask::default());
    drop(other);
    assert_eq!(limiter.standing(NOW_S).remaining, 2);
}

#[test]
fn if_one_limit_refuses_none_counts() {
    let (wide, narrow) = (minute(Unit::Requests, 10), minute(Unit::Requests, 0));
    let crowd = Limiter::new(Unit::Concurrent, Window::Total, 1);
    assert!(enter([&wide, &crowd, &narrow], Ask::default(), NOW_S).is_err());
    assert_eq!(wide.standing(NOW_S).remaining, 10);
    assert_eq!(crowd.standing(NOW_S).remaining, 1);
    let many: Vec<Limiter> = (0..LIMITS_PER_REQUEST_MAX + 1)
        .map(|_| minute(Unit::Requests, 5))
        .collect();
    assert!(enter(&many, Ask::default(), NOW_S).is_err());
    assert!(many.iter().all(|limiter| limiter.standing(NOW_S).remaining == 5));
}

#[test]
fn several_cores_admit_exactly_the_limit_and_lose_no_count_at_the_change_of_slices() {
    let limiter = Limiter::new(Unit::Requests, Window::Rolling(Span::Minute), 1_000);
    let admitted = std::thread::scope(|scope| {
        let core = || (0..2_000).filter(|at| passes(&limiter, NOW_S + at / 500)).count();
        let cores = [(); 4].map(|()| scope.spawn(core));
        cores.into_iter().map(|core| core.join().unwrap()).sum::<usize>()
    });
    assert_eq!(admitted, 1_000);
    let counted: u64 = limiter
        .slices
        .iter()
        .map(|slot| slot.load(Ordering::Relaxed) & COUNT_MAX)
        .sum();
    assert_eq!(counted, limiter.used.load(Ordering::Relaxed));
    assert_eq!(limiter.standing(NOW_S + 120).remaining, 1_000);
}

#[test]
fn what_one_process_has_counted_counts_in_the_next_for_as_long_as_it_would_have() {
    for window in [Window::Rolling(Span::Minute), Window::Calendar(Span::Hour)] {
        let before = Limiter::new(Unit::Requests, window, 10);
        for second in [0, 0, 10, 20] {
            let mut pass = enter([&before], Ask::default(), NOW_S + second).unwrap();
            pass.settle(Ask::default());
        }
        let counted = before.counted(NOW_S + 20);
        let after = Limiter::new(Unit::Requests, window, 10);
        after.add_counted(&counted, NOW_S + 21);
        for second in [21, 55, 66, 75, 90, 7_200] {
            let at = NOW_S + second;
            assert_eq!(after.standing(at), before.standing(at), "{window:?} after {second} s");
        }
        assert!(after.counted(NOW_S + 7_200).is_empty());
    }
    let open = Limiter::new(Unit::Concurrent, Window::Total, 1);
    let _pass = enter([&open], Ask::default(), NOW_S).unwrap();
    assert!(open.counted(NOW_S).is_empty(), "what is under way stays where it is");
}

#[test]
fn counts_of_slices_that_are_over_or_to_come_are_not_added() {
    let limiter = Limiter::new(Unit::Requests, Window::Rolling(Span::Minute), 10);
    let now = NOW_S / 5;
    limiter.add_counted(&[(now - 13, 1), (now + 1, 2), (now - 12, 3), (u64::MAX, 4)], NOW_S);
    assert_eq!(limiter.standing(NOW_S).remaining, 7);
}

#[test]
fn what_others_have_counted_leaves_the_less_and_only_as_long_as_it_counts() {
    let limiter = minute(Unit::Requests, 10);
    let period = NOW_S / 60 + 1;
    assert!(passes(&limiter, NOW_S));
    limiter.counts_elsewhere([(period, 7), (period - 1, 100)].into_iter(), NOW_S);
    assert_eq!(limiter.standing(NOW_S).remaining, 2);
    assert_eq!(
        limiter.shared(NOW_S),
        [(period, 1)],
        "what others have counted is not told to them again"
    );
    assert_eq!((0..5).filter(|_| passes(&limiter, NOW_S)).count(), 2);
    // What is said replaces what was said, and may be less.
    limiter.counts_elsewhere([(period, 5)].into_iter(), NOW_S);
    assert_eq!((0..5).filter(|_| passes(&limiter, NOW_S)).count(), 2);
    // More than the limit is no trouble.
    limiter.counts_elsewhere([(period, u64::MAX), (period, 3)].into_iter(), NOW_S);
    assert_eq!(limiter.standing(NOW_S).remaining, 0);
    assert!(passes(&limiter, NOW_S + 60), "nobody has said anything of this minute");
    assert_eq!(limiter.counts_until_s(NOW_S + 5), NOW_S + 60);
}

#[test]
fn in_a_rolling_window_the_slices_of_others_count_as_ones_own() {
    let window = Window::Rolling(Span::Minute);
    let (here, there, alone) = (
        Limiter::new(Unit::Requests, window, 10),
        Limiter::new(Unit::Requests, window, 10),
        Limiter::new(Unit::Requests, window, 10),
    );
    for second in 0..200 {
        let now_s = NOW_S + second;
        here.counts_elsewhere(there.shared(now_s).into_iter(), now_s);
        there.counts_elsewhere(here.shared(now_s).into_iter(), now_s);
        assert_eq!(here.standing(now_s), alone.standing(now_s), "after {second} s");
        let turn = [&here, &there][second as usize % 2];
        assert_eq!(passes(turn, now_s), passes(&alone, now_s), "after {second} s");
        assert!(turn.counts_until_s(now_s) >= now_s + 60);
    }
}

#[test]
fn requests_under_way_elsewhere_take_up_room_until_they_end() {
    let (here, there) = (
        Limiter::new(Unit::Concurrent, Window::Total, 3),
        Limiter::new(Unit::Concurrent, Window::Total, 3),
    );
    let passes = [(); 2].map(|()| enter([&there], Ask::default(), NOW_S).unwrap());
    here.counts_elsewhere(there.shared(NOW_S).into_iter(), NOW_S);
    let pass = enter([&here], Ask::default(), NOW_S).unwrap();
    assert!(enter([&here], Ask::default(), NOW_S).is_err());
    assert_eq!(here.shared(NOW_S), [(0, 1)]);
    drop(passes);
    assert!(there.shared(NOW_S).is_empty());
    here.counts_elsewhere(there.shared(NOW_S).into_iter(), NOW_S);
    assert_eq!(here.standing(NOW_S).remaining, 2);
    drop(pass);
}
