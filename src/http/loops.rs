//! Loops' webhooks, which report what happened to mails and contacts.
//!
//! The signature is checked over the bytes as they were received. An event is on stable storage before it is
//! acknowledged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use jiff::Timestamp;
use metrics::{counter, gauge};
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use utoipa::{IntoResponses, ToSchema};

use super::HttpState;
use super::body::{self, ReadBody};
use super::endpoint::Endpoint;
use super::error::{ApiError, Contract, ErrorBody};
use super::guess::Place;
use super::ingest::Arrival;
use super::loops_webhooks::{LoopsWebhook, LoopsWebhooks};
use super::openapi::errors;
use crate::feedback::{
    self, ID_HEADER, Received, SIGNATURE_HEADER, TIMESTAMP_HEADER, is_valid, known,
};
use crate::queue::{NewFeedback, Recorded, SignedWebhook};
use crate::telemetry;

/// How far the time of a webhook may be from ours. Beyond that, someone may be replaying an old webhook. Five minutes,
/// as in the libraries of Standard Webhooks.
const TOLERANCE_S: u64 = 5 * 60;

/// The largest body. The longest ones have all properties of a contact.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// The longest `webhook-id`. The ids of Loops have about 30 characters.
const ID_BYTES_MAX: usize = 200;

/// The event is recorded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Heard {
    /// Always `true`.
    success: bool,
}

/// A webhook of Loops that is being processed.
struct Hearing<'s> {
    state: &'s HttpState,
    destination: &'s str,
    webhook: &'s LoopsWebhook,
    headers: &'s HeaderMap,
    now: Timestamp,
}

/// The headers of a webhook.
struct Signed<'h> {
    id: &'h str,
    timestamp: &'h str,
    signature: &'h str,
}

/// Accepts a webhook of Loops about a mail or a contact.
///
/// The event is on stable storage before it is acknowledged. A repeated event is acknowledged again. Events that this
/// release does not know are kept too.
#[utoipa::path(
    post,
    path = "/loops/{destination}",
    tag = "Feedback",
    operation_id = "loopsWebhook",
    params(
        ("destination" = String, Path, description = "The name of the destination.", example = "default"),
        ("webhook-id" = String, Header, description = "Loops' id of the webhook."),
        ("webhook-timestamp" = String, Header, description = "When it was sent, in Unix seconds; at most five minutes from the time here."),
    ),
    request_body(content = Object, content_type = "application/json"),
    responses(
        (status = 200, description = "The event is stored.", body = Heard),
        (status = 404, description = "No destination has this name, or its loops_webhook_secret is not set.", body = ErrorBody),
        LoopsWebhookErrors
    ),
    security(("loopsSignature" = []))
)]
pub(super) async fn take(
    State(state): State<HttpState>,
    name: Result<Path<String>, PathRejection>,
    arrival: Arrival,
) -> Response {
    let webhooks = state.loops_webhooks();
    // A name that is not UTF-8 belongs to no destination.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let Arrival { sender, headers, body, .. } = arrival;
    let heard = async {
        let (destination, webhook) = find(&webhooks, &name)?;
        let now = state.0.clock.now();
        let hearing = Hearing { state: &state, destination, webhook, headers: &headers, now };
        hearing.hear(body).await
    };
    match heard.await {
        Ok(()) => Json(Heard { success: true }).into_response(),
        Err(turned_away) => turned_away.answer(&state, sender),
    }
}

/// Why a webhook is turned away.
enum TurnedAway {
    /// Because of its contents or its sender.
    Error(ApiError),
    /// Because it could not be stored; holds the reason.
    NotStored(String),
}

impl From<ApiError> for TurnedAway {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl TurnedAway {
    /// Counts and logs it, and returns the response.
    fn answer(self, state: &HttpState, sender: Option<IpAddr>) -> Response {
        // Webhooks of Loops have no source.
        let (source, endpoint) = ("", Endpoint::Loops.as_str());
        let contract = Endpoint::Loops.contract();
        let cause = match self {
            Self::Error(error) => {
                let place = Place { source, endpoint, sender };
                return state.0.guesses.reject(place, error).answer(contract);
            }
            Self::NotStored(cause) => cause,
        };
        let error = contract.not_soon(
            "events cannot be stored at the moment: send the request again after Retry-After",
        );
        // Only a warning: a store that does not work and a full disk have their own error lines.
        if let Some(unlogged) = state.0.rejections.count(source, endpoint, error.code, 1) {
            warn!(source, endpoint, code = error.code, error = cause, unlogged, "rejected");
        }
        error.answer(contract)
    }
}

fn find<'w>(
    webhooks: &'w LoopsWebhooks,
    name: &str,
) -> Result<(&'w str, &'w LoopsWebhook), ApiError> {
    let not_found = |code, text: &str| ApiError::new(StatusCode::NOT_FOUND, code, text);
    let Some((name, webhook)) = webhooks.0.get_key_value(name) else {
        return Err(not_found(
            "unknown_destination",
            "no destination has this name: the path is /loops/{destination}, with a destination of the configuration (`default` where the environment sets it)",
        ));
    };
    if webhook.keys.is_empty() {
        return Err(not_found(
            "webhook_off",
            "this destination does not accept webhooks from Loops: set destinations.NAME.loops_webhook_secret (LOOPS_WEBHOOK_SECRET) to the signing secret that Loops shows under Settings, Webhooks",
        ));
    }
    Ok((name, webhook))
}

impl Hearing<'_> {
    async fn hear(&self, body: axum::body::Body) -> Result<(), TurnedAway> {
        let signed = self.signed()?;
        let contract = Contract::Webhook;
        if announced(self.headers).is_some_and(|length| length > BODY_BYTES_MAX) {
            return Err(too_large().into());
        }
        let account = self.state.0.budget.account();
        let ReadBody { bytes: body, account } =
            body::read(body, self.headers, self.state, contract, account).await?;
        if body.len() > BODY_BYTES_MAX {
            return Err(too_large().into());
        }
        let Signed { id, timestamp, signature } = signed;
        if !is_valid(&self.webhook.keys, signature, id, timestamp, &body) {
            return Err(ApiError::unauthorized(
                "webhook-signature does not match: loops_webhook_secret differs from the signing secret that Loops shows under Settings, Webhooks, or the body was changed on the way",
            )
            .of_guess()
            .into());
        }
        let started = Instant::now();
        let received = Received {
            digests: &self.state.0.digests,
            destination: self.destination,
            webhook_id: id,
            received_at: self.now,
        };
        let record = feedback::read(&body, received)
            .map_err(|error| ApiError::bad_request(error.code(), error.to_string()))?;
        let (event, bytes) = (known(&record.event), body.len());
        let forward = self.webhook.forward.as_ref().map(|_| SignedWebhook {
            timestamp: timestamp.to_owned(),
            signature: signature.to_owned(),
            body: Bytes::from(body),
        });
        let recorded = self.record(NewFeedback { record, forward }).await?;
        drop(account);
        let destination = self.destination;
        let heard_at = self.now.as_millisecond() as f64 / 1_000.0;
        gauge!(telemetry::LAST_FEEDBACK, "destination" => destination.to_owned()).set(heard_at);
        if recorded != Recorded::Duplicate {
            let labels = [("destination", destination.to_owned()), ("event", event.to_owned())];
            counter!(telemetry::FEEDBACK, &labels).increment(1);
        }
        match (recorded, &self.webhook.forward) {
            (Recorded::New, Some(wake)) => wake.notify_one(),
            (Recorded::NotForwarded, _) => {
                let labels =
                    [("destination", destination.to_owned()), ("outcome", "not_kept".to_owned())];
                counter!(telemetry::FEEDBACK_FORWARDS, &labels).increment(1);
                warn!(
                    destination,
                    event, "a webhook of Loops is not handed on: too many are waiting"
                );
            }
            (Recorded::New | Recorded::Duplicate, _) => {}
        }
        let new = recorded != Recorded::Duplicate;
        let duration_ms = started.elapsed().as_millis() as u64;
        info!(destination, event, new, bytes, duration_ms, "heard from loops");
        Ok(())
    }

    /// Returns the headers, after checking that their time is near.
    fn signed(&self) -> Result<Signed<'_>, ApiError> {
        let header = |name| {
            let value = self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
            value.filter(|value| !value.is_empty()).ok_or_else(|| {
                ApiError::bad_request(
                    "missing_header",
                    "webhook-id, webhook-timestamp and webhook-signature are needed: Loops sends them, so a proxy may have dropped them",
                )
            })
        };
        let signed = Signed {
            id: header(ID_HEADER)?,
            timestamp: header(TIMESTAMP_HEADER)?,
            signature: header(SIGNATURE_HEADER)?,
        };
        if signed.id.len() > ID_BYTES_MAX {
            return Err(ApiError::bad_request("long_id", "webhook-id is too long"));
        }
        let sent_at: i64 = signed.timestamp.parse().map_err(|_| {
            ApiError::bad_request("bad_timestamp", "webhook-timestamp must be in Unix seconds")
        })?;
        if self.now.as_second().abs_diff(sent_at) > TOLERANCE_S {
            return Err(ApiError::bad_request(
                "old_timestamp",
                "webhook-timestamp is more than five minutes from the time here: the webhook is old, or the clock of this machine is wrong",
            ));
        }
        Ok(signed)
    }

    async fn record(&self, feedback: NewFeedback) -> Result<Recorded, TurnedAway> {
        crate::crash::point("accept.before");
        let recording = self.state.0.feedback.record(feedback);
        let recorded = timeout(self.state.0.limits.ack_timeout, recording).await;
        crate::crash::point("accept.after");
        match recorded {
            Ok(recorded) => recorded
                .map_err(|fault| TurnedAway::NotStored(telemetry::chain(&fault).to_string())),
            Err(_) => Err(TurnedAway::NotStored("storing takes too long".to_owned())),
        }
    }
}

/// Returns the length that the headers announce.
fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(axum::http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large() -> ApiError {
    ApiError::too_large(format!("the body has more than {BODY_BYTES_MAX} bytes"))
}

/// The errors of Loops' webhooks.
struct LoopsWebhookErrors;

impl IntoResponses for LoopsWebhookErrors {
    fn responses() -> BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
        errors(&[
            (
                400,
                "A header is missing, the timestamp is too far from now, or the body is not an event.",
            ),
            (401, "The signature is wrong."),
            (413, "The body is too large."),
            (415, "The Content-Encoding is not gzip."),
            (
                429,
                "Too many wrong signatures come from this address: send the request again after Retry-After.",
            ),
            (503, "The event cannot be stored now: send the request again after Retry-After."),
        ])
    }
}
