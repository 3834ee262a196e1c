//! The steps before and after the router, for every request: checks of its head, plain paths, CORS, and reading the
//! rest of a body after an early response.
//!
//! They are in front of the router instead of around each route, because axum clones and boxes every layer of a route
//! for each request.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use hyper::body::Incoming;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};
use tracing::warn;

use super::drain::lend;
use super::endpoint::Endpoint;
use super::error::Contract;
use super::paths::plain_path;
use super::rejected::Rejections;
use super::requests::RequestMetrics;
use super::server::Answer;
use super::{HttpState, wellformed};

/// How long a browser may cache the CORS response. Chromium caches for at most two hours.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(7_200);

/// A router with the steps in front of it.
#[derive(Debug)]
pub struct Front {
    router: Cors<Router>,
    body_timeout: Duration,
    rejections: Arc<Rejections>,
    requests: Arc<RequestMetrics>,
}

impl Front {
    /// Puts the steps in front of a router.
    pub fn new(router: Router, state: &HttpState, requests: Arc<RequestMetrics>) -> Self {
        Self {
            router: cors().layer(router),
            body_timeout: state.0.limits.body_timeout,
            rejections: Arc::clone(&state.0.rejections),
            requests,
        }
    }

    async fn route(&self, request: Request<Body>) -> Result<Response, Infallible> {
        let contract = Contract::of_path(request.uri().path());
        if let Err(error) = wellformed::check(&request) {
            self.report_malformed(&error.message);
            let reject =
                |_: Request<Body>| ready(Ok::<_, Infallible>(error.clone().answer(contract)));
            let mut response = match contract {
                Contract::Tracking => cors().layer(service_fn(reject)).oneshot(request).await?,
                Contract::Webhook | Contract::Admin => reject(request).await?,
            };
            // A proxy may have read this request differently. The bytes that follow on the connection are then not the
            // next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return Ok(response);
        }
        match contract {
            Contract::Tracking => self.router.clone().oneshot(request).await,
            Contract::Webhook | Contract::Admin => {
                self.router.get_ref().clone().oneshot(request).await
            }
        }
    }
}

impl Front {
    fn report_malformed(&self, problem: &dyn Display) {
        /// The path of such a request is ignored.
        const UNKNOWN: &str = Endpoint::Unknown(Contract::Admin).as_str();
        let code = wellformed::CODE;
        if let Some(unlogged) = self.rejections.count("", UNKNOWN, code, 1) {
            warn!(source = "", endpoint = UNKNOWN, code, %problem, unlogged, "rejected");
        }
    }
}

impl Answer for Front {
    fn report_unreadable(&self, error: &hyper::Error) {
        self.report_malformed(error);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response {
        let request = plain_path(request);
        let waiting = self.requests.begin(request.method(), request.uri().path());
        let (request, loan) = lend(request, self.body_timeout);
        let response = self.route(request).await.unwrap_or_else(|never| match never {});
        waiting.end(response.status());
        if let Some(loan) = loan {
            loan.read_rest().await;
        }
        response
    }
}

/// CORS of the tracking API, including its errors. To analytics.js, a response that a page may not read is a network
/// error, after which it retries messages that it should drop.
///
/// Pages on any origin may read the response, so that a page that is rejected learns why. Whether its messages are
/// accepted depends on the source, which is known only once the key is. The origin is mirrored because `*` fails with
/// credentials. The headers are mirrored because tracing tools in a page add their own to each request.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}
