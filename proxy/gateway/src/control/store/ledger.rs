//! The ledger: what each request was and cost, its sums by the hour, and reports over them.
//!
//! Invariants: a request and its part of the sums are written in one transaction; single requests are kept for as long as the
//! operator wants, the sums for longer; amounts are nano-dollars until they are printed. Deliberately absent: bodies, and
//! anything that a client could make unbounded: tags were bounded before they came here.

use std::collections::HashMap;

use sluice_policy::money::NanoUsd;

use super::sql::{Result, Sql, Value, values};
use super::tx::Tx;

/// One request as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// When it began, in seconds since the epoch.
    pub unix_s: u64,
    /// Its id.
    pub request: u128,
    /// The rows of its key, team and customer; 0 for none.
    pub scopes: [i64; 3],
    /// The provider that answered, or failed last.
    pub provider: Box<str>,
    /// The model, as that provider knows it.
    pub model: Box<str>,
    /// The status that the client saw.
    pub status: u16,
    /// How it ended, in a word.
    pub outcome: &'static str,
    /// Attempts at providers.
    pub attempts: u8,
    /// Input tokens, cached ones included.
    pub input: u64,
    /// Input tokens that came from a prompt cache.
    pub cached: u64,
    /// Output tokens.
    pub output: u64,
    /// What it cost, over all attempts.
    pub cost: NanoUsd,
    /// Whether its price was known.
    pub priced: bool,
    /// What its route is called; empty for none.
    pub route: Box<str>,
    /// What it had to do with the cache, in a word; empty for nothing.
    pub cache: &'static str,
    /// From its first byte until it was complete, in microseconds.
    pub received_us: u32,
    /// Waited for places at providers, in microseconds.
    pub queued_us: u32,
    /// From sending to the provider that was asked last until its first byte, in microseconds.
    pub upstream_us: u32,
    /// From its first byte to the first byte of its answer, in microseconds.
    pub first_byte_us: u32,
    /// From its first byte to the last of its answer, in microseconds.
    pub total_us: u32,
    /// Its attempts as a JSON array, if they are more than one that gave the answer; else empty.
    pub tries: Box<str>,
    /// Its tags, as reports tell them apart.
    pub tags: Box<[(Box<str>, Box<str>)]>,
}

#[derive(Default)]
struct Sum {
    requests: u64,
    input: u64,
    cached: u64,
    output: u64,
    cost: u64,
}

impl Sum {
    fn add(&mut self, entry: &Entry) {
        self.requests += 1;
        self.input += tokens(entry.input);
        self.cached += tokens(entry.cached);
        self.output += tokens(entry.output);
        self.cost = self.cost.saturating_add(cost(entry.cost));
    }

    fn values(&self) -> [Value<'static>; 5] {
        [self.requests, self.input, self.cached, self.output, self.cost].map(Value::from)
    }
}

/// What a provider claims to have used, as far as it can be true: sums of a million of them stay within 63 bits.
fn tokens(claimed: u64) -> u64 {
    const TOKENS_MAX: u64 = 1 << 40;
    claimed.min(TOKENS_MAX)
}

/// A cost within what a budget can hold.
fn cost(amount: NanoUsd) -> u64 {
    amount.min(NanoUsd::LIMIT_MAX).0
}

/// What a report adds up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Virtual keys.
    Key,
    /// Teams.
    Team,
    /// Customers.
    Customer,
    /// Models.
    Model,
    /// Providers.
    Provider,
    /// Names and values of tags.
    Tag,
}

impl GroupBy {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Key, "key"),
        (Self::Team, "team"),
        (Self::Customer, "customer"),
        (Self::Model, "model"),
        (Self::Provider, "provider"),
        (Self::Tag, "tag"),
    ];
}

/// What a report is about. Times are rounded down to whole hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendQuery {
    /// What to add up by.
    pub by: GroupBy,
    /// From this second on.
    pub from_s: u64,
    /// Up to, and without, this one.
    pub to_s: u64,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SpendRow {
    /// What the line is about; `name=value` for tags, `-` for requests without.
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// Input tokens, cached ones included.
    pub input_tokens: u64,
    /// Input tokens that came from a prompt cache.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Cost, in decimal dollars.
    pub cost_usd: String,
}

/// Most lines of one report.
const ROWS_MAX: usize = 10_000;
const HOUR_S: u64 = 3_600;
/// Columns of the ledger.
const COLUMNS: usize = 24;
const LEDGER: &str =
    "ledger (unix_s, request, key, team, customer, provider, model, status, outcome, attempts, input, cached,
    output, cost, priced, first_byte_us, total_us, tags, route, cache, received_us, queued_us, upstream_us, tries)";
const HOURS: &str = "hours (hour, key, provider, model, team, customer, requests, input, cached, output, cost)";
const TAG_HOURS: &str = "tag_hours (hour, name, value, requests, input, cached, output, cost)";

impl Tx<'_> {
    /// Writes requests down, and adds them to the sums of their hours.
    ///
    /// # Errors
    /// The file's.
    pub fn record(&mut self, entries: &[Entry]) -> Result<()> {
        let mut hours: HashMap<_, (Sum, [i64; 3])> = HashMap::new();
        let mut tag_hours: HashMap<(u64, &str, &str), Sum> = HashMap::new();
        let mut rows = Vec::with_capacity(entries.len() * COLUMNS);
        for entry in entries {
            rows.extend(values_of(entry));
            let hour = entry.unix_s / HOUR_S;
            let sum = hours
                .entry((hour, entry.scopes[0], &*entry.provider, &*entry.model))
                .or_default();
            sum.0.add(entry);
            sum.1 = entry.scopes;
            for (name, value) in &entry.tags {
                tag_hours.entry((hour, name, value)).or_default().add(entry);
            }
        }
        self.sql.insert_many(LEDGER, COLUMNS, "", &rows)?;
        // In order, so that nobody waits for a row of one who waits for his.
        let mut hours: Vec<_> = hours.into_iter().collect();
        hours.sort_unstable_by_key(|(key, _)| *key);
        let rows: Vec<Value<'_>> = hours
            .into_iter()
            .flat_map(|((hour, key, provider, model), (sum, [_, team, customer]))| {
                let what = [
                    hour.into(),
                    key.into(),
                    provider.into(),
                    model.into(),
                    team.into(),
                    customer.into(),
                ];
                what.into_iter().chain(sum.values())
            })
            .collect();
        let conflict = format!("ON CONFLICT (hour, key, provider, model) {}", adding("hours"));
        self.sql.insert_many(HOURS, 11, &conflict, &rows)?;
        let mut tag_hours: Vec<_> = tag_hours.into_iter().collect();
        tag_hours.sort_unstable_by_key(|(key, _)| *key);
        let rows: Vec<Value<'_>> = tag_hours
            .into_iter()
            .flat_map(|((hour, name, value), sum)| {
                [hour.into(), name.into(), value.into()].into_iter().chain(sum.values())
            })
            .collect();
        let conflict = format!("ON CONFLICT (hour, name, value) {}", adding("tag_hours"));
        self.sql.insert_many(TAG_HOURS, 8, &conflict, &rows)
    }

    /// Deletes single requests from before `ledger_s`, and sums from before `hours_s`; at most `most` requests at once, so that
    /// nobody waits long. Returns how many went.
    ///
    /// # Errors
    /// The file's.
    pub fn forget(&mut self, ledger_s: u64, hours_s: u64, most: u32) -> Result<u64> {
        let gone = self.sql.execute(
            "DELETE FROM ledger WHERE id IN (SELECT id FROM ledger WHERE unix_s < ?1 ORDER BY unix_s LIMIT ?2)",
            values![ledger_s, most],
        )?;
        self.sql
            .execute("DELETE FROM hours WHERE hour < ?1", values![hours_s / HOUR_S])?;
        self.sql
            .execute("DELETE FROM tag_hours WHERE hour < ?1", values![hours_s / HOUR_S])?;
        Ok(gone)
    }

    /// What was spent, the most expensive first; at most 10,000 lines.
    ///
    /// # Errors
    /// The file's.
    pub fn spend(&self, query: &SpendQuery) -> Result<Vec<SpendRow>> {
        spend(self.sql, query)
    }
}

/// What happens to a sum that is there already.
fn adding(table: &str) -> String {
    let columns = ["requests", "input", "cached", "output", "cost"];
    let add = columns.map(|column| format!("{column} = {table}.{column} + excluded.{column}"));
    format!("DO UPDATE SET {}", add.join(", "))
}

fn values_of(entry: &Entry) -> [Value<'_>; COLUMNS] {
    let [key, team, customer] = entry.scopes;
    let tags: Vec<String> = entry
        .tags
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    [
        entry.unix_s.into(),
        entry.request.to_be_bytes().into(),
        key.into(),
        team.into(),
        customer.into(),
        (&*entry.provider).into(),
        (&*entry.model).into(),
        entry.status.into(),
        entry.outcome.into(),
        entry.attempts.into(),
        tokens(entry.input).into(),
        tokens(entry.cached).into(),
        tokens(entry.output).into(),
        cost(entry.cost).into(),
        entry.priced.into(),
        entry.first_byte_us.into(),
        entry.total_us.into(),
        tags.join("\n").into(),
        (&*entry.route).into(),
        entry.cache.into(),
        entry.received_us.into(),
        entry.queued_us.into(),
        entry.upstream_us.into(),
        (&*entry.tries).into(),
    ]
}

fn spend(sql: Sql<'_>, query: &SpendQuery) -> Result<Vec<SpendRow>> {
    let scope = |column: &str| {
        format!(
            "coalesce((SELECT name FROM scopes WHERE id = {column}),
             CASE WHEN coalesce({column}, 0) = 0 THEN '-' ELSE 'deleted-' || {column} END)"
        )
    };
    let (name, table) = match query.by {
        GroupBy::Key => (scope("key"), "hours"),
        GroupBy::Team => (scope("team"), "hours"),
        GroupBy::Customer => (scope("customer"), "hours"),
        GroupBy::Model => ("provider || '/' || model".to_owned(), "hours"),
        GroupBy::Provider => ("provider".to_owned(), "hours"),
        GroupBy::Tag => ("name || '=' || value".to_owned(), "tag_hours"),
    };
    // PostgreSQL adds 64-bit numbers up to a wider one.
    let sum = |column: &str| format!("CAST(sum({column}) AS bigint)");
    let sums = ["requests", "input", "cached", "output", "cost"].map(sum).join(", ");
    let statement = format!(
        "SELECT {name} AS what, {sums} FROM {table} WHERE hour >= ?1 AND hour < ?2
         GROUP BY 1 ORDER BY 6 DESC, 1 LIMIT {ROWS_MAX}"
    );
    let hours = values![query.from_s / HOUR_S, query.to_s.div_ceil(HOUR_S)];
    let rows = sql.query(&statement, hours)?;
    let line = |row: &super::sql::Row| {
        Ok(SpendRow {
            name: row.get(0)?,
            requests: row.get(1)?,
            input_tokens: row.get(2)?,
            cached_tokens: row.get(3)?,
            output_tokens: row.get(4)?,
            cost_usd: NanoUsd(row.get(5)?).to_string(),
        })
    };
    rows.iter().map(line).collect()
}
