//! `GET /api/feedback`: what Loops reported by its webhooks.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::filter::FilterQuery;
use crate::console::query::{Query, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::console::values::Limit;
use crate::console::view::Feedback;
use crate::http::error::{ApiError, ErrorBody};

/// The query of `GET /api/feedback`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct FeedbackQuery {
    /// A user id; also finds an e-mail address.
    #[param(example = "user_1", min_length = 1)]
    user_id: Option<String>,
    /// An e-mail address; upper and lower case are the same.
    #[param(min_length = 1)]
    email: Option<String>,
    /// Name of the destination.
    #[param(example = "default")]
    destination: Option<String>,
    /// The most events to return.
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
}

/// The latest events that Loops reported about a person or for a destination, newest first.
///
/// Events are kept as long as records. `userId` finds the person by the contact's `userId`, `email` by its address.
#[utoipa::path(
    get,
    path = "/api/feedback",
    tag = "Administration",
    operation_id = "feedback",
    params(FeedbackQuery),
    responses(
        (status = 200, description = "The events; empty if Loops reported none.", body = Feedback),
        (status = 400, description = "A parameter is unknown, empty or out of range, or neither a person nor a destination is given.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn feedback(
    State(state): State<AdminState>,
    Query(query, ..): Query<FeedbackQuery>,
) -> Result<Json<Feedback>, ApiError> {
    let FeedbackQuery { user_id, email, destination, limit: Limit(limit) } = query;
    let asked = FilterQuery { user_id, email, destination, ..FilterQuery::default() };
    let filter = asked.filter(None, &state).await?;
    let found = match (filter.persons.as_slice(), &filter.destination) {
        ([], None) => return Err(bad_query("give `userId`, `email` or `destination`")),
        ([], Some(destination)) => state.store.by_destination(destination, limit).await,
        (persons, None) => state.store.by_person(persons, limit).await,
        (persons, Some(_)) => state.store.by_person(persons, Limit::MAX.0).await,
    };
    let mut found = found.map_err(store_fault)?;
    if let Some(destination) = &filter.destination {
        found.retain(|record| record.destination == *destination);
        found.truncate(limit as usize);
    }
    Ok(Json(found.into()))
}
