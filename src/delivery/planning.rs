//! Planning of a turn: turns a message, and the neighbours behind it that can be merged without loss, into the requests
//! that are frozen on disk.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use tracing::{debug, error, info, warn};

use super::assembly::{Assembly, JudgedPlan};
use super::consent::{Consent, is_opt_in};
use super::knowledge::{Bodies, Knowledge};
use super::room::Preparing;
use super::sought::Sought;
use super::stepper::Stepper;
use super::union::object;
use super::wishes::Trust;
use crate::action::{ActionKind, Unmatched, UnmatchedReason};
use crate::crash;
use crate::destination::{
    ConsentGuard, ContactProperty, Destination, Guard, NewContactsPolicy, Plan, PlannedDelivery,
    SkipUnchanged, Stale,
};
use crate::large::LARGE_BYTES;
use crate::queue::{
    ContactCap, Creation, Failure, FailureReason, FrozenRequest, Head, Hold, Job, KnownContact,
    Lease, NewDelivery, NewMerge, NewOutcome, NewPlan, NotNeededReason, Seq, Unavailable,
    WorkError,
};
use crate::segment::{LaneKey, Message, PersonDigest};
use crate::telemetry;

/// The messages that a step plans and freezes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freezing<'a> {
    pub(super) head: &'a Head,
    pub(super) job: &'a Job,
    /// The messages behind it that may be merged with it.
    pub(super) neighbours: &'a [Seq],
    /// Whether the destination is in shadow mode, so that the step sends nothing.
    pub(super) is_shadow: bool,
}

impl Stepper {
    /// Plans a message and writes its requests to disk, merged with its neighbours where possible. `preparing` is
    /// dropped once the message is planned.
    pub(super) async fn freeze(
        &self,
        lease: &Lease,
        freezing: Freezing<'_>,
        preparing: Option<Preparing>,
    ) -> Result<Prepared, WorkError> {
        let message_id = &freezing.job.message_id;
        let planned = self.plan_turn(freezing).await?;
        drop(preparing);
        let PlannedTurn { merge: planned, message_ids, guarded, replayed } = match planned {
            Ok(planned) => planned,
            Err(not_planned) => return Ok(not_planned),
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
        match frozen.hold {
            // It may be a neighbour that there is no room for.
            Some(_) if !is_alone => {
                let preparing = Some(self.room.prepare().await);
                let alone = Freezing { neighbours: &[], ..freezing };
                return Box::pin(self.freeze(lease, alone, preparing)).await;
            }
            Some(Hold { is_before_deletion: true, .. }) => {
                return self.end_before_deletion(lease, freezing.head, freezing.job).await;
            }
            Some(Hold { is_new, .. }) => {
                if is_new {
                    let guard = guard_labels(&self.name, Guard::NewContactCap);
                    counter!(telemetry::GUARDED, &guard).increment(1);
                    info!(destination = self.name, message_id, "held: too many new contacts today");
                }
                return Ok(Prepared::Held);
            }
            None => {}
        }
        self.count_replayed(replayed);
        // A neighbour is merged only if it has a request, so only the first message can be unmatched.
        if let Some(reason) = frozen.unmatched {
            self.count_unmatched(message_id, reason);
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
        Ok(Prepared::Requests(frozen.requests))
    }

    /// Ends a message that would have to be held, but is followed by a deletion of its person.
    async fn end_before_deletion(
        &self,
        lease: &Lease,
        head: &Head,
        job: &Job,
    ) -> Result<Prepared, WorkError> {
        let detail = "it would create a contact beyond new_contacts_per_day, and a later message deletes the person";
        let unmatched =
            Unmatched { reason: UnmatchedReason::UnknownContact, detail: detail.to_owned() };
        let now = self.clock.now();
        let plan = NewPlan { now, deliveries: Vec::new(), unmatched: Some(unmatched) };
        let plans = vec![(head.seq, plan)];
        let merge =
            NewMerge { plans, merged: Vec::new(), claims: Vec::new(), is_shadow: false, cap: None };
        let frozen = self.queue.freeze(lease, merge).await?;
        self.count_replayed(u64::from(job.replay.number > 0));
        if let Some(reason) = frozen.unmatched {
            self.count_unmatched(&job.message_id, reason);
        }
        Ok(Prepared::Requests(frozen.requests))
    }

    fn count_unmatched(&self, message_id: &str, reason: UnmatchedReason) {
        let reason = reason.as_str();
        let labels = [("destination", self.name.clone()), ("reason", reason.to_owned())];
        counter!(telemetry::UNMATCHED, &labels).increment(1);
        info!(destination = self.name, message_id, reason, "unmatched");
    }

    /// Counts replayed messages that were planned.
    fn count_replayed(&self, messages: u64) {
        if messages > 0 {
            counter!(telemetry::REPLAYED, "destination" => self.name.clone()).increment(messages);
        }
    }

    /// Registers the counters of guards, replays and new contacts, so that they are shown before there is anything to
    /// count.
    pub(super) fn register_counters(&self) {
        for guard in Guard::ALL {
            counter!(telemetry::GUARDED, &guard_labels(&self.name, guard)).increment(0);
        }
        for name in [telemetry::REPLAYED, telemetry::REVIVED, telemetry::NEW_CONTACTS] {
            counter!(name, "destination" => self.name.clone()).increment(0);
        }
    }

    /// Plans a message, together with the neighbours behind it that can be merged without loss. The inner error says
    /// what the message must wait for.
    async fn plan_turn(
        &self,
        freezing: Freezing<'_>,
    ) -> Result<Result<PlannedTurn, Prepared>, Unavailable> {
        let Freezing { head, job, neighbours, is_shadow } = freezing;
        let mut message_ids = vec![job.message_id.clone()];
        // A snapshot, so that a reload need not wait for the planning, and all messages of a turn are planned with the
        // same subscriptions.
        let destination = Arc::clone(&self.destination.borrow());
        let plan = self.room.turns.decode(job.payload.len(), || self.plan(&destination, job)).await;
        let Some(plan) = self.trusted(&destination, job, plan, is_shadow) else {
            return Ok(Err(Prepared::NotYet));
        };
        if let Ok(plan) = &plan
            && !is_shadow
            && let Some(sought) = self.sought(&destination, plan).await?
        {
            return Ok(Err(Prepared::Sought(sought)));
        }
        let first = job.happened_at(plan.as_ref().ok().and_then(|plan| plan.happened_at));
        let mut knowledge = self.knowledge(&destination, head.lane, is_shadow);
        let judged = self.judge(&destination, &mut knowledge, plan, job).await?;
        let mut assembly = Assembly::new(head.seq, judged, job);
        let mut bytes = job.payload.len();
        for seq in neighbours {
            if !assembly.is_open() {
                break;
            }
            // A neighbour that was planned before is frozen: nothing may be merged into it or moved ahead of it. A
            // neighbour that cannot be opened waits for its own turn.
            let opened = self.queue.open(*seq).await.ok().flatten();
            let Some(job) = opened.filter(|job| !job.is_planned) else { break };
            // All plans of a turn are in memory at once, so their total size is limited.
            bytes += job.payload.len();
            if bytes > LARGE_BYTES {
                break;
            }
            let plan = self.plan(&destination, &job);
            let Some(plan) = self.trusted(&destination, &job, plan, is_shadow) else { break };
            if let Ok(plan) = &plan
                && !is_shadow
                && self.sought(&destination, plan).await?.is_some()
            {
                break;
            }
            // What is learned from a request gets a single time, that of its first message.
            let teaches = |plan: &Plan| {
                destination.contact_options().stale == Stale::Skip || subscribes_somebody(plan)
            };
            if plan
                .as_ref()
                .is_ok_and(|plan| job.happened_at(plan.happened_at) < first && teaches(plan))
            {
                break;
            }
            let judged = self.judge(&destination, &mut knowledge, plan, &job).await?;
            if !assembly.take(*seq, judged, &job) {
                break;
            }
            message_ids.push(job.message_id);
        }
        let (guarded, replayed) = (assembly.guarded(), assembly.replayed());
        let claims = knowledge.into_claims();
        let mut merge = NewMerge { claims, is_shadow, ..assembly.into_merge(&*self.clock) };
        merge.cap = self.cap(&destination, &merge);
        if merge.plans.len() > 1 {
            debug!(
                destination = self.name,
                message_id = job.message_id,
                messages = merge.plans.len(),
                "merged with its neighbours"
            );
        }
        Ok(Ok(PlannedTurn { merge, message_ids, guarded, replayed }))
    }

    /// Returns the knowledge of contacts, of which none has been read yet.
    fn knowledge<'a>(
        &'a self,
        destination: &'a Destination,
        lane: LaneKey,
        is_shadow: bool,
    ) -> Knowledge<'a> {
        let facts = self.facts(destination);
        let mut options = destination.contact_options().clone();
        if is_shadow {
            // Nothing is left out because Loops is thought to have it: that value may only have been shadowed, or
            // others may have changed it. Shadowed requests must be complete, so that a replay leaves the right values
            // at Loops.
            options.skip_unchanged = SkipUnchanged::Off;
            options.stale = Stale::Send;
        }
        Knowledge::new(facts, options, lane, self.clock.now())
    }

    /// Returns how many contacts a merge may create; `None` if it creates none, or any number may be created.
    fn cap(&self, destination: &Destination, merge: &NewMerge) -> Option<ContactCap> {
        let per_day = destination.contact_options().new_contacts_per_day;
        // In shadow mode, no contact is created.
        if per_day == 0 || merge.is_shadow {
            return None;
        }
        let facts = self.facts(destination);
        let deliveries = merge
            .plans
            .iter()
            .flat_map(|(seq, plan)| plan.deliveries.iter().map(move |delivery| (*seq, delivery)));
        let creations: Vec<Creation> = deliveries
            .filter_map(|(seq, delivery)| {
                let request = delivery.outcome.request()?;
                let contact = facts.facts(request.endpoint, &request.body)?.creation()?;
                Some(Creation { seq, contact })
            })
            .collect();
        (!creations.is_empty()).then_some(ContactCap { per_day, creations })
    }

    /// Reads what is known of the contacts of a plan, and judges its deliveries.
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
        self.block_unknown(destination, &mut plan).await?;
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

    /// Returns the plan of a message once the catalogue that it depends on can be trusted; `None` if the message must
    /// be planned again later. In shadow mode, no property is created at Loops; a missing property counts as existing.
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

    /// Drops all deliveries except deletions for people who were erased less than `erased_block_days` ago.
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
                "the person was erased at {at}, and erased_block_days blocks later messages for {days} days"
            );
            plan.unmatched = Some(Unmatched { reason: UnmatchedReason::Erased, detail });
        }
        Ok(())
    }

    /// Where no contact may be created, drops all deliveries except deletions for people that Loops is not known to
    /// have.
    async fn block_unknown(
        &self,
        destination: &Destination,
        plan: &mut Plan,
    ) -> Result<(), Unavailable> {
        if destination.contact_options().new_contacts == NewContactsPolicy::Create {
            return Ok(());
        }
        let facts = self.facts(destination);
        let requests = plan.deliveries.iter().filter_map(|one| one.outcome.as_ref().ok());
        let created: Vec<KnownContact> =
            requests.filter_map(|one| facts.facts(one.endpoint, &one.body)?.creation()).collect();
        if created.is_empty() || self.queue.unknown_contacts(&self.name, &created).await?.is_empty()
        {
            return Ok(());
        }
        plan.deliveries.retain(|delivery| delivery.action == ActionKind::DeleteContact);
        if plan.deliveries.is_empty() {
            let detail = "Loops is not known to have the contact, and new_contacts = \"known_only\" does not create it: load an export of the audience (segment-loops known FILE), or wait until Loops reports the contact, and replay the message";
            let reason = UnmatchedReason::UnknownContact;
            plan.unmatched = Some(Unmatched { reason, detail: detail.to_owned() });
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
                    true => "the person was deleted at Loops after the message was accepted",
                    false => "none of the subscriptions it was replayed for takes it now",
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

/// The result of planning.
pub(super) enum Prepared {
    /// The requests of the message, which are on disk; empty if it has ended.
    Requests(Vec<FrozenRequest>),
    /// The message must wait for the catalogue.
    NotYet,
    /// The message is held.
    Held,
    /// Loops must be asked about this contact first.
    Sought(Sought),
}

/// A message and its neighbours, planned.
struct PlannedTurn {
    merge: NewMerge,
    /// The message ids, in the order of the plans.
    message_ids: Vec<String>,
    /// The guards that intervened, one entry for each delivery and guard.
    guarded: Vec<Guard>,
    /// How many of the messages are replayed.
    replayed: u64,
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

/// Returns the deliveries of a merge that end without a request.
fn failed(merge: &NewMerge, message_ids: &[String]) -> Vec<Failed> {
    let mut failed = Vec::new();
    for ((_, plan), message_id) in merge.plans.iter().zip(message_ids) {
        failed.extend(plan.deliveries.iter().filter_map(|delivery| {
            Some(Failed {
                message_id: message_id.clone(),
                subscription: delivery.subscription.clone(),
                // A delivery without an action means an unreadable message, which was logged where it was found.
                action: delivery.action?,
                reason: delivery.outcome.failure()?.reason,
            })
        }));
    }
    failed
}

/// Returns the deliveries of a merge that need no request.
fn not_needed(merge: &NewMerge) -> Vec<(ActionKind, NotNeededReason)> {
    let deliveries = merge.plans.iter().flat_map(|(_, plan)| &plan.deliveries);
    let found = deliveries.filter_map(|delivery| match &delivery.outcome {
        NewOutcome::NotNeeded(why) => Some((delivery.action?, why.reason)),
        NewOutcome::Request(_) | NewOutcome::Failed(_) => None,
    });
    found.collect()
}

/// Returns whether a request of a plan subscribes its contact, to all mails or to a list.
fn subscribes_somebody(plan: &Plan) -> bool {
    let mut requests = plan.deliveries.iter().filter_map(|delivery| delivery.outcome.as_ref().ok());
    requests
        .any(|request| object(&request.body).is_some_and(|body| is_opt_in(request.endpoint, &body)))
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
