//! What the three contracts share: raw messages become stamped ones, go into the inbox together, and
//! are reported one by one.

use std::collections::BTreeMap;
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
use crate::queue::intake::{self, RefusalReason};
use crate::queue::{AcceptError, Accepted, NewMessage};
use crate::segment::message::{InvalidMessage, MessageType};
use crate::segment::value::Object;
use crate::telemetry;

/// How many times the largest body the messages of a batch may come to when the envelope's `context`
/// has been merged into each: without a bound ten thousand messages would multiply it.
const STORED_BODIES_MAX: usize = 4;

/// What is known of the messages of a request.
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
}

/// The messages of a request, each judged.
pub(super) struct Judged {
    messages: Vec<NewMessage>,
    refused: Vec<Refused>,
    body_bytes: usize,
    started: Instant,
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

/// Judges one message: its refusal is the answer.
pub(super) fn judge_one(
    state: &HttpState,
    intake: &Intake<'_>,
    raw: &[u8],
) -> Result<Judged, ApiError> {
    let started = Instant::now();
    let read = new_message(state, intake, &Object::new(), raw, state.0.clock.now());
    let message = read.map_err(|refusal| {
        let refusal = Refusal::from(refusal);
        count_refused(intake.source, &refusal);
        warn!(
            source = intake.source.name,
            endpoint = intake.endpoint,
            code = refusal.error.code,
            "refused"
        );
        refusal.error
    })?;
    Ok(Judged { messages: vec![message], refused: Vec::new(), body_bytes: raw.len(), started })
}

/// Judges a batch: the good messages are kept, the bad ones are named in the answer. `shared` is what
/// counts for each of them.
pub(super) fn judge_batch(
    state: &HttpState,
    intake: &Intake<'_>,
    raw: &[&[u8]],
    shared: &Object,
    body_bytes: usize,
) -> Judged {
    let started = Instant::now();
    let now = state.0.clock.now();
    let mut room = Room {
        left: STORED_BODIES_MAX.saturating_mul(state.0.limits.body_bytes_max),
        shared_bytes: shared.iter().map(|(_, value)| value.to_stored_json().len()).sum(),
    };
    let mut messages = Vec::with_capacity(raw.len());
    let mut refused = Vec::new();
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, raw) in raw.iter().enumerate() {
        match room.take(raw, |raw| new_message(state, intake, shared, raw, now)) {
            Ok(message) => messages.push(message),
            Err(refusal) => {
                count_refused(intake.source, &refusal);
                let ApiError { code, message, .. } = refusal.error;
                *codes.entry(code).or_default() += 1;
                refused.push(Refused { index, code, message });
            }
        }
    }
    if !refused.is_empty() {
        warn!(
            source = intake.source.name,
            endpoint = intake.endpoint,
            messages = refused.len(),
            ?codes,
            "refused"
        );
    }
    Judged { messages, refused, body_bytes, started }
}

/// What the messages of a batch may still come to, once the envelope has been merged into each.
struct Room {
    left: usize,
    /// What the envelope adds to each.
    shared_bytes: usize,
}

impl Room {
    /// Reads a message if it has room. Merging is what costs memory and time, so it is paid for
    /// before it is done, also for a message that is refused after it.
    fn take(
        &mut self,
        raw: &[u8],
        read: impl FnOnce(&[u8]) -> Result<NewMessage, intake::Refusal>,
    ) -> Result<NewMessage, Refusal> {
        let due = raw.len().saturating_add(self.shared_bytes);
        self.pay(due)?;
        let message = read(raw).map_err(|refusal| {
            if !is_merged(&refusal.reason) {
                self.left += due;
            }
            Refusal::from(refusal)
        })?;
        // Times are added, and what is no UTF-8 grows.
        self.pay(message.payload.len().saturating_sub(due))?;
        Ok(message)
    }

    fn pay(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| Refusal {
            error: ApiError::too_large(
                "with the batch's `context` merged into each message the batch is too large: send smaller batches, or a smaller `context`",
            ),
            kind: None,
        })?;
        Ok(())
    }
}

/// Whether the envelope was merged into a message before it was refused.
fn is_merged(reason: &RefusalReason) -> bool {
    match reason {
        RefusalReason::TooLarge { .. }
        | RefusalReason::NotJson(_)
        | RefusalReason::Invalid(InvalidMessage::NotAnObject) => false,
        RefusalReason::Invalid(_) | RefusalReason::LongId | RefusalReason::DeleteNotAllowed => true,
    }
}

/// A refused message: why, and what type it said it was.
struct Refusal {
    error: ApiError,
    kind: Option<MessageType>,
}

impl From<intake::Refusal> for Refusal {
    fn from(refusal: intake::Refusal) -> Self {
        Self { error: ApiError::refusal(&refusal.reason), kind: refusal.kind }
    }
}

fn new_message(
    state: &HttpState,
    intake: &Intake<'_>,
    shared: &Object,
    raw: &[u8],
    now: Timestamp,
) -> Result<NewMessage, intake::Refusal> {
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
        envelope: shared,
        message_bytes_max: state.0.limits.message_bytes_max,
        takes_delete: public.is_none_or(|public| public.allows_delete),
    };
    let new_id = || format!("segment-loops-{}", uuid::Uuid::now_v7());
    read.read(raw, now, new_id)
}

fn count_refused(source: &Source, refusal: &Refusal) {
    let kind = refusal.kind.map_or("unknown", MessageType::as_str);
    counter!(telemetry::MESSAGES_REFUSED, "source" => source.name.clone(), "type" => kind, "code" => refusal.error.code)
        .increment(1);
}

/// Stores what was judged good, and answers.
pub(super) async fn store(state: &HttpState, intake: &Intake<'_>, judged: Judged) -> Response {
    let Judged { messages, refused, body_bytes: bytes, started } = judged;
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
            return intake.contract.answer(intake.contract.not_soon(
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

async fn accept(
    state: &HttpState,
    messages: Vec<NewMessage>,
) -> Result<Vec<Accepted>, AcceptError> {
    crate::crash::point("accept.before");
    let accepted = state.0.inbox.accept(messages).await;
    crate::crash::point("accept.after");
    accepted
}

fn not_stored(intake: &Intake<'_>, fault: &AcceptError) -> Response {
    match fault {
        AcceptError::Busy => {
            warn!(
                source = intake.source.name,
                endpoint = intake.endpoint,
                "the queue is busy; the sender was told to come again"
            );
        }
        AcceptError::Full | AcceptError::Unavailable(_) => error!(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Class;
    use crate::segment::decode::DecodeError;
    use crate::segment::{LaneKey, MessageHash, PersonHash};

    fn message(payload_bytes: usize) -> NewMessage {
        NewMessage {
            source: "s".to_owned(),
            destination: "d".to_owned(),
            message_id: "m".to_owned(),
            message_hash: MessageHash::of("m"),
            kind: MessageType::Track,
            class: Class::Bulk,
            lane: LaneKey(0),
            person: PersonHash(0),
            received_at: Timestamp::UNIX_EPOCH,
            payload: vec![0; payload_bytes].into(),
            warnings: Vec::new(),
        }
    }

    fn refusal(reason: RefusalReason) -> intake::Refusal {
        intake::Refusal { reason, kind: None }
    }

    /// How many of a hundred messages of 10 bytes are read, and how many are taken, where there is
    /// room for ten of them with what they share.
    fn read_and_taken(
        mut read: impl FnMut() -> Result<NewMessage, intake::Refusal>,
    ) -> (usize, usize) {
        let mut room = Room { left: 1_000, shared_bytes: 90 };
        let mut reads = 0;
        let mut once = |_: &[u8]| {
            reads += 1;
            read()
        };
        let taken = (0..100).filter(|_| room.take(&[b' '; 10], &mut once).is_ok()).count();
        (reads, taken)
    }

    #[test]
    fn no_more_is_merged_than_there_is_room_for() {
        // As long as was to be expected, shorter since its own keys win, and longer.
        assert_eq!(read_and_taken(|| Ok(message(100))), (10, 10));
        assert_eq!(read_and_taken(|| Ok(message(1))), (10, 10));
        assert_eq!(read_and_taken(|| Ok(message(200))), (5, 5));
        // What is refused after it was merged has cost as much; what is refused before costs nothing.
        let nobody = || Err(refusal(RefusalReason::Invalid(InvalidMessage::Nobody)));
        assert_eq!(read_and_taken(nobody), (10, 0));
        let not_json = || {
            let problem = "a value should be here";
            Err(refusal(RefusalReason::NotJson(DecodeError { at: 0, problem })))
        };
        assert_eq!(read_and_taken(not_json), (100, 0));
    }
}
