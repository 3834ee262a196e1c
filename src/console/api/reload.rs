//! `POST /api/reload`: puts a changed configuration into force, as SIGHUP does.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};

use super::errors::AdminErrors;
use crate::console::audit::Actor;
use crate::console::reload;
use crate::console::state::AdminState;
use crate::console::view::{BadConfiguration, Reloaded};
use crate::http::error::{ApiError, ErrorBody};

/// Reads the configuration again and puts it into force.
///
/// Subscriptions and sources change at once. Other keys keep their values until a restart; the response names them. A
/// configuration with errors changes nothing.
#[utoipa::path(
    post,
    path = "/api/reload",
    tag = "Administration",
    operation_id = "reload",
    responses(
        (status = 200, description = "The configuration is in force.", body = Reloaded),
        (status = 422, description = "The configuration has errors; the old one stays in force.", body = BadConfiguration),
        (status = 500, description = "The reload failed unexpectedly; the log says why.", body = ErrorBody),
        AdminErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn reload(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
) -> Result<Response, ApiError> {
    Ok(match reload::reload(&state, &actor).await? {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(problems) => {
            let answer = BadConfiguration {
                code: "bad_configuration",
                message: "the configuration has errors; the old one stays in force",
                problems,
            };
            (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response()
        }
    })
}
