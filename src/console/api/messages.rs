//! `GET /api/messages`: the outcomes of messages, by id or by filter.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::filter::{FilterQuery, ListedState};
use crate::console::person;
use crate::console::query::{Query, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::console::values::{Before, Limit};
use crate::console::view::{MessageReports, Messages};
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::{MessageRecord, Seq};

/// The outcome of a message, with a verdict and what Loops reported.
///
/// There is one entry for each source that sent a message with this id.
#[utoipa::path(
    get,
    path = "/api/messages/{message_id}",
    tag = "Administration",
    operation_id = "message",
    params(("message_id" = String, Path, description = "Segment's `messageId`.", example = "hello-1")),
    responses(
        (status = 200, description = "The message was accepted.", body = MessageReports),
        (status = 404, description = "No message with this id was accepted, or its record has expired.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn of_id(
    State(state): State<AdminState>,
    message_id: Result<Path<String>, PathRejection>,
) -> Result<Json<MessageReports>, ApiError> {
    // An id that is not UTF-8 belongs to no message.
    let message_id = message_id.map(|Path(message_id)| message_id).unwrap_or_default();
    let found = by_id(&state, &message_id).await?;
    if found.is_empty() {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_message",
            "no message with this id was accepted, or its record has expired (store.records_retention_h)",
        ));
    }
    let mut messages = Vec::with_capacity(found.len());
    for record in &found {
        messages.push(person::report(&state, record).await?);
    }
    Ok(Json(MessageReports { messages }))
}

async fn by_id(state: &AdminState, message_id: &str) -> Result<Vec<MessageRecord>, ApiError> {
    let hash = state.store.digests().message_id(message_id);
    state.store.by_message_id(hash, message_id).await.map_err(store_fault)
}

/// The parameters of a list beside the filter.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Segment's `messageId`. No other parameter may be given with it.
    #[param(min_length = 1)]
    message_id: Option<String>,
    /// The outcome of the message.
    #[param(inline)]
    state: Option<ListedState>,
    /// The most messages to return.
    #[param(inline)]
    limit: Option<Limit>,
    /// `next` of the previous page, to get the page after it.
    #[param(value_type = Option<i64>)]
    before: Option<Before>,
}

/// The latest messages, or those that meet all conditions, newest first.
///
/// One request examines a bounded number of messages, so it may return fewer than `limit`, even none, although more
/// follow: the list ends when `next` is null.
#[utoipa::path(
    get,
    path = "/api/messages",
    tag = "Administration",
    operation_id = "messages",
    params(FilterQuery, ListQuery),
    responses(
        (status = 200, description = "The messages; empty if none meets the conditions.", body = Messages),
        (status = 400, description = "A parameter is unknown, empty or out of range, or two contradict each other.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn list(
    State(state): State<AdminState>,
    Query(filter, list): Query<FilterQuery, ListQuery>,
) -> Result<Json<Messages>, ApiError> {
    if let Some(message_id) = &list.message_id {
        let alone = ListQuery { message_id: Some(message_id.clone()), ..ListQuery::default() };
        if filter != FilterQuery::default() || list != alone {
            return Err(bad_query("`messageId` stands alone: leave the other parameters out"));
        }
        return Ok(Json(by_id(&state, message_id).await?.into()));
    }
    let Limit(limit) = list.limit.unwrap_or_default();
    let before = list.before.map(|Before(before)| Seq(before));
    let filter = filter.filter(list.state, &state).await?;
    let page = state.store.list(&filter, before, limit).await.map_err(store_fault)?;
    Ok(Json(page.into()))
}
