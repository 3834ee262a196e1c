//! What every request passes before a router sees it, and every answer on its way back: the form of its
//! head, plain paths, CORS, and the rest of a body that was answered early.
//!
//! It stands before the router instead of around each route, because axum clones and boxes every layer
//! of a route for each request.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::Response;
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};
use tracing::warn;

use super::drain::lend;
use super::endpoint::Endpoint;
use super::error::{ApiError, Contract};
use super::ingest::count_rejected;
use super::line_limit::LineLimit;
use super::paths::plain_path;
use super::server::Answer;
use super::{HttpState, wellformed};

/// How long a browser may remember what CORS allows. Chromium takes two hours at most.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(7_200);

/// The most log lines a minute about malformed requests.
const MALFORMED_LINES_MAX: u32 = 20;

/// A router, and what stands before it.
#[derive(Debug)]
pub struct Front {
    router: Cors<Router>,
    body_timeout: Duration,
    malformed_lines: LineLimit,
}

impl Front {
    /// Puts it before a router.
    pub fn new(router: Router, state: &HttpState) -> Self {
        Self {
            router: cors().layer(router),
            body_timeout: state.0.limits.body_timeout,
            malformed_lines: LineLimit::new(MALFORMED_LINES_MAX),
        }
    }

    async fn route(&self, request: Request<Body>) -> Result<Response, Infallible> {
        let contract = Contract::of_path(request.uri().path());
        if let Err(error) = wellformed::check(&request) {
            self.report_malformed(contract, &error);
            let reject = |_: Request<Body>| ready(Ok(error.clone().answer(contract)));
            return match contract {
                Contract::Tracking => cors().layer(service_fn(reject)).oneshot(request).await,
                Contract::Webhook | Contract::Admin => reject(request).await,
            };
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
    fn report_malformed(&self, contract: Contract, error: &ApiError) {
        let endpoint = Endpoint::Unknown(contract).as_str();
        count_rejected("", endpoint, error.code, 1);
        if let Some(unlogged) = self.malformed_lines.line(Instant::now()) {
            let (code, problem) = (error.code, &error.message);
            warn!(source = "", endpoint, code, status = 400, problem, unlogged, "rejected");
        }
    }
}

impl Answer for Front {
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let (request, loan) = lend(plain_path(request), self.body_timeout);
        let response = self.route(request).await.unwrap_or_else(|never| match never {});
        if let Some(loan) = loan {
            loan.read_rest().await;
        }
        response
    }
}

/// CORS of the tracking API, errors included: an answer that a page may not read is a network error to
/// analytics.js, which then retries what it should drop.
///
/// Pages on any origin may read the answer. Whether their messages are accepted depends on their source,
/// which is known once the key is, so that a page that is rejected learns why. The origin is mirrored
/// because `*` fails with credentials, and so are the headers: tracing tools in a page add their own to
/// each request.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}
