//! The description of the HTTP API, as OpenAPI: made from what the handlers say of themselves.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use super::error::ErrorBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "segment-loops",
        description = "Accepts Segment's messages for Loops, and says what became of them. A success means that the messages are on stable storage."
    ),
    components(schemas(ErrorBody)),
    modifiers(&Keys)
)]
struct Described;

/// Adds what concerns the whole API to the description of its routes.
pub(super) fn complete(description: &mut utoipa::openapi::OpenApi) {
    let mut whole = Described::openapi();
    whole.merge(std::mem::take(description));
    // One handler has three methods, and their names must differ.
    if let Some(webhook) = whole.paths.paths.get_mut("/webhook/{source}") {
        for (name, operation) in [("Put", &mut webhook.put), ("Patch", &mut webhook.patch)] {
            if let Some(id) =
                operation.as_mut().and_then(|operation| operation.operation_id.as_mut())
            {
                id.push_str(name);
            }
        }
    }
    *description = whole;
}

/// The keys that requests come with.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let http = |scheme, text: &str| {
            SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(text)).build())
        };
        let signature = "Hex HMAC-SHA1 over the body, or over the first message of a list, with the source's webhook_secret.";
        let signature = ApiKeyValue::with_description("X-Signature", signature);
        let schemes = [
            (
                "writeKey",
                http(
                    HttpAuthScheme::Basic,
                    "The user name is a write key; no password. Else `writeKey` in the body.",
                ),
            ),
            (
                "webhookToken",
                http(
                    HttpAuthScheme::Bearer,
                    "The source's webhook_token. Else in X-Webhook-Token.",
                ),
            ),
            ("webhookSignature", SecurityScheme::ApiKey(ApiKey::Header(signature))),
            ("adminToken", http(HttpAuthScheme::Bearer, "ADMIN_TOKEN.")),
        ];
        let components = document.components.get_or_insert_default();
        for (name, scheme) in schemes {
            components.add_security_scheme(name, scheme);
        }
    }
}

/// A message as Segment's SDKs write it. It must be about somebody: a user id, an anonymous id, or an
/// e-mail address in `traits`, `properties`, `context.traits` or beside them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"type": "track", "userId": "user_1", "messageId": "hello-2", "event": "Signed Up", "properties": {"plan": "pro"}}))]
pub struct Message {
    /// `identify`, `track`, `page`, `screen`, `group`, `alias` or `delete`. The path gives it where
    /// it is missing.
    pub r#type: Option<String>,
    /// Whom it is about.
    #[schema(example = "user_1")]
    pub user_id: Option<String>,
    /// Whom it is about, where nobody knows.
    pub anonymous_id: Option<String>,
    /// The same id from the same source counts once. Made up where it is missing.
    #[schema(max_length = 1024)]
    pub message_id: Option<String>,
    /// When it happened.
    pub timestamp: Option<String>,
    /// Of `track`: what happened.
    pub event: Option<String>,
    /// Of `identify`: what is known of the person.
    #[schema(value_type = Option<Object>)]
    pub traits: Option<Value>,
    /// Of `track`: what is known of the event.
    #[schema(value_type = Option<Object>)]
    pub properties: Option<Value>,
    /// What is known of its surroundings.
    #[schema(value_type = Option<Object>)]
    pub context: Option<Value>,
    /// `{"All": false}` or `{"Loops": false}` keeps it from Loops.
    #[schema(value_type = Option<Object>)]
    pub integrations: Option<Value>,
}

/// Messages that are sent together.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"batch": [{"type": "identify", "userId": "user_1", "traits": {"plan": "pro"}}], "sentAt": "2026-01-02T03:04:05.678Z"}))]
pub struct Batch {
    /// The messages. What is wrong with one is told in the answer, and costs no other.
    pub batch: Vec<Message>,
    /// Merged into the `context` of each.
    #[schema(value_type = Option<Object>)]
    pub context: Option<Value>,
    /// Merged into the `integrations` of each.
    #[schema(value_type = Option<Object>)]
    pub integrations: Option<Value>,
    /// When it was sent, by the sender's clock.
    pub sent_at: Option<String>,
}

/// One message, or a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(Box<Message>),
    /// Several.
    Many(Vec<Message>),
}

/// Errors by status, with what each means.
pub fn errors(statuses: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let answer = |&(status, text): &(u16, &str)| {
        let content =
            ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        let response =
            ResponseBuilder::new().description(text).content("application/json", content);
        let header = |kind, text: &str| {
            let schema = ObjectBuilder::new().schema_type(kind);
            HeaderBuilder::new().schema(Some(schema)).description(Some(text)).build()
        };
        let response = match status {
            401 => response
                .header("WWW-Authenticate", header(Type::String, "The ways to authenticate.")),
            429 | 503 => response.header("Retry-After", header(Type::Integer, "Seconds to wait.")),
            _ => response,
        };
        (status.to_string(), RefOr::T(response.build()))
    };
    statuses.iter().map(answer).collect()
}

/// The errors of the Tracking API.
pub struct TrackingErrors;

impl IntoResponses for TrackingErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            (400, "The body is not what it should be, or a single message cannot be accepted."),
            (401, "No source has this write key."),
            (403, "The page may not send, or its key may not delete."),
            (413, "The body, the message or the batch is too large."),
            (415, "The Content-Encoding is unknown."),
            (429, "Not now: send it again after Retry-After."),
        ])
    }
}

/// The errors of analytics.js' own metrics, whose contents do not matter.
pub struct MetricsErrors;

impl IntoResponses for MetricsErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = TrackingErrors::responses();
        responses.retain(|status, _| !["401", "403"].contains(&status.as_str()));
        responses
    }
}

/// The errors of webhooks and the subscription destination.
pub struct WebhookErrors;

impl IntoResponses for WebhookErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            (400, "The body is not what it should be, or a single message cannot be accepted."),
            (401, "The key, the signature or the token is missing or wrong."),
            (403, "The write key is public, and may not delete."),
            (413, "The body, the message or the list is too large."),
            (415, "The Content-Encoding is unknown."),
            (429, "The address sends too much: send it again after Retry-After."),
            (503, "Not now: send it again after Retry-After."),
        ])
    }
}
