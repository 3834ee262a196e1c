//! The control API of the sandbox: shows what arrived, shows and changes the faults in force, and resets everything.

use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::Uri;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, no_such_path, parse_object, wrong_method};
use super::api::query;
use super::faults::Faults;
use super::state::{SeenEvent, SeenRequest};
use super::team::{API_BASE, BODY_BYTES_MAX, Sandbox};

/// Returns the routes below `/sandbox`.
pub(super) fn router(sandbox: &Sandbox) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/events", get(list_events))
        .route("/contacts", get(list_contacts))
        .route("/requests", get(list_requests))
        .route("/faults", get(show_faults).put(change_faults))
        .route("/reset", post(reset))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(sandbox.clone())
}

async fn overview(State(sandbox): State<Sandbox>) -> Json<Value> {
    Json(json!({
        "teamName": sandbox.0.options.team_name,
        "apiBase": API_BASE,
        "counts": sandbox.counts(),
        "faults": sandbox.faults(),
        "links": {
            "events": "/sandbox/events",
            "contacts": "/sandbox/contacts",
            "requests": "/sandbox/requests",
            "faults": "/sandbox/faults",
            "reset": "/sandbox/reset",
        },
    }))
}

async fn list_events(State(sandbox): State<Sandbox>, uri: Uri) -> Json<Vec<SeenEvent>> {
    let query = query(&uri);
    let Some(user_id) = query.get("userId").and_then(Value::as_str) else {
        return Json(sandbox.events());
    };
    let state = sandbox.state();
    let of_user = |event: &&SeenEvent| event.user_id.as_deref() == Some(user_id);
    Json(state.events.iter().filter(of_user).cloned().collect())
}

async fn list_contacts(State(sandbox): State<Sandbox>) -> Json<Vec<Value>> {
    Json(sandbox.contacts())
}

async fn list_requests(State(sandbox): State<Sandbox>) -> Json<Vec<SeenRequest>> {
    Json(sandbox.requests())
}

async fn show_faults(State(sandbox): State<Sandbox>) -> Json<Faults> {
    Json(sandbox.faults())
}

/// Changes the faults. Missing keys keep their values. Giving the seed restarts the random choices.
async fn change_faults(
    State(sandbox): State<Sandbox>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Faults>, Refusal> {
    let body = body.map_err(|error| Refusal::new(error.status(), error.body_text()))?;
    let patch = parse_object(&body)?;
    let reseed = patch.contains_key("seed");
    let mut state = sandbox.state();
    let faults = state.faults.settings().patched(patch);
    let faults = faults.map_err(|error| Refusal::bad_request(error.to_string()))?;
    state.faults.replace(faults.clone(), reseed);
    Ok(Json(faults))
}

async fn reset(State(sandbox): State<Sandbox>) -> Answer {
    sandbox.reset();
    Ok(Json(json!({"success": true})))
}
