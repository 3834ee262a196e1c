//! From the socket to the inbox: Segment's three contracts, Loops' webhooks, and the endpoints for operators.
//!
//! * `tracking`: the HTTP Tracking API, to which any Segment SDK can be pointed.
//! * `webhook`: Segment's Webhook destinations.
//! * `subscription`: Segment's subscription (Developer Center) destination.
//! * `loops`: Loops' webhooks, which are feedback rather than messages.
//!
//! Messages all go through `ingest`: decode, stamp, store, respond. Success means that every message that the response
//! does not list as rejected is on stable storage. This module knows nothing of Loops but its webhooks.

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
mod judged;
mod limit;
mod line_limit;
mod loops;
mod loops_webhooks;
mod memory;
pub mod openapi;
mod paths;
mod places;
mod rejected;
mod requests;
mod routes;
pub mod server;
mod server_limits;
mod settings;
mod sources;
mod stall;
mod state;
mod subscription;
mod tracking;
mod webhook;
mod wellformed;
mod work;

pub use address::{Network, Peer, is_over_tls};
pub use front::Front;
pub use guess::Guesses;
pub use head::HeadBudget;
pub use limit::AddressLimit;
pub use loops_webhooks::{LoopsWebhook, LoopsWebhooks};
pub use rejected::RejectedCounts;
pub use requests::RequestMetrics;
pub use routes::{admin_router, metrics_router, router};
pub use sources::{Public, Source, SourceCounts, Sources};
pub use state::{HttpLimits, HttpParts, HttpState, MetricsText, PublicUrl};
