//! What each dialect cannot express, and what becomes of it: the one table that every translator asks.
//!
//! Invariants: a translator that leaves something out calls [`Notes::lose`], which refuses the request with a 400 that names
//! the parameter, or notes the loss for a warning header; nothing disappears silently. A refusal is chosen where the answer
//! would have another shape or be about something else than the client asked; everything that only tunes an answer is
//! dropped, so that a fallback to another provider still answers. Deliberately absent: vendors' own gaps inside a dialect
//! (those are `Quirks`).

use std::borrow::Cow;

use crate::chat::ChatRequest;
use crate::dialect::Dialect;
use crate::error::{ApiError, Code};
use crate::limits::{NOTE_BYTES_MAX, NOTES_MAX};

/// What becomes of a parameter in a target dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The dialect expresses it.
    Kept,
    /// It is carried in another form, which is noted because the model may see a difference.
    Adapted,
    /// It is left out and noted.
    Dropped,
    /// The request is refused with a 400.
    Refused,
}

impl Loss {
    /// The word for a warning header and for the reference documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Adapted => "adapted",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        }
    }
}

macro_rules! losses {
    ($( $variant:ident = $name:literal, $openai:ident, $anthropic:ident, $bedrock:ident, $why:literal; )*) => {
        /// A part of a request that some dialect cannot express.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Param { $( #[doc = $why] $variant, )* }

        /// The table: (parameter, its name, to OpenAI, to Anthropic, to Bedrock, why).
        pub const LOSSES: &[(Param, &str, Loss, Loss, Loss, &str)] =
            &[$( (Param::$variant, $name, Loss::$openai, Loss::$anthropic, Loss::$bedrock, $why), )*];
    };
}

losses! {
    TopK = "top_k", Dropped, Kept, Kept, "OpenAI itself has no top_k; vendors with the quirk `top_k` get it.";
    Temperature = "temperature", Kept, Adapted, Adapted, "Above 1 it is cut to 1, the end of the scale.";
    ThinkingSampling = "sampling", Kept, Dropped, Dropped,
        "Claude takes no temperature, top_p or top_k while it thinks, and its newest models none at all.";
    TopPBesideTemperature = "top_p", Kept, Dropped, Dropped, "Claude takes either temperature or top_p.";
    BlankStop = "stop", Kept, Dropped, Dropped, "Stop sequences of white space alone are not taken.";
    Seed = "seed", Kept, Dropped, Dropped, "No seed.";
    Several = "n", Kept, Refused, Refused, "One answer a request.";
    PresencePenalty = "presence_penalty", Kept, Dropped, Dropped, "No penalties.";
    FrequencyPenalty = "frequency_penalty", Kept, Dropped, Dropped, "No penalties.";
    LogitBias = "logit_bias", Kept, Dropped, Dropped, "Token ids are a tokenizer's own.";
    Logprobs = "logprobs", Kept, Refused, Refused, "No log probabilities: the answer would lack what was asked for.";
    JsonObject = "response_format.json_object", Kept, Dropped, Dropped,
        "Only schemas constrain the answer; the prompt must ask for JSON in this mode anyway.";
    FormatDescription = "response_format.description", Kept, Dropped, Kept, "A schema stands for itself.";
    Format = "response_format", Refused, Refused, Refused, "A format of one dialect alone.";
    ServiceTier = "service_tier", Dropped, Dropped, Dropped, "No tier of that name.";
    User = "user", Kept, Kept, Dropped, "No field for the end user.";
    Metadata = "metadata", Kept, Dropped, Kept, "Only a user id is taken.";
    CacheControl = "cache_control", Dropped, Kept, Kept,
        "OpenAI caches by itself; vendors with the quirk `cache_control` get the markers.";
    MessageName = "messages.name", Kept, Dropped, Dropped, "Speakers have no names.";
    SystemPosition = "messages.system", Kept, Adapted, Adapted,
        "Instructions amid the conversation move to its front: they keep their authority, and lose their place.";
    ImageDetail = "image_url.detail", Kept, Dropped, Dropped, "No choice of detail.";
    ImageUrl = "image_url", Kept, Kept, Refused, "Images come in the body; the gateway fetches nothing for a client.";
    DocumentUrl = "document.url", Refused, Kept, Refused, "Documents come in the body.";
    DocumentText = "document.text", Adapted, Kept, Kept, "A text document becomes a text part.";
    DocumentOptions = "document.options", Dropped, Kept, Kept, "No title, context or citations of a document.";
    DocumentFormat = "document.media_type", Kept, Refused, Refused, "The provider does not read documents of this type.";
    DocumentName = "document.name", Kept, Kept, Adapted, "A name has few kinds of characters, and is no other document's.";
    ImageFormat = "image.media_type", Kept, Kept, Refused, "The provider does not read images of this type.";
    FileId = "file_id", Refused, Refused, Refused, "A file was uploaded to another provider.";
    S3 = "s3Location", Refused, Refused, Kept, "Only Bedrock reads S3.";
    Audio = "input_audio", Kept, Refused, Kept, "No sound.";
    Video = "video", Refused, Refused, Kept, "No video; vendors with the quirk `video_url` get it.";
    Thinking = "thinking", Dropped, Dropped, Dropped,
        "Reasoning goes back only to the provider family that signed it, or to vendors with the quirk `reasoning`.";
    ReasoningEffort = "reasoning_effort", Adapted, Adapted, Adapted, "Effort and thinking budget stand for each other.";
    ReasoningBudget = "thinking.budget_tokens", Adapted, Adapted, Adapted, "Effort and thinking budget stand for each other.";
    ReasoningOff = "reasoning", Dropped, Dropped, Dropped, "The request leaves the model no tokens to think with.";
    ReasoningDisabled = "thinking.disabled", Dropped, Kept, Kept,
        "Not every OpenAI model can be told not to think, and some refuse to be told; `reasoning_effort: none` is passed on.";
    ThinkingDisplay = "thinking.display", Dropped, Kept, Kept, "No choice of what is shown.";
    ForcedToolThinking = "thinking", Kept, Dropped, Dropped, "Claude does not think when it is forced to call a tool.";
    ThinkingHistory = "thinking", Kept, Dropped, Dropped,
        "Where thinking has a budget, Claude does not think on from tool calls whose own reasoning is not in the request.";
    ServerTool = "tools", Refused, Refused, Refused, "A tool that another provider's servers run.";
    CustomTool = "tools.custom", Kept, Refused, Refused, "Tools take JSON, not free text.";
    ToolChoice = "tool_choice", Refused, Refused, Refused, "A choice that only one dialect knows.";
    ToolChoiceNone = "tool_choice.none", Kept, Kept, Adapted, "Without the choice `none`, the tools themselves are left out.";
    ParallelToolCalls = "parallel_tool_calls", Kept, Kept, Dropped, "No such switch.";
    ToolStrict = "tools.strict", Kept, Kept, Kept, "Every dialect has it.";
    ToolResultMedia = "tool_result.content", Adapted, Kept, Kept,
        "Tools answer with text; images and documents follow in a message of the user's.";
    ToolResultError = "tool_result.is_error", Dropped, Kept, Kept, "No mark for a failed tool; the text says it.";
    ForeignPart = "messages.content", Dropped, Dropped, Dropped, "A part that only another dialect knows.";
    Refusal = "messages.refusal", Kept, Adapted, Adapted, "A refusal becomes text.";
    AudioOutput = "modalities", Kept, Refused, Refused, "Answers are text.";
    LegacyFunctions = "functions", Kept, Refused, Refused, "Superseded by `tools`, which is translated.";
    Extra = "extra", Dropped, Dropped, Dropped, "A field that only another dialect knows.";
}

/// What becomes of `param` in `target`.
pub fn loss(param: Param, target: Dialect) -> Loss {
    let (_, _, openai, anthropic, bedrock, _) = LOSSES[param as usize];
    match target {
        Dialect::OpenAi => openai,
        Dialect::Anthropic => anthropic,
        Dialect::Bedrock => bedrock,
    }
}

/// One loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The parameter's name: the table's, or that of an unknown field.
    pub name: Cow<'static, str>,
    /// Adapted or dropped.
    pub loss: Loss,
}

/// The losses of one request; each is noted once, and at most [`NOTES_MAX`] are.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    list: Vec<Note>,
}

impl Notes {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// The losses, in order of appearance.
    pub fn list(&self) -> &[Note] {
        &self.list
    }

    /// Does with `param` what the table says. An error is a 400 that names it.
    pub fn lose(&mut self, param: Param, target: Dialect) -> Result<(), ApiError> {
        let (_, name, .., why) = LOSSES[param as usize];
        match loss(param, target) {
            Loss::Refused => {
                let message = format!("`{name}` cannot be carried to the provider of this model: {why}");
                Err(ApiError::new(Code::UnsupportedParameter, message).with_param(name))
            }
            Loss::Kept => Ok(()),
            loss => {
                self.add(Note {
                    name: Cow::Borrowed(name),
                    loss,
                });
                Ok(())
            }
        }
    }

    /// Notes that the unknown field `name` is dropped.
    pub fn drop_extra(&mut self, name: &str) {
        let safe = |c: char| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') {
                c
            } else {
                '?'
            }
        };
        let name: String = name.chars().take(NOTE_BYTES_MAX).map(safe).collect();
        self.add(Note {
            name: Cow::Owned(name),
            loss: Loss::Dropped,
        });
    }

    /// Notes, or refuses, what `request` holds for other dialects than `target` alone: unknown fields, at any level.
    pub fn lose_extras(&mut self, request: &ChatRequest<'_>, target: Dialect) -> Result<(), ApiError> {
        for extra in request.extras.iter().filter(|extra| extra.dialect != target) {
            match &*extra.key {
                "modalities" | "audio" if extra.value.as_json().contains("audio") || extra.key == "audio" => {
                    self.lose(Param::AudioOutput, target)?;
                }
                "functions" | "function_call" => self.lose(Param::LegacyFunctions, target)?,
                key => self.drop_extra(key),
            }
        }
        request.ignored.iter().for_each(|key| self.drop_extra(key));
        Ok(())
    }

    /// The value of a warning header: `seed;dropped, temperature;adapted`. Only letters, digits and `_-.;, ?`.
    pub fn header_value(&self) -> String {
        let mut value = String::new();
        for note in &self.list {
            if !value.is_empty() {
                value.push_str(", ");
            }
            value.push_str(&note.name);
            value.push(';');
            value.push_str(note.loss.as_str());
        }
        value
    }

    fn add(&mut self, note: Note) {
        if self.list.len() < NOTES_MAX && !self.list.contains(&note) {
            self.list.push(note);
        }
    }
}

/// The table as Markdown, for the reference documentation.
pub fn losses_markdown() -> String {
    let mut table =
        String::from("| parameter | to OpenAI | to Anthropic | to Bedrock | why |\n|---|---|---|---|---|\n");
    for (_, name, openai, anthropic, bedrock, why) in LOSSES {
        let row = [openai, anthropic, bedrock].map(|loss| loss.as_str()).join(" | ");
        table.push_str(&format!("| `{name}` | {row} | {why} |\n"));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_its_parameters() {
        for (index, (param, name, ..)) in LOSSES.iter().enumerate() {
            assert_eq!(*param as usize, index, "{name}");
        }
    }

    #[test]
    fn a_refusal_is_a_400_that_names_the_parameter() {
        let error = Notes::default().lose(Param::Several, Dialect::Anthropic).unwrap_err();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some("n")));
    }

    #[test]
    fn a_loss_is_noted_once_and_the_header_is_bounded_and_safe() {
        let mut notes = Notes::default();
        for _ in 0..2 {
            notes.lose(Param::Seed, Dialect::Anthropic).unwrap();
            notes.lose(Param::Temperature, Dialect::Bedrock).unwrap();
        }
        notes.lose(Param::Seed, Dialect::OpenAi).unwrap();
        notes.drop_extra("evil\r\nx: y");
        assert_eq!(
            notes.header_value(),
            "seed;dropped, temperature;adapted, evil??x??y;dropped"
        );
        for index in 0..100 {
            notes.drop_extra(&format!("field{index}{}", "x".repeat(200)));
        }
        assert_eq!(notes.list().len(), NOTES_MAX);
        assert!(notes.header_value().len() <= NOTES_MAX * (NOTE_BYTES_MAX + 12));
    }
}
