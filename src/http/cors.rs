//! CORS, for everything below the paths of the tracking API: errors too, since an answer that a page may
//! not see is a network error to analytics.js, which then repeats what it should have dropped.
//!
//! Pages on any origin may read the answer; whether their messages are accepted is decided by their
//! source, which is known once the key is: a page that is rejected then learns why. The origin is echoed
//! because `*` fails with credentials, and so are the headers: tracing tools in a page add their own to
//! each request.

use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, Request};

use super::error::Contract;

/// How long a browser may remember what CORS allows, in seconds. Chromium takes two hours at most.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

const METHODS: HeaderValue = HeaderValue::from_static("GET,POST");

/// The headers of a request that decide about those of its answer.
const VARY: HeaderValue = HeaderValue::from_static(
    "origin, access-control-request-method, access-control-request-headers",
);

/// The headers that a page may read beside those that every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after");

/// What a request says that its answer must echo.
#[derive(Debug)]
pub(super) struct Cors {
    origin: Option<HeaderValue>,
    preflight: Option<Preflight>,
}

/// A browser's question whether a request may be made.
#[derive(Debug)]
struct Preflight {
    headers: Option<HeaderValue>,
}

impl Cors {
    /// Reads a request; `None` where CORS does not apply.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        if Contract::of_path(request.uri().path()) != Contract::Tracking {
            return None;
        }
        let header = |name| request.headers().get(name).cloned();
        let preflight = (request.method() == Method::OPTIONS)
            .then(|| Preflight { headers: header(header::ACCESS_CONTROL_REQUEST_HEADERS) });
        Some(Self { origin: header(header::ORIGIN), preflight })
    }

    /// Whether the request is only asked about: the answer is in the headers, and no handler sees it.
    pub(super) fn is_preflight(&self) -> bool {
        self.preflight.is_some()
    }

    /// Adds the headers to those of the answer.
    pub(super) fn add_to(self, answer: &mut HeaderMap) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        answer.append(header::VARY, VARY);
        if let Some(origin) = self.origin {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        match self.preflight {
            Some(Preflight { headers }) => {
                answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
                if let Some(headers) = headers {
                    answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
                }
            }
            None => {
                answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers that an answer gets, sorted; `None` where CORS does not apply.
    fn added(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Vec<String>> {
        let request = Request::builder().method(method).uri(path);
        let request =
            headers.iter().fold(request, |request, (key, value)| request.header(*key, *value));
        let cors = Cors::of(&request.body(()).unwrap())?;
        let mut answer = HeaderMap::new();
        answer.insert(header::VARY, HeaderValue::from_static("host"));
        cors.add_to(&mut answer);
        let line = |(key, value): (&header::HeaderName, &HeaderValue)| {
            format!("{key}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<String> = answer.iter().map(line).collect();
        lines.sort();
        Some(lines)
    }

    #[test]
    fn a_page_may_read_every_answer_of_the_tracking_api() {
        let always = [
            "access-control-allow-credentials: true",
            "vary: host",
            "vary: origin, access-control-request-method, access-control-request-headers",
        ];
        let page = ("origin", "https://shop.example");
        let origin = "access-control-allow-origin: https://shop.example";
        let methods = "access-control-allow-methods: GET,POST";
        let age = "access-control-max-age: 7200";
        let exposed = "access-control-expose-headers: retry-after";
        let asked = ("access-control-request-headers", "authorization,x-own");
        let allowed = "access-control-allow-headers: authorization,x-own";
        /// Method, headers of the request, and the headers of the answer beside those that it always has.
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
        let cases: [Case<'_>; 5] = [
            ("POST", &[page], &[origin, exposed]),
            ("POST", &[], &[exposed]),
            ("GET", &[page, asked], &[origin, exposed]),
            ("OPTIONS", &[page, asked], &[origin, allowed, methods, age]),
            ("OPTIONS", &[], &[methods, age]),
        ];
        for (method, headers, expected) in cases {
            let mut expected: Vec<&str> = always.iter().chain(expected).copied().collect();
            expected.sort_unstable();
            for path in ["/v1", "/v1/t", "/v1/nothing", "/beacon/v1/batch"] {
                assert_eq!(added(method, path, headers).unwrap(), expected, "{method} {path}");
            }
            for path in ["/", "/v10", "/webhook/default", "/destination", "/api/messages/v1"] {
                assert_eq!(added(method, path, headers), None, "{method} {path}");
            }
        }
    }
}
