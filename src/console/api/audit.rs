//! `GET /api/audit`: what people did.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::query::Query;
use crate::console::state::{AdminState, store_fault};
use crate::console::values::{Before, Limit};
use crate::console::view::AuditList;
use crate::http::error::{ApiError, ErrorBody};

/// The query of `GET /api/audit`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// The most entries to return.
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `next` of the previous page, to get the page after it.
    #[param(value_type = Option<i64>)]
    before: Option<Before>,
}

/// What people changed or looked at, newest first.
///
/// Entries are kept as long as records (`store.records_retention_h`). They contain no ids of people and no secrets.
#[utoipa::path(
    get,
    path = "/api/audit",
    tag = "Administration",
    operation_id = "audit",
    params(AuditQuery),
    responses(
        (status = 200, description = "The entries.", body = AuditList),
        (status = 400, description = "A parameter is unknown or wrong.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn audit(
    State(state): State<AdminState>,
    Query(AuditQuery { limit: Limit(limit), before }, ..): Query<AuditQuery>,
) -> Result<Json<AuditList>, ApiError> {
    let before = before.map(|Before(before)| before);
    let found = state.store.audit_list(before, limit).await.map_err(store_fault)?;
    Ok(Json(AuditList::new(found, limit)))
}
