//! What people ask: the API below `/api`, behind the admin token, and the pages below `/console`, behind a login.
//!
//! * `view`: what an answer holds. One struct is the JSON, its schema, and what a page shows.
//! * `preview`: the same for a message that was never sent; the command line shows it, too.
//! * `audit`: the list of what people did.
//! * `erasures`: asking for the erasure of a person, and its receipt; the command line does it, too.
//! * `compare`: what a changed subscription would do to messages; the command line shows it, too.
//! * `changed`: which messages the subscriptions in force make another request of; the command line replays them, too.
//! * `auth` and `session`: who may do what. Layers around all routes, so that none can be reached without a token.
//! * `api`: the handlers of the API. They ask the queue and know no SQL.
//! * `reload`: what both do to load the configuration again.
//! * `status` and `diagnosis`: how the service is at the moment, for both.
//! * `pages`: the handlers of the pages, with their templates and assets.

mod api;
mod asker;
mod audit;
mod auth;
mod changed;
pub mod compare;
mod diagnosis;
pub mod erasures;
mod filter;
mod mask;
mod new_contacts;
mod pages;
mod person;
pub mod preview;
mod query;
mod reload;
mod replay;
mod session;
mod state;
mod status;
mod verdict;
pub mod view;
mod words;

pub use asker::{AskError, Asker, ContactKey, Events, Held};
pub use auth::Tokens;
pub use changed::Changed;
pub use pages::Tails;
pub(crate) use query::time_or_ago;
pub use state::{AdminState, Planners, Reload, Setting};
pub use status::Depths;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa::openapi::OpenApi;

use crate::http::error::wrong_method;
use auth::Gate;

/// The routes below `/api` and `/console`, and the description of the former.
pub fn router(state: AdminState) -> (Router, OpenApi) {
    let gate = Gate { tokens: state.tokens.clone(), guesses: Arc::clone(&state.guesses) };
    let pages = pages::router(state.clone());
    let (router, description) = api::routes().split_for_parts();
    let router = router
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(gate, auth::require_token))
        .with_state(state);
    (router.merge(pages), description)
}
