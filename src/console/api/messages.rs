//! `GET /api/messages`: the outcomes of messages, by id or by filter.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::filter::{self, FilterQuery, ListedState};
use crate::console::person;
use crate::console::query::{Parameters, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::console::view::{MessageReports, Messages};
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::{MessageRecord, Seq};

/// How many messages a response holds by default, and at most.
const LIMIT_DEFAULT: u32 = 50;
pub(super) const LIMIT_MAX: u32 = 500;

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
    let hash = state.log.digests().message_id(message_id);
    state.log.by_message_id(hash, message_id).await.map_err(store_fault)
}

/// The parameters of a list beside the filter.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes the query")]
struct ListQuery {
    /// Segment's `messageId`. No other parameter may be given with it.
    #[param(min_length = 1)]
    message_id: Option<String>,
    /// The outcome of the message.
    #[param(inline)]
    state: Option<ListedState>,
    /// The most messages to return.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
    /// `next` of the previous page, to get the page after it.
    before: Option<i64>,
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
    uri: Uri,
) -> Result<Json<Messages>, ApiError> {
    let names = [&filter::NAMES[..], &["messageId", "state", "limit", "before"]].concat();
    let given = Parameters::of(&uri, &names)?;
    if let Some(message_id) = given.text("messageId")? {
        if given.len() > 1 {
            return Err(bad_query("`messageId` stands alone: leave the other parameters out"));
        }
        return Ok(Json(by_id(&state, message_id).await?.into()));
    }
    let (limit, before) = (limit(&given)?, before(&given)?);
    let filter = filter::filter(&given, &state).await?;
    let page = state.log.list(&filter, before, limit).await.map_err(store_fault)?;
    Ok(Json(page.into()))
}

pub(super) fn limit(given: &Parameters) -> Result<u32, ApiError> {
    let limit = match given.get("limit") {
        None => Some(LIMIT_DEFAULT),
        Some(limit) => limit.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)),
    };
    limit.ok_or_else(|| bad_query(format!("`limit` must be a whole number from 1 to {LIMIT_MAX}")))
}

pub(super) fn before(given: &Parameters) -> Result<Option<Seq>, ApiError> {
    let before = given.get("before").map(|before| before.parse().map(Seq)).transpose();
    before.map_err(|_| bad_query("`before` must be a whole number: `next` of the previous page"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_and_before_are_whole_numbers_in_their_range() {
        let parse = |query: &str| {
            let uri = format!("/api/messages?{query}").parse().unwrap();
            let given = Parameters::of(&uri, &["limit", "before"])?;
            Ok::<_, ApiError>((limit(&given)?, before(&given)?.map(|before| before.0)))
        };
        assert_eq!(parse(""), Ok((50, None)));
        assert_eq!(parse("limit=1&before=7"), Ok((1, Some(7))));
        assert_eq!(parse("limit=500&before=-1"), Ok((500, Some(-1))));
        for query in ["limit=0", "limit=501", "limit=1000000", "limit=", "limit=ten"] {
            assert!(parse(query).unwrap_err().message.contains("`limit` must be"), "{query}");
        }
        for query in ["before=", "before=1.5", "before=9223372036854775808"] {
            assert!(parse(query).unwrap_err().message.contains("`before` must be"), "{query}");
        }
    }
}
