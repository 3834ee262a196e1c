//! The error of every HTTP answer: a status, a code for programs, a message for people.
//!
//! Statuses are chosen by what they make a sender do. Any 4xx but 429 makes every Segment SDK drop its
//! whole batch; 429 with `Retry-After` makes all of them retry. 408 is never used: some SDKs drop the batch on it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::AcceptError;
use crate::queue::intake::Rejection;

/// `Retry-After`, in seconds, for what passes within moments.
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
    /// `Retry-After` in seconds; `None`: the usual one of the status.
    pub retry_after_s: Option<u32>,
    /// Whether the request had a wrong key, rather than none.
    pub is_guess: bool,
}

/// Which contract an answer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// The tracking API: `success: false` in the body, 429 for "not now".
    Tracking,
    /// Webhooks and the subscription destination: 503 for "not now", which Segment repeats.
    Webhook,
    /// The admin API, and unknown paths elsewhere.
    Admin,
}

impl Contract {
    /// "Not now": the sender must retry.
    pub fn not_now(self, message: &str) -> ApiError {
        let status = match self {
            Contract::Tracking => StatusCode::TOO_MANY_REQUESTS,
            Contract::Webhook | Contract::Admin => StatusCode::SERVICE_UNAVAILABLE,
        };
        ApiError::new(status, "not_now", message)
    }

    /// "Not now", because other requests use all the memory.
    pub(super) fn no_room(self) -> ApiError {
        self.not_now(
            "the server is handling too many requests: send the request again after Retry-After",
        )
    }

    /// "Not now", for a condition that lasts longer.
    pub fn not_soon(self, message: &str) -> ApiError {
        ApiError { retry_after_s: Some(OUTAGE_RETRY_AFTER_SECONDS), ..self.not_now(message) }
    }

    /// The answer when the queue did not accept messages.
    pub fn not_accepted(self, error: &AcceptError) -> ApiError {
        match error {
            AcceptError::Busy => self.not_now("more messages come in than can be stored at the moment: send the request again after Retry-After"),
            AcceptError::Full => self.not_soon("the delivery backlog is full (store.backlog_messages_max, store.backlog_bytes_max): send the request again after Retry-After"),
            AcceptError::Reserved => self.not_soon("the disk has little free space, which is kept for other messages (store.free_bytes_min): send the request again after Retry-After"),
            AcceptError::Unavailable(_) => {
                self.not_soon("messages cannot be stored at the moment: send the request again after Retry-After")
            }
        }
    }

    /// The challenge of a 401, which RFC 9110 demands. A browser asks for a password if it knows the
    /// scheme, so pages get a scheme that no browser knows.
    fn challenge(self) -> &'static str {
        match self {
            Contract::Tracking => r#"WriteKey realm="segment-loops""#,
            Contract::Webhook => r#"Basic realm="segment-loops", Bearer realm="segment-loops""#,
            Contract::Admin => r#"Bearer realm="segment-loops""#,
        }
    }

    /// The contract of an unknown path.
    pub(super) fn of_path(path: &str) -> Self {
        let is_below = |root| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is_below("/v1") || is_below("/beacon") { Contract::Tracking } else { Contract::Admin }
    }
}

impl ApiError {
    /// Makes one.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_s: None, is_guess: false }
    }

    /// 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// The same error, for a request with a wrong key.
    pub fn of_guess(self) -> Self {
        Self { is_guess: true, ..self }
    }

    /// 429 for an address that sends too many wrong keys.
    pub fn too_many_guesses(retry_after_s: u32) -> Self {
        let text = "the key, token or signature is wrong, and too many wrong ones come from this address: send the request again after Retry-After, with the right one";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_guesses", text);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 429 for an address that sends too much; `key` is the limit.
    pub fn too_many(key: &str, retry_after_s: u32) -> Self {
        let text = format!(
            "this address sends too much: send the request again after Retry-After; the limit is sources.NAME.{key}"
        );
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// 405, for a method that a path does not have.
    pub(super) fn wrong_method() -> Self {
        // The method is not named: a client may send one as long as all headers together may be.
        let message = "this method is not allowed here: messages are sent with POST, everything else is read with GET; Allow has the methods of this path";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
    }

    /// The answer that carries it, by a contract.
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

/// The answer of the admin address for an unknown path.
pub(super) async fn not_on_admin_address(uri: Uri) -> Response {
    let hint = "there is nothing at this path: this is the address of server.admin_listen, and messages go to that of server.listen";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", hint).answer(Contract::of_path(uri.path()))
}

/// The answer for a method that a path does not have; axum adds `Allow`.
pub async fn wrong_method(uri: Uri) -> Response {
    ApiError::wrong_method().answer(Contract::of_path(uri.path()))
}
