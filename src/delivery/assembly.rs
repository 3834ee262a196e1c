//! Assembles the requests to freeze from the plans of a message and its neighbours: which deliveries share a request,
//! which idempotency key each request has, and which deliveries are too late to be sent. Pure.

use jiff::{SignedDuration, Timestamp};

use super::idempotency::{Origin, Purpose};
use super::knowledge::Judgement;
use super::union::Union;
use crate::clock::Clock;
use crate::destination::{Guard, Plan, PlanFailure, PlanFailureKind, PlannedDelivery, Request};
use crate::queue::{
    Failure, FailureReason, Job, NewDelivery, NewMerge, NewMergedRequest, NewOutcome, NewPlan,
    NewRequest, Seq,
};
use crate::segment::RequestDigest;

/// The plans of neighbours, and the requests that their deliveries share.
pub(super) struct Assembly {
    plans: Vec<Planned>,
    groups: Vec<Group>,
    /// The index in `groups` of the group that the next delivery may join.
    open: Option<usize>,
}

/// A plan whose deliveries were judged by what is known of their contacts.
pub(super) struct JudgedPlan {
    pub(super) plan: Result<Plan, NewPlan>,
    /// One judgement for each delivery of the plan.
    pub(super) judgements: Vec<Judgement>,
    /// For each delivery, the digest of the request before it was judged.
    pub(super) planned: Vec<Option<RequestDigest>>,
}

impl JudgedPlan {
    /// Returns the deliveries to send, with their indices and requests.
    fn sent(&self) -> impl Iterator<Item = (usize, &PlannedDelivery, &Request)> {
        let deliveries = self.plan.as_ref().map_or(&[][..], |plan| &plan.deliveries);
        let judged = deliveries.iter().zip(&self.judgements).enumerate();
        judged.filter_map(|(index, (delivery, judgement))| match judgement {
            Judgement::Send | Judgement::Redundant => {
                Some((index, delivery, delivery.outcome.as_ref().ok()?))
            }
            Judgement::NotNeeded(_) => None,
        })
    }
}

/// The plan of a message, with the facts about the message that its deliveries need.
struct Planned {
    seq: Seq,
    judged: JudgedPlan,
    origin: Origin,
    /// When the message happened, which is never later than its receipt.
    happened_at: Timestamp,
}

/// Deliveries that share one request.
struct Group {
    union: Union,
    carries: Vec<DeliveryIndex>,
}

/// The index of a plan, and the index of a delivery within it.
type DeliveryIndex = (usize, usize);

impl Assembly {
    /// Begins with the message whose turn it is.
    pub(super) fn new(seq: Seq, plan: JudgedPlan, job: &Job) -> Self {
        let mut assembly = Self { plans: Vec::new(), groups: Vec::new(), open: None };
        assembly.add(seq, plan, job);
        assembly
    }

    /// Returns whether a neighbour could join.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Adds a neighbour if its first request joins the open group, and returns whether it did. Otherwise the neighbour
    /// waits for its own turn.
    pub(super) fn take(&mut self, seq: Seq, plan: JudgedPlan, job: &Job) -> bool {
        let Some(open) = self.open else {
            return false;
        };
        // A message without requests also waits, because its own turn uses no slot.
        let joins = plan.sent().next().is_some_and(|(_, delivery, request)| {
            delivery.may_merge && self.groups[open].union.would_join(request)
        });
        if joins {
            self.add(seq, plan, job);
        }
        joins
    }

    fn add(&mut self, seq: Seq, judged: JudgedPlan, job: &Job) {
        let index = self.plans.len();
        for (delivery_index, delivery, request) in judged.sent() {
            self.gather((index, delivery_index), delivery, request);
        }
        let own_time = judged.plan.as_ref().ok().and_then(|plan| plan.happened_at);
        self.plans.push(Planned {
            seq,
            judged,
            origin: Origin {
                source: job.source.clone(),
                message_id: job.message_id.clone(),
                replay: job.replay.number,
            },
            happened_at: job.happened_at(own_time),
        });
    }

    /// Adds the request of a delivery to the open group, or opens another group with it.
    fn gather(&mut self, index: DeliveryIndex, delivery: &PlannedDelivery, request: &Request) {
        if !delivery.may_merge {
            self.open = None;
            return;
        }
        if let Some(open) = self.open
            && self.groups[open].union.join(request)
        {
            self.groups[open].carries.push(index);
            if !self.groups[open].union.is_open() {
                self.open = None;
            }
            return;
        }
        self.open = Union::begin(request).map(|union| {
            self.groups.push(Group { union, carries: vec![index] });
            self.groups.len() - 1
        });
    }

    /// Returns how many of the messages are replayed.
    pub(super) fn replayed(&self) -> u64 {
        self.plans.iter().filter(|planned| planned.origin.replay > 0).count() as u64
    }

    /// Returns the guards that intervened, one entry for each delivery and guard.
    pub(super) fn guarded(&self) -> Vec<Guard> {
        let plans = self.plans.iter().filter_map(|planned| planned.judged.plan.as_ref().ok());
        let mut guarded = Vec::new();
        for delivery in plans.flat_map(|plan| &plan.deliveries) {
            let is_placeholder = matches!(
                &delivery.outcome,
                Err(PlanFailure { kind: PlanFailureKind::PlaceholderId, .. })
            );
            guarded.extend(is_placeholder.then_some(Guard::PlaceholderId));
            let mut others = delivery.guarded.clone();
            others.sort_unstable();
            others.dedup();
            guarded.append(&mut others);
        }
        guarded
    }

    /// Returns the plans and requests to freeze.
    pub(super) fn into_merge(self, clock: &dyn Clock) -> NewMerge {
        let Self { plans, groups, .. } = self;
        let merged = groups.into_iter().filter(|group| group.union.members() > 1);
        let merged: Vec<NewMergedRequest> = merged
            .map(|Group { union, carries }| {
                // An event is always the last delivery of a group.
                let key = carries.last().and_then(|last| plans[last.0].key_of(last.1));
                let is_redundant = carries.iter().all(|index| plans[index.0].is_redundant(index.1));
                let request = new_request(union.into_request(), key, None, is_redundant);
                NewMergedRequest { request, carries }
            })
            .collect();
        let is_merged = |index| merged.iter().any(|one| one.carries.contains(&index));
        let plans = plans
            .into_iter()
            .enumerate()
            .map(|(index, planned)| {
                let seq = planned.seq;
                (seq, planned.into_plan(clock, |delivery| is_merged((index, delivery))))
            })
            .collect();
        NewMerge { plans, merged, claims: Vec::new(), is_shadow: false, cap: None }
    }
}

impl Planned {
    /// Returns the idempotency key of the merged request whose last delivery this is.
    fn key_of(&self, delivery: usize) -> Option<String> {
        let delivery = self.judged.plan.as_ref().ok()?.deliveries.get(delivery)?;
        Some(self.origin.key(&delivery.subscription, Purpose::First))
    }

    fn is_redundant(&self, delivery: usize) -> bool {
        matches!(self.judged.judgements.get(delivery), Some(Judgement::Redundant))
    }

    fn into_plan(self, clock: &dyn Clock, is_merged: impl Fn(usize) -> bool) -> NewPlan {
        let Self { judged: JudgedPlan { plan, judgements, planned }, origin, happened_at, .. } =
            self;
        let now = clock.now();
        // For a replayed message, `max_age_s` counts from now.
        let counted_from = if origin.replay > 0 { now } else { happened_at };
        let plan = match plan {
            Ok(plan) => plan,
            Err(unreadable) => return unreadable,
        };
        let judged = plan.deliveries.into_iter().zip(judgements).zip(planned).enumerate();
        let deliveries = judged.map(|(index, ((delivery, judgement), planned))| {
            let purpose = if is_merged(index) { Purpose::Part } else { Purpose::First };
            let key = origin.key(&delivery.subscription, purpose);
            let expires_at = expires_at(counted_from, delivery.max_age_s);
            let is_late = expires_at.is_some_and(|expires_at| clock.earliest_now() > expires_at);
            let made = new_delivery(delivery, judgement, key, expires_at, is_late);
            NewDelivery { planned, ..made }
        });
        NewPlan { now, deliveries: deliveries.collect(), unmatched: plan.unmatched }
    }
}

fn new_delivery(
    delivery: PlannedDelivery,
    judgement: Judgement,
    key: String,
    expires_at: Option<Timestamp>,
    is_late: bool,
) -> NewDelivery {
    let is_redundant = judgement == Judgement::Redundant;
    let outcome = match (delivery.outcome, judgement) {
        (Ok(_), Judgement::NotNeeded(why)) => NewOutcome::NotNeeded(why),
        (Ok(_), _) if is_late => NewOutcome::Failed(too_late(delivery.max_age_s)),
        (Ok(request), _) => {
            NewOutcome::Request(new_request(request, Some(key), expires_at, is_redundant))
        }
        (Err(PlanFailure { kind, detail }), _) => {
            let reason = match kind {
                PlanFailureKind::Invalid => FailureReason::Invalid,
                PlanFailureKind::PlaceholderId => FailureReason::PlaceholderId,
            };
            NewOutcome::Failed(Failure { reason, detail })
        }
    };
    NewDelivery {
        subscription: Some(delivery.subscription),
        action: Some(delivery.action),
        warnings: delivery.warnings,
        planned: None,
        outcome,
    }
}

fn expires_at(counted_from: Timestamp, max_age_s: Option<u64>) -> Option<Timestamp> {
    let max_age = SignedDuration::from_secs(i64::try_from(max_age_s?).unwrap_or(i64::MAX));
    counted_from.checked_add(max_age).ok()
}

fn too_late(max_age_s: Option<u64>) -> Failure {
    let max_age_s = max_age_s.unwrap_or_default();
    Failure {
        reason: FailureReason::Expired,
        detail: format!(
            "not sent: the message is older than the {max_age_s} s that its subscription allows (max_age_s)"
        ),
    }
}

fn new_request(
    request: Request,
    key: Option<String>,
    expires_at: Option<Timestamp>,
    is_redundant: bool,
) -> NewRequest {
    NewRequest {
        endpoint: request.endpoint,
        idempotency_key: key.filter(|_| request.endpoint.takes_idempotency_key()),
        body: request.body,
        expires_at,
        is_redundant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{ActionKind, Endpoint};
    use crate::clock::ManualClock;
    use crate::queue::Replay;

    #[test]
    fn max_age_counts_from_the_earlier_of_event_time_and_receipt() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (received_at, now) = (at("2026-11-23T12:00:00Z"), at("2026-11-23T12:30:00Z"));
        // Returns when the request expires, or why it is not sent.
        let outcome = |happened_at: Option<&str>, replay: u32| {
            let request = Request { endpoint: Endpoint::SendEvent, body: "{}".into() };
            let delivery = PlannedDelivery {
                subscription: "s".to_owned(),
                action: ActionKind::SendEvent,
                may_merge: false,
                max_age_s: Some(3_600),
                resubscribe: false,
                guarded: Vec::new(),
                warnings: Vec::new(),
                relies_on_catalogue: false,
                missing: Vec::new(),
                outcome: Ok(request),
            };
            let happened_at = happened_at.map(at);
            let plan = Plan { deliveries: vec![delivery], unmatched: None, happened_at };
            let plan = JudgedPlan {
                plan: Ok(plan),
                judgements: vec![Judgement::Send],
                planned: vec![None],
            };
            let job = Job {
                source: "web".to_owned(),
                message_id: "m".to_owned(),
                received_at,
                payload: "{}".into(),
                is_planned: false,
                replay: Replay { number: replay, ..Replay::default() },
                requests: Vec::new(),
                restored_from: None,
            };
            let mut merge = Assembly::new(Seq(1), plan, &job).into_merge(&ManualClock::new(now));
            let outcome = merge.plans.remove(0).1.deliveries.remove(0).outcome;
            match outcome {
                NewOutcome::Request(request) => Ok(request.expires_at),
                NewOutcome::Failed(failure) => Err(failure.reason),
                NewOutcome::NotNeeded(why) => panic!("{why:?}"),
            }
        };
        assert_eq!(outcome(Some("2026-11-20T12:00:00Z"), 0), Err(FailureReason::Expired));
        assert_eq!(outcome(Some("2026-11-23T11:29:59Z"), 0), Err(FailureReason::Expired));
        assert_eq!(outcome(Some("2026-11-23T11:45:00Z"), 0), Ok(Some(at("2026-11-23T12:45:00Z"))));
        for ahead in [Some("2030-01-01T00:00:00Z"), None] {
            assert_eq!(outcome(ahead, 0), Ok(Some(at("2026-11-23T13:00:00Z"))));
        }
        // A replay counts from now.
        assert_eq!(outcome(Some("2026-11-20T12:00:00Z"), 1), Ok(Some(at("2026-11-23T13:30:00Z"))));
    }
}
