//! The wishes of people about messages that are held, from the page Now.

use axum::Extension;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::error_page;
use super::frame::Frame;
use super::parts::only_for_admins;
use crate::console::audit::Actor;
use crate::console::auth::Role;
use crate::console::new_contacts::{self, RELEASE_MAX};
use crate::console::state::AdminState;
use crate::http::error::ApiError;

/// The form.
#[derive(Debug, Deserialize)]
pub(super) struct Wished {
    destination: String,
    /// `release` or `discard`.
    wish: String,
    /// How many more contacts may be created.
    count: Option<String>,
}

/// Does what the form says, and shows Now again.
pub(super) async fn act(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    form: Result<Form<Wished>, FormRejection>,
) -> Response {
    match wish(&state, &actor, form).await {
        Ok(()) => Redirect::to("/console").into_response(),
        Err(error) => error_page(frame, &error),
    }
}

async fn wish(
    state: &AdminState,
    actor: &Actor,
    form: Result<Form<Wished>, FormRejection>,
) -> Result<(), ApiError> {
    if actor.role != Role::Admin {
        return Err(only_for_admins());
    }
    let bad = |text: String| ApiError::bad_request("bad_form", text);
    let Form(wished) = form.map_err(|_| bad("The form cannot be read: try again.".to_owned()))?;
    let destination = new_contacts::destination(state, Some(&wished.destination))?;
    match wished.wish.as_str() {
        "release" => {
            let count = wished.count.unwrap_or_default();
            let count = count.trim().parse().map_err(|_| {
                bad(format!(
                    "The number of contacts must be a whole number from 1 to {RELEASE_MAX}."
                ))
            })?;
            new_contacts::release(state, actor, &destination, count).await
        }
        "discard" => new_contacts::discard(state, actor, &destination).await.map(|_| ()),
        _ => Err(bad("Choose to release contacts, or to discard what is held.".to_owned())),
    }
}
