//! Single requests of the ledger, as `sluice log` shows them.
//!
//! Invariants: at most [`REQUESTS_MAX`] at once, the newest; read by the ledger's index of times. Deliberately absent: requests
//! older than the ledger keeps them, of which only sums are left.

use super::sql::{Result, Row, Value};
use super::tx::Tx;
use sluice_policy::money::NanoUsd;

/// Most requests of one answer.
pub const REQUESTS_MAX: u32 = 10_000;

/// Which requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestQuery {
    /// Of the virtual key of that name.
    pub key: Option<String>,
    /// That began at this second or later.
    pub from_s: u64,
    /// And before this one.
    pub to_s: u64,
    /// Those that failed (`true`) or did not (`false`).
    pub failed: Option<bool>,
    /// With exactly this status.
    pub status: Option<u16>,
    /// At most this many, up to [`REQUESTS_MAX`].
    pub most: u32,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RequestRow {
    /// When it began, in seconds since the epoch.
    pub unix_s: u64,
    /// Its id, as in `x-request-id`.
    pub id: String,
    /// The virtual key's name; `-` if it came with none, `deleted-N` if the key is gone.
    pub virtual_key: String,
    /// The provider that answered, or failed last.
    pub provider: String,
    /// The model, as that provider knows it.
    pub model: String,
    /// The status that the client saw; 0 if it saw none.
    pub status: u64,
    /// How it ended, in a word.
    pub outcome: String,
    /// Attempts at providers.
    pub attempts: u64,
    /// Input tokens, cached ones included.
    pub input_tokens: u64,
    /// Input tokens that came from a prompt cache.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Cost, in decimal dollars.
    pub cost_usd: String,
    /// Whether its price was known.
    pub priced: bool,
    /// What its route is called.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// What it had to do with the cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cache: String,
    /// From its first byte until it was complete, in microseconds.
    pub received_us: u64,
    /// Waited for places at providers, in microseconds.
    pub queued_us: u64,
    /// From sending to the provider that was asked last until its first byte, in microseconds.
    pub upstream_us: u64,
    /// From its first byte to the first byte of its answer, in microseconds.
    pub first_byte_us: u64,
    /// From its first byte to the last of its answer, in microseconds.
    pub total_us: u64,
    /// Its attempts with reason and duration, if they are more than one that gave the answer.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub tries: serde_json::Value,
    /// Its tags, `name=value`.
    pub tags: Vec<String>,
}

impl Tx<'_> {
    /// Requests, the newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn requests(&self, query: &RequestQuery) -> Result<Vec<RequestRow>> {
        let mut values: Vec<Value<'_>> = vec![query.from_s.into(), query.to_s.into()];
        let mut conditions = String::new();
        if let Some(key) = &query.key {
            values.push(key.into());
            let place = values.len();
            // Keys are the third kind of scope.
            conditions.push_str(&format!(
                " AND key IN (SELECT id FROM scopes WHERE kind = 2 AND name = ?{place})"
            ));
        }
        if let Some(status) = query.status {
            values.push(status.into());
            conditions.push_str(&format!(" AND status = ?{}", values.len()));
        }
        match query.failed {
            Some(true) => conditions.push_str(" AND (outcome <> 'ok' OR status >= 400)"),
            Some(false) => conditions.push_str(" AND outcome = 'ok' AND status < 400"),
            None => {}
        }
        let most = query.most.min(REQUESTS_MAX);
        let statement = format!(
            "SELECT unix_s, request, coalesce((SELECT name FROM scopes WHERE id = ledger.key),
               CASE WHEN coalesce(key, 0) = 0 THEN '-' ELSE 'deleted-' || key END),
             provider, model, status, outcome, attempts, input, cached, output, cost, priced, first_byte_us, total_us, tags,
             route, cache, received_us, queued_us, upstream_us, tries
             FROM ledger WHERE unix_s >= ?1 AND unix_s < ?2{conditions} ORDER BY unix_s DESC, id DESC LIMIT {most}"
        );
        self.sql.query(&statement, &values)?.iter().map(line).collect()
    }
}

fn line(row: &Row) -> Result<RequestRow> {
    let id: [u8; 16] = row.get(1)?;
    let tags: String = row.get(15)?;
    let tries: String = row.get(21)?;
    Ok(RequestRow {
        unix_s: row.get(0)?,
        id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
        virtual_key: row.get(2)?,
        provider: row.get(3)?,
        model: row.get(4)?,
        status: row.get(5)?,
        outcome: row.get(6)?,
        attempts: row.get(7)?,
        input_tokens: row.get(8)?,
        cached_tokens: row.get(9)?,
        output_tokens: row.get(10)?,
        cost_usd: NanoUsd(row.get(11)?).to_string(),
        priced: row.get(12)?,
        route: row.get(16)?,
        cache: row.get(17)?,
        received_us: row.get(18)?,
        queued_us: row.get(19)?,
        upstream_us: row.get(20)?,
        first_byte_us: row.get(13)?,
        total_us: row.get(14)?,
        // The gateway has written it itself; what cannot be read says nothing.
        tries: serde_json::from_str(&tries).unwrap_or_default(),
        tags: tags.lines().map(str::to_owned).collect(),
    })
}
