//! Planning of a turn: turns a message, and the neighbours behind it that can be merged without loss, into
//! the requests that are frozen on disk.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use tracing::{debug, error, info, warn};

use super::assembly::{Assembly, JudgedPlan};
use super::catalogue::Trust;
use super::consent::Consent;
use super::knowledge::{Bodies, Knowledge};
use super::room::Preparing;
use super::stepper::Stepper;
use crate::action::{ActionKind, Unmatched, UnmatchedReason};
use crate::crash;
use crate::destination::{
    ConsentGuard, ContactProperty, Destination, Guard, Plan, PlannedDelivery, SkipUnchanged, Stale,
};
use crate::large::LARGE_BYTES;
use crate::queue::{
    Failure, FailureReason, FrozenRequest, Head, Job, Lease, NewDelivery, NewMerge, NewOutcome,
    NewPlan, NotNeededReason, Seq, Unavailable, WorkError,
};
use crate::segment::{LaneKey, Message, PersonDigest};
use crate::telemetry;

/// What is planned and frozen in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freezing<'a> {
    pub(super) head: &'a Head,
    pub(super) job: &'a Job,
    /// The messages behind it that may be merged with it.
    pub(super) neighbours: &'a [Seq],
    /// Whether the step sends nothing.
    pub(super) is_shadow: bool,
}

impl Stepper {
    /// Plans a message and writes its requests to disk, merged with its neighbours where possible. `preparing` is dropped
    /// once it is planned. `None`: the message must wait for the catalogue.
    pub(super) async fn freeze(
        &self,
        lease: &Lease,
        freezing: Freezing<'_>,
        preparing: Option<Preparing>,
    ) -> Result<Option<Vec<FrozenRequest>>, WorkError> {
        let message_id = &freezing.job.message_id;
        let planned = self.plan_turn(freezing).await?;
        drop(preparing);
        let Some(PlannedTurn { merge: planned, message_ids, guarded }) = planned else {
            return Ok(None);
        };
        crash::point("freeze.before");
        let is_alone = planned.plans.len() == 1;
        let failed = failed(&planned, &message_ids);
        let (economy, not_needed) = (planned.economy(), not_needed(&planned));
        let frozen = match self.queue.freeze(lease, planned).await {
            Err(WorkError::Broken(fault)) if !is_alone => {
                warn!(
                    destination = self.name,
                    message_id,
                    error = %telemetry::chain(&*fault),
                    "cannot be merged with its neighbours: sending it alone"
                );
                let preparing = Some(self.room.prepare().await);
                let alone = Freezing { neighbours: &[], ..freezing };
                return Box::pin(self.freeze(lease, alone, preparing)).await;
            }
            frozen => frozen?,
        };
        crash::point("freeze.after");
        // A neighbour is only merged if it has a request, so the first message alone can be unmatched.
        if let Some(reason) = frozen.unmatched {
            let reason = reason.as_str();
            let labels = [("destination", self.name.clone()), ("reason", reason.to_owned())];
            counter!(telemetry::UNMATCHED, &labels).increment(1);
            info!(destination = self.name, message_id, reason, "unmatched");
        }
        for Failed { message_id, subscription, action, reason } in failed {
            let reason = reason.as_str();
            warn!(
                destination = self.name,
                message_id, subscription, reason, "failed before it was sent"
            );
            self.count(action, reason);
        }
        for (how, count) in economy.saved() {
            if count > 0 {
                let labels = [("destination", self.name.clone()), ("how", how.to_owned())];
                counter!(telemetry::REQUESTS_SAVED, &labels).increment(count);
            }
        }
        for guard in guarded {
            counter!(telemetry::GUARDED, &guard_labels(&self.name, guard)).increment(1);
        }
        for (action, reason) in not_needed {
            self.count(action, reason.as_str());
        }
        Ok(Some(frozen.requests))
    }

    /// Makes the counts of the guards known before one of them has anything to do.
    pub(super) fn register_guards(&self) {
        for guard in Guard::ALL {
            counter!(telemetry::GUARDED, &guard_labels(&self.name, guard)).increment(0);
        }
        for of_contacts in [telemetry::REVIVED, telemetry::NEW_CONTACTS] {
            counter!(of_contacts, "destination" => self.name.clone()).increment(0);
        }
    }

    /// Plans a message, together with the neighbours behind it that can be merged without loss. `None`: the message must
    /// wait for the catalogue.
    async fn plan_turn(&self, freezing: Freezing<'_>) -> Result<Option<PlannedTurn>, Unavailable> {
        let Freezing { head, job, neighbours, is_shadow } = freezing;
        let mut message_ids = vec![job.message_id.clone()];
        // A snapshot: a reload must not wait until the planning is done, and all messages of a turn are planned
        // with the same subscriptions.
        let destination = Arc::clone(&self.destination.borrow());
        let plan = self.room.turns.decode(job.payload.len(), || self.plan(&destination, job)).await;
        let Some(plan) = self.trusted(&destination, job, plan, is_shadow) else { return Ok(None) };
        let first = job.happened_at(plan.as_ref().ok().and_then(|plan| plan.happened_at));
        let mut knowledge = self.knowledge(&destination, head.lane, is_shadow);
        let judged = self.judge(&destination, &mut knowledge, plan, job).await?;
        let mut assembly = Assembly::new(head.seq, judged, job);
        let mut bytes = job.payload.len();
        for seq in neighbours {
            if !assembly.is_open() {
                break;
            }
            // A neighbour that was planned before is frozen: nothing may be merged into it or moved ahead
            // of it. A neighbour that cannot be opened waits for its own turn.
            let opened = self.queue.open(*seq).await.ok().flatten();
            let Some(job) = opened.filter(|job| !job.is_planned) else { break };
            // All plans of a turn are in memory at once, so what is merged is small.
            bytes += job.payload.len();
            if bytes > LARGE_BYTES {
                break;
            }
            let plan = self.plan(&destination, &job);
            let Some(plan) = self.trusted(&destination, &job, plan, is_shadow) else { break };
            // What a request teaches has one time, that of its first message.
            if destination.contact_options().stale == Stale::Skip
                && plan.as_ref().is_ok_and(|plan| job.happened_at(plan.happened_at) < first)
            {
                break;
            }
            let judged = self.judge(&destination, &mut knowledge, plan, &job).await?;
            if !assembly.take(*seq, judged, &job) {
                break;
            }
            message_ids.push(job.message_id);
        }
        let guarded = assembly.guarded();
        let claims = knowledge.into_claims();
        let merge = NewMerge { claims, is_shadow, ..assembly.into_merge(&*self.clock) };
        if merge.plans.len() > 1 {
            debug!(
                destination = self.name,
                message_id = job.message_id,
                messages = merge.plans.len(),
                "merged with its neighbours"
            );
        }
        Ok(Some(PlannedTurn { merge, message_ids, guarded }))
    }

    /// What is known of contacts, of which none has been read yet.
    fn knowledge<'a>(
        &'a self,
        destination: &'a Destination,
        lane: LaneKey,
        is_shadow: bool,
    ) -> Knowledge<'a> {
        let facts = self.facts(destination);
        let mut options = destination.contact_options().clone();
        if is_shadow {
            // Nothing is left out because Loops has it: it may have been shadowed alone, or changed by others, and what
            // is shadowed must be complete, so that a replay leaves at Loops what it should.
            options.skip_unchanged = SkipUnchanged::Off;
            options.stale = Stale::Send;
        }
        Knowledge::new(facts, options, lane, self.clock.now())
    }

    /// Judges a plan, for which it reads what is known of its contacts.
    async fn judge(
        &self,
        destination: &Destination,
        knowledge: &mut Knowledge<'_>,
        plan: Result<Plan, NewPlan>,
        job: &Job,
    ) -> Result<JudgedPlan, Unavailable> {
        let mut plan = match plan {
            Ok(plan) => plan,
            Err(unreadable) => {
                return Ok(JudgedPlan {
                    plan: Err(unreadable),
                    judgements: Vec::new(),
                    planned: Vec::new(),
                });
            }
        };
        self.block_erased(destination, &mut plan, job).await?;
        let planned = plan.deliveries.iter().map(|one| one.digest(&self.digests)).collect();
        let bodies = Bodies::of(&plan);
        let unread = knowledge.unread(&bodies);
        if !unread.is_empty() {
            let found = self.queue.contacts(&self.name, &unread).await?;
            knowledge.add(unread, found);
        }
        let opt_ins = match destination.options().consent {
            ConsentGuard::Guard => knowledge.opt_ins(&plan, &bodies),
            ConsentGuard::Pass => Vec::new(),
        };
        let mut opt_outs = Vec::new();
        if !opt_ins.is_empty() {
            opt_outs = self.queue.opt_outs(&self.name, &opt_ins).await?;
        }
        let happened_at = job.happened_at(plan.happened_at);
        let consent = Consent { opt_outs, happened_at };
        let judgements = knowledge.judge(&mut plan, bodies, job.replay.number > 0, &consent);
        Ok(JudgedPlan { plan: Ok(plan), judgements, planned })
    }

    /// The plan of a message, once the catalogue that it depends on may be relied on; `None`: it must be planned again
    /// later. In shadow mode, nothing is created at Loops: what would be counts as there.
    fn trusted(
        &self,
        destination: &Destination,
        job: &Job,
        plan: Result<Plan, NewPlan>,
        is_shadow: bool,
    ) -> Option<Result<Plan, NewPlan>> {
        let Ok(planned) = &plan else { return Some(plan) };
        if !planned.deliveries.iter().any(|delivery| delivery.relies_on_catalogue) {
            return Some(plan);
        }
        match self.wishes.trust() {
            Trust::Soon => None,
            Trust::Doubtful => {
                let by = |message: &Message| destination.plan_with_old_catalogue(message);
                Some(self.plan_by(job, by))
            }
            Trust::Fresh => {
                let record = destination.catalogue().map(|one| one.record());
                let now = self.clock.now();
                let may_create = |property: &&ContactProperty| {
                    record.is_some_and(|record| record.may_create(&property.name, now))
                };
                let mut missing = planned.deliveries.iter().flat_map(|one| &one.missing);
                let Some(property) = missing.find(may_create).filter(|_| !is_shadow) else {
                    return Some(plan);
                };
                self.wishes.create(property.clone());
                None
            }
        }
    }

    /// Sends nothing of people who were erased less than `erased_block_days` ago, but their deletion.
    async fn block_erased(
        &self,
        destination: &Destination,
        plan: &mut Plan,
        job: &Job,
    ) -> Result<(), Unavailable> {
        let days = destination.contact_options().erased_block_days;
        let is_deletion = |delivery: &PlannedDelivery| delivery.action == ActionKind::DeleteContact;
        if days == 0 || plan.deliveries.iter().all(is_deletion) {
            return Ok(());
        }
        let Some(message) = job.message() else { return Ok(()) };
        let ids = message.person_ids();
        let persons: Vec<PersonDigest> =
            ids.map(|(kind, id)| self.digests.person(kind, &id)).collect();
        let blocked = SignedDuration::from_hours(24 * i64::from(days));
        let since = self.clock.now().checked_sub(blocked).unwrap_or(Timestamp::UNIX_EPOCH);
        let Some(at) = self.queue.deleted_at(&self.name, &persons, since).await? else {
            return Ok(());
        };
        plan.deliveries.retain(is_deletion);
        if plan.deliveries.is_empty() {
            let detail = format!(
                "its person was erased at {at}, and erased_block_days keeps later messages from being sent for {days} days"
            );
            plan.unmatched = Some(Unmatched { reason: UnmatchedReason::Erased, detail });
        }
        Ok(())
    }

    fn plan(&self, destination: &Destination, job: &Job) -> Result<Plan, NewPlan> {
        self.plan_by(job, |message| destination.plan(message))
    }

    fn plan_by(&self, job: &Job, plan: impl FnOnce(&Message) -> Plan) -> Result<Plan, NewPlan> {
        let Some(message) = job.message() else {
            error!(
                destination = self.name,
                message_id = job.message_id,
                "a stored message cannot be read"
            );
            return Err(unreadable(self.clock.now()));
        };
        let mut plan = plan(&message);
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
}

/// A message and its neighbours, planned.
struct PlannedTurn {
    merge: NewMerge,
    /// Their ids, in the order of the plans.
    message_ids: Vec<String>,
    /// The guards that had something to do, one for each delivery and guard.
    guarded: Vec<Guard>,
}

fn guard_labels(destination: &str, guard: Guard) -> [(&'static str, String); 2] {
    [("destination", destination.to_owned()), ("guard", guard.as_str().to_owned())]
}

/// A delivery that ends without a request.
struct Failed {
    message_id: String,
    subscription: Option<String>,
    action: ActionKind,
    reason: FailureReason,
}

/// The deliveries of a merge that end without a request.
fn failed(merge: &NewMerge, message_ids: &[String]) -> Vec<Failed> {
    let mut failed = Vec::new();
    for ((_, plan), message_id) in merge.plans.iter().zip(message_ids) {
        failed.extend(plan.deliveries.iter().filter_map(|delivery| {
            Some(Failed {
                message_id: message_id.clone(),
                subscription: delivery.subscription.clone(),
                // Without an action, the message could not be read, which is logged where it is found.
                action: delivery.action?,
                reason: delivery.outcome.failure()?.reason,
            })
        }));
    }
    failed
}

/// The deliveries of a merge that need no request.
fn not_needed(merge: &NewMerge) -> Vec<(ActionKind, NotNeededReason)> {
    let deliveries = merge.plans.iter().flat_map(|(_, plan)| &plan.deliveries);
    let found = deliveries.filter_map(|delivery| match &delivery.outcome {
        NewOutcome::NotNeeded(why) => Some((delivery.action?, why.reason)),
        NewOutcome::Request(_) | NewOutcome::Failed(_) => None,
    });
    found.collect()
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
        planned: None,
        outcome: NewOutcome::Failed(failure),
    };
    NewPlan { now, deliveries: vec![delivery], unmatched: None }
}
