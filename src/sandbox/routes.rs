//! The paths of the simulated API and of the control API.

use axum::Router;

use super::answer::no_such_path;
use super::team::{API_BASE, Sandbox};
use super::{api, control};

impl Sandbox {
    /// Returns the simulated API under [`API_BASE`] and the control API under `/sandbox`.
    pub fn router(&self) -> Router {
        Router::new()
            .nest(API_BASE, api::router(self))
            .nest("/sandbox", control::router(self))
            .fallback(no_such_path)
    }
}
