//! What pages show of single values.

use std::fmt;

use jiff::Timestamp;

use crate::queue::{DeliveryState, Failure, FailureReason, MessageState};

/// A time as it is read by people and by the script, which shows it in the zone of the browser.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Timestamp);

impl Time {
    /// For `datetime`.
    pub(super) fn machine(&self) -> Timestamp {
        self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.strftime("%Y-%m-%d %H:%M:%S UTC"))
    }
}

/// A state: an icon, a word and a colour, so that none of them matters alone.
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
            DeliveryState::Failed => ("✕", "bad"),
            DeliveryState::Unknown => ("?", "muted"),
        };
        Badge { word: state.as_str(), icon, tone }
    }
}

/// What a reason of a failure means.
pub(super) fn meaning(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::Refused => "Loops refused the request",
        FailureReason::Expired => "it became too old to be sent",
        FailureReason::Invalid => "the mapping makes no request of it that Loops could take",
        FailureReason::PlaceholderId => "its user id is a word that stands for no id",
        FailureReason::Unreadable => "the stored message cannot be read",
        FailureReason::Unknown => "a later version of this program recorded why",
    }
}

/// Why a delivery failed, with the details as `say` shows them.
pub(super) fn why(failure: &Failure, say: impl Fn(&str) -> String) -> String {
    match failure.detail.as_str() {
        "" => meaning(failure.reason).to_owned(),
        detail => format!("{}: {}", meaning(failure.reason), say(detail)),
    }
}

/// What to do about failures for a reason.
pub(super) fn advice(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::Refused => {
            "Mend what Loops complains of, in the mapping, in the data or in Loops, then replay the messages."
        }
        FailureReason::Expired => {
            "They were not sent, since it was too late: replay those that are still worth sending."
        }
        FailureReason::Invalid => {
            "Change the mapping so that it fills what is missing, then reload and replay the messages."
        }
        FailureReason::PlaceholderId => {
            "Mend the sender, which sends a word in place of an id; a replay would fail in the same way."
        }
        FailureReason::Unreadable => {
            "This is a fault of the stored data or of this program: please report it, with the lines of the log."
        }
        FailureReason::Unknown => {
            "Run the version of this program that recorded it, or a later one."
        }
    }
}

/// `1 message`, `2 messages`.
pub(super) fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        more => format!("{more} {one}s"),
    }
}

/// Writes a text so that it can be the value of a parameter.
pub(super) fn url_encode(text: &str) -> String {
    let of = |byte: u8| match byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(of).collect()
}
