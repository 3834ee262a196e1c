//! Writes the plans of a message and of the neighbours planned with it: their deliveries, and their requests exactly as
//! every attempt must send them.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::deliveries::{CarriedBy, GONE, insert_delivery};
use super::error::Fault;
use super::group::{Effects, Step};
use super::lease::{Fenced, is_in_force};
use super::log::frozen;
use super::restored::Restorations;
use super::rows::to_ms;
use super::{contacts, new_contacts};
use crate::action::{Unmatched, UnmatchedReason};
use crate::queue::{
    Frozen, Lease, NewMerge, NewOutcome, NewPlan, NewRequest, RequestId, Seq, Stage,
};
use crate::store::tally::{Counted, Tallies};

/// ?1 seq, ?2 destination.
pub(super) const PLAN_STATE: &str =
    "SELECT state, is_planned FROM messages WHERE seq = ?1 AND destination = ?2";
/// ?1 destination, ?2 path, ?3 body, ?4 idempotency key, ?5 now, ?6 state, ?7 is merged, ?8 merged into, ?9 expires at,
/// ?10 since when Loops may have received it.
pub(super) const INSERT_REQUEST: &str = "
    INSERT INTO requests (destination, path, body, idempotency_key, created_at, state, is_merged,
                          merged_into, expires_at, first_attempt_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
/// ?1 request id, ?2 now. Records the start of the first attempt at an event.
pub(super) const BEGIN: &str = "
    UPDATE requests SET first_attempt_at = ?2
    WHERE id = ?1 AND idempotency_key IS NOT NULL AND first_attempt_at IS NULL";
/// ?1 seq. Returns a row if a delivery from before a replay still stands.
pub(super) const STANDS: &str =
    "SELECT 1 FROM deliveries WHERE seq = ?1 AND is_superseded = 0 LIMIT 1";
/// ?1 seq, ?2 unmatched, ?3 its detail, ?4 state, ?5 done at. A delivery of an earlier replay that failed and
/// still stands makes the message failed, like those of this plan.
pub(super) const PLANNED: &str = "
    UPDATE messages SET is_planned = 1, unmatched = ?2, unmatched_detail = ?3, state = ?4, done_at = ?5,
        is_failed = ?4 = 1 AND EXISTS (
            SELECT 1 FROM deliveries d
            WHERE d.seq = messages.seq AND d.state = 'failed' AND d.is_superseded = 0)
    WHERE seq = ?1 AND state = 0 AND is_planned = 0
    RETURNING source, is_failed, ?4 = 1 AND EXISTS (
        SELECT 1 FROM deliveries d
        WHERE d.seq = messages.seq AND d.state = 'shadowed' AND d.is_superseded = 0)";

pub(super) struct Freeze {
    pub(super) lease: Lease,
    pub(super) merge: NewMerge,
    pub(super) restorations: Arc<Restorations>,
}

impl Step for Freeze {
    type Output = Result<Frozen, Fenced>;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease)? {
            return Ok(Err(Fenced));
        }
        let mut plan_state = transaction.prepare_cached(PLAN_STATE)?;
        for (index, (seq, _)) in self.merge.plans.iter().enumerate() {
            let found = plan_state
                .query_row(params![seq.0, self.lease.destination], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            match found {
                Some((0_i64, false)) => {}
                // The message was planned before, and the plan on disk counts.
                Some(_) if index == 0 => {
                    let requests = frozen(transaction, *seq)?;
                    return Ok(Ok(Frozen { requests, unmatched: None, hold: None }));
                }
                Some(_) => {
                    return Err(Fault::Broken("a neighbour of the message was planned before"));
                }
                None if index == 0 => return Err(Fault::Broken("the message is gone")),
                None => return Err(Fault::Broken("a neighbour of the message is gone")),
            }
        }
        if let (Some(cap), Some((seq, plan))) = (&self.merge.cap, self.merge.plans.first()) {
            let (destination, tallies) = (&self.lease.destination, &effects.tallies);
            let (first, is_merge) = ((*seq, plan.now), self.merge.plans.len() > 1);
            let hold =
                new_contacts::admit(transaction, destination, first, is_merge, cap, tallies)?;
            if let Some(hold) = hold {
                effects.has_written = !is_merge;
                let (requests, unmatched) = (Vec::new(), None);
                return Ok(Ok(Frozen { requests, unmatched, hold: Some(hold) }));
            }
        }
        let merged = self.insert_merged(transaction)?;
        if let Some((_, plan)) = self.merge.plans.first() {
            let NewMerge { claims, .. } = &self.merge;
            contacts::claim(transaction, &self.lease.destination, claims, plan.now)?;
        }
        let mut unmatched = None;
        for index in 0..self.merge.plans.len() {
            let ended = self.write(transaction, index, &merged, &mut effects.tallies)?;
            if index == 0 {
                unmatched = ended;
            }
        }
        effects.has_written = true;
        let mut requests = Vec::new();
        if let Some((seq, plan)) = self.merge.plans.first() {
            requests = frozen(transaction, *seq)?;
            if let Some(next) = requests.first().filter(|_| !self.merge.is_shadow) {
                let mut begin = transaction.prepare_cached(BEGIN)?;
                begin.execute(params![next.id.0, to_ms(plan.now)])?;
            }
        }
        Ok(Ok(Frozen { requests, unmatched, hold: None }))
    }
}

/// Maps a delivery, by the index of its plan and its own index, to its merged request.
type MergedIds = HashMap<(usize, usize), RequestId>;

impl Freeze {
    fn insert_merged(&self, transaction: &Connection) -> Result<MergedIds, Fault> {
        let mut ids = MergedIds::new();
        let now = self.merge.plans.first().map_or(0, |(_, plan)| to_ms(plan.now));
        for merged in &self.merge.merged {
            let since = merged.carries.iter().find_map(|indices| self.event_since(*indices));
            let kind = RequestKind { state: "pending", is_merged: true, merged_into: None, since };
            let id = self.insert_request(transaction, &merged.request, now, kind)?;
            ids.extend(merged.carries.iter().map(|indices| (*indices, id)));
        }
        Ok(ids)
    }

    /// Writes the plan at this index; returns why its message ended as unmatched, if it did.
    fn write(
        &self,
        transaction: &Connection,
        index: usize,
        merged: &MergedIds,
        tallies: &mut Tallies,
    ) -> Result<Option<UnmatchedReason>, Fault> {
        let (seq, plan) = &self.merge.plans[index];
        let now = to_ms(plan.now);
        for (position, delivery) in plan.deliveries.iter().enumerate() {
            let into = merged.get(&(index, position)).copied();
            let state = if into.is_some() { "part" } else { "pending" };
            let own = match &delivery.outcome {
                NewOutcome::Request(request) => {
                    let since = self.event_since((index, position));
                    let kind = RequestKind { state, is_merged: false, merged_into: into, since };
                    Some(self.insert_request(transaction, request, now, kind)?)
                }
                NewOutcome::NotNeeded(_) | NewOutcome::Failed(_) => None,
            };
            let position = i64::try_from(position).unwrap_or(i64::MAX);
            let carried = CarriedBy { request: into.or(own), part: into.and(own) };
            insert_delivery(transaction, *seq, position, delivery, now, carried)?;
        }
        let is_done = plan.deliveries.iter().all(|delivery| delivery.outcome.ended().is_some());
        let unmatched = match plan.deliveries.is_empty() {
            true if !stands(transaction, *seq)? => Some(unmatched(plan)),
            _ => None,
        };
        let planned = transaction
            .prepare_cached(PLANNED)?
            .query_row(
                params![
                    seq.0,
                    unmatched.as_ref().map(|unmatched| unmatched.reason.as_str()),
                    unmatched.as_ref().map(|unmatched| unmatched.detail.as_str()),
                    is_done,
                    is_done.then_some(now),
                ],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()?;
        let (source, is_failed, is_shadowed): (String, bool, bool) = planned.ok_or(GONE)?;
        if index == 0 {
            tallies.add_economy(&self.merge, &self.lease.destination, &source);
        }
        let counted = |stage| Counted::new(stage, &self.lease.destination, &source);
        for delivery in &plan.deliveries {
            tallies.add_delivery(plan.now, delivery, &self.lease.destination, &source);
        }
        if is_done {
            let ended = match &unmatched {
                Some(unmatched) => {
                    let reason = unmatched.reason.as_str().to_owned();
                    Counted { reason, ..counted(Stage::Unmatched) }
                }
                None => counted(Stage::of_end(is_failed, is_shadowed)),
            };
            tallies.add(plan.now, ended, 1);
        }
        Ok(unmatched.map(|unmatched| unmatched.reason))
    }

    /// Returns since when Loops may have received the event of a delivery, given by the index of its plan and its own
    /// index; `None` if it is not an event, or is new.
    fn event_since(&self, (plan, delivery): (usize, usize)) -> Option<i64> {
        let (seq, plan) = self.merge.plans.get(plan)?;
        match &plan.deliveries.get(delivery)?.outcome {
            NewOutcome::Request(request) if request.idempotency_key.is_some() => {
                self.restorations.since(seq.0)
            }
            NewOutcome::Request(_) | NewOutcome::NotNeeded(_) | NewOutcome::Failed(_) => None,
        }
    }

    fn insert_request(
        &self,
        transaction: &Connection,
        request: &NewRequest,
        now: i64,
        kind: RequestKind,
    ) -> Result<RequestId, Fault> {
        transaction.prepare_cached(INSERT_REQUEST)?.execute(params![
            self.lease.destination,
            request.endpoint.path(),
            &request.body[..],
            request.idempotency_key,
            now,
            kind.state,
            kind.is_merged,
            kind.merged_into.map(|id| id.0),
            request.expires_at.map(to_ms),
            kind.since,
        ])?;
        Ok(RequestId(transaction.last_insert_rowid()))
    }
}

/// How a request relates to others. A request in the state `part` waits in case the merged one is refused.
struct RequestKind {
    state: &'static str,
    is_merged: bool,
    merged_into: Option<RequestId>,
    /// Since when Loops may have received it, if it is an event of a restored message.
    since: Option<i64>,
}

fn stands(transaction: &Connection, seq: Seq) -> Result<bool, Fault> {
    Ok(transaction.prepare_cached(STANDS)?.exists([seq.0])?)
}

/// A message without deliveries must never look delivered, so it always has a reason.
fn unmatched(plan: &NewPlan) -> Unmatched {
    plan.unmatched.clone().unwrap_or_else(|| Unmatched {
        reason: UnmatchedReason::NoSubscription,
        detail: "no subscription took it".to_owned(),
    })
}
