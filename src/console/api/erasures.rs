//! `/api/erasures`: asks for the erasure of a person, and shows the receipts.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::body::{self, Body};
use super::errors::{AdminErrors, StoreErrors};
use crate::console::audit::{self, Actor};
use crate::console::erasures::{self, Erasure, ErasureState, Erasures};
use crate::console::filter::write_persons;
use crate::console::query::{Query, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::console::values::{Before, Limit};
use crate::destination::is_email;
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::{self, AcceptError, AuditAction, ReceiptFilter, Unavailable};
use crate::segment::{PersonDigest, PersonIdKind};

/// The person to erase: exactly one of `userId` and `email`.
#[derive(Debug, Deserialize, ToSchema)]
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
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ErasuresQuery {
    /// Name of the destination.
    #[param(example = "default")]
    destination: Option<String>,
    /// The state of the erasure.
    state: Option<ErasureState>,
    /// The most receipts to return.
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `next` of the previous page, to get the page after it.
    #[param(value_type = Option<i64>)]
    before: Option<Before>,
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
        (status = 400, description = "The body is not JSON, does not have exactly one of the ids, the address cannot exist, or the destination is unknown or missing.", body = ErrorBody),
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
    let asked = Asked::read(&body)?;
    let (kind, id) = asked.person()?;
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
    let digests = state.store.digests();
    let now = state.clock.now();
    let deletion = queue::deletion(&digests, (kind, &id), destination, &source, now);
    let deletion = deletion.ok_or_else(|| which("no deletion can be made from this id"))?;
    if let Some(why) = erasures::why_not(&planner, &deletion) {
        return Err(cannot(format!(
            "nothing would be deleted at Loops, and so nothing erased: {why}"
        )));
    }
    let arguments = json!({
        "person": write_persons(&[PersonDigest(deletion.lane.0)]),
        "destination": destination,
    });
    let opened = erasures::ask(&*state.store, &*state.store, deletion).await;
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
    Query(query, ..): Query<ErasuresQuery>,
) -> Result<Json<Erasures>, ApiError> {
    let Limit(limit) = query.limit;
    let filter = ReceiptFilter {
        destination: query.destination,
        is_open: query.state.map(|state| state == ErasureState::Open),
        before: query.before.map(|Before(before)| before),
    };
    let found = state.store.receipts(&filter, limit).await.map_err(store_fault)?;
    if found.is_empty() {
        check_destination(&state, filter.destination).await?;
    }
    let (log, digests) = (state.store.write_ahead_log(), state.store.digests());
    Ok(Json(Erasures::new(found, limit, log, &digests)))
}

/// Rejects a destination that is neither configured nor has receipts.
async fn check_destination(state: &AdminState, name: Option<String>) -> Result<(), ApiError> {
    if name.as_ref().is_none_or(|name| state.planners.contains_key(name)) {
        return Ok(());
    }
    let filter = ReceiptFilter { destination: name, ..ReceiptFilter::default() };
    if state.store.receipts(&filter, 1).await.map_err(store_fault)?.is_empty() {
        let names = state.destination_names();
        return Err(bad_query(format!("`destination` is unknown: it must be one of {names}")));
    }
    Ok(())
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
    let found = state.store.receipt(id).await.map_err(store_fault)?;
    let found = found.ok_or_else(|| {
        let text =
            "there is no receipt of an erasure with this id; they are removed after 400 days";
        ApiError::new(StatusCode::NOT_FOUND, "unknown_erasure", text)
    })?;
    Ok(Erasure::new(found, state.store.write_ahead_log(), &state.store.digests()))
}

impl Asked {
    /// Reads a body. No error repeats a part of it.
    fn read(body: &[u8]) -> Result<Self, ApiError> {
        const FIELDS: [&str; 3] = ["userId", "email", "destination"];
        // Only words the errors: of a field that is given twice, it has one value.
        let value: Value =
            serde_json::from_slice(body).map_err(|_| which("the body is not JSON"))?;
        let fields = value.as_object().ok_or_else(|| which("the body is not a JSON object"))?;
        for (name, value) in fields {
            let Some(name) = FIELDS.into_iter().find(|field| field == name) else {
                return Err(which(
                    "a field of the body is unknown: allowed are `userId`, `email` and `destination`",
                ));
            };
            match value {
                Value::Null => {}
                Value::String(text) if text.trim().is_empty() => {
                    return Err(which(&format!("`{name}` is empty")));
                }
                Value::String(_) => {}
                _ => return Err(which(&format!("`{name}` must be a string"))),
            }
        }
        serde_json::from_slice(body).map_err(|_| which("a field of the body is given twice"))
    }

    /// The id that names the person.
    fn person(&self) -> Result<(PersonIdKind, String), ApiError> {
        match (&self.user_id, &self.email) {
            (Some(id), None) => Ok((PersonIdKind::User, id.clone())),
            (None, Some(address)) if is_email(address.trim()) => {
                Ok((PersonIdKind::Email, address.clone()))
            }
            (None, Some(_)) => {
                Err(which("`email` is not an address that Loops can have, such as ada@example.com"))
            }
            (Some(_), Some(_)) => Err(which(
                "`userId` and `email` are both given: a deletion names one of them, the user id if there is one",
            )),
            (None, None) => Err(which("neither `userId` nor `email` is given")),
        }
    }
}

/// The error for a body that does not name a person.
fn which(problem: &str) -> ApiError {
    let message = format!("{problem}; send a JSON object such as {{\"userId\": \"user_1\"}}");
    ApiError::bad_request("which_person", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_given_twice_names_nobody() {
        for body in [
            r#"{"userId":"a","userId":"b"}"#,
            r#"{"userId":"a","userId":"a"}"#,
            r#"{"userId":null,"userId":"b"}"#,
            r#"{"userId":"a","destination":"x","destination":"y"}"#,
        ] {
            assert!(Asked::read(body.as_bytes()).is_err(), "{body}");
        }
        for body in [r#"["a"]"#, r#"["a",null,null]"#, r#""a""#, ""] {
            assert!(Asked::read(body.as_bytes()).is_err(), "{body}");
        }
        let asked = Asked::read(br#"{"userId":"b","email":null}"#);
        assert_eq!(asked.ok().and_then(|asked| asked.user_id).as_deref(), Some("b"));
    }
}
