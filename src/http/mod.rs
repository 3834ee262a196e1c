//! From the socket to the inbox: Segment's three contracts, and what operators ask.
//!
//! * `tracking`: the HTTP Tracking API, to which any Segment SDK can be pointed.
//! * `webhook`: Segment's Webhook destinations.
//! * `subscription`: Segment's subscription (Developer Center) destination.
//!
//! All end in `ingest`: decode, stamp, store, answer. An answer of success means that every message
//! it does not name as refused is on stable storage. Knows nothing of Loops.

mod address;
mod auth;
mod body;
mod drain;
pub mod error;
mod health;
mod ingest;
mod limit;
pub mod openapi;
pub mod server;
mod settings;
mod sources;
mod subscription;
mod tracking;
mod webhook;
mod work;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, Method, header};
use axum::middleware::{from_fn_with_state, map_request};
use axum::routing::{any, get, post};
use tokio::sync::{Semaphore, watch};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::decompression::RequestDecompressionLayer;

pub use address::{Network, Peer};
pub use limit::AddressLimit;
pub use sources::{Public, Source, Sources};

use crate::clock::SharedClock;
use crate::queue::{Inbox, Log};

/// How long a browser may remember what CORS allows. Chromium takes two hours at most.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(7_200);

/// The bounds of what is taken in.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Bytes of a body, after inflating.
    pub body_bytes_max: usize,
    /// Bytes of a message.
    pub message_bytes_max: usize,
    /// Messages in a batch.
    pub batch_messages_max: usize,
    /// How long a body may take to come.
    pub body_timeout: Duration,
    /// How long storing may take.
    pub ack_timeout: Duration,
    /// Bytes of all bodies in memory.
    pub body_budget_bytes: usize,
}

/// What the handlers work with.
#[derive(Clone)]
pub struct HttpState(Arc<Shared>);

struct Shared {
    inbox: Arc<dyn Inbox>,
    log: Arc<dyn Log>,
    clock: SharedClock,
    sources: watch::Receiver<Arc<Sources>>,
    limits: HttpLimits,
    trusted_proxies: Vec<Network>,
    /// Bytes of bodies that may still be taken into memory, in units of [`body::BUDGET_UNIT`].
    budget: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
    metrics: MetricsText,
}

/// Renders the metrics as Prometheus reads them.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

impl HttpState {
    /// Joins the parts.
    pub fn new(
        inbox: Arc<dyn Inbox>,
        log: Arc<dyn Log>,
        clock: SharedClock,
        sources: watch::Receiver<Arc<Sources>>,
        limits: HttpLimits,
        trusted_proxies: Vec<Network>,
        metrics: MetricsText,
    ) -> Self {
        let units =
            limits.body_budget_bytes.div_ceil(body::BUDGET_UNIT).min(Semaphore::MAX_PERMITS);
        let budget = Arc::new(Semaphore::new(units));
        Self(Arc::new(Shared {
            inbox,
            log,
            clock,
            sources,
            limits,
            trusted_proxies,
            budget,
            large_bodies: work::places(),
            metrics,
        }))
    }

    fn sources(&self) -> Arc<Sources> {
        Arc::clone(&self.0.sources.borrow())
    }
}

/// The routes that senders use, `/healthz` and `/readyz`.
pub fn router(state: HttpState) -> Router {
    // Content-Encoding is looked at again behind the layer: what it did not inflate is refused there.
    let inflate = RequestDecompressionLayer::new().pass_through_unaccepted(true);
    let ingest = Router::new()
        .route("/webhook/{source}", post(webhook::take).put(webhook::take).patch(webhook::take))
        .route("/destination", post(subscription::take))
        .method_not_allowed_fallback(error::wrong_method);
    // CORS goes around the errors too: an answer that a page may not see is a network error to
    // analytics.js, which then repeats what it should have dropped.
    let tracking = tracking::routes()
        .method_not_allowed_fallback(error::wrong_method)
        .route("/v1", any(error::no_such_path))
        .route("/v1/", any(error::no_such_path))
        .route("/v1/{*path}", any(error::no_such_path))
        .layer(cors());
    tracking
        .merge(ingest)
        .layer(inflate)
        .layer(map_request(body::name_encoding))
        .merge(health_routes())
        .fallback(error::no_such_path)
        .layer(from_fn_with_state(state.clone(), drain::unread))
        .with_state(state)
}

/// `/metrics`, which is for operators.
pub fn metrics_router(state: HttpState) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(state)
}

/// What an address for operators alone starts from: `/healthz`, `/readyz`, and an answer that says
/// where messages go.
pub fn admin_router(state: HttpState) -> Router {
    health_routes()
        .fallback(error::not_on_admin_address)
        .layer(from_fn_with_state(state.clone(), drain::unread))
        .with_state(state)
}

fn health_routes() -> Router<HttpState> {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(error::wrong_method)
}

/// Pages on any origin may read the answer; whether their messages are taken is their source's
/// matter, which is known once the key is: a page that is refused then hears why, and analytics.js
/// drops what it would repeat without an answer. Headers are named since `*` does not stand for
/// `Authorization`, the origin is echoed since `*` fails with credentials.
fn cors() -> CorsLayer {
    let allowed = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        HeaderName::from_static("x-retry-count"),
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(allowed)
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}
