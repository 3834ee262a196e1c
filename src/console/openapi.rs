//! The description of the admin API, as OpenAPI.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use super::api::{self, ReloadMistake};
use super::replay;
use crate::http::openapi::errors;

#[derive(OpenApi)]
#[openapi(paths(api::of_id, api::of_person, api::preview_message, api::reload, replay::replay))]
struct Described;

/// What [`api::router`] serves.
pub fn document() -> utoipa::openapi::OpenApi {
    Described::openapi()
}

/// The errors that every part of the admin API has.
pub struct AdminErrors;

impl IntoResponses for AdminErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            (401, "The admin token is missing or wrong."),
            (403, "The admin API is off: no admin token is set."),
            (503, "The store does not answer."),
        ])
    }
}

/// Messages, and what became of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Messages {
    /// The messages.
    pub messages: Vec<MessageFate>,
}

/// What became of a message. Its contents are not told.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageFate {
    /// Its id.
    pub message_id: String,
    /// Its number, in the order of acceptance.
    pub seq: i64,
    /// `identify`, `track` and so on.
    pub r#type: String,
    /// The source that sent it.
    pub source: String,
    /// The destination that it goes to.
    pub destination: String,
    /// When it was accepted.
    pub received_at: String,
    /// `pending`, `delivered`, `failed` or `unmatched`.
    pub state: String,
    /// Why no subscription took it.
    #[schema(required)]
    pub reason: Option<String>,
    /// How many times it was replayed.
    pub replay: u32,
    /// One for each subscription that took it, and again after each replay.
    pub deliveries: Vec<Delivery>,
}

/// The fate of a message under one subscription.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivery {
    /// The subscription.
    pub subscription: String,
    /// Its action.
    pub action: String,
    /// The replay that made it; 0: none did.
    pub replay: u32,
    /// Whether a later replay took its place, so that it is history.
    pub superseded: bool,
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    /// Why it failed: one of a few fixed words.
    #[schema(required)]
    pub reason: Option<String>,
    /// Why it failed, for people.
    #[schema(required)]
    pub detail: Option<String>,
    /// What was left out, and so on.
    pub warnings: Vec<String>,
    /// The request to Loops, once there is one.
    #[schema(required)]
    pub request: Option<RequestFate>,
}

/// A request to Loops.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestFate {
    /// Its number.
    pub id: i64,
    /// `POST` or `PUT`.
    pub method: String,
    /// Its path below the base URL.
    pub path: String,
    /// The key by which Loops takes an event once.
    #[schema(required)]
    pub idempotency_key: Option<String>,
    /// When it will be tried again.
    #[schema(required)]
    pub next_attempt_at: Option<String>,
    /// The tries.
    pub attempts: Vec<AttemptFate>,
}

/// One try.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptFate {
    /// Its number, from 1.
    pub number: u32,
    /// When it began.
    pub started_at: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The status of the answer; none where none came.
    #[schema(required)]
    pub status: Option<u16>,
    /// What it came to.
    #[schema(required)]
    pub outcome: Option<String>,
    /// The beginning of the answer.
    #[schema(required)]
    pub answer: Option<String>,
}

/// What would become of a message.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preview {
    /// Why no subscription would take it.
    #[schema(required)]
    pub unmatched: Option<String>,
    /// What each subscription would do.
    pub subscriptions: Vec<PreviewedSubscription>,
    /// The requests to Loops.
    pub requests: Vec<PreviewedRequest>,
}

/// What a subscription would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewedSubscription {
    /// Its name.
    pub subscription: String,
    /// Its action.
    pub action: String,
    /// Its trigger.
    pub trigger: String,
    /// Whether it takes the message.
    pub matched: bool,
    /// Why it does not.
    #[schema(required)]
    pub why_not: Option<String>,
    /// What the mapping finds for each field.
    pub fields: Vec<PreviewedField>,
    /// What is left out, and so on.
    pub warnings: Vec<String>,
    /// The request to Loops.
    #[schema(required)]
    pub request: Option<PreviewedRequest>,
    /// Why there is none.
    #[schema(required)]
    pub error: Option<String>,
}

/// What the mapping finds for a field.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewedField {
    /// Its name.
    pub name: String,
    /// The part of the mapping that decides it.
    pub from: String,
    /// Any JSON; null, too, where nothing is found.
    pub value: Value,
}

/// A request as Loops would have it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewedRequest {
    /// `POST` or `PUT`.
    pub method: String,
    /// Its path below the base URL.
    pub path: String,
    /// Its body.
    #[schema(value_type = Object)]
    pub body: Value,
}

/// What a replay did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Whether it only counted.
    pub dry_run: bool,
    /// How many messages are worked on again, or would be.
    pub replayed: u64,
    /// How many fit and are not, since their contents are past their time.
    pub without_contents: u64,
    /// Where to go on, in another request beside the same criteria; null where all is done.
    #[schema(required)]
    pub r#continue: Option<replay::Position>,
}

/// Why a configuration was not taken up.
#[derive(Debug, Serialize, ToSchema)]
pub struct BadConfiguration {
    /// `bad_configuration`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Each mistake.
    pub mistakes: Vec<ReloadMistake>,
}
