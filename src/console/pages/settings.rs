//! The page Settings: the processes, the configuration in force, when Loops was last heard, and what people did.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Redirect, Response};

use super::frame::Frame;
use super::parts::Time;
use super::render::{error_page, html};
use crate::console::audit::Actor;
use crate::console::query::Parameters;
use crate::console::reload;
use crate::console::state::{AdminState, Setting, store_fault};
use crate::console::tokens::Role;
use crate::console::view::{AuditEntry, AuditList, ReloadProblem, Reloaded, Replicas};
use crate::http::error::ApiError;

/// How many audit entries are shown.
const ENTRIES_MAX: u32 = 20;

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    frame: Frame,
    /// Whether a reload was just done from this page.
    is_reloaded: bool,
    problems: Vec<ReloadProblem>,
    /// The result of the last reload, if there was one.
    last: Option<Reloaded>,
    replicas: Replicas,
    /// Each destination, and when Loops last reported anything about it.
    heard: Vec<(String, Option<Time>)>,
    settings: Vec<Setting>,
    entries: Vec<AuditEntry>,
}

/// Shows the page.
pub(super) async fn page(State(state): State<AdminState>, frame: Frame, uri: Uri) -> Response {
    let given = match Parameters::of(&uri, &["reloaded"]) {
        Ok(given) => given,
        Err(error) => return error_page(frame, &error),
    };
    let is_reloaded = given.get("reloaded").is_some();
    show(&state, frame, StatusCode::OK, is_reloaded, Vec::new()).await
}

/// Loads the configuration again.
pub(super) async fn reload(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
) -> Response {
    if actor.role != Role::Admin {
        let text = "Only an admin may load the configuration again: log in with an admin token.";
        return error_page(frame, &ApiError::new(StatusCode::FORBIDDEN, "viewer_token", text));
    }
    match reload::reload(&state, &actor).await {
        Ok(Ok(_)) => Redirect::to("/console/settings?reloaded=yes").into_response(),
        Ok(Err(problems)) => {
            show(&state, frame, StatusCode::UNPROCESSABLE_ENTITY, false, problems).await
        }
        Err(error) => error_page(frame, &error),
    }
}

async fn show(
    state: &AdminState,
    frame: Frame,
    status: StatusCode,
    is_reloaded: bool,
    problems: Vec<ReloadProblem>,
) -> Response {
    match read(state, frame.clone(), is_reloaded, problems).await {
        Ok(page) => html(status, &page),
        Err(error) => error_page(frame, &error),
    }
}

async fn read(
    state: &AdminState,
    frame: Frame,
    is_reloaded: bool,
    problems: Vec<ReloadProblem>,
) -> Result<SettingsPage, ApiError> {
    let found = state.store.replicas(state.clock.now()).await.map_err(store_fault)?;
    let entries = state.store.audit_list(None, ENTRIES_MAX).await.map_err(store_fault)?;
    let mut names: Vec<&String> = state.planners.keys().collect();
    names.sort_unstable();
    let mut heard = Vec::new();
    for name in names {
        let last = state.store.last_heard(name).await.map_err(store_fault)?;
        heard.push((name.clone(), last.map(Time)));
    }
    Ok(SettingsPage {
        frame,
        is_reloaded,
        problems,
        last: (state.last_reload)(),
        replicas: Replicas::new(found, &state.process),
        heard,
        settings: (state.settings)(),
        entries: AuditList::new(entries, ENTRIES_MAX).entries,
    })
}
