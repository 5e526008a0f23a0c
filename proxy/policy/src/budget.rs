//! Budgets: what may still be spent, over requests in flight, cores, replicas and crashes.
//!
//! ```text
//!  Vault (durable: limit, spent, leases)          one per budget, in the store
//!    │ grant, made durable first    ▲ settle, give back
//!  Account (atomics)                              one per budget, period and process
//!    │ take                         ▲ give, report
//!  Purse (plain numbers)                          one per core
//!    │ reserve                      ▲ settle, release, drop
//!  Reservation                                    one per attempt at a provider
//! ```
//!
//! Invariants: money moves along one arrow at a time, so that at every level what was granted is what is free, held, reserved
//! or spent; a [`Reservation`] ends exactly once, in whatever way its request does; nothing is handed down before the level
//! above has it durably; a period that has ended never opens again, whatever the clock says. A crash loses the levels below
//! the vault: what the process had leased then counts as spent, so the record is never below the provider's bill.
//! Deliberately absent: SQL and threads, which the gateway adds, and which budgets apply to a caller (`keyring.rs`).

mod account;
mod estimate;
mod feeder;
mod purse;
mod vault;
mod window;

pub use account::{Account, Period};
pub use estimate::OutputEstimate;
pub use feeder::{Done, Feeder, Plan};
pub use purse::{Purse, Refusal, Refused, Reservation};
pub use vault::{Granted, Holder, Lease, Vault};
pub use window::{Span, Window};

/// A budget, for as long as the process runs: dense, so that a core finds its part of it by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetId(pub u32);

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
