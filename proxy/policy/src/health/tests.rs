//! What breakers, keys and budgets do together.

mod simulation;

use super::*;

const THREADS: usize = 8;

/// How many of eight threads say yes.
fn count(act: &(dyn Fn() -> bool + Sync)) -> usize {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| usize::from(act()))).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    })
}

/// The simulation interleaves whole calls; here real threads run into each other inside of them.
#[test]
fn threads_share_one_probe_and_one_budget() {
    let health = Health::new(7);
    let settings = Settings::default();
    let tag = health.tag("p", "m");
    let target = health.target(health.find(tag, "p", "m", 1_000_000).expect("the table is empty"));
    let (mut now_ms, mut taken) = (1_000_000, 0);
    for _ in 0..100 {
        count(&|| {
            for _ in 0..settings.breaker.consecutive_failures {
                if let Admission::Go(permit) = target.admit(now_ms, &settings.breaker) {
                    let _ = target.report(permit, Call::Failed, now_ms, &settings.breaker);
                    target.leave(false);
                }
            }
            true
        });
        let Some(Standing::Open(until_ms)) = health.report().first().map(|report| report.standing) else {
            panic!("it has opened");
        };
        now_ms = until_ms;
        let permits = std::sync::Mutex::new(Vec::new());
        let probes = count(&|| match target.admit(now_ms, &settings.breaker) {
            Admission::Go(permit) => {
                permits.lock().expect("no panic").push(permit);
                true
            }
            Admission::Blocked(_) => false,
        });
        assert_eq!(probes, 1, "one thread of eight gets it");
        let permit = permits.into_inner().expect("no panic")[0];
        let (change, _) = target.report(permit, Call::Good, now_ms, &settings.breaker);
        assert_eq!(change, Some(Change::Closed));
        target.leave(false);
        taken += count(&|| target.take_retry(now_ms, &settings.retries)) as u64;
    }
    assert_eq!(target.in_flight(), 0);
    let most = 10 + (now_ms - 1_000_000) / 1000 * u64::from(settings.retries.per_second) + 1;
    assert!((11..=most).contains(&taken), "{taken} retries, {most} allowed");
}
