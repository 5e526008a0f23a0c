//! Which provider a model name means.
//!
//! Invariants: no allocation unless the answer is an error; the maps hold only names from configuration, and are probed
//! with names from clients. Deliberately absent: routes and keys.

use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::limits;

use super::Config;
use super::check::closest;

/// Values by names of the configuration. What is looked up may be a client's text, but what is in it is not: nobody can make
/// names collide by choosing them, so the hash may be a quick one.
pub(crate) type NameMap<V> = std::collections::HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// The part of the configuration that a model name is read by; providers are numbered in the order of the file.
#[derive(Debug)]
pub(crate) struct Names {
    providers: NameMap<u16>,
    listed: NameMap<u16>,
    default: Option<Fallthrough>,
    /// Instead of `default`, for clients that speak another dialect than the default provider.
    by_dialect: [Option<Fallthrough>; 3],
}

/// The provider of a name that names none.
#[derive(Clone, Copy, Debug)]
struct Fallthrough {
    provider: u16,
    /// Whether its own model names may hold a slash.
    slashed: bool,
    dialect: Dialect,
}

impl Names {
    pub fn new(config: &Config) -> Self {
        let mut providers = NameMap::default();
        let mut listed = NameMap::default();
        for (index, (name, provider)) in config.providers.iter().take(limits::PROVIDERS_MAX).enumerate() {
            let id = u16::try_from(index).expect("PROVIDERS_MAX fits 16 bits");
            providers.insert(name.as_str().into(), id);
            for model in &provider.models {
                listed.entry(model.as_str().into()).or_insert(id);
            }
        }
        let of = |id: u16| {
            let (name, provider) = config.providers.get_index(usize::from(id))?;
            let vendor = provider.vendor(name);
            let dialect = provider
                .dialect
                .map(Dialect::from)
                .or(vendor.map(|vendor| vendor.dialect))?;
            let slashed = vendor.is_none_or(|vendor| vendor.slashed_models);
            Some(Fallthrough {
                provider: id,
                slashed,
                dialect,
            })
        };
        let default = match &config.default_provider {
            Some(name) => providers.get(name.as_str()).copied().and_then(of),
            None => of(0),
        };
        let ids = || 0..u16::try_from(config.providers.len().min(limits::PROVIDERS_MAX)).unwrap_or(u16::MAX);
        let first = |dialect| ids().filter_map(of).find(|candidate| candidate.dialect == dialect);
        let by_dialect =
            Dialect::ALL.map(|dialect| default.filter(|own| own.dialect == dialect).or_else(|| first(dialect)));
        Self {
            providers,
            listed,
            default,
            by_dialect,
        }
    }

    /// The provider of that name.
    pub fn provider(&self, name: &str) -> Option<u16> {
        self.providers.get(name).copied()
    }

    /// The provider of a model name that names none.
    pub fn default_provider(&self) -> Option<u16> {
        self.default.map(|default| default.provider)
    }

    /// The provider, and where in `model` the name that it knows begins.
    ///
    /// # Errors
    /// `model_not_found`: no provider can be meant; `invalid_parameter`: empty or too long.
    pub fn split(&self, model: &str) -> Result<(u16, usize), ApiError> {
        self.split_or(model, self.default)
    }

    /// As [`Names::split`], for a client of that dialect: a name that names no provider, and that none lists, is meant for
    /// the first provider that speaks the dialect, unless the default provider does.
    pub fn split_for(&self, model: &str, dialect: Dialect) -> Result<(u16, usize), ApiError> {
        self.split_or(model, self.by_dialect[dialect as usize].or(self.default))
    }

    fn split_or(&self, model: &str, default: Option<Fallthrough>) -> Result<(u16, usize), ApiError> {
        if model.is_empty() || model.len() > limits::MODEL_BYTES_MAX {
            return Err(out_of_bounds(model));
        }
        let slash = model.find('/');
        if let Some(slash) = slash
            && let Some(id) = self.provider(&model[..slash])
        {
            return if slash + 1 < model.len() {
                Ok((id, slash + 1))
            } else {
                Err(self.not_found(model))
            };
        }
        if let Some(id) = self.listed.get(model) {
            return Ok((*id, 0));
        }
        match default {
            Some(default) if slash.is_none() || default.slashed => Ok((default.provider, 0)),
            _ => Err(self.not_found(model)),
        }
    }

    #[cold]
    fn not_found(&self, model: &str) -> ApiError {
        let shown = model.escape_debug();
        let (prefix, rest) = model.split_once('/').unwrap_or((model, ""));
        // Sorted, so that one mistake has one answer.
        let mut providers: Vec<&str> = self.providers.keys().map(Box::as_ref).collect();
        providers.sort_unstable();
        let message = if rest.is_empty() && self.provider(prefix).is_some() {
            format!(
                "the model \"{shown}\" names a provider but no model; write {}/MODEL",
                prefix.escape_debug()
            )
        } else if let Some(provider) = closest(prefix, providers.iter().copied()) {
            let meant = format!("{provider}/{rest}");
            format!(
                "no provider \"{}\"; did you mean \"{}\"?",
                prefix.escape_debug(),
                meant.escape_debug()
            )
        } else {
            let mut listed: Vec<&str> = self.listed.keys().map(Box::as_ref).collect();
            listed.sort_unstable();
            match closest(model, listed) {
                Some(meant) => format!("no provider serves the model \"{shown}\"; did you mean \"{meant}\"?"),
                None => format!(
                    "no provider serves the model \"{shown}\"; providers: {}",
                    providers.join(", ")
                ),
            }
        };
        ApiError::new(Code::ModelNotFound, message).with_param("model")
    }
}

#[cold]
fn out_of_bounds(model: &str) -> ApiError {
    let message = if model.is_empty() {
        "the model is empty; write PROVIDER/MODEL".to_owned()
    } else {
        format!(
            "the model name has {} bytes; at most {} are allowed",
            model.len(),
            limits::MODEL_BYTES_MAX
        )
    };
    ApiError::new(Code::InvalidParameter, message).with_param("model")
}
