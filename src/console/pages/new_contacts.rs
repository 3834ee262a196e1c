//! What people ask for about held messages on the page Now.

use askama::Template;
use axum::Extension;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use jiff::Timestamp;
use serde::Deserialize;

use super::frame::Frame;
use super::parts::{only_for_admins, url_encode};
use super::render::{error_page, html};
use crate::console::audit::Actor;
use crate::console::new_contacts::{self, RELEASE_MAX};
use crate::console::numbers::counted;
use crate::console::state::{AdminState, store_fault};
use crate::console::tokens::Role;
use crate::http::error::ApiError;

/// The form.
#[derive(Debug, Deserialize)]
pub(super) struct Wished {
    destination: String,
    /// `release` or `discard`.
    wish: String,
    /// How many more contacts may be created.
    count: Option<String>,
    /// The messages that a person agreed to discard are those held up to this time, in Unix milliseconds.
    until: Option<i64>,
}

/// Asks for confirmation before messages are discarded.
#[derive(Template)]
#[template(path = "discard.html")]
struct DiscardPage {
    frame: Frame,
    destination: String,
    messages: String,
    /// The URL of their list.
    list: String,
    until: i64,
}

/// Does what the form says, then shows Now again. Asks for confirmation before messages are discarded.
pub(super) async fn act(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    form: Result<Form<Wished>, FormRejection>,
) -> Response {
    match wish(&state, &actor, frame.clone(), form).await {
        Ok(Some(page)) => html(StatusCode::OK, &page),
        Ok(None) => Redirect::to("/console").into_response(),
        Err(error) => error_page(frame, &error),
    }
}

async fn wish(
    state: &AdminState,
    actor: &Actor,
    frame: Frame,
    form: Result<Form<Wished>, FormRejection>,
) -> Result<Option<DiscardPage>, ApiError> {
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
            new_contacts::release(state, actor, &destination, count).await.map(|()| None)
        }
        "discard" => match wished.until.map(Timestamp::from_millisecond) {
            None => ask(state, frame, destination).await,
            Some(until) => {
                let until =
                    until.map_err(|_| bad("The form cannot be read: try again.".to_owned()))?;
                new_contacts::discard(state, actor, &destination, until).await.map(|_| None)
            }
        },
        _ => Err(bad("Choose to release contacts, or to discard what is held.".to_owned())),
    }
}

/// Makes the page that asks for confirmation; `None` if there is nothing to discard.
async fn ask(
    state: &AdminState,
    frame: Frame,
    destination: String,
) -> Result<Option<DiscardPage>, ApiError> {
    let until = state.clock.now().as_millisecond();
    let (held, _) = state.store.count_held(&destination).await.map_err(store_fault)?;
    Ok((held > 0).then(|| DiscardPage {
        frame,
        messages: counted(held, "message"),
        list: format!("/console/messages?destination={}&state=held", url_encode(&destination)),
        destination,
        until,
    }))
}
