//! `POST /api/replay`: puts messages that are done back to work.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::api::{AdminState, fault_of};
use super::openapi::{AdminErrors, Replayed};
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::{Criteria, ReplayAsk, ReplayPosition, Selection, Seq};

/// How long one request goes on; what is left then is asked for with `continue`.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// What messages must fit. Something must be asked for, or `allFailed`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Replay, example = json!({"reason": "refused", "dryRun": true}))]
pub(super) struct Asked {
    /// Their message ids.
    #[serde(default)]
    message_ids: Vec<String>,
    /// Whom they are about: a user id, an anonymous id or an e-mail address.
    #[schema(example = "user_1")]
    user_id: Option<String>,
    /// `failed` (unless told otherwise), `unmatched`, `delivered` or `all`.
    #[schema(example = "failed")]
    state: Option<String>,
    /// Why they failed, or were not matched.
    #[schema(example = "refused")]
    reason: Option<String>,
    /// The destination that they went to.
    #[schema(example = "default")]
    destination: Option<String>,
    /// A subscription that took them.
    subscription: Option<String>,
    /// Accepted then or later.
    #[schema(example = "2026-01-02T03:04:05Z")]
    from: Option<String>,
    /// Accepted before then.
    #[schema(example = "2026-01-03")]
    to: Option<String>,
    /// All that failed.
    #[serde(default)]
    all_failed: bool,
    /// Only counts them.
    #[serde(default)]
    dry_run: bool,
    /// What the answer before told.
    #[serde(rename = "continue")]
    position: Option<Position>,
}

/// Where a replay goes on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayPosition)]
pub struct Position {
    /// Behind this `seq`.
    after: i64,
    /// Up to this one.
    until: i64,
}

/// `POST /api/replay`: goes on for ten seconds at the most.
#[utoipa::path(
    post,
    path = "/api/replay",
    tag = "Administration",
    operation_id = "replay",
    summary = "Puts messages that are done back to work.",
    request_body(content = Asked, content_type = "application/json"),
    responses(
        (status = 200, description = "What was done.", body = Replayed),
        (status = 400, description = "The body is not what it should be.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors
    ),
    security(("adminToken" = []))
)]
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
