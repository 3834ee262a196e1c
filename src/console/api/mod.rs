//! The handlers of the API, and the one list of them.

mod body;
mod errors;
mod messages;
mod preview;
mod query;
mod reload;
mod replay;

use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::AdminState;

/// All routes below `/api`. The caller puts the authorization around them.
pub(super) fn routes() -> OpenApiRouter<AdminState> {
    OpenApiRouter::default()
        .routes(routes!(messages::of_person))
        .routes(routes!(messages::of_id))
        .routes(routes!(preview::preview))
        .routes(routes!(reload::reload))
        .routes(routes!(replay::replay))
        .layer(DefaultBodyLimit::max(body::BYTES_MAX))
}
