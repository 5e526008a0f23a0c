//! Waiting, waking and leaving, with futures polled by hand.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};

use super::*;

#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn snapshot(limit: &str, generation: u64) -> Snapshot {
    let text = format!(
        "providers:\n  free: {{dialect: openai, base_url: \"http://a.test\", auth: none}}\n  \
         tight: {{dialect: openai, base_url: \"http://b.test\", auth: none{limit}}}\n"
    );
    let config = sluice_policy::config::load(&text, "test.yaml").unwrap();
    Snapshot::compile(&config, generation, &|_| Ok(None)).0
}

const TIGHT: &str = ", concurrency: {limit: 1, queue: 2, queue_timeout: 100ms}";

struct Bench {
    gates: Gates,
    snapshot: Snapshot,
    meter: CoreMeter,
}

impl Bench {
    fn new() -> Self {
        let snapshot = snapshot(TIGHT, 1);
        let gates = Gates::default();
        gates.follow(&snapshot);
        Self {
            gates,
            snapshot,
            meter: CoreMeter::default(),
        }
    }

    fn enter(&self) -> impl Future<Output = Result<Option<Place>, Overloaded>> {
        let tight = &self.snapshot.providers()[1];
        self.gates.enter(&self.snapshot, tight, 10_000, &self.meter)
    }
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>, waker: &Arc<Counted>) -> Poll<T> {
    future.poll(&mut Context::from_waker(&waker.clone().into()))
}

fn place(entered: Poll<Result<Option<Place>, Overloaded>>) -> Place {
    match entered {
        Poll::Ready(Ok(Some(place))) => place,
        _ => panic!("no place"),
    }
}

#[test]
fn a_provider_without_a_limit_has_no_gate() {
    let bench = Bench::new();
    let waker = Arc::<Counted>::default();
    let free = &bench.snapshot.providers()[0];
    let entered = poll(pin!(bench.gates.enter(&bench.snapshot, free, 0, &bench.meter)), &waker);
    assert!(matches!(entered, Poll::Ready(Ok(None))));
}

#[test]
fn who_waits_is_woken_once_and_has_the_place_that_was_given_back() {
    let bench = Bench::new();
    let waker = Arc::<Counted>::default();
    let first = place(poll(pin!(bench.enter()), &waker));
    let mut second = pin!(bench.enter());
    assert!(poll(second.as_mut(), &waker).is_pending());
    assert!(poll(second.as_mut(), &waker).is_pending());
    assert_eq!(waker.0.load(Ordering::Relaxed), 0);
    drop(first);
    assert_eq!(waker.0.load(Ordering::Relaxed), 1);
    assert_eq!(bench.gates.state(1), (1, 1), "the place is taken before its owner runs");
    let held = place(poll(second, &waker));
    assert_eq!(bench.meter.queued.get(), 1);
    drop(held);
    assert_eq!(bench.gates.state(1), (0, 1));
}

#[test]
fn who_leaves_gives_up_the_wait_or_the_place() {
    let bench = Bench::new();
    let waker = Arc::<Counted>::default();
    let first = place(poll(pin!(bench.enter()), &waker));
    let mut gone = Box::pin(bench.enter());
    let mut late = Box::pin(bench.enter());
    assert!(poll(gone.as_mut(), &waker).is_pending());
    assert!(poll(late.as_mut(), &waker).is_pending());
    assert!(
        matches!(poll(pin!(bench.enter()), &waker), Poll::Ready(Err(_))),
        "the queue is full"
    );
    drop(gone);
    let mut last = Box::pin(bench.enter());
    assert!(poll(last.as_mut(), &waker).is_pending(), "there is room again");
    drop(first);
    // `late` has been given the place, and leaves before it hears of it: the next one gets it.
    drop(late);
    let held = place(poll(last.as_mut(), &waker));
    drop(held);
    assert_eq!(bench.gates.state(1), (0, 1));
    assert_eq!(bench.gates.sweep(5), 0);
}

#[test]
fn a_wait_ends_with_its_time() {
    let bench = Bench::new();
    let waker = Arc::<Counted>::default();
    let _first = place(poll(pin!(bench.enter()), &waker));
    let mut second = pin!(bench.enter());
    assert!(poll(second.as_mut(), &waker).is_pending());
    assert_eq!(bench.gates.sweep(99), 1);
    assert!(poll(second.as_mut(), &waker).is_pending());
    assert_eq!(bench.gates.sweep(100), 0);
    match poll(second, &waker) {
        Poll::Ready(Err(overloaded)) => assert_eq!(overloaded.retry_after_s, 1),
        _ => panic!("the time is over"),
    }
    assert_eq!(bench.meter.overloads.get(), 1);
}

#[test]
fn places_outlive_a_change_of_the_configuration() {
    let mut bench = Bench::new();
    let waker = Arc::<Counted>::default();
    let first = place(poll(pin!(bench.enter()), &waker));
    let newer = snapshot(", concurrency: {limit: 2}", 2);
    bench.gates.follow(&newer);
    assert_eq!(bench.gates.state(1), (1, 2));
    // A request that still sees the older snapshot meets the same gate.
    let second = place(poll(pin!(bench.enter()), &waker));
    assert_eq!(bench.gates.state(1), (2, 2));
    bench.gates.follow(&snapshot("", 3));
    drop((first, second));
    bench.snapshot = snapshot("", 3);
    assert!(matches!(poll(pin!(bench.enter()), &waker), Poll::Ready(Ok(None))));
}
