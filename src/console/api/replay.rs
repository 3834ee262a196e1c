//! `POST /api/replay`: requeues finished messages.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::{self, Body};
use super::errors::{AdminErrors, StoreErrors};
use crate::console::audit::Actor;
use crate::console::changed::Changed;
use crate::console::filter;
use crate::console::replay::{self, Part};
use crate::console::state::{AdminState, store_fault};
use crate::console::view::{ReplayPosition, Replayed};
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::{Choice, Criteria, CriteriaProblem, ReplayAsk, ReplayState, Selection};
use crate::segment::MessageType;
use crate::telemetry;

/// How long one request may work; `continue` asks for the rest.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// Which messages to replay: those that match all criteria. Give at least one, or `allFailed`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Replay, example = json!({"reason": "refused", "dryRun": true}))]
struct Asked {
    /// Message ids, at most 500.
    #[serde(default)]
    #[schema(max_items = 500)]
    message_ids: Vec<String>,
    /// The person that the messages are about: a user id or, for messages without one, an anonymous id
    /// or an e-mail address.
    #[schema(example = "user_1")]
    user_id: Option<String>,
    /// The state of the messages; `failed` by default.
    #[schema(value_type = Option<ReplayState>)]
    state: Option<String>,
    /// Why a delivery failed: `refused`, `expired`, `invalid`, `placeholder_id`, `discarded` or `unreadable`.
    #[schema(example = "refused")]
    reason: Option<String>,
    /// Name of the destination.
    #[schema(example = "default")]
    destination: Option<String>,
    /// Name of the source.
    #[schema(example = "default")]
    source: Option<String>,
    /// The kind of Segment call.
    #[schema(value_type = Option<MessageType>)]
    r#type: Option<String>,
    /// Name of the event of a track.
    #[schema(example = "Signed Up")]
    event: Option<String>,
    /// Name of a subscription that took the messages. They are replayed for this subscription only.
    subscription: Option<String>,
    /// Accepted at this time or later: a time, or a day in UTC.
    #[schema(example = "2026-01-02T03:04:05Z")]
    from: Option<String>,
    /// Accepted before this time: a time, or a day in UTC.
    #[schema(example = "2026-01-03")]
    to: Option<String>,
    /// Replays all messages that failed.
    #[serde(default)]
    all_failed: bool,
    /// Replays only messages for which the current subscriptions would send a different request, and only for these
    /// subscriptions, or those that newly take it.
    #[serde(default)]
    only_changed: bool,
    /// Counts the messages without replaying them.
    #[serde(default)]
    dry_run: bool,
    /// `continue` of the previous response.
    #[serde(rename = "continue")]
    position: Option<ReplayPosition>,
}

/// Queues finished messages again.
///
/// One request works for at most ten seconds. If something is left after that, `continue` says where the next request
/// continues.
#[utoipa::path(
    post,
    path = "/api/replay",
    tag = "Administration",
    operation_id = "replay",
    request_body(content = Asked, content_type = "application/json"),
    responses(
        (status = 200, description = "The messages are pending again, or were counted.", body = Replayed),
        (status = 400, description = "The body is not JSON, or a criterion is unknown or wrong.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn replay(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    body: Body,
) -> Result<Json<Replayed>, ApiError> {
    let asked: Asked = serde_json::from_slice(&body::bytes(body)?).map_err(|error| {
        bad_replay(format!("{error}; send a JSON object such as {{\"reason\": \"expired\"}}"))
    })?;
    let is_dry_run = asked.dry_run;
    let position = asked.position.map(Into::into);
    let now = state.clock.now();
    let changed = || Changed::in_force(state.store.clone(), &state.planners);
    let choice = asked.only_changed.then(|| Arc::new(changed()) as Arc<dyn Choice>);
    let selection = selection(asked, &state)?;
    // Sources and subscriptions that are no longer configured may still be in records.
    filter::check_names(&selection.filter, &state).await.map_err(|error| match error.status {
        StatusCode::BAD_REQUEST => bad_replay(error.message),
        _ => error,
    })?;
    let ask = ReplayAsk { selection, position, is_dry_run, now, choice };
    let part = match is_dry_run {
        true => Some(replay::run(&state, ask, BUSY_MAX).await),
        false => replay::run_on_record(&state, &actor, ask, BUSY_MAX).await,
    };
    let Some(part) = part else {
        let interrupted = "the replay was interrupted: see the log, and count again what is left";
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", interrupted));
    };
    let Part { replayed, without_contents, unchanged, by_subscription, next, fault, .. } = part;
    match fault {
        // Return what was replayed, and where to continue.
        Some(fault) if replayed > 0 => {
            tracing::warn!(error = %telemetry::chain(&fault), "a replay was interrupted");
        }
        Some(fault) => return Err(store_fault(fault)),
        None => {}
    }
    let is_whole = next.is_none();
    tracing::info!(replayed, without_contents, is_dry_run, is_whole, "replayed");
    Ok(Json(Replayed {
        dry_run: is_dry_run,
        replayed,
        without_contents,
        unchanged,
        by_subscription,
        r#continue: next.map(Into::into),
    }))
}

fn selection(asked: Asked, state: &AdminState) -> Result<Selection, ApiError> {
    let criteria = Criteria {
        message_ids: asked.message_ids,
        user: asked.user_id,
        state: asked.state,
        reason: asked.reason,
        destination: asked.destination,
        source: asked.source,
        kind: asked.r#type,
        event: asked.event,
        subscription: asked.subscription,
        from: asked.from,
        to: asked.to,
        all_failed: asked.all_failed,
    };
    let selection = criteria.selection(&state.store.digests()).map_err(|problem| match problem {
        CriteriaProblem::Nothing => bad_replay(
            "choose messages by `messageIds`, `userId`, `reason`, `destination`, `source`, `type`, `event`, `subscription`, `from` or `to`, or send `\"allFailed\": true`; `state` alone is not enough",
        ),
        other => bad_replay(other.to_string()),
    })?;
    if let Some(name) = &selection.filter.destination
        && !state.planners.contains_key(name)
    {
        let names = state.destination_names();
        return Err(bad_replay(format!("`destination` is unknown: it must be one of {names}")));
    }
    Ok(selection)
}

fn bad_replay(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("bad_replay", message)
}
