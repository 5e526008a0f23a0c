//! What an administrator changes.
//!
//! Invariants: names and amounts are checked before the store is asked, and by it; an unknown member of a body is an error, so
//! that a slip is not taken for a wish. Deliberately absent: changing names, which the ledger's readers know things by.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluice_policy::budget::Window;
use sluice_policy::keyring::VirtualKey;
use sluice_policy::money::NanoUsd;
use sluice_policy::rate::Unit;

use super::{Accounts, Refusal, change, unix_s, wrong};
use crate::control::store::{BudgetRow, Error, LimitRow, NewKey, ScopeKind, Tx};

/// Customers, teams or keys, as in a path.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Whoever pays.
    Customers,
    /// Parts of customers.
    Teams,
    /// Virtual keys.
    Keys,
}

impl From<Kind> for ScopeKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Customers => Self::Customer,
            Kind::Teams => Self::Team,
            Kind::Keys => Self::Key,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewScope {
    name: String,
    customer: Option<String>,
    team: Option<String>,
    expires_s: Option<u64>,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    providers: Vec<String>,
    #[serde(default)]
    budgets: Vec<NewBudget>,
}

#[derive(Debug, Serialize)]
pub struct Added {
    id: i64,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aws: Option<AwsPair>,
}

/// A key as AWS SDKs take it.
#[derive(Debug, Serialize)]
struct AwsPair {
    access_key_id: String,
    secret_access_key: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alteration {
    disabled: Option<bool>,
    models: Option<Vec<String>>,
    providers: Option<Vec<String>>,
    expires_s: Option<u64>,
    log_bodies: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBudget {
    limit: String,
    window: String,
    soft: Option<String>,
    provider: Option<String>,
    model: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLimit {
    unit: String,
    window: Option<String>,
    most: u64,
    provider: Option<String>,
    model: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    amount: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    limit: Option<String>,
    soft: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    #[serde(default)]
    overlap_s: u64,
    expires_s: Option<u64>,
}

type Shared = State<Arc<Accounts>>;
type Created = Result<(StatusCode, Json<Added>), Refusal>;

/// Adds a customer, a team or a key, with its budgets.
pub async fn add(State(accounts): Shared, Path(kind): Path<Kind>, Json(new): Json<NewScope>) -> Created {
    let kind = ScopeKind::from(kind);
    let budgets: Vec<BudgetRow> = new
        .budgets
        .iter()
        .map(|budget| budget.row(0))
        .collect::<Result<_, _>>()?;
    if new.team.is_some() && new.customer.is_some() {
        return Err(wrong(
            "name the team or the customer: a team's customer follows from it",
        ));
    }
    let secret = (kind == ScopeKind::Key).then(secret).transpose()?;
    let key = secret.as_ref().map(|secret| stored(secret, new.expires_s));
    let asked = new.clone();
    let add = move |tx: &mut Tx<'_>| {
        let parent = match (&asked.team, &asked.customer) {
            (Some(team), _) => Some(tx.scope_named(ScopeKind::Team, team)?),
            (None, Some(customer)) => Some(tx.scope_named(ScopeKind::Customer, customer)?),
            (None, None) => None,
        };
        let id = tx.add_scope(&change(), kind, &asked.name, parent, key.as_ref())?;
        if !asked.models.is_empty() || !asked.providers.is_empty() {
            tx.set_allowed(&change(), id, &asked.models, &asked.providers)?;
        }
        for budget in &budgets {
            let budget = BudgetRow {
                scope: id,
                ..budget.clone()
            };
            tx.add_budget(&change(), &budget)?;
        }
        Ok(id)
    };
    let id = accounts.desk.store().ask(add).await?;
    accounts.in_force().await?;
    Ok((StatusCode::CREATED, Json(accounts.added(id, new.name, secret))))
}

/// Enables, disables, or changes what may be used.
pub async fn alter(
    State(accounts): Shared,
    Path((kind, name)): Path<(Kind, String)>,
    Json(asked): Json<Alteration>,
) -> Result<StatusCode, Refusal> {
    let alter = move |tx: &mut Tx<'_>| {
        let id = tx.scope_named(kind.into(), &name)?;
        if let Some(disabled) = asked.disabled {
            tx.set_disabled(&change(), id, disabled)?;
        }
        if let Some(bodies) = asked.log_bodies {
            tx.set_bodies(&change(), id, bodies)?;
        }
        if let Some(expires_s) = asked.expires_s {
            tx.set_expiry(&change(), id, expires_s)?;
        }
        if asked.models.is_some() || asked.providers.is_some() {
            let scopes = tx.scopes()?.scopes;
            let current = scopes.into_iter().find(|scope| scope.id == id);
            let current = current.ok_or(Error::Missing)?;
            let models = asked.models.clone().unwrap_or(current.models);
            let providers = asked.providers.clone().unwrap_or(current.providers);
            tx.set_allowed(&change(), id, &models, &providers)?;
        }
        Ok(())
    };
    accounts.change(alter).await
}

/// Deletes a customer, a team or a key.
pub async fn remove(State(accounts): Shared, Path((kind, name)): Path<(Kind, String)>) -> Result<StatusCode, Refusal> {
    let remove = move |tx: &mut Tx<'_>| {
        let id = tx.scope_named(kind.into(), &name)?;
        tx.delete_scope(&change(), id)
    };
    accounts.change(remove).await
}

/// Gives a key a new secret.
pub async fn rotate(State(accounts): Shared, Path(name): Path<String>, Json(asked): Json<Rotation>) -> Created {
    let secret = secret()?;
    let key = stored(&secret, asked.expires_s);
    let until_s = unix_s().saturating_add(asked.overlap_s);
    let of = name.clone();
    let rotate = move |tx: &mut Tx<'_>| {
        let id = tx.scope_named(ScopeKind::Key, &of)?;
        tx.rotate_key(&change(), id, &key, until_s)?;
        Ok(id)
    };
    let id = accounts.desk.store().ask(rotate).await?;
    accounts.in_force().await?;
    Ok((StatusCode::OK, Json(accounts.added(id, name, Some(secret)))))
}

/// Adds a budget.
pub async fn add_budget(
    State(accounts): Shared,
    Path((kind, name)): Path<(Kind, String)>,
    Json(new): Json<NewBudget>,
) -> Created {
    let row = new.row(0)?;
    let of = name.clone();
    let add = move |tx: &mut Tx<'_>| {
        let scope = tx.scope_named(kind.into(), &of)?;
        tx.add_budget(&change(), &BudgetRow { scope, ..row.clone() })
    };
    let id = accounts.desk.store().ask(add).await?;
    accounts.in_force().await?;
    Ok((StatusCode::CREATED, Json(accounts.added(id, name, None))))
}

/// Adds a limit.
pub async fn add_limit(
    State(accounts): Shared,
    Path((kind, name)): Path<(Kind, String)>,
    Json(new): Json<NewLimit>,
) -> Created {
    if !Unit::ALL.iter().any(|(_, name)| *name == new.unit) {
        return Err(wrong(
            "a unit is requests, input_tokens, output_tokens, total_tokens or concurrent",
        ));
    }
    let window = match (&new.window, new.unit.as_str()) {
        (Some(window), _) => window.parse().map_err(wrong)?,
        (None, "concurrent") => Window::Total,
        (None, _) => return Err(wrong("the window is missing")),
    };
    let of = name.clone();
    let add = move |tx: &mut Tx<'_>| {
        let row = LimitRow {
            id: 0,
            scope: tx.scope_named(kind.into(), &of)?,
            unit: new.unit.clone(),
            window,
            most: new.most,
            provider: new.provider.clone(),
            model: new.model.clone(),
        };
        tx.add_limit(&change(), &row)
    };
    let id = accounts.desk.store().ask(add).await?;
    accounts.in_force().await?;
    Ok((StatusCode::CREATED, Json(accounts.added(id, name, None))))
}

/// Changes a budget's limit, or from what spending on to warn.
pub async fn set_budget(
    State(accounts): Shared,
    Path(id): Path<i64>,
    Json(asked): Json<Correction>,
) -> Result<StatusCode, Refusal> {
    let limit = asked.limit.as_deref().map(dollars).transpose()?;
    let soft = match asked.soft.as_deref() {
        None => None,
        Some("none") => Some(None),
        Some(soft) => Some(Some(dollars(soft)?)),
    };
    if limit.is_none() && soft.is_none() {
        return Err(wrong("what is to be changed: limit or soft?"));
    }
    let set = move |tx: &mut Tx<'_>| {
        if let Some(limit) = limit {
            tx.set_limit(&change(), id, limit)?;
        }
        soft.map_or(Ok(()), |soft| tx.set_soft(&change(), id, soft))
    };
    accounts.change(set).await
}

/// Deletes a budget.
pub async fn delete_budget(State(accounts): Shared, Path(id): Path<i64>) -> Result<StatusCode, Refusal> {
    accounts.change(move |tx| tx.delete_budget(&change(), id)).await
}

/// Allows more in a budget's current period.
pub async fn top_up(
    State(accounts): Shared,
    Path(id): Path<i64>,
    Json(asked): Json<Amount>,
) -> Result<StatusCode, Refusal> {
    let amount = dollars(&asked.amount)?;
    accounts.change(move |tx| tx.top_up(&change(), id, amount)).await
}

/// Forgets what was spent in a budget's current period.
pub async fn reset(State(accounts): Shared, Path(id): Path<i64>) -> Result<StatusCode, Refusal> {
    accounts.change(move |tx| tx.reset_budget(&change(), id)).await
}

/// Deletes a limit.
pub async fn delete_limit(State(accounts): Shared, Path(id): Path<i64>) -> Result<StatusCode, Refusal> {
    accounts.change(move |tx| tx.delete_limit(&change(), id)).await
}

impl Accounts {
    fn added(&self, id: i64, name: String, secret: Option<VirtualKey>) -> Added {
        let pair = |secret: &VirtualKey| Some(self.pairs.as_ref()?.pair(&secret.digest()));
        let aws = secret.as_ref().and_then(pair).map(|pair| AwsPair {
            access_key_id: pair.access_key_id,
            secret_access_key: pair.secret_access_key,
        });
        let key = secret.map(|secret| secret.expose().to_owned());
        Added { id, name, key, aws }
    }

    async fn change(
        &self,
        act: impl FnMut(&mut Tx<'_>) -> Result<(), Error> + Send + 'static,
    ) -> Result<StatusCode, Refusal> {
        self.desk.store().ask(act).await?;
        self.in_force().await?;
        Ok(StatusCode::NO_CONTENT)
    }
}

impl NewBudget {
    fn row(&self, scope: i64) -> Result<BudgetRow, Refusal> {
        Ok(BudgetRow {
            id: 0,
            scope,
            limit: dollars(&self.limit)?,
            soft: self.soft.as_deref().map(dollars).transpose()?,
            window: self.window.parse().map_err(wrong)?,
            provider: self.provider.clone(),
            model: self.model.clone(),
        })
    }
}

fn dollars(text: &str) -> Result<NanoUsd, Refusal> {
    text.parse()
        .map_err(|why| wrong(format!("\"{}\": {why}", text.escape_debug())))
}

/// A secret of the operating system's randomness.
fn secret() -> Result<VirtualKey, Refusal> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|_| Refusal::Unavailable)?;
    Ok(VirtualKey::from_random(&bits))
}

fn stored(secret: &VirtualKey, expires_s: Option<u64>) -> NewKey {
    NewKey {
        digest: secret.digest(),
        hint: secret.hint().to_owned(),
        expires_s,
    }
}
