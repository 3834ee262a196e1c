//! The error of every HTTP response: a status, a code for programs, a message for people.
//!
//! Statuses are chosen for their effect on senders. Any 4xx but 429 makes every Segment SDK drop its whole batch; 429
//! with `Retry-After` makes all of them retry. 408 is never used, because some SDKs drop the batch on it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::AcceptError;
use crate::queue::intake::Rejection;

/// `Retry-After`, in seconds, for conditions that pass within moments.
const RETRY_AFTER_SECONDS: u32 = 2;

/// `Retry-After`, in seconds, for conditions that last longer: a store that does not work, a full backlog. SDKs give up
/// after a number of tries (analytics.js 10, Segment's Node SDK 31), so a short wait would make them give up sooner.
const OUTAGE_RETRY_AFTER_SECONDS: u32 = 30;

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The status of the response.
    pub status: StatusCode,
    /// One of a few fixed words.
    pub code: &'static str,
    /// What was wrong, what is allowed, what to do.
    pub message: String,
    /// `Retry-After` in seconds; `None`: the default for the status.
    pub retry_after_s: Option<u32>,
    /// Whether the request had a wrong key, rather than none.
    pub is_guess: bool,
}

/// The contract that a response follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// The tracking API: `success: false` in the body, 429 for "not now".
    Tracking,
    /// Webhooks and the subscription destination: 503 for "not now", after which Segment retries.
    Webhook,
    /// The admin API, and unknown paths elsewhere.
    Admin,
}

impl Contract {
    /// Returns the error for "not now": the sender must retry.
    pub fn not_now(self, message: &str) -> ApiError {
        let status = match self {
            Contract::Tracking => StatusCode::TOO_MANY_REQUESTS,
            Contract::Webhook | Contract::Admin => StatusCode::SERVICE_UNAVAILABLE,
        };
        ApiError::new(status, "not_now", message)
    }

    /// Returns the error for "not now", because other requests use all the memory.
    pub(super) fn no_room(self) -> ApiError {
        self.not_now(
            "the server is handling too many requests: send the request again after Retry-After",
        )
    }

    /// Returns the error for "not now", for a condition that lasts longer.
    pub fn not_soon(self, message: &str) -> ApiError {
        ApiError { retry_after_s: Some(OUTAGE_RETRY_AFTER_SECONDS), ..self.not_now(message) }
    }

    /// Returns the error for messages that the queue did not accept.
    pub fn not_accepted(self, error: &AcceptError) -> ApiError {
        match error {
            AcceptError::Busy => self.not_now("more messages are arriving than can be stored at the moment: send the request again after Retry-After"),
            AcceptError::Full => self.not_soon("the delivery backlog is full (store.backlog_messages_max, store.backlog_bytes_max): send the request again after Retry-After"),
            AcceptError::Reserved => self.not_soon("the disk has little free space, which is kept for other messages (store.free_bytes_min): send the request again after Retry-After"),
            AcceptError::Unavailable(_) => {
                self.not_soon("messages cannot be stored at the moment: send the request again after Retry-After")
            }
        }
    }

    /// Returns the challenge of a 401, which RFC 9110 requires. A browser asks for a password if it knows the scheme,
    /// so pages get a scheme that no browser knows.
    fn challenge(self) -> &'static str {
        match self {
            Contract::Tracking => r#"WriteKey realm="segment-loops""#,
            Contract::Webhook => r#"Basic realm="segment-loops", Bearer realm="segment-loops""#,
            Contract::Admin => r#"Bearer realm="segment-loops""#,
        }
    }

    /// Returns the contract of an unknown path.
    pub(super) fn of_path(path: &str) -> Self {
        let is_below = |root| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is_below("/v1") || is_below("/beacon") { Contract::Tracking } else { Contract::Admin }
    }
}

impl ApiError {
    /// Creates an error.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_s: None, is_guess: false }
    }

    /// Creates a 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Creates a 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// Marks the error as caused by a wrong key.
    pub fn of_guess(self) -> Self {
        Self { is_guess: true, ..self }
    }

    /// Creates a 429 for an address that sends too many wrong keys.
    pub fn too_many_guesses(retry_after_s: u32) -> Self {
        let text = "the key, token or signature is wrong, and too many wrong ones come from this address: send the request again after Retry-After, with the right one";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_guesses", text);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// Creates a 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// Creates a 429 for an address that sends too much. `key` is the configuration key of the limit.
    pub fn too_many(key: &str, retry_after_s: u32) -> Self {
        let text = format!(
            "this address sends too much: send the request again after Retry-After; the limit is sources.NAME.{key}"
        );
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// Creates a 405 for a method that a path does not have.
    pub(super) fn wrong_method() -> Self {
        // The message does not contain the method, which may be as long as all headers together.
        let message = "this method is not allowed here: messages are sent with POST, everything else is read with GET; Allow has the methods of this path";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
    }

    /// Returns the response for this error under a contract.
    pub fn answer(self, contract: Contract) -> Response {
        let success = (contract == Contract::Tracking).then_some(false);
        let body = ErrorBody { code: self.code, message: &self.message, success };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let seconds = self.retry_after_s.unwrap_or(RETRY_AFTER_SECONDS);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(contract.challenge());
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let status = match rejection {
            Rejection::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Rejection::DeleteNotAllowed => StatusCode::FORBIDDEN,
            Rejection::NotJson(_) | Rejection::Invalid(_) | Rejection::LongId => {
                StatusCode::BAD_REQUEST
            }
        };
        Self::new(status, rejection.code(), rejection.to_string())
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
    /// Always `false`, and only below `/v1` and `/beacon`.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.answer(Contract::Admin)
    }
}

/// Responds to an unknown path on the admin address.
pub(super) async fn not_on_admin_address(uri: Uri) -> Response {
    let hint = "there is nothing at this path: this is the address of server.admin_listen, and messages go to the address of server.listen";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", hint).answer(Contract::of_path(uri.path()))
}

/// Responds to a method that a path does not have. axum adds `Allow`.
pub async fn wrong_method(uri: Uri) -> Response {
    ApiError::wrong_method().answer(Contract::of_path(uri.path()))
}
