//! Details that only admins get, and only when they ask: contents, ids, and answers of Loops. Each question is
//! recorded.

use axum::Form;
use axum::extract::rejection::FormRejection;
use serde::Deserialize;
use serde_json::Value;

use super::frame::Frame;
use super::parts::only_for_admins;
use crate::console::audit::{self, Actor};
use crate::console::state::AdminState;
use crate::http::error::ApiError;
use crate::queue::AuditAction;

/// What an admin asks for with a button on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wish {
    /// To see the contents of a message.
    Contents,
    /// Whether Loops knows the event of a message.
    Events,
    /// To see the ids of a person.
    Ids,
    /// What Loops holds of a person.
    Contact,
}

impl Wish {
    fn action(self) -> AuditAction {
        match self {
            Wish::Contents | Wish::Ids => AuditAction::ShowContents,
            Wish::Events | Wish::Contact => AuditAction::AskLoops,
        }
    }
}

/// The form behind such a button.
#[derive(Deserialize)]
pub(super) struct Wished {
    wish: Wish,
}

/// Returns what was asked for, and records it with these arguments; `None` if the form cannot be read. Only admins may
/// ask: for others it is an error.
pub(super) async fn grant(
    state: &AdminState,
    actor: &Actor,
    frame: &Frame,
    form: Result<Form<Wished>, FormRejection>,
    arguments: &Value,
) -> Result<Option<Wish>, ApiError> {
    if !frame.is_admin {
        return Err(only_for_admins());
    }
    let Ok(Form(Wished { wish })) = form else { return Ok(None) };
    audit::record(state, actor, wish.action(), arguments, String::new()).await;
    Ok(Some(wish))
}
