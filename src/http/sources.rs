//! The sources that may send, and how the source of a request is found.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use metrics::{Counter, Gauge, counter, gauge};

use super::error::ApiError;
use super::limit::AddressLimit;
use crate::queue::Accepted;
use crate::secret::Secret;
use crate::segment::MessageType;
use crate::telemetry;

/// A source of messages.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, which is part of its webhook's path.
    pub name: String,
    /// The name of the destination that it delivers to.
    pub destination: String,
    /// The keys that its senders know.
    pub write_keys: Vec<Secret>,
    /// Shared secrets of its webhook. A signature with any of them is valid; if empty, no signature is required.
    pub webhook_secrets: Vec<Secret>,
    /// Tokens of its webhook. Any of them is valid; if empty, no token is required.
    pub webhook_tokens: Vec<Secret>,
    /// Whether its webhook takes lists, of which Segment signs only the first message.
    pub takes_webhook_lists: bool,
    /// The types of message that a subscription of its destination can use.
    pub usable: HashSet<MessageType>,
    /// The limits if its write keys are public; `None`: they are secret.
    pub public: Option<Public>,
    /// The origins of the pages that may send; `None`: all.
    pub origins: Option<Vec<String>>,
    /// Whether the sender's address is put into messages as `context.ip`.
    pub stamps_ip: bool,
    /// Whether messages sent to `/v1/import` are a bulk load. Some SDKs send all their messages there.
    pub import_is_bulk: bool,
    /// Counts its messages.
    pub counts: SourceCounts,
}

/// Counts the messages of a source. Looking a counter up by its labels costs more than counting, so each is looked up
/// once.
#[derive(Debug, Clone)]
pub struct SourceCounts {
    name: String,
    new: [Counter; MessageType::ALL.len()],
    duplicate: [Counter; MessageType::ALL.len()],
    /// Looked up with the first message: until then, the gauge has no value.
    last_message: OnceLock<Gauge>,
}

/// The limits of a source whose write keys are public.
#[derive(Debug, Clone)]
pub struct Public {
    /// The requests that one address may send.
    pub requests: Arc<AddressLimit>,
    /// The bytes of messages that one address may have stored.
    pub bytes: Arc<AddressLimit>,
    /// Whether messages of type `delete` are accepted.
    pub allows_delete: bool,
}

impl SourceCounts {
    /// Looks up the counters of a source.
    pub fn new(source: &str) -> Self {
        let of = |name: &'static str| {
            MessageType::ALL
                .map(|kind| counter!(name, "source" => source.to_owned(), "type" => kind.as_str()))
        };
        Self {
            name: source.to_owned(),
            new: of(telemetry::MESSAGES_ACCEPTED),
            duplicate: of(telemetry::MESSAGES_DUPLICATE),
            last_message: OnceLock::new(),
        }
    }

    /// Counts an accepted message.
    pub(super) fn count(&self, kind: MessageType, accepted: Accepted) {
        let counters = match accepted {
            Accepted::New => &self.new,
            Accepted::Duplicate => &self.duplicate,
        };
        let of_kind = MessageType::ALL.iter().zip(counters).find(|(of, _)| **of == kind);
        if let Some((_, counter)) = of_kind {
            counter.increment(1);
        }
    }

    /// Notes when messages were last accepted.
    pub(super) fn note(&self, at: Timestamp) {
        let find = || gauge!(telemetry::LAST_MESSAGE, "source" => self.name.clone());
        self.last_message.get_or_init(find).set(at.as_millisecond() as f64 / 1_000.0);
    }
}

/// All sources.
#[derive(Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Creates the list of all sources.
    pub fn new(sources: Vec<Source>) -> Self {
        Self(sources)
    }

    /// Returns their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|source| source.name.as_str())
    }

    /// Returns the source with this name.
    pub fn by_name(&self, name: &str) -> Option<&Source> {
        self.0.iter().find(|source| source.name == name)
    }

    /// Returns the first source that delivers to a destination.
    pub fn delivering_to(&self, destination: &str) -> Option<&Source> {
        self.0.iter().find(|source| source.destination == destination)
    }

    /// Returns the source with this write key. All keys are compared, each in constant time.
    pub fn by_write_key(&self, write_key: &str) -> Option<&Source> {
        let knowing = |source: &&Source| source.knows(write_key);
        self.0.iter().fold(None, |found, source| found.or(Some(source).filter(knowing)))
    }
}

impl Source {
    /// Fails if pages on this request's origin may not send. A sender that is not a page has no origin. A program can
    /// make up an origin; keeping it out takes a secret.
    pub(super) fn admit_origin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let (Some(origins), Some(origin)) = (&self.origins, headers.get(header::ORIGIN)) else {
            return Ok(());
        };
        if origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            "pages on this origin may not send to this source: add it to sources.NAME.origins",
        ))
    }

    /// Returns whether its webhook requires a write key, because it requires nothing else.
    pub(super) fn is_webhook_by_key(&self) -> bool {
        self.webhook_secrets.is_empty() && self.webhook_tokens.is_empty()
    }

    /// Returns whether `write_key` is one of its keys.
    pub fn knows(&self, write_key: &str) -> bool {
        Secret::is_any_of(&self.write_keys, write_key.as_bytes())
    }
}
