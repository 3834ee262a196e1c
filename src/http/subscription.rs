//! Segment's subscription destination (Developer Center): one message per request, with the write key as the user name
//! of Basic authentication.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::endpoint::Endpoint;
use super::error::{ApiError, ErrorBody};
use super::ingest::{Arrival, Success, Visit};
use super::judged::Judged;
use super::openapi::{Message, WebhookErrors};
use super::{HttpState, Source, Sources, auth};
use crate::js::Value;
use crate::segment::repair::read_message;
use crate::segment::{MessageType, casing};

/// Accepts a message from Segment's subscription destination (Developer Center).
#[utoipa::path(
    post,
    path = "/destination",
    tag = "Subscription destination",
    operation_id = "destination",
    request_body(content = Message, content_type = "application/json"),
    responses(
        (status = 200, description = "The message is stored.", body = Success),
        (status = 501, description = "No subscription here takes messages of this type.", body = ErrorBody),
        WebhookErrors
    ),
    security(("writeKey" = []))
)]
pub(super) async fn take(State(state): State<HttpState>, arrival: Arrival) -> Response {
    let sources = state.sources();
    Visit::take(&state, Endpoint::Destination, arrival, |visit| greet(visit, &sources), judge).await
}

/// Finds the source by its key.
fn greet<'s>(visit: &mut Visit<'s>, sources: &'s Sources) -> Result<&'s Source, ApiError> {
    let key = auth::basic_user(&visit.headers);
    let source = key.as_ref().and_then(|key| sources.by_write_key(key));
    let source = source.ok_or_else(|| {
        let error = ApiError::unauthorized(
            "no source has this key: set the destination's API key in Segment to a write key of a source here (sources.NAME.write_keys or SEGMENT_WRITE_KEY)",
        );
        if key.is_some() { error.of_guess() } else { error }
    })?;
    visit.source = Some(source);
    visit.trust();
    Ok(source)
}

fn judge<'s>(visit: &mut Visit<'s>, source: &'s Source, body: &[u8]) -> Result<Judged, ApiError> {
    visit.admit_requests(1)?;
    let turn = visit.state.0.turns.block(body.len());
    let (kind, text) = spell(body, visit.state.0.limits.message_bytes_max);
    drop(turn);
    if let Some(kind) = kind
        && !source.usable.contains(&kind)
    {
        let text = format!(
            "no subscription here takes {kind} messages: turn them off in Segment, or add a subscription"
        );
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "unsupported_type", text));
    }
    visit.judge_one(&visit.intake(source, None), &text)
}

/// Returns the type of a message, if it has one, and its JSON with the fields in Segment's spelling. A body that is not
/// a message, or is too long for one, is returned unchanged and rejected when it is judged.
fn spell(body: &[u8], bytes_max: usize) -> (Option<MessageType>, Cow<'_, [u8]>) {
    if body.len() > bytes_max {
        return (None, Cow::Borrowed(body));
    }
    let Ok(Value::Object(mut object)) = read_message(body) else {
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
