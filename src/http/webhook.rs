//! Segment's Webhook destinations, classic and Actions: one message or a list.
//!
//! What must come with a request is set by its source: a signature where a secret is set, a token
//! where a token is set, both where both are, and a write key where neither is. The signature of a
//! list covers its first message alone: only a token vouches for the others.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::address::Sender;
use super::error::{ApiError, Contract, ErrorBody};
use super::ingest::{Intake, Judged, Success, judge_batch, judge_one, store};
use super::openapi::{OneOrMany, WebhookErrors};
use super::{HttpState, Source, auth, body, work};
use crate::secret::Secret;
use crate::segment::batch::{is_list, split_list};
use crate::segment::signature;
use crate::segment::value::Object;

const CONTRACT: Contract = Contract::Webhook;
const ENDPOINT: &str = "/webhook/{source}";

/// Takes what Segment's Webhook destinations send: one message or a list.
///
/// What must come with a request is set by its source: a signature, a token, both, or a write key
/// where neither is set.
#[utoipa::path(
    method(post, put, patch),
    path = "/webhook/{source}",
    tag = "Webhooks",
    operation_id = "webhook",
    params(("source" = String, Path, description = "The name of the source.", example = "default")),
    request_body(content = OneOrMany, content_type = "application/json"),
    responses(
        (status = 200, description = "Stored.", body = Success),
        (status = 404, description = "There is no source of this name.", body = ErrorBody),
        WebhookErrors
    ),
    security(
        ("webhookSignature" = []),
        ("webhookToken" = []),
        ("webhookSignature" = [], "webhookToken" = []),
        ("writeKey" = [])
    )
)]
pub(super) async fn take(
    State(state): State<HttpState>,
    name: Result<Path<String>, PathRejection>,
    sender: Sender,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let sources = state.sources();
    // A name that is no text is that of no source.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let Some(source) = sources.by_name(&name) else {
        let text = "there is no source of this name: the path is /webhook/{source}, with a source of the configuration (`default` where the environment sets it)";
        return CONTRACT.answer(ApiError::new(StatusCode::NOT_FOUND, "unknown_source", text));
    };
    let read = body::read(body, &headers, &state.0.limits, &state.0.budget, CONTRACT).await;
    let body = match read {
        Ok(body) => body,
        Err(error) => return CONTRACT.answer(error),
    };
    let judged =
        work::on(&state, body.bytes.len(), || judge(&state, source, sender, &headers, &body.bytes));
    match judged.await {
        Ok((intake, judged)) => store(&state, &intake, judged).await,
        Err(error) => CONTRACT.answer(error),
    }
}

fn judge<'a>(
    state: &HttpState,
    source: &'a Source,
    sender: Sender,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Intake<'a>, Judged), ApiError> {
    let refused = |error: &ApiError| {
        tracing::warn!(source = source.name, endpoint = ENDPOINT, code = error.code, "refused");
    };
    // A list that cannot be taken apart has no first element, and so no signature of one.
    let most = state.0.limits.batch_messages_max;
    let list = is_list(body).then(|| split_list(body, most));
    let first = list.as_ref().and_then(|list| list.as_ref().ok()?.messages.first().copied());
    authenticate(source, headers, body, first).inspect_err(refused)?;
    let is_by_key = is_by_key(source);
    if is_by_key {
        let messages = list.as_ref().map_or(1, |list| list.as_ref().map_or(1, |list| list.count));
        source.admit_address(sender.0, messages).inspect_err(refused)?;
    }
    let intake = Intake {
        endpoint: ENDPOINT,
        contract: CONTRACT,
        source,
        is_bulk: false,
        kind: None,
        is_from_segment: true,
        is_by_key,
        sender: None,
    };
    let Some(list) = list else {
        let judged = judge_one(state, &intake, body)?;
        return Ok((intake, judged));
    };
    let list = list.map_err(|error| ApiError::bad_request("bad_json", error.to_string()))?;
    if list.count > most {
        return Err(ApiError::too_large(format!(
            "the list has more than {most} messages: lower the batch size in Segment, or raise server.batch_messages_max"
        )));
    }
    let judged = judge_batch(state, &intake, &list.messages, &Object::new(), body.len());
    Ok((intake, judged))
}

/// Whether a write key is all that a source demands here.
fn is_by_key(source: &Source) -> bool {
    source.webhook_secrets.is_empty() && source.webhook_tokens.is_empty()
}

fn authenticate(
    source: &Source,
    headers: &HeaderMap,
    body: &[u8],
    first: Option<&[u8]>,
) -> Result<(), ApiError> {
    if !source.webhook_secrets.is_empty() {
        let given = headers.get("x-signature").and_then(|value| value.to_str().ok());
        let Some(given) = given else {
            return Err(ApiError::unauthorized(
                "X-Signature is missing: set the shared secret in Segment's webhook destination to the one that is set here",
            ));
        };
        let is_valid = |secret: &Secret| signature::is_valid(secret.expose(), given, body, first);
        if !source.webhook_secrets.iter().fold(false, |valid, secret| valid | is_valid(secret)) {
            return Err(ApiError::unauthorized(
                "X-Signature does not fit the body: the shared secret in Segment's webhook destination differs from the one that is set here, or the body was changed on the way",
            ));
        }
    }
    if !source.webhook_tokens.is_empty() {
        let given = auth::bearer(headers)
            .or_else(|| headers.get("x-webhook-token").and_then(|value| value.to_str().ok()));
        let is_known = |given: &str| Secret::is_any_of(&source.webhook_tokens, given.as_bytes());
        if !given.is_some_and(is_known) {
            return Err(ApiError::unauthorized(
                "the webhook token is missing or wrong: set the header Authorization: Bearer TOKEN in Segment's webhook destination",
            ));
        }
    }
    if is_by_key(source) && !auth::basic_user(headers).is_some_and(|key| source.knows(&key)) {
        return Err(ApiError::unauthorized(
            "this source has neither a webhook secret nor a webhook token, so its write key must come as the user name of Basic authentication; better set webhook_secret (SEGMENT_WEBHOOK_SECRET) to the shared secret of Segment's webhook destination",
        ));
    }
    Ok(())
}
