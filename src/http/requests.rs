//! Metrics of requests: how long each waited for its response to begin, and how many are waiting.
//!
//! Routes are labels, and senders can invent paths, so a path without a route counts as `unknown`.

use std::sync::OnceLock;

use axum::http::{Method, StatusCode};
use metrics::{Gauge, Histogram, gauge, histogram};
use tokio::time::Instant;
use utoipa::openapi::OpenApi;

use super::endpoint::Endpoint;
use crate::telemetry;

/// The methods that count by name. Any other method counts as the last one, as in OpenTelemetry.
const METHODS: [&str; 10] =
    ["POST", "GET", "OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "_OTHER"];

/// The root of the console's pages, which share one label.
const CONSOLE: &str = "/console";

/// The metrics of all requests of the process.
#[derive(Debug)]
pub struct RequestMetrics {
    /// In the order of [`METHODS`].
    active: [Gauge; METHODS.len()],
    /// The routes of senders, with the histogram of messages that were accepted there: by far the most requests. Any other
    /// histogram is looked up by its labels.
    senders: Vec<(Endpoint, OnceLock<Histogram>)>,
    /// The routes of operators.
    operators: Vec<String>,
}

/// A request that waits for its response. Dropping it ends the wait, for example when the client closes the connection.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    metrics: &'a RequestMetrics,
    method: usize,
    route: Route<'a>,
    began: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Sender(Endpoint),
    Operator(&'a str),
    Unknown,
}

impl RequestMetrics {
    /// Creates the metrics of the routes in the API's description, and of the paths that the description leaves out.
    pub fn new(description: &OpenApi) -> Self {
        let paths = description.paths.paths.keys();
        let operators = paths.filter(|path| Endpoint::of_path(path).is_none()).cloned();
        let mut senders: Vec<(Endpoint, OnceLock<Histogram>)> = Vec::new();
        for endpoint in description.paths.paths.keys().filter_map(|path| Endpoint::of_path(path)) {
            if !senders.iter().any(|(known, _)| *known == endpoint) {
                senders.push((endpoint, OnceLock::new()));
            }
        }
        Self {
            active: METHODS
                .map(|method| gauge!(telemetry::HTTP_ACTIVE, "http_request_method" => method)),
            senders,
            operators: operators.chain(["/openapi.json".to_owned()]).collect(),
        }
    }

    /// Begins the wait of a request.
    pub(super) fn begin(&self, method: &Method, path: &str) -> Waiting<'_> {
        let method = METHODS.iter().position(|known| *known == method.as_str());
        let method = method.unwrap_or(METHODS.len() - 1);
        self.active[method].increment(1.0);
        Waiting { metrics: self, method, route: self.route(path), began: Instant::now() }
    }

    fn route(&self, path: &str) -> Route<'_> {
        if let Some(endpoint) = Endpoint::of_path(path) {
            return Route::Sender(endpoint);
        }
        let below_console = path.strip_prefix(CONSOLE);
        if below_console.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Route::Operator(CONSOLE);
        }
        let found = self.operators.iter().find(|pattern| is_match(pattern, path));
        found.map_or(Route::Unknown, |pattern| Route::Operator(pattern))
    }
}

impl Waiting<'_> {
    /// Ends the wait: the response begins.
    pub(super) fn end(self, status: StatusCode) {
        let Self { metrics, method, route, began } = &self;
        let took = began.elapsed();
        let method = METHODS[*method];
        let (endpoint, route) = match route {
            Route::Sender(endpoint) => (Some(*endpoint), endpoint.as_str()),
            Route::Operator(pattern) => (None, *pattern),
            Route::Unknown => (None, "unknown"),
        };
        let find = || {
            let labels = [
                ("http_request_method", method.to_owned()),
                ("http_route", route.to_owned()),
                ("http_response_status_code", status.as_str().to_owned()),
            ];
            histogram!(telemetry::HTTP_REQUEST_SECONDS, &labels)
        };
        let is_usual = method == "POST" && status == StatusCode::OK;
        let usual = metrics.senders.iter().find(|(known, _)| is_usual && Some(*known) == endpoint);
        match usual {
            Some((_, histogram)) => histogram.get_or_init(find).record(took),
            None => find().record(took),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.active[self.method].decrement(1.0);
    }
}

/// Returns whether a path has the segments of a pattern such as `/api/messages/{messageId}`.
fn is_match(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(expected), Some(segment)) => {
                let is_free = expected.starts_with('{') && !segment.is_empty();
                if !is_free && expected != segment {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::MessageType;
    use utoipa::openapi::path::PathItem;

    #[test]
    fn a_path_counts_by_its_route() {
        let paths =
            ["/v1/track", "/v1/t", "/api/messages", "/api/messages/{messageId}", "/healthz"];
        let paths = paths.map(|path| (path.to_owned(), PathItem::default()));
        let mut description = OpenApi::default();
        description.paths.paths = paths.into_iter().collect();
        let metrics = RequestMetrics::new(&description);
        assert_eq!(metrics.senders.len(), 1);
        let track = Route::Sender(Endpoint::Single(MessageType::Track));
        for (path, expected) in [
            ("/v1/track", track),
            ("/v1/t", track),
            ("/webhook/shop", Route::Sender(Endpoint::Webhook)),
            ("/webhook/shop/more", Route::Unknown),
            ("/webhook/", Route::Unknown),
            ("/loops/default", Route::Sender(Endpoint::Loops)),
            ("/v1/projects/wk_1/settings", Route::Sender(Endpoint::Settings)),
            ("/v1/projects/wk_1/other/settings", Route::Unknown),
            ("/v1/Track", Route::Unknown),
            ("/healthz", Route::Operator("/healthz")),
            ("/openapi.json", Route::Operator("/openapi.json")),
            ("/api/messages", Route::Operator("/api/messages")),
            ("/api/messages/ada", Route::Operator("/api/messages/{messageId}")),
            ("/api/messages/ada/more", Route::Unknown),
            ("/console", Route::Operator("/console")),
            ("/console/people/x", Route::Operator("/console")),
            ("/consoles", Route::Unknown),
            ("/", Route::Unknown),
        ] {
            assert_eq!(metrics.route(path), expected, "{path}");
        }
    }
}
