//! What every request passes before a router sees it, and every answer on its way back: plain paths,
//! CORS, and the rest of a body that was answered early.
//!
//! It stands before the router instead of around each route, because axum clones and boxes every layer
//! of a route for each request.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use tower::ServiceExt as _;

use super::HttpState;
use super::cors::Cors;
use super::drain::lend;
use super::paths::plain_path;
use super::server::Answer;

/// A router, and what stands before it.
#[derive(Debug, Clone)]
pub struct Front {
    router: Router,
    body_timeout: Duration,
}

impl Front {
    /// Puts it before a router.
    pub fn new(router: Router, state: &HttpState) -> Self {
        Self { router, body_timeout: state.0.limits.body_timeout }
    }
}

impl Answer for Front {
    async fn answer(self, request: Request<Incoming>) -> Response {
        let (request, loan) = lend(plain_path(request), self.body_timeout);
        let cors = Cors::of(&request);
        let mut response = match &cors {
            Some(cors) if cors.is_preflight() => Response::new(Body::empty()),
            _ => {
                let answered: Result<_, Infallible> = self.router.oneshot(request).await;
                answered.unwrap_or_else(|never| match never {})
            }
        };
        if let Some(loan) = loan {
            loan.read_rest().await;
        }
        if let Some(cors) = cors {
            cors.add_to(response.headers_mut());
        }
        response
    }
}
