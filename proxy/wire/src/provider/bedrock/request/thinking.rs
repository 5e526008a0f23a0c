//! How a model on Bedrock is told to think: each family has its own words in `additionalModelRequestFields`.
//!
//! Invariant: a request that the family would refuse for its combination of thinking, forced tools and sampling is never
//! written; what gives way is noted. Deliberately absent: which models can think at all; the service says so.

use std::borrow::Cow;

use crate::chat::{
    ChatRequest, Content, Notes, Out, Param, Role, Text, Thinking, ToolChoice, budget_for_effort, effort_for_budget,
};
use crate::error::ApiError;
use crate::provider::bedrock::Family;
use crate::provider::{Target, ThinkingStyle};

use super::DIALECT;

/// Least budget that Claude takes, in tokens.
const BUDGET_MIN: u64 = 1024;

/// What to say about thinking, and what goes with it.
pub(super) struct Plan<'r> {
    words: Words<'r>,
    display: Option<&'r Text<'r>>,
    /// Whether temperature, top_p and top_k may be said.
    pub(super) sampling: bool,
}

enum Words<'r> {
    Nothing,
    /// Claude's `thinking` with a budget.
    Budget(u64),
    /// Claude's adaptive thinking, with an effort if there is one.
    Adaptive(Option<Cow<'r, str>>),
    /// Nova's.
    Nova(&'static str),
    /// gpt-oss's.
    GptOss(&'static str),
}

impl<'r> Plan<'r> {
    /// Decides, and notes what gives way.
    pub(super) fn of(request: &'r ChatRequest<'r>, target: &Target<'_>, notes: &mut Notes) -> Result<Self, ApiError> {
        let nothing = Self {
            words: Words::Nothing,
            display: None,
            sampling: true,
        };
        let effort = request.reasoning.effort.as_ref().map(Text::decode);
        let off = request.reasoning.mode == Some(Thinking::Disabled) || effort.as_deref() == Some("none");
        let asked = request.reasoning.mode.is_some() || effort.is_some() || request.reasoning.budget_tokens.is_some();
        match Family::of(target) {
            Family::Claude => Self::claude(request, target, effort, asked && !off, notes),
            _ if !asked || off => Ok(nothing),
            Family::Nova => Ok(Self {
                words: Words::Nova(plain_effort(request, effort)),
                ..nothing
            }),
            Family::GptOss => Ok(Self {
                words: Words::GptOss(plain_effort(request, effort)),
                ..nothing
            }),
            Family::Other => {
                notes.drop_extra(if effort.is_some() {
                    "reasoning_effort"
                } else {
                    "thinking"
                });
                Ok(nothing)
            }
        }
    }

    fn claude(
        request: &'r ChatRequest<'r>,
        target: &Target<'_>,
        effort: Option<Cow<'r, str>>,
        asked: bool,
        notes: &mut Notes,
    ) -> Result<Self, ApiError> {
        let style = style(target);
        let sampling = style != ThinkingStyle::AdaptiveOnly;
        let nothing = Self {
            words: Words::Nothing,
            display: None,
            sampling,
        };
        if !asked {
            return Ok(nothing);
        }
        if matches!(request.tool_choice, Some(ToolChoice::Any | ToolChoice::Named(_))) {
            notes.lose(Param::ForcedToolThinking, DIALECT)?;
            return Ok(nothing);
        }
        let display = request.reasoning.display.as_ref();
        let budget = request.reasoning.budget_tokens;
        if style == ThinkingStyle::Budget || style == ThinkingStyle::Adaptive && budget.is_some() {
            if interrupted_without_thinking(request) {
                notes.lose(Param::ForcedToolThinking, DIALECT)?;
                return Ok(nothing);
            }
            if budget.is_none() {
                notes.lose(Param::ReasoningEffort, DIALECT)?;
            }
            let wanted = budget
                .or(effort.as_deref().and_then(budget_for_effort))
                .unwrap_or(8192)
                .max(BUDGET_MIN);
            // The budget is part of `maxTokens`, and must leave something for the answer.
            let most = request.max_tokens.map_or(u64::MAX, |tokens| tokens.saturating_sub(1));
            if most < BUDGET_MIN {
                notes.lose(Param::ReasoningOff, DIALECT)?;
                return Ok(nothing);
            }
            return Ok(Self {
                words: Words::Budget(wanted.min(most)),
                display,
                sampling: false,
            });
        }
        if let (Some(budget), None) = (budget, &effort) {
            notes.lose(Param::ReasoningBudget, DIALECT)?;
            let effort = Some(Cow::Borrowed(effort_for_budget(budget)));
            return Ok(Self {
                words: Words::Adaptive(effort),
                display,
                sampling: false,
            });
        }
        let effort = effort.map(|effort| {
            if effort == "minimal" {
                Cow::Borrowed("low")
            } else {
                effort
            }
        });
        Ok(Self {
            words: Words::Adaptive(effort),
            display,
            sampling: false,
        })
    }

    /// Appends the members of `additionalModelRequestFields`.
    pub(super) fn write(&self, out: &mut Out) {
        match &self.words {
            Words::Nothing => {}
            Words::Budget(budget) => {
                out.key("thinking")
                    .token("{\"type\":\"enabled\"")
                    .key("budget_tokens")
                    .whole(*budget);
                self.display(out);
            }
            Words::Adaptive(effort) => {
                out.key("thinking").token("{\"type\":\"adaptive\"");
                self.display(out);
                if let Some(effort) = effort {
                    out.key("output_config").token("{\"effort\":").string(effort).token("}");
                }
            }
            Words::Nova(effort) => {
                out.key("reasoningConfig")
                    .token("{\"type\":\"enabled\"")
                    .key("maxReasoningEffort")
                    .string(effort)
                    .token("}");
            }
            Words::GptOss(effort) => drop(out.key("reasoning_effort").string(effort)),
        }
    }

    fn display(&self, out: &mut Out) {
        if let Some(display) = self.display {
            out.key("display").text(display);
        }
        out.token("}");
    }
}

/// `low`, `medium` or `high`, from whatever the client said.
fn plain_effort(request: &ChatRequest<'_>, effort: Option<Cow<'_, str>>) -> &'static str {
    let word = match (effort.as_deref(), request.reasoning.budget_tokens) {
        (Some(effort), _) => effort,
        (None, Some(budget)) => effort_for_budget(budget),
        (None, None) => "medium",
    };
    match word {
        "minimal" | "low" => "low",
        "high" | "xhigh" | "max" => "high",
        _ => "medium",
    }
}

/// Whether the model is in the middle of calling tools without having thought: Claude with a budget then refuses to begin.
fn interrupted_without_thinking(request: &ChatRequest<'_>) -> bool {
    let mut last = request.messages.iter().rev().skip_while(|message| {
        message.role == Role::User
            && message
                .parts
                .iter()
                .all(|part| matches!(part.content, Content::ToolResult { .. }))
    });
    let ends_in_results = request
        .messages
        .last()
        .is_some_and(|message| message.role == Role::User)
        && {
            let last = request.messages.last().map(|message| &message.parts);
            last.is_some_and(|parts| {
                !parts.is_empty()
                    && parts
                        .iter()
                        .all(|part| matches!(part.content, Content::ToolResult { .. }))
            })
        };
    ends_in_results
        && last.next().is_some_and(|message| {
            message.role == Role::Assistant
                && !message.parts.iter().any(|part| {
                    matches!(
                        part.content,
                        Content::Thinking { signature: Some(_), .. } | Content::RedactedThinking(_)
                    )
                })
        })
}

/// How the target's Claude is told to think.
fn style(target: &Target<'_>) -> ThinkingStyle {
    match target.quirks.thinking {
        ThinkingStyle::ByModel if target.model.contains("-4-6") => ThinkingStyle::Adaptive,
        ThinkingStyle::ByModel => ThinkingStyle::Budget,
        style => style,
    }
}
