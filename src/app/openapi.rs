//! `GET /openapi.json`: the description of all that is served.

use axum::Router;
use axum::http::header;
use axum::routing::get;
use utoipa::OpenApi;

use crate::{console, http};

#[derive(OpenApi)]
#[openapi(paths(give))]
struct Described;

/// The route.
pub(super) fn router() -> Router {
    Router::new()
        .route("/openapi.json", get(give))
        .method_not_allowed_fallback(http::error::wrong_method)
}

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Operations",
    operation_id = "openapi",
    responses((status = 200, description = "It.", body = Object)),
    security(())
)]
async fn give() -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/json")], text())
}

/// The document, as text that people can compare.
fn text() -> String {
    let mut document = http::openapi::document();
    document.merge(console::openapi::document());
    document.merge(Described::openapi());
    // It is made of texts and maps alone, which can always be written; a test reads it.
    document.to_pretty_json().map(|text| text + "\n").unwrap_or_default()
}
