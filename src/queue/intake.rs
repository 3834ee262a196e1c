//! The single entry point for messages: turns raw bytes into a stamped record for the inbox, or rejects them with a
//! reason. The same rules apply to messages from HTTP and from files.

use std::net::IpAddr;

use bytes::Bytes;
use jiff::Timestamp;

use super::message::NewMessage;
use super::order::Class;
use crate::js::decode::DecodeError;
use crate::js::{Object, Value};
use crate::segment::batch::merge_envelope;
use crate::segment::message::{InvalidMessage, Message, MessageType};
use crate::segment::repair::read_message;
use crate::segment::stamp::{Stamp, Stamped, stamp};
use crate::segment::{Digests, LaneKey, PersonDigest, PersonIdKind};
use crate::telemetry::TraceContext;

/// The longest message id, in bytes. SDKs use fewer than 100 characters; ids are kept as long as records.
pub const MESSAGE_ID_BYTES_MAX: usize = 1_024;

/// The bytes that stamping usually adds to a message: two timestamps with their member names.
const STAMP_BYTES: usize = 128;

/// The context in which messages are read: what is known about them beforehand.
#[derive(Debug, Clone, Copy)]
pub struct Intake<'a> {
    /// Makes the digests by which the store finds messages and persons.
    pub digests: &'a Digests,
    /// Name of the source.
    pub source: &'a str,
    /// Name of the destination that the source delivers to.
    pub destination: &'a str,
    /// Whether the messages are a bulk load.
    pub is_bulk: bool,
    /// The type that the path implies, for messages that have none.
    pub kind: Option<MessageType>,
    /// Whether Segment stamped the messages already.
    pub is_from_segment: bool,
    /// Whether `sentAt` is the time at which the message was sent to us, so that it can correct for the
    /// sender's clock.
    pub is_sent_now: bool,
    /// The sender's address, if it is to be kept.
    pub ip: Option<IpAddr>,
    /// The most bytes of a raw message.
    pub message_bytes_max: usize,
    /// Whether messages of type `delete` are accepted.
    pub takes_delete: bool,
    /// The trace in which the messages are accepted, if there is one.
    pub trace: Option<TraceContext>,
}

/// Why a message is rejected. Senders see these texts, which never contain any part of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is too long.
    #[error(
        "the message has more than {bytes_max} bytes: send less, or raise server.message_bytes_max"
    )]
    TooLarge {
        /// The most bytes allowed.
        bytes_max: usize,
    },
    /// It is not JSON.
    #[error(transparent)]
    NotJson(DecodeError),
    /// It is JSON, but not a message.
    #[error(transparent)]
    Invalid(InvalidMessage),
    /// Its id is too long.
    #[error("`messageId` has more than {MESSAGE_ID_BYTES_MAX} bytes")]
    LongId,
    /// With a public write key alone, anyone could delete anybody's contact.
    #[error(
        "the write key of this source is public, so it does not accept messages of type delete: send them with the key of another source, or set sources.NAME.allow_delete"
    )]
    DeleteNotAllowed,
}

impl Rejection {
    /// Returns the reason as a fixed word, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Rejection::TooLarge { .. } => "too_large",
            Rejection::NotJson(_) => "bad_json",
            Rejection::Invalid(InvalidMessage::NotAnObject) => "not_an_object",
            Rejection::Invalid(InvalidMessage::NoType) => "no_type",
            Rejection::Invalid(InvalidMessage::UnknownType) => "unknown_type",
            Rejection::Invalid(InvalidMessage::Nobody | InvalidMessage::UserId) => "nobody",
            Rejection::LongId => "long_id",
            Rejection::DeleteNotAllowed => "delete_not_allowed",
        }
    }
}

impl Intake<'_> {
    /// Turns a raw message into a record. `envelope` holds the members beside the batch; `new_id` makes an id for a
    /// message that has none.
    ///
    /// ```
    /// use jiff::Timestamp;
    /// use segment_loops::js::Object;
    /// use segment_loops::queue::Class;
    /// use segment_loops::queue::intake::{Intake, Rejection};
    /// use segment_loops::segment::{Digests, MessageType, PersonIdKind};
    ///
    /// let digests = Digests::new(&[7; 32]);
    /// let intake = Intake {
    ///     digests: &digests,
    ///     source: "app",
    ///     destination: "default",
    ///     is_bulk: false,
    ///     kind: Some(MessageType::Track),
    ///     is_from_segment: false,
    ///     is_sent_now: true,
    ///     ip: None,
    ///     message_bytes_max: 32 * 1024,
    ///     takes_delete: false,
    ///     trace: None,
    /// };
    /// let read = |raw: &[u8]| {
    ///     intake.read(raw, &Object::new(), Timestamp::UNIX_EPOCH, || "made-up-id".to_owned())
    /// };
    /// let message = read(br#"{"userId": "u1", "event": "Signed Up"}"#)?;
    /// assert_eq!(message.message_id, "made-up-id");
    /// assert_eq!(message.class, Class::Event);
    /// assert_eq!(message.lane, digests.person(PersonIdKind::User, "u1").into());
    ///
    /// assert_eq!(read(br#"{"event": "Signed Up"}"#).unwrap_err().code(), "nobody");
    /// assert_eq!(read(br#"{"type": "delete", "userId": "u1"}"#).unwrap_err(), Rejection::DeleteNotAllowed);
    /// # Ok::<(), Rejection>(())
    /// ```
    pub fn read(
        &self,
        raw: &[u8],
        envelope: &Object,
        received_at: Timestamp,
        new_id: impl FnOnce() -> String,
    ) -> Result<NewMessage, Rejection> {
        let bytes_max = self.message_bytes_max;
        if raw.len() > bytes_max {
            return Err(Rejection::TooLarge { bytes_max });
        }
        let Value::Object(mut object) = read_message(raw).map_err(Rejection::NotJson)? else {
            return Err(Rejection::Invalid(InvalidMessage::NotAnObject));
        };
        merge_envelope(&mut object, envelope);
        let stamp_input = Stamp {
            received_at,
            kind: self.kind,
            sent_at: envelope.get("sentAt"),
            is_from_segment: self.is_from_segment,
            is_sent_now: self.is_sent_now,
            ip: self.ip,
        };
        let Stamped { message, warnings } =
            stamp(object, stamp_input, new_id).map_err(Rejection::Invalid)?;
        if message.message_id().len() > MESSAGE_ID_BYTES_MAX {
            return Err(Rejection::LongId);
        }
        if message.kind() == MessageType::Delete && !self.takes_delete {
            return Err(Rejection::DeleteNotAllowed);
        }
        let mut payload = message.value().to_stored_json_of(raw.len() + STAMP_BYTES);
        // Merging the envelope may have made the payload outgrow its buffer, which then doubled.
        if payload.capacity() - payload.len() > STAMP_BYTES.max(payload.len() / 4) {
            payload.shrink_to_fit();
        }
        Ok(self.record(&message, Bytes::from(payload), warnings, received_at))
    }

    fn record(
        &self,
        message: &Message,
        payload: Bytes,
        warnings: Vec<String>,
        received_at: Timestamp,
    ) -> NewMessage {
        let digests = self.digests;
        let mut persons = message.person_ids().map(|(kind, id)| (kind, digests.person(kind, &id)));
        // Stamping rejects a message without any id of a person, so the default is never used.
        let lane = persons.next().map_or(LaneKey(0), |(_, order_key)| order_key.into());
        let (mut anonymous, mut email): (Option<PersonDigest>, Option<PersonDigest>) = (None, None);
        for (kind, digest) in persons {
            match kind {
                PersonIdKind::User => {}
                PersonIdKind::Anonymous => anonymous = Some(digest),
                PersonIdKind::Email => email = Some(digest),
            }
        }
        NewMessage {
            source: self.source.to_owned(),
            destination: self.destination.to_owned(),
            message_id: message.message_id().to_owned(),
            message_hash: digests.message_id(message.message_id()),
            kind: message.kind(),
            class: if self.is_bulk { Class::Bulk } else { Class::of_live(message.kind()) },
            lane,
            anonymous,
            email,
            event: message.event().map(str::to_owned),
            received_at,
            payload,
            warnings,
            trace: self.trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_its_id_may_be_as_long_as_their_bounds_and_no_longer() {
        let digests = Digests::new(&[7; 32]);
        let read = |id_bytes: usize, message_bytes_max: fn(usize) -> usize| {
            let id = "x".repeat(id_bytes);
            let raw = format!(r#"{{"type":"track","userId":"u","event":"E","messageId":"{id}"}}"#);
            let intake = Intake {
                digests: &digests,
                source: "app",
                destination: "default",
                is_bulk: false,
                kind: None,
                is_from_segment: false,
                is_sent_now: false,
                ip: None,
                message_bytes_max: message_bytes_max(raw.len()),
                takes_delete: false,
                trace: None,
            };
            let now = Timestamp::UNIX_EPOCH;
            intake.read(raw.as_bytes(), &Object::new(), now, String::new).map(|_| ())
        };
        assert_eq!(read(MESSAGE_ID_BYTES_MAX, |bytes| bytes), Ok(()));
        assert_eq!(read(MESSAGE_ID_BYTES_MAX + 1, |bytes| bytes), Err(Rejection::LongId));
        let too_large = read(1, |bytes| bytes - 1).unwrap_err();
        assert_eq!(too_large.code(), "too_large");
    }
}
