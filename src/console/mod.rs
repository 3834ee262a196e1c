//! What operators ask: the API below `/api`, behind the admin token. Pages will stand beside it.
//!
//! * `view`: what an answer holds. One struct is the JSON, its schema, and what a page shows.
//! * `preview`: the same for a message that was never sent; the command line shows it, too.
//! * `auth`: the layer around all routes, so that none can be reached without a token.
//! * `api`: the handlers. They ask the queue and know no SQL.

mod api;
mod auth;
pub mod preview;
mod state;
pub mod view;
mod words;

pub use state::{AdminState, Planners, Reload};

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa::openapi::OpenApi;

use crate::http::error::wrong_method;
use auth::Gate;

/// The routes below `/api`, and their description.
pub fn router(state: AdminState) -> (Router, OpenApi) {
    let gate = Gate { tokens: state.tokens.clone().into(), guesses: Arc::clone(&state.guesses) };
    let (router, description) = api::routes().split_for_parts();
    let router = router
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(gate, auth::require_token))
        .with_state(state);
    (router, description)
}
