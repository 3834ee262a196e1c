//! The path from a request to the inbox, which all contracts share: the body is read, its messages are judged and
//! stored together, and every rejection is counted, logged and responded to.
//!
//! A handler finds the source, authenticates, and splits the body. [`Visit::take`] does the rest, so that no handler
//! can reject anything silently.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};
use utoipa::ToSchema;

use super::address;
use super::body::ReadBody;
use super::endpoint::Endpoint;
use super::error::ApiError;
use super::guess::Place;
use super::judged::{Judged, RejectedMessage};
use super::memory::{Account, NoRoom};
use super::{HttpState, Public, Source, body};
use crate::queue::intake::Intake;
use crate::queue::{AcceptError, Accepted, Committed, FreeSpace, NewMessage};
use crate::segment::message::MessageType;
use crate::telemetry::{self, Span, SpanKind, TraceContext};

/// How many messages of a batch count as one request. SDKs for browsers and apps send 10 or 20 at once.
const MESSAGES_PER_REQUEST: usize = 20;

/// The memory that a rejected message takes in a response: its record, its text, and its JSON.
const REJECTED_BYTES: usize = 512;

/// The parts of a request that handlers need.
pub(super) struct Arrival {
    /// Address of the sender; `None` if the server does not know the peer.
    pub(super) sender: Option<IpAddr>,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl FromRequest<HttpState> for Arrival {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &HttpState) -> Result<Self, Infallible> {
        let sender = address::sender_of(&request, &state.0.trusted_proxies);
        let (parts, body) = request.into_parts();
        Ok(Self { sender, method: parts.method, headers: parts.headers, body })
    }
}

/// A request that is being processed, without its body.
pub(super) struct Visit<'s> {
    pub(super) state: &'s HttpState,
    pub(super) endpoint: Endpoint,
    pub(super) sender: Option<IpAddr>,
    pub(super) headers: HeaderMap,
    /// The source that sends; `None` until it is known.
    pub(super) source: Option<&'s Source>,
    /// The memory that the request pays for: first its body, then its messages.
    pub(super) account: Account,
    /// The share of the sender's limits that the request used, if the key is public.
    pub(super) charged: Charged,
    /// The span of the request.
    pub(super) span: Span,
}

/// Requests and stored bytes that were taken from the limits of an address.
#[derive(Debug, Default)]
pub(super) struct Charged {
    requests: usize,
    bytes: usize,
}

/// All messages are on stable storage, except those listed as rejected.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Success {
    /// Always `true`.
    success: bool,
    /// The messages of a batch that were not accepted; missing if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    rejected: Vec<RejectedMessage>,
}

/// A success, and the account that pays for the response's body until the client has read it.
struct Answer {
    success: Success,
    account: Account,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self { success, account } = self;
        if success.rejected.is_empty() {
            return Json(success).into_response();
        }
        match serde_json::to_vec(&success) {
            Ok(text) => {
                let json = [(header::CONTENT_TYPE, "application/json")];
                (json, account.bind(text)).into_response()
            }
            // Serialization cannot fail: `Success` has no map.
            Err(_) => Json(success).into_response(),
        }
    }
}

/// Why a request is turned away as a whole.
enum TurnedAway {
    /// Because of its contents or its sender.
    Error(ApiError),
    /// Because the queue did not accept its messages.
    NotAccepted(AcceptError),
    /// Because storing its messages took too long.
    TooSlow,
}

impl From<ApiError> for TurnedAway {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl<'s> Visit<'s> {
    /// Processes a request. `greet` judges its headers before the body is read; `judge` judges the body, given the
    /// result of `greet`. Either sets [`Visit::source`] as soon as it is known.
    pub(super) async fn take<G>(
        state: &'s HttpState,
        endpoint: Endpoint,
        arrival: Arrival,
        greet: impl FnOnce(&mut Self) -> Result<G, ApiError>,
        judge: impl FnOnce(&mut Self, G, &[u8]) -> Result<Judged, ApiError>,
    ) -> Response {
        let Arrival { sender, method, headers, body } = arrival;
        let span = begin_span(state, endpoint, &method, &headers);
        let account = state.0.budget.account();
        let mut visit = Self {
            state,
            endpoint,
            sender,
            headers,
            source: None,
            account,
            charged: Charged::default(),
            span,
        };
        let response = match visit.work(body, greet, judge).await {
            Ok(success) => success.into_response(),
            Err(turned_away) => visit.turn_away(turned_away),
        };
        visit.end_span(response.status());
        response
    }

    async fn work<G>(
        &mut self,
        body: Body,
        greet: impl FnOnce(&mut Self) -> Result<G, ApiError>,
        judge: impl FnOnce(&mut Self, G, &[u8]) -> Result<Judged, ApiError>,
    ) -> Result<Answer, TurnedAway> {
        let greeted = greet(self)?;
        let contract = self.endpoint.contract();
        let account = self.take_account();
        let ReadBody { bytes: body, account } =
            body::read(body, &self.headers, self.state, contract, account).await?;
        self.account = account;
        let (started, body_bytes) = (Instant::now(), body.len());
        let large_bodies = &self.state.0.large_bodies;
        let judged = large_bodies.on(contract, body_bytes, || judge(self, greeted, &body)).await?;
        drop(body);
        self.admit_bytes(&judged)?;
        self.store(judged, body_bytes, started).await
    }

    /// Lets a sender that has shown a key or token of its source use the memory for known senders, unless the key is
    /// public: everyone knows a public key.
    pub(super) fn trust(&mut self) {
        if self.public().is_none() {
            self.account.set_known();
        }
    }

    fn take_account(&mut self) -> Account {
        std::mem::replace(&mut self.account, self.state.0.budget.account())
    }

    /// Pays for an accepted message, in addition to the body. Its sender is known by now, and can no longer upload
    /// slowly.
    pub(super) fn pay(&mut self, message: &NewMessage) -> Result<(), ApiError> {
        self.account.set_known();
        let paid = self.account.add_bytes(memory_of(message));
        paid.map_err(|NoRoom| self.endpoint.contract().no_room())
    }

    /// Returns the limits of a sender whose only credential is a public write key.
    pub(super) fn public(&self) -> Option<&'s Public> {
        let source = self.source?;
        let is_by_key = self.endpoint != Endpoint::Webhook || source.is_webhook_by_key();
        source.public.as_ref().filter(|_| is_by_key)
    }

    /// Fails if the address has sent too many requests in the last minute.
    pub(super) fn admit_requests(&mut self, messages: usize) -> Result<(), ApiError> {
        let requests = messages.div_ceil(MESSAGES_PER_REQUEST);
        let Some(public) = self.public() else { return Ok(()) };
        let taken = public.requests.take(self.sender, requests, Instant::now());
        taken.map_err(|wait_s| ApiError::too_many("address_requests_max", wait_s))?;
        self.charged.requests = requests;
        Ok(())
    }

    /// Fails if the address has stored too many bytes in the last minute. Messages count with their stored size:
    /// decompressed, each with the parts that its batch shares.
    fn admit_bytes(&mut self, judged: &Judged) -> Result<(), ApiError> {
        let bytes = judged.messages.iter().map(|message| message.payload.len()).sum();
        let Some(public) = self.public().filter(|_| bytes > 0) else { return Ok(()) };
        let taken = public.bytes.take(self.sender, bytes, Instant::now());
        taken.map_err(|wait_s| ApiError::too_many("address_bytes_max", wait_s))?;
        self.charged.bytes = bytes;
        Ok(())
    }

    /// Gives an address back its share for messages that were not stored, so that retries during an outage do not use
    /// up its limits.
    fn refund(&self) {
        let (Charged { requests, bytes }, now) = (&self.charged, Instant::now());
        let Some(public) = self.public() else { return };
        if *requests > 0 {
            public.requests.give_back(self.sender, *requests, now);
        }
        if *bytes > 0 {
            public.bytes.give_back(self.sender, *bytes, now);
        }
    }

    /// Fails if the disk has too little free space for messages of this kind. Messages that can wait are turned away
    /// first, then all but messages with a webhook signature or token, and in the end these too.
    fn admit_to_disk(&self) -> Result<(), AcceptError> {
        let is_signed = self.endpoint == Endpoint::Webhook
            && self.source.is_some_and(|source| !source.is_webhook_by_key());
        let is_bulk = self.endpoint == Endpoint::Import
            && self.source.is_some_and(|source| source.import_is_bulk);
        let can_wait = is_bulk || self.public().is_some();
        match self.state.0.inbox.free_space() {
            FreeSpace::Low if can_wait => Err(AcceptError::Reserved),
            FreeSpace::VeryLow if !is_signed => Err(AcceptError::Reserved),
            FreeSpace::Exhausted => Err(AcceptError::Reserved),
            FreeSpace::Ample | FreeSpace::Low | FreeSpace::VeryLow => Ok(()),
        }
    }

    /// Returns the properties that all messages of this request share.
    pub(super) fn intake(&self, source: &'s Source, kind: Option<MessageType>) -> Intake<'s> {
        Intake {
            digests: &self.state.0.digests,
            source: &source.name,
            destination: &source.destination,
            is_bulk: self.endpoint == Endpoint::Import && source.import_is_bulk,
            kind,
            is_from_segment: matches!(self.endpoint, Endpoint::Webhook | Endpoint::Destination),
            is_sent_now: true,
            // Requests from Segment come from its own servers.
            ip: match self.endpoint {
                Endpoint::Webhook | Endpoint::Destination => None,
                _ => self.sender.filter(|_| source.stamps_ip),
            },
            message_bytes_max: self.state.0.limits.message_bytes_max,
            takes_delete: self.public().is_none_or(|public| public.allows_delete),
            trace: self.span.context(),
        }
    }

    /// Stores the accepted messages.
    async fn store(
        &mut self,
        judged: Judged,
        bytes: usize,
        started: Instant,
    ) -> Result<Answer, TurnedAway> {
        let no_room = |NoRoom| self.endpoint.contract().no_room();
        let Judged { mut messages, rejected } = judged;
        // The response is paid for now: after storing, the request could no longer be refused.
        let mut of_answer = self.state.0.budget.account();
        of_answer.set_known();
        of_answer.hold(rejected.len() * REJECTED_BYTES).map_err(no_room)?;
        // The body is gone. The account is bound to the last message, so that all messages are paid for until the store
        // is done with them, even if the client does not wait that long.
        let stored = messages.iter().map(memory_of).sum();
        self.account.hold(stored).map_err(no_room)?;
        if let Some(last) = messages.last_mut() {
            let account = self.take_account();
            last.payload = account.bind(std::mem::take(&mut last.payload));
        }
        let kinds: Vec<MessageType> = messages.iter().map(|message| message.kind).collect();
        let received_at = messages.last().map(|message| message.received_at);
        for message in &messages {
            debug!(source = message.source, message_id = message.message_id, "accepting");
        }
        let mut accepted = Vec::new();
        self.span.set_number("segment_loops.messages", messages.len());
        if !messages.is_empty() {
            self.admit_to_disk().map_err(TurnedAway::NotAccepted)?;
            let accepting = timeout(self.state.0.limits.ack_timeout, self.accept(messages)).await;
            accepted =
                accepting.map_err(|_| TurnedAway::TooSlow)?.map_err(TurnedAway::NotAccepted)?;
        }
        // Rejections are reported only now: a batch that could not be stored is turned away as a whole, and will be
        // sent again.
        self.report_rejected(&rejected);
        if let Some(source) = self.source {
            let new = count_accepted(source, &kinds, &accepted, received_at);
            self.span.set_number("segment_loops.messages.new", new);
            info!(
                source = source.name,
                endpoint = self.endpoint.as_str(),
                messages = kinds.len(),
                new,
                duplicate = kinds.len() - new,
                rejected = rejected.len(),
                bytes,
                duration_ms = started.elapsed().as_millis() as u64,
                trace_id = self.span.trace_id().map(display),
                "accepted"
            );
        }
        Ok(Answer { success: Success { success: true, rejected }, account: of_answer })
    }

    async fn accept(&self, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, AcceptError> {
        let mut span = self.span.child(SpanKind::Internal, || "store commit".to_owned());
        span.set_number("segment_loops.messages", messages.len());
        crate::crash::point("accept.before");
        let committed = self.state.0.inbox.commit(messages).await;
        crate::crash::point("accept.after");
        match &committed {
            Ok(Committed { group_messages, waited, .. }) => {
                span.set_number("segment_loops.group.messages", *group_messages);
                let waited = usize::try_from(waited.as_micros()).unwrap_or(usize::MAX);
                span.set_number("segment_loops.group.waited_us", waited);
            }
            Err(_) => span.fail("not_accepted"),
        }
        Ok(committed?.accepted)
    }

    /// Ends the span of the request.
    fn end_span(&mut self, status: StatusCode) {
        let Self { source, span, .. } = self;
        if let Some(source) = source {
            span.set_text("segment_loops.source", &source.name);
            span.set_text("segment_loops.destination", &source.destination);
        }
        span.set_number("http.response.status_code", status.as_u16().into());
        if status.is_server_error() {
            span.fail(status.as_str());
        }
    }

    fn source_name(&self) -> &'s str {
        self.source.map_or("", |source| source.name.as_str())
    }

    fn report_rejected(&self, rejected: &[RejectedMessage]) {
        if rejected.is_empty() {
            return;
        }
        let mut codes: BTreeMap<&'static str, u64> = BTreeMap::new();
        for message in rejected {
            *codes.entry(message.code).or_default() += 1;
        }
        let (source, endpoint) = (self.source_name(), self.endpoint.as_str());
        let mut unlogged = None;
        for (code, messages) in &codes {
            let line = self.state.0.rejections.count(source, endpoint, code, *messages);
            unlogged = line.map(|more| unlogged.unwrap_or(0) + more).or(unlogged);
        }
        // One line for all of them, as long as any of the codes may have a line.
        if let Some(unlogged) = unlogged {
            warn!(source, endpoint, messages = rejected.len(), ?codes, unlogged, "rejected");
        }
    }

    /// Counts and logs a request that is turned away as a whole, and returns the response.
    fn turn_away(&self, turned_away: TurnedAway) -> Response {
        let contract = self.endpoint.contract();
        let (error, cause) = match turned_away {
            TurnedAway::Error(error) => return self.reject(error),
            TurnedAway::TooSlow => {
                // There is no refund, because the messages may still be stored.
                let text = "storing takes too long at the moment: send the request again after Retry-After";
                (contract.not_soon(text), "storing takes too long".to_owned())
            }
            TurnedAway::NotAccepted(cause) => {
                self.refund();
                (contract.not_accepted(&cause), telemetry::chain(&cause).to_string())
            }
        };
        let (source, endpoint, code) = (self.source_name(), self.endpoint.as_str(), error.code);
        // Only a warning: a store that does not work and a full disk have their own error lines.
        if let Some(unlogged) = self.state.0.rejections.count(source, endpoint, code, 1) {
            warn!(source, endpoint, code, error = %cause, unlogged, "rejected");
        }
        error.answer(contract)
    }

    /// Counts and logs a request that is rejected because of its contents or its sender, and returns the response.
    pub(super) fn reject(&self, error: ApiError) -> Response {
        let place = Place {
            source: self.source_name(),
            endpoint: self.endpoint.as_str(),
            sender: self.sender,
        };
        self.state.0.guesses.reject(place, error).answer(self.endpoint.contract())
    }
}

/// Begins the span of a request, within the sender's trace if its headers name one.
fn begin_span(state: &HttpState, endpoint: Endpoint, method: &Method, headers: &HeaderMap) -> Span {
    let parent = || TraceContext::from_traceparent(headers.get("traceparent")?.to_str().ok()?);
    let mut span = state.0.traces.server(|| format!("{method} {}", endpoint.as_str()), parent);
    span.set_text("http.request.method", method.as_str());
    span.set_text("http.route", endpoint.as_str());
    span
}

/// Counts accepted messages; returns how many were new.
fn count_accepted(
    source: &Source,
    kinds: &[MessageType],
    accepted: &[Accepted],
    received_at: Option<Timestamp>,
) -> usize {
    for (kind, accepted) in kinds.iter().zip(accepted) {
        source.counts.count(*kind, *accepted);
    }
    if let Some(at) = received_at {
        source.counts.note(at);
    }
    accepted.iter().filter(|accepted| **accepted == Accepted::New).count()
}

/// Returns the memory that a message takes until it is stored.
fn memory_of(message: &NewMessage) -> usize {
    /// A record without its payload: ids and digests.
    const RECORD_BYTES: usize = 512;
    message.payload.len() + message.payload.len() / 4 + RECORD_BYTES
}
