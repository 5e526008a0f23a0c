//! The control thread's side of virtual keys, budgets and the ledger: opens the store, passes on what the treasury says, and
//! turns records into entries of the ledger.
//!
//! Invariants: the gateway does not start with a store that it cannot open; cores have their first accounts and the keyring
//! before they accept a connection. Deliberately absent: the store (`store.rs`), the treasury (`treasury.rs`), and what a
//! request is charged (`exchange/payment.rs`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use sluice_policy::config;
use sluice_policy::config::accounts::UnknownPrice;
use sluice_policy::keyring::{Keyring, PairIssuer, TagBook};
use sluice_policy::money::{self, OnUnknown, PriceTable};
use tokio::sync::mpsc::UnboundedReceiver;

use super::build;
use super::log::{outcome_text, tries};
use super::store::{Entry, Store};
use super::treasury::{Budgets, Desk, Event, Rate, Settings, Treasury};
use crate::mesh::Funds;
use crate::record::{CacheUse, Extra, Names, Paid, Record};

/// How long the end of the process waits for the store to take back what was not spent.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Shortest secret that pairs may be derived from, in characters: 128 bits as hexadecimal digits.
const PAIRS_SECRET_BYTES_MIN: usize = 32;

/// The way to the treasury, and what of it waits.
pub struct Office {
    treasury: Treasury,
    events: UnboundedReceiver<Event>,
    tags: TagBook,
    entries: Vec<Entry>,
}

/// How the store does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    /// Entries of the ledger that were lost.
    pub lost: u64,
    /// Entries that it does not have yet.
    pub waiting: u64,
    /// Whether it cannot be written now.
    pub failing: bool,
}

/// What the cores begin with.
pub struct Opening {
    /// Virtual keys.
    pub keyring: Arc<Keyring>,
    /// Accounts of their budgets.
    pub funds: Vec<Funds>,
}

impl Office {
    /// Opens the store, and leases a first part of every budget. `joins`: this process takes over from the one that has the store.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub async fn open(config: &config::Accounts, cores: u32, joins: bool) -> Result<(Self, Opening)> {
        let location = location(config)?;
        let (store, recovered) =
            Store::at(&location, unix_s(), joins).context("accounts.store: it cannot be opened")?;
        tracing::info!(?recovered, "the store is open");
        let settings = Settings {
            cores,
            ledger_days: config.ledger_days,
            sums_days: config.sums_days,
            webhook: config.webhook.as_deref().map(Arc::from),
        };
        let started = Treasury::start(store, settings).await;
        let (treasury, events) = started.map_err(|error| anyhow!("accounts.store: {error}"))?;
        let mut office = Self {
            treasury,
            events,
            tags: TagBook::default(),
            entries: Vec::new(),
        };
        let mut opening = Opening {
            keyring: Arc::default(),
            funds: Vec::new(),
        };
        while let Ok(event) = office.events.try_recv() {
            match event {
                Event::Funds(funds) => opening.funds.push(funds),
                Event::Keyring(keyring) => opening.keyring = keyring,
                Event::Settled(whoever) => drop(whoever),
                Event::Soft { owner, spent, limit } => warn_soft(&owner, spent, limit),
            }
        }
        Ok((office, opening))
    }

    /// Where the administrator makes changes.
    pub fn desk(&self) -> Desk {
        self.treasury.desk()
    }

    /// How the store does.
    pub fn troubles(&self) -> Troubles {
        Troubles {
            lost: self.treasury.dropped(),
            waiting: self.treasury.waiting() as u64,
            failing: self.treasury.store().health().is_failing(),
        }
    }

    /// How the budgets stand.
    pub fn budgets(&self) -> Budgets {
        self.treasury.budgets()
    }

    /// What counts against rate limits now, for the next process.
    pub fn rates(&self) -> Vec<Rate> {
        self.treasury.rates(unix_s())
    }

    /// Has what the former process has counted count here too.
    pub fn add_rates(&self, rates: &[Rate]) {
        self.treasury.add_rates(rates, unix_s());
    }

    /// Adds a request to the ledger.
    pub fn enter(&mut self, record: &Record, names: &Names, paid: &Paid, extra: Option<&Extra>) {
        let mut tags = Vec::new();
        for (name, value) in paid.tags.iter() {
            let (name, value) = self.tags.place(name, value);
            tags.push((name.into(), value.into()));
        }
        let mut attempts = Vec::new();
        if let Some(extra) = extra.filter(|extra| !extra.tries.is_empty()) {
            tries(&mut attempts, &extra.tries);
        }
        self.entries.push(Entry {
            unix_s: record.unix_us / 1_000_000,
            request: record.id,
            scopes: paid.scopes,
            provider: names.provider().into(),
            model: paid.model.as_str().into(),
            status: record.status,
            outcome: outcome_text(record.outcome),
            attempts: record.attempts,
            input: paid.input,
            cached: paid.cached,
            output: paid.output,
            cost: paid.cost,
            priced: paid.priced,
            route: names.route().into(),
            cache: record.cache.map_or("", CacheUse::as_str),
            received_us: record.received_us,
            queued_us: record.queued_us,
            upstream_us: record.upstream_us,
            first_byte_us: record.first_byte_us,
            total_us: record.total_us,
            tries: String::from_utf8(attempts).unwrap_or_default().into(),
            tags: tags.into(),
        });
    }

    /// Passes what was added on to the store, which it reaches soon.
    pub fn flush(&mut self) {
        if !self.entries.is_empty() {
            self.treasury.record(std::mem::take(&mut self.entries));
        }
    }

    /// Gives back what was not spent. The cores have ended.
    pub async fn close(mut self) {
        self.flush();
        if tokio::time::timeout(CLOSE_PATIENCE, self.treasury.close())
            .await
            .is_err()
        {
            tracing::warn!("the store did not answer in time; what is leased counts as spent");
        }
    }
}

/// The next thing that the treasury says; never anything without one.
pub async fn next(office: &mut Option<Office>) -> Event {
    if let Some(office) = office
        && let Some(event) = office.events.recv().await
    {
        return event;
    }
    std::future::pending().await
}

/// Says that a budget's soft limit was passed.
pub fn warn_soft(owner: &str, spent: money::NanoUsd, limit: money::NanoUsd) {
    tracing::warn!(owner, %spent, %limit, "a budget's soft limit is passed");
}

/// The shipped prices and the operator's own.
///
/// # Errors
/// The operator's file cannot be read.
pub fn prices(config: &config::Accounts) -> Result<PriceTable> {
    let shipped = money::parse_prices(money::SHIPPED).context("the shipped prices")?;
    let own = match &config.prices {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("accounts.prices: {path}"))?;
            money::parse_prices(&text).with_context(|| format!("accounts.prices: {path}"))?
        }
        None => Vec::new(),
    };
    let on_unknown = match config.unknown_price {
        UnknownPrice::Refuse => OnUnknown::Refuse,
        UnknownPrice::Zero => OnUnknown::Zero,
    };
    Ok(PriceTable::new(shipped, own, on_unknown))
}

/// The administrator's credential, if there is to be one.
///
/// # Errors
/// It is not where the configuration says.
pub fn admin_credential(config: &config::Accounts) -> Result<Option<String>> {
    let Some(place) = &config.admin_credential else {
        return Ok(None);
    };
    build::secret_at(place).context("accounts.admin_credential").map(Some)
}

/// What derives pairs for AWS SDKs from virtual keys, if anything shall.
///
/// # Errors
/// The secret is not where the configuration says, or is too short to be one.
pub fn pair_issuer(config: &config::Accounts) -> Result<Option<PairIssuer>> {
    let Some(place) = &config.aws_pairs_secret else {
        return Ok(None);
    };
    let secret = build::secret_at(place).context("accounts.aws_pairs_secret")?;
    ensure!(
        secret.len() >= PAIRS_SECRET_BYTES_MIN,
        "accounts.aws_pairs_secret: at least {PAIRS_SECRET_BYTES_MIN} characters are needed, or pairs can be guessed"
    );
    Ok(Some(PairIssuer::new(&secret)))
}

fn location(config: &config::Accounts) -> Result<String> {
    match &config.store_secret {
        Some(place) => build::secret_at(place).context("accounts.store_secret"),
        None => config.store.clone().context("accounts.store is missing"),
    }
}

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
