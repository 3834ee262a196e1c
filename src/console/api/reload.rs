//! `POST /api/reload`: puts a changed configuration into force, as SIGHUP does.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::errors::AdminErrors;
use crate::console::state::AdminState;
use crate::console::view::{BadConfiguration, Reloaded};
use crate::http::error::{ApiError, ErrorBody};

/// Loads the configuration again and puts it into force.
///
/// Subscriptions and sources change at once; other keys keep their values until a restart, and the
/// answer names them. A configuration with errors changes nothing.
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
pub(super) async fn reload(State(state): State<AdminState>) -> Result<Response, ApiError> {
    let reload = Arc::clone(&state.reload);
    let reloaded = tokio::task::spawn_blocking(move || reload()).await.map_err(|_| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "reload_broke_off",
            "the reload failed unexpectedly: see the log",
        )
    })?;
    Ok(match reloaded {
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
