//! Records what people do.

use std::sync::Arc;

use serde_json::Value;

use super::auth::Role;
use super::session::Session;
use super::state::AdminState;
use crate::queue::{AuditAction, AuditEntry};
use crate::telemetry;

/// Who acts. The layers around all routes put it into the extensions of a request.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) role: Role,
    /// Tells sessions and tokens apart; no secret.
    pub(super) session: Arc<str>,
}

impl Actor {
    /// Someone who is logged in to the console.
    pub(super) fn of(session: &Session) -> Self {
        Self { role: session.role, session: session.short_id().into() }
    }
}

/// Records what was done. Neither the arguments nor the result may hold personal data. That the store failed is logged:
/// what was done is done.
pub(super) async fn record(
    state: &AdminState,
    actor: &Actor,
    action: AuditAction,
    arguments: &Value,
    result: String,
) {
    let entry = AuditEntry {
        at: state.clock.now(),
        role: actor.role.as_str().to_owned(),
        session: actor.session.to_string(),
        process: state.process.clone(),
        action,
        arguments: arguments.to_string(),
        result,
    };
    let AuditEntry { role, session, arguments, result, .. } = &entry;
    tracing::info!(role, session, action = action.as_str(), arguments, result, "a person acted");
    if let Err(fault) = state.audit.audit(&entry).await {
        tracing::error!(error = %telemetry::chain(&fault), "what a person did could not be recorded");
    }
}
