//! The admin API: what became of a message.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::error::ApiError;
use crate::queue::{
    Attempt, DeliveryRecord, DeliveryState, Log, MessageRecord, QueueError, RequestRecord, Seq,
};
use crate::secret::Secret;
use crate::segment::{MessageHash, PersonHash};

/// How many messages an answer holds unless asked otherwise, and at the most.
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;

/// What the admin API works with.
#[derive(Clone)]
pub struct AdminState {
    /// Where it looks.
    pub log: Arc<dyn Log>,
    /// Who may ask; without one, nobody.
    pub token: Option<Secret>,
}

/// The routes below `/api`.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/api/messages", get(of_person))
        .route("/api/messages/{message_id}", get(of_id))
        .method_not_allowed_fallback(crate::http::error::wrong_method)
        .with_state(state)
}

/// `GET /api/messages/{messageId}`
async fn of_id(
    State(state): State<AdminState>,
    headers: HeaderMap,
    Path(message_id): Path<String>,
) -> Result<Response, ApiError> {
    state.admit(&headers)?;
    let hash = MessageHash::of(&message_id);
    let found =
        state.log.by_message_id(hash, &message_id).await.map_err(|fault| fault_of(&fault))?;
    if found.is_empty() {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_message",
            "no message with this id was accepted, or its record is past its time (store.records_retention_h)",
        ));
    }
    Ok(Json(json!({"messages": found.iter().map(message).collect::<Vec<_>>()})).into_response())
}

/// What `GET /api/messages` can be asked with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersonQuery {
    user_id: Option<String>,
    limit: Option<u32>,
    before: Option<i64>,
}

/// `GET /api/messages?userId=…`: latest first; `before` continues behind the last `seq` of an answer.
async fn of_person(
    State(state): State<AdminState>,
    headers: HeaderMap,
    query: Result<Query<PersonQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    state.admit(&headers)?;
    let usage = "ask with ?userId=… (or an anonymous id, or an e-mail address, for messages that have no user id), &limit=1 to 500, &before=the last seq of the page before";
    let Ok(Query(query)) = query else {
        return Err(ApiError::bad_request("bad_query", usage));
    };
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    let Some(user_id) =
        query.user_id.filter(|id| !id.is_empty() && (1..=LIMIT_MAX).contains(&limit))
    else {
        return Err(ApiError::bad_request("bad_query", usage));
    };
    let person = PersonHash::of(&user_id);
    let found = state
        .log
        .by_person(person, query.before.map(Seq), limit)
        .await
        .map_err(|fault| fault_of(&fault))?;
    Ok(Json(json!({"messages": found.iter().map(message).collect::<Vec<_>>()})).into_response())
}

impl AdminState {
    fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "no_admin_token",
                "the admin API is off: set ADMIN_TOKEN (server.admin_token) and restart",
            ));
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if given.is_some_and(|(_, given)| token.matches(given.trim().as_bytes())) {
            return Ok(());
        }
        Err(ApiError::unauthorized(
            "the admin token is missing or wrong: send Authorization: Bearer ADMIN_TOKEN",
        ))
    }
}

fn fault_of(fault: &QueueError) -> ApiError {
    tracing::error!(error = fault as &dyn std::error::Error, "the log cannot be read");
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "store_fault",
        "the store does not answer: see the log for the cause",
    )
}

fn message(record: &MessageRecord) -> Value {
    let states = || record.deliveries.iter().map(|delivery| delivery.state);
    let state = if !record.is_done {
        "pending"
    } else if record.deliveries.is_empty() {
        "unmatched"
    } else if states().any(|state| state == DeliveryState::Failed) {
        "failed"
    } else {
        "delivered"
    };
    json!({
        "messageId": record.message_id,
        "seq": record.seq.0,
        "type": record.kind.as_str(),
        "source": record.source,
        "destination": record.destination,
        "receivedAt": record.received_at.to_string(),
        "state": state,
        "reason": record.unmatched,
        "deliveries": record.deliveries.iter().map(delivery).collect::<Vec<_>>(),
    })
}

fn delivery(record: &DeliveryRecord) -> Value {
    json!({
        "subscription": record.subscription,
        "action": record.action,
        "state": record.state.as_str(),
        "reason": record.failure.as_ref().map(|failure| &failure.reason),
        "detail": record.failure.as_ref().map(|failure| &failure.detail),
        "warnings": record.warnings,
        "request": record.request.as_ref().map(request),
    })
}

fn request(record: &RequestRecord) -> Value {
    json!({
        "id": record.id.0,
        "method": record.method,
        "path": record.path,
        "idempotencyKey": record.idempotency_key,
        "nextAttemptAt": record.next_attempt_at.map(|at| at.to_string()),
        "attempts": record.attempts.iter().map(attempt).collect::<Vec<_>>(),
    })
}

fn attempt(record: &Attempt) -> Value {
    json!({
        "number": record.number,
        "startedAt": record.started_at.to_string(),
        "durationMs": u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        "status": record.status,
        "outcome": record.outcome,
        "answer": record.excerpt,
    })
}
