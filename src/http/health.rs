//! What container platforms and Prometheus ask.

use std::error::Error as _;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::HttpState;
use super::error::ApiError;

/// The process answers.
pub(super) async fn alive() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// The store answers, has this release's schema and can be written. Whether Loops is up does not matter: a durable
/// queue is there for that.
pub(super) async fn ready(State(state): State<HttpState>) -> Response {
    match state.0.log.ready().await {
        Ok(()) => Json(json!({"status": "ready"})).into_response(),
        Err(fault) => {
            tracing::warn!(error = &fault as &dyn std::error::Error, "not ready");
            // Its source says what is wrong and what to do, in words of ours.
            let message = match fault.source() {
                Some(cause) => format!("{fault}: {cause}"),
                None => fault.to_string(),
            };
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message).into_response()
        }
    }
}

/// All metrics, as Prometheus reads them.
pub(super) async fn metrics(State(state): State<HttpState>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], (state.0.metrics)()).into_response()
}
