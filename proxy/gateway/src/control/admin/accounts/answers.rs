//! What an administrator is told: who there is, what was spent, what was changed.
//!
//! Invariants: no secret and no digest; amounts are decimal dollars in strings, because JSON's numbers would round them.
//! Deliberately absent: what changes anything (`changes.rs`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sluice_policy::budget::{Span, Vault, Window};
use sluice_policy::money::NanoUsd;

use super::changes::Kind;
use super::{Accounts, Refusal, unix_s, wrong};
use crate::control::store::{
    AuditRow, BudgetRow, Error, GroupBy, LimitRow, REQUESTS_MAX, RequestQuery, RequestRow, ScopeKind, ScopeRow,
    SpendQuery, SpendRow, Tx,
};

/// Lines of the audit log in one answer.
const AUDIT_MOST: u32 = 1_000;

#[derive(Debug, Serialize)]
pub struct Shown {
    id: i64,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    disabled: bool,
    /// Of a key whose bodies are logged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    log_bodies: bool,
    models: Vec<String>,
    providers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_with: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_s: Option<u64>,
    budgets: Vec<ShownBudget>,
    limits: Vec<ShownLimit>,
}

#[derive(Debug, Serialize)]
struct ShownBudget {
    id: i64,
    limit: String,
    window: String,
    spent: String,
    /// Held by running processes: spent in part, not known yet how much.
    leased: String,
    /// Allowed beyond the limit in the current period.
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownLimit {
    id: i64,
    unit: String,
    window: String,
    most: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

/// Every customer, team or key.
pub async fn list(State(accounts): State<Arc<Accounts>>, Path(kind): Path<Kind>) -> Result<Json<Vec<Shown>>, Refusal> {
    let kind = ScopeKind::from(kind);
    let list = move |tx: &mut Tx<'_>| shown(tx, kind, None);
    Ok(Json(accounts.desk.store().ask(list).await?))
}

/// One of them.
pub async fn one(
    State(accounts): State<Arc<Accounts>>,
    Path((kind, name)): Path<(Kind, String)>,
) -> Result<Json<Shown>, Refusal> {
    let kind = ScopeKind::from(kind);
    let one = move |tx: &mut Tx<'_>| shown(tx, kind, Some(&name))?.pop().ok_or(Error::Missing);
    Ok(Json(accounts.desk.store().ask(one).await?))
}

fn shown(tx: &Tx<'_>, kind: ScopeKind, name: Option<&str>) -> Result<Vec<Shown>, Error> {
    let scopes = tx.scopes()?;
    let all = All {
        vaults: tx.vaults_now()?,
        names: scopes
            .scopes
            .iter()
            .map(|scope| (scope.id, (scope.kind, &*scope.name)))
            .collect(),
        budgets: by_scope(&scopes.budgets, |row| row.scope),
        limits: by_scope(&scopes.limits, |row| row.scope),
    };
    let of = scopes.scopes.iter().filter(|scope| scope.kind == kind);
    let of = of.filter(|scope| name.is_none_or(|name| scope.name == name));
    Ok(of.map(|scope| show(&all, scope)).collect())
}

/// What is stored, as fast as ten thousand keys need it to be found.
struct All<'a> {
    vaults: HashMap<i64, Vault>,
    names: HashMap<i64, (ScopeKind, &'a str)>,
    budgets: HashMap<i64, Vec<&'a BudgetRow>>,
    limits: HashMap<i64, Vec<&'a LimitRow>>,
}

fn by_scope<T>(rows: &[T], scope: impl Fn(&T) -> i64) -> HashMap<i64, Vec<&T>> {
    let mut by_scope: HashMap<i64, Vec<&T>> = HashMap::new();
    for row in rows {
        by_scope.entry(scope(row)).or_default().push(row);
    }
    by_scope
}

fn show(all: &All<'_>, scope: &ScopeRow) -> Shown {
    let parent = scope.parent.and_then(|id| all.names.get(&id));
    let named = |kind: ScopeKind| {
        parent
            .filter(|parent| parent.0 == kind)
            .map(|parent| parent.1.to_owned())
    };
    let budget = |row: &&BudgetRow| {
        let vault = all.vaults.get(&row.id);
        let (spent, leased) = vault.map_or_else(Default::default, |vault| (vault.spent, vault.leased(vault.period)));
        let extra = vault.map(|vault| vault.extra).filter(|extra| *extra > NanoUsd::ZERO);
        ShownBudget {
            id: row.id,
            limit: row.limit.to_string(),
            window: row.window.name(),
            spent: spent.to_string(),
            leased: leased.to_string(),
            extra: extra.map(|extra| extra.to_string()),
            soft: row.soft.map(|soft| soft.to_string()),
            provider: row.provider.clone(),
            model: row.model.clone(),
        }
    };
    let limit = |row: &&LimitRow| ShownLimit {
        id: row.id,
        unit: row.unit.clone(),
        window: row.window.name(),
        most: row.most,
        provider: row.provider.clone(),
        model: row.model.clone(),
    };
    Shown {
        id: scope.id,
        name: scope.name.clone(),
        customer: named(ScopeKind::Customer),
        team: named(ScopeKind::Team),
        disabled: scope.disabled,
        log_bodies: scope.bodies,
        models: scope.models.clone(),
        providers: scope.providers.clone(),
        ends_with: scope.hint.clone(),
        expires_s: scope.expires_s,
        budgets: all.budgets.get(&scope.id).into_iter().flatten().map(budget).collect(),
        limits: all.limits.get(&scope.id).into_iter().flatten().map(limit).collect(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendOf {
    by: String,
    from_s: Option<u64>,
    to_s: Option<u64>,
    month: Option<String>,
    format: Option<String>,
}

/// What was spent: in a month, between two moments, or in the current month so far.
pub async fn spend(State(accounts): State<Arc<Accounts>>, Query(of): Query<SpendOf>) -> Result<Response, Refusal> {
    let by = GroupBy::ALL.iter().find(|(_, name)| *name == of.by).map(|(by, _)| *by);
    let by = by.ok_or_else(|| wrong("by is key, team, customer, model, provider or tag"))?;
    let month = |at_s: u64| {
        let (_, begins_s, ends_s) = Window::Calendar(Span::Month).period(at_s);
        (begins_s, ends_s)
    };
    let (begins_s, ends_s) = match &of.month {
        Some(text) => month(within_month(text).ok_or_else(|| wrong("a month is YYYY-MM"))?),
        None => month(unix_s()),
    };
    let query = SpendQuery {
        by,
        from_s: of.from_s.unwrap_or(begins_s),
        to_s: of.to_s.unwrap_or(ends_s),
    };
    let rows = accounts.desk.store().ask(move |tx| tx.spend(&query)).await?;
    match of.format.as_deref() {
        None | Some("json") => Ok(Json(rows).into_response()),
        Some("csv") => Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], csv(&rows)).into_response()),
        Some(_) => Err(wrong("format is json or csv")),
    }
}

/// A second within `YYYY-MM`.
fn within_month(text: &str) -> Option<u64> {
    let (year, month) = text.split_once('-')?;
    let year: u64 = year.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let month: u64 = month.parse().ok().filter(|month| (1..=12).contains(month))?;
    // From months since the epoch: the average month's middle is within it, early and late in a cycle of leap years.
    let months = (year - 1970) * 12 + month - 1;
    let mut at_s = months * 2_629_746 + 1_314_873;
    let index = Window::Calendar(Span::Month).period(at_s).0;
    if index < months {
        at_s = Window::Calendar(Span::Month).period(at_s).2;
    } else if index > months {
        at_s = Window::Calendar(Span::Month).period(at_s).1 - 1;
    }
    Some(at_s)
}

/// RFC 4180, with a heading. A name that a spreadsheet would take for a formula is made text.
fn csv(rows: &[SpendRow]) -> String {
    let mut text = String::from("name,requests,input_tokens,cached_tokens,output_tokens,cost_usd\r\n");
    for row in rows {
        let guard = if row.name.starts_with(['=', '+', '-', '@']) {
            "'"
        } else {
            ""
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\"{guard}{}\",{},{},{},{},{}\r\n",
            row.name.replace('"', "\"\""),
            row.requests,
            row.input_tokens,
            row.cached_tokens,
            row.output_tokens,
            row.cost_usd
        );
    }
    text
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestsOf {
    key: Option<String>,
    from_s: Option<u64>,
    to_s: Option<u64>,
    status: Option<String>,
    lines: Option<u32>,
}

/// Single requests, the newest first: of a virtual key, between two moments, with a status.
pub async fn requests(
    State(accounts): State<Arc<Accounts>>,
    Query(of): Query<RequestsOf>,
) -> Result<Json<Vec<RequestRow>>, Refusal> {
    let (failed, status) = match of.status.as_deref() {
        None => (None, None),
        Some("error") => (Some(true), None),
        Some("ok") => (Some(false), None),
        Some(number) => {
            let number = number.parse().map_err(|_| wrong("status is ok, error or a number"))?;
            (None, Some(number))
        }
    };
    let query = RequestQuery {
        key: of.key,
        from_s: of.from_s.unwrap_or(0),
        to_s: of.to_s.unwrap_or_else(|| unix_s() + 1),
        failed,
        status,
        most: of.lines.unwrap_or(REQUESTS_MAX),
    };
    Ok(Json(accounts.desk.store().ask(move |tx| tx.requests(&query)).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditOf {
    lines: Option<u32>,
}

/// The latest changes, the newest first.
pub async fn audit(
    State(accounts): State<Arc<Accounts>>,
    Query(of): Query<AuditOf>,
) -> Result<Json<Vec<AuditRow>>, Refusal> {
    let lines = of.lines.unwrap_or(AUDIT_MOST).min(AUDIT_MOST);
    Ok(Json(accounts.desk.store().ask(move |tx| tx.audit_log(lines)).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_found_in_every_year() {
        let mut begins_s = 0;
        for year in 1970..2_400_u64 {
            for month in 1..=12 {
                let at_s = within_month(&format!("{year}-{month:02}")).unwrap();
                let (index, begins, ends) = Window::Calendar(Span::Month).period(at_s);
                assert_eq!(
                    (index, begins),
                    ((year - 1970) * 12 + month - 1, begins_s),
                    "{year}-{month}"
                );
                begins_s = ends;
            }
        }
        for text in ["", "2026", "2026-13", "2026-0", "1969-12", "2026-11-22"] {
            assert_eq!(within_month(text), None, "{text}");
        }
    }

    #[test]
    fn a_table_quotes_names_and_disarms_formulas() {
        let row = |name: &str| SpendRow {
            name: name.to_owned(),
            requests: 1,
            input_tokens: 2,
            cached_tokens: 0,
            output_tokens: 3,
            cost_usd: NanoUsd(1).to_string(),
        };
        let text = csv(&[row("a\"b"), row("=1+1")]);
        assert_eq!(
            text,
            "name,requests,input_tokens,cached_tokens,output_tokens,cost_usd\r\n\
             \"a\"\"b\",1,2,0,3,0.000000001\r\n\"'=1+1\",1,2,0,3,0.000000001\r\n"
        );
    }
}
