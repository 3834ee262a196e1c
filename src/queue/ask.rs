//! Queries of the store that people make: lists of messages, groups of failures, counts, names of events.

use jiff::Timestamp;

use super::failure::FailureReason;
use super::message::{MessageRecord, MessageState};
use super::order::Seq;
use crate::segment::{MessageType, PersonDigest};

/// The most names of events that are kept apart for one source.
pub const EVENT_NAMES_MAX: usize = if cfg!(test) { 8 } else { 10_000 };

/// Stands for all names of events beyond [`EVENT_NAMES_MAX`].
pub const OTHER_EVENTS: &str = "(other)";

/// The longest name of an event, in bytes; longer ones are cut.
const EVENT_NAME_BYTES_MAX: usize = 200;

/// Returns the name of an event as it is stored and looked up: cut off if it is too long.
///
/// ```
/// use segment_loops::queue::{OTHER_EVENTS, event_name, is_whole_event_name};
///
/// assert_eq!(event_name("Signed Up"), "Signed Up");
/// let long = "long ".repeat(50);
/// assert_eq!(event_name(&long), &long[..200]);
/// assert!(is_whole_event_name("Signed Up"));
/// assert!(!is_whole_event_name(event_name(&long)) && !is_whole_event_name(OTHER_EVENTS));
/// ```
pub fn event_name(event: &str) -> &str {
    let longest = event.len().min(EVENT_NAME_BYTES_MAX);
    let end = (0..=longest).rev().find(|end| event.is_char_boundary(*end));
    &event[..end.unwrap_or_default()]
}

/// Returns whether the name of an event in a record is the name that was sent, neither cut off nor [`OTHER_EVENTS`].
pub fn is_whole_event_name(name: &str) -> bool {
    // A cut name may be up to three bytes shorter than the limit: it ends before a character of up to four bytes.
    name != OTHER_EVENTS && name.len() + 4 <= EVENT_NAME_BYTES_MAX
}

/// Selects messages that meet every given condition. The default selects all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// One of these persons is the subject; empty: any person.
    pub persons: Vec<PersonDigest>,
    /// The state.
    pub state: Option<MessageState>,
    /// Whether to select only messages that are held themselves, not messages that wait behind them.
    pub is_held: bool,
    /// A delivery that is not superseded failed for this reason.
    pub reason: Option<FailureReason>,
    /// Name of the destination.
    pub destination: Option<String>,
    /// Name of the source.
    pub source: Option<String>,
    /// The type.
    pub kind: Option<MessageType>,
    /// The name of the event; only tracks have one.
    pub event: Option<String>,
    /// Name of a subscription under which there is a delivery.
    pub subscription: Option<String>,
    /// Received at this time or later.
    pub from: Option<Timestamp>,
    /// Received before this time.
    pub to: Option<Timestamp>,
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The messages, newest first.
    pub messages: Vec<MessageRecord>,
    /// Continue before this number; `None`: nothing follows.
    pub next: Option<Seq>,
}

/// The latest failures, grouped by cause.
#[derive(Debug, Clone, Default)]
pub struct FailureGroups {
    /// The groups, largest first.
    pub groups: Vec<FailureGroup>,
    /// How many failed deliveries were read.
    pub read: u64,
    /// Whether these are all that meet the filter; otherwise they are the latest ones.
    pub is_complete: bool,
}

/// Failed deliveries with the same cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// Name of the destination.
    pub destination: String,
    /// Name of the subscription; `None`: the messages failed before any subscription was tried.
    pub subscription: Option<String>,
    /// The reason.
    pub reason: FailureReason,
    /// What a person needs to know to fix it, without the parts that differ between messages (see [`cause`]); empty
    /// once it is past its retention.
    pub cause: String,
    /// How many deliveries.
    pub deliveries: u64,
    /// When the first of them failed.
    pub first_at: Timestamp,
    /// When the last of them failed.
    pub last_at: Timestamp,
    /// The id of the latest message among them.
    pub example: String,
    /// The sequence number of the latest message among them.
    pub example_seq: Seq,
}

/// Reduces the detail of a failure to the part that failures with the same cause share: numbers, ids, addresses and
/// quoted values become `…`.
///
/// ```
/// # use segment_loops::queue::cause;
/// assert_eq!(cause("no list cm06f5v0e45nf0ml5754o9cix"), "no list …");
/// assert_eq!(cause(r#""plan 7" of ada@example.com is too long (501)"#), r#""…" of … is too long (…)"#);
/// ```
pub fn cause(detail: &str) -> String {
    let mut cause = String::with_capacity(detail.len());
    let mut rest = detail;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        if let Some(close) = closing(first, before) {
            let inside = &rest[first.len_utf8()..];
            cause.extend([first, '…', close]);
            rest = behind_quote(inside, close);
            before = close;
            continue;
        }
        let is_of_word = |c: char| c.is_alphanumeric() || matches!(c, '@' | '_' | '-' | '.' | '+');
        let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()).max(first.len_utf8());
        let (word, after) = rest.split_at(end);
        // A trailing full stop or hyphen is not part of the word.
        let bare = word.trim_end_matches(['.', '-']);
        if bare.contains(|c: char| c.is_ascii_digit() || c == '@') {
            cause.push('…');
            cause.push_str(&word[bare.len()..]);
        } else {
            cause.push_str(word);
        }
        before = word.chars().next_back().unwrap_or(first);
        rest = after;
    }
    cause
}

/// Returns the character that closes a quotation; `None` if `first` opens none, like an apostrophe within a word.
fn closing(first: char, before: char) -> Option<char> {
    match first {
        '"' => Some('"'),
        '“' => Some('”'),
        '\'' if !before.is_alphanumeric() => Some('\''),
        _ => None,
    }
}

/// Returns the text after the end of a quotation that is open at its beginning. A quotation that does not end, because
/// the text was cut off, takes all of it.
fn behind_quote(text: &str, close: char) -> &str {
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == close => {
                let rest = &text[at + close.len_utf8()..];
                // An apostrophe within a quotation does not end it.
                if close != '\'' || !rest.starts_with(char::is_alphanumeric) {
                    return rest;
                }
            }
            _ => {}
        }
    }
    ""
}

/// The length of the intervals of tallies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TallyStep {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl TallyStep {
    /// All variants.
    pub const ALL: [TallyStep; 2] = [TallyStep::Minute, TallyStep::Hour];

    /// Returns the name, as written and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            TallyStep::Minute => "minute",
            TallyStep::Hour => "hour",
        }
    }

    /// Returns the length in milliseconds.
    pub fn ms(self) -> i64 {
        match self {
            TallyStep::Minute => 60_000,
            TallyStep::Hour => 3_600_000,
        }
    }
}

/// What tallies count. For whole messages, at any time until counts are purged, received + replayed = pending +
/// unmatched + delivered + shadowed + failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Messages that were accepted, without duplicates.
    Received,
    /// Messages that a replay made pending again.
    Replayed,
    /// Messages that no subscription took, by reason.
    Unmatched,
    /// Messages all of whose deliveries were delivered.
    Delivered,
    /// Messages with a delivery that was shadowed and none that failed.
    Shadowed,
    /// Messages with a delivery that failed.
    Failed,
    /// Deliveries that Loops accepted, by subscription.
    DeliveryDelivered,
    /// Deliveries that were shadowed, by subscription.
    DeliveryShadowed,
    /// Deliveries that failed, by subscription and reason.
    DeliveryFailed,
    /// Deliveries that were planned with a warning, by subscription.
    DeliveryWarned,
    /// Requests that were made.
    Request,
    /// Requests that were not needed, by how they were saved: see [`Economy::saved`](super::Economy::saved).
    RequestSaved,
    /// Contacts that Loops was not known to have before it accepted a request for them. Counted without a source.
    NewContact,
}

impl Stage {
    /// All variants.
    pub const ALL: [Stage; 13] = [
        Stage::Received,
        Stage::Replayed,
        Stage::Unmatched,
        Stage::Delivered,
        Stage::Shadowed,
        Stage::Failed,
        Stage::DeliveryDelivered,
        Stage::DeliveryShadowed,
        Stage::DeliveryFailed,
        Stage::DeliveryWarned,
        Stage::Request,
        Stage::RequestSaved,
        Stage::NewContact,
    ];

    /// Returns the name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Received => "received",
            Stage::Replayed => "replayed",
            Stage::Unmatched => "unmatched",
            Stage::Delivered => "delivered",
            Stage::Shadowed => "shadowed",
            Stage::Failed => "failed",
            Stage::DeliveryDelivered => "delivery_delivered",
            Stage::DeliveryShadowed => "delivery_shadowed",
            Stage::DeliveryFailed => "delivery_failed",
            Stage::DeliveryWarned => "delivery_warned",
            Stage::Request => "request",
            Stage::RequestSaved => "request_saved",
            Stage::NewContact => "new_contact",
        }
    }

    /// Parses the result of [`Stage::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == text)
    }

    /// Returns how a message ends that subscriptions took, by whether a delivery failed and whether one was shadowed.
    pub(crate) fn of_end(is_failed: bool, is_shadowed: bool) -> Self {
        match (is_failed, is_shadowed) {
            (true, _) => Stage::Failed,
            (false, true) => Stage::Shadowed,
            (false, false) => Stage::Delivered,
        }
    }
}

/// A count of one stage in one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// When the interval began.
    pub at: Timestamp,
    /// What was counted.
    pub stage: Stage,
    /// Name of the destination.
    pub destination: String,
    /// Name of the source.
    pub source: String,
    /// Name of the subscription, for stages of deliveries; `None` also if a delivery failed before any
    /// subscription was tried.
    pub subscription: Option<String>,
    /// The reason in a word, for stages that have one.
    pub reason: Option<String>,
    /// How many.
    pub count: u64,
}

/// The name of an event that a source sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventName {
    /// Name of the source.
    pub source: String,
    /// The name.
    pub name: String,
    /// When it was seen first.
    pub first_seen_at: Timestamp,
    /// When it was seen last, give or take a minute.
    pub last_seen_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(event_name("Signed Up"), "Signed Up");
        let long = "é".repeat(150);
        assert_eq!(event_name(&long).len(), 200);
        let odd = format!("a{long}");
        assert_eq!(event_name(&odd).len(), 199);
        for cut in [event_name(&long), event_name(&odd), event_name(&"🌍".repeat(60)), OTHER_EVENTS]
        {
            assert!(!is_whole_event_name(cut), "{cut}");
        }
        assert!(is_whole_event_name("Signed Up") && is_whole_event_name(&"a".repeat(196)));
    }

    #[test]
    fn a_cause_holds_nothing_that_differs_between_messages() {
        for (detail, expected) in [
            ("", ""),
            ("`userId` is missing", "`userId` is missing"),
            ("answered 500 after 3 attempts.", "answered … after … attempts."),
            ("ada+1@example.com is on the list.", "… is on the list."),
            (r#"no such property "größe""#, r#"no such property "…""#),
            (r#"an open " quote of Ada"#, r#"an open "…""#),
            (
                r#"{"success":false,"message":"The value \"Ada Lovelace\" of firstName"}"#,
                r#"{"…":false,"…":"…"}"#,
            ),
            ("no 'Ada Lovelace's plan' there", "no '…' there"),
            ("the person's plan isn't known", "the person's plan isn't known"),
            ("no “Ada Lovelace” there", "no “…” there"),
            ("ünïcödé — 7", "ünïcödé — …"),
            ("3f2b-aa-09", "…"),
        ] {
            assert_eq!(cause(detail), expected, "{detail}");
        }
    }
}
