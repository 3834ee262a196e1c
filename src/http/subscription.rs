//! Segment's subscription destination (Developer Center): one message a request, the write key as the
//! user name of Basic authentication.

use std::borrow::Cow;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::address::Sender;
use super::error::{ApiError, Contract, ErrorBody};
use super::ingest::{Intake, Success, judge_one, store};
use super::openapi::{Message, WebhookErrors};
use super::{HttpState, auth, body, work};
use crate::segment::decode::decode;
use crate::segment::{MessageType, Value, casing};

const CONTRACT: Contract = Contract::Webhook;
const ENDPOINT: &str = "/destination";

/// Takes what Segment's subscription destination (Developer Center) sends: one message.
#[utoipa::path(
    post,
    path = "/destination",
    tag = "Subscription destination",
    operation_id = "destination",
    request_body(content = Message, content_type = "application/json"),
    responses(
        (status = 200, description = "Stored.", body = Success),
        (status = 501, description = "No subscription here takes this type of message.", body = ErrorBody),
        WebhookErrors
    ),
    security(("writeKey" = []))
)]
pub(super) async fn take(
    State(state): State<HttpState>,
    sender: Sender,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let sources = state.sources();
    let source = auth::basic_user(&headers).and_then(|key| sources.by_write_key(&key));
    let Some(source) = source else {
        tracing::warn!(endpoint = ENDPOINT, code = "unauthorized", "refused");
        return CONTRACT.answer(ApiError::unauthorized(
            "no source has this key: set the destination's API key in Segment to a write key of a source here (sources.NAME.write_keys or SEGMENT_WRITE_KEY)",
        ));
    };
    let read = body::read(body, &headers, &state.0.limits, &state.0.budget, CONTRACT).await;
    let body = match read {
        Ok(body) => body,
        Err(error) => return CONTRACT.answer(error),
    };
    let judged = work::on(&state, body.bytes.len(), || {
        source.admit_address(sender.0, 1).inspect_err(|error| {
            tracing::warn!(source = source.name, endpoint = ENDPOINT, code = error.code, "refused");
        })?;
        let (kind, text) = read_message(&body.bytes, state.0.limits.message_bytes_max);
        if let Some(kind) = kind
            && !source.usable.contains(&kind)
        {
            let text = format!(
                "no subscription here takes {kind} messages: turn them off in Segment, or add a subscription"
            );
            return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "unsupported_type", text));
        }
        let intake = Intake {
            endpoint: ENDPOINT,
            contract: CONTRACT,
            source,
            is_bulk: false,
            kind: None,
            is_from_segment: true,
            is_by_key: true,
            sender: None,
        };
        let judged = judge_one(&state, &intake, &text)?;
        Ok((intake, judged))
    });
    match judged.await {
        Ok((intake, judged)) => store(&state, &intake, judged).await,
        Err(error) => CONTRACT.answer(error),
    }
}

/// The type of a message, where it has one, and its text with the fields in Segment's spelling. What
/// is no message, or longer than one may be, stays as it is, and is refused when it is judged.
fn read_message(body: &[u8], bytes_max: usize) -> (Option<MessageType>, Cow<'_, [u8]>) {
    if body.len() > bytes_max {
        return (None, Cow::Borrowed(body));
    }
    let Ok(Value::Object(mut object)) = decode(body) else {
        return (None, Cow::Borrowed(body));
    };
    let is_changed = casing::settle(&mut object);
    let message = Value::Object(object);
    let kind = message.get("type").and_then(Value::as_str).and_then(MessageType::parse);
    let text = match is_changed {
        true => Cow::Owned(message.to_stored_json().into_bytes()),
        false => Cow::Borrowed(body),
    };
    (kind, text)
}
