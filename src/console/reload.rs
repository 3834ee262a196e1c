//! Reloads the configuration when a person asks for it, and records that.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;

use super::audit::{Actor, record};
use super::numbers::count;
use super::state::{AdminState, Reload};
use super::view::Reloaded;
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
        Ok(Reloaded { changed, needs_restart, .. }) => {
            let mut result = "in force".to_owned();
            if !changed.is_empty() {
                result += &format!("; {} changed", count(changed.len(), "key"));
            }
            if !needs_restart.is_empty() {
                result += &format!("; {} need a restart", needs_restart.len());
            }
            result
        }
        Err(problems) => format!("rejected: {} errors", problems.len()),
    };
    record(state, actor, AuditAction::Reload, &json!({}), result).await;
    Ok(reloaded)
}
