//! The result of a comparison: the JSON of the API, its schema, and what pages and the command line show.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::difference::{Line, difference};
use crate::console::preview::{PreviewedField, PreviewedRequest};
use crate::destination::{Change, Comparison, Made, Request};
use crate::segment::MessageType;

/// The longest body of a request that is shown, in bytes.
const BODY_SHOWN_MAX: usize = 64 * 1024;

/// What a changed subscription would do.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Compared {
    /// Whether a request, a failure or a warning of one of the messages changes, or something else does.
    pub changes: bool,
    /// The same in a sentence.
    pub summary: String,
    /// How many messages there are of each kind.
    pub counts: Counts,
    /// What changes besides the requests, one sentence each.
    pub notes: Vec<String>,
    /// Likely errors in the changed subscriptions.
    pub warnings: Vec<String>,
    /// Which messages were examined.
    pub looked: Looked,
    /// The messages, newest first: at most 20. If more than 20 were asked for, those that stay the same are left out.
    pub messages: Vec<ComparedMessage>,
    /// Why the comparison ended early; null if it did not.
    #[schema(required)]
    pub stopped: Option<StoppedAt>,
}

/// How many messages a change concerns.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All messages that the subscription takes, before or after the change.
    pub compared: u64,
    /// Nothing changes.
    pub same: u64,
    /// The request changes.
    pub changed: u64,
    /// The trigger did not take the message.
    pub newly_taken: u64,
    /// The trigger no longer takes the message.
    pub no_longer_taken: u64,
    /// The delivery would fail, and did not before.
    pub error: u64,
    /// The request stays the same, but there is a new warning.
    pub warning: u64,
    /// Messages with a new warning, whatever else changes for them.
    pub new_warnings: u64,
}

/// Which messages were examined.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// How many, including those that the subscription does not take.
    pub messages: u64,
    /// How many of them have no contents any more (expired or erased), or cannot be read.
    pub without_contents: u64,
    /// When the oldest of them was accepted; null if all come from the request.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Whether all matching messages were examined.
    pub complete: bool,
}

/// The message at which the comparison ran out of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoppedAt {
    /// Position of the message in the order of acceptance; null if it comes from the request.
    #[schema(required)]
    pub seq: Option<i64>,
    /// Segment's `messageId`.
    pub message_id: String,
    /// What took too long, for people.
    pub detail: String,
}

/// What a change means for a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComparedMessage {
    /// Name of the subscription.
    pub subscription: String,
    /// Position in the order of acceptance; null if the message comes from the request.
    #[schema(required)]
    pub seq: Option<i64>,
    /// Segment's `messageId`.
    pub message_id: String,
    /// The kind of Segment call.
    pub r#type: MessageType,
    /// The name of the event; null unless the message is a track.
    #[schema(required)]
    pub event: Option<String>,
    /// When the message was accepted; null if it comes from the request.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub received_at: Option<Timestamp>,
    /// What the change means, in a word.
    pub change: Change,
    /// The result for the message before the change; null if the subscription does not take it.
    #[schema(required)]
    pub before: Option<Side>,
    /// The same after the change.
    #[schema(required)]
    pub after: Option<Side>,
    /// The requests line by line: `- ` before removed lines, `+ ` before added ones.
    #[schema(value_type = Vec<String>)]
    pub difference: Vec<Line>,
    /// What the mapping finds for each field after the change, or before it if the message is no longer taken.
    pub fields: Vec<PreviewedField>,
}

/// A subscription's result for a message that it takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Side {
    /// The request to Loops; null if there would be none.
    #[schema(required)]
    pub request: Option<PreviewedRequest>,
    /// Why the delivery would fail; null if it would not.
    #[schema(required)]
    pub error: Option<String>,
    /// What would be left out of the request or changed in it.
    pub warnings: Vec<String>,
}

impl Counts {
    /// Counts a message.
    pub(super) fn add(&mut self, comparison: &Comparison) {
        self.compared += 1;
        let count = match comparison.change {
            Change::Same => &mut self.same,
            Change::Changed => &mut self.changed,
            Change::NewlyTaken => &mut self.newly_taken,
            Change::NoLongerTaken => &mut self.no_longer_taken,
            Change::Error => &mut self.error,
            Change::Warning => &mut self.warning,
        };
        *count += 1;
        let warnings =
            |made: &Option<Made>| made.as_ref().map_or(Vec::new(), |one| one.warnings.clone());
        let before = warnings(&comparison.before);
        let is_new = warnings(&comparison.after).iter().any(|warning| !before.contains(warning));
        self.new_warnings += u64::from(is_new);
    }

    /// Returns how many requests change, appear or disappear.
    fn requests(self) -> u64 {
        self.changed + self.newly_taken + self.no_longer_taken
    }
}

impl Compared {
    /// Writes the summary, once all messages are counted.
    pub(super) fn finish(&mut self) {
        let counts = self.counts;
        self.changes = counts.compared > counts.same || !self.notes.is_empty();
        let of = |count: u64, one: &str, more: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {more}"),
        };
        self.summary = match counts.compared {
            0 => "No message that was examined is taken, before or after the change.".to_owned(),
            compared => format!(
                "{} compared: {}, {}, {}.",
                of(compared, "message", "messages"),
                of(counts.requests(), "request changes", "requests change"),
                of(counts.error, "new failure", "new failures"),
                of(counts.new_warnings, "new warning", "new warnings"),
            ),
        };
    }
}

impl Side {
    pub(super) fn of(made: &Made) -> Self {
        let (request, error) = match &made.outcome {
            Ok(request) => (Some(shown(request)), None),
            Err(failure) => (None, Some(failure.detail.clone())),
        };
        Self { request, error, warnings: made.warnings.clone() }
    }
}

fn shown(request: &Request) -> PreviewedRequest {
    let bytes = request.body.len();
    match bytes <= BODY_SHOWN_MAX {
        true => PreviewedRequest::from(request),
        false => PreviewedRequest {
            method: request.endpoint.method(),
            path: request.endpoint.path(),
            body: Json::from(format!("({bytes} bytes: too long to be shown)")),
        },
    }
}

impl ComparedMessage {
    pub(super) fn lines(before: Option<&Side>, after: Option<&Side>) -> Vec<Line> {
        difference(
            before.and_then(|side| side.request.as_ref()),
            after.and_then(|side| side.request.as_ref()),
        )
    }

    /// Describes the change, for people.
    pub fn words(&self) -> &'static str {
        words(self.change)
    }

    /// Returns the warnings that are new with the change.
    pub fn new_warnings(&self) -> impl Iterator<Item = &str> {
        let before = self.before.as_ref().map_or(&[][..], |side| &side.warnings);
        let after = self.after.as_ref().map_or(&[][..], |side| &side.warnings);
        after.iter().filter(|warning| !before.contains(warning)).map(String::as_str)
    }
}

/// Describes a change, for people.
pub fn words(change: Change) -> &'static str {
    match change {
        Change::Same => "same",
        Change::Changed => "changed",
        Change::NewlyTaken => "newly taken",
        Change::NoLongerTaken => "no longer taken",
        Change::Error => "error",
        Change::Warning => "warning",
    }
}

/// Says how far the comparison looked.
impl fmt::Display for Looked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.messages, self.since) {
            (0, _) => return out.write_str("No message was examined."),
            (messages, Some(since)) => write!(
                out,
                "{} examined, back to {}{}.",
                of_messages(messages),
                since.strftime("%Y-%m-%d %H:%M:%S UTC"),
                if self.complete { "; there are no older ones" } else { "" }
            )?,
            (messages, None) => write!(out, "{} examined.", of_messages(messages))?,
        }
        match self.without_contents {
            0 => Ok(()),
            1 => out.write_str(" 1 has no contents any more."),
            more => write!(out, " {more} have no contents any more."),
        }
    }
}

fn of_messages(count: u64) -> String {
    match count {
        1 => "1 message was".to_owned(),
        count => format!("{count} messages were"),
    }
}

/// Writes the comparison for a terminal.
impl fmt::Display for Compared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for message in &self.messages {
            write!(out, "{message}")?;
        }
        for note in self.notes.iter().chain(&self.warnings) {
            writeln!(out, "note: {note}")?;
        }
        if let Some(StoppedAt { message_id, detail, .. }) = &self.stopped {
            writeln!(out, "stopped at the message {message_id}: {detail}")?;
        }
        writeln!(out, "{}", self.summary)?;
        write!(out, "{}", self.looked)
    }
}

impl fmt::Display for ComparedMessage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.event.as_deref().unwrap_or_else(|| self.r#type.as_str());
        let name = &self.subscription;
        writeln!(out, "{}: {what} ({}) under {name}", self.words(), self.message_id)?;
        if let Some(error) = self.after.as_ref().and_then(|side| side.error.as_ref()) {
            writeln!(out, "    fails: {error}")?;
        }
        for warning in self.new_warnings() {
            writeln!(out, "    warning: {warning}")?;
        }
        for line in &self.difference {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)
    }
}
