//! `GET /openapi.json`: the description of everything that is served.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http;

/// Returns the route that serves a description, to which it adds itself.
pub(super) fn router(mut description: OpenApi) -> Router {
    let (router, own) = OpenApiRouter::default().routes(routes!(give)).split_for_parts();
    description.merge(own);
    // Strings and maps can always be serialized, and a test reads the result.
    let text = description.to_pretty_json().map(|text| text + "\n").unwrap_or_default();
    router.method_not_allowed_fallback(http::error::wrong_method).with_state(Bytes::from(text))
}

/// This description, as OpenAPI.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Operations",
    operation_id = "openapi",
    responses((status = 200, description = "The OpenAPI document.", body = Object)),
    security(())
)]
async fn give(State(text): State<Bytes>) -> ([(header::HeaderName, &'static str); 1], Bytes) {
    // All responses share the text. Otherwise, each client that does not read would hold a copy in memory.
    ([(header::CONTENT_TYPE, "application/json")], text)
}
