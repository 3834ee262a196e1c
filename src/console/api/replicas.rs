//! `GET /api/replicas`: the processes that share the store, and which of them delivers.

use axum::Json;
use axum::extract::State;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::query::{NoParameters, Query};
use crate::console::state::{AdminState, store_fault};
use crate::console::view::Replicas;
use crate::http::error::{ApiError, ErrorBody};

/// The processes that share the store, and for each destination the one that delivers.
#[utoipa::path(
    get,
    path = "/api/replicas",
    tag = "Administration",
    operation_id = "replicas",
    responses(
        (status = 200, description = "The processes and the leases.", body = Replicas),
        (status = 400, description = "A parameter is unknown.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn replicas(
    State(state): State<AdminState>,
    _: Query<NoParameters>,
) -> Result<Json<Replicas>, ApiError> {
    let found = state.store.replicas(state.clock.now()).await.map_err(store_fault)?;
    Ok(Json(Replicas::new(found, &state.process)))
}
