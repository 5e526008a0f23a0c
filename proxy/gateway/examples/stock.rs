//! Fills a store for measurements: `cargo run --release -p sluice --example stock -- STORE KEYS ROWS [bare]`.
//!
//! A customer, a team and the keys, each with a budget and a limit of its own unless they are to be bare, and so many requests
//! in the ledger. The secret of
//! key number N is `VirtualKey::from_random` of N's four bytes, low first, and 28 zeroes, so that whoever measures knows it; such
//! keys are for measurements alone. Deliberately absent: anything that a gateway in service needs.

use anyhow::{Context, Result};
use sluice::control::store::{BudgetRow, Change, Entry, LimitRow, NewKey, ScopeKind, Store};
use sluice_policy::budget::{Span, Window};
use sluice_policy::keyring::VirtualKey;
use sluice_policy::money::NanoUsd;

const NOW_S: u64 = 1_795_371_600;
/// Entries that one transaction writes.
const AT_ONCE: u64 = 10_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("stock STORE KEYS ROWS");
    let (place, keys, rows) = (next()?, next()?.parse::<u32>()?, next()?.parse::<u64>()?);
    let bare = arguments.next().is_some_and(|word| word == "bare");
    let (store, _) = Store::at(&place, NOW_S, false)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        add_keys(&store, keys, bare).await?;
        let mut from = 0;
        while from < rows {
            let to = rows.min(from + AT_ONCE);
            store.record((from..to).map(|at| entry(at, keys)).collect()).await?;
            from = to;
        }
        Ok(())
    })
}

async fn add_keys(store: &Store, keys: u32, bare: bool) -> Result<()> {
    let added = store.ask(move |tx| {
        let change = Change {
            actor: "stock".to_owned(),
            unix_s: NOW_S,
        };
        let mut rows = vec![tx.add_scope(&change, ScopeKind::Customer, "plant", None, None)?];
        let team = tx.add_scope(&change, ScopeKind::Team, "line", rows.first().copied(), None)?;
        rows.push(team);
        for at in 0..keys {
            let mut bits = [0; 32];
            bits[..4].copy_from_slice(&at.to_le_bytes());
            let key = VirtualKey::from_random(&bits);
            let key = NewKey {
                digest: key.digest(),
                hint: key.hint().to_owned(),
                expires_s: None,
            };
            rows.push(tx.add_scope(&change, ScopeKind::Key, &format!("key-{at}"), Some(team), Some(&key))?);
        }
        if bare {
            return Ok(());
        }
        for scope in rows {
            let budget = BudgetRow {
                id: 0,
                scope,
                limit: NanoUsd(1_000_000_000_000),
                soft: None,
                window: Window::Total,
                provider: None,
                model: None,
            };
            tx.add_budget(&change, &budget)?;
            let limit = LimitRow {
                id: 0,
                scope,
                unit: "requests".to_owned(),
                window: Window::Rolling(Span::Minute),
                most: 1_000_000_000,
                provider: None,
                model: None,
            };
            tx.add_limit(&change, &limit)?;
        }
        Ok(())
    });
    Ok(added.await?)
}

/// Ten requests a second, by the keys in turn.
fn entry(at: u64, keys: u32) -> Entry {
    Entry {
        unix_s: NOW_S.saturating_sub(86_400) + at / 10,
        request: u128::from(at) << 64 | 1,
        scopes: [(at % u64::from(keys.max(1))) as i64 + 3, 2, 1],
        provider: "openai".into(),
        model: "gpt-4o-mini".into(),
        status: 200,
        outcome: "ok",
        attempts: 1,
        input: 1_000,
        output: 100,
        cost: NanoUsd(2_000_000),
        priced: true,
        first_byte_us: 500_000,
        total_us: 900_000,
        ..Entry::default()
    }
}
