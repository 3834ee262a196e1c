//! What the three contracts share: raw messages become stamped ones, go into the inbox together, and
//! are reported one by one.

use std::net::IpAddr;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use jiff::Timestamp;
use metrics::counter;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};
use utoipa::ToSchema;

use super::error::{ApiError, Contract};
use super::{HttpState, Source};
use crate::queue::{Accepted, Class, NewMessage, QueueError};
use crate::segment::batch::merge_envelope;
use crate::segment::decode::decode;
use crate::segment::message::{Message, MessageType};
use crate::segment::stamp::{Stamp, stamp};
use crate::segment::value::Object;
use crate::segment::{MessageHash, Value};
use crate::telemetry;

/// The longest message id. SDKs' are below 100 characters; ids are kept for as long as records are.
const MESSAGE_ID_BYTES_MAX: usize = 1_024;

/// How many times the largest body the messages of a batch may come to when the envelope's `context`
/// has been merged into each: without a bound ten thousand messages would multiply it.
const STORED_BODIES_MAX: usize = 4;

/// Raw messages of one request.
pub(super) struct Intake<'a> {
    /// For the log: the path by its pattern.
    pub(super) endpoint: &'static str,
    pub(super) contract: Contract,
    pub(super) source: &'a Source,
    pub(super) class: Class,
    /// The type by the path.
    pub(super) kind: Option<MessageType>,
    /// Whether Segment stamped the messages already.
    pub(super) is_from_segment: bool,
    /// Whether a write key is all that came with the request.
    pub(super) is_by_key: bool,
    /// The address of the sender, where it is that of the person the messages are about.
    pub(super) sender: Option<IpAddr>,
    /// What stands beside the batch.
    pub(super) envelope: &'a Object,
}

/// A message that was not taken, as the answer to a batch tells it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Refused {
    /// Its place in the batch, from 0.
    index: usize,
    /// For programs: one of a few fixed words.
    code: &'static str,
    /// For people: what was wrong, what is allowed, what to do.
    message: String,
}

/// Takes one message: its refusal is the answer.
pub(super) async fn take_one(state: &HttpState, intake: Intake<'_>, raw: &[u8]) -> Response {
    let started = Instant::now();
    let made = new_message(state, &intake, raw, state.0.clock.now());
    match made {
        Ok(message) => store(state, &intake, vec![message], Vec::new(), raw.len(), started).await,
        Err(refusal) => {
            count_refused(intake.source, &refusal);
            warn!(
                source = intake.source.name,
                endpoint = intake.endpoint,
                code = refusal.error.code,
                "refused"
            );
            intake.contract.answer(refusal.error)
        }
    }
}

/// Takes a batch: the good messages are kept, the bad ones are named in the answer.
pub(super) async fn take_batch(
    state: &HttpState,
    intake: Intake<'_>,
    raw: &[&[u8]],
    body_bytes: usize,
) -> Response {
    let started = Instant::now();
    let now = state.0.clock.now();
    let mut messages = Vec::with_capacity(raw.len());
    let mut refused = Vec::new();
    let mut room = STORED_BODIES_MAX.saturating_mul(state.0.limits.body_bytes_max);
    for (index, raw) in raw.iter().enumerate() {
        let made = new_message(state, &intake, raw, now);
        match made.and_then(|message| within(&mut room, message)) {
            Ok(message) => messages.push(message),
            Err(refusal) => {
                count_refused(intake.source, &refusal);
                let ApiError { code, message, .. } = refusal.error;
                warn!(
                    source = intake.source.name,
                    endpoint = intake.endpoint,
                    index,
                    code,
                    "refused"
                );
                refused.push(Refused { index, code, message });
            }
        }
    }
    store(state, &intake, messages, refused, body_bytes, started).await
}

/// Takes a message's length from the room that is left in its batch.
fn within(room: &mut usize, message: NewMessage) -> Result<NewMessage, Refusal> {
    match room.checked_sub(message.payload.len()) {
        Some(left) => {
            *room = left;
            Ok(message)
        }
        None => Err(Refusal {
            error: ApiError::too_large(
                "with the batch's `context` merged into each message the batch is too large: send smaller batches, or a smaller `context`",
            ),
            kind: Some(message.kind),
        }),
    }
}

/// A refused message: why, and what type it said it was.
struct Refusal {
    error: ApiError,
    kind: Option<MessageType>,
}

fn new_message(
    state: &HttpState,
    intake: &Intake<'_>,
    raw: &[u8],
    now: Timestamp,
) -> Result<NewMessage, Refusal> {
    let limit = state.0.limits.message_bytes_max;
    let refuse = |error| Refusal { error, kind: intake.kind };
    if raw.len() > limit {
        return Err(refuse(ApiError::too_large(format!(
            "the message has more than {limit} bytes: send less, or raise server.message_bytes_max"
        ))));
    }
    let value = decode(raw)
        .map_err(|error| refuse(ApiError::bad_request("bad_json", error.to_string())))?;
    let Value::Object(mut object) = value else {
        let invalid = crate::segment::message::InvalidMessage::NotAnObject;
        return Err(refuse(ApiError::invalid(&invalid)));
    };
    merge_envelope(&mut object, intake.envelope);
    let given = object.get("type").and_then(Value::as_str).and_then(MessageType::parse);
    let stamp_input = Stamp {
        received_at: now,
        kind: intake.kind,
        sent_at: intake.envelope.get("sentAt"),
        is_from_segment: intake.is_from_segment,
        ip: intake.sender.filter(|_| intake.source.stamps_ip),
    };
    let new_id = || format!("segment-loops-{}", uuid::Uuid::now_v7());
    let message = stamp(object, stamp_input, new_id).map_err(|invalid| Refusal {
        error: ApiError::invalid(&invalid),
        kind: given.or(intake.kind),
    })?;
    if message.message_id().len() > MESSAGE_ID_BYTES_MAX {
        let text = format!("`messageId` has more than {MESSAGE_ID_BYTES_MAX} bytes");
        return Err(Refusal {
            error: ApiError::bad_request("long_id", text),
            kind: Some(message.kind()),
        });
    }
    if message.kind() == MessageType::Delete && !takes_delete(intake) {
        return Err(Refusal { error: delete_not_allowed(), kind: Some(MessageType::Delete) });
    }
    Ok(record(intake, &message, now))
}

/// With a public write key alone, anyone could delete anybody's contact.
fn takes_delete(intake: &Intake<'_>) -> bool {
    let public = intake.source.public.as_ref().filter(|_| intake.is_by_key);
    public.is_none_or(|public| public.allows_delete)
}

fn delete_not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "delete_not_allowed",
        "the write key of this source is public, so that it takes no messages of type delete: send them with the key of another source, or set sources.NAME.allow_delete",
    )
}

fn record(intake: &Intake<'_>, message: &Message, now: Timestamp) -> NewMessage {
    NewMessage {
        source: intake.source.name.clone(),
        destination: intake.source.destination.clone(),
        message_id: message.message_id().to_owned(),
        message_hash: MessageHash::of(message.message_id()),
        kind: message.kind(),
        class: intake.class,
        lane: message.lane(),
        person: message.person(),
        received_at: now,
        payload: Bytes::from(message.value().to_stored_json()),
    }
}

fn count_refused(source: &Source, refusal: &Refusal) {
    let kind = refusal.kind.map_or("unknown", MessageType::as_str);
    counter!(telemetry::MESSAGES_REFUSED, "source" => source.name.clone(), "type" => kind, "code" => refusal.error.code)
        .increment(1);
}

async fn store(
    state: &HttpState,
    intake: &Intake<'_>,
    messages: Vec<NewMessage>,
    refused: Vec<Refused>,
    bytes: usize,
    started: Instant,
) -> Response {
    let kinds: Vec<MessageType> = messages.iter().map(|message| message.kind).collect();
    for message in &messages {
        debug!(source = intake.source.name, message_id = message.message_id, "taken");
    }
    let stored = if messages.is_empty() {
        Ok(Ok(Vec::new()))
    } else {
        timeout(state.0.limits.ack_timeout, state.0.inbox.accept(messages)).await
    };
    let accepted = match stored {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(fault)) => return not_stored(intake, &fault),
        Err(_) => {
            warn!(
                source = intake.source.name,
                endpoint = intake.endpoint,
                "storing takes too long; the sender was told to come again"
            );
            return intake.contract.answer(intake.contract.not_now(
                "storing takes too long at the moment: send the request again after Retry-After",
            ));
        }
    };
    let new = count_accepted(intake.source, &kinds, &accepted);
    info!(
        source = intake.source.name,
        endpoint = intake.endpoint,
        messages = kinds.len(),
        new,
        duplicate = kinds.len() - new,
        refused = refused.len(),
        bytes,
        duration_ms = started.elapsed().as_millis() as u64,
        "accepted"
    );
    success(&refused)
}

fn not_stored(intake: &Intake<'_>, fault: &QueueError) -> Response {
    match fault {
        QueueError::Busy => {
            warn!(
                source = intake.source.name,
                endpoint = intake.endpoint,
                "the queue is busy; the sender was told to come again"
            );
        }
        QueueError::Unavailable(_) | QueueError::Fenced => error!(
            source = intake.source.name,
            endpoint = intake.endpoint,
            error = fault as &dyn std::error::Error,
            "messages cannot be stored; the sender was told to come again"
        ),
    }
    intake.contract.answer(intake.contract.queue_fault(fault))
}

/// Counts what was taken; answers how many were new.
fn count_accepted(source: &Source, kinds: &[MessageType], accepted: &[Accepted]) -> usize {
    let mut new = 0;
    for (kind, accepted) in kinds.iter().zip(accepted) {
        let name = match accepted {
            Accepted::New => {
                new += 1;
                telemetry::MESSAGES_ACCEPTED
            }
            Accepted::Duplicate => telemetry::MESSAGES_DUPLICATE,
        };
        counter!(name, "source" => source.name.clone(), "type" => kind.as_str()).increment(1);
    }
    new
}

/// All messages are on stable storage, but for those that are named as refused.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Success<'a> {
    /// `true`.
    success: bool,
    /// The messages of a batch that were not taken; left out where there are none.
    #[serde(skip_serializing_if = "<[Refused]>::is_empty")]
    #[schema(required = false)]
    refused: &'a [Refused],
}

/// `200 {"success": true}`: the one answer that every SDK takes for success.
fn success(refused: &[Refused]) -> Response {
    Json(Success { success: true, refused }).into_response()
}
