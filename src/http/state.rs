//! The state that the handlers share, and its parts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::address::Network;
use super::guess::Guesses;
use super::loops_webhooks::LoopsWebhooks;
use super::rejected::RejectedCounts;
use super::sources::Sources;
use super::{memory, rejected, work};
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
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long storing may take, and how long a large body may wait to be read.
    pub ack_timeout: Duration,
    /// The memory of all requests: for their bodies, and for the messages decoded from them.
    pub body_budget_bytes: usize,
}

/// The state that the handlers share.
#[derive(Clone)]
pub struct HttpState(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) digests: Digests,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) log: Arc<dyn Log>,
    pub(super) feedback: Arc<dyn Feedback>,
    pub(super) clock: SharedClock,
    pub(super) sources: watch::Receiver<Arc<Sources>>,
    pub(super) loops_webhooks: watch::Receiver<Arc<LoopsWebhooks>>,
    pub(super) limits: HttpLimits,
    pub(super) trusted_proxies: Vec<Network>,
    pub(super) public_url: Option<PublicUrl>,
    pub(super) budget: memory::Budget,
    pub(super) large_bodies: work::LargeBodies,
    pub(super) rejections: Arc<rejected::Rejections>,
    pub(super) guesses: Arc<Guesses>,
    /// Turns for decoding large messages.
    pub(super) turns: Turns,
    pub(super) metrics: MetricsText,
    pub(super) traces: Traces,
}

/// Where senders reach this service, from their side of any proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// Whether it begins with `https`.
    pub is_tls: bool,
    /// The part after `https://`, without a trailing slash.
    pub host_and_path: String,
}

/// Renders the metrics in the text format of Prometheus.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// The parts of an [`HttpState`].
pub struct HttpParts {
    /// Where accepted messages go.
    pub inbox: Arc<dyn Inbox>,
    /// Says whether the store works.
    pub log: Arc<dyn Log>,
    /// Where feedback goes.
    pub feedback: Arc<dyn Feedback>,
    /// The time.
    pub clock: SharedClock,
    /// The sources that may send.
    pub sources: watch::Receiver<Arc<Sources>>,
    /// The settings of Loops' webhooks.
    pub loops_webhooks: watch::Receiver<Arc<LoopsWebhooks>>,
    /// The bounds.
    pub limits: HttpLimits,
    /// Proxies whose forwarding headers are trusted.
    pub trusted_proxies: Vec<Network>,
    /// Where senders reach the service; `None`: derived from their requests.
    pub public_url: Option<PublicUrl>,
    /// Renders the metrics.
    pub metrics: MetricsText,
    /// The turns to decode large messages, shared by the whole process.
    pub turns: Turns,
    /// Traces requests.
    pub traces: Traces,
}

impl HttpState {
    /// Creates the state from its parts.
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

    /// Returns the rejections of the last hour.
    pub fn rejected_recently(&self) -> RejectedCounts {
        self.0.rejections.recent()
    }

    /// Returns the tracker of wrong keys, of sources and of operators.
    pub fn guesses(&self) -> Arc<Guesses> {
        Arc::clone(&self.0.guesses)
    }

    pub(super) fn sources(&self) -> Arc<Sources> {
        Arc::clone(&self.0.sources.borrow())
    }

    pub(super) fn loops_webhooks(&self) -> Arc<LoopsWebhooks> {
        Arc::clone(&self.0.loops_webhooks.borrow())
    }
}
