//! How a model on Bedrock is told to think: each family has its own words in `additionalModelRequestFields`.
//!
//! Invariant: a request that the family would refuse for its combination of thinking, forced tools and sampling is never
//! written; what gives way is noted. Deliberately absent: which models can think at all; the service says so.

use std::borrow::Cow;

use crate::chat::{ChatRequest, Notes, Out, Param, Text, Thinking, ToolChoice, budget_for_effort, effort_for_budget};
use crate::error::ApiError;
use crate::provider::anthropic::{calls_without_thinking, thinking_style};
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
    /// Claude is not to think.
    Disabled,
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
                words: Words::Nova(plain_effort(request, effort, notes)?),
                ..nothing
            }),
            Family::GptOss => Ok(Self {
                words: Words::GptOss(plain_effort(request, effort, notes)?),
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
        let nothing = Self {
            words: Words::Nothing,
            display: None,
            sampling: style != ThinkingStyle::AdaptiveOnly,
        };
        if !asked {
            // Said only where the client said so itself: a model that does not think does not know the word.
            let said = request.reasoning.mode == Some(Thinking::Disabled);
            return Ok(if said {
                Self {
                    words: Words::Disabled,
                    ..nothing
                }
            } else {
                nothing
            });
        }
        let forced = matches!(request.tool_choice, Some(ToolChoice::Any | ToolChoice::Named(_)));
        if forced && !request.tools.is_empty() {
            notes.lose(Param::ForcedToolThinking, DIALECT)?;
            return Ok(nothing);
        }
        let display = request.reasoning.display.as_ref();
        let words = match (style, request.reasoning.budget_tokens) {
            (ThinkingStyle::Budget, _) => match Self::budget(request, effort.as_deref(), notes)? {
                Some(budget) => Words::Budget(budget),
                None => return Ok(nothing),
            },
            // Where both ways are known, the client's own is kept.
            (ThinkingStyle::Adaptive, Some(budget)) if effort.is_none() => {
                let most = request.max_tokens.map_or(u64::MAX, |max| max.saturating_sub(1));
                Words::Budget(budget.min(most).max(BUDGET_MIN))
            }
            (_, Some(budget)) if effort.is_none() => {
                notes.lose(Param::ReasoningBudget, DIALECT)?;
                Words::Adaptive(Some(Cow::Borrowed(least_low(effort_for_budget(budget)))))
            }
            _ => Words::Adaptive(match effort {
                Some(word) if word == "minimal" || word == "xhigh" && style == ThinkingStyle::Adaptive => {
                    notes.lose(Param::ReasoningEffort, DIALECT)?;
                    Some(Cow::Borrowed(if word == "minimal" { "low" } else { "high" }))
                }
                word => word,
            }),
        };
        Ok(Self {
            words,
            display,
            sampling: false,
        })
    }

    /// The budget in tokens; `None` if there can be no thinking.
    fn budget(request: &ChatRequest<'_>, effort: Option<&str>, notes: &mut Notes) -> Result<Option<u64>, ApiError> {
        let budget = request.reasoning.budget_tokens;
        if calls_without_thinking(&request.messages) {
            return notes.lose(Param::ThinkingHistory, DIALECT).map(|()| None);
        }
        if budget.is_none() {
            notes.lose(Param::ReasoningEffort, DIALECT)?;
        }
        let wanted = budget
            .or(effort.and_then(budget_for_effort))
            .unwrap_or(8192)
            .max(BUDGET_MIN);
        match request.max_tokens {
            Some(max) if max <= BUDGET_MIN => notes.lose(Param::ReasoningOff, DIALECT).map(|()| None),
            // The budget is part of the maximum; half is left for the answer.
            Some(max) if wanted >= max => Ok(Some(BUDGET_MIN.max(max / 2))),
            _ => Ok(Some(wanted)),
        }
    }

    /// Appends the members of `additionalModelRequestFields`.
    pub(super) fn write(&self, out: &mut Out) {
        match &self.words {
            Words::Nothing => {}
            Words::Disabled => out.key("thinking").token("{\"type\":\"disabled\"}").done(),
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
            Words::GptOss(effort) => out.key("reasoning_effort").string(effort).done(),
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
fn plain_effort(
    request: &ChatRequest<'_>,
    effort: Option<Cow<'_, str>>,
    notes: &mut Notes,
) -> Result<&'static str, ApiError> {
    let said = match (effort.as_deref(), request.reasoning.budget_tokens) {
        (Some(effort), _) => effort,
        (None, Some(budget)) => {
            notes.lose(Param::ReasoningBudget, DIALECT)?;
            effort_for_budget(budget)
        }
        (None, None) => "medium",
    };
    let word = match said {
        "minimal" | "low" => "low",
        "high" | "xhigh" | "max" => "high",
        _ => "medium",
    };
    if effort.is_some_and(|effort| effort != word) {
        notes.lose(Param::ReasoningEffort, DIALECT)?;
    }
    Ok(word)
}

/// Efforts that Claude knows begin with `low`.
fn least_low(effort: &'static str) -> &'static str {
    if effort == "minimal" { "low" } else { effort }
}

/// How the target's Claude is told to think. An ARN that names no model leaves the most open.
fn style(target: &Target<'_>) -> ThinkingStyle {
    match target.quirks.thinking {
        ThinkingStyle::ByModel if !target.model.contains("claude") => ThinkingStyle::Adaptive,
        ThinkingStyle::ByModel => thinking_style(target.model),
        style => style,
    }
}
