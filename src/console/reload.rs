//! Loads the configuration again at the wish of a person, and records that.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;

use super::audit::{Actor, record};
use super::state::{AdminState, Reload};
use crate::http::error::ApiError;
use crate::queue::AuditAction;

/// Puts a changed configuration into force.
pub(super) async fn reload(state: &AdminState, actor: &Actor) -> Result<Reload, ApiError> {
    let reload = Arc::clone(&state.reload);
    let reloaded = tokio::task::spawn_blocking(move || reload()).await.map_err(|_| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "reload_broke_off",
            "the reload failed unexpectedly: see the log",
        )
    })?;
    let result = match &reloaded {
        Ok(reloaded) if reloaded.needs_restart.is_empty() => "in force".to_owned(),
        Ok(reloaded) => {
            format!("in force; {} changed keys need a restart", reloaded.needs_restart.len())
        }
        Err(problems) => format!("rejected: {} errors", problems.len()),
    };
    record(state, actor, AuditAction::Reload, &json!({}), result).await;
    Ok(reloaded)
}
