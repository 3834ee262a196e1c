//! What the three contracts share: raw messages become stamped ones, go into the inbox together, and
//! are reported one by one.

use std::net::IpAddr;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use metrics::counter;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};
use utoipa::ToSchema;

use super::error::{ApiError, Contract};
use super::{HttpState, Source};
use crate::queue::intake;
use crate::queue::{Accepted, NewMessage, QueueError};
use crate::segment::message::MessageType;
use crate::segment::value::Object;
use crate::telemetry;

/// How many times the largest body the messages of a batch may come to when the envelope's `context`
/// has been merged into each: without a bound ten thousand messages would multiply it.
const STORED_BODIES_MAX: usize = 4;

/// Raw messages of one request.
pub(super) struct Intake<'a> {
    /// For the log: the path by its pattern.
    pub(super) endpoint: &'static str,
    pub(super) contract: Contract,
    pub(super) source: &'a Source,
    pub(super) is_bulk: bool,
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
    let source = intake.source;
    let public = source.public.as_ref().filter(|_| intake.is_by_key);
    let read = intake::Intake {
        source: &source.name,
        destination: &source.destination,
        is_bulk: intake.is_bulk,
        kind: intake.kind,
        is_from_segment: intake.is_from_segment,
        is_sent_now: true,
        ip: intake.sender.filter(|_| source.stamps_ip),
        envelope: intake.envelope,
        message_bytes_max: state.0.limits.message_bytes_max,
        takes_delete: public.is_none_or(|public| public.allows_delete),
    };
    let new_id = || format!("segment-loops-{}", uuid::Uuid::now_v7());
    read.read(raw, now, new_id).map_err(|refusal| Refusal {
        error: ApiError::refusal(&refusal.reason),
        kind: refusal.kind,
    })
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
        timeout(state.0.limits.ack_timeout, accept(state, messages)).await
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

async fn accept(state: &HttpState, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, QueueError> {
    crate::crash::point("accept.before");
    let accepted = state.0.inbox.accept(messages).await;
    crate::crash::point("accept.after");
    accepted
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
        QueueError::Full | QueueError::Unavailable(_) | QueueError::Fenced => error!(
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
