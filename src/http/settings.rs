//! What analytics.js asks for before it sends anything.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::HttpState;
use super::error::{ApiError, Contract, ErrorBody};

/// `GET /v1/projects/{writeKey}/settings`: the key that was asked for, and our own address.
///
/// Without `integrations["Segment.io"].apiKey` analytics.js sends nothing at all, or sends to Segment.
#[utoipa::path(
    get,
    path = "/v1/projects/{write_key}/settings",
    tag = "Tracking",
    operation_id = "settings",
    summary = "Tells analytics.js where to send.",
    params(("write_key" = String, Path, description = "A write key.", example = "wk_website")),
    responses(
        (status = 200, description = "Its settings.", body = Object),
        (status = 403, description = "The page may not send.", body = ErrorBody),
        (status = 404, description = "No source has this write key.", body = ErrorBody)
    ),
    security(())
)]
pub(super) async fn give(
    State(state): State<HttpState>,
    write_key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let sources = state.sources();
    // A key that is no text is that of no source.
    let write_key = write_key.map(|Path(write_key)| write_key).unwrap_or_default();
    let Some(source) = sources.by_write_key(&write_key) else {
        let text = "no source has this write key: keys are set in sources.NAME.write_keys or SEGMENT_WRITE_KEY";
        return Contract::Tracking.answer(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_key",
            text,
        ));
    };
    if let Err(error) = source.admit_origin(&headers) {
        return Contract::Tracking.answer(error);
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut segment_io = json!({"apiKey": write_key, "unbundledIntegrations": []});
    if let Some(host) = header(header::HOST.as_str()) {
        // A proxy that ends TLS says so; without one the page reached us over plain HTTP. Of several
        // proxies, each adds its own word behind those before it: the first is the page's.
        let said = header("x-forwarded-proto").and_then(|said| said.split(',').next());
        let is_tls = said.is_some_and(|said| said.trim().eq_ignore_ascii_case("https"));
        segment_io["apiHost"] = json!(format!("{host}/v1"));
        segment_io["protocol"] = json!(if is_tls { "https" } else { "http" });
    }
    Json(json!({
        "integrations": {"Segment.io": segment_io},
        "plan": {},
        "metrics": {"sampleRate": 0},
    }))
    .into_response()
}
