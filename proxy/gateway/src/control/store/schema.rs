//! The store's tables, and how a file of an earlier version becomes one of this.
//!
//! Invariants: `user_version` is the number of steps that a file has been through; a step, once released, never changes.
//! Deliberately absent: the way back.

use rusqlite::Connection;

/// The steps, in order.
const STEPS: &[&str] = &["
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('holder', 0), ('commits', 0);

-- A number is never used again: the ledger and running processes remember it.
-- Customers, teams and keys. Allow-lists are names with stars, one a line.
CREATE TABLE scopes (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, name TEXT NOT NULL, parent INTEGER REFERENCES scopes (id),
  disabled INTEGER NOT NULL DEFAULT 0, models TEXT NOT NULL DEFAULT '', providers TEXT NOT NULL DEFAULT '',
  digest BLOB UNIQUE, hint TEXT, previous BLOB, previous_until_s INTEGER, expires_s INTEGER, created_s INTEGER NOT NULL,
  UNIQUE (kind, name)) STRICT;

-- A budget, and what is spent of it. Of a rolling window, `slices` is what still counts.
CREATE TABLE budgets (
  id INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL REFERENCES scopes (id) ON DELETE CASCADE, limit_nanos INTEGER NOT NULL,
  soft_nanos INTEGER, window TEXT NOT NULL, provider TEXT, model TEXT, extra INTEGER NOT NULL DEFAULT 0,
  period INTEGER NOT NULL, spent INTEGER NOT NULL DEFAULT 0, slices TEXT NOT NULL DEFAULT '', seen_s INTEGER NOT NULL) STRICT;
CREATE INDEX budgets_of ON budgets (scope);
CREATE TABLE leases (
  budget INTEGER NOT NULL REFERENCES budgets (id) ON DELETE CASCADE, holder INTEGER NOT NULL, period INTEGER NOT NULL,
  amount INTEGER NOT NULL, PRIMARY KEY (budget, holder, period)) STRICT, WITHOUT ROWID;

CREATE TABLE limits (
  id INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL REFERENCES scopes (id) ON DELETE CASCADE, unit TEXT NOT NULL,
  window TEXT NOT NULL, most INTEGER NOT NULL, provider TEXT, model TEXT) STRICT;
CREATE INDEX limits_of ON limits (scope);

-- What was asked, and what it cost. A scope may be gone by the time that somebody asks.
CREATE TABLE ledger (
  id INTEGER PRIMARY KEY, unix_s INTEGER NOT NULL, request BLOB NOT NULL, key INTEGER, team INTEGER, customer INTEGER,
  provider TEXT NOT NULL, model TEXT NOT NULL, status INTEGER NOT NULL, outcome TEXT NOT NULL, attempts INTEGER NOT NULL,
  input INTEGER NOT NULL, cached INTEGER NOT NULL, output INTEGER NOT NULL, cost INTEGER NOT NULL, priced INTEGER NOT NULL,
  first_byte_us INTEGER NOT NULL, total_us INTEGER NOT NULL, tags TEXT NOT NULL) STRICT;
CREATE INDEX ledger_at ON ledger (unix_s);
-- The same by the hour, kept for longer.
CREATE TABLE hours (
  hour INTEGER NOT NULL, key INTEGER NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, team INTEGER, customer INTEGER,
  requests INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL, output INTEGER NOT NULL, cost INTEGER NOT NULL,
  PRIMARY KEY (hour, key, provider, model)) STRICT, WITHOUT ROWID;
CREATE TABLE tag_hours (
  hour INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, requests INTEGER NOT NULL, input INTEGER NOT NULL,
  cached INTEGER NOT NULL, output INTEGER NOT NULL, cost INTEGER NOT NULL,
  PRIMARY KEY (hour, name, value)) STRICT, WITHOUT ROWID;

-- Who has changed what.
CREATE TABLE audit (
  id INTEGER PRIMARY KEY, unix_s INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
  detail TEXT NOT NULL) STRICT;
"];

/// Brings a file to this version.
///
/// # Errors
/// It is of a later one, or cannot be written.
pub fn migrate(connection: &mut Connection) -> anyhow::Result<()> {
    let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    anyhow::ensure!(
        version <= STEPS.len(),
        "it is of version {version}; this program knows those up to {}",
        STEPS.len()
    );
    for (index, step) in STEPS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
