//! Waiting for a condition, with a deadline.
//!
//! Deliberately absent: plain sleeps.

use std::time::{Duration, Instant};

/// Longest wait for anything that must happen; far beyond what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks until there is something to see.
///
/// # Panics
/// When `what` has not happened within [`PATIENCE`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    for_at_most(PATIENCE, what, look)
}

/// Looks until there is something to see, for what may take longer.
///
/// # Panics
/// When `what` has not happened within `patience`.
pub fn for_at_most<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
