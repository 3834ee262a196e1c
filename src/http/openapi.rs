//! The description of the HTTP API, as OpenAPI, generated from the handlers' own descriptions.

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
        description = "Accepts Segment's messages for Loops, and reports what happened to them. Success means that the messages are on stable storage."
    ),
    components(schemas(ErrorBody)),
    modifiers(&Keys)
)]
struct Described;

/// Adds the parts that concern the whole API to the description of its routes.
pub(super) fn complete(description: &mut utoipa::openapi::OpenApi) {
    let mut whole = Described::openapi();
    whole.merge(std::mem::take(description));
    // One handler has three methods, and their operation ids must differ.
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

/// The ways to authenticate.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let http = |scheme, text: &str| {
            SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(text)).build())
        };
        let signature = "Hex HMAC-SHA1 over the body, or over the first message of a list, with one of the source's webhook secrets.";
        let signature = ApiKeyValue::with_description("X-Signature", signature);
        let of_loops = "`v1,` and the base64 of the HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, with one of the destination's Loops webhook secrets. There may be several, separated by spaces.";
        let of_loops = ApiKeyValue::with_description("webhook-signature", of_loops);
        let schemes = [
            (
                "writeKey",
                http(
                    HttpAuthScheme::Basic,
                    "A write key as the user name, without a password. If this header is missing, `writeKey` in the body counts.",
                ),
            ),
            (
                "webhookToken",
                http(
                    HttpAuthScheme::Bearer,
                    "One of the source's webhook tokens. It may also be sent in X-Webhook-Token.",
                ),
            ),
            ("webhookSignature", SecurityScheme::ApiKey(ApiKey::Header(signature))),
            ("loopsSignature", SecurityScheme::ApiKey(ApiKey::Header(of_loops))),
            ("adminToken", http(HttpAuthScheme::Bearer, "One of the admin tokens (ADMIN_TOKEN).")),
        ];
        let components = document.components.get_or_insert_default();
        for (name, scheme) in schemes {
            components.add_security_scheme(name, scheme);
        }
    }
}

/// A message as Segment's SDKs write it. It must name a person: by a user id, an anonymous id, or an
/// e-mail address in `traits`, `properties`, `context.traits` or at the top level.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"type": "track", "userId": "user_1", "messageId": "hello-2", "event": "Signed Up", "properties": {"plan": "pro"}}))]
pub struct Message {
    /// `identify`, `track`, `page`, `screen`, `group`, `alias` or `delete`. If missing, the path decides.
    pub r#type: Option<String>,
    /// The id of the person in your own system.
    #[schema(example = "user_1")]
    pub user_id: Option<String>,
    /// An id for a person who is not known yet.
    pub anonymous_id: Option<String>,
    /// Messages with the same id from the same source are stored once. If missing, the service makes one.
    #[schema(max_length = 1024)]
    pub message_id: Option<String>,
    /// When it happened, in ISO 8601.
    pub timestamp: Option<String>,
    /// The name of the event, for `track`.
    pub event: Option<String>,
    /// What is known about the person, for `identify`.
    #[schema(value_type = Option<Object>)]
    pub traits: Option<Value>,
    /// What is known about the event, for `track`.
    #[schema(value_type = Option<Object>)]
    pub properties: Option<Value>,
    /// Where the message comes from: the library, the page, the device.
    #[schema(value_type = Option<Object>)]
    pub context: Option<Value>,
    /// `{"All": false}` or `{"Loops (Actions)": false}` keeps the message from being sent to Loops.
    #[schema(value_type = Option<Object>)]
    pub integrations: Option<Value>,
}

/// Messages that are sent together.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"batch": [{"type": "identify", "userId": "user_1", "traits": {"plan": "pro"}}], "sentAt": "2026-01-02T03:04:05.678Z"}))]
pub struct Batch {
    /// The messages. A message that cannot be accepted is listed in the response and does not affect the others.
    pub batch: Vec<Message>,
    /// Merged into the `context` of each message, whose own members win.
    #[schema(value_type = Option<Object>)]
    pub context: Option<Value>,
    /// Merged into the `integrations` of each message, whose own members win.
    #[schema(value_type = Option<Object>)]
    pub integrations: Option<Value>,
    /// When the batch was sent, by the sender's clock; used to correct the messages' times.
    pub sent_at: Option<String>,
}

/// One message, or a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One message.
    One(Box<Message>),
    /// Several messages.
    Many(Vec<Message>),
}

/// Returns the descriptions of errors, by status.
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
            401 => {
                response.header("WWW-Authenticate", header(Type::String, "How to authenticate."))
            }
            429 | 503 => response.header(
                "Retry-After",
                header(Type::Integer, "Seconds to wait before the request is sent again."),
            ),
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
            (
                400,
                "The body is not JSON of the right form, or its only message cannot be accepted.",
            ),
            (401, "No source has this write key."),
            (403, "Pages on this origin may not send, or this key may not delete."),
            (413, "The body, the message or the batch is too large."),
            (415, "The Content-Encoding is not gzip."),
            (
                429,
                "The messages cannot be stored now, or the address sends too much or too many wrong keys: send the request again after Retry-After.",
            ),
        ])
    }
}

/// The errors for analytics.js' own metrics, whose contents are ignored.
pub struct MetricsErrors;

impl IntoResponses for MetricsErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = TrackingErrors::responses();
        responses.retain(|status, _| !["401", "403"].contains(&status.as_str()));
        responses
    }
}

/// The errors of the settings, apart from those that the handler lists itself.
pub struct SettingsErrors;

impl IntoResponses for SettingsErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[(429, "Too many wrong keys come from this address.")])
    }
}

/// The errors of webhooks and the subscription destination.
pub struct WebhookErrors;

impl IntoResponses for WebhookErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            (
                400,
                "The body is not JSON of the right form, or its only message cannot be accepted.",
            ),
            (401, "The key, the signature or the token is missing or wrong."),
            (403, "This write key is public and may not delete, or the source accepts no lists."),
            (413, "The body, the message or the list is too large."),
            (415, "The Content-Encoding is not gzip."),
            (
                429,
                "The address sends too much or too many wrong keys: send the request again after Retry-After.",
            ),
            (503, "The messages cannot be stored now: send the request again after Retry-After."),
        ])
    }
}
