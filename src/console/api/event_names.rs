//! `GET /api/event-names`: the events that the sources send.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::filter::FilterQuery;
use crate::console::query::Query;
use crate::console::state::{AdminState, store_fault};
use crate::console::view::EventNames;
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::Filter;

/// The query of `GET /api/event-names`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventNamesQuery {
    /// Name of the source; all sources by default.
    #[param(example = "default")]
    source: Option<String>,
}

/// The names of the events that the sources send, most recently seen first.
#[utoipa::path(
    get,
    path = "/api/event-names",
    tag = "Administration",
    operation_id = "eventNames",
    params(EventNamesQuery),
    responses(
        (status = 200, description = "The names.", body = EventNames),
        (status = 400, description = "A parameter or the source is unknown.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn event_names(
    State(state): State<AdminState>,
    Query(EventNamesQuery { source }, ..): Query<EventNamesQuery>,
) -> Result<Json<EventNames>, ApiError> {
    let asked = FilterQuery { source, ..FilterQuery::default() };
    let Filter { source, .. } = asked.filter(None, &state).await?;
    let names = state.store.event_names(source.as_deref()).await.map_err(store_fault)?;
    Ok(Json(names.into()))
}
