//! The endpoints for container platforms and Prometheus.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::openapi::{RefOr, Response as Described};
use utoipa::{IntoResponses, ToSchema};

use super::HttpState;
use super::error::ApiError;
use super::openapi::errors;
use crate::telemetry;

/// The state of the service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// `ok` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
}

/// The error of `/readyz`.
struct NotReady;

impl IntoResponses for NotReady {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        errors(&[(503, "The store does not work; the message says why.")])
    }
}

/// Whether the process is up.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Operations",
    operation_id = "health",
    responses((status = 200, description = "The process is up.", body = Status)),
    security(())
)]
pub(super) async fn alive() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Whether messages can be accepted.
///
/// They can if the store works, has this release's schema and can be written. Whether Loops is up does not matter:
/// messages then wait in the queue.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Operations",
    operation_id = "readiness",
    responses((status = 200, description = "Messages can be accepted.", body = Status), NotReady),
    security(())
)]
pub(super) async fn ready(State(state): State<HttpState>) -> Result<Json<Status>, ApiError> {
    state.0.log.ready().await.map_err(|fault| {
        // The error's source says what is wrong and what to do.
        let message = telemetry::chain(&fault).to_string();
        tracing::warn!(error = message, "not ready");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message)
    })?;
    Ok(Json(Status { status: "ready" }))
}

/// All metrics, in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Operations",
    operation_id = "metrics",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")),
    security(())
)]
pub(super) async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], (state.0.metrics)())
}
