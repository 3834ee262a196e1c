//! `GET /api/failures`: why deliveries failed lately.

use axum::Json;
use axum::extract::State;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::filter::FilterQuery;
use crate::console::query::Query;
use crate::console::state::{AdminState, store_fault};
use crate::console::view::Failures;
use crate::http::error::{ApiError, ErrorBody};

/// The latest failed deliveries, grouped by cause, largest group first.
///
/// One request reads a bounded number of deliveries, latest first; `complete` says whether that was all.
#[utoipa::path(
    get,
    path = "/api/failures",
    tag = "Administration",
    operation_id = "failures",
    params(FilterQuery),
    responses(
        (status = 200, description = "The groups; empty if nothing failed.", body = Failures),
        (status = 400, description = "A parameter is unknown or empty, or two contradict each other.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn failures(
    State(state): State<AdminState>,
    Query(query, ..): Query<FilterQuery>,
) -> Result<Json<Failures>, ApiError> {
    let filter = query.filter(None, &state).await?;
    let found = state.store.failures(&filter).await.map_err(store_fault)?;
    Ok(Json(found.into()))
}
