//! Virtual keys, budgets and the ledger, as configuration sets them up. The keys themselves are in the store.
//!
//! Invariants: without this section nothing is authenticated, counted or stored. Deliberately absent: keys, budgets and
//! limits, which change while the gateway runs and are made over the admin interface.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::provider::SecretPlace;

/// Virtual keys, budgets, rate limits and the ledger of requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    /// Where keys, budgets and the ledger are kept: the path of an SQLite file, which is made if it does not exist, or
    /// `postgres://…`, which several gateways can share. Needed, unless `store_secret` says it. Takes effect after a restart.
    #[serde(default)]
    pub store: Option<String>,
    /// Where that is written instead: for a URL with a password. Default: nowhere.
    #[serde(default)]
    pub store_secret: Option<SecretPlace>,
    /// Where the administrator's credential is. With it, `/admin/v1` of the admin interface serves keys, budgets and reports
    /// to whoever sends it as `Authorization: Bearer`. Default: none; then the admin interface does not have those pages.
    #[serde(default)]
    pub admin_credential: Option<SecretPlace>,
    /// Where the secret is from which an access key id and a secret access key follow for each virtual key: with it, AWS SDKs can
    /// ask the Bedrock paths, signed with such a pair (Signature Version 4), which whoever makes or rotates a key is shown
    /// once. At least 32 characters; another secret means other pairs. Default: none; signatures are no credentials. Takes
    /// effect after a restart.
    #[serde(default)]
    pub aws_pairs_secret: Option<SecretPlace>,
    /// Whether a request needs a virtual key: auto (as soon as there is one), always or never. `/health` and `/ready` do not.
    #[serde(default)]
    pub require_key: RequireKey,
    /// What happens to a request that is charged to a budget and whose price nobody knows, such as a batch's or that of an
    /// image of unknown size: refuse (402) or zero (it is let in, costs nothing and is counted as unpriced).
    #[serde(default)]
    pub unknown_price: UnknownPrice,
    /// A file of your own prices, in the form of `config/prices.yaml` with `PROVIDER/MODEL` names, in which `*` stands for any
    /// text. They come before the shipped ones. Default: the shipped ones only.
    #[serde(default)]
    pub prices: Option<String>,
    /// How much is set aside in each budget before a request is sent: worst (all it can cost) or estimate (what 99 of 100
    /// answers of the model have cost of late; a budget can then be exceeded by what longer answers cost beyond that, by at
    /// most the worst case of the requests under way).
    #[serde(default)]
    pub reserve: Reserve,
    /// What happens to a request that a budget cannot afford in full: refuse (402) or clamp (its output is limited to what the
    /// budget affords; refused if that is nothing).
    #[serde(default)]
    pub enforce: Enforce,
    /// What happens to a request that is charged to a budget of which nothing is leased while the store cannot be reached:
    /// refuse (503) or admit (it goes unpaid, into the ledger only).
    #[serde(default)]
    pub store_down: StoreDown,
    /// Days for which single requests are kept in the ledger (1 to 3650).
    #[serde(default = "ledger_days")]
    #[schemars(range(min = 1, max = 3650))]
    pub ledger_days: u32,
    /// Days for which the hourly sums of the ledger are kept, which reports are made of (1 to 36500).
    #[serde(default = "sums_days")]
    #[schemars(range(min = 1, max = 36_500))]
    pub sums_days: u32,
    /// Where a JSON message is posted to when a budget's soft limit is passed: an `http://` or `https://` URL. Default: nowhere;
    /// the log and a metric say it all the same.
    #[serde(default)]
    pub webhook: Option<String>,
}

fn ledger_days() -> u32 {
    90
}

fn sums_days() -> u32 {
    800
}

/// Whether a request needs a virtual key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RequireKey {
    /// As soon as there is one.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never; one that is sent counts.
    Never,
}

/// What an unknown price means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum UnknownPrice {
    /// The request is refused.
    #[default]
    Refuse,
    /// It costs nothing, and is counted as unpriced.
    Zero,
}

/// How much is set aside before a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Reserve {
    /// The most that it can cost.
    #[default]
    Worst,
    /// What 99 of 100 answers have cost.
    Estimate,
}

/// What happens to a request that a budget cannot afford in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Enforce {
    /// It is refused.
    #[default]
    Refuse,
    /// Its output is limited.
    Clamp,
}

/// What happens to a request that is charged to a budget while the store cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum StoreDown {
    /// It is refused.
    #[default]
    Refuse,
    /// It is let in and charged to no budget.
    Admit,
}
