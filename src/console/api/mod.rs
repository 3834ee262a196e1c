//! The handlers of the API, and the list of its routes.

mod audit;
mod body;
mod compare;
mod erasures;
mod errors;
mod event_names;
mod failures;
mod feedback;
mod messages;
mod new_contacts;
mod people;
mod preview;
mod reload;
mod replay;
mod replicas;
mod status;
mod tallies;

use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::AdminState;

/// Returns all routes below `/api`. The caller adds the authorization.
pub(super) fn routes() -> OpenApiRouter<AdminState> {
    OpenApiRouter::default()
        .routes(routes!(messages::list))
        .routes(routes!(messages::of_id))
        .routes(routes!(people::find))
        .routes(routes!(failures::failures))
        .routes(routes!(feedback::feedback))
        .routes(routes!(tallies::tallies))
        .routes(routes!(event_names::event_names))
        .routes(routes!(replicas::replicas))
        .routes(routes!(status::status))
        .routes(routes!(audit::audit))
        .routes(routes!(erasures::list, erasures::erase))
        .routes(routes!(erasures::of_id))
        .routes(routes!(preview::preview))
        .routes(routes!(compare::compare))
        .routes(routes!(new_contacts::release))
        .routes(routes!(new_contacts::discard))
        .routes(routes!(reload::reload))
        .routes(routes!(replay::replay))
        .layer(DefaultBodyLimit::max(body::BYTES_MAX))
}
