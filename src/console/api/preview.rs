//! `POST /api/preview`: what would become of a message.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::{self, Body};
use super::errors::AdminErrors;
use crate::console::preview::{Preview, message_of};
use crate::console::query::Query;
use crate::console::state::AdminState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::openapi::Message;
use crate::segment::repair::read_message;

/// The query of `POST /api/preview`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PreviewQuery {
    /// Name of the destination whose subscriptions to use; required if there are several.
    #[param(example = "default")]
    destination: Option<String>,
}

/// What would happen to a message. Nothing is stored or sent.
#[utoipa::path(
    post,
    path = "/api/preview",
    tag = "Administration",
    operation_id = "preview",
    params(PreviewQuery),
    request_body(content = Message, content_type = "application/json"),
    responses(
        (status = 200, description = "The message would be accepted.", body = Preview),
        (status = 400, description = "The body is not a message that would be accepted, or the destination is missing or unknown.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn preview(
    State(state): State<AdminState>,
    Query(PreviewQuery { destination }, ..): Query<PreviewQuery>,
    body: Body,
) -> Result<Json<Preview>, ApiError> {
    let planner = state.planner(destination.as_deref()).ok_or_else(|| {
        let names = state.destination_names();
        let message = format!("say which destination: `destination` must be one of {names}");
        ApiError::bad_request("which_destination", message)
    })?;
    let body = body::bytes(body)?;
    let preview = || {
        let value = read_message(&body)
            .map_err(|error| ApiError::bad_request("bad_json", error.to_string()))?;
        let message = message_of(value)
            .map_err(|error| ApiError::bad_request("bad_message", error.to_string()))?;
        Ok(Json(Preview::of(&planner, &message)))
    };
    state.turns.decode(body.len(), preview).await
}
