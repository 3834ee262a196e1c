//! The error of every HTTP answer: a status, a code for programs, a message for people.
//!
//! Statuses are chosen by what they make a sender do. Any 4xx but 429 makes every Segment SDK drop its
//! whole batch; 429 with `Retry-After` makes all of them come again. 408 is never used: some drop on it.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::AcceptError;
use crate::queue::intake::RefusalReason;

/// How long a sender is told to wait, in seconds, for what passes within moments.
const RETRY_AFTER_SECONDS: u32 = 2;

/// The same for what passes slowly: a store that does not work, a full backlog. SDKs count their tries,
/// analytics.js ten and Segment's for Node 31, so that a short wait makes them give up sooner.
const OUTAGE_RETRY_AFTER_SECONDS: u32 = 30;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status of the answer.
    pub status: StatusCode,
    /// One of a few fixed words.
    pub code: &'static str,
    /// What was wrong, what is allowed, what to do.
    pub message: String,
    /// When the sender shall come again, in seconds; `None`: as is usual for the status.
    pub retry_after_s: Option<u32>,
}

/// Which contract an answer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// The tracking API: `success: false` in the body, 429 for "not now".
    Tracking,
    /// Webhooks and the subscription destination: 503 for "not now", which Segment repeats.
    Webhook,
}

impl Contract {
    /// "Not now": the sender shall come again.
    pub fn not_now(self, message: &str) -> ApiError {
        let status = match self {
            Contract::Tracking => StatusCode::TOO_MANY_REQUESTS,
            Contract::Webhook => StatusCode::SERVICE_UNAVAILABLE,
        };
        ApiError::new(status, "not_now", message)
    }

    /// "Not now", and not soon.
    pub fn not_soon(self, message: &str) -> ApiError {
        ApiError { retry_after_s: Some(OUTAGE_RETRY_AFTER_SECONDS), ..self.not_now(message) }
    }

    /// The answer to a queue that did not take messages.
    pub fn queue_fault(self, fault: &AcceptError) -> ApiError {
        match fault {
            AcceptError::Busy => self.not_now("more messages come in than can be stored at the moment: send the request again after Retry-After"),
            AcceptError::Full => self.not_soon("as many messages wait to be delivered as may wait: send the request again after Retry-After"),
            AcceptError::Unavailable(_) => {
                self.not_soon("messages cannot be stored at the moment: send the request again after Retry-After")
            }
        }
    }

    /// The answer that carries an error.
    pub fn answer(self, error: ApiError) -> Response {
        error.answer(Some(self))
    }

    /// How to authenticate. RFC 9110 demands a challenge with each 401, and a browser asks for a
    /// password where it knows one: pages are given one that no browser knows.
    fn challenge(self) -> &'static str {
        match self {
            Contract::Tracking => r#"WriteKey realm="segment-loops""#,
            Contract::Webhook => r#"Basic realm="segment-loops", Bearer realm="segment-loops""#,
        }
    }

    /// The contract of a path that nothing is at; `None` where it is that of none.
    fn of_path(path: &str) -> Option<Self> {
        (path == "/v1" || path.starts_with("/v1/")).then_some(Contract::Tracking)
    }
}

impl ApiError {
    /// Makes one.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_s: None }
    }

    /// 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 429 for an address that sends too much.
    pub fn too_many(retry_after_s: u32) -> Self {
        let text = "too many requests come from this address: send the request again after Retry-After; the limit is sources.NAME.address_requests_max";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// For a message that cannot be accepted.
    pub fn refusal(reason: &RefusalReason) -> Self {
        let status = match reason {
            RefusalReason::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            RefusalReason::DeleteNotAllowed => StatusCode::FORBIDDEN,
            RefusalReason::NotJson(_) | RefusalReason::Invalid(_) | RefusalReason::LongId => {
                StatusCode::BAD_REQUEST
            }
        };
        Self::new(status, reason.code(), reason.to_string())
    }

    /// The answer by a contract of Segment's; `None`: by that of the admin API.
    fn answer(self, contract: Option<Contract>) -> Response {
        let success = (contract == Some(Contract::Tracking)).then_some(false);
        let body = ErrorBody { code: self.code, message: &self.message, success };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let seconds = self.retry_after_s.unwrap_or(RETRY_AFTER_SECONDS);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = contract.map_or(r#"Bearer realm="segment-loops""#, Contract::challenge);
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// For programs: one of a few fixed words.
    #[schema(example = "bad_json")]
    code: &'static str,
    /// For people: what was wrong, what is allowed, what to do.
    message: &'a str,
    /// `false`; below `/v1` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.answer(None)
    }
}

/// The answer for paths that nothing is at.
pub(super) async fn no_such_path(uri: Uri) -> Response {
    let hint = "there is nothing at this path; messages go to /v1/identify, /v1/track, /v1/batch and so on, to /webhook/{source} or to /destination";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", hint).answer(Contract::of_path(uri.path()))
}

/// The answer of the admin address for paths that nothing is at.
pub(super) async fn not_on_admin_address(uri: Uri) -> Response {
    let hint = "there is nothing at this path: this is the address of server.admin_listen, and messages go to that of server.listen";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", hint).answer(Contract::of_path(uri.path()))
}

/// The answer for a method that a path does not have; axum adds `Allow`.
pub async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!(
        "{method} is not for this path: messages are sent with POST, the rest is asked with GET"
    );
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
        .answer(Contract::of_path(uri.path()))
}
