//! What analytics.js asks for before it sends anything.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::HttpState;
use super::error::{ApiError, Contract};

/// `GET /v1/projects/{writeKey}/settings`: the key that was asked for, and our own address.
///
/// Without `integrations["Segment.io"].apiKey` analytics.js sends nothing at all, or sends to Segment.
pub(super) async fn give(
    State(state): State<HttpState>,
    Path(write_key): Path<String>,
    headers: HeaderMap,
) -> Response {
    let sources = state.sources();
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
        // A proxy that ends TLS says so; without one the page reached us over plain HTTP.
        let protocol = header("x-forwarded-proto").unwrap_or("http");
        segment_io["apiHost"] = json!(format!("{host}/v1"));
        segment_io["protocol"] = json!(if protocol == "https" { "https" } else { "http" });
    }
    Json(json!({
        "integrations": {"Segment.io": segment_io},
        "plan": {},
        "metrics": {"sampleRate": 0},
    }))
    .into_response()
}
