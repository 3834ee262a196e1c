//! What container platforms and Prometheus ask.

use std::collections::BTreeMap;
use std::error::Error as _;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::openapi::{RefOr, Response as Described};
use utoipa::{IntoResponses, ToSchema};

use super::HttpState;
use super::error::ApiError;
use super::openapi::errors;

/// One word.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// `ok` or `ready`.
    status: &'static str,
}

/// The one error of `/readyz`.
struct NotReady;

impl IntoResponses for NotReady {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        errors(&[(503, "It does not.")])
    }
}

/// The process answers.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Operations",
    operation_id = "health",
    responses((status = 200, description = "It does.", body = Status)),
    security(())
)]
pub(super) async fn alive() -> Response {
    Json(Status { status: "ok" }).into_response()
}

/// The store answers, has this release's schema and can be written. Whether Loops is up does not
/// matter: a durable queue is there for that.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Operations",
    operation_id = "readiness",
    responses((status = 200, description = "It does.", body = Status), NotReady),
    security(())
)]
pub(super) async fn ready(State(state): State<HttpState>) -> Response {
    match state.0.log.ready().await {
        Ok(()) => Json(Status { status: "ready" }).into_response(),
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
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Operations",
    operation_id = "metrics",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")),
    security(())
)]
pub(super) async fn metrics(State(state): State<HttpState>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], (state.0.metrics)()).into_response()
}
