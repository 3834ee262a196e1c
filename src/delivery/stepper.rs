//! The steps of a lane. A step opens the lane's first message, plans and freezes it unless that is done, and
//! makes one attempt at its first pending request.

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
use super::catalogue::Wishes;
use super::consent::is_opt_in;
use super::knowledge::{Facts, FactsMaker};
use super::lanes::Turn;
use super::lease::{HeldLease, LeaseLost};
use super::meters::Meters;
use super::planning::{Freezing, Prepared};
use super::room::{LargeRoom, Place, Room, is_large};
use super::union::object;
use super::verdict::{Due, Next};
use super::verify::SoughtBefore;
use crate::action::ActionKind;
use crate::clock::SharedClock;
use crate::destination::{Destination, IdentityGuard, NewContactsPolicy, Stale};
use crate::loops::{Client, Slot};
use crate::queue::{
    BrokenMessage, Class, Failure, FailureReason, FrozenRequest, HoldsAsk, Job, Lease, Seq, Work,
    WorkError,
};
use crate::segment::{Digests, LaneKey};
use crate::telemetry::{self, Traces};

/// How long a lane waits after the store failed.
const STORE_FAULT_WAIT: Duration = Duration::from_secs(1);

/// The shortest and the longest wait before an outcome that could not be recorded is written again.
const RECORD_WAIT_MIN: Duration = Duration::from_millis(200);
const RECORD_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a lane waits before it checks whether the catalogue that its message needs has been read.
const CATALOGUE_WAIT: Duration = Duration::from_millis(200);

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
    /// What the steps want of the catalogue.
    pub(super) wishes: Wishes,
    pub(super) traces: Traces,
    pub(super) meters: Meters,
    /// The contacts that Loops was asked about.
    pub(super) sought: SoughtBefore,
}

/// The body of a request, and its place in memory if its message is large. Kept apart from the request, so that it can be
/// dropped before the outcome is recorded.
pub(super) struct Load {
    pub(super) body: Bytes,
    /// When its message happened, if its contact is remembered with that time; else the epoch.
    pub(super) happened_at: Timestamp,
    /// When its message happened, if it may bring back a person who left.
    pub(super) opts_in_at: Option<Timestamp>,
    /// Whether its message is replayed.
    pub(super) is_replay: bool,
    /// When its message was accepted, and as what.
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
    /// Its records are broken: this is the store's error.
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
            "{cause}: some of its requests may have reached Loops, and a replay makes all of them again"
        )
    }
}

impl From<Next> for StepEnd {
    fn from(next: Next) -> Self {
        Self { next, proves_key: false }
    }
}

impl Stepper {
    /// Makes one step; a large message needs a place, which the step takes unless it is given. The slot is given back
    /// unused when there is nothing to send.
    pub(super) async fn step(
        &self,
        held: &HeldLease,
        turn: &Turn,
        place: Option<Place>,
        slot: Slot,
    ) -> Result<StepEnd, LeaseLost> {
        match self.try_step(held, turn, place, slot).await {
            Ok(end) => Ok(end),
            Err(WorkError::Fenced) => Err(LeaseLost),
            Err(WorkError::Broken(fault)) => {
                self.set_aside(&held.lease, turn.head.seq, Hopeless::Broken(&*fault)).await
            }
            Err(WorkError::Unavailable(fault)) => {
                error!(
                    destination = self.name,
                    seq = turn.head.seq.0,
                    error = %telemetry::chain(&fault),
                    "the store failed; trying again"
                );
                Ok(Next::Wait(STORE_FAULT_WAIT).into())
            }
        }
    }

    async fn try_step(
        &self,
        held: &HeldLease,
        turn: &Turn,
        place: Option<Place>,
        slot: Slot,
    ) -> Result<StepEnd, WorkError> {
        let lease = &held.lease;
        let seq = turn.head.seq;
        // A reload counts from the next step on.
        let is_shadow = self.destination.borrow().is_shadow();
        let mut preparing = Some(self.room.prepare().await);
        let began_at = self.clock.now();
        let Some(mut job) = self.queue.open(seq).await? else {
            return Ok(Next::Finish.into());
        };
        let requests_bytes = job.requests.iter().map(|request| request.body.len()).sum::<usize>();
        let mut neighbours = &*turn.neighbours;
        let place = if is_large(job.payload.len() + requests_bytes) {
            let Some(place) = place.or_else(|| self.large.take()) else {
                return Ok(Next::NoRoom.into());
            };
            // It may wait long for its turn to be decoded, and small messages must not wait for it.
            preparing = None;
            neighbours = &[];
            Some(place)
        } else {
            None
        };
        let requests = match (job.is_planned, job.requests.is_empty()) {
            (false, _) => {
                let ask = Freezing { head: &turn.head, job: &job, neighbours, is_shadow };
                match self.freeze(lease, ask, preparing).await? {
                    Prepared::Requests(requests) => requests,
                    Prepared::NotYet => return Ok(Next::Wait(CATALOGUE_WAIT).into()),
                    Prepared::Held => return Ok(Next::Hold.into()),
                    Prepared::Sought(contact) => {
                        return self.verify(held, turn, contact, slot).await;
                    }
                }
            }
            (true, false) => {
                drop(preparing);
                std::mem::take(&mut job.requests)
            }
            (true, true) => {
                return Err(WorkError::Broken("none of its requests is pending".into()));
            }
        };
        let happened_at = self.learned_at(&job);
        let opts_in_at = requests.first().and_then(|request| self.opts_in_at(&job, request));
        // Loops may take its time to answer, and many messages may be at that point: only the request at hand is kept.
        job.payload = Bytes::new();
        let is_last = requests.len() == 1;
        let Some(mut request) = requests.into_iter().next() else {
            return Ok(Next::Finish.into());
        };
        let is_replay = job.replay.number > 0;
        let body = std::mem::take(&mut request.body);
        let accepted = (job.received_at, turn.head.class);
        let load = Load { body, happened_at, opts_in_at, is_replay, accepted, _place: place };
        let due = Due {
            request: &request,
            seq,
            message_id: &job.message_id,
            is_last,
            is_singled_out: turn.is_singled_out,
            lane: turn.head.lane,
            restored_from: job.restored_from,
        };
        if let Some(verdict) = due.before_attempt(&*self.clock, &self.retry) {
            let contact = self.contact_facts(request.endpoint, &load.body).map(Facts::forget);
            drop(load);
            return self.give_up(lease, due, verdict, contact).await;
        }
        if let Some(verdict) = due.shadowed().filter(|_| is_shadow) {
            return self.shadow(lease, due, load, slot, verdict).await;
        }
        let is_event = request.idempotency_key.is_some();
        if is_event && request.first_attempt_at.is_none() && job.is_planned {
            self.begin(lease, request.id).await?;
        }
        let span = self.begin_span(due, began_at).await;
        // The store was slow, or the process was suspended: another process may be delivering.
        if !held.is_certain() {
            return Ok(Next::Again.into());
        }
        self.attempt(held, due, load, slot, span).await
    }

    /// Ends a message that no retry can deliver, since it would block its lane for ever. It is unknown what
    /// became of the requests that were sent.
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

    /// The messages that are held, with their lanes; repeats the read until the store works.
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

    /// The question which messages that are held may go on.
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

    /// Tells teams at Loops apart in the store.
    pub(super) fn account(&self) -> i64 {
        self.digests.property_name(self.client.account()).0
    }

    /// Reads what requests say of their contacts, as a destination is configured.
    pub(super) fn facts<'a>(&'a self, destination: &'a Destination) -> FactsMaker<'a> {
        FactsMaker {
            digests: &self.digests,
            account: self.client.account(),
            revision: destination.revision(),
            keeps_addresses: destination.contact_options().identity == IdentityGuard::Link,
        }
    }

    /// When a message happened, if its contact is remembered with that time; else the epoch.
    fn learned_at(&self, job: &Job) -> Timestamp {
        match self.destination.borrow().contact_options().stale {
            Stale::Skip => job.happened_at(job.message().and_then(|message| message.timestamp())),
            Stale::Send => Timestamp::UNIX_EPOCH,
        }
    }

    /// When the message of a request happened, if the request may bring back a person who left.
    fn opts_in_at(&self, job: &Job, request: &FrozenRequest) -> Option<Timestamp> {
        if !self.destination.borrow().may_resubscribe()
            || !is_opt_in(request.endpoint, &object(&request.body)?)
        {
            return None;
        }
        Some(job.happened_at(job.message().and_then(|message| message.timestamp())))
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
