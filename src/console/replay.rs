//! `POST /api/replay`: puts messages that are done back to work.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::api::{AdminState, fault_of};
use crate::http::error::ApiError;
use crate::queue::{Criteria, ReplayAsk, ReplayPosition, Selection, Seq};

/// How long one request goes on; what is left then is asked for with `continue`.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    message_ids: Vec<String>,
    user_id: Option<String>,
    state: Option<String>,
    reason: Option<String>,
    destination: Option<String>,
    subscription: Option<String>,
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    all_failed: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(rename = "continue")]
    position: Option<Position>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    after: i64,
    until: i64,
}

pub(super) async fn replay(
    State(state): State<AdminState>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, ApiError> {
    state.admit(&headers)?;
    let body = body.map_err(|_| {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body could not be read")
    })?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
        let text = format!("{error}; ask with a JSON object such as {{\"reason\": \"expired\"}}");
        ApiError::bad_request("bad_replay", text)
    })?;
    let is_dry_run = asked.dry_run;
    let position = asked
        .position
        .as_ref()
        .map(|position| ReplayPosition { after: Seq(position.after), until: Seq(position.until) });
    let selection = selection(asked, &state)?;
    let mut ask = ReplayAsk { selection, position, is_dry_run };
    let began = Instant::now();
    let (mut replayed, mut without_contents) = (0, 0);
    loop {
        let chunk = state.replays.replay(&ask).await.map_err(|fault| fault_of(&fault))?;
        replayed += chunk.replayed;
        without_contents += chunk.without_contents;
        ask.position = chunk.next;
        if chunk.next.is_none() || began.elapsed() >= BUSY_MAX {
            break;
        }
    }
    let is_whole = ask.position.is_none();
    tracing::info!(replayed, without_contents, is_dry_run, is_whole, "replayed");
    let rest = ask.position.map(|rest| json!({"after": rest.after.0, "until": rest.until.0}));
    Ok(Json(json!({
        "dryRun": is_dry_run,
        "replayed": replayed,
        "withoutContents": without_contents,
        "continue": rest,
    }))
    .into_response())
}

fn selection(asked: Asked, state: &AdminState) -> Result<Selection, ApiError> {
    let criteria = Criteria {
        message_ids: asked.message_ids,
        user: asked.user_id,
        state: asked.state,
        reason: asked.reason,
        destination: asked.destination,
        subscription: asked.subscription,
        from: asked.from,
        to: asked.to,
        all_failed: asked.all_failed,
    };
    let selection = criteria
        .selection()
        .map_err(|mistake| ApiError::bad_request("bad_replay", mistake.to_string()))?;
    if let Some(name) = &selection.destination
        && !state.planners.contains_key(name)
    {
        let mut names: Vec<&str> = state.planners.keys().map(String::as_str).collect();
        names.sort_unstable();
        let text =
            format!("there is no destination of this name: it is one of {}", names.join(", "));
        return Err(ApiError::bad_request("bad_replay", text));
    }
    Ok(selection)
}
