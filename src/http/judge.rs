//! Judges the messages of a request one by one: good messages are kept, and bad ones are listed in the response.

use super::HttpState;
use super::error::ApiError;
use super::ingest::Visit;
use super::judged::{Judged, RejectedMessage};
use crate::js::Object;
use crate::large::Turn;
use crate::queue::NewMessage;
use crate::queue::intake::{Intake, Rejection};
use crate::segment::batch::{Batch, Piece};
use crate::segment::message::InvalidMessage;

/// The total size of a batch's messages once the envelope's `context` was merged into each, as a multiple of the
/// largest body. Without this bound, ten thousand messages would multiply the `context`.
const STORED_BODIES_MAX: usize = 2;

impl Visit<'_> {
    /// Judges one message. If it is rejected, so is the request.
    pub(super) fn judge_one(
        &mut self,
        intake: &Intake<'_>,
        raw: &[u8],
    ) -> Result<Judged, ApiError> {
        let now = self.state.0.clock.now();
        let _turn = self.state.0.turns.block(raw.len());
        let message = intake.read(raw, &Object::new(), now, new_id)?;
        self.pay(&message)?;
        Ok(Judged { messages: vec![message], rejected: Vec::new() })
    }

    /// Judges a list of messages that share nothing.
    pub(super) fn judge_list(
        &mut self,
        intake: &Intake<'_>,
        raw: &[&[u8]],
    ) -> Result<Judged, ApiError> {
        let pieces = raw.iter().map(|bytes| Piece::Item { bytes, envelope: 0 });
        self.judge_items(intake, pieces, None)
    }

    /// Judges a batch. If it is so broken that no message can be kept, it is rejected as a whole.
    pub(super) fn judge_batch(
        &mut self,
        intake: &Intake<'_>,
        batch: &Batch<'_>,
    ) -> Result<Judged, ApiError> {
        let judged = self.judge_items(intake, batch.pieces.iter().copied(), Some(batch))?;
        if judged.messages.is_empty() && !batch.is_sound {
            let reason = judged.rejected.into_iter().next().map(|first| first.message);
            let reason = reason.unwrap_or_else(|| "it contains no message".to_owned());
            return Err(ApiError::bad_request(
                "bad_json",
                format!(
                    "nothing in the body can be accepted: {reason}; a batch is {{\"batch\": [message, …]}}"
                ),
            ));
        }
        Ok(judged)
    }

    /// Judges messages: good messages are kept, and bad ones are listed in the response. `batch` has the parts that
    /// they share.
    fn judge_items<'p>(
        &mut self,
        intake: &Intake<'_>,
        pieces: impl Iterator<Item = Piece<'p>>,
        batch: Option<&Batch<'_>>,
    ) -> Result<Judged, ApiError> {
        let now = self.state.0.clock.now();
        let bodies = STORED_BODIES_MAX.saturating_mul(self.state.0.limits.body_bytes_max);
        // A batch may not be larger than the bytes an address may store in a minute: it would never be accepted.
        let of_address =
            self.public().map_or(usize::MAX, |public| public.bytes.per_minute() as usize);
        let mut room = Room { left: bodies.min(of_address) };
        let mut shared = Shared::default();
        let mut judged = Judged::default();
        for (index, piece) in pieces.enumerate() {
            let read = match piece {
                Piece::Item { bytes, envelope } => {
                    shared.pass_to(envelope, batch, self.state);
                    let _turn = match shared.turn {
                        Some(_) => None,
                        None => self.state.0.turns.block(bytes.len()),
                    };
                    room.take(bytes.len() + shared.bytes, || {
                        intake.read(bytes, &shared.object, now, new_id)
                    })
                }
                Piece::Broken { at } => {
                    let text = format!(
                        "there is no whole message at byte {at} of the body: it was cut off or damaged in transit"
                    );
                    Err(ApiError::bad_request("bad_json", text))
                }
            };
            match read {
                Ok(message) => {
                    self.pay(&message)?;
                    judged.messages.push(message);
                }
                Err(ApiError { code, message, .. }) => {
                    judged.rejected.push(RejectedMessage { index, code, message });
                }
            }
        }
        Ok(judged)
    }
}

/// Returns an id for a message that has none.
fn new_id() -> String {
    format!("segment-loops-{}", uuid::Uuid::now_v7())
}

/// The parts that the current envelope shares with its messages. Envelopes come one after another, and only one is kept
/// decoded: a damaged body may have thousands.
#[derive(Default)]
struct Shared {
    envelope: usize,
    object: Object,
    /// How many bytes the envelope adds to each message.
    bytes: usize,
    /// Held as long as a large envelope is decoded here.
    turn: Option<Turn>,
}

impl Shared {
    fn pass_to(&mut self, envelope: usize, batch: Option<&Batch<'_>>, state: &HttpState) {
        // Messages without an envelope share nothing.
        let Some(batch) = batch.filter(|_| envelope != self.envelope) else { return };
        // Drop the decoded value before its turn ends.
        self.object = Object::new();
        self.turn = None;
        self.turn = state.0.turns.block(batch.shared_bytes(envelope));
        self.object = batch.shared(envelope);
        self.bytes = self.object.iter().map(|(_, value)| value.to_stored_json().len()).sum();
        self.envelope = envelope;
    }
}

/// How many more bytes the messages of a batch may have in all, once the envelope has been merged into each.
struct Room {
    left: usize,
}

impl Room {
    /// Reads a message of an expected `due` bytes, if there is room. Merging costs memory and time, so it is paid for
    /// beforehand, even for a message that is then rejected.
    fn take(
        &mut self,
        due: usize,
        read: impl FnOnce() -> Result<NewMessage, Rejection>,
    ) -> Result<NewMessage, ApiError> {
        self.pay(due)?;
        let message = read().map_err(|rejection| {
            if !is_merged(&rejection) {
                self.left += due;
            }
            ApiError::from(rejection)
        })?;
        // Stamping adds times, and bytes that are not UTF-8 grow.
        self.pay(message.payload.len().saturating_sub(due))?;
        Ok(message)
    }

    fn pay(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            ApiError::too_large(
                "with the batch's `context` merged into each message, the batch is too large: send smaller batches, or a smaller `context`",
            )
        })?;
        Ok(())
    }
}

/// Returns whether the envelope was merged into a message before the message was rejected.
fn is_merged(rejection: &Rejection) -> bool {
    match rejection {
        Rejection::TooLarge { .. }
        | Rejection::NotJson(_)
        | Rejection::Invalid(InvalidMessage::NotAnObject) => false,
        Rejection::Invalid(_) | Rejection::LongId | Rejection::DeleteNotAllowed => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    use crate::js::decode::DecodeError;
    use crate::queue::Class;
    use crate::segment::{LaneKey, MessageHash, MessageType};

    fn message(payload_bytes: usize) -> NewMessage {
        NewMessage {
            source: "s".to_owned(),
            destination: "d".to_owned(),
            message_id: "m".to_owned(),
            message_hash: MessageHash(0),
            kind: MessageType::Track,
            class: Class::Bulk,
            lane: LaneKey(0),
            anonymous: None,
            email: None,
            event: None,
            received_at: Timestamp::UNIX_EPOCH,
            payload: vec![0; payload_bytes].into(),
            warnings: Vec::new(),
            trace: None,
        }
    }

    /// Returns how many of a hundred messages of 10 bytes are read, and how many are taken, if there is room for ten
    /// with the parts that they share.
    fn read_and_taken(mut read: impl FnMut() -> Result<NewMessage, Rejection>) -> (usize, usize) {
        let mut room = Room { left: 1_000 };
        let mut reads = 0;
        let mut once = || {
            reads += 1;
            read()
        };
        let taken = (0..100).filter(|_| room.take(100, &mut once).is_ok()).count();
        (reads, taken)
    }

    #[test]
    fn no_more_is_merged_than_there_is_room_for() {
        // As long as expected; shorter, because a message's own keys win; and longer.
        assert_eq!(read_and_taken(|| Ok(message(100))), (10, 10));
        assert_eq!(read_and_taken(|| Ok(message(1))), (10, 10));
        assert_eq!(read_and_taken(|| Ok(message(200))), (5, 5));
        // A message that is rejected after merging costs as much as any other. A message that is rejected before that
        // costs nothing.
        let nobody = || Err(Rejection::Invalid(InvalidMessage::Nobody));
        assert_eq!(read_and_taken(nobody), (10, 0));
        let not_json = || {
            let problem = "expected a value";
            Err(Rejection::NotJson(DecodeError { at: 0, problem }))
        };
        assert_eq!(read_and_taken(not_json), (100, 0));
    }
}
