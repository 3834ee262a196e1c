//! The state that the steps of a destination share, and how a step ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use metrics::counter;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::error;
use tracing::field::display;

use super::backoff::RetryOptions;
use super::board::Activity;
use super::knowledge::FactsMaker;
use super::lease::LeaseLost;
use super::meters::Meters;
use super::room::{LargeRoom, Place, Room};
use super::sought::SoughtBefore;
use super::verdict::Next;
use super::wishes::Wishes;
use crate::action::ActionKind;
use crate::clock::SharedClock;
use crate::destination::{Destination, IdentityGuard, NewContactsPolicy};
use crate::loops::Client;
use crate::queue::{
    BrokenMessage, Class, Failure, FailureReason, HoldsAsk, Lease, OptIn, Seq, Work, WorkError,
};
use crate::segment::{Digests, LaneKey};
use crate::telemetry::{self, Traces};

/// How long a lane waits after the store failed.
pub(super) const STORE_FAULT_WAIT: Duration = Duration::from_secs(1);

/// The shortest and the longest wait before an outcome that could not be recorded is written again.
const RECORD_WAIT_MIN: Duration = Duration::from_millis(200);
const RECORD_WAIT_MAX: Duration = Duration::from_secs(10);

/// The store's error about broken records.
type BrokenRecords = dyn std::error::Error + Send + Sync;

/// Makes the steps of one destination.
pub(super) struct Stepper {
    pub(super) name: String,
    pub(super) destination: watch::Sender<Arc<Destination>>,
    pub(super) client: Client,
    pub(super) queue: Arc<dyn Work>,
    pub(super) clock: SharedClock,
    pub(super) digests: Digests,
    pub(super) retry: RetryOptions,
    pub(super) room: Room,
    pub(super) large: LargeRoom,
    pub(super) activity: Activity,
    /// What the steps need from the catalogue.
    pub(super) wishes: Wishes,
    pub(super) traces: Traces,
    pub(super) meters: Meters,
    /// The contacts that Loops was asked about.
    pub(super) sought: SoughtBefore,
}

/// The body of a request, and its place in memory if its message is large. It is separate from the request, so that it
/// can be dropped before the outcome is recorded.
pub(super) struct Load {
    pub(super) body: Bytes,
    /// When its message happened, if contacts are remembered with that time; otherwise the epoch.
    pub(super) happened_at: Timestamp,
    /// The subscriptions to which it may bring back a person who left.
    pub(super) opt_in: Option<OptIn>,
    /// Whether its message is replayed.
    pub(super) is_replay: bool,
    /// When its message was accepted, and in which class.
    pub(super) accepted: (Timestamp, Class),
    pub(super) _place: Option<Place>,
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepEnd {
    /// What the lane does next.
    pub(super) next: Next,
    /// Whether the step has shown that Loops accepts the key.
    pub(super) proves_key: bool,
}

/// Why no retry can deliver a message.
#[derive(Clone, Copy)]
pub(super) enum Hopeless<'a> {
    /// Its records are broken. Holds the store's error.
    Broken(&'a BrokenRecords),
    /// Its step panicked this many times in a row.
    Panics(u32),
}

impl Hopeless<'_> {
    fn detail(self) -> String {
        let cause = match self {
            Hopeless::Broken(fault) => format!("its records are broken ({fault})"),
            Hopeless::Panics(count) => {
                format!(
                    "the program panicked {count} times in a row while delivering it, which is a bug"
                )
            }
        };
        format!(
            "{cause}: some of its requests may have reached Loops, and a replay sends all of them again"
        )
    }
}

impl From<Next> for StepEnd {
    fn from(next: Next) -> Self {
        Self { next, proves_key: false }
    }
}

impl Stepper {
    /// Ends a message that no retry can deliver, because it would block its lane forever. The outcome of requests that
    /// were sent is unknown.
    pub(super) async fn set_aside(
        &self,
        lease: &Lease,
        seq: Seq,
        why: Hopeless<'_>,
    ) -> Result<StepEnd, LeaseLost> {
        let failure = Failure { reason: FailureReason::Unreadable, detail: why.detail() };
        let broken = BrokenMessage { seq, now: self.clock.now(), failure };
        let set_aside = || self.queue.set_aside(lease, broken.clone());
        let (message_id, cannot) = match self.record(seq, set_aside).await {
            Ok(message_id) => (message_id, None),
            Err(WorkError::Fenced) => return Err(LeaseLost),
            Err(cannot) => (None, Some(cannot)),
        };
        let not_ended = cannot.as_ref().map(|cannot| display(telemetry::chain(cannot)));
        let destination = &self.name;
        match why {
            Hopeless::Broken(fault) => error!(
                destination,
                seq = seq.0,
                message_id,
                error = %telemetry::chain(fault),
                not_ended,
                "the records of a message are broken: it is kept as failed if it still exists, and delivery continues without it"
            ),
            Hopeless::Panics(panics) => error!(
                destination,
                seq = seq.0,
                message_id,
                panics,
                not_ended,
                "a message makes delivery panic each time: it is kept as failed if it still exists, and delivery continues without it"
            ),
        }
        Ok(Next::Finish.into())
    }

    /// Repeats a write until the store works.
    pub(super) async fn record<T, F: Future<Output = Result<T, WorkError>> + Send>(
        &self,
        seq: Seq,
        write: impl Fn() -> F + Send + Sync,
    ) -> Result<T, WorkError> {
        let mut wait = RECORD_WAIT_MIN;
        loop {
            let fault = match write().await {
                Err(WorkError::Unavailable(fault)) => fault,
                written => return written,
            };
            error!(
                destination = self.name,
                seq = seq.0,
                error = %telemetry::chain(&fault),
                "an outcome cannot be recorded; trying again"
            );
            sleep(wait).await;
            wait = (wait * 2).min(RECORD_WAIT_MAX);
        }
    }

    /// Returns the held messages with their lanes. Repeats the read until the store works.
    pub(super) async fn recall(&self) -> Vec<(Seq, LaneKey)> {
        loop {
            match self.queue.held_lanes(&self.name).await {
                Ok(held) => return held,
                Err(fault) => error!(
                    destination = self.name,
                    error = %telemetry::chain(&fault),
                    "held messages cannot be read; trying again"
                ),
            }
            sleep(STORE_FAULT_WAIT).await;
        }
    }

    /// Builds the query for held messages that may go on.
    pub(super) fn holds_ask(&self, limit: u32) -> HoldsAsk {
        let destination = Arc::clone(&self.destination.borrow());
        let options = destination.contact_options();
        let per_day = options.new_contacts_per_day;
        // Where no contact is created, nothing is held.
        let is_capped = per_day > 0
            && options.new_contacts == NewContactsPolicy::Create
            && !destination.is_shadow();
        HoldsAsk { now: self.clock.now(), per_day: is_capped.then_some(per_day), limit }
    }

    /// Returns the number that identifies the team at Loops in the store.
    pub(super) fn account(&self) -> i64 {
        self.digests.property_name(self.client.account()).0
    }

    /// Returns the reader of what requests say about their contacts, for the destination's configuration.
    pub(super) fn facts<'a>(&'a self, destination: &'a Destination) -> FactsMaker<'a> {
        FactsMaker {
            digests: &self.digests,
            account: self.client.account(),
            revision: destination.revision(),
            keeps_addresses: destination.contact_options().identity == IdentityGuard::Link,
        }
    }

    /// Counts a delivery that ended.
    pub(super) fn count(&self, action: ActionKind, outcome: &str) {
        let labels = [
            ("destination", self.name.clone()),
            ("action", action.as_str().to_owned()),
            ("outcome", outcome.to_owned()),
        ];
        counter!(telemetry::DELIVERIES, &labels).increment(1);
    }
}
