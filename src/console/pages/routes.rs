//! The routes of the pages, and the layers around them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower::ServiceBuilder;
use tower_http::csrf::CsrfLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::frame::Frame;
use super::render::error_page;
use super::{
    assets, editor, erase, erasures, failures, login, message, messages, new_contacts, now, person,
    replay, search, settings, subscriptions, tail,
};
use crate::console::audit::Actor;
use crate::console::session::Session;
use crate::console::state::AdminState;
use crate::http::error::ApiError;

/// The largest form, in bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// Allows only our own script, style and pictures; no frame around the page, and no form to elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Returns the routes of the console.
pub(in crate::console) fn router(state: AdminState) -> Router {
    let inside = Router::new()
        .route("/console", get(now::page))
        .route("/console/new-contacts", post(new_contacts::act))
        .route("/console/messages", get(messages::page))
        .route("/console/messages/tail", get(tail::follow))
        .route("/console/messages/{seq}", get(message::page).post(message::ask))
        .route("/console/people/{persons}", get(person::page).post(person::ask))
        .route("/console/people/{persons}/erase", get(erase::page).post(erase::erase))
        .route("/console/erasures", get(erasures::list))
        .route("/console/erasures/{id}", get(erasures::page))
        .route("/console/failures", get(failures::page))
        .route("/console/replay", get(replay::page).post(replay::replay))
        .route(
            "/console/subscriptions/{destination}/{name}",
            get(editor::page)
                .post(editor::try_it)
                .layer(DefaultBodyLimit::max(editor::FORM_BYTES_MAX)),
        )
        .route("/console/subscriptions", get(subscriptions::page))
        .route("/console/settings", get(settings::page))
        .route("/console/settings/reload", post(settings::reload))
        .route("/console/search", post(search::search))
        .route("/console/{*path}", get(not_found))
        .layer(from_fn_with_state(state.clone(), require_session));
    let outside = Router::new()
        .route("/console/login", get(login::page).post(login::log_in))
        .route("/console/logout", post(login::log_out));
    let fixed = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
    };
    let headers = ServiceBuilder::new()
        .layer(fixed(header::CONTENT_SECURITY_POLICY, POLICY))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::X_FRAME_OPTIONS, "DENY"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .layer(CsrfLayer::new().with_rejection_response(|_| refuse_foreign_form()));
    outside
        .merge(inside)
        .layer(headers)
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .merge(assets::routes())
        .with_state(state)
}

/// Passes on requests of people who are logged in, with their session; redirects others to the login.
async fn require_session(
    State(state): State<AdminState>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(session) = Session::of(&state.tokens, request.headers(), state.clock.now()) else {
        return login::ask(request.method(), request.uri());
    };
    request.extensions_mut().insert(Actor::of(&session));
    request.extensions_mut().insert(Arc::new(session));
    next.run(request).await
}

async fn not_found(frame: Frame) -> Response {
    let error =
        ApiError::new(StatusCode::NOT_FOUND, "not_found", "There is no page at this address.");
    error_page(frame, &error)
}

/// The response to a form from another site, or one whose origin a proxy has not passed on.
fn refuse_foreign_form() -> Response {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "cross_site",
        "the form was sent from another site: open the console itself and try again; a proxy in front must pass on the headers Host and Origin",
    )
    .into_response()
}
