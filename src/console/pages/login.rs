//! Logging in with a token, and out.

use askama::Template;
use axum::Form;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::assets;
use super::parts::url_encode;
use super::render::html;
use crate::console::session::{self, Session};
use crate::console::state::AdminState;
use crate::http::error::ApiError;
use crate::http::is_over_tls;

/// The page to show after the login, if no other page of the console was asked for.
const HOME: &str = "/console";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    assets: &'static assets::Names,
    /// The page to show after the login.
    next: String,
    /// Why the last attempt failed.
    problem: Option<String>,
    /// Whether no token is configured.
    is_off: bool,
}

#[derive(Deserialize)]
pub(super) struct Asked {
    next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Given {
    token: String,
    next: Option<String>,
}

/// Redirects to the login, which leads back to the page that was asked for.
pub(super) fn ask(method: &Method, uri: &Uri) -> Response {
    let wanted = uri.path_and_query().map_or(HOME, |wanted| wanted.as_str());
    // A redirect cannot send a form again.
    if !method.is_safe() || wanted == HOME {
        return Redirect::to("/console/login").into_response();
    }
    Redirect::to(&format!("/console/login?next={}", url_encode(wanted))).into_response()
}

/// Shows the form.
pub(super) async fn page(
    State(state): State<AdminState>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let next = inside(asked.ok().and_then(|Query(Asked { next })| next));
    if Session::of(&state.tokens, &headers, state.clock.now()).is_some() {
        return Redirect::to(&next).into_response();
    }
    show(&state, StatusCode::OK, next, None)
}

/// Logs in with a token.
pub(super) async fn log_in(
    State(state): State<AdminState>,
    parts: Parts,
    form: Result<Form<Given>, FormRejection>,
) -> Response {
    let Ok(Form(Given { token, next })) = form else {
        let problem = "The form is not complete: enter a token.".to_owned();
        return show(&state, StatusCode::BAD_REQUEST, HOME.to_owned(), Some(problem));
    };
    let next = inside(next);
    match Session::begin(&state.tokens, token.trim().as_bytes(), state.clock.now()) {
        Some((session, value)) => {
            let role = session.role.as_str();
            tracing::info!(role, session = session.short_id(), "someone logged in to the console");
            let cookie = session::cookie(Some(&value), is_over_tls(&parts.headers));
            ([(header::SET_COOKIE, cookie)], Redirect::to(&next)).into_response()
        }
        None => {
            let error = ApiError::unauthorized("This token is not known here.").of_guess();
            let request = axum::http::Request::from_parts(parts, ());
            let error = state.guesses.reject_admin(&request, error);
            let problem = match error.status {
                StatusCode::TOO_MANY_REQUESTS => {
                    "Too many wrong tokens came from this address. Wait a minute, then try the right one."
                }
                _ => {
                    "This token is not known here. It is the value of ADMIN_TOKEN or VIEWER_TOKEN in the configuration of this service."
                }
            };
            show(&state, error.status, next, Some(problem.to_owned()))
        }
    }
}

/// Logs out, by removing the cookie.
pub(super) async fn log_out(headers: HeaderMap) -> Response {
    let cookie = session::cookie(None, is_over_tls(&headers));
    ([(header::SET_COOKIE, cookie)], Redirect::to("/console/login")).into_response()
}

fn show(state: &AdminState, status: StatusCode, next: String, problem: Option<String>) -> Response {
    let (assets, is_off) = (assets::names(), state.tokens.is_empty());
    html(status, &LoginPage { assets, next, problem, is_off })
}

/// Returns a page of the console, so that a login never redirects to another site.
fn inside(next: Option<String>) -> String {
    let is_inside = |next: &String| {
        let rest = next.strip_prefix(HOME);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
            && next.bytes().all(|byte| byte.is_ascii_graphic())
    };
    next.filter(is_inside).unwrap_or_else(|| HOME.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_out_of_the_console() {
        for next in ["/console", "/console/messages/7", "/console/messages?state=failed&from=1h"] {
            assert_eq!(inside(Some(next.to_owned())), next);
        }
        for next in [
            "",
            "https://example.com",
            "//example.com/console",
            "/consolex",
            "/console\\@example.com",
            "/console/\r\nSet-Cookie: a=b",
            "javascript:alert(1)",
        ] {
            let led = inside(Some(next.to_owned()));
            assert_eq!(led, HOME, "{next}");
        }
        assert_eq!(inside(None), HOME);
    }
}
