//! One request, from its complete head to its settled end: the product on one screen.
//!
//! Invariants: everything that decides stands in [`serve`] and [`forward`], in order; nothing is retried after the first
//! byte to the client; every request leaves exactly one record. Deliberately absent: how bytes are read (`intake.rs`),
//! carried to a provider (`attempt.rs`) and brought back (`relay.rs`).

use std::rc::Rc;
use std::sync::Arc;

use sluice_policy::route::{self, Plan};
use sluice_policy::snapshot::{Resolved, Snapshot};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::{FieldId, Framing, Method, Version};
use sluice_wire::provider::bedrock;
use sluice_wire::surface::{self, Endpoint, ModelField};

use crate::attempt::{self, Failure, Next};
use crate::connection::{After, ClientGone, Downstream};
use crate::core::Core;
use crate::intake::{self, NoBody, Scan};
use crate::plane::Plane;
use crate::record::{Label, Outcome, Record};
use crate::relay::{self, Undelivered};
use crate::reply;
use crate::scratch::{Asked, Scratch, Work};

/// A request under way: what the record will say, and what the answer's head must say.
pub struct Request {
    /// Filled in as the request goes on.
    pub record: Record,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
    /// When it began, in microseconds of the core's clock.
    pub begun_us: u64,
    dialect: Dialect,
    version: Version,
    head_only: bool,
}

impl Request {
    /// What the head of an answer must know.
    pub fn view(&self) -> reply::Client {
        reply::Client {
            id: self.record.id,
            dialect: self.dialect,
            version: self.version,
            head_only: self.head_only,
            keep_alive: self.keep_alive,
        }
    }

    /// Microseconds since it began, now.
    pub fn since(&self, core: &Core) -> u32 {
        u32::try_from(core.clock.now_us().saturating_sub(self.begun_us)).unwrap_or(u32::MAX)
    }
}

/// What all steps of a request look at.
pub struct Context<'a> {
    /// The core that serves it.
    pub core: &'a Rc<Core>,
    /// The plane that it sees, to its end.
    pub plane: &'a Arc<Plane>,
    /// What the client asked.
    pub asked: &'a Asked,
    /// What it is for.
    pub endpoint: Endpoint,
    /// The dialect that the client speaks.
    pub dialect: Dialect,
    /// Whether it asks for a stream.
    pub stream: bool,
    /// The model, where the path names it.
    pub path_model: Option<&'a str>,
    /// Length of its body, in bytes.
    pub body_bytes: u64,
    /// When it must have ended, in milliseconds of the core's clock.
    pub total_at_ms: u64,
}

/// Why a request ends without a provider's answer.
pub enum End {
    /// With an error that the gateway makes.
    Refused(ApiError),
    /// With the answer of the provider that failed last.
    Rejected(Box<attempt::Rejection>),
    /// The client has gone.
    Gone,
    /// The stream was cut, and the client knows.
    Interrupted,
}

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<ClientGone> for End {
    fn from(_: ClientGone) -> Self {
        Self::Gone
    }
}

/// Serves the request whose head is in `scratch`, and says what becomes of the connection.
pub async fn run(core: &Rc<Core>, down: &mut Downstream, scratch: &mut Scratch, begun_us: u64) -> After {
    let mut request = begin(core, down, &scratch.asked, begun_us);
    let ended = serve(core, down, scratch, &mut request).await;
    finish(core, down, &mut scratch.work, request, ended).await
}

/// Answers a head that was refused.
pub async fn refuse_head(
    core: &Rc<Core>,
    down: &mut Downstream,
    scratch: &mut Scratch,
    begun_us: u64,
    error: ApiError,
) -> After {
    scratch.asked.head.reset();
    let mut request = begin(core, down, &scratch.asked, begun_us);
    request.keep_alive = false;
    finish(core, down, &mut scratch.work, request, Err(End::Refused(error))).await
}

/// The steps of a request, in order.
async fn serve(
    core: &Rc<Core>,
    down: &mut Downstream,
    scratch: &mut Scratch,
    request: &mut Request,
) -> Result<(), End> {
    let plane = core.plane();
    let snapshot = &*plane.snapshot;
    let head = &scratch.asked.head;
    // Until the body has been read, the connection cannot carry another request.
    let has_body = !matches!(head.framing, Framing::Empty | Framing::Length(0));
    let keep_alive = request.keep_alive;
    request.keep_alive &= !has_body;
    let path = head.path.of(&scratch.asked.head_bytes);
    request.dialect = surface::dialect_of(path);
    let endpoint = surface::classify(head.method, path)?;
    if let Some(encoding) = head.field(FieldId::ContentEncoding)
        && !encoding
            .value
            .of(&scratch.asked.head_bytes)
            .eq_ignore_ascii_case(b"identity")
    {
        return Err(ApiError::new(
            Code::UnsupportedEncoding,
            "send the request's body without Content-Encoding",
        )
        .into());
    }
    let scan = scan_for(endpoint, &scratch.asked);
    let body = intake::read(core, &plane, down, scratch, scan)
        .await
        .map_err(|why| match why {
            NoBody::Gone => End::Gone,
            NoBody::Refused(error) => End::Refused(error),
        })?;
    down.stream.deadline().clear();
    request.keep_alive = keep_alive && !core.is_draining();
    request.record.bytes_in = body.bytes;
    request.record.received_us = request.since(core);
    if let Endpoint::Health | Endpoint::Ready = endpoint {
        return answer_locally(core, &plane, down, &mut scratch.work, request, endpoint).await;
    }
    let Scratch { asked, work } = scratch;
    let asked = &*asked;
    let converse = surface::converse_path(asked.head.path.of(&asked.head_bytes)).and_then(bedrock::parse_path);
    let path_model = converse.as_ref().map(|(model, _)| &**model);
    let model = match path_model {
        Some(model) => Some(model),
        None => model_of(asked, scan, endpoint)?,
    };
    request.record.model = Label::new(model.unwrap_or_default());
    let dialect = endpoint.dialect();
    let resolved = match model {
        Some(model) => snapshot.resolve_for(model, dialect)?,
        None => default_target(snapshot)?,
    };
    let plan = route::plan(snapshot, &resolved)?;
    let total_ms = snapshot.timeouts(plan.route(), resolved.provider).total_ms;
    let context = Context {
        core,
        plane: &plane,
        asked,
        endpoint,
        dialect,
        stream: converse
            .as_ref()
            .map_or_else(|| scan == Scan::Json && asked.keys.stream(), |(_, stream)| *stream),
        path_model,
        body_bytes: body.bytes,
        total_at_ms: core.clock.tick_ms() + u64::from(total_ms),
    };
    forward(&context, down, work, request, &resolved, &plan).await
}

/// Tries the plan's targets, and each target's keys, until one answers.
async fn forward(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    resolved: &Resolved<'_>,
    plan: &Plan,
) -> Result<(), End> {
    let snapshot = &*context.plane.snapshot;
    let mut last: Option<Failure> = None;
    for index in 0..plan.len() {
        let Some(target) = plan.target(snapshot, resolved, index) else {
            break;
        };
        if target.provider.dialect != context.dialect && !context.endpoint.is_translatable() {
            continue;
        }
        request.record.provider = Label::new(&target.provider.name);
        request.record.fallback = target.is_fallback;
        let mut tried = target.provider.excluded_keys(target.model);
        while let Some(choice) = route::next_key(target.provider, tried, context.core.random()) {
            tried |= 1 << choice;
            let key = &target.provider.keys[choice];
            request.record.key = Label::new(&key.name);
            let failure = match attempt::run(context, down, work, request, &target, key).await? {
                Ok(answer) => match relay::deliver(context, down, work, request, &target, answer).await {
                    Ok(()) => {
                        context.core.meter.fallbacks.add(u64::from(target.is_fallback));
                        return Ok(());
                    }
                    Err(Undelivered::Ended(end)) => return Err(end),
                    Err(Undelivered::Failed(failure)) => failure,
                },
                Err(failure) => failure,
            };
            context.core.meter.attempts_failed.add(1);
            request.record.reason.get_or_insert(failure.code);
            let next = failure.next;
            last = Some(failure.prefer_over(last));
            if next == Next::OtherTarget || context.core.clock.tick_ms() >= context.total_at_ms {
                break;
            }
        }
    }
    Err(match last {
        Some(failure) => failure.into_end(),
        None => ApiError::new(
            Code::UnsupportedRoute,
            "no target of this model's route speaks the dialect that this path needs",
        )
        .with_param("model")
        .into(),
    })
}

/// Sends the answer that a request ends with, if it has none yet, and leaves its record.
async fn finish(
    core: &Rc<Core>,
    down: &mut Downstream,
    work: &mut Work,
    mut request: Request,
    ended: Result<(), End>,
) -> After {
    request.keep_alive &= !core.is_draining();
    let view = request.view();
    let mut after = if request.keep_alive {
        After::KeepAlive
    } else {
        After::Close
    };
    let write_ms = core.plane().snapshot.downstream().write_ms;
    let must_answer = match ended {
        Ok(()) => false,
        Err(End::Refused(error)) => {
            request.record.outcome = Outcome::Refused(error.code);
            request.record.status = error.status();
            work.parts.clear();
            request.record.bytes_out = reply::error(&mut work.parts, view, &error);
            true
        }
        Err(End::Rejected(rejection)) => {
            work.parts.clear();
            (request.record.status, request.record.bytes_out) = rejection.write(&mut work.parts, view);
            true
        }
        Err(End::Gone) => {
            request.record.outcome = Outcome::ClientGone;
            after = After::Abort;
            false
        }
        Err(End::Interrupted) => {
            request.record.outcome = Outcome::Interrupted;
            after = After::Close;
            false
        }
    };
    if must_answer {
        request.record.first_byte_us = request.since(core);
        if down.send(core, &mut work.parts, write_ms).await.is_err() {
            request.record.outcome = Outcome::ClientGone;
            after = After::Abort;
        }
    }
    request.record.total_us = request.since(core);
    count(core, &request.record);
    core.record(request.record);
    after
}

fn begin(core: &Rc<Core>, down: &Downstream, asked: &Asked, begun_us: u64) -> Request {
    let head = &asked.head;
    let record = Record {
        unix_us: core.clock.unix_us(begun_us),
        id: u128::from(core.random()) << 64 | u128::from(core.random()),
        core: core.index as u16,
        status: 0,
        attempts: 0,
        fallback: false,
        stream: false,
        outcome: Outcome::Done,
        method: Label::of_bytes(head.method_span.of(&asked.head_bytes)),
        path: Label::of_bytes(head.path.of(&asked.head_bytes)),
        model: Label::EMPTY,
        provider: Label::EMPTY,
        key: Label::EMPTY,
        reason: None,
        client: Some(down.client.ip()),
        bytes_in: 0,
        bytes_out: 0,
        received_us: 0,
        first_byte_us: 0,
        total_us: 0,
        upstream_us: 0,
    };
    core.meter.requests.add(1);
    Request {
        record,
        keep_alive: head.keep_alive,
        begun_us,
        dialect: Dialect::OpenAi,
        version: head.version,
        head_only: head.method == Method::Head,
    }
}

/// How the body of a request to `endpoint` says its model.
fn scan_for(endpoint: Endpoint, asked: &Asked) -> Scan {
    if matches!(endpoint.model_field(), ModelField::Absent | ModelField::Path) || asked.head.method != Method::Post {
        return Scan::None;
    }
    let content_type = asked
        .head
        .field(FieldId::ContentType)
        .map(|field| field.value.of(&asked.head_bytes));
    let form = b"multipart/form-data";
    match content_type.and_then(|value| value.get(..form.len())) {
        Some(kind) if kind.eq_ignore_ascii_case(form) => Scan::Multipart,
        _ => Scan::Json,
    }
}

/// The model that the body names.
fn model_of(asked: &Asked, scan: Scan, endpoint: Endpoint) -> Result<Option<&str>, ApiError> {
    let located = match scan {
        Scan::Json => asked.keys.model(),
        Scan::Multipart => asked.form.as_ref().and_then(|form| form.model()),
        Scan::None => None,
    };
    match located {
        Some(located) => Ok(Some(located.as_str())),
        None if endpoint.model_field() == ModelField::Required => Err(ApiError::new(
            Code::InvalidParameter,
            "the request names no model; set \"model\" to \"provider/model\" or to a model's name",
        )
        .with_param("model")),
        None => Ok(None),
    }
}

/// Where a request goes that is about no model: the default provider if it speaks OpenAI's dialect, else the first that does.
fn default_target(snapshot: &Snapshot) -> Result<Resolved<'static>, ApiError> {
    let default = snapshot.default_provider().into_iter();
    let mut candidates = default.chain(snapshot.providers());
    match candidates.find(|provider| provider.dialect == Dialect::OpenAi && provider.available()) {
        Some(provider) => Ok(Resolved {
            provider: provider.id,
            model: "",
            route: None,
        }),
        None => Err(ApiError::new(
            Code::NoProviderAvailable,
            "no provider that speaks the OpenAI dialect has a usable key",
        )),
    }
}

/// `/health` and `/ready`, for the load balancer in front.
async fn answer_locally(
    core: &Rc<Core>,
    plane: &Plane,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    endpoint: Endpoint,
) -> Result<(), End> {
    let (status, body): (u16, &[u8]) = match endpoint {
        Endpoint::Health => (200, br#"{"status":"alive"}"#),
        _ if core.is_draining() => (503, br#"{"status":"draining"}"#),
        _ if plane.snapshot.ready() => (200, &plane.ready_body),
        _ => (503, &plane.ready_body),
    };
    reply::json(&mut work.parts, request.view(), status, body);
    request.record.status = status;
    request.record.first_byte_us = request.since(core);
    down.send(core, &mut work.parts, plane.snapshot.downstream().write_ms)
        .await?;
    Ok(())
}

fn count(core: &Core, record: &Record) {
    let meter = &core.meter;
    match record.status {
        200..=299 => meter.responses_2xx.add(1),
        400..=499 => meter.responses_4xx.add(1),
        500..=599 => meter.responses_5xx.add(1),
        _ => {}
    }
    match record.outcome {
        Outcome::ClientGone => meter.clients_gone.add(1),
        Outcome::Interrupted => meter.streams_interrupted.add(1),
        Outcome::Done | Outcome::Refused(_) => {}
    }
    meter.bytes_in.add(record.bytes_in);
    meter.bytes_out.add(record.bytes_out);
}
