//! `/api/erasures`: asks for the erasure of a person, and shows the receipts.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::body::{self, Body};
use super::errors::{AdminErrors, StoreErrors};
use super::messages::{before, limit};
use crate::console::audit::{self, Actor};
use crate::console::erasures::{self, Erasure, Erasures};
use crate::console::filter::write_persons;
use crate::console::query::{Parameters, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::{self, AcceptError, AuditAction, ReceiptFilter, Seq, Unavailable};
use crate::segment::{PersonDigest, PersonIdKind};

/// The person to erase: exactly one of `userId` and `email`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ErasureQuestion, example = json!({"userId": "user_1"}))]
struct Asked {
    /// A user id.
    #[schema(example = "user_1", min_length = 1)]
    user_id: Option<String>,
    /// The e-mail address of a person without a user id.
    #[schema(min_length = 1)]
    email: Option<String>,
    /// Name of the destination; may be left out if there is only one.
    #[schema(example = "default")]
    destination: Option<String>,
}

/// The query of `GET /api/erasures`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query")]
struct ErasuresQuery {
    /// Name of the destination.
    #[param(example = "default")]
    destination: Option<String>,
    /// `open` or `erased`.
    state: Option<String>,
    /// The most receipts to return.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
    /// `next` of the previous page, to get the page after it.
    before: Option<i64>,
}

/// Erases a person, and returns the receipt.
///
/// Accepts a message of type `delete`, which goes to Loops after everything that is waiting for the person. Once Loops
/// has deleted the contact, the person's contents are erased here. If Loops refuses, nothing is erased, and the
/// receipt stays `open` with the reason.
#[utoipa::path(
    post,
    path = "/api/erasures",
    tag = "Administration",
    operation_id = "erase",
    request_body(content = Asked, content_type = "application/json"),
    responses(
        (status = 202, description = "The deletion is accepted. Ask for its receipt until the state is `erased`.", body = Erasure),
        (status = 400, description = "The body is not JSON, does not have exactly one of the ids, or the destination is unknown or missing.", body = ErrorBody),
        (status = 409, description = "A deletion would not reach Loops: no source delivers to the destination, or no subscription takes it.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn erase(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    body: Body,
) -> Result<(StatusCode, Json<Erasure>), ApiError> {
    let body = body::bytes(body)?;
    // The error of the reader may repeat a part of the body.
    let asked: Asked = serde_json::from_slice(&body).map_err(|_| which())?;
    let (kind, id) = match (asked.user_id, asked.email) {
        (Some(id), None) => (PersonIdKind::User, id),
        (None, Some(id)) => (PersonIdKind::Email, id),
        _ => return Err(which()),
    };
    if id.trim().is_empty() {
        return Err(which());
    }
    let Some((destination, planner)) = state.destination(asked.destination.as_deref()) else {
        let names = state.destination_names();
        let message = format!("`destination` is unknown or missing: it must be one of {names}");
        return Err(ApiError::bad_request("which_destination", message));
    };
    let cannot = |why: String| ApiError::new(StatusCode::CONFLICT, "cannot_erase", why);
    let source = state.sources.borrow().delivering_to(destination).map(|one| one.name.clone());
    let source = source.ok_or_else(|| {
        cannot(format!("no source delivers to the destination {destination}: configure one"))
    })?;
    let digests = state.log.digests();
    let now = state.clock.now();
    let deletion = queue::deletion(&digests, (kind, &id), destination, &source, now);
    let deletion = deletion.ok_or_else(which)?;
    if let Some(why) = erasures::why_not(&planner, &deletion) {
        return Err(cannot(format!(
            "nothing would be deleted at Loops, and so nothing erased: {why}"
        )));
    }
    let arguments = serde_json::json!({
        "person": write_persons(&[PersonDigest(deletion.lane.0)]),
        "destination": destination,
    });
    let opened = erasures::ask(&*state.inbox, &*state.receipts, deletion).await;
    let result = match &opened {
        Ok(id) => format!("receipt {id}"),
        Err(error) => error.to_string(),
    };
    audit::record(&state, &actor, AuditAction::Erase, &arguments, result).await;
    let id = opened.map_err(|error| match error {
        AcceptError::Unavailable(fault) => store_fault(fault),
        other => store_fault(Unavailable(other.into())),
    })?;
    Ok((StatusCode::ACCEPTED, Json(find(&state, &id).await?)))
}

/// The receipts of erasures, newest first.
///
/// Each message of type `delete` has one, from the first attempt to delete the contact at Loops. Receipts are kept for
/// 400 days.
#[utoipa::path(
    get,
    path = "/api/erasures",
    tag = "Administration",
    operation_id = "erasures",
    params(ErasuresQuery),
    responses(
        (status = 200, description = "The receipts.", body = Erasures),
        (status = 400, description = "A parameter is unknown or wrong.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn list(
    State(state): State<AdminState>,
    uri: Uri,
) -> Result<Json<Erasures>, ApiError> {
    let given = Parameters::of(&uri, &["destination", "state", "limit", "before"])?;
    let is_open = match given.get("state") {
        None => None,
        Some("open") => Some(true),
        Some("erased") => Some(false),
        Some(_) => return Err(bad_query("`state` must be `open` or `erased`")),
    };
    let (limit, before) = (limit(&given)?, before(&given)?.map(|Seq(before)| before));
    let destination = given.get("destination").map(str::to_owned);
    let filter = ReceiptFilter { destination, is_open, before };
    let found = state.receipts.receipts(&filter, limit).await.map_err(store_fault)?;
    let (log, digests) = (state.receipts.write_ahead_log(), state.log.digests());
    Ok(Json(Erasures::new(found, limit, log, &digests)))
}

/// The receipt of an erasure.
#[utoipa::path(
    get,
    path = "/api/erasures/{id}",
    tag = "Administration",
    operation_id = "erasure",
    params(("id" = String, Path, description = "The id of the receipt.")),
    responses(
        (status = 200, description = "The receipt.", body = Erasure),
        (status = 404, description = "There is no such receipt; after 400 days, it is removed.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn of_id(
    State(state): State<AdminState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Erasure>, ApiError> {
    let id = id.map(|Path(id)| id).unwrap_or_default();
    Ok(Json(find(&state, &id).await?))
}

async fn find(state: &AdminState, id: &str) -> Result<Erasure, ApiError> {
    let found = state.receipts.receipt(id).await.map_err(store_fault)?;
    let found = found.ok_or_else(|| {
        let text =
            "there is no receipt of an erasure with this id; they are removed after 400 days";
        ApiError::new(StatusCode::NOT_FOUND, "unknown_erasure", text)
    })?;
    Ok(Erasure::new(found, state.receipts.write_ahead_log(), &state.log.digests()))
}

fn which() -> ApiError {
    ApiError::bad_request(
        "which_person",
        "the body must be a JSON object with exactly one of `userId` and `email`, which is a string that is not empty, and, if there are several destinations, with `destination`",
    )
}
