//! `sluice cache`: what the cache holds, why two requests share an answer or do not, purge and bump.
//!
//! Invariants: prints what the admin interface answers, as JSON; ends with a failure unless that was a success. Deliberately absent:
//! anything that the admin interface does not offer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Place, exchange};

/// `sluice cache`.
#[derive(Args)]
pub struct Cache {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What it holds, saves, and what checks have found.
    Stats,
    /// Why two requests would, or would not, share an answer.
    Explain {
        /// A file with a request's body.
        one: PathBuf,
        /// A file with another's.
        other: PathBuf,
        /// The dialect of both: openai, anthropic or bedrock.
        #[arg(long, default_value = "openai")]
        dialect: String,
        /// A context value of the first request, NAME=VALUE.
        #[arg(long, value_name = "NAME=VALUE")]
        one_context: Vec<String>,
        /// A context value of the second.
        #[arg(long, value_name = "NAME=VALUE")]
        other_context: Vec<String>,
    },
    /// Forget answers; returns once every core has.
    Purge {
        /// Of this tenant only.
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        what: What,
    },
    /// A product variant has changed: hide what was stored before for a tenant, or for one of its context values, answers
    /// under way included.
    Bump {
        /// The tenant.
        #[arg(long, default_value = "default")]
        tenant: String,
        /// The context value, NAME=VALUE.
        #[arg(long, value_name = "NAME=VALUE")]
        context: Option<String>,
    },
    /// Forget what is quarantined and what checks have found: evidence is gathered anew.
    Release,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Everything.
    #[arg(long)]
    all: bool,
    /// The answer of one request: what x-sluice-cache-key said.
    #[arg(long)]
    key: Option<String>,
    /// Answers with a tag.
    #[arg(long)]
    tag: Option<String>,
    /// Answers of a model, as clients name it.
    #[arg(long)]
    model: Option<String>,
    /// Answers with a context value, NAME=VALUE.
    #[arg(long, value_name = "NAME=VALUE")]
    context: Option<String>,
}

impl Cache {
    /// Does what was asked, and prints the answer.
    ///
    /// # Errors
    /// When the gateway cannot be reached, or refuses.
    pub fn run(&self) -> Result<()> {
        let (method, path, body) = match &self.command {
            Command::Stats => ("GET", "/admin/cache", None),
            Command::Explain {
                one,
                other,
                dialect,
                one_context,
                other_context,
            } => {
                let body = json!({
                    "one": document(one)?,
                    "other": document(other)?,
                    "dialect": dialect,
                    "one_context": one_context,
                    "other_context": other_context,
                });
                ("POST", "/admin/cache/explain", Some(body))
            }
            Command::Purge { tenant, what } => ("POST", "/admin/cache/purge", Some(what.order(tenant.as_deref()))),
            Command::Bump { tenant, context } => {
                let mut order = json!({"tenant": tenant});
                if let Some(context) = context {
                    order["context"] = json!(context);
                }
                ("POST", "/admin/cache/bump", Some(order))
            }
            Command::Release => ("POST", "/admin/cache/release", None),
        };
        let asked = self
            .place
            .url()
            .and_then(|url| exchange(&url, method, path, body.map(|body| body.to_string()), None));
        let (status, answer) = asked.map_err(|why| anyhow!(why))?;
        let pretty = serde_json::from_str::<Value>(&answer).map_or(answer, |value| format!("{value:#}"));
        println!("{pretty}");
        match status.as_u16() {
            200 => Ok(()),
            202 => {
                bail!("not all cores have confirmed it, or the file could not be written: look at the gateway's log")
            }
            _ => bail!("the gateway refused it with status {status}"),
        }
    }
}

impl What {
    fn order(&self, tenant: Option<&str>) -> Value {
        let mut order = Map::new();
        let all = self.all.then(|| Value::Bool(true));
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let members = [
            ("tenant", tenant.map(|tenant| json!(tenant))),
            ("all", all),
            ("key", text(&self.key)),
            ("tag", text(&self.tag)),
            ("model", text(&self.model)),
            ("context", text(&self.context)),
        ];
        let given = members
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        order.extend(given);
        order.into()
    }
}

fn document(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}
