//! Paths as senders write them, and unknown paths.

use axum::extract::State;
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::Response;
use tracing::warn;

use super::HttpState;
use super::endpoint::Endpoint;
use super::error::{ApiError, Contract};

/// The most segments of a path that a log line shows.
const SEGMENTS_MAX: usize = 8;

/// The segments that log lines may show. Any other segment may be a key or an address.
const WORDS: [&str; 36] = [
    "a",
    "alias",
    "analytics",
    "api",
    "b",
    "batch",
    "beacon",
    "console",
    "delete",
    "destination",
    "events",
    "g",
    "group",
    "healthz",
    "i",
    "identify",
    "import",
    "loops",
    "m",
    "messages",
    "metrics",
    "openapi.json",
    "p",
    "page",
    "projects",
    "readyz",
    "s",
    "screen",
    "segment",
    "settings",
    "t",
    "track",
    "v1",
    "v2",
    "webhook",
    "webhooks",
];

/// Normalizes the path of a request: several slashes count as one, and a trailing slash is dropped. Some senders join
/// their host setting and their path carelessly.
pub(super) fn plain_path<B>(mut request: Request<B>) -> Request<B> {
    let uri = request.uri();
    let path = uri.path();
    let is_plain = !path.contains("//") && (path.len() == 1 || !path.ends_with('/'));
    if is_plain {
        return request;
    }
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut plain: String = segments.flat_map(|segment| ["/", segment]).collect();
    if plain.is_empty() {
        plain.push('/');
    }
    if let Some(query) = uri.query() {
        plain.push('?');
        plain.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    // A path stays valid when slashes are removed.
    if let Ok(plain) = plain.parse::<PathAndQuery>() {
        parts.path_and_query = Some(plain);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// Responds to an unknown path.
pub(super) async fn no_such_path(
    State(state): State<HttpState>,
    method: Method,
    uri: Uri,
) -> Response {
    let error = ApiError::new(StatusCode::NOT_FOUND, "not_found", hint(uri.path()));
    reject_unknown(&state, &method, uri.path(), error)
}

/// Responds to a method that a path does not have. axum adds `Allow`.
pub(super) async fn wrong_method(
    State(state): State<HttpState>,
    method: Method,
    uri: Uri,
) -> Response {
    reject_unknown(&state, &method, uri.path(), ApiError::wrong_method())
}

fn reject_unknown(state: &HttpState, method: &Method, path: &str, error: ApiError) -> Response {
    let contract = Contract::of_path(path);
    let endpoint = Endpoint::Unknown(contract).as_str();
    if let Some(unlogged) = state.0.rejections.count("", endpoint, error.code, 1) {
        let (path, method) = (shown(path), shown_method(method));
        warn!(
            source = "",
            endpoint,
            code = error.code,
            status = error.status.as_u16(),
            method,
            path,
            unlogged,
            "rejected"
        );
    }
    error.answer(contract)
}

/// Returns what a sender can do about an unknown path.
fn hint(path: &str) -> String {
    let places = "messages go to /v1/identify, /v1/track, /v1/batch and so on, to /webhook/{source} or to /destination";
    let lower = path.to_ascii_lowercase();
    let inner = ["/v1/", "/webhook/", "/destination", "/beacon/"];
    let begins = |root: &&str| lower.find(*root).is_some_and(|at| at > 0);
    if let Some(root) = inner.iter().find(|root| begins(root)) {
        return format!(
            "there is nothing at this path, which must begin with {root}: remove what precedes it from the sender's host setting, or let the proxy in front strip it"
        );
    }
    if lower != path {
        return format!("there is nothing at this path; paths are lower case: {places}");
    }
    format!("there is nothing at this path: {places}")
}

/// Returns a path for log lines: its well-known segments, and `*` for any other.
fn shown(path: &str) -> String {
    let mut shown = String::new();
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    for segment in segments.by_ref().take(SEGMENTS_MAX) {
        let is_known = WORDS.binary_search(&segment).is_ok();
        shown.push('/');
        shown.push_str(if is_known { segment } else { "*" });
    }
    if segments.next().is_some() {
        shown.push_str("/…");
    }
    if shown.is_empty() { "/".to_owned() } else { shown }
}

/// Returns a method for log lines. Senders can invent methods.
fn shown_method(method: &Method) -> &'static str {
    const METHODS: [&str; 9] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or("*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn slashes_too_many_are_taken_away() {
        let cases = [
            ("/", "/"),
            ("//", "/"),
            ("/v1/batch", "/v1/batch"),
            ("//v1//batch///", "/v1/batch"),
            ("/v1/", "/v1"),
            ("/v1/track/?a=//b/", "/v1/track?a=//b/"),
            ("/a%2F%2Fb//c", "/a%2F%2Fb/c"),
            ("//?x", "/?x"),
        ];
        for (path, expected) in cases {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(plain_path(request).uri().to_string(), expected, "{path}");
        }
    }

    #[test]
    fn the_log_shows_no_key_and_no_address() {
        assert!(WORDS.is_sorted());
        let cases = [
            ("/", "/"),
            ("/v2/track", "/v2/track"),
            ("/v1/projects/wk_secret/settings/x", "/v1/projects/*/settings/*"),
            ("/api/messages/ada@example.com", "/api/messages/*"),
            ("/a/a/a/a/a/a/a/a", "/a/a/a/a/a/a/a/a"),
            ("/a/a/a/a/a/a/a/a/a", "/a/a/a/a/a/a/a/a/…"),
        ];
        for (path, expected) in cases {
            assert_eq!(shown(path), expected);
        }
    }

    #[test]
    fn a_hint_says_what_is_wrong_with_a_path() {
        let cases = [
            ("/segment/v1/batch", "begin with /v1/"),
            ("/api/webhook/default", "begin with /webhook/"),
            ("/V1/Track", "lower case"),
            ("/v1/nothing", "messages go to"),
        ];
        for (path, expected) in cases {
            assert!(hint(path).contains(expected), "{path}: {}", hint(path));
        }
    }
}
