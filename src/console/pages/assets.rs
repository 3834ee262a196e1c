//! The style sheet, the script and the icon of the console. Their names contain a digest of their contents, so browsers
//! may cache them forever.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::console::state::AdminState;

const STYLE: &str = include_str!("../assets/console.css");
const SCRIPT: &str = include_str!("../assets/console.js");
const ICON: &str = include_str!("../assets/icon.svg");

/// The paths of the assets.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) style: String,
    pub(super) script: String,
    pub(super) icon: String,
}

/// Returns the paths of the assets.
pub(super) fn names() -> &'static Names {
    static NAMES: LazyLock<Names> = LazyLock::new(|| {
        let of = |text: &str, extension: &str| {
            let digest = URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..9]);
            format!("/console/assets/{digest}.{extension}")
        };
        Names { style: of(STYLE, "css"), script: of(SCRIPT, "js"), icon: of(ICON, "svg") }
    });
    &NAMES
}

/// Returns the routes of the assets, which anyone may fetch.
pub(super) fn routes() -> Router<AdminState> {
    let Names { style, script, icon } = names();
    Router::new()
        .route(style, get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .route(script, get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .route(icon, get(|| async { asset("image/svg+xml", ICON) }))
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text)
}
