//! What Loops reported.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::{FeedbackRecord, Origin, OriginKind};

/// What Loops reported by its webhooks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Feedback {
    /// The events, newest first.
    pub events: Vec<FeedbackEvent>,
}

/// An event that Loops reported. Neither addresses nor subjects are kept.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedbackEvent {
    /// Name of the destination.
    pub destination: String,
    /// Loops' name of the event; this release may not know it.
    #[schema(example = "email.delivered")]
    pub event: String,
    /// When it happened, by Loops' clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// When it was received.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// Loops' id of the webhook.
    pub webhook_id: String,
    /// Loops' id of the contact; null if the event has none.
    #[schema(required)]
    pub contact_id: Option<String>,
    /// The workflow, campaign, transactional mail or mailing list that it belongs to; null if it belongs to none.
    #[schema(required)]
    pub origin: Option<FeedbackOrigin>,
    /// Loops' id of the mail; null if the event is not about one.
    #[schema(required)]
    pub email_id: Option<String>,
}

/// What an event that Loops reported belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub struct FeedbackOrigin {
    /// What it is.
    pub kind: OriginKind,
    /// Loops' id of it.
    pub id: String,
    /// Its name; null if Loops gives only the id.
    #[schema(required)]
    pub name: Option<String>,
}

impl From<Vec<FeedbackRecord>> for Feedback {
    fn from(records: Vec<FeedbackRecord>) -> Self {
        Self { events: records.into_iter().map(FeedbackEvent::from).collect() }
    }
}

impl From<FeedbackRecord> for FeedbackEvent {
    fn from(record: FeedbackRecord) -> Self {
        let origin =
            record.origin.map(|Origin { kind, id, name }| FeedbackOrigin { kind, id, name });
        Self {
            destination: record.destination,
            event: record.event,
            at: record.at,
            received_at: record.received_at,
            webhook_id: record.webhook_id,
            contact_id: record.contact_id,
            origin,
            email_id: record.email_id,
        }
    }
}
