//! Responses in Loops' format: always JSON, and a refusal always has a `message`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// The result of a handler: JSON, or a refusal.
pub(super) type Answer = Result<Json<Value>, Refusal>;

/// The rule that a request broke. It is put into the extensions of the response, for the log.
#[derive(Debug, Clone)]
pub(super) struct BrokenRule(pub(super) String);

/// The reason why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status of the response.
    pub(super) status: StatusCode,
    /// Says what is wrong and, if that helps, what is right. Never holds a value of the request.
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(super) fn contact_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Contact not found.")
    }

    pub(super) fn invalid_key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Invalid API key")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({"success": false, "message": self.message});
        // In this one response, Loops' contract has a second, deprecated copy of the message.
        if self.status == StatusCode::UNAUTHORIZED {
            body["error"] = Value::from(self.message.as_str());
        }
        let mut response = (self.status, Json(body)).into_response();
        response.extensions_mut().insert(BrokenRule(self.message));
        response
    }
}

/// Responds to an unknown path.
pub(super) async fn no_such_path() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is nothing at this path.")
}

/// Responds to a method that a path does not have.
pub(super) async fn wrong_method() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "This path does not accept this HTTP method.")
}

/// Reads a body as a JSON object.
pub(super) fn parse_object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() {
        return Err(Refusal::bad_request("The body is empty: send a JSON object."));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::bad_request("The body must be a JSON object.")),
        Err(error) => Err(Refusal::bad_request(format!("The body is not valid JSON: {error}."))),
    }
}
