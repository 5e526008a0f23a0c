//! The vendors that need no more than a name: where each listens, what it speaks, how it takes a key, what it does
//! differently from its dialect's first provider.
//!
//! Invariants: names are unique and in the spelling of configuration; a base URL is written as that vendor's own SDK takes
//! it; a quirk says what the whole vendor does, and where its models differ, what all of them accept. Deliberately absent:
//! prices and model lists, which change weekly.

use sluice_wire::chat::ToolIdRule;
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{Quirks, ThinkingStyle};

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
    /// What it does differently from its dialect's first provider.
    pub quirks: Quirks,
}

/// OpenAI's own rules, and a starting point for the others.
const OPENAI: Quirks = Quirks {
    max_tokens: false,
    no_developer: false,
    no_stream_options: false,
    top_k: false,
    cache_control: false,
    reasoning: false,
    video_url: false,
    tool_ids: ToolIdRule::Word40,
    thinking: ThinkingStyle::ByModel,
};

/// The common ground of vendors that serve models of many makers: the older names, which all of them understand.
const COMPATIBLE: Quirks = Quirks {
    max_tokens: true,
    no_developer: true,
    tool_ids: ToolIdRule::Any,
    ..OPENAI
};

const fn row(name: &'static str, base_url: &'static str, slashed_models: bool) -> Vendor {
    Vendor {
        name,
        dialect: Dialect::OpenAi,
        base_url: Some(base_url),
        auth: Auth::Bearer,
        keyless: false,
        slashed_models,
        quirks: OPENAI,
    }
}

const fn compatible(name: &'static str, base_url: &'static str, slashed_models: bool, quirks: Quirks) -> Vendor {
    Vendor {
        quirks,
        ..row(name, base_url, slashed_models)
    }
}

/// Every known vendor; the three dialects' own first.
pub const VENDORS: &[Vendor] = &[
    row("openai", "https://api.openai.com/v1", false),
    Vendor {
        dialect: Dialect::Anthropic,
        auth: Auth::XApiKey,
        quirks: Quirks {
            tool_ids: ToolIdRule::Word64,
            ..OPENAI
        },
        ..row("anthropic", "https://api.anthropic.com", false)
    },
    // Slashes: a model may be named by the ARN of its inference profile.
    Vendor {
        dialect: Dialect::Bedrock,
        quirks: Quirks {
            tool_ids: ToolIdRule::Word64,
            ..OPENAI
        },
        ..row("bedrock", "https://bedrock-runtime.{region}.amazonaws.com", true)
    },
    // https://RESOURCE.openai.azure.com/openai/v1, the API without dated versions; otherwise it is OpenAI's.
    Vendor {
        base_url: None,
        auth: Auth::ApiKey,
        ..row("azure", "", false)
    },
    // It refuses the role `developer`. A thinking model with tools demands its `reasoning_content` back.
    // <https://api-docs.deepseek.com/guides/thinking_mode>
    compatible(
        "deepseek",
        "https://api.deepseek.com/v1",
        false,
        Quirks {
            reasoning: true,
            ..COMPATIBLE
        },
    ),
    // It refuses fields that it does not know, so `reasoning_details` may not be sent.
    // <https://docs.fireworks.ai/api-reference/post-chatcompletions>
    compatible(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        true,
        Quirks {
            top_k: true,
            ..COMPATIBLE
        },
    ),
    // `max_tokens` is deprecated there; reasoning comes back as `reasoning` only, and other names are refused.
    // <https://console.groq.com/docs/api-reference#chat-create>
    compatible(
        "groq",
        "https://api.groq.com/openai/v1",
        true,
        Quirks {
            max_tokens: false,
            ..COMPATIBLE
        },
    ),
    // It refuses what it does not know, `max_completion_tokens`, `stream_options.include_usage` and `reasoning_content`
    // among it, and sends usage unasked. <https://docs.mistral.ai/api/#tag/chat>
    compatible(
        "mistral",
        "https://api.mistral.ai/v1",
        false,
        Quirks {
            no_stream_options: true,
            tool_ids: ToolIdRule::Nine,
            ..COMPATIBLE
        },
    ),
    // <https://docs.ollama.com/api/openai-compatibility>
    Vendor {
        keyless: true,
        ..compatible("ollama", "http://127.0.0.1:11434/v1", true, COMPATIBLE)
    },
    // It translates to whatever stands behind it. <https://openrouter.ai/docs/api-reference/parameters>
    compatible(
        "openrouter",
        "https://openrouter.ai/api/v1",
        true,
        Quirks {
            no_developer: false,
            top_k: true,
            cache_control: true,
            reasoning: true,
            video_url: true,
            ..COMPATIBLE
        },
    ),
    // Usage comes with every chunk, unasked. <https://docs.perplexity.ai/api-reference/chat-completions-post>
    compatible(
        "perplexity",
        "https://api.perplexity.ai",
        false,
        Quirks {
            no_stream_options: true,
            top_k: true,
            ..COMPATIBLE
        },
    ),
    // <https://docs.together.ai/reference/chat-completions>
    compatible(
        "together",
        "https://api.together.xyz/v1",
        true,
        Quirks {
            top_k: true,
            video_url: true,
            ..COMPATIBLE
        },
    ),
    // <https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>; roles are up to the model's own template.
    Vendor {
        keyless: true,
        ..compatible(
            "vllm",
            "http://127.0.0.1:8000/v1",
            true,
            Quirks {
                top_k: true,
                reasoning: true,
                video_url: true,
                ..COMPATIBLE
            },
        )
    },
    // `max_tokens` is deprecated there. <https://docs.x.ai/docs/api-reference>
    compatible(
        "xai",
        "https://api.x.ai/v1",
        false,
        Quirks {
            max_tokens: false,
            ..COMPATIBLE
        },
    ),
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

    #[test]
    fn each_vendor_is_asked_in_the_words_that_it_takes() {
        let quirks = |name: &str| find(name).unwrap().quirks;
        assert_eq!(quirks("azure"), quirks("openai"));
        assert!(!quirks("openai").max_tokens && !quirks("groq").max_tokens && !quirks("xai").max_tokens);
        for strict in ["mistral", "perplexity"] {
            assert!(quirks(strict).no_stream_options, "{strict}");
        }
        assert_eq!(quirks("mistral").tool_ids, ToolIdRule::Nine);
        for refusing in ["mistral", "groq", "fireworks", "openai"] {
            assert!(!quirks(refusing).reasoning, "{refusing}");
        }
        assert!(quirks("deepseek").no_developer && quirks("deepseek").reasoning);
        assert!(quirks("openrouter").cache_control);
    }
}
