//! Rest, refusal and shares of one key.

use super::*;

const SETTINGS: KeySettings = KeySettings {
    rest_ms: 1_000,
    rest_max_ms: 60_000,
    probe_ms: 10_000,
    probe_max_ms: 30_000,
};
const MODEL: u64 = 5;

fn take(key: &KeyState, now_ms: u64) -> KeyPermit {
    key.take(MODEL, now_ms, false)
        .unwrap_or_else(|| panic!("not usable at {now_ms}"))
}

fn report(key: &KeyState, verdict: KeyVerdict, now_ms: u64) -> bool {
    key.report(take(key, now_ms), verdict, now_ms, u64::MAX, &SETTINGS)
}

fn rest_of(key: &KeyState, now_ms: u64) -> u64 {
    match key.standing(MODEL, now_ms) {
        KeyStanding::Resting { until_ms, .. } => until_ms - now_ms,
        other => panic!("{other:?}"),
    }
}

#[test]
fn retry_after_is_kept_to_the_millisecond_and_bounded() {
    let key = KeyState::default();
    assert!(!report(&key, KeyVerdict::Limited(Some(7_000)), 1_000));
    let resting = KeyStanding::Resting {
        until_ms: 8_000,
        said: true,
    };
    assert_eq!(key.standing(MODEL, 7_999), resting);
    assert_eq!(key.take(MODEL, 7_999, false), None);
    assert_eq!(key.standing(MODEL, 8_000), KeyStanding::Ready);
    report(&key, KeyVerdict::Limited(Some(u64::MAX)), 8_000);
    assert_eq!(rest_of(&key, 8_000), 60_000);
    let key = KeyState::default();
    report(&key, KeyVerdict::Limited(Some(0)), 1_000);
    assert_eq!(rest_of(&key, 1_000), 1_000, "at once is not meant");
}

#[test]
fn without_retry_after_rests_double_and_a_success_after_one_ends_the_series() {
    let key = KeyState::default();
    let mut now_ms = 1_000;
    for rest_ms in [1_000, 2_000, 4_000, 8_000] {
        report(&key, KeyVerdict::Limited(None), now_ms);
        assert_eq!(rest_of(&key, now_ms), rest_ms);
        now_ms += rest_ms;
    }
    report(&key, KeyVerdict::Accepted, now_ms);
    report(&key, KeyVerdict::Limited(None), now_ms);
    assert_eq!(rest_of(&key, now_ms), 1_000);
    // Jitter takes away up to a half.
    let key = KeyState::default();
    let permit = take(&key, 0);
    key.report(permit, KeyVerdict::Limited(None), 0, 0, &SETTINGS);
    assert_eq!(rest_of(&key, 0), 500);
}

#[test]
fn of_many_requests_under_way_one_strike_counts_and_the_longest_rest_holds() {
    let key = KeyState::default();
    let permits: Vec<KeyPermit> = (0..5).map(|_| take(&key, 0)).collect();
    for permit in &permits[..3] {
        key.report(*permit, KeyVerdict::Limited(None), 0, u64::MAX, &SETTINGS);
    }
    assert_eq!(rest_of(&key, 0), 1_000);
    key.report(permits[3], KeyVerdict::Limited(Some(9_000)), 100, 0, &SETTINGS);
    assert_eq!(rest_of(&key, 100), 9_000, "what the provider says now is news");
    key.report(permits[4], KeyVerdict::Accepted, 200, 0, &SETTINGS);
    assert_eq!(rest_of(&key, 200), 8_900, "an old request's success ends no rest");
}

#[test]
fn a_refused_key_gets_single_probes_until_one_is_accepted() {
    let key = KeyState::default();
    assert!(report(&key, KeyVerdict::Refused, 0), "an alarm");
    let mut now_ms = 0;
    for interval_ms in [10_000, 20_000, 30_000, 30_000] {
        assert_eq!(key.take(MODEL, now_ms + interval_ms - 1, false), None);
        now_ms += interval_ms;
        assert_eq!(key.standing(MODEL, now_ms), KeyStanding::ProbeDue);
        let probe = take(&key, now_ms);
        assert_eq!(key.take(MODEL, now_ms, false), None, "one at a time");
        assert!(
            !key.report(probe, KeyVerdict::Refused, now_ms, 0, &SETTINGS),
            "the same alarm"
        );
    }
    let probe = take(&key, now_ms + 30_000);
    key.report(probe, KeyVerdict::Accepted, now_ms + 30_000, 0, &SETTINGS);
    assert_eq!(key.standing(MODEL, now_ms + 30_000), KeyStanding::Ready);
}

#[test]
fn a_probe_that_is_given_up_is_free_and_one_that_meets_a_limit_was_accepted() {
    let key = KeyState::default();
    report(&key, KeyVerdict::Refused, 0);
    key.abandon(take(&key, 10_000), 10_500);
    let probe = take(&key, 10_500);
    key.report(probe, KeyVerdict::Limited(Some(2_000)), 11_000, 0, &SETTINGS);
    assert_eq!(rest_of(&key, 11_000), 2_000);
    assert_eq!(key.standing(MODEL, 13_000), KeyStanding::Ready);
}

#[test]
fn an_operator_clears_a_key_and_what_was_under_way_does_not_matter() {
    let key = KeyState::default();
    let (old, older) = (take(&key, 0), take(&key, 0));
    report(&key, KeyVerdict::Refused, 0);
    assert!(!key.report(old, KeyVerdict::Accepted, 1, 0, &SETTINGS));
    assert!(
        matches!(key.standing(MODEL, 1), KeyStanding::Refused { .. }),
        "late success"
    );
    key.clear();
    assert_eq!(key.standing(MODEL, 2), KeyStanding::Ready);
    assert!(!key.report(older, KeyVerdict::Refused, 3, 0, &SETTINGS), "late refusal");
    assert_eq!(key.standing(MODEL, 3), KeyStanding::Ready);
}

#[test]
fn a_key_that_works_is_denied_one_model_without_losing_the_others() {
    let key = KeyState::default();
    report(&key, KeyVerdict::Accepted, 1_000);
    assert!(report(&key, KeyVerdict::Denied, 2_000), "an alarm all the same");
    assert_eq!(key.standing(MODEL, 2_000), KeyStanding::Refused { until_ms: 12_000 });
    assert_eq!(key.standing(MODEL + 1, 2_000), KeyStanding::Ready);
    assert_eq!(key.standing(MODEL, 12_000), KeyStanding::Ready, "the time of its probe");
    for model in 100..100 + MODELS as u64 {
        let permit = key.take(model, 13_000, false).unwrap();
        assert!(key.report(permit, KeyVerdict::Denied, 13_000, 0, &SETTINGS));
    }
    assert_eq!(key.standing(1, 13_000), KeyStanding::Ready);
    let permit = key.take(1, 13_000, false).unwrap();
    key.report(permit, KeyVerdict::Denied, 13_000, 0, &SETTINGS);
    assert!(
        matches!(key.standing(2, 13_000), KeyStanding::Refused { .. }),
        "denials are bounded"
    );
    // A key of which no success is known is refused as a whole.
    let key = KeyState::default();
    assert!(report(&key, KeyVerdict::Denied, 2_000));
    assert!(matches!(key.standing(MODEL + 1, 2_000), KeyStanding::Refused { .. }));
}

#[test]
fn a_share_sinks_near_the_limit_and_comes_back_by_itself() {
    let key = KeyState::default();
    for (left_milli, share) in [(1000, 1000), (200, 1000), (100, 500), (20, 100), (0, 20)] {
        key.observe(left_milli, 1_000);
        assert_eq!(key.share_milli(1_000), share);
    }
    assert_eq!(key.share_milli(10_999), 20);
    assert_eq!(key.share_milli(11_000), 1_000);
}

#[test]
fn a_key_rests_for_the_model_that_reached_its_limit_and_for_all_once_too_many_have() {
    let key = KeyState::default();
    report(&key, KeyVerdict::Limited(Some(7_000)), 1_000);
    assert_eq!(rest_of(&key, 1_000), 7_000);
    assert_eq!(key.standing(MODEL + 1, 1_000), KeyStanding::Ready);
    assert!(matches!(
        key.overview(1_000),
        KeyStanding::Resting { until_ms: 8_000, .. }
    ));
    for model in 100..100 + MODELS as u64 {
        let permit = key.take(model, 2_000, false).unwrap();
        key.report(permit, KeyVerdict::Limited(Some(3_000)), 2_000, 0, &SETTINGS);
    }
    let expected = KeyStanding::Resting {
        until_ms: 5_000,
        said: true,
    };
    assert_eq!(
        key.standing(1, 2_000),
        expected,
        "the last one found no place of its own"
    );
    assert_eq!(rest_of(&key, 4_000), 1_000, "for all of them");
    assert_eq!(rest_of(&key, 5_000), 3_000, "then the first one's own");
    assert_eq!(key.standing(MODEL, 8_000), KeyStanding::Ready);
    assert_eq!(key.overview(8_000), KeyStanding::Ready);
}

#[test]
fn one_request_finds_out_whether_a_rest_is_over_and_only_who_has_nothing_else_does_not_wait_for_it() {
    let key = KeyState::default();
    let limited = KeyVerdict::Limited(Some(2_000));
    report(&key, limited, 1_000);
    assert_eq!(key.take(MODEL, 2_999, true), None, "the provider said when");
    let first = take(&key, 3_000);
    assert_eq!(key.standing(MODEL, 3_000), KeyStanding::Tried);
    assert_eq!(key.take(MODEL, 3_000, false), None);
    assert!(key.take(MODEL, 3_000, true).is_some());
    assert!(key.take(MODEL + 1, 3_000, false).is_some(), "other models do not rest");
    // Still limited: a rest begins anew.
    key.report(first, limited, 3_100, 0, &SETTINGS);
    assert_eq!(rest_of(&key, 3_100), 2_000);
    // Given up: another one finds out. Silent for too long: likewise.
    key.abandon(take(&key, 5_100), 5_200);
    let _silent = take(&key, 5_200);
    assert_eq!(key.take(MODEL, 5_300, false), None);
    let last = take(&key, 5_200 + CLAIM_MS);
    key.report(last, KeyVerdict::Accepted, 15_300, 0, &SETTINGS);
    assert_eq!(key.standing(MODEL, 15_300), KeyStanding::Ready);
    assert!(key.take(MODEL, 15_300, false).is_some() && key.take(MODEL, 15_300, false).is_some());
}
