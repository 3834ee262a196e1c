//! Segment's Webhook destinations, classic and Actions: one message or a list.
//!
//! The source decides what a request must have: a signature if a secret is set, a token if a token is set, both if both
//! are set, and a write key if neither is. The signature of a list covers only its first message; only a token vouches
//! for the others. A source can be configured to refuse lists.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::endpoint::Endpoint;
use super::error::{ApiError, ErrorBody};
use super::ingest::{Arrival, Success, Visit};
use super::judged::Judged;
use super::openapi::{OneOrMany, WebhookErrors};
use super::{HttpState, Source, Sources, auth};
use crate::secret::Secret;
use crate::segment::list::{is_list, split_list};
use crate::segment::signature;

/// Accepts a message or a list of messages from Segment's Webhook destinations.
///
/// The source decides what a request must have: a signature, a token, both, or, if neither is set, a write key.
#[utoipa::path(
    method(post, put, patch),
    path = "/webhook/{source}",
    tag = "Webhooks",
    operation_id = "webhook",
    params(("source" = String, Path, description = "The name of the source.", example = "default")),
    request_body(content = OneOrMany, content_type = "application/json"),
    responses(
        (
            status = 200,
            description = "All messages are stored, except those listed as rejected.",
            body = Success
        ),
        (status = 404, description = "No source has this name.", body = ErrorBody),
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
    arrival: Arrival,
) -> Response {
    let sources = state.sources();
    // A name that is not UTF-8 belongs to no source.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    Visit::take(&state, Endpoint::Webhook, arrival, |visit| greet(visit, &sources, &name), judge)
        .await
}

/// Finds the source by the path, and checks what the headers alone can show.
fn greet<'s>(
    visit: &mut Visit<'s>,
    sources: &'s Sources,
    name: &str,
) -> Result<&'s Source, ApiError> {
    let source = sources.by_name(name).ok_or_else(|| {
        let text = "no source has this name: the path is /webhook/{source}, with a source of the configuration (`default` where the environment sets it)";
        ApiError::new(StatusCode::NOT_FOUND, "unknown_source", text)
    })?;
    visit.source = Some(source);
    check_headers(source, &visit.headers)?;
    // A signature can be checked only once the body was read.
    if source.is_webhook_by_key() || !source.webhook_tokens.is_empty() {
        visit.trust();
    }
    Ok(source)
}

fn judge<'s>(visit: &mut Visit<'s>, source: &'s Source, body: &[u8]) -> Result<Judged, ApiError> {
    let is_list = is_list(body);
    // Lists are refused before the signature is checked, so that Segment shows the reason.
    if is_list && !source.takes_webhook_lists {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "list_not_allowed",
            "this source does not accept lists (webhook_lists = false): turn batching off in Segment",
        ));
    }
    // A list that cannot be split has no first element, and therefore no signature of it.
    let most = visit.state.0.limits.batch_messages_max;
    let list = is_list.then(|| split_list(body, most));
    let first = list.as_ref().and_then(|list| list.as_ref().ok()?.messages.first().copied());
    check_signature(source, &visit.headers, body, first)?;
    if source.is_webhook_by_key() {
        let messages = list.as_ref().map_or(1, |list| list.as_ref().map_or(1, |list| list.count));
        visit.admit_requests(messages)?;
    }
    let intake = visit.intake(source, None);
    let Some(list) = list else {
        return visit.judge_one(&intake, body);
    };
    let list = list.map_err(|error| ApiError::bad_request("bad_json", error.to_string()))?;
    if list.count > most {
        return Err(ApiError::too_large(format!(
            "the list has more than {most} messages: lower the batch size in Segment, or raise server.batch_messages_max"
        )));
    }
    visit.judge_list(&intake, &list.messages)
}

fn check_headers(source: &Source, headers: &HeaderMap) -> Result<(), ApiError> {
    if !source.webhook_secrets.is_empty() && given_signature(headers).is_none() {
        return Err(ApiError::unauthorized(
            "X-Signature is missing: set the shared secret in Segment's webhook destination to the one that is set here",
        ));
    }
    if !source.webhook_tokens.is_empty() {
        let given = auth::bearer(headers)
            .or_else(|| headers.get("x-webhook-token").and_then(|value| value.to_str().ok()));
        let is_known = |given: &str| Secret::is_any_of(&source.webhook_tokens, given.as_bytes());
        if !given.is_some_and(is_known) {
            let error = ApiError::unauthorized(
                "the webhook token is missing or wrong: set the header Authorization: Bearer TOKEN in Segment's webhook destination",
            );
            return Err(ApiError { is_guess: given.is_some(), ..error });
        }
    }
    let key = auth::basic_user(headers);
    if source.is_webhook_by_key() && !key.as_ref().is_some_and(|key| source.knows(key)) {
        let error = ApiError::unauthorized(
            "this source has neither a webhook secret nor a webhook token, so its write key must come as the user name of Basic authentication; better set webhook_secret (SEGMENT_WEBHOOK_SECRET) to the shared secret of Segment's webhook destination",
        );
        return Err(ApiError { is_guess: key.is_some(), ..error });
    }
    Ok(())
}

/// Checks the signature, if the source has a secret.
fn check_signature(
    source: &Source,
    headers: &HeaderMap,
    body: &[u8],
    first: Option<&[u8]>,
) -> Result<(), ApiError> {
    let Some(given) = given_signature(headers).filter(|_| !source.webhook_secrets.is_empty())
    else {
        // If a signature is required, `check_headers` has made sure that there is one.
        return Ok(());
    };
    let is_valid = |secret: &Secret| signature::is_valid(secret.expose(), given, body, first);
    // All secrets are tried, so that the time does not reveal which one is right.
    match source.webhook_secrets.iter().fold(false, |valid, secret| valid | is_valid(secret)) {
        true => Ok(()),
        false => Err(ApiError::unauthorized(
            "X-Signature does not match the body: the shared secret in Segment's webhook destination differs from the one that is set here, or the body was changed on the way",
        )
        .of_guess()),
    }
}

fn given_signature(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-signature").and_then(|value| value.to_str().ok())
}
