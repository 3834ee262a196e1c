//! A Segment message: one identify, track, page, screen, group, alias or delete call, as JSON.

use std::borrow::Cow;

use jiff::Timestamp;

use super::ids::PersonIdKind;
use crate::js::date::parse_date;
use crate::js::{Object, Value, is_space, number_text};

/// The type of call that a message records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is Segment's word for itself")]
pub enum MessageType {
    Identify,
    Track,
    Page,
    Screen,
    Group,
    Alias,
    Delete,
}

impl MessageType {
    /// All types, in the order in which documentation and errors name them.
    pub const ALL: [MessageType; 7] = [
        MessageType::Identify,
        MessageType::Track,
        MessageType::Page,
        MessageType::Screen,
        MessageType::Group,
        MessageType::Alias,
        MessageType::Delete,
    ];

    /// Returns its `type` field.
    pub fn as_str(self) -> &'static str {
        match self {
            MessageType::Identify => "identify",
            MessageType::Track => "track",
            MessageType::Page => "page",
            MessageType::Screen => "screen",
            MessageType::Group => "group",
            MessageType::Alias => "alias",
            MessageType::Delete => "delete",
        }
    }

    /// Parses a `type` field; `None` if it is not one of Segment's.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl std::fmt::Display for MessageType {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}

/// A message that can be accepted: it has a type, a message id, and a person that it is about.
///
/// Created by [`super::stamp::stamp`] when it arrives, and by [`Message::from_stored`] when it is read from the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    kind: MessageType,
    message_id: String,
    value: Value,
}

/// Why an object cannot be accepted as a message. Senders see these errors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// Not a JSON object.
    #[error(
        "a message must be a JSON object, such as {{\"type\": \"track\", \"userId\": \"…\", \"event\": \"…\"}}"
    )]
    NotAnObject,
    /// There is no `type`, or it is not a string.
    #[error("`type` is missing: give one of identify, track, page, screen, group, alias, delete")]
    NoType,
    /// The `type` is not one of Segment's.
    #[error(
        "`type` is not one of identify, track, page, screen, group, alias, delete (lower case)"
    )]
    UnknownType,
    /// The message has no id of a person.
    #[error(
        "the message names no person: give a non-empty `userId`, `anonymousId` or e-mail address (`traits.email`, `properties.email`, `context.traits.email` or `email`)"
    )]
    Nobody,
    /// The message has no id of a person, and its `userId` is something that cannot be one.
    #[error("`userId` must be a string or a number")]
    UserId,
}

impl Message {
    /// Checks an object and turns it into a message; `message_id` replaces the one that it has.
    pub fn new(mut object: Object, message_id: String) -> Result<Self, InvalidMessage> {
        let kind = match object.get("type") {
            Some(Value::String(text)) if !text.is_empty() => {
                MessageType::parse(text).ok_or(InvalidMessage::UnknownType)?
            }
            Some(Value::Null | Value::String(_)) | None => return Err(InvalidMessage::NoType),
            Some(_) => return Err(InvalidMessage::UnknownType),
        };
        object.insert("messageId", Value::String(message_id.clone()));
        let message = Self { kind, message_id, value: Value::Object(object) };
        let is_about_somebody = message.person_ids().next().is_some();
        match is_about_somebody {
            true => Ok(message),
            false => match message.value.get("userId") {
                None | Some(Value::Null | Value::String(_)) => Err(InvalidMessage::Nobody),
                Some(_) => Err(InvalidMessage::UserId),
            },
        }
    }

    /// Restores a message from its stored value.
    pub fn from_stored(value: Value) -> Result<Self, InvalidMessage> {
        let Value::Object(object) = value else {
            return Err(InvalidMessage::NotAnObject);
        };
        let message_id = id_text(object.get("messageId")).unwrap_or_default().into_owned();
        Self::new(object, message_id)
    }

    /// Returns its type.
    pub fn kind(&self) -> MessageType {
        self.kind
    }

    /// Returns its `messageId`.
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// Returns the whole message, which is always an object.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Returns when it happened: its `timestamp`, which was set when it was accepted, corrected by the error of the
    /// sender's clock. `None` if it is missing or not a date.
    pub fn timestamp(&self) -> Option<Timestamp> {
        let milliseconds = parse_date(self.value.get("timestamp")?.as_str()?)?;
        #[expect(clippy::cast_possible_truncation, reason = "it saturates, and is refused then")]
        Timestamp::from_millisecond(milliseconds as i64).ok()
    }

    /// Returns the ids of its person: whichever it has of `userId`, `anonymousId` and e-mail address, in this order.
    /// There is at least one; the first is the order key.
    pub fn person_ids(&self) -> impl Iterator<Item = (PersonIdKind, Cow<'_, str>)> {
        PersonIdKind::ALL.into_iter().filter_map(|kind| {
            let id = match kind {
                PersonIdKind::User => id_text(self.value.get("userId")),
                PersonIdKind::Anonymous => id_text(self.value.get("anonymousId")),
                PersonIdKind::Email => self.email(),
            };
            Some((kind, id?))
        })
    }

    /// Returns the name of its event, if it is a track.
    pub fn event(&self) -> Option<&str> {
        match self.kind {
            MessageType::Track => self.value.get("event")?.as_str(),
            _ => None,
        }
    }

    fn email(&self) -> Option<Cow<'_, str>> {
        let paths: [&[&str]; 4] = [
            &["traits", "email"],
            &["properties", "email"],
            &["context", "traits", "email"],
            &["email"],
        ];
        let found = paths.into_iter().find_map(|path| {
            let found = path.iter().try_fold(&self.value, |value, key| value.get(key))?;
            id_text(Some(found))
        })?;
        // White space around an address is not part of it: otherwise one person would be two.
        match found.trim_matches(is_space) {
            "" => Some(found),
            trimmed => Some(Cow::Owned(trimmed.to_owned())),
        }
    }
}

/// Returns an id as a string. A number counts, as JavaScript writes it; an empty string, null and anything else do
/// not.
pub fn id_text(value: Option<&Value>) -> Option<Cow<'_, str>> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
        Value::Number(number) if number.is_finite() => Some(Cow::Owned(number_text(*number))),
        _ => None,
    }
}
