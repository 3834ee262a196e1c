//! The pages below `/console`: rendered by the server, and complete without a script.
//!
//! Anyone with a public write key can put text into messages, so a page may do no more than it needs to: the templates
//! escape, the policy in the headers allows no script but our own, and no page is cached.

mod assets;
mod editor;
mod erase;
mod erasures;
mod failures;
mod frame;
mod login;
mod message;
mod messages;
mod new_contacts;
mod now;
pub(super) mod parts;
mod person;
mod replay;
mod search;
mod sent;
mod settings;
mod subscriptions;
mod tail;
mod wish;

use std::convert::Infallible;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future;
use futures_util::stream::{self, StreamExt as _};
use tower::ServiceBuilder;
use tower_http::csrf::CsrfLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::audit::Actor;
use super::session::Session;
use super::state::AdminState;
use crate::http::error::ApiError;
use frame::Frame;
pub use tail::Tails;

/// The largest form, in bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// Tells nginx to pass on each part of a response at once.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Allows only our own script, style and pictures; no frame around the page, and no form to elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Returns the routes of the console.
pub(super) fn router(state: AdminState) -> Router {
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

/// Renders a page.
fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => not_rendered(&error),
    }
}

fn not_rendered(error: &askama::Error) -> Response {
    tracing::error!(%error, "a page cannot be rendered");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the page cannot be shown: please report the line `a page cannot be rendered` in the log",
    )
    .into_response()
}

/// Sends a page up to a mark at once, and the rest when the part at the mark is ready. It is for parts that may take
/// longer than a reader wants to wait for a page, and needs no script.
fn in_two(
    page: &impl Template,
    mark: &str,
    part: impl Future<Output = askama::Result<String>> + Send + 'static,
) -> Response {
    let text = match page.render() {
        Ok(text) => text,
        Err(error) => return not_rendered(&error),
    };
    let (head, tail) = text.split_once(mark).unwrap_or((&text, ""));
    let (head, tail) = (head.to_owned(), tail.to_owned());
    let rest = async move {
        match part.await {
            Ok(part) => part + &tail,
            Err(error) => {
                tracing::error!(%error, "a part of a page cannot be rendered");
                tail
            }
        }
    };
    let parts = stream::once(future::ready(head)).chain(stream::once(rest));
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    ([(ACCEL_BUFFERING, HeaderValue::from_static("no"))], Html(body)).into_response()
}

/// A page that says what went wrong and what to do.
#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    title: &'a str,
    message: &'a str,
}

/// Makes the page of an error, for people who are logged in.
fn error_page(frame: Frame, error: &ApiError) -> Response {
    let title = match error.status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::SERVICE_UNAVAILABLE => "The store does not answer",
        status if status.is_client_error() => "That does not work",
        _ => "Something went wrong",
    };
    html(error.status, &ErrorPage { frame, title, message: &error.message })
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

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[derive(Template)]
    #[template(source = "head<!--here-->tail", ext = "html")]
    struct Page;

    #[tokio::test]
    async fn a_page_is_sent_up_to_what_is_not_made_yet() {
        let answer = in_two(&Page, "<!--here-->", future::pending());
        let mut parts = answer.into_body().into_data_stream();
        assert_eq!(parts.next().await.unwrap().unwrap(), "head");
        assert!(future::poll_immediate(parts.next()).await.is_none(), "the rest is not made yet");
        let answer = in_two(&Page, "<!--here-->", async { Ok(" and ".to_owned()) });
        assert_eq!(to_bytes(answer.into_body(), 100).await.unwrap(), "head and tail");
    }
}
