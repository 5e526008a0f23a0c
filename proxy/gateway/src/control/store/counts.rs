//! What each process that shares the store has counted against rate limits, for the others to know.
//!
//! Invariants: a process writes rows of its own only, so that nobody waits for anybody; its versions grow in the order in which
//! its transactions happen, so that whoever has seen one has seen all before it; whoever was taken for dead says nothing more
//! under that name. Deliberately absent: a file, which one process has alone, and what the counts mean
//! (`sluice_policy::rate`).

use std::collections::HashMap;

use sluice_policy::budget::Holder;

use super::sql::{Error, Result, Value, values};
use super::tx::{Tx, read_pairs, write_pairs};

/// Counts by the number of their slice, as in [`sluice_policy::rate::Limiter::shared`].
pub type Counts = Vec<(u64, u64)>;

/// What one process says of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The limit's row.
    pub limit: i64,
    /// What counts.
    pub counted: Counts,
    /// The second from which on none of it does.
    pub until_s: u64,
}

/// What a process has to say, and what it knows already.
#[derive(Clone, Debug, Default)]
pub struct Word {
    /// Who says it.
    pub holder: Holder,
    /// Names that it had before, under which nothing counts any more.
    pub retired: Vec<Holder>,
    /// Larger than that of anything it has said before.
    pub version: i64,
    /// What has changed since.
    pub told: Vec<Told>,
    /// Of other processes: the latest version that it has heard.
    pub heard: HashMap<Holder, i64>,
}

/// What another process has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Other {
    /// It has not closed the store, nor been taken for dead.
    pub is_alive: bool,
    /// Of its latest word.
    pub version: i64,
    /// What is new, by the limits' rows.
    pub counts: HashMap<i64, Counts>,
}

impl Tx<'_> {
    /// Says what this process has counted; what all others that have ever said something that still counts have said since.
    ///
    /// # Errors
    /// This process was taken for dead, or the database's.
    pub fn share_counts(&mut self, word: &Word) -> Result<HashMap<Holder, Other>> {
        if word.holder != self.holder {
            return Err(Error::Fenced);
        }
        for retired in &word.retired {
            self.sql
                .execute("DELETE FROM counts WHERE holder = ?1", values![*retired])?;
        }
        let rows: Vec<Value<'_>> = word
            .told
            .iter()
            .flat_map(|told| {
                [
                    word.holder.into(),
                    told.limit.into(),
                    write_pairs(told.counted.iter().copied()).into(),
                    word.version.into(),
                    told.until_s.into(),
                ]
            })
            .collect();
        let conflict = "ON CONFLICT (holder, limit_id) DO UPDATE SET slices = excluded.slices, version = excluded.version, until_s = excluded.until_s";
        let into = "counts (holder, limit_id, slices, version, until_s)";
        self.sql.insert_many(into, 5, conflict, &rows)?;
        let mut others = HashMap::new();
        let all = "SELECT holder, max(version), (SELECT count(*) FROM replicas WHERE id = holder AND gone = 0)
                   FROM counts WHERE holder <> ?1 GROUP BY holder";
        for row in self.sql.query(all, values![word.holder])? {
            let (holder, version) = (row.get::<u64>(0)?, row.get(1)?);
            let mut other = Other {
                is_alive: row.get::<i64>(2)? > 0,
                version,
                counts: HashMap::new(),
            };
            let known = word.heard.get(&holder).copied().unwrap_or(-1);
            if version > known {
                let news = "SELECT limit_id, slices FROM counts WHERE holder = ?1 AND version > ?2";
                for row in self.sql.query(news, values![holder, known])? {
                    other
                        .counts
                        .insert(row.get(0)?, read_pairs(&row.get::<String>(1)?).collect());
                }
            }
            others.insert(holder, other);
        }
        Ok(others)
    }

    /// Deletes what does not count any more.
    ///
    /// # Errors
    /// The database's.
    pub fn forget_counts(&mut self, now_s: u64) -> Result<()> {
        self.sql
            .execute("DELETE FROM counts WHERE until_s < ?1", values![now_s])?;
        let orphaned = "DELETE FROM counts WHERE limit_id NOT IN (SELECT id FROM limits)";
        self.sql.execute(orphaned, &[])?;
        // What was under way in a process that is gone is so no longer.
        let ended = "DELETE FROM counts WHERE limit_id IN (SELECT id FROM limits WHERE unit = 'concurrent')
                     AND holder NOT IN (SELECT id FROM replicas WHERE gone = 0)";
        self.sql.execute(ended, &[])?;
        Ok(())
    }
}
