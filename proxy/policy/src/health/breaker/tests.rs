//! Every state meets every event, and the failings of other breakers.

use super::*;

const SETTINGS: BreakerSettings = BreakerSettings {
    enabled: true,
    consecutive_failures: 3,
    error_rate_milli: 500,
    requests_min: 10,
    window_ms: 8_000,
    slow_ms: 100,
    slow_rate_milli: 500,
    probe_ms: 1_000,
    probe_max_ms: 4_000,
};

fn go(breaker: &Breaker, now_ms: u64) -> Permit {
    match breaker.admit(now_ms, &SETTINGS) {
        Admission::Go(permit) => permit,
        Admission::Blocked(blocked) => panic!("blocked at {now_ms}: {blocked:?}"),
    }
}

fn blocked(breaker: &Breaker, now_ms: u64) -> Blocked {
    match breaker.admit(now_ms, &SETTINGS) {
        Admission::Go(permit) => panic!("let in at {now_ms}: {permit:?}"),
        Admission::Blocked(blocked) => blocked,
    }
}

fn call(breaker: &Breaker, call: Call, now_ms: u64) -> Option<Change> {
    let permit = go(breaker, now_ms);
    breaker.report(permit, call, now_ms, &SETTINGS).0
}

/// A breaker that opened at 10,000.
fn open() -> Breaker {
    let breaker = Breaker::default();
    assert_eq!(call(&breaker, Call::Failed, 10_000), None);
    assert_eq!(call(&breaker, Call::Failed, 10_000), None);
    assert_eq!(call(&breaker, Call::Failed, 10_000), Some(Change::Opened));
    breaker
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let breaker = open();
    let expected = Blocked {
        until_ms: 11_000,
        said: false,
    };
    assert_eq!(blocked(&breaker, 10_000), expected);
    assert_eq!(blocked(&breaker, 10_999), expected);
    let breaker = Breaker::default();
    for now_ms in 0..4 {
        assert_eq!(call(&breaker, Call::Failed, now_ms), None);
        assert_eq!(call(&breaker, Call::Failed, now_ms), None);
        assert_eq!(call(&breaker, Call::Good, now_ms), None);
        if now_ms == 2 {
            break;
        }
    }
    assert_eq!(breaker.standing(), Standing::Closed);
}

#[test]
fn a_share_of_failures_opens_it_once_there_are_enough_calls() {
    let breaker = Breaker::default();
    for _ in 0..4 {
        assert_eq!(call(&breaker, Call::Good, 5_000), None);
        assert_eq!(call(&breaker, Call::Failed, 5_000), None);
    }
    assert_eq!(call(&breaker, Call::Good, 5_000), None);
    assert_eq!(call(&breaker, Call::Failed, 5_000), Some(Change::Opened));
    // The same spread over two windows does not.
    let breaker = Breaker::default();
    for now_ms in (0..50).map(|step| step * 2_000) {
        assert_eq!(call(&breaker, Call::Good, now_ms), None);
        assert_eq!(call(&breaker, Call::Failed, now_ms), None);
    }
}

#[test]
fn slow_answers_open_it_without_a_single_failure() {
    let breaker = Breaker::default();
    for _ in 0..9 {
        assert_eq!(call(&breaker, Call::Slow, 5_000), None);
    }
    assert_eq!(call(&breaker, Call::Slow, 5_000), Some(Change::Opened));
    let probe = go(&breaker, 6_000);
    assert_eq!(breaker.report(probe, Call::Slow, 6_100, &SETTINGS).0, None);
    assert_eq!(
        breaker.standing(),
        Standing::Open(8_100),
        "a slow probe does not close it"
    );
}

#[test]
fn one_probe_at_a_time_and_its_success_closes_it() {
    let breaker = open();
    let probe = go(&breaker, 11_000);
    assert!(probe.is_probe);
    assert_eq!(breaker.standing(), Standing::HalfOpen);
    blocked(&breaker, 11_000);
    blocked(&breaker, 12_000);
    let (change, permit) = breaker.report(probe, Call::Good, 12_000, &SETTINGS);
    assert_eq!(change, Some(Change::Closed));
    assert!(!permit.is_probe);
    assert_eq!(
        call(&breaker, Call::Failed, 12_001),
        None,
        "what was before is forgotten"
    );
    // What the same request says later counts in the new generation.
    assert_eq!(breaker.report(permit, Call::Failed, 12_002, &SETTINGS).0, None);
    assert_eq!(call(&breaker, Call::Failed, 12_003), Some(Change::Opened));
}

#[test]
fn failed_probes_come_less_and_less_often_up_to_a_bound() {
    let breaker = open();
    let mut now_ms = 11_000;
    for interval_ms in [2_000, 4_000, 4_000, 4_000] {
        let probe = go(&breaker, now_ms);
        assert_eq!(breaker.report(probe, Call::Failed, now_ms, &SETTINGS).0, None);
        assert_eq!(
            blocked(&breaker, now_ms + interval_ms - 1).until_ms,
            now_ms + interval_ms
        );
        now_ms += interval_ms;
    }
    let probe = go(&breaker, now_ms);
    assert_eq!(
        breaker.report(probe, Call::Good, now_ms, &SETTINGS).0,
        Some(Change::Closed)
    );
    // It opens again at once: the interval goes on from where it was, so a provider that flaps is asked less often.
    let again = (0..3).filter_map(|_| call(&breaker, Call::Failed, now_ms)).next();
    assert_eq!(again, Some(Change::Opened));
    assert_eq!(breaker.standing(), Standing::Open(now_ms + 4_000));
}

#[test]
fn a_late_answer_to_an_old_request_closes_nothing_and_a_late_failure_opens_nothing() {
    let breaker = Breaker::default();
    let old: Vec<Permit> = (0..10).map(|_| go(&breaker, 1_000)).collect();
    for permit in &old[..3] {
        let _ = breaker.report(*permit, Call::Failed, 2_000, &SETTINGS);
    }
    assert_eq!(breaker.standing(), Standing::Open(3_000));
    assert_eq!(breaker.report(old[3], Call::Good, 2_500, &SETTINGS).0, None);
    assert_eq!(breaker.standing(), Standing::Open(3_000));
    let probe = go(&breaker, 3_000);
    assert_eq!(breaker.report(old[4], Call::Good, 3_000, &SETTINGS).0, None);
    assert_eq!(breaker.standing(), Standing::HalfOpen);
    assert_eq!(
        breaker.report(probe, Call::Good, 3_000, &SETTINGS).0,
        Some(Change::Closed)
    );
    for permit in &old[5..] {
        assert_eq!(breaker.report(*permit, Call::Failed, 3_001, &SETTINGS).0, None);
    }
    assert_eq!(breaker.standing(), Standing::Closed);
}

#[test]
fn a_probe_that_never_reports_is_replaced_and_still_heard_if_it_does() {
    let breaker = open();
    let first = go(&breaker, 11_000);
    blocked(&breaker, 11_000 + CLAIM_MS - 1);
    let second = go(&breaker, 11_000 + CLAIM_MS);
    assert!(second.is_probe);
    assert_eq!(
        breaker.report(first, Call::Good, 11_001 + CLAIM_MS, &SETTINGS).0,
        Some(Change::Closed),
        "slow answers must be able to close it"
    );
    assert_eq!(
        breaker.report(second, Call::Failed, 11_002 + CLAIM_MS, &SETTINGS).0,
        None
    );
    assert_eq!(breaker.standing(), Standing::Closed);
}

#[test]
fn a_probe_whose_client_leaves_is_free_again_at_once() {
    let breaker = open();
    let probe = go(&breaker, 11_000);
    breaker.abandon(probe, 11_500);
    assert!(go(&breaker, 11_500).is_probe);
    let breaker = Breaker::default();
    breaker.abandon(go(&breaker, 1), 1);
    assert_eq!(breaker.standing(), Standing::Closed);
}

#[test]
fn a_time_that_the_provider_named_is_kept_by_everyone() {
    for enabled in [true, false] {
        let settings = BreakerSettings { enabled, ..SETTINGS };
        let breaker = Breaker::default();
        assert_eq!(breaker.hold(20_000), Some(Change::Opened));
        assert_eq!(breaker.hold(15_000), None, "a shorter one changes nothing");
        let expected = Admission::Blocked(Blocked {
            until_ms: 20_000,
            said: true,
        });
        assert_eq!(breaker.admit(19_999, &settings), expected);
        assert_eq!(breaker.last_resort(19_999), None);
        let Admission::Go(permit) = breaker.admit(20_000, &settings) else {
            panic!("it is time");
        };
        assert_eq!(permit.is_probe, enabled);
    }
}

#[test]
fn the_last_resort_is_heard() {
    let breaker = open();
    let permit = breaker.last_resort(10_100).unwrap();
    assert!(!permit.is_probe);
    assert_eq!(breaker.report(permit, Call::Failed, 10_200, &SETTINGS).0, None);
    assert_eq!(breaker.standing(), Standing::Open(11_000));
    let permit = breaker.last_resort(10_300).unwrap();
    assert_eq!(
        breaker.report(permit, Call::Good, 10_400, &SETTINGS).0,
        Some(Change::Closed)
    );
}

#[test]
fn an_operator_closes_it_and_without_it_nothing_opens() {
    let breaker = open();
    breaker.reset(10_001);
    assert_eq!(breaker.standing(), Standing::Closed);
    let settings = BreakerSettings {
        enabled: false,
        ..SETTINGS
    };
    for _ in 0..100 {
        let Admission::Go(permit) = breaker.admit(10_002, &settings) else {
            panic!("it is off");
        };
        assert_eq!(breaker.report(permit, Call::Failed, 10_002, &settings).0, None);
    }
}
