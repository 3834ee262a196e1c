//! The admin API: what became of a message, and what people can do about it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use super::openapi::{AdminErrors, BadConfiguration, Messages, Preview};
use super::{preview, replay};
use crate::destination::Destination;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::openapi::Message;
use crate::queue::{
    Attempt, DeliveryRecord, DeliveryState, Log, MessageRecord, Replays, RequestRecord, Seq,
};
use crate::secret::Secret;
use crate::segment::decode::decode;
use crate::segment::{MessageHash, PersonHash};

/// How many messages an answer holds unless asked otherwise, and at the most.
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;

/// The largest message that can be previewed, in bytes.
const PREVIEW_BYTES_MAX: usize = 1024 * 1024;

/// What the admin API works with.
#[derive(Clone)]
pub struct AdminState {
    /// Where it looks.
    pub log: Arc<dyn Log>,
    /// What puts messages back to work.
    pub replays: Arc<dyn Replays>,
    /// Who may ask; without one, nobody.
    pub token: Option<Secret>,
    /// What plans the messages of each destination.
    pub planners: Planners,
    /// Takes a changed configuration up; reads files, so it blocks.
    pub reload: Arc<dyn Fn() -> Reload + Send + Sync>,
}

/// The subscriptions in force, by the name of their destination.
pub type Planners = HashMap<String, watch::Receiver<Arc<Destination>>>;

/// What a reload came to.
pub type Reload = Result<Reloaded, Vec<ReloadMistake>>;

/// What is in force after a reload.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// How many subscriptions each destination has.
    pub subscriptions: BTreeMap<String, usize>,
    /// Keys that changed and keep their old values until a restart.
    pub needs_restart: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReloadMistake {
    /// The file, or `environment`.
    pub place: String,
    /// The key.
    pub key: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// The routes below `/api`.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/api/messages", get(of_person))
        .route("/api/messages/{message_id}", get(of_id))
        .route("/api/preview", post(preview_message))
        .route("/api/reload", post(reload))
        .route("/api/replay", post(replay::replay))
        .layer(DefaultBodyLimit::max(PREVIEW_BYTES_MAX))
        .method_not_allowed_fallback(crate::http::error::wrong_method)
        .with_state(state)
}

/// `GET /api/messages/{messageId}`
#[utoipa::path(
    get,
    path = "/api/messages/{message_id}",
    tag = "Administration",
    operation_id = "message",
    summary = "Tells what became of a message.",
    params(("message_id" = String, Path, description = "Its message id.", example = "hello-1")),
    responses(
        (status = 200, description = "What became of it, once for each source.", body = Messages),
        (status = 404, description = "No such message was accepted, or its record is past its time.", body = ErrorBody),
        AdminErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn of_id(
    State(state): State<AdminState>,
    headers: HeaderMap,
    message_id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    state.admit(&headers)?;
    // An id that is no text is that of no message.
    let message_id = message_id.map(|Path(message_id)| message_id).unwrap_or_default();
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
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct PersonQuery {
    /// A user id; or an anonymous id, or an e-mail address, for messages that have no user id.
    #[param(required, example = "user_1", min_length = 1)]
    user_id: Option<String>,
    /// How many messages the answer holds at the most; 50 unless told otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The last `seq` of the page before.
    before: Option<i64>,
}

/// `GET /api/messages?userId=…`: latest first; `before` continues behind the last `seq` of an answer.
#[utoipa::path(
    get,
    path = "/api/messages",
    tag = "Administration",
    operation_id = "messages",
    summary = "Tells the messages of a person, latest first.",
    params(PersonQuery),
    responses(
        (status = 200, description = "The messages.", body = Messages),
        (status = 400, description = "The query is not what it should be.", body = ErrorBody),
        AdminErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn of_person(
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

/// What `POST /api/preview` can be asked with.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PreviewQuery {
    /// Which destination; needed where there are several.
    #[param(example = "default")]
    destination: Option<String>,
}

/// `POST /api/preview?destination=…`: what would become of the message in the body.
#[utoipa::path(
    post,
    path = "/api/preview",
    tag = "Administration",
    operation_id = "preview",
    summary = "Tells what would become of a message. Nothing is stored or sent.",
    params(PreviewQuery),
    request_body(content = Message, content_type = "application/json"),
    responses(
        (status = 200, description = "What would become of it.", body = Preview),
        (status = 400, description = "The body is no message, or the destination is unclear.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn preview_message(
    State(state): State<AdminState>,
    headers: HeaderMap,
    query: Result<Query<PreviewQuery>, axum::extract::rejection::QueryRejection>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, ApiError> {
    state.admit(&headers)?;
    let asked = query.ok().and_then(|query| query.0.destination);
    let planner = state.planner(asked.as_deref())?;
    let body = body.map_err(|_| {
        let problem =
            format!("the body could not be read, or has more than {PREVIEW_BYTES_MAX} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", problem)
    })?;
    let value =
        decode(&body).map_err(|error| ApiError::bad_request("bad_json", error.to_string()))?;
    let message = preview::message_of(value)
        .map_err(|problem| ApiError::bad_request("bad_message", problem.to_string()))?;
    Ok(Json(preview::as_json(&planner, &message)).into_response())
}

/// `POST /api/reload`: as SIGHUP does.
#[utoipa::path(
    post,
    path = "/api/reload",
    tag = "Administration",
    operation_id = "reload",
    summary = "Takes a changed configuration up.",
    responses(
        (status = 200, description = "It is in force.", body = Reloaded),
        (status = 422, description = "It has mistakes; the old one stays in force.", body = BadConfiguration),
        (status = 500, description = "The reload broke off.", body = ErrorBody),
        AdminErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn reload(
    State(state): State<AdminState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    state.admit(&headers)?;
    let reload = Arc::clone(&state.reload);
    let reloaded = tokio::task::spawn_blocking(move || reload()).await.map_err(|_| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "reload_broke_off",
            "the reload broke off: see the log",
        )
    })?;
    Ok(match reloaded {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(mistakes) => {
            let message = "the configuration has mistakes; the old one stays in force";
            let answer =
                json!({"code": "bad_configuration", "message": message, "mistakes": mistakes});
            (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response()
        }
    })
}

impl AdminState {
    fn planner(&self, asked: Option<&str>) -> Result<Arc<Destination>, ApiError> {
        let found = match asked {
            Some(name) => self.planners.get(name),
            None if self.planners.len() == 1 => self.planners.values().next(),
            None => None,
        };
        let found = found.map(|planner| Arc::clone(&planner.borrow()));
        found.ok_or_else(|| {
            let mut names: Vec<&str> = self.planners.keys().map(String::as_str).collect();
            names.sort_unstable();
            let problem =
                format!("say which destination: ?destination= one of {}", names.join(", "));
            ApiError::bad_request("which_destination", problem)
        })
    }

    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
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

pub(super) fn fault_of(fault: &crate::queue::Unavailable) -> ApiError {
    tracing::error!(error = fault as &dyn std::error::Error, "the store failed");
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "store_fault",
        "the store does not answer: see the log for the cause",
    )
}

fn message(record: &MessageRecord) -> Value {
    // What a replay superseded is history.
    let standing = || record.deliveries.iter().filter(|delivery| !delivery.is_superseded);
    let states = || standing().map(|delivery| delivery.state);
    let state = if !record.is_done {
        "pending"
    } else if standing().next().is_none() {
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
        "replay": record.replay,
        "deliveries": record.deliveries.iter().map(delivery).collect::<Vec<_>>(),
    })
}

fn delivery(record: &DeliveryRecord) -> Value {
    json!({
        "subscription": record.subscription,
        "action": record.action,
        "replay": record.replay,
        "superseded": record.is_superseded,
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
