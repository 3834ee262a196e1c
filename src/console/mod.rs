//! The console: the API below `/api`, behind the admin token, and the pages below `/console`, behind a login.
//!
//! * `view`: the responses. One struct is the JSON, its schema, and what a page shows.
//! * `preview`: the same for a message that was never sent; shared with the command line.
//! * `audit`: records what people do.
//! * `erasures`: asking for the erasure of a person, and its receipt; shared with the command line.
//! * `compare`: what a changed subscription would do to messages; shared with the command line.
//! * `changed`: chooses the messages for which the subscriptions in force would send a different request, to replay
//!   them; shared with the command line.
//! * `tokens`: who may do what. `auth` and `session` are layers around all routes, so that no handler can forget to
//!   check.
//! * `api`: the handlers of the API. They ask the queue and know no SQL.
//! * `query`: one struct describes and reads the query of an operation; `values` and `words` are its values.
//! * `reload`: loads the configuration again, for the API and the pages.
//! * `status` and `diagnosis`: the present state of the service, for both.
//! * `numbers` and `reasons`: how sentences write numbers, times and reasons.
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
mod numbers;
mod pages;
mod person;
pub mod preview;
mod query;
mod reasons;
mod reload;
mod replay;
mod session;
mod state;
mod status;
mod tails;
mod tokens;
mod values;
mod verdict;
pub mod view;
mod words;

pub use asker::{AskError, Asker, ContactKey, Events, Held};
pub use changed::Changed;
pub use state::{AdminParts, AdminState, Planners, Reload, Setting};
pub use status::Depths;
pub use tails::Tails;
pub use tokens::Tokens;
pub(crate) use values::TimeOrAgo;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa::openapi::OpenApi;

use crate::http::error::wrong_method;
use auth::Gate;

/// Returns the routes below `/api` and `/console`, and the OpenAPI description of the API.
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
