//! The verdict on a message or a person, with what it is about.

use serde::Serialize;
use utoipa::ToSchema;

use super::feedback::FeedbackEvent;
use super::message::MessageFate;
use crate::console::verdict::{self, VerdictKind};
use crate::queue::Seq;

/// The messages with an id, each with a verdict.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageReports {
    /// One for each source that sent a message with this id, newest first.
    pub messages: Vec<MessageReport>,
}

/// The outcome of a message, with a verdict and what Loops reported.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageReport {
    /// Its outcome.
    #[serde(flatten)]
    pub message: MessageFate,
    /// The verdict.
    pub verdict: Verdict,
    /// What Loops has reported about the person since the message was accepted, newest first; empty once the contents
    /// of the message are past their retention.
    pub feedback: Vec<FeedbackEvent>,
}

/// What is known of a person.
#[derive(Debug, Serialize, ToSchema)]
pub struct Person {
    /// The verdict.
    pub verdict: Verdict,
    /// The latest messages, at most 50, newest first.
    pub messages: Vec<MessageFate>,
    /// Whether these are all messages on record.
    pub complete: bool,
    /// What Loops reported, newest first.
    pub feedback: Vec<FeedbackEvent>,
}

/// A verdict in one sentence, and what to do next.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// For programs.
    pub kind: VerdictKind,
    /// For people.
    pub sentence: String,
    /// What to do next.
    pub next_step: &'static str,
    /// `seq` of the message that the verdict is about; null if it is about none.
    #[schema(required)]
    pub seq: Option<i64>,
}

impl From<verdict::Verdict> for Verdict {
    fn from(verdict: verdict::Verdict) -> Self {
        let verdict::Verdict { kind, seq, sentence, next_step } = verdict;
        Self { kind, sentence, next_step, seq: seq.map(|Seq(seq)| seq) }
    }
}
