//! Records what people do.

use std::sync::Arc;

use serde_json::Value;

use super::session::Session;
use super::state::AdminState;
use super::tokens::Role;
use crate::queue::{AuditAction, AuditEntry};
use crate::telemetry;

/// The person behind a request. The layers around all routes add it to the request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) role: Role,
    /// Tells sessions and tokens apart; not a secret.
    pub(super) session: Arc<str>,
}

impl Actor {
    /// Returns the actor of a console session.
    pub(super) fn of(session: &Session) -> Self {
        Self { role: session.role, session: session.short_id().into() }
    }
}

/// Records an action in the audit log. Neither the arguments nor the result may hold personal data. If the store fails,
/// the failure is only logged, because the action has already happened.
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
    if let Err(fault) = state.store.audit(&entry).await {
        tracing::error!(error = %telemetry::chain(&fault), "an action of a person could not be recorded");
    }
}
