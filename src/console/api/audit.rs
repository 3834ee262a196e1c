//! `GET /api/audit`: what people did.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors};
use super::messages::{before, limit};
use crate::console::query::Parameters;
use crate::console::state::{AdminState, store_fault};
use crate::console::view::AuditList;
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::Seq;

/// The query of `GET /api/audit`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query")]
struct AuditQuery {
    /// The most entries to return.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
    /// `next` of the previous page, to get the page after it.
    before: Option<i64>,
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
    uri: Uri,
) -> Result<Json<AuditList>, ApiError> {
    let given = Parameters::of(&uri, &["limit", "before"])?;
    let (limit, before) = (limit(&given)?, before(&given)?.map(|Seq(before)| before));
    let found = state.audit.audit_list(before, limit).await.map_err(store_fault)?;
    Ok(Json(AuditList::new(found, limit)))
}
