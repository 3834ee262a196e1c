//! One step of a lane: open its first message, plan and freeze it unless that is done, make one attempt at
//! its first pending request, and record the attempt.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::{counter, histogram};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::backoff::RetryOptions;
use super::disposition::{Disposition, KeyCheck, in_words};
use super::lanes::Turn;
use super::merging::Merging;
use crate::action::{ActionKind, Unmatched, UnmatchedReason};
use crate::clock::SharedClock;
use crate::crash;
use crate::destination::{Destination, Plan};
use crate::loops::{Call, Client, Reply, Slot};
use crate::queue::{
    Attempt, BrokenMessage, Consequence, DeliveryState, Failure, FailureReason, FrozenRequest, Job,
    LaneAsk, LanePart, Lease, NewDelivery, NewMerge, NewPlan, Seq, Settlement, Unavailable, Work,
    WorkError,
};
use crate::segment::{Message, decode};
use crate::telemetry;

/// How long a lane waits after the store failed.
const STORE_FAULT_WAIT: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// The shortest and the longest wait before an outcome that could not be recorded is written again.
const RECORD_WAIT_MIN: Duration = Duration::from_millis(200);
const RECORD_WAIT_MAX: Duration = Duration::from_secs(10);

/// The store's error about broken records.
type BrokenRecords = dyn std::error::Error + Send + Sync;

/// Makes the steps of one destination.
pub(super) struct Stepper {
    pub(super) name: String,
    pub(super) destination: watch::Receiver<Arc<Destination>>,
    pub(super) client: Client,
    pub(super) queue: Arc<dyn Work>,
    pub(super) clock: SharedClock,
    pub(super) retry: RetryOptions,
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepEnd {
    /// What the lane does next.
    pub(super) outcome: StepOutcome,
    /// Whether the step has shown that Loops accepts the key.
    pub(super) proves_key: bool,
}

/// What a lane does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepOutcome {
    /// Its first message is done: go on to the next one.
    Finished,
    /// Its first message has another request to send.
    Again,
    /// Its first message waits until then.
    Wait(Timestamp),
    /// Loops refuses the key.
    Unauthorized,
    /// There is nothing at the base URL.
    Misdirected,
    /// Another process has the lease.
    Fenced,
}

impl From<StepOutcome> for StepEnd {
    fn from(outcome: StepOutcome) -> Self {
        Self { outcome, proves_key: false }
    }
}

impl Stepper {
    /// Makes one step. The slot is given back unused when there is nothing to send.
    pub(super) async fn step(&self, lease: &Lease, turn: &Turn, slot: Slot) -> StepEnd {
        match self.try_step(lease, turn, slot).await {
            Ok(end) => end,
            Err(WorkError::Fenced) => StepOutcome::Fenced.into(),
            Err(WorkError::Broken(fault)) => self.set_aside(lease, turn.head.seq, &*fault).await,
            Err(WorkError::Unavailable(fault)) => {
                error!(
                    destination = self.name,
                    seq = turn.head.seq.0,
                    error = %telemetry::chain(&fault),
                    "the store failed; trying again"
                );
                StepOutcome::Wait(self.later()).into()
            }
        }
    }

    /// Reads the pending messages in a part of a lane.
    pub(super) async fn of_lane(&self, ask: &LaneAsk) -> Result<LanePart, Unavailable> {
        self.queue.of_lane(&self.name, ask).await
    }

    /// Ends a message whose records are broken. It is unknown what to send and what became of the requests
    /// that were sent, and retrying would block its lane for ever.
    async fn set_aside(&self, lease: &Lease, seq: Seq, fault: &BrokenRecords) -> StepEnd {
        let failure = Failure {
            reason: FailureReason::Unreadable,
            detail: format!(
                "its records are broken ({fault}): some of its requests may have reached Loops, and a replay makes all of them again"
            ),
        };
        let broken = BrokenMessage { seq, now: self.clock.now(), failure };
        let set_aside = || self.queue.set_aside(lease, broken.clone());
        let (message_id, cannot) = match self.record(seq, set_aside).await {
            Ok(message_id) => (message_id, None),
            Err(WorkError::Fenced) => return StepOutcome::Fenced.into(),
            Err(cannot) => (None, Some(cannot)),
        };
        error!(
            destination = self.name,
            seq = seq.0,
            message_id,
            error = %telemetry::chain(fault),
            not_ended = cannot.as_ref().map(|cannot| tracing::field::display(telemetry::chain(cannot))),
            "the records of a message are broken: it is kept as failed if it still exists, and delivery continues without it"
        );
        StepOutcome::Finished.into()
    }

    fn later(&self) -> Timestamp {
        let now = self.clock.now();
        now.checked_add(STORE_FAULT_WAIT).unwrap_or(now)
    }

    async fn try_step(&self, lease: &Lease, turn: &Turn, slot: Slot) -> Result<StepEnd, WorkError> {
        let seq = turn.head.seq;
        let Some(job) = self.queue.open(seq).await? else {
            return Ok(StepOutcome::Finished.into());
        };
        let requests = match (job.is_planned, job.requests.is_empty()) {
            (false, _) => self.freeze(lease, seq, &job, &turn.neighbours).await?,
            (true, false) => job.requests,
            (true, true) => {
                return Err(WorkError::Broken("none of its requests is pending".into()));
            }
        };
        let Some(request) = requests.first() else {
            return Ok(StepOutcome::Finished.into());
        };
        let now = self.clock.now();
        if let Some(at) = request.next_attempt_at.filter(|at| *at > now) {
            return Ok(StepOutcome::Wait(at).into());
        }
        let due = Due {
            request,
            seq,
            message_id: &job.message_id,
            is_last: requests.len() == 1,
            is_singled_out: turn.is_singled_out,
        };
        match self.lateness(request, now) {
            Some(consequence) => self.give_up(lease, due, consequence).await,
            None => self.attempt(lease, due, slot).await,
        }
    }

    /// Plans a message and writes its requests to disk, merged with its neighbours where possible.
    async fn freeze(
        &self,
        lease: &Lease,
        seq: Seq,
        job: &Job,
        neighbours: &[Seq],
    ) -> Result<Vec<FrozenRequest>, WorkError> {
        let (planned, message_ids) = self.plan_turn(seq, job, neighbours).await;
        crash::point("freeze.before");
        let is_alone = planned.plans.len() == 1;
        let unsent = unsent(&planned, &message_ids);
        let frozen = match self.queue.freeze(lease, planned).await {
            Err(WorkError::Broken(fault)) if !is_alone => {
                warn!(
                    destination = self.name,
                    message_id = job.message_id,
                    error = %telemetry::chain(&*fault),
                    "cannot be merged with its neighbours: sending it alone"
                );
                return Box::pin(self.freeze(lease, seq, job, &[])).await;
            }
            frozen => frozen?,
        };
        crash::point("freeze.after");
        unsent.iter().for_each(|one| self.report_unsent(one));
        Ok(frozen)
    }

    /// Counts and logs a message or delivery that ends without a request.
    fn report_unsent(&self, unsent: &Unsent) {
        let Unsent { message_id, why } = unsent;
        match why {
            WhyUnsent::Unmatched(reason) => {
                let reason = reason.as_str();
                let labels = [("destination", self.name.clone()), ("reason", reason.to_owned())];
                counter!(telemetry::UNMATCHED, &labels).increment(1);
                info!(destination = self.name, message_id, reason, "unmatched");
            }
            WhyUnsent::Failed { subscription, action, reason } => {
                let reason = reason.as_str();
                warn!(
                    destination = self.name,
                    message_id, subscription, reason, "failed before it was sent"
                );
                self.count(*action, reason);
            }
        }
    }

    /// The consequence for a request that is no longer worth sending when its turn comes, because the
    /// destination was paused or the program was stopped for too long; `None`: send it.
    fn lateness(&self, request: &FrozenRequest, now: Timestamp) -> Option<Consequence> {
        let expired =
            |detail| Some(Consequence::Failed(Failure { reason: FailureReason::Expired, detail }));
        if request.expires_at.is_some_and(|expires_at| now > expires_at) {
            let detail =
                "not sent: when its turn came, it was older than max_age_s of its subscription";
            return expired(detail.to_owned());
        }
        // Loops has forgotten the idempotency key: if it took the event before, it would take it a second
        // time. An upsert has no key and may be repeated at any time.
        let first = request.first_attempt_at.filter(|_| request.idempotency_key.is_some())?;
        if self.retry.is_open(first, now) {
            return None;
        }
        if request.is_merged {
            return Some(Consequence::TakenApart);
        }
        expired(format!(
            "not sent again: the first attempt was more than {} ago, and Loops, which may have accepted the event then, no longer recognizes its key; a replay sends it as a new event",
            duration_words(self.retry.window)
        ))
    }

    async fn give_up(
        &self,
        lease: &Lease,
        due: Due<'_>,
        consequence: Consequence,
    ) -> Result<StepEnd, WorkError> {
        let request = due.request;
        let outcome = due.outcome(&consequence);
        let ended = ended(&consequence);
        warn!(
            destination = self.name,
            request = request.id.0,
            message_id = due.message_id,
            path = request.endpoint.path(),
            attempts = request.attempts,
            outcome = ended.unwrap_or("taken_apart"),
            "given up"
        );
        let now = self.clock.now();
        let settlement = Settlement { request: request.id, now, attempt: None, consequence };
        self.settle(lease, due.seq, settlement).await?;
        if let Some(ended) = ended {
            self.count(ActionKind::at(request.endpoint), ended);
        }
        Ok(outcome.into())
    }

    /// Plans a message, together with the neighbours behind it that can be merged without loss. Returns
    /// the ids of these messages too, in the order of the plans.
    async fn plan_turn(&self, seq: Seq, job: &Job, neighbours: &[Seq]) -> (NewMerge, Vec<String>) {
        let mut message_ids = vec![job.message_id.clone()];
        let first = self.plan(job);
        let mut merging = Merging::new(seq, first, job);
        for seq in neighbours {
            if !merging.is_open() {
                break;
            }
            // A neighbour that was planned before is frozen: nothing may be merged into it or moved ahead
            // of it. A neighbour that cannot be opened waits for its own turn.
            let opened = self.queue.open(*seq).await.ok().flatten();
            let Some(job) = opened.filter(|job| !job.is_planned) else { break };
            let plan = self.plan(&job);
            if !merging.take(*seq, plan, &job) {
                break;
            }
            message_ids.push(job.message_id);
        }
        let merge = merging.into_merge(self.clock.now());
        if merge.plans.len() > 1 {
            debug!(
                destination = self.name,
                message_id = job.message_id,
                messages = merge.plans.len(),
                "merged with its neighbours"
            );
        }
        (merge, message_ids)
    }

    fn plan(&self, job: &Job) -> Result<Plan, NewPlan> {
        let message =
            decode::decode(&job.payload).ok().and_then(|value| Message::from_stored(value).ok());
        let Some(message) = message else {
            error!(
                destination = self.name,
                message_id = job.message_id,
                "a stored message cannot be read"
            );
            return Err(unreadable(self.clock.now()));
        };
        // Planning may take a while. Clone the Arc, so that the borrow does not block a reload and, behind
        // it, other steps.
        let destination = Arc::clone(&self.destination.borrow());
        let mut plan = destination.plan(&message);
        if job.replay.number > 0 {
            plan.deliveries.retain(|delivery| job.replay.wants(&delivery.subscription));
            if plan.deliveries.is_empty() && plan.unmatched.is_none() {
                let detail = match job.replay.is_before_deletion {
                    true => "its person was deleted at Loops after it was accepted",
                    false => "no subscription that it was replayed for takes it now",
                };
                let reason = UnmatchedReason::Replay;
                plan.unmatched = Some(Unmatched { reason, detail: detail.to_owned() });
            }
        }
        debug!(
            destination = self.name,
            message_id = job.message_id,
            deliveries = plan.deliveries.len(),
            unmatched = plan.unmatched.as_ref().map(|unmatched| unmatched.reason.as_str()),
            "planned"
        );
        Ok(plan)
    }

    async fn attempt(&self, lease: &Lease, due: Due<'_>, slot: Slot) -> Result<StepEnd, WorkError> {
        let request = due.request;
        let started_at = self.clock.now();
        let call = Call {
            method: request.endpoint.method(),
            path: request.endpoint.path(),
            body: Some(&request.body),
            idempotency_key: request.idempotency_key.as_deref(),
        };
        let reply = self.client.send(&slot, call).await;
        crash::point("send.after");
        let check = match Disposition::needs_check(&reply) {
            true => {
                let slot = self.client.pacer().slot().await;
                Some(KeyCheck::of(&self.client.probe(&slot).await))
            }
            false => None,
        };
        let disposition = Disposition::of(request.endpoint, &reply, check);
        let number = request.attempts + 1;
        let consequence = self.consequence(due, number, started_at, &reply, &disposition);
        self.report(due.message_id, request, number, &reply, &disposition);
        let outcome = match disposition {
            Disposition::Misdirected => StepOutcome::Misdirected,
            _ => due.outcome(&consequence),
        };
        let ended = ended(&consequence);
        let attempt = Some(record(number, started_at, &reply, &disposition));
        let now = self.clock.now();
        let settlement = Settlement { request: request.id, now, attempt, consequence };
        crash::point("settle.before");
        self.settle(lease, due.seq, settlement).await?;
        crash::point("settle.after");
        if let Some(ended) = ended {
            self.count(ActionKind::at(request.endpoint), ended);
        }
        Ok(StepEnd { outcome, proves_key: disposition.proves_key() })
    }

    /// Records an outcome, retrying for as long as the store fails: if the outcome were lost, the request
    /// would be sent again. The lane sends nothing else in the meantime.
    async fn settle(
        &self,
        lease: &Lease,
        seq: Seq,
        settlement: Settlement,
    ) -> Result<(), WorkError> {
        self.record(seq, || self.queue.settle(lease, settlement.clone())).await
    }

    /// Repeats a write until the store works.
    async fn record<T, F: Future<Output = Result<T, WorkError>> + Send>(
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

    fn count(&self, action: ActionKind, outcome: &str) {
        let labels = [
            ("destination", self.name.clone()),
            ("action", action.as_str().to_owned()),
            ("outcome", outcome.to_owned()),
        ];
        counter!(telemetry::DELIVERIES, &labels).increment(1);
    }

    fn consequence(
        &self,
        due: Due<'_>,
        number: u32,
        started_at: Timestamp,
        reply: &Reply,
        disposition: &Disposition,
    ) -> Consequence {
        let request = due.request;
        let refused = |detail: String| match request.is_merged {
            // Each part is sent alone, so that only the message at fault fails.
            true => Consequence::TakenApart,
            false => Consequence::Failed(Failure { reason: FailureReason::Refused, detail }),
        };
        let wait = match disposition {
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete => return Consequence::Delivered,
            Disposition::Refused { detail } => return refused(detail.clone()),
            Disposition::Unauthorized { detail } if due.is_singled_out => {
                return refused(format!(
                    "{detail}; several times, while other requests succeeded with the same key"
                ));
            }
            Disposition::Unauthorized { .. } | Disposition::Misdirected => {
                return Consequence::Hold;
            }
            Disposition::Limited(Some(after)) => (*after).min(self.retry.max),
            Disposition::Limited(None) => self.retry.delay(number),
            Disposition::Retry(after) => {
                let asked = after.unwrap_or_default().min(self.retry.max);
                self.retry.delay(number).max(asked)
            }
        };
        let now = self.clock.now();
        let at = now.checked_add(wait).unwrap_or(now);
        let is_late = request.expires_at.is_some_and(|expires_at| at > expires_at);
        if !is_late && self.retry.is_open(request.first_attempt_at.unwrap_or(started_at), at) {
            return Consequence::Retry(at);
        }
        let within = match is_late {
            true => "it would be older than max_age_s of its subscription allows".to_owned(),
            false => format!("its time is up after {}", duration_words(self.retry.window)),
        };
        let detail = format!("gave up after {number} attempts: {within}; {}", last_words(reply));
        Consequence::Failed(Failure { reason: FailureReason::Expired, detail })
    }

    fn report(
        &self,
        message_id: &str,
        request: &FrozenRequest,
        number: u32,
        reply: &Reply,
        disposition: &Disposition,
    ) {
        let status = reply.result.as_ref().map_or(0, |answer| answer.status);
        let error = match &reply.result {
            Ok(_) if disposition.is_not_of_loops(reply) => Some(format!(
                "the answer is not one of Loops: check base_url (LOOPS_BASE_URL), {}",
                self.client.shown_url()
            )),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        let duration_ms = reply.duration.as_millis() as u64;
        let outcome = disposition.outcome().as_str();
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    destination = self.name,
                    request = request.id.0,
                    message_id,
                    path = request.endpoint.path(),
                    attempt = number,
                    status,
                    duration_ms,
                    outcome,
                    error,
                    "attempt"
                )
            };
        }
        match disposition {
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete => line!(info),
            Disposition::Limited(_)
            | Disposition::Retry(_)
            | Disposition::Misdirected
            | Disposition::Unauthorized { .. }
            | Disposition::Refused { .. } => line!(warn),
        }
        let labels = [
            ("destination", self.name.clone()),
            ("endpoint", request.endpoint.path().to_owned()),
            ("status", status.to_string()),
        ];
        counter!(telemetry::LOOPS_REQUESTS, &labels).increment(1);
        histogram!(telemetry::LOOPS_REQUEST_SECONDS, &labels).record(reply.duration);
    }
}

/// A request whose turn it is.
#[derive(Clone, Copy)]
struct Due<'a> {
    request: &'a FrozenRequest,
    /// The message whose turn it is, one of those in the request.
    seq: Seq,
    message_id: &'a str,
    /// Whether it is the last pending request of the message.
    is_last: bool,
    /// As in [`Turn`].
    is_singled_out: bool,
}

impl Due<'_> {
    fn outcome(&self, consequence: &Consequence) -> StepOutcome {
        match consequence {
            Consequence::Hold => StepOutcome::Unauthorized,
            Consequence::Retry(at) => StepOutcome::Wait(*at),
            Consequence::TakenApart => StepOutcome::Again,
            Consequence::Delivered | Consequence::Failed(_) if self.is_last => {
                StepOutcome::Finished
            }
            Consequence::Delivered | Consequence::Failed(_) => StepOutcome::Again,
        }
    }
}

/// How the deliveries of a request ended, for logs and metrics; `None` while they are pending.
fn ended(consequence: &Consequence) -> Option<&'static str> {
    match consequence {
        Consequence::Delivered => Some(DeliveryState::Delivered.as_str()),
        Consequence::Failed(failure) => Some(failure.reason.as_str()),
        Consequence::Retry(_) | Consequence::Hold | Consequence::TakenApart => None,
    }
}

/// A message, or one of its deliveries, that ends without a request.
struct Unsent {
    message_id: String,
    why: WhyUnsent,
}

enum WhyUnsent {
    Unmatched(UnmatchedReason),
    Failed { subscription: Option<String>, action: ActionKind, reason: FailureReason },
}

/// The messages and deliveries of a merge that end without a request.
fn unsent(merge: &NewMerge, message_ids: &[String]) -> Vec<Unsent> {
    let mut unsent = Vec::new();
    for ((_, plan), message_id) in merge.plans.iter().zip(message_ids) {
        let unmatched = plan.unmatched.iter().map(|one| WhyUnsent::Unmatched(one.reason));
        let failed = plan.deliveries.iter().filter_map(|delivery| {
            Some(WhyUnsent::Failed {
                reason: delivery.outcome.as_ref().err()?.reason,
                // Without an action, the message could not be read, which is logged where it is found.
                action: delivery.action?,
                subscription: delivery.subscription.clone(),
            })
        });
        let whys = unmatched.chain(failed);
        unsent.extend(whys.map(|why| Unsent { message_id: message_id.clone(), why }));
    }
    unsent
}

/// How the last attempt went, for people.
fn last_words(reply: &Reply) -> String {
    match &reply.result {
        Ok(answer) => format!("the last answer was {}", in_words(answer)),
        Err(error) => format!("the last attempt had no answer: {error}"),
    }
}

/// A duration in the largest unit that divides it.
fn duration_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        seconds if seconds % 3_600 == 0 => format!("{} h", seconds / 3_600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

fn unreadable(now: Timestamp) -> NewPlan {
    let failure = Failure {
        reason: FailureReason::Unreadable,
        detail: "the stored message cannot be read: the database was changed by another program"
            .to_owned(),
    };
    let delivery = NewDelivery {
        subscription: None,
        action: None,
        warnings: Vec::new(),
        outcome: Err(failure),
    };
    NewPlan { now, deliveries: vec![delivery], unmatched: None }
}

fn record(number: u32, started_at: Timestamp, reply: &Reply, disposition: &Disposition) -> Attempt {
    let (status, excerpt) = match &reply.result {
        Ok(answer) => (Some(answer.status), answer.excerpt.clone()),
        Err(error) => (None, error.to_string()),
    };
    let outcome = disposition.outcome();
    Attempt { number, started_at, duration: reply.duration, status, outcome, excerpt }
}
