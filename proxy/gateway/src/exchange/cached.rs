//! A request on its way through the cache: looked up, answered, waited for with others, and its answer kept.
//!
//! ```text
//!  begin ─► Off | Bypass ───────────────────────────────► provider
//!        ─► Hit ─────────► the stored answer
//!        ─► Wait ────────► an identical request's answer, as it comes ─► or begin once more
//!        ─► Ask ─────────► provider, written down on the way ─► keep: judged, stored, compared
//! ```
//! Invariants: a route that does not cache costs one comparison; what is kept is complete, successful, of the target that was
//! asked for, and not older than the last purge; a client that asks for a stream gets one, whatever is stored. Deliberately absent:
//! the decision (`sluice_policy::cache`), and the forms of an answer (`reply.rs`).

mod controls;
mod reply;
mod wait;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_policy::cache::entry::{Answer, Entry};
use sluice_policy::cache::key::Scope;
use sluice_policy::cache::{By, Hit, Settled};
use sluice_policy::config::CacheShare;
use sluice_policy::snapshot::{Caching, Resolved};
use sluice_wire::chat::{ChatRequest, Content, Source, Text, pointed};
use sluice_wire::error::ApiError;
use sluice_wire::limits::{CACHE_CONTEXT_BYTES_MAX, CACHE_FRAMES_PER_REQUEST_MAX};
use sluice_wire::provider::{self, Ingress};

use self::controls::Asked;
use self::reply::Form;
use super::{Context, End, Request};
use crate::attempt::request;
use crate::cache::flight::Flight;
use crate::cache::prepare::{Helper, Prepared, Wanted};
use crate::cache::verbatim::Verbatim;
use crate::cache::{Found, Looked, Lookup};
use crate::connection::Downstream;
use crate::core::Core;
use crate::record::CacheUse;
use crate::scratch::Work;

/// The tenant of requests that come without a virtual key.
const TENANT: &str = "default";

/// Whose answers a request may share: its key's own, or its team's or customer's where the route says so. Names of tables and
/// numbers of the store, so that no two are alike, and none changes with a name.
fn tenant(context: &Context<'_>, caching: &Caching) -> Cow<'static, str> {
    let caller = context.payer.and_then(|payer| payer.caller);
    let accounts = context.plane.accounts.as_ref();
    let Some((caller, accounts)) = caller.zip(accounts) else {
        return Cow::Borrowed(TENANT);
    };
    let [key, team, customer] = accounts.keyring.rows(caller);
    Cow::Owned(match caching.share {
        CacheShare::Customer if customer != 0 => format!("customer:{customer}"),
        CacheShare::Customer | CacheShare::Team if team != 0 => format!("team:{team}"),
        _ => format!("key:{key}"),
    })
}

/// Whether the caller may use every target that an answer may come from: what it may not ask for it is not told either.
fn is_allowed(context: &Context<'_>, resolved: &Resolved<'_>) -> bool {
    let caller = context.payer.and_then(|payer| payer.caller);
    let Some((caller, accounts)) = caller.zip(context.plane.accounts.as_ref()) else {
        return true;
    };
    let snapshot = &context.plane.snapshot;
    snapshot
        .cached_targets(resolved)
        .all(|(provider, model)| accounts.keyring.allows(caller, provider, model).is_ok())
}

/// What becomes of a request.
enum Begun {
    /// The provider is asked; what is there is to be told how that ended.
    Ask(Option<Asking>),
    /// Its answer is in `work.parts`.
    Answered,
    /// Its answer is a stream, to be replayed at a pace.
    Replay(Hit),
    /// It is a stored answer, and its caller cannot pay what that costs here.
    Refused(ApiError),
    /// An identical request is with the provider.
    Wait(wait::Following),
    /// Something is to be prepared first, and then it is begun again.
    Prepare(Wanted, Helper),
}

/// A request that the provider is asked, and whose answer may be kept. Dropped, it lands its flight without an answer.
struct Asking {
    core: Rc<Core>,
    found: Option<Box<Found>>,
    ttl_ms: u64,
    tags: Vec<Box<str>>,
}

/// Serves a request from the cache, or from its providers.
pub(super) async fn serve(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    resolved: &Resolved<'_>,
) -> Result<(), End> {
    let Some(caching) = context.plane.snapshot.caching(resolved) else {
        return super::ask(context, down, work, request, resolved).await;
    };
    let mut prepared = None;
    // Once: whoever has waited in vain asks, or waits for nobody again.
    let mut may_wait = true;
    let asking = loop {
        match begin(context, caching, work, request, resolved, (may_wait, prepared.as_ref())) {
            Begun::Ask(found) => break found,
            Begun::Answered => {
                let write_ms = context.plane.snapshot.downstream().write_ms;
                return Ok(down.send(context.core, &mut work.parts, write_ms).await?);
            }
            Begun::Refused(error) => return Err(End::Refused(error)),
            // Both boxed: they are rare, and their state would make every connection's task larger.
            Begun::Replay(hit) => {
                let per_second = caching.events_per_second;
                return Box::pin(reply::replay(context, per_second, down, work, request, &hit)).await;
            }
            Begun::Wait(following) => {
                if Box::pin(wait::wait(context, (caching, resolved), down, work, request, following)).await? {
                    return Ok(());
                }
                may_wait = false;
            }
            Begun::Prepare(wanted, helper) => {
                context.core.meter.cache_prepared.add(1);
                prepared = Some(down.while_present(Box::pin(helper.prepare(wanted))).await?);
            }
        }
    };
    down.audience = asking.as_ref().and_then(Asking::flight);
    let ended = super::ask(context, down, work, request, resolved).await;
    if let Some(asking) = asking {
        let spent_nano_usd = work.payment.spent_nano_usd();
        asking.end(context, caching, request, (ended.is_ok(), spent_nano_usd));
        if down.has_left() {
            return Err(End::Gone);
        }
    }
    ended
}

/// Looks for an answer.
fn begin(
    context: &Context<'_>,
    caching: &Arc<Caching>,
    work: &mut Work,
    request: &mut Request,
    resolved: &Resolved<'_>,
    (may_wait, prepared): (bool, Option<&Prepared>),
) -> Begun {
    if !context.endpoint.is_translatable() {
        return Begun::Ask(None);
    }
    let core = context.core;
    request.record.cache = Some(CacheUse::Bypass);
    let asked = Asked::read(context.asked, caching);
    if asked.no_store || !is_allowed(context, resolved) {
        return bypass(core);
    }
    let looked = match look(context, caching, work, resolved, &asked, (may_wait, prepared)) {
        Ok(looked) => looked,
        Err(wanted) => {
            let (wanted, helper) = *wanted;
            return Begun::Prepare(wanted, helper);
        }
    };
    match looked {
        None | Some(Looked::Bypass | Looked::Prepare(..)) => bypass(core),
        Some(Looked::Hit(hit)) => {
            let cost_nano_usd = hit.entry.answer.cost_nano_usd;
            if let Err(error) = work.payment.hold_stored(context, caching, resolved, cost_nano_usd) {
                return Begun::Refused(error);
            }
            note_hit(core, request, &hit);
            if context.stream && caching.events_per_second > 0 {
                work.payment.settle_stored(core);
                return Begun::Replay(hit);
            }
            if reply::write(context, work, request, &hit.entry, Some(&hit)) {
                work.payment.settle_stored(core);
                Begun::Answered
            } else {
                // It was said to fit: a stored answer that cannot be read after all.
                work.payment.release_stored();
                request.record.cache = Some(CacheUse::Miss);
                Begun::Ask(None)
            }
        }
        Some(Looked::Wait(key, id, flight)) => Begun::Wait(wait::Following::new(core, key, id, flight)),
        Some(Looked::Ask(found)) => {
            let compared = found.compare.is_some();
            request.record.cache = Some(if compared { CacheUse::Shadow } else { CacheUse::Miss });
            core.meter.cache_misses.add(1);
            work.tape.get_or_insert_default().fly(found.flight.clone());
            Begun::Ask(Some(Asking {
                core: core.clone(),
                found: Some(found),
                ttl_ms: asked.ttl_ms.map_or(caching.ttl_ms, |ttl_ms| ttl_ms.min(caching.ttl_ms)),
                tags: caching.tags.iter().cloned().chain(asked.tags).collect(),
            }))
        }
    }
}

fn bypass(core: &Core) -> Begun {
    core.meter.cache_bypasses.add(1);
    Begun::Ask(None)
}

fn look(
    context: &Context<'_>,
    caching: &Arc<Caching>,
    work: &mut Work,
    resolved: &Resolved<'_>,
    asked: &Asked,
    (may_wait, prepared): (bool, Option<&Prepared>),
) -> Result<Option<Looked>, Box<(Wanted, Helper)>> {
    let core = context.core;
    request::gather(context, work);
    let body = work.whole.clone();
    let (tenant, form, now_ms) = (tenant(context, caching), Form::asked(context), now_ms(core));
    // What says nothing of the cache, in fields or elsewhere outside its body, is all there is to it.
    let is_plain = !asked.any && caching.headers.is_empty() && context.path_model.is_none();
    let verbatim = is_plain.then(|| Verbatim {
        caching,
        tenant: &tenant,
        dialect: context.dialect,
        body: &body,
    });
    let fits = |entry: &Entry| form.fits(&entry.answer);
    let again = verbatim.and_then(|request| core.cache.again(&request, caching.max_age_ms, now_ms, fits));
    if let Some(hit) = again {
        return Ok(Some(Looked::Hit(hit)));
    }
    let ingress = Ingress {
        path_model: context.path_model,
        path_stream: context.stream,
    };
    // What cannot be read is the provider's to refuse.
    let Ok(parsed) = provider::parse_request(context.dialect, &body, &ingress) else {
        return Ok(None);
    };
    let metadata = parsed.metadata.as_ref().map(|metadata| metadata.as_json());
    let Some(values) = values(context, caching, asked, &body, metadata) else {
        return Ok(None);
    };
    let pairs: Vec<(&str, Option<&str>)> = values.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    let label = |(name, value): &(&str, Option<&str>)| Some(format!("{name}={}", (*value)?).into());
    let labels: Vec<Box<str>> = pairs.iter().filter_map(label).collect();
    let provider = &context.plane.snapshot.provider(resolved.provider).name;
    let lookup = Lookup {
        request: &parsed,
        scope: Scope {
            tenant: &tenant,
            route: if caching.scope.is_empty() {
                provider
            } else {
                &caching.scope
            },
            dialect: context.dialect,
            context: &pairs,
            epoch: 0,
        },
        labels: &labels,
        caching,
        controls: &asked.controls,
        form: form.pair(),
        may_wait: may_wait && !asked.controls.no_lookup,
        has_frames: caching.rules.frames.is_some() && images(&parsed).next().is_some(),
        prepared,
        now_ms,
        random: core.random() as u32,
    };
    let looked = core.cache.look(&lookup, fits);
    if let (Some(request), Some(Looked::Hit(hit))) = (&verbatim, &looked)
        && hit.by == By::Exact
    {
        core.cache.note(request, hit.entry.exact);
    }
    match looked {
        Some(Looked::Prepare(text, helper)) => {
            let frames = lookup.has_frames.then(|| frames(&parsed, caching)).flatten();
            Err(Box::new((Wanted { text, frames }, helper)))
        }
        looked => Ok(looked),
    }
}

/// The frames to be decoded, and how long to wait for them in milliseconds. `None`: too many.
fn frames(request: &ChatRequest<'_>, caching: &Caching) -> Option<(Vec<Box<str>>, u64)> {
    let frames: Vec<Box<str>> = images(request).map(|image| image.decode().into()).collect();
    (frames.len() <= CACHE_FRAMES_PER_REQUEST_MAX).then_some((frames, caching.frames_wait_ms))
}

/// The images of a request that are in it, in base64.
fn images<'a>(request: &'a ChatRequest<'_>) -> impl Iterator<Item = &'a Text<'a>> {
    let parts = request.messages.iter().flat_map(|message| &message.parts);
    parts.filter_map(|part| match &part.content {
        Content::Image {
            source: Source::Base64 { data, .. },
            ..
        } => Some(data),
        _ => None,
    })
}

type Values<'a> = Vec<(&'a str, Option<Cow<'a, str>>)>;

/// The context keys and their values; `None` if the request is not to be cached on account of them.
fn values<'a>(
    context: &Context<'a>,
    caching: &'a Caching,
    asked: &'a Asked,
    body: &'a [u8],
    metadata: Option<&'a str>,
) -> Option<Values<'a>> {
    let mut values: Values<'a> = Vec::new();
    let head = &context.asked.head;
    for name in &caching.headers {
        let value = head.named(&context.asked.head_bytes, name.as_bytes());
        let value = value.map(std::str::from_utf8).transpose().ok()?;
        values.push((name, value.map(Cow::Borrowed)));
    }
    for pointer in &caching.body {
        values.push((pointer, pointed(body, pointer).ok()?));
    }
    for name in &caching.metadata {
        let value = match metadata {
            Some(metadata) => {
                let place = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                pointed(metadata.as_bytes(), &place).ok()?
            }
            None => None,
        };
        values.push((name, value));
    }
    if caching.required && values.iter().any(|(_, value)| value.is_none()) {
        return None;
    }
    let own = asked
        .context
        .iter()
        .map(|(name, value)| (&**name, Some(Cow::Borrowed(&**value))));
    values.extend(own);
    let fits = |(_, value): &(&str, Option<Cow<'_, str>>)| {
        value
            .as_ref()
            .is_none_or(|value| value.len() <= CACHE_CONTEXT_BYTES_MAX)
    };
    values.iter().all(fits).then_some(values)
}

fn now_ms(core: &Core) -> u64 {
    core.clock.unix_us(core.clock.now_us()) / 1000
}

fn note_hit(core: &Core, request: &mut Request, hit: &Hit) {
    let meter = &core.meter;
    request.record.cache = Some(match hit.by {
        By::Exact => CacheUse::Hit,
        By::Meaning | By::Frames => CacheUse::Semantic,
    });
    match hit.by {
        By::Exact => meter.cache_hits.add(1),
        By::Meaning => meter.cache_hits_semantic.add(1),
        By::Frames => meter.cache_hits_frames.add(1),
    }
    note_saved(core, &hit.entry.answer);
}

fn note_saved(core: &Core, answer: &Answer) {
    let meter = &core.meter;
    meter.cache_saved_input_tokens.add(answer.tokens[0]);
    meter.cache_saved_output_tokens.add(answer.tokens[1]);
    meter.cache_saved_nano_usd.add(answer.cost_nano_usd);
}

impl Asking {
    /// Where the answer is written down; others follow it there.
    fn flight(&self) -> Option<Rc<Flight>> {
        self.found.as_ref().map(|found| found.flight.clone())
    }

    /// The provider's answer has been delivered, or not: keeps it, compares it, and tells those who wait.
    fn end(
        mut self,
        context: &Context<'_>,
        caching: &Caching,
        request: &Request,
        (delivered, spent_nano_usd): (bool, u64),
    ) {
        let Some(found) = self.found.take() else { return };
        let Found {
            ticket,
            led,
            flight,
            compare,
            change,
        } = *found;
        let record = &request.record;
        let whole = delivered && record.status == 200;
        let written = flight.take().filter(|_| whole);
        let judged = written.and_then(|body| {
            let judged = reply::judge(context, record.stream, &body, caching.store_truncated)?;
            Some((judged, body))
        });
        let mut landed = None;
        if let Some((judged, body)) = judged {
            let now_ms = now_ms(&self.core);
            if let Some(hit) = compare {
                self.compare(&hit, &judged.said);
            }
            let answer = Answer {
                shape: judged.shape,
                dialect: context.dialect,
                body: Bytes::from(body),
                tokens: judged.tokens,
                cost_nano_usd: spent_nano_usd,
            };
            let tags: Vec<&str> = self.tags.iter().map(|tag| &**tag).collect();
            let entry = ticket.entry(answer, request.names.model(), &tags, self.ttl_ms, now_ms);
            let original = !record.fallback && !record.resumed;
            if judged.is_good && original && self.ttl_ms > 0 && self.core.cache.store(entry.clone(), change, now_ms) {
                self.core.meter.cache_stored.add(1);
            } else {
                self.core.meter.cache_not_stored.add(1);
            }
            landed = Some(entry);
        }
        if let Some((key, id)) = led {
            self.core.cache.land(key, id);
        }
        flight.land(landed);
    }

    fn compare(&self, hit: &Hit, said: &str) {
        let Some(theirs) = reply::said(&hit.entry.answer) else {
            return;
        };
        let agrees = self.core.cache.agrees(said, &theirs);
        let meter = &self.core.meter;
        meter.cache_compared.add(1);
        meter.cache_disagreed.add(u64::from(!agrees));
        self.core.cache.settle(Settled::of(hit, agrees));
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(found) = self.found.take() {
            if let Some((key, id)) = found.led {
                self.core.cache.land(key, id);
            }
            found.flight.land(None);
        }
    }
}
