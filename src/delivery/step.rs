//! One step of a lane: open its first message, plan and freeze it if need be, make one attempt at
//! its first pending request, record it.

use std::sync::Arc;

use jiff::Timestamp;
use metrics::{counter, histogram};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::backoff::RetryOptions;
use super::disposition::Disposition;
use crate::clock::SharedClock;
use crate::destination::{ActionKind, Destination, PlannedDelivery};
use crate::loops::{Call, Client, Endpoint, Reply, Slot};
use crate::queue::{
    Attempt, Consequence, Failure, FrozenRequest, Head, Job, Lease, NewDelivery, NewPlan,
    NewRequest, QueueError, Settlement, Work,
};
use crate::segment::{Message, decode};
use crate::telemetry;

/// How long a lane rests after the store failed it.
const STORE_FAULT_WAIT: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// What steps are made with.
pub(super) struct Stepper {
    pub(super) name: String,
    pub(super) destination: watch::Receiver<Arc<Destination>>,
    pub(super) client: Client,
    pub(super) queue: Arc<dyn Work>,
    pub(super) clock: SharedClock,
    pub(super) retry: RetryOptions,
}

/// What a lane may do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepOutcome {
    /// Its first message is done.
    Finished,
    /// Its first message has another request to send.
    Again,
    /// Its first message waits.
    Wait(Timestamp),
    /// Loops refuses the key.
    Unauthorized,
    /// Another process has the lease.
    Fenced,
}

impl Stepper {
    /// Makes one step. The slot is given back unused when there is nothing to send.
    pub(super) async fn step(&self, lease: &Lease, head: Head, slot: Slot) -> StepOutcome {
        match self.try_step(lease, head, slot).await {
            Ok(outcome) => outcome,
            Err(QueueError::Fenced) => StepOutcome::Fenced,
            Err(fault @ (QueueError::Busy | QueueError::Full | QueueError::Unavailable(_))) => {
                error!(
                    destination = self.name,
                    seq = head.seq.0,
                    error = &fault as &dyn std::error::Error,
                    "the store failed; trying again"
                );
                StepOutcome::Wait(self.later())
            }
        }
    }

    fn later(&self) -> Timestamp {
        let now = self.clock.now();
        now.checked_add(STORE_FAULT_WAIT).unwrap_or(now)
    }

    async fn try_step(
        &self,
        lease: &Lease,
        head: Head,
        slot: Slot,
    ) -> Result<StepOutcome, QueueError> {
        let Some(job) = self.queue.open(head.seq).await? else {
            return Ok(StepOutcome::Finished);
        };
        let requests = if job.is_planned {
            job.requests
        } else {
            let plan = self.plan(&job);
            self.queue.freeze(lease, head.seq, plan).await?
        };
        let Some(request) = requests.first() else {
            return Ok(StepOutcome::Finished);
        };
        if let Some(at) = request.next_attempt_at.filter(|at| *at > self.clock.now()) {
            return Ok(StepOutcome::Wait(at));
        }
        let is_last = requests.len() == 1;
        self.attempt(lease, &job.message_id, request, is_last, slot).await
    }

    fn plan(&self, job: &Job) -> NewPlan {
        let now = self.clock.now();
        let message =
            decode::decode(&job.payload).ok().and_then(|value| Message::from_stored(value).ok());
        let Some(message) = message else {
            error!(
                destination = self.name,
                message_id = job.message_id,
                "a stored message cannot be read"
            );
            return unreadable(now);
        };
        let mut plan = self.destination.borrow().plan(&message);
        if job.replay.number > 0 {
            plan.deliveries.retain(|delivery| job.replay.wants(&delivery.subscription));
            if plan.deliveries.is_empty() && plan.unmatched.is_none() {
                let reason = "no subscription that it was replayed for takes it now";
                plan.unmatched = Some(reason.to_owned());
            }
        }
        for delivery in plan.deliveries.iter().filter(|delivery| delivery.outcome.is_err()) {
            self.count(delivery.action, "invalid");
        }
        debug!(
            destination = self.name,
            message_id = job.message_id,
            deliveries = plan.deliveries.len(),
            unmatched = plan.unmatched,
            "planned"
        );
        let freeze = |delivery| new_delivery(delivery, job);
        NewPlan {
            now,
            deliveries: plan.deliveries.into_iter().map(freeze).collect(),
            unmatched: plan.unmatched,
        }
    }

    async fn attempt(
        &self,
        lease: &Lease,
        message_id: &str,
        request: &FrozenRequest,
        is_last: bool,
        slot: Slot,
    ) -> Result<StepOutcome, QueueError> {
        let started_at = self.clock.now();
        let call = Call {
            method: &request.method,
            path: &request.path,
            body: Some(&request.body),
            idempotency_key: request.idempotency_key.as_deref(),
        };
        let reply = self.client.send(&slot, call).await;
        let disposition = Disposition::of(Endpoint::from_path(&request.path), &reply);
        let number = request.attempts + 1;
        let consequence = self.consequence(request, number, started_at, &disposition);
        self.report(message_id, request, number, &reply, &disposition);
        let outcome = match &consequence {
            Consequence::Hold => StepOutcome::Unauthorized,
            Consequence::Retry(at) => StepOutcome::Wait(*at),
            Consequence::Delivered | Consequence::Failed(_) if is_last => StepOutcome::Finished,
            Consequence::Delivered | Consequence::Failed(_) => StepOutcome::Again,
        };
        let attempt = record(number, started_at, &reply, &disposition);
        let settlement = Settlement { request: request.id, attempt, consequence };
        let ended = match &settlement.consequence {
            Consequence::Delivered => Some("delivered".to_owned()),
            Consequence::Failed(failure) => Some(failure.reason.clone()),
            Consequence::Retry(_) | Consequence::Hold => None,
        };
        self.queue.settle(lease, settlement).await?;
        if let (Some(ended), Some(endpoint)) = (ended, Endpoint::from_path(&request.path)) {
            self.count(ActionKind::at(endpoint), &ended);
        }
        Ok(outcome)
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
        request: &FrozenRequest,
        number: u32,
        started_at: Timestamp,
        disposition: &Disposition,
    ) -> Consequence {
        let wait = match disposition {
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete => return Consequence::Delivered,
            Disposition::Refused { detail } => {
                let failure = Failure { reason: "refused".to_owned(), detail: detail.clone() };
                return Consequence::Failed(failure);
            }
            Disposition::Unauthorized => return Consequence::Hold,
            Disposition::Limited(after) => after.unwrap_or(self.retry.min).min(self.retry.max),
            Disposition::Retry => self.retry.delay(number),
        };
        let now = self.clock.now();
        let at = now.checked_add(wait).unwrap_or(now);
        if self.retry.is_open(request.first_attempt_at.unwrap_or(started_at), at) {
            return Consequence::Retry(at);
        }
        Consequence::Failed(Failure {
            reason: "expired".to_owned(),
            detail: format!(
                "gave up after {number} attempts within {} s; the last one: {}",
                self.retry.window.as_secs(),
                disposition.word()
            ),
        })
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
        let error = reply.result.as_ref().err().map(tracing::field::display);
        let duration_ms = reply.duration.as_millis() as u64;
        let outcome = disposition.word();
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    destination = self.name,
                    request = request.id.0,
                    message_id,
                    path = request.path,
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
            | Disposition::Retry
            | Disposition::Unauthorized
            | Disposition::Refused { .. } => line!(warn),
        }
        let labels = [
            ("destination", self.name.clone()),
            ("endpoint", request.path.clone()),
            ("status", status.to_string()),
        ];
        counter!(telemetry::LOOPS_REQUESTS, &labels).increment(1);
        histogram!(telemetry::LOOPS_REQUEST_SECONDS, &labels).record(reply.duration);
    }
}

fn unreadable(now: Timestamp) -> NewPlan {
    let failure = Failure {
        reason: "unreadable".to_owned(),
        detail: "the stored message cannot be read: the database was changed from outside"
            .to_owned(),
    };
    let delivery = NewDelivery {
        subscription: "-".to_owned(),
        action: "-".to_owned(),
        warnings: Vec::new(),
        outcome: Err(failure),
    };
    NewPlan { now, deliveries: vec![delivery], unmatched: None }
}

fn new_delivery(delivery: PlannedDelivery, job: &Job) -> NewDelivery {
    let outcome = match delivery.outcome {
        Ok(request) => Ok(NewRequest {
            method: request.endpoint.method().to_owned(),
            path: request.endpoint.path().to_owned(),
            idempotency_key: request.endpoint.takes_idempotency_key().then(|| {
                let (source, message_id) = (&job.source, &job.message_id);
                idempotency_key(source, message_id, &delivery.subscription, job.replay.number)
            }),
            body: request.body,
        }),
        Err(failure) => Err(Failure { reason: "invalid".to_owned(), detail: failure.detail }),
    };
    NewDelivery {
        subscription: delivery.subscription,
        action: delivery.action.as_str().to_owned(),
        warnings: delivery.warnings,
        outcome,
    }
}

/// The key of an event: the same for the same message under the same subscription, so that Loops
/// knows it again even when our database was lost and Segment sent the message a second time. Each
/// replay has another: Loops may have used the former up on a request that it refused.
fn idempotency_key(source: &str, message_id: &str, subscription: &str, replay: u32) -> String {
    let mut hasher = Sha256::new();
    for part in [source, message_id, subscription] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    if replay > 0 {
        hasher.update(replay.to_be_bytes());
    }
    hasher.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

fn record(number: u32, started_at: Timestamp, reply: &Reply, disposition: &Disposition) -> Attempt {
    let (status, excerpt) = match &reply.result {
        Ok(answer) => (Some(answer.status), answer.excerpt.clone()),
        Err(error) => (None, error.to_string()),
    };
    let outcome = disposition.word().to_owned();
    Attempt { number, started_at, duration: reply.duration, status, outcome, excerpt }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_knows_the_action_that_deletes() {
        assert_eq!(ActionKind::DeleteContact.as_str(), crate::queue::DELETING_ACTION);
    }

    #[test]
    fn the_key_tells_messages_sources_and_subscriptions_apart_and_fits() {
        let key = idempotency_key("web", "m1", "Sign-up", 0);
        assert_eq!(key, idempotency_key("web", "m1", "Sign-up", 0));
        assert!(key.len() <= 100);
        for (source, id, subscription, replay) in [
            ("web", "m2", "Sign-up", 0),
            ("app", "m1", "Sign-up", 0),
            ("web", "m1", "Other", 0),
            ("webm", "1", "Sign-up", 0),
            ("web", "m1", "Sign-up", 1),
        ] {
            assert_ne!(key, idempotency_key(source, id, subscription, replay));
        }
        let replayed = |number| idempotency_key("web", "m1", "Sign-up", number);
        assert_ne!(replayed(1), replayed(2));
    }
}
