//! The routes of all handlers, and their description.

use axum::Router;
use axum::routing::any;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{HttpState, error, health, loops, openapi, paths, subscription, tracking, webhook};

/// Returns the routes that senders use, `/healthz` and `/readyz`, and their description.
pub fn router(state: HttpState) -> (Router, OpenApi) {
    let (tracking, mut description) = tracking::routes().split_for_parts();
    let (webhooks, of_webhooks) = OpenApiRouter::new()
        .routes(routes!(webhook::take))
        .routes(routes!(subscription::take))
        .routes(routes!(loops::take))
        .split_for_parts();
    let (health, of_health) = health_routes().split_for_parts();
    description.merge(of_webhooks);
    description.merge(of_health);
    openapi::complete(&mut description);
    let tracking = tracking
        .route("/v1/{*path}", any(paths::no_such_path))
        .route("/beacon/{*path}", any(paths::no_such_path))
        .method_not_allowed_fallback(paths::wrong_method);
    let router = tracking
        .merge(webhooks.method_not_allowed_fallback(paths::wrong_method))
        .merge(health.method_not_allowed_fallback(error::wrong_method))
        .fallback(paths::no_such_path)
        .with_state(state);
    (router, description)
}

/// Returns `/metrics`, which is for operators, and its description.
pub fn metrics_router(state: HttpState) -> (Router, OpenApi) {
    let (router, description) =
        OpenApiRouter::new().routes(routes!(health::metrics)).split_for_parts();
    (router.method_not_allowed_fallback(error::wrong_method).with_state(state), description)
}

/// Returns the base of a router for operators alone: `/healthz`, `/readyz`, and for other paths an error that says
/// where messages go.
pub fn admin_router(state: HttpState) -> Router {
    let (health, _) = health_routes().split_for_parts();
    health
        .method_not_allowed_fallback(error::wrong_method)
        .fallback(error::not_on_admin_address)
        .with_state(state)
}

fn health_routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new().routes(routes!(health::alive)).routes(routes!(health::ready))
}
