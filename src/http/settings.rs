//! The settings that analytics.js fetches before it sends anything.

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, http::HeaderName};
use serde_json::json;

use super::address::{Forwarded, Peer, is_host, is_trusted};
use super::endpoint::Endpoint;
use super::error::{ApiError, ErrorBody};
use super::ingest::{Arrival, Charged, Visit};
use super::openapi::SettingsErrors;
use super::{HttpState, PublicUrl};
use crate::telemetry::Span;

/// The headers that the response depends on: a cache must not give one client's response to another.
const VARY: [HeaderName; 6] = [
    header::HOST,
    header::ORIGIN,
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-prefix"),
];

/// The settings of analytics.js, which say where to send: to this service, with the same write key.
///
/// Without `integrations["Segment.io"].apiKey`, analytics.js would send nothing at all, or send to Segment.
#[utoipa::path(
    get,
    path = "/v1/projects/{write_key}/settings",
    tag = "Tracking",
    operation_id = "settings",
    params(("write_key" = String, Path, description = "A write key.", example = "wk_website")),
    responses(
        (status = 200, description = "The settings of analytics.js.", body = Object),
        (status = 403, description = "Pages on this origin may not send.", body = ErrorBody),
        (status = 404, description = "No source has this write key.", body = ErrorBody),
        SettingsErrors
    ),
    security(())
)]
pub(super) async fn give(
    State(state): State<HttpState>,
    write_key: Result<Path<String>, PathRejection>,
    peer: Option<Extension<Peer>>,
    arrival: Arrival,
) -> Response {
    let sources = state.sources();
    let Arrival { sender, headers, .. } = arrival;
    let endpoint = Endpoint::Settings;
    let account = state.0.budget.account();
    let (source, charged) = (None, Charged::default());
    // The settings are not traced: this is a page's first request, and it carries no message.
    let span = Span::default();
    let mut visit =
        Visit { state: &state, endpoint, sender, headers, source, account, charged, span };
    // A key that is not UTF-8 belongs to no source.
    let write_key = write_key.map(|Path(write_key)| write_key).unwrap_or_default();
    let Some(source) = sources.by_write_key(&write_key) else {
        let text = "no source has this write key: keys are set in sources.NAME.write_keys or SEGMENT_WRITE_KEY";
        let error = ApiError::new(StatusCode::NOT_FOUND, "unknown_key", text);
        return visit.reject(error.of_guess());
    };
    visit.source = Some(source);
    if let Err(error) = source.admit_origin(&visit.headers) {
        return visit.reject(error);
    }
    let mut segment_io = json!({"apiKey": write_key, "unbundledIntegrations": []});
    let is_trusted = is_trusted(peer.map(|Extension(peer)| peer), &state.0.trusted_proxies);
    let asked = || asked_url(&visit.headers, is_trusted);
    if let Some(url) = state.0.public_url.clone().or_else(asked) {
        segment_io["apiHost"] = json!(format!("{}/v1", url.host_and_path));
        segment_io["protocol"] = json!(if url.is_tls { "https" } else { "http" });
    }
    let settings = Json(json!({
        "integrations": {"Segment.io": segment_io},
        "plan": {},
        "metrics": {"sampleRate": 0},
    }));
    let mut response = settings.into_response();
    let answer = response.headers_mut();
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    for name in VARY {
        answer.append(header::VARY, name.into());
    }
    response
}

/// Returns the URL that the page requested, as far as the request shows it.
fn asked_url(headers: &HeaderMap, is_trusted: bool) -> Option<PublicUrl> {
    let said = Forwarded::of(headers);
    // The protocol is taken from any sender, not only from trusted proxies. Many deployments have a proxy that
    // terminates TLS and is not listed in `trusted_proxies`, and settings with an http URL would stop a page on https
    // from sending at all. A sender who lies misleads only itself: shared caches must not store the response, which
    // varies with these headers. Host and path are taken from trusted proxies only; otherwise `Host` is used.
    let is_tls = said.protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("https"));
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (host, prefix) = match is_trusted {
        true => (said.host.filter(|host| is_host(host)).or(host), said.prefix),
        false => (host, None),
    };
    let host = host.filter(|host| is_host(host))?;
    let prefix = prefix.filter(|prefix| is_path(prefix)).unwrap_or_default();
    Some(PublicUrl { is_tls, host_and_path: host + prefix.trim_end_matches('/') })
}

fn is_path(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_~".contains(&byte);
    text.starts_with('/') && !text.starts_with("//") && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_sends_to_the_url_that_it_asked_for() {
        /// Headers, whether the peer is trusted, and the resulting protocol and host with path.
        type Case<'a> = (&'a [(&'a str, &'a str)], bool, Option<(&'a str, &'a str)>);
        let cases: [Case<'_>; 15] = [
            (&[("host", "a.example")], false, Some(("http", "a.example"))),
            (&[("host", "a.example:8080")], true, Some(("http", "a.example:8080"))),
            (&[("host", "[::1]:80")], true, Some(("http", "[::1]:80"))),
            (&[("host", "a"), ("x-forwarded-proto", "https")], false, Some(("https", "a"))),
            (&[("host", "a"), ("x-forwarded-host", "b")], false, Some(("http", "a"))),
            (&[("host", "a"), ("x-forwarded-prefix", "/p")], false, Some(("http", "a"))),
            (&[("host", "a"), ("forwarded", "host=b")], false, Some(("http", "a"))),
            (
                &[
                    ("host", "a"),
                    ("x-forwarded-host", "b.example, c"),
                    ("x-forwarded-proto", "HTTPS,http"),
                    ("x-forwarded-prefix", "/segment/"),
                ],
                true,
                Some(("https", "b.example/segment")),
            ),
            (
                &[("host", "a"), ("forwarded", "for=1.2.3.4; Host=\"b:81\";proto=https, host=c")],
                true,
                Some(("https", "b:81")),
            ),
            (&[("host", "a"), ("x-forwarded-prefix", "//evil")], true, Some(("http", "a"))),
            (&[("host", "a"), ("x-forwarded-prefix", "/p?q")], true, Some(("http", "a"))),
            (&[("host", "a"), ("x-forwarded-host", "b/c")], true, Some(("http", "a"))),
            (
                &[("host", "a"), ("forwarded", "for=1.1.1.1"), ("forwarded", "host=b;proto=https")],
                true,
                Some(("https", "b")),
            ),
            (&[("host", "a/b")], true, None),
            (&[], true, None),
        ];
        for (given, is_trusted, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            let found = asked_url(&headers, is_trusted);
            let found = found
                .as_ref()
                .map(|url| (if url.is_tls { "https" } else { "http" }, url.host_and_path.as_str()));
            assert_eq!(found, expected, "{given:?}");
        }
    }
}
