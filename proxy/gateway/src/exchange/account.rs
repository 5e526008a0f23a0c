//! Who asks, and whether they may: virtual keys, allow-lists and rate limits, before anything is sent anywhere.
//!
//! Invariants: without accounts in the configuration, one branch; a refusal says nothing of whether a key exists; what a
//! request asks for is read once. Deliberately absent: money (`payment.rs`), and keys themselves (`sluice_policy::keyring`).

use sluice_policy::charge::{Demand, Pieces};
use sluice_policy::config::accounts::RequireKey;
use sluice_policy::keyring::{self, Caller, Digest, KEY_PREFIX, NotAllowed, Tags};
use sluice_policy::money::Tier;
use sluice_policy::rate::{Ask, Limited, Unit};
use sluice_policy::route::PlannedTarget;
use sluice_policy::snapshot::{Resolved, Snapshot};
use sluice_wire::chat::{Kind, Reader};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::FieldId;
use sluice_wire::json::{Range, TopKeys};
use sluice_wire::limits::{LOG_BODY_BYTES_MAX, SOUND_SECOND_BYTES_MIN};
use sluice_wire::sigv4::SignatureError;
use sluice_wire::surface::Endpoint;

use super::payment::{HeldLimit, Payment};
use super::{Context, End};
use crate::core::Core;
use crate::intake::NoBody;
use crate::plane::{HeldPlane, Plane};
use crate::scratch::Asked;
use crate::signing;
use crate::transcript::Tape;

/// Largest `metadata`, `service_tier` or `inferenceConfig` that is looked into, in bytes.
const MEMBER_BYTES_MAX: u64 = 16 * 1024;
/// Bytes of a body that make one token, for limits: those are corrected when the answer says how many it were.
const BYTES_PER_TOKEN: u64 = 4;

/// Who pays for a request, and what it may use.
#[derive(Clone, Copy)]
pub struct Payer {
    /// Whose key it came with; `None`: nobody's in particular.
    pub caller: Option<Caller>,
    /// What it asks for.
    pub demand: Demand,
    /// Whether its body and its answer's are logged.
    pub logs_bodies: bool,
}

impl Payer {
    /// Where the answer is copied for the log, if the caller's bodies are logged.
    pub fn transcript(&self, snapshot: &Snapshot) -> Option<Tape> {
        let most = snapshot.log().bodies.size.0.min(LOG_BODY_BYTES_MAX);
        self.logs_bodies.then(|| Tape::copying(most as usize))
    }
}

/// Whom a request says it is from.
#[derive(Clone, Copy, Default)]
#[must_use = "a signature is proved only once the body is there"]
pub struct Known {
    caller: Option<Caller>,
    /// What the secret follows from that it must be signed with.
    signed: Option<Digest>,
}

/// Whose key a request came with, looked up before its body is read. Nobody's, if none is needed.
///
/// # Errors
/// `invalid_api_key`.
pub fn identify(core: &Core, plane: &Plane, asked: &Asked, endpoint: Endpoint) -> Result<Known, ApiError> {
    let (Some(accounts), Some(settings)) = (&plane.accounts, plane.snapshot.accounts()) else {
        return Ok(Known::default());
    };
    if let Endpoint::Health | Endpoint::Ready = endpoint {
        return Ok(Known::default());
    }
    let needed = match settings.require_key {
        RequireKey::Auto => !accounts.keyring.is_empty(),
        RequireKey::Always => true,
        RequireKey::Never => false,
    };
    if !needed && accounts.keyring.is_empty() {
        return Ok(Known::default());
    }
    let is_one = |id: FieldId| {
        matches!(
            id,
            FieldId::Sluice
                | FieldId::XBfVk
                | FieldId::Authorization
                | FieldId::XApiKey
                | FieldId::ApiKey
                | FieldId::XGoogApiKey
        )
    };
    let fields = asked.head.fields.iter().filter(|field| is_one(field.id));
    let found =
        keyring::credential(fields.map(|field| (field.name.of(&asked.head_bytes), field.value.of(&asked.head_bytes))));
    let unknown = "an unknown, expired or disabled virtual key";
    let Some(credential) = found else {
        let id = accounts.pairs.as_ref().and_then(|_| signing::pair_of(asked));
        return match id.map(|id| accounts.keyring.find_pair(id, core.unix_s())) {
            Some(Ok((caller, digest))) => Ok(Known {
                caller: Some(caller),
                signed: Some(digest),
            }),
            Some(Err(_)) => Err(refuse(core, unknown)),
            None if needed => Err(refuse(core, "no virtual key")),
            None => Ok(Known::default()),
        };
    };
    match accounts.keyring.find(credential, core.unix_s()) {
        Ok(caller) => Ok(Known {
            caller: Some(caller),
            signed: None,
        }),
        // Somebody else's credential, which means nothing here.
        Err(_) if !needed && !credential.starts_with(KEY_PREFIX.as_bytes()) => Ok(Known::default()),
        Err(_) => Err(refuse(core, unknown)),
    }
}

impl Known {
    /// Who it is, now that the body is there that may be signed.
    ///
    /// # Errors
    /// `invalid_api_key`: it was not signed with the caller's pair, or long ago.
    pub fn prove(self, core: &Core, plane: &Plane, asked: &Asked) -> Result<Option<Caller>, ApiError> {
        if let Some(digest) = self.signed {
            let secret = plane
                .accounts
                .as_ref()
                .and_then(|accounts| Some(accounts.pairs.as_ref()?.secret_of(&digest)));
            let proved = match secret {
                Some(secret) => core.with_signer(|signer| signing::verify(signer, asked, &secret, core.unix_s())),
                None => Err(SignatureError::UnknownKey),
            };
            if let Err(why) = proved {
                core.meter.callers_unknown.add(1);
                return Err(ApiError::new(Code::InvalidApiKey, why.message()));
            }
        }
        Ok(self.caller)
    }

    /// Ends a request whose body could not be read. It is counted as this caller's, unless that is yet to be proved.
    #[cold]
    pub fn unread(self, plane: &HeldPlane, payment: &mut Payment, why: NoBody) -> End {
        if self.caller.is_some() && self.signed.is_none() {
            open(plane, self.caller, payment);
        }
        why.into()
    }
}

/// From now on the request is counted as this caller's, whatever becomes of it.
pub fn open(plane: &HeldPlane, caller: Option<Caller>, payment: &mut Payment) {
    if plane.accounts.is_some() {
        payment.open(plane.clone(), caller);
    }
}

#[cold]
fn refuse(core: &Core, what: &str) -> ApiError {
    core.meter.callers_unknown.add(1);
    let how = "send a key of this gateway as Authorization: Bearer, x-api-key, api-key or x-sluice-key";
    ApiError::new(Code::InvalidApiKey, format!("the request came with {what}; {how}"))
}

/// Lets a caller's request begin, as far as its rate limits go. `Ok(None)`: nothing is counted here.
///
/// # Errors
/// `rate_limit_exceeded`; the fields that tell how the limits stand are in `payment` then as well.
pub fn admit(
    core: &Core,
    plane: &HeldPlane,
    caller: Option<Caller>,
    payment: &mut Payment,
    (asked, body_bytes): (&Asked, u64),
    (endpoint, resolved): (Endpoint, &Resolved<'_>),
) -> Result<Option<Payer>, ApiError> {
    let Some(accounts) = &plane.accounts else {
        return Ok(None);
    };
    let payer = Payer {
        caller,
        demand: demand_of(asked, endpoint, body_bytes),
        logs_bodies: caller.is_some_and(|caller| accounts.keyring.scope(caller.key).logs_bodies),
    };
    if let Some(caller) = caller {
        let provider = &plane.snapshot.provider(resolved.provider).name;
        let limits = accounts.keyring.limits(caller, provider, resolved.model);
        let answers = u64::from(payer.demand.answers.max(1));
        let ask = Ask {
            input_tokens: body_bytes.div_ceil(BYTES_PER_TOKEN),
            output_tokens: payer.demand.output.unwrap_or(0).saturating_mul(answers),
        };
        let limits = limits.map(|id| HeldLimit::new(plane, id));
        payment
            .enter(limits, ask, core.unix_s())
            .map_err(|limited| limited_error(core, limited))?;
    }
    Ok(Some(payer))
}

#[cold]
fn limited_error(core: &Core, limited: Limited) -> ApiError {
    core.meter.callers_limited.add(1);
    let Limited {
        unit,
        most,
        retry_after_s,
    } = limited;
    let message = match unit {
        Unit::Concurrent => format!("{most} requests of this key are under way, which is its limit"),
        unit => format!(
            "the limit of {most} {} is reached; more are allowed in {retry_after_s} s",
            unit.name().replace('_', " ")
        ),
    };
    ApiError::new(Code::RateLimitExceeded, message).with_retry_after_s(retry_after_s)
}

/// Whether the caller may use a target.
///
/// # Errors
/// `model_not_allowed`, `provider_not_allowed`.
pub fn may_use(context: &Context<'_>, target: &PlannedTarget<'_>) -> Result<(), ApiError> {
    let Some(Payer {
        caller: Some(caller), ..
    }) = context.payer
    else {
        return Ok(());
    };
    let Some(accounts) = &context.plane.accounts else {
        return Ok(());
    };
    let (provider, model) = (&*target.provider.name, target.model);
    // Lists and files are about no model; what is charged without naming one may be any.
    let allowed = if model.is_empty() && !context.endpoint.is_charged() {
        accounts.keyring.allows_provider(caller, provider)
    } else {
        accounts.keyring.allows(caller, provider, model)
    };
    allowed.map_err(|why| {
        context.core.meter.callers_forbidden.add(1);
        match why {
            NotAllowed::Model => ApiError::new(
                Code::ModelNotAllowed,
                format!("this virtual key may not use the model {provider}/{model}"),
            )
            .with_param("model"),
            NotAllowed::Provider => ApiError::new(
                Code::ProviderNotAllowed,
                format!("this virtual key may not use the provider {provider}"),
            )
            .with_param("model"),
        }
    })
}

/// What a request asks for, as far as that bounds its cost. What it refers to is looked for later, if anybody has a budget.
fn demand_of(asked: &Asked, endpoint: Endpoint, body_bytes: u64) -> Demand {
    let keys = &asked.keys;
    let asked_for = pieces_of(asked, endpoint, body_bytes);
    let output = if asked_for != Pieces::default() {
        // What is made there is bounded by nothing that a client says.
        None
    } else if endpoint.dialect() == Dialect::Bedrock {
        converse_output(asked)
    } else {
        let said = [
            keys.max_tokens(),
            keys.max_completion_tokens(),
            keys.max_output_tokens(),
        ];
        said.into_iter().flatten().max()
    };
    let mut answers = results(asked).max(keys.best_of().unwrap_or(1));
    if endpoint == Endpoint::Completions
        && let Some(range) = keys.prompt()
    {
        // Each prompt of a list is answered; there are no more of them than commas and one.
        let text = pieces(asked, range);
        let commas: usize = text
            .map(|piece| piece.iter().filter(|byte| **byte == b',').count())
            .sum();
        let is_list = pieces(asked, range)
            .next()
            .is_some_and(|piece| piece.first() == Some(&b'['));
        answers = answers.saturating_mul(if is_list { commas as u64 + 1 } else { 1 });
    }
    let text = keys.service_tier().and_then(|range| member(asked, range));
    let name = text.as_ref().and_then(|text| {
        let name = text.trim_ascii().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        std::str::from_utf8(name).ok()
    });
    let tier = name.and_then(Tier::from_service_tier);
    Demand {
        body_bytes,
        output,
        answers: u32::try_from(answers).unwrap_or(u32::MAX),
        pieces: asked_for,
        // Each file of a form may be one.
        images: asked
            .form
            .as_ref()
            .filter(|_| asked_for.images > 0)
            .map_or(0, |form| form.parts()),
        tier: tier.unwrap_or_default(),
        // `auto`, and what is not known: whatever the provider makes of it.
        any_tier: name.is_some() && tier.is_none(),
        ..Demand::default()
    }
}

/// What is asked for that may have a price by the piece: images, characters to be spoken, or sound to be listened to.
fn pieces_of(asked: &Asked, endpoint: Endpoint, body_bytes: u64) -> Pieces {
    match endpoint {
        Endpoint::Images => Pieces {
            images: u32::try_from(results(asked).max(1)).unwrap_or(u32::MAX),
            ..Pieces::default()
        },
        Endpoint::Audio if asked.head.path.of(&asked.head_bytes).ends_with(b"/speech") => Pieces {
            characters: characters(asked).unwrap_or(body_bytes),
            ..Pieces::default()
        },
        Endpoint::Audio => Pieces {
            audio_seconds: (body_bytes / SOUND_SECOND_BYTES_MIN).max(1),
            ..Pieces::default()
        },
        _ => Pieces::default(),
    }
}

/// How many results are asked for.
fn results(asked: &Asked) -> u64 {
    let said = asked.form.as_ref().map_or(asked.keys.n(), |form| form.n());
    said.unwrap_or(1)
}

/// Characters of a short `input`.
fn characters(asked: &Asked) -> Option<u64> {
    let text = member(asked, asked.keys.input()?)?;
    let mut reader = Reader::new(&text).ok()?;
    let characters = reader.text().ok()?.decode().chars().count();
    Some(characters as u64)
}

/// `inferenceConfig.maxTokens` of a Converse request, whose body is looked into for nothing else.
fn converse_output(asked: &Asked) -> Option<u64> {
    let mut keys = TopKeys::new();
    for piece in &asked.body {
        keys.push(piece).ok()?;
    }
    let text = member(asked, keys.inference_config()?)?;
    let mut reader = Reader::new(&text).ok()?;
    reader.object("inferenceConfig").ok()?;
    while let Some(key) = reader.key().ok()? {
        if key == "maxTokens" {
            return reader.whole_or_null().ok()?;
        }
        reader.skip().ok()?;
    }
    None
}

/// What a request is for, in the client's words: header fields, and the texts of its `metadata`.
pub fn tags_of(asked: &Asked) -> Tags {
    let mut tags = Tags::default();
    for field in asked.head.fields.iter().filter(|field| field.id == FieldId::Sluice) {
        // What does not fit is left out.
        let _ = tags.add_field(field.name.of(&asked.head_bytes), field.value.of(&asked.head_bytes));
    }
    if let Some(range) = asked.keys.metadata() {
        add_metadata(&mut tags, asked, range);
    }
    tags
}

/// Adds the texts of `metadata`; nothing if it is no object.
fn add_metadata(tags: &mut Tags, asked: &Asked, range: Range) -> Option<()> {
    let text = member(asked, range)?;
    let mut reader = Reader::new(&text).ok()?;
    if reader.kind().ok()? != Kind::Object {
        return None;
    }
    reader.object("metadata").ok()?;
    while let Some(key) = reader.key().ok()? {
        if reader.kind().ok()? == Kind::String {
            let value = reader.text().ok()?;
            let _ = tags.add(key.as_bytes(), value.decode().as_bytes());
        } else {
            reader.skip().ok()?;
        }
    }
    Some(())
}

/// A small member of the body, in one piece.
pub fn member(asked: &Asked, range: Range) -> Option<Vec<u8>> {
    (range.end - range.start <= MEMBER_BYTES_MAX).then(|| {
        let mut text = Vec::new();
        pieces(asked, range).for_each(|piece| text.extend_from_slice(piece));
        text
    })
}

/// A range of the body, in the pieces that it arrived in.
pub fn pieces(asked: &Asked, range: Range) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    asked.body.iter().filter_map(move |chunk| {
        let to = from + chunk.len() as u64;
        let within = |at: u64| (at.clamp(from, to) - from) as usize;
        let piece = &chunk[within(range.start)..within(range.end)];
        from = to;
        (!piece.is_empty()).then_some(piece)
    })
}
