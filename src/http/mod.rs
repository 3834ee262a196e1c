//! From the socket to the inbox: Segment's three contracts, and what operators ask.
//!
//! * `tracking`: the HTTP Tracking API, to which any Segment SDK can be pointed.
//! * `webhook`: Segment's Webhook destinations.
//! * `subscription`: Segment's subscription (Developer Center) destination.
//! * `loops`: Loops' webhooks, which are feedback and no messages.
//!
//! All end in `ingest`: decode, stamp, store, answer. An answer of success means that every message
//! it does not list as rejected is on stable storage. Knows nothing of Loops
//! but its webhooks.

mod address;
mod auth;
mod body;
mod drain;
mod endpoint;
pub mod error;
mod front;
mod guess;
mod head;
mod health;
mod ingest;
mod judge;
mod limit;
mod line_limit;
mod loops;
mod memory;
pub mod openapi;
mod paths;
mod places;
mod rejected;
mod requests;
pub mod server;
mod settings;
mod sources;
mod stall;
mod subscription;
mod tracking;
mod webhook;
mod wellformed;
mod work;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use tokio::sync::watch;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use address::{Network, Peer, is_over_tls};
pub use front::Front;
pub use guess::Guesses;
pub use head::HeadBudget;
pub use limit::AddressLimit;
pub use loops::{LoopsWebhook, LoopsWebhooks};
pub use rejected::RejectedCounts;
pub use requests::RequestMetrics;
pub use sources::{Public, Source, SourceCounts, Sources};

use crate::clock::SharedClock;
use crate::large::Turns;
use crate::queue::{Feedback, Inbox, Log};
use crate::segment::Digests;
use crate::telemetry::Traces;

/// The bounds of requests.
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
    /// How long storing may take, and how long a large body may wait to be read.
    pub ack_timeout: Duration,
    /// The memory of all requests: for their bodies, and for the messages decoded from them.
    pub body_budget_bytes: usize,
}

/// What the handlers work with.
#[derive(Clone)]
pub struct HttpState(Arc<Shared>);

struct Shared {
    digests: Digests,
    inbox: Arc<dyn Inbox>,
    log: Arc<dyn Log>,
    feedback: Arc<dyn Feedback>,
    clock: SharedClock,
    sources: watch::Receiver<Arc<Sources>>,
    loops_webhooks: watch::Receiver<Arc<LoopsWebhooks>>,
    limits: HttpLimits,
    trusted_proxies: Vec<Network>,
    public_url: Option<PublicUrl>,
    budget: memory::Budget,
    large_bodies: work::LargeBodies,
    rejections: Arc<rejected::Rejections>,
    guesses: Arc<Guesses>,
    /// Turns for decoding large messages.
    turns: Turns,
    metrics: MetricsText,
    traces: Traces,
}

/// Where senders reach this service, from their side of any proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// Whether it begins with `https`.
    pub is_tls: bool,
    /// What follows `https://`, without a slash at its end.
    pub host_and_path: String,
}

/// Renders the metrics as Prometheus reads them.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What [`HttpState`] is made of.
pub struct HttpParts {
    /// Where accepted messages go.
    pub inbox: Arc<dyn Inbox>,
    /// Says whether the store works.
    pub log: Arc<dyn Log>,
    /// Where feedback goes.
    pub feedback: Arc<dyn Feedback>,
    /// The time.
    pub clock: SharedClock,
    /// Who may send.
    pub sources: watch::Receiver<Arc<Sources>>,
    /// What Loops' webhooks need.
    pub loops_webhooks: watch::Receiver<Arc<LoopsWebhooks>>,
    /// The bounds.
    pub limits: HttpLimits,
    /// Proxies whose forwarding headers count.
    pub trusted_proxies: Vec<Network>,
    /// Where senders reach the service; `None`: where their requests say they do.
    pub public_url: Option<PublicUrl>,
    /// Renders the metrics.
    pub metrics: MetricsText,
    /// The turns to decode large messages, shared by all that decode them in this process.
    pub turns: Turns,
    /// Traces requests.
    pub traces: Traces,
}

impl HttpState {
    /// Joins the parts.
    pub fn new(parts: HttpParts) -> Self {
        let HttpParts {
            inbox,
            log,
            feedback,
            clock,
            sources,
            loops_webhooks,
            limits,
            trusted_proxies,
            public_url,
            metrics,
            turns,
            traces,
        } = parts;
        let rejections = Arc::<rejected::Rejections>::default();
        Self(Arc::new(Shared {
            digests: log.digests(),
            inbox,
            log,
            feedback,
            clock,
            sources,
            loops_webhooks,
            limits,
            guesses: Arc::new(Guesses::new(trusted_proxies.clone(), Arc::clone(&rejections))),
            rejections,
            trusted_proxies,
            public_url,
            budget: memory::Budget::new(limits.body_budget_bytes, limits.body_bytes_max),
            large_bodies: work::LargeBodies::new(limits.ack_timeout),
            turns,
            metrics,
            traces,
        }))
    }

    /// What was rejected in the last hour.
    pub fn rejected_recently(&self) -> RejectedCounts {
        self.0.rejections.recent()
    }

    /// Tracks wrong keys by address, those of sources and those of operators.
    pub fn guesses(&self) -> Arc<Guesses> {
        Arc::clone(&self.0.guesses)
    }

    fn sources(&self) -> Arc<Sources> {
        Arc::clone(&self.0.sources.borrow())
    }

    fn loops_webhooks(&self) -> Arc<LoopsWebhooks> {
        Arc::clone(&self.0.loops_webhooks.borrow())
    }
}

/// The routes that senders use, `/healthz` and `/readyz`, and their description.
pub fn router(state: HttpState) -> (Router, OpenApi) {
    let (tracking, mut description) = tracking::routes().split_for_parts();
    let (webhooks, of_webhooks) = OpenApiRouter::new()
        .routes(routes!(webhook::take))
        .routes(routes!(subscription::take))
        .routes(routes!(loops::take))
        .split_for_parts();
    let (health, of_health) = health_routes().split_for_parts();
    description.merge(of_webhooks);
    description.merge(of_health);
    openapi::complete(&mut description);
    let tracking = tracking
        .route("/v1/{*path}", any(paths::no_such_path))
        .route("/beacon/{*path}", any(paths::no_such_path))
        .method_not_allowed_fallback(paths::wrong_method);
    let router = tracking
        .merge(webhooks.method_not_allowed_fallback(paths::wrong_method))
        .merge(health.method_not_allowed_fallback(error::wrong_method))
        .fallback(paths::no_such_path)
        .with_state(state);
    (router, description)
}

/// `/metrics`, which is for operators, and its description.
pub fn metrics_router(state: HttpState) -> (Router, OpenApi) {
    let (router, description) =
        OpenApiRouter::new().routes(routes!(health::metrics)).split_for_parts();
    (router.method_not_allowed_fallback(error::wrong_method).with_state(state), description)
}

/// What an address for operators alone starts from: `/healthz`, `/readyz`, and an answer that says
/// where messages go.
pub fn admin_router(state: HttpState) -> Router {
    let (health, _) = health_routes().split_for_parts();
    health
        .method_not_allowed_fallback(error::wrong_method)
        .fallback(error::not_on_admin_address)
        .with_state(state)
}

fn health_routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new().routes(routes!(health::alive)).routes(routes!(health::ready))
}
