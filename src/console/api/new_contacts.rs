//! `/api/new-contacts`: lets more contacts be created, or discards the messages that are held because of them.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{self, Body};
use super::errors::{AdminErrors, StoreErrors};
use crate::console::audit::Actor;
use crate::console::new_contacts;
use crate::console::state::AdminState;
use crate::http::error::{ApiError, ErrorBody};

/// How many more contacts may be created today.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReleaseQuestion, example = json!({"count": 100}))]
struct Release {
    /// How many, 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    count: u32,
    /// Name of the destination; may be left out if there is only one.
    #[schema(example = "default")]
    destination: Option<String>,
}

/// Which messages to discard: all that are held now.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DiscardQuestion, example = json!({"destination": "default"}))]
struct Discard {
    /// Name of the destination; may be left out if there is only one.
    #[schema(example = "default")]
    destination: Option<String>,
}

/// What was released.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Released {
    /// Name of the destination.
    destination: String,
    /// How many more contacts may be created today.
    count: u32,
}

/// What was discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Discarded {
    /// Name of the destination.
    destination: String,
    /// How many messages ended as failed, with the reason `discarded`.
    messages: u64,
    /// Whether everything that was held is discarded; if not, send the request again.
    complete: bool,
}

/// Lets a destination create more contacts today than `new_contacts_per_day` allows.
///
/// Held messages go on within a second or two, oldest first, until that many more contacts have been created. The rest
/// of the allowance ends with the day (UTC).
#[utoipa::path(
    post,
    path = "/api/new-contacts/release",
    tag = "Administration",
    operation_id = "releaseNewContacts",
    request_body(content = Release, content_type = "application/json"),
    responses(
        (status = 200, description = "It is released.", body = Released),
        (status = 400, description = "The body is not such a JSON object, the count is out of range, or the destination is unknown or missing.", body = ErrorBody),
        (status = 409, description = "Nothing is held at the destination: it has no cap (`new_contacts_per_day`), creates no contacts, or is in shadow mode.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn release(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    body: Body,
) -> Result<Json<Released>, ApiError> {
    let body = body::bytes(body)?;
    let asked: Release = serde_json::from_slice(&body).map_err(|_| {
        ApiError::bad_request(
            "bad_body",
            "the body must be a JSON object with `count`, a whole number, and, if there are several destinations, with `destination`",
        )
    })?;
    let destination = new_contacts::destination(&state, asked.destination.as_deref())?;
    new_contacts::release(&state, &actor, &destination, asked.count).await?;
    Ok(Json(Released { destination, count: asked.count }))
}

/// Fails the messages that are held because they would create too many contacts.
///
/// They fail with the reason `discarded`, so a replay can bring them back. Messages of the same people behind them go
/// on.
#[utoipa::path(
    post,
    path = "/api/new-contacts/discard",
    tag = "Administration",
    operation_id = "discardHeldMessages",
    request_body(content = Discard, content_type = "application/json"),
    responses(
        (status = 200, description = "They are discarded.", body = Discarded),
        (status = 400, description = "The body is not such a JSON object, or the destination is unknown or missing.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn discard(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    body: Body,
) -> Result<Json<Discarded>, ApiError> {
    let body = body::bytes(body)?;
    let asked: Discard = serde_json::from_slice(&body).map_err(|_| {
        ApiError::bad_request(
            "bad_body",
            "the body must be a JSON object, with `destination` if there are several destinations",
        )
    })?;
    let destination = new_contacts::destination(&state, asked.destination.as_deref())?;
    let new_contacts::Discarded { messages, is_complete } =
        new_contacts::discard(&state, &actor, &destination, state.clock.now()).await?;
    Ok(Json(Discarded { destination, messages, complete: is_complete }))
}
