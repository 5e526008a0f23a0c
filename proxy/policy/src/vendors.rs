//! The vendors that need no more than a name: where each listens, what it speaks, how it takes a key.
//!
//! Invariants: names are unique and in the spelling of configuration; a base URL is written as that vendor's own SDK takes
//! it. Deliberately absent: prices and model lists (they change weekly), and anything that only translation needs.

use sluice_wire::dialect::Dialect;

/// How a key travels in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Auth {
    /// `authorization: Bearer KEY` (RFC 6750 §2.1).
    Bearer,
    /// `x-api-key: KEY` (Anthropic).
    XApiKey,
    /// `api-key: KEY` (Azure).
    ApiKey,
    /// No credential at all.
    None,
}

/// One row: the defaults that a provider of this name, or with `vendor:` set to it, starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// The name in configuration.
    pub name: &'static str,
    /// What it speaks.
    pub dialect: Dialect,
    /// Where it listens; `{region}` stands for the region of the key. `None`: every customer has an address of their own.
    pub base_url: Option<&'static str>,
    /// How it takes a key.
    pub auth: Auth,
    /// Whether it commonly runs without a key.
    pub keyless: bool,
    /// Whether its model names may hold a `/` of their own, so that an unknown prefix is no mistake.
    pub slashed_models: bool,
}

const fn row(name: &'static str, base_url: &'static str, slashed_models: bool) -> Vendor {
    Vendor {
        name,
        dialect: Dialect::OpenAi,
        base_url: Some(base_url),
        auth: Auth::Bearer,
        keyless: false,
        slashed_models,
    }
}

/// Every known vendor; the three dialects' own first.
pub const VENDORS: &[Vendor] = &[
    row("openai", "https://api.openai.com/v1", false),
    Vendor {
        dialect: Dialect::Anthropic,
        auth: Auth::XApiKey,
        ..row("anthropic", "https://api.anthropic.com", false)
    },
    // Slashes: a model may be named by the ARN of its inference profile.
    Vendor {
        dialect: Dialect::Bedrock,
        ..row("bedrock", "https://bedrock-runtime.{region}.amazonaws.com", true)
    },
    // https://RESOURCE.openai.azure.com/openai/v1, the API without dated versions.
    Vendor {
        base_url: None,
        auth: Auth::ApiKey,
        ..row("azure", "", false)
    },
    row("deepseek", "https://api.deepseek.com/v1", false),
    row("fireworks", "https://api.fireworks.ai/inference/v1", true),
    row("groq", "https://api.groq.com/openai/v1", true),
    row("mistral", "https://api.mistral.ai/v1", false),
    Vendor {
        keyless: true,
        ..row("ollama", "http://127.0.0.1:11434/v1", true)
    },
    row("openrouter", "https://openrouter.ai/api/v1", true),
    row("perplexity", "https://api.perplexity.ai", false),
    row("together", "https://api.together.xyz/v1", true),
    Vendor {
        keyless: true,
        ..row("vllm", "http://127.0.0.1:8000/v1", true)
    },
    row("xai", "https://api.x.ai/v1", false),
];

/// The row of that name.
pub fn find(name: &str) -> Option<&'static Vendor> {
    VENDORS.iter().find(|vendor| vendor.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_addresses_parse() {
        let mut seen = std::collections::HashSet::new();
        for vendor in VENDORS {
            assert!(seen.insert(vendor.name), "{}", vendor.name);
            if let Some(url) = vendor.base_url {
                url.replace("{region}", "eu-central-1")
                    .parse::<crate::config::url::BaseUrl>()
                    .unwrap();
            }
        }
    }
}
