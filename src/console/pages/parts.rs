//! How pages show single values.

use std::fmt;

use axum::http::StatusCode;
use jiff::Timestamp;

use crate::http::error::ApiError;
use crate::queue::{DeliveryState, FeedbackRecord, MessageState};

/// A time, for people and for the script, which shows it in the browser's time zone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Timestamp);

impl Time {
    /// Returns the time for the attribute `datetime`.
    pub(super) fn machine(&self) -> Timestamp {
        self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.strftime("%Y-%m-%d %H:%M:%S UTC"))
    }
}

/// A state: an icon, a word and a colour, so that no reader depends on one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Badge {
    pub(super) word: &'static str,
    pub(super) icon: &'static str,
    /// The class of its colour.
    pub(super) tone: &'static str,
}

impl From<MessageState> for Badge {
    fn from(state: MessageState) -> Self {
        let (icon, tone) = match state {
            MessageState::Pending => ("◔", "warn"),
            MessageState::Delivered => ("✓", "good"),
            MessageState::Shadowed => ("◌", "muted"),
            MessageState::Failed => ("✕", "bad"),
            MessageState::Unmatched => ("○", "muted"),
        };
        Badge { word: state.as_str(), icon, tone }
    }
}

impl From<DeliveryState> for Badge {
    fn from(state: DeliveryState) -> Self {
        let (icon, tone) = match state {
            DeliveryState::Pending => ("◔", "warn"),
            DeliveryState::Delivered => ("✓", "good"),
            DeliveryState::Shadowed => ("◌", "muted"),
            DeliveryState::Failed => ("✕", "bad"),
            DeliveryState::Unknown => ("?", "muted"),
        };
        Badge { word: state.as_str(), icon, tone }
    }
}

/// An event that Loops reported.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) at: Time,
    /// The name of the event, as Loops wrote it.
    pub(super) event: String,
    /// What the event means, if it is known here.
    pub(super) meaning: &'static str,
    /// The workflow, campaign or other thing that the event belongs to.
    pub(super) origin: Option<String>,
    /// The class of its colour.
    pub(super) tone: &'static str,
}

impl From<&FeedbackRecord> for Note {
    fn from(record: &FeedbackRecord) -> Self {
        let (meaning, tone) = match record.event.as_str() {
            "contact.created" => ("Loops made the contact", "muted"),
            "contact.unsubscribed" => ("The contact was unsubscribed", "warn"),
            "contact.deleted" => ("The contact was deleted", "warn"),
            "contact.mailingList.subscribed" => ("It joined a mailing list", "muted"),
            "contact.mailingList.unsubscribed" => ("It left a mailing list", "muted"),
            "loop.email.sent" | "campaign.email.sent" | "transactional.email.sent" => {
                ("Loops sent a mail", "muted")
            }
            "email.delivered" => ("The mail was delivered", "good"),
            "email.softBounced" => ("The mailbox did not take the mail for now", "warn"),
            "email.hardBounced" => ("The mailbox refused the mail", "bad"),
            "email.spamReported" => ("The mail was reported as spam", "bad"),
            "email.opened" => ("The mail was opened", "good"),
            "email.clicked" => ("A link in the mail was followed", "good"),
            "email.unsubscribed" => ("The person unsubscribed by a mail", "warn"),
            "email.resubscribed" => ("The person subscribed again", "good"),
            _ => ("Loops reported an event that this version does not know", "muted"),
        };
        let origin = record.origin.as_ref().map(|origin| {
            let kind = origin.kind.as_str().replace('_', " ");
            format!("{kind} {}", origin.name.as_ref().unwrap_or(&origin.id))
        });
        Self { at: Time(record.at), event: record.event.clone(), meaning, origin, tone }
    }
}

/// The longest JSON text that a page shows.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// Writes JSON for people, and cuts what is too long.
pub(super) fn json(value: &serde_json::Value) -> String {
    // The alternate form indents the JSON.
    let mut text = format!("{value:#}");
    if text.len() > JSON_BYTES_MAX {
        let end = (0..=JSON_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str("\n… (cut here)");
    }
    text
}

/// The error for people who may only look.
pub(super) fn only_for_admins() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "viewer",
        "Your token lets you look only. To see contents, to ask Loops or to change something, log in with an admin token.",
    )
}

/// Encodes a string as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    url_encode(text).replace('/', "%2F")
}

/// Encodes a string as the value of a parameter.
pub(super) fn url_encode(text: &str) -> String {
    let of = |byte: u8| match byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(of).collect()
}
