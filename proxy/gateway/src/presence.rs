//! Who is there while something is waited for: a client that may leave, or nobody in particular.
//!
//! Invariants: what is waited for is dropped as soon as the client has gone. Deliberately absent: the client's connection
//! itself (`connection.rs`).

use std::future::Future;

use crate::connection::{ClientGone, Downstream};

/// Somebody for whom something is waited.
pub trait Presence {
    /// Runs `operation` for as long as somebody waits for it.
    ///
    /// # Errors
    /// [`ClientGone`]; the operation is then dropped.
    async fn while_present<T>(&mut self, operation: impl Future<Output = T>) -> Result<T, ClientGone>;
}

impl Presence for Downstream {
    fn while_present<T>(&mut self, operation: impl Future<Output = T>) -> impl Future<Output = Result<T, ClientGone>> {
        Downstream::while_present(self, operation)
    }
}

/// Nobody: of two attempts at once, neither watches the client; who runs both does.
pub struct Unwatched;

impl Presence for Unwatched {
    async fn while_present<T>(&mut self, operation: impl Future<Output = T>) -> Result<T, ClientGone> {
        Ok(operation.await)
    }
}
