//! What breakers, keys and budgets do together.

mod simulation;
