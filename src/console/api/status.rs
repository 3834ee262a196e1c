//! `GET /api/status`: the present state of the service.

use axum::Json;
use axum::extract::State;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::query::{NoParameters, Query};
use crate::console::state::{AdminState, store_fault};
use crate::console::status::{Status, read};
use crate::http::error::{ApiError, ErrorBody};

/// The state of the service: what the console's page Now shows.
///
/// Every process returns the same. What a process reports about itself is up to five seconds old. Waiting messages are
/// counted less often when there are many.
#[utoipa::path(
    get,
    path = "/api/status",
    tag = "Administration",
    operation_id = "status",
    responses(
        (status = 200, description = "How it is.", body = Status),
        (status = 400, description = "A parameter is unknown.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn status(
    State(state): State<AdminState>,
    _: Query<NoParameters>,
) -> Result<Json<Status>, ApiError> {
    Ok(Json(read(&state).await.map_err(store_fault)?))
}
