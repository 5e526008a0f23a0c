//! One request, from its complete head to its settled end: the product on one screen.
//!
//! Invariants: everything that decides stands in [`serve`] and `forward.rs`, in order; nothing is retried after the first
//! byte to the client; every request leaves exactly one record. Deliberately absent: how bytes are read (`intake.rs`),
//! carried to a provider (`attempt.rs`) and brought back (`relay.rs`).

use std::cell::Cell;
use std::rc::Rc;

use sluice_policy::meter::COUNTED;
use sluice_policy::patience::{self, Patience};
use sluice_policy::route::{self, Situation};
use sluice_policy::snapshot::{Provider, Resolved, RouteId, Snapshot, Target};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::{FieldId, Framing, Method, Span, Version};
use sluice_wire::json::Range;
use sluice_wire::provider::bedrock;
use sluice_wire::surface::{self, Endpoint, ModelField};

use self::account::Payer;
pub use self::payment::Payment;
use self::ticket::Ticket;
use crate::attempt;
use crate::connection::{After, ClientGone, Downstream};
use crate::core::Core;
use crate::intake::{self, NoBody, Scan};
use crate::plane::{HeldPlane, Plane};
use crate::record::{Extra, Names, Outcome, Record};
use crate::relay;
use crate::reply;
use crate::scratch::{Asked, Scratch, Work};

mod account;
mod cached;
mod count;
mod fallbacks;
mod forward;
mod hedge;
mod payment;
mod resume;
mod settle;
mod shadow;
mod ticket;

/// A request under way: what the record will say, and what the answer's head must say.
pub struct Request {
    /// Filled in as the request goes on.
    pub record: Record,
    /// What it is about and who is asked, likewise.
    pub names: Names,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
    /// When it began, in microseconds of the core's clock.
    pub begun_us: u64,
    dialect: Dialect,
    version: Version,
    head_only: bool,
    /// What the attempt under way holds.
    ticket: Option<Ticket>,
    /// What there is to say beside the record.
    extra: Option<Box<Extra>>,
    /// Header fields of an error that say who was asked, once somebody was.
    trace: Option<Box<[u8]>>,
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
        self.until(core.clock.now_us())
    }

    fn until(&self, now_us: u64) -> u32 {
        u32::try_from(now_us.saturating_sub(self.begun_us)).unwrap_or(u32::MAX)
    }

    /// The answer is about to leave: its first token is there, or all of it.
    pub fn answered(&mut self, core: &Core) {
        let now_us = core.clock.now_us();
        self.record.first_byte_us = self.until(now_us);
        self.heard(now_us);
    }

    /// The answer has begun, which its client may see later.
    pub fn heard(&mut self, now_us: u64) {
        if let Some(ticket) = &mut self.ticket {
            ticket.answered(now_us);
        }
    }

    /// The same request for a second attempt beside the one under way.
    fn fork(&self) -> Self {
        let mut record = self.record;
        record.attempts = 0;
        Self {
            record,
            names: self.names.clone(),
            ticket: None,
            extra: None,
            trace: None,
            ..*self
        }
    }

    /// Whether the attempt under way may be sent once more, on a connection of its own: that is a retry like any other, as far
    /// as the target's budget goes.
    pub fn may_repeat(&self) -> bool {
        self.ticket.as_ref().is_none_or(Ticket::take_retry)
    }

    /// The request is being sent to a provider.
    pub fn sent(&mut self, core: &Core) {
        core.meter.attempts.add(1);
        self.record.attempts = self.record.attempts.saturating_add(1);
        if let Some(ticket) = &mut self.ticket {
            ticket.sent();
        }
    }

    /// Header fields of an error: who was asked, and how the caller's budgets and limits stand.
    fn trace_with(&mut self, core: &Core, payment: &Payment) -> Vec<u8> {
        let mut text = self.trace.take().unwrap_or_default().into_vec();
        payment.write_fields(core, &mut text);
        text
    }

    fn trace_of(&self, provider: &Provider, model: &str) -> Box<[u8]> {
        let mut text = Vec::new();
        relay::write_trace(&mut text, self, &provider.name, model);
        text.into()
    }
}

/// What all steps of a request look at.
pub struct Context<'a> {
    /// The core that serves it.
    pub core: &'a Rc<Core>,
    /// The plane that it sees, to its end.
    pub plane: &'a HeldPlane,
    /// The route that it follows, if any.
    pub route: Option<RouteId>,
    /// Fallbacks that it brought.
    pub own_fallbacks: &'a [Target],
    /// Who pays for it, if anybody counts.
    pub payer: Option<Payer>,
    /// A hash of its session's name, if its route keeps sessions together.
    pub session: Option<u64>,
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
    /// The same for what it waits for now: earlier than `total_at_ms` until the answer has begun.
    limit_at_ms: Cell<u64>,
}

impl Context<'_> {
    /// When what the request waits for now must have come, in milliseconds of the core's clock: the first byte of an answer
    /// while nothing has been sent to the client, then its end.
    pub fn limit_at_ms(&self) -> u64 {
        self.limit_at_ms.get()
    }

    /// Whether the request has no time left.
    pub fn is_late(&self) -> bool {
        self.core.clock.tick_ms() >= self.limit_at_ms()
    }

    /// The client's answer begins: from now on only the end of the request is due.
    pub fn begins(&self) {
        self.limit_at_ms.set(self.total_at_ms);
    }

    /// The bytes of a range of the body.
    pub fn bytes(&self, range: Range) -> impl Iterator<Item = u8> {
        account::pieces(self.asked, range).flatten().copied()
    }

    /// What choices depend on, now.
    pub fn situation(&self) -> Situation<'_> {
        Situation {
            health: &self.plane.health,
            keys: &self.plane.keys,
            now_ms: self.core.clock.shared_ms(),
            random: self.core.random(),
            session: self.session,
            streamed: self.stream,
        }
    }
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

impl From<NoBody> for End {
    fn from(why: NoBody) -> Self {
        match why {
            NoBody::Gone => Self::Gone,
            NoBody::Refused(error) => Self::Refused(error),
        }
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
    finish(core, down, scratch, &mut request, ended).await
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
    finish(core, down, scratch, &mut request, Err(End::Refused(error))).await
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
    refuse_encoding(&scratch.asked)?;
    let known = account::identify(core, &plane, &scratch.asked, endpoint)?;
    let scan = scan_for(endpoint, &scratch.asked);
    let body = match intake::read(core, &plane, down, scratch, scan).await {
        Ok(body) => body,
        Err(why) => return Err(known.unread(&plane, &mut scratch.work.payment, why)),
    };
    down.stream.deadline().clear();
    let caller = known.prove(core, &plane, &scratch.asked)?;
    request.keep_alive = keep_alive && !core.is_draining();
    request.record.bytes_in = body.bytes;
    if down.has_waited {
        request.record.received_us = request.since(core);
    }
    if let Endpoint::Health | Endpoint::Ready = endpoint {
        return answer_locally(core, &plane, down, &mut scratch.work, request, endpoint).await;
    }
    let Scratch { asked, work } = scratch;
    let asked = &*asked;
    account::open(&plane, caller, &mut work.payment);
    let converse = surface::converse_path(asked.head.path.of(&asked.head_bytes)).and_then(bedrock::parse_path);
    let path_model = converse.as_ref().map(|(model, _)| &**model);
    let model = match path_model {
        Some(model) => Some(model),
        None => model_of(asked, scan, endpoint)?,
    };
    request.names.set_model(model.unwrap_or_default());
    let dialect = endpoint.dialect();
    let resolved = match model {
        Some(model) => snapshot.resolve_for(model, dialect)?,
        None => default_target(snapshot)?,
    };
    request.names.set_route(snapshot.route_name(resolved.route));
    let (payment, whose) = (&mut work.payment, (asked, body.bytes));
    let payer = account::admit(core, &plane, caller, payment, whose, (endpoint, &resolved))?;
    work.tape = payer.as_ref().and_then(|payer| payer.transcript(snapshot));
    let own_fallbacks = fallbacks::read(snapshot, asked, dialect, scan)?;
    let session = snapshot
        .session_field(&resolved)
        .and_then(|name| asked.head.named(&asked.head_bytes, name.as_bytes()))
        .map(route::session_hash);
    let total_ms = snapshot.timeouts(resolved.route, resolved.provider).total_ms;
    let patience = patience_of(asked, snapshot.downstream().sdk_timeouts, total_ms)?;
    let context = Context {
        core,
        plane: &plane,
        route: resolved.route,
        own_fallbacks: &own_fallbacks,
        payer,
        session,
        asked,
        endpoint,
        dialect,
        stream: converse
            .as_ref()
            .map_or_else(|| scan == Scan::Json && asked.keys.stream(), |(_, stream)| *stream),
        path_model,
        body_bytes: body.bytes,
        total_at_ms: core.clock.tick_ms() + u64::from(patience.total_ms),
        limit_at_ms: Cell::new(core.clock.tick_ms() + u64::from(patience.answer_ms)),
    };
    cached::serve(&context, down, work, request, &resolved).await
}

/// Asks the providers.
async fn ask(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    resolved: &Resolved<'_>,
) -> Result<(), End> {
    let snapshot = &context.plane.snapshot;
    let plan = route::plan(snapshot, resolved, context.own_fallbacks, &context.situation())?;
    forward::forward(context, down, work, request, resolved, &plan).await
}

/// Sends the answer that a request ends with, if it has none yet, and leaves its record.
async fn finish(
    core: &Rc<Core>,
    down: &mut Downstream,
    scratch: &mut Scratch,
    request: &mut Request,
    ended: Result<(), End>,
) -> After {
    let Scratch { asked, work } = scratch;
    // Once retired, a client that was not told with the head of its answer is told with the next.
    request.keep_alive &= !core.is_draining() || ended.is_ok() && core.is_retired();
    let view = request.view();
    let mut after = if request.keep_alive {
        After::KeepAlive
    } else {
        After::Close
    };
    // What an attempt held is let go of before the answer is sent.
    request.let_go(core);
    work.payment.failed(core);
    let trace = match &ended {
        Err(End::Refused(_) | End::Rejected(_)) => request.trace_with(core, &work.payment),
        _ => Vec::new(),
    };
    let write_ms = core.plane().snapshot.downstream().write_ms;
    let must_answer = match ended {
        Ok(()) => false,
        Err(End::Refused(error)) => {
            request.record.outcome = Outcome::Refused(error.code);
            request.record.status = error.status();
            work.parts.clear();
            request.record.bytes_out = reply::error(&mut work.parts, view, &error, &trace);
            true
        }
        Err(End::Rejected(rejection)) => {
            work.parts.clear();
            (request.record.status, request.record.bytes_out) = rejection.write(&mut work.parts, view, &trace);
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
    if COUNTED {
        request.record.total_us = request.since(core);
    }
    work.payment.close(core);
    count::request(core, &request.record, &work.payment);
    if let Some(tape) = work.tape.take() {
        core.log_bodies(tape, &asked.body, &mut request.extra);
    }
    let paid = work.payment.paid(asked, &request.names);
    core.record(request.record, &request.names, paid, request.extra.take());
    after
}

fn begin(core: &Rc<Core>, down: &Downstream, asked: &Asked, begun_us: u64) -> Request {
    let head = &asked.head;
    let text = |span: Span| if COUNTED { span.of(&asked.head_bytes) } else { &[] };
    let record = Record {
        unix_us: core.clock.unix_us(begun_us),
        id: u128::from(core.random()) << 64 | u128::from(core.random()),
        status: 0,
        attempts: 0,
        fallback: false,
        stream: false,
        paid: false,
        extra: false,
        named: false,
        names: 0,
        outcome: Outcome::Done,
        resumed: false,
        cache: None,
        reason: None,
        client: Some(down.client.ip()),
        bytes_in: 0,
        bytes_out: 0,
        received_us: 0,
        first_byte_us: 0,
        total_us: 0,
        upstream_us: 0,
        queued_us: 0,
    };
    core.meter.requests.add(1);
    Request {
        record,
        names: Names::of(text(head.method_span), text(head.path)),
        keep_alive: head.keep_alive,
        begun_us,
        dialect: Dialect::OpenAi,
        version: head.version,
        head_only: head.method == Method::Head,
        ticket: None,
        extra: None,
        trace: None,
    }
}

/// Bodies are looked into, so they must not be compressed.
fn refuse_encoding(asked: &Asked) -> Result<(), ApiError> {
    let encoding = asked.head.field(FieldId::ContentEncoding);
    let encoding = encoding.map(|field| field.value.of(&asked.head_bytes));
    if encoding.is_none_or(|encoding| encoding.eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let message = "send the request's body without Content-Encoding";
    Err(ApiError::new(Code::UnsupportedEncoding, message))
}

/// How the body of a request to `endpoint` says its model.
fn scan_for(endpoint: Endpoint, asked: &Asked) -> Scan {
    // A body without a model may still bring fallbacks.
    if endpoint.model_field() == ModelField::Absent || asked.head.method != Method::Post {
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

/// How long the client waits, by what it says and what it is allowed.
fn patience_of(asked: &Asked, heed_sdks: bool, total_ms: u32) -> Result<Patience, ApiError> {
    let head = &asked.head;
    let value = |id: FieldId| head.field(id).map(|field| field.value.of(&asked.head_bytes));
    let own = head
        .field(FieldId::Sluice)
        .and_then(|_| head.named(&asked.head_bytes, patience::TIMEOUT_FIELD.as_bytes()));
    let said = patience::Said {
        own,
        read: value(FieldId::StainlessReadTimeout).filter(|_| heed_sdks),
        head: value(FieldId::StainlessTimeout).filter(|_| heed_sdks),
    };
    patience::of(total_ms, &said)
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
    let report = || plane.report(core.clock.shared_ms()).to_string().into_bytes();
    let (status, body): (u16, Vec<u8>) = match endpoint {
        Endpoint::Health => (200, br#"{"status":"alive"}"#.into()),
        _ if core.is_draining() => (503, br#"{"status":"draining"}"#.into()),
        _ if plane.snapshot.ready() => (200, report()),
        _ => (503, report()),
    };
    reply::json(&mut work.parts, request.view(), status, &body);
    request.record.status = status;
    request.record.first_byte_us = request.since(core);
    down.send(core, &mut work.parts, plane.snapshot.downstream().write_ms)
        .await?;
    Ok(())
}
