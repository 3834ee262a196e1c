//! `GET /api/messages`: what became of messages, by id and by person.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors, store_fault};
use super::query::{Parameters, bad_query};
use crate::console::state::AdminState;
use crate::console::view::Messages;
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::{Filter, Seq};

/// How many messages an answer holds unless the query says otherwise, and at most.
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;

/// What became of a message.
///
/// The answer has one entry for each source that sent a message with this id.
#[utoipa::path(
    get,
    path = "/api/messages/{message_id}",
    tag = "Administration",
    operation_id = "message",
    params(("message_id" = String, Path, description = "Segment's `messageId`.", example = "hello-1")),
    responses(
        (status = 200, description = "The message was accepted.", body = Messages),
        (status = 404, description = "No message with this id was accepted, or its record has expired.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn of_id(
    State(state): State<AdminState>,
    message_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Messages>, ApiError> {
    // An id that is not UTF-8 is the id of no message.
    let message_id = message_id.map(|Path(message_id)| message_id).unwrap_or_default();
    let hash = state.log.digests().message_id(&message_id);
    let found = state.log.by_message_id(hash, &message_id).await.map_err(store_fault)?;
    if found.is_empty() {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_message",
            "no message with this id was accepted, or its record has expired (store.records_retention_h)",
        ));
    }
    Ok(Json(found.into()))
}

/// The query of `GET /api/messages`.
#[derive(Debug, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct PersonQuery {
    /// A user id. For messages without one: an anonymous id or an e-mail address.
    #[param(example = "user_1", min_length = 1)]
    user_id: String,
    /// How many messages the answer holds at most.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
    /// The last `seq` of the previous page, to get the page that follows.
    before: Option<i64>,
}

impl PersonQuery {
    fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let given = Parameters::of(uri, &["userId", "limit", "before"])?;
        let limit = match given.get("limit") {
            None => Some(LIMIT_DEFAULT),
            Some(limit) => limit.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)),
        };
        let before = given.get("before").map(str::parse).transpose();
        Ok(Self {
            user_id: given.get("userId").filter(|id| !id.is_empty()).map(str::to_owned).ok_or_else(
                || bad_query("`userId` is missing or empty: give a user id or, for messages without one, an anonymous id or an e-mail address"),
            )?,
            limit: limit.ok_or_else(|| {
                bad_query(format!("`limit` must be a whole number from 1 to {LIMIT_MAX}"))
            })?,
            before: before.map_err(|_| {
                bad_query("`before` must be a whole number: the last `seq` of the previous page")
            })?,
        })
    }
}

/// The messages of a person, newest first.
#[utoipa::path(
    get,
    path = "/api/messages",
    tag = "Administration",
    operation_id = "messages",
    params(PersonQuery),
    responses(
        (status = 200, description = "The messages; none if nobody is known by this id.", body = Messages),
        (status = 400, description = "A parameter is missing, unknown or out of range.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn of_person(
    State(state): State<AdminState>,
    uri: Uri,
) -> Result<Json<Messages>, ApiError> {
    let PersonQuery { user_id, limit, before } = PersonQuery::parse(&uri)?;
    let persons = state.log.digests().any_person(&user_id);
    let filter = Filter { persons, ..Filter::default() };
    let found = state.log.list(&filter, before.map(Seq), limit).await;
    Ok(Json(found.map_err(store_fault)?.messages.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_is_checked_and_named() {
        let parse =
            |query: &str| PersonQuery::parse(&format!("/api/messages{query}").parse().unwrap());
        for (query, limit, before) in [
            ("?userId=u%201", 50, None),
            ("?userId=u+1&limit=1&before=7", 1, Some(7)),
            ("?before=-1&limit=500&userId=u%201", 500, Some(-1)),
        ] {
            let expected = PersonQuery { user_id: "u 1".to_owned(), limit, before };
            assert_eq!(parse(query), Ok(expected), "{query}");
        }
        for (query, named) in [
            ("", "`userId`"),
            ("?userId=", "`userId`"),
            ("?limit=5", "`userId`"),
            ("?userId=u&limit=0", "`limit`"),
            ("?userId=u&limit=501", "`limit`"),
            ("?userId=u&limit=", "`limit`"),
            ("?userId=u&limit=ten", "`limit`"),
            ("?userId=u&before=", "`before`"),
            ("?userId=u&before=1.5", "`before`"),
            ("?userId=u&before=9223372036854775808", "`before`"),
            ("?user_id=u", "userId, limit, before"),
            ("?userId=u&ada@example.com", "userId, limit, before"),
            ("?userId=u&userId=v", "`userId` is given more than once"),
        ] {
            let error = parse(query).unwrap_err();
            assert_eq!(
                (error.status, error.code),
                (StatusCode::BAD_REQUEST, "bad_query"),
                "{query}"
            );
            assert!(error.message.contains(named), "{query}: {}", error.message);
            assert!(!error.message.contains("ada"), "{query}: {}", error.message);
        }
    }
}
