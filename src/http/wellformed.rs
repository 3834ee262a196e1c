//! Turns away requests that HTTP forbids, and requests that repeat a header that says who sends or where the body ends.
//! A proxy may parse such a request differently than this program, so that bytes from another client become a request
//! of the sender.
//!
//! hyper rejects the rest: a broken head, a `Content-Length` that is not a number or differs from another, and a
//! `Transfer-Encoding` that does not end in `chunked`. It drops a `Content-Length` beside `chunked`.

use axum::http::{HeaderMap, HeaderName, Request, Version, header};

use super::address::is_host;
use super::error::ApiError;

/// Headers that may occur only once: of two, this program would use the first and a proxy perhaps the last.
/// `Content-Type` is not among them, because nothing here depends on it. `body` rejects a second `Content-Encoding`.
const SINGLE: [HeaderName; 5] = [
    header::HOST,
    header::TRANSFER_ENCODING,
    header::AUTHORIZATION,
    HeaderName::from_static("x-signature"),
    HeaderName::from_static("x-webhook-token"),
];

/// The code of all malformed requests, including those that hyper rejects.
pub(super) const CODE: &str = "bad_http";

/// Checks the head of a request.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), ApiError> {
    let bad = |message: String| Err(ApiError::bad_request(CODE, message));
    let headers = request.headers();
    for name in &SINGLE {
        if headers.get_all(name).iter().nth(1).is_some() {
            return bad(format!("the header {name} occurs more than once: send it once"));
        }
    }
    match headers.get(header::HOST) {
        // Health checks of load balancers use HTTP/1.0, which has no Host.
        None if request.version() < Version::HTTP_11 => {}
        None => return bad("the header host is missing, which HTTP/1.1 requires".to_owned()),
        // An empty host is allowed: it says that the URL has no host.
        Some(host) if host.is_empty() || host.to_str().is_ok_and(is_host) => {}
        Some(_) => return bad("the header host is not a host name or an address".to_owned()),
    }
    if !is_plain_chunked(headers) {
        return bad(
            "Transfer-Encoding must be chunked or left out; compress with Content-Encoding: gzip"
                .to_owned(),
        );
    }
    Ok(())
}

fn is_plain_chunked(headers: &HeaderMap) -> bool {
    let encoding = headers.get(header::TRANSFER_ENCODING);
    encoding.is_none_or(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_in_two_ways_is_turned_away() {
        let host = ("host", "a.example");
        // (version, headers, whether the request is accepted)
        type Case<'a> = (Version, &'a [(&'a str, &'a str)], bool);
        let cases: [Case<'_>; 18] = [
            (Version::HTTP_11, &[host], true),
            (Version::HTTP_11, &[("host", "")], true),
            (Version::HTTP_11, &[("host", "[::1]:80")], true),
            (Version::HTTP_11, &[("host", "under_score.example:8080")], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_10, &[host, host], false),
            (Version::HTTP_11, &[host, host], false),
            (Version::HTTP_11, &[("host", "a/b")], false),
            (Version::HTTP_11, &[("host", "a b")], false),
            (Version::HTTP_11, &[host, ("transfer-encoding", "Chunked ")], true),
            (Version::HTTP_11, &[host, ("transfer-encoding", "gzip, chunked")], false),
            (Version::HTTP_11, &[host, ("transfer-encoding", "chunked, chunked")], false),
            (
                Version::HTTP_11,
                &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                false,
            ),
            (Version::HTTP_11, &[host, ("authorization", "a"), ("authorization", "a")], false),
            (Version::HTTP_11, &[host, ("x-signature", "a"), ("x-signature", "b")], false),
            (Version::HTTP_11, &[host, ("x-webhook-token", "a"), ("x-webhook-token", "")], false),
            // Proxies add lines to these headers.
            (Version::HTTP_11, &[host, ("x-forwarded-for", "a"), ("x-forwarded-for", "b")], true),
        ];
        for (version, headers, is_accepted) in cases {
            let request = Request::builder().version(version);
            let request =
                headers.iter().fold(request, |all, (name, value)| all.header(*name, *value));
            let checked = check(&request.body(()).unwrap());
            assert_eq!(checked.is_ok(), is_accepted, "{version:?} {headers:?}: {checked:?}");
        }
    }
}
