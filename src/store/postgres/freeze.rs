//! Writes the plans of a message and of the neighbours planned with it: their deliveries, and their requests exactly as
//! every attempt must send them.

use std::collections::HashMap;

use async_trait::async_trait;

use super::connection::Connection;
use super::deliveries::{CarriedBy, DeliveryRow, DeliveryRows, GONE, NO_LONGER_PENDING, Outcomes};
use super::error::Fault;
use super::frozen::frozen;
use super::lease::{Fenced, is_in_force, now};
use super::options::Time;
use super::params::{Array, params};
use super::rows::{get, to_ms};
use super::steps::{Effects, Step};
use super::{contacts, new_contacts, numbers};
use crate::action::{Unmatched, UnmatchedReason};
use crate::queue::{DeliveryState, Frozen, Lease, NewMerge, NewPlan, NewRequest, Stage};
use crate::store::tally::Counted;

/// $1 seqs, $2 destination. Locks the messages, so that no other transaction ends or replays them meanwhile.
const PLAN_STATE: &str = "
    SELECT seq, is_planned, source FROM @pending WHERE seq = ANY($1) AND destination = $2
    ORDER BY seq FOR UPDATE";
/// $1 seqs, $2 destination.
const ENDED: &str = "SELECT seq FROM @messages WHERE seq = ANY($1) AND destination = $2";
/// $1 seqs. Returns how many times they were replayed.
const REPLAYS: &str = "SELECT seq, number FROM @replays WHERE seq = ANY($1)";
/// $1 how many, $2 now or NULL: the time of the database. Request numbers are unique as long as fewer than eight
/// million are given per second.
const NEXT_IDS: &str = concat!(
    "SELECT nextval('@request_numbers') & 8388607, ",
    now!("$2"),
    " FROM generate_series(1, $1)"
);
/// $1 ids, $2 destination, $3 paths, $4 bodies, $5 idempotency keys, $6 now, $7 states, $8 are merged, $9 merged into,
/// $10 expire at, $11 and $12 their messages and parts, each as the text of an array.
const INSERT_REQUESTS: &str = "
    INSERT INTO @requests (id, destination, path, body, idempotency_key, created_at, state, is_merged, merged_into,
                           expires_at, seqs, parts)
    SELECT u.id, $2, u.path, u.body, u.idempotency_key, $6, u.state, u.is_merged, u.merged_into, u.expires_at,
           u.seqs::bigint[], u.parts::bigint[]
    FROM unnest($1, $3, $4, $5, $7, $8, $9, $10, $11, $12)
        u (id, path, body, idempotency_key, state, is_merged, merged_into, expires_at, seqs, parts)";
/// $1 request id, $2 now. Records the start of the first attempt at an event.
const BEGIN: &str =
    "UPDATE @requests SET first_attempt_at = $2 WHERE id = $1 AND idempotency_key IS NOT NULL";
/// $1 seq. Returns how many deliveries from before a replay still stand, and whether one of them failed.
const STANDING: &str = "
    SELECT COUNT(*) > 0, COALESCE(bool_or(state = 'failed'), false), COALESCE(bool_or(state = 'shadowed'), false)
    FROM @deliveries WHERE seq = $1 AND NOT is_superseded";
/// $1 seqs. The messages are no longer held.
const PLANNED: &str = "
    WITH planned AS (DELETE FROM @held WHERE seq = ANY($1))
    UPDATE @pending SET is_planned = true, next_attempt_at = NULL WHERE seq = ANY($1)";

pub(super) struct Freeze {
    pub(super) lease: Lease,
    pub(super) merge: NewMerge,
}

/// A pending message of the merge without a plan.
struct Unplanned {
    source: String,
    replay: i32,
}

#[async_trait]
impl Step for Freeze {
    type Output = Result<Frozen, Fenced>;

    async fn run(
        &self,
        transaction: &Connection,
        effects: &mut Effects,
    ) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease).await? {
            return Ok(Err(Fenced));
        }
        let first = self.merge.plans.first().map(|(seq, _)| *seq).unwrap_or_default();
        let Some(unplanned) = self.unplanned(transaction).await? else {
            // The message was planned before, and the plan on disk counts.
            let requests = frozen(transaction, first).await?;
            return Ok(Ok(Frozen { requests, unmatched: None, hold: None }));
        };
        if let (Some(cap), Some((seq, plan))) = (&self.merge.cap, self.merge.plans.first()) {
            let (destination, tallies) = (&self.lease.destination, &effects.tallies);
            let (first, is_merge) = ((*seq, plan.now), self.merge.plans.len() > 1);
            let hold = new_contacts::admit(transaction, destination, first, is_merge, cap, tallies)
                .await?;
            if hold.is_some() {
                return Ok(Ok(Frozen { requests: Vec::new(), unmatched: None, hold }));
            }
        }
        let rows = self.rows(transaction, &unplanned, effects).await?;
        rows.requests.insert(transaction, &self.lease.destination).await?;
        rows.deliveries.insert(transaction).await?;
        if let Some((_, plan)) = self.merge.plans.first() {
            let NewMerge { claims, .. } = &self.merge;
            contacts::claim(transaction, &self.lease.destination, claims, plan.now).await?;
        }
        let ends = self.ends(transaction, &unplanned).await?;
        self.write_states(transaction, &ends).await?;
        self.count(&unplanned, &ends, effects);
        let unmatched =
            ends.first().and_then(Option::as_ref).and_then(|end| end.unmatched.as_ref());
        let unmatched = unmatched.map(|unmatched| unmatched.reason);
        let requests = if ends.first().is_some_and(Option::is_some) {
            Vec::new()
        } else {
            frozen(transaction, first).await?
        };
        if let (Some(next), Some((_, plan))) = (requests.first(), self.merge.plans.first())
            && next.idempotency_key.is_some()
            && !self.merge.is_shadow
        {
            transaction.execute(BEGIN, params![next.id.0, to_ms(plan.now)]).await?;
        }
        Ok(Ok(Frozen { requests, unmatched, hold: None }))
    }
}

/// How a message ends when it is planned.
struct End {
    is_failed: bool,
    is_shadowed: bool,
    unmatched: Option<Unmatched>,
}

impl Freeze {
    /// Returns the state of each message; `None` if the first one was planned before.
    async fn unplanned(&self, transaction: &Connection) -> Result<Option<Vec<Unplanned>>, Fault> {
        let seqs: Array<i64> = self.merge.plans.iter().map(|(seq, _)| seq.0).collect();
        let params = params![seqs, self.lease.destination];
        let mut pending: HashMap<i64, (bool, String)> = HashMap::new();
        for row in transaction.query(PLAN_STATE, params).await? {
            pending.insert(get(&row, 0)?, (get(&row, 1)?, get(&row, 2)?));
        }
        let all_unplanned = seqs.0.iter().all(|seq| matches!(pending.get(seq), Some((false, _))));
        if !all_unplanned {
            let mut ended = Vec::new();
            for row in transaction.query(ENDED, params).await? {
                ended.push(get::<i64>(&row, 0)?);
            }
            for (index, seq) in seqs.0.iter().enumerate() {
                match pending.get(seq) {
                    Some((false, _)) => {}
                    None if !ended.contains(seq) && index == 0 => {
                        return Err(Fault::Broken("the message is gone"));
                    }
                    None if !ended.contains(seq) => {
                        return Err(Fault::Broken("a neighbour of the message is gone"));
                    }
                    _ if index == 0 => return Ok(None),
                    _ => {
                        return Err(Fault::Broken("a neighbour of the message was planned before"));
                    }
                }
            }
        }
        let mut replays: HashMap<i64, i32> = HashMap::new();
        for row in transaction.query(REPLAYS, params![seqs]).await? {
            replays.insert(get(&row, 0)?, get(&row, 1)?);
        }
        let unplanned = seqs.0.iter().map(|seq| {
            let (_, source) = pending.remove(seq).ok_or(GONE)?;
            Ok(Unplanned { source, replay: replays.get(seq).copied().unwrap_or(0) })
        });
        unplanned.collect::<Result<_, Fault>>().map(Some)
    }

    /// Returns the rows of requests and deliveries.
    async fn rows(
        &self,
        transaction: &Connection,
        unplanned: &[Unplanned],
        effects: &mut Effects,
    ) -> Result<Rows<'_>, Fault> {
        let own = self.merge.plans.iter().flat_map(|(_, plan)| &plan.deliveries);
        let own = own.filter(|delivery| delivery.outcome.request().is_some()).count();
        let now = self.merge.plans.first().map_or(0, |(_, plan)| to_ms(plan.now));
        let ids = next_ids(transaction, own + self.merge.merged.len(), now, effects).await?;
        let mut ids = ids.into_iter();
        let mut id = || ids.next().ok_or(Fault::Broken("numbers of requests are missing"));
        let mut rows = Rows::default();
        rows.requests.now = now;
        let mut merged_ids: HashMap<(usize, usize), usize> = HashMap::new();
        for merged in &self.merge.merged {
            let row = rows.requests.rows.len();
            let mut seqs: Vec<i64> = Vec::new();
            for (plan, position) in &merged.carries {
                merged_ids.insert((*plan, *position), row);
                let (seq, _) = self.merge.plans.get(*plan).ok_or(GONE)?;
                if !seqs.contains(&seq.0) {
                    seqs.push(seq.0);
                }
            }
            rows.requests.rows.push(RequestRow {
                id: id()?,
                request: &merged.request,
                state: DeliveryState::Pending.as_str(),
                seqs,
                parts: Some(Vec::new()),
                merged_into: None,
            });
        }
        for (index, ((seq, plan), unplanned)) in self.merge.plans.iter().zip(unplanned).enumerate()
        {
            for (position, delivery) in plan.deliveries.iter().enumerate() {
                let into = merged_ids.get(&(index, position)).copied();
                let mut carried = CarriedBy::default();
                if let Some(request) = delivery.outcome.request() {
                    let id = id()?;
                    let merged_into = match into {
                        Some(row) => {
                            let merged = &mut rows.requests.rows[row];
                            merged.parts.get_or_insert_default().push(id);
                            carried = CarriedBy { request: Some(merged.id), part: Some(id) };
                            Some(merged.id)
                        }
                        None => {
                            carried = CarriedBy { request: Some(id), part: None };
                            None
                        }
                    };
                    let state = if into.is_some() { "part" } else { "pending" };
                    rows.requests.rows.push(RequestRow {
                        id,
                        request,
                        state,
                        seqs: vec![seq.0],
                        parts: None,
                        merged_into,
                    });
                }
                rows.deliveries.rows.push(DeliveryRow {
                    seq: *seq,
                    replay: unplanned.replay,
                    position: i32::try_from(position).unwrap_or(i32::MAX),
                    delivery,
                    now: to_ms(plan.now),
                    carried,
                });
            }
        }
        Ok(rows)
    }

    /// Returns how each message ends, if it has no pending delivery.
    async fn ends(
        &self,
        transaction: &Connection,
        unplanned: &[Unplanned],
    ) -> Result<Vec<Option<End>>, Fault> {
        let mut ends = Vec::with_capacity(self.merge.plans.len());
        for ((seq, plan), unplanned) in self.merge.plans.iter().zip(unplanned) {
            if plan.deliveries.iter().any(|delivery| delivery.outcome.request().is_some()) {
                ends.push(None);
                continue;
            }
            // A delivery of an earlier replay that failed and still stands makes the message failed, like those of
            // this plan.
            let mut stands = !plan.deliveries.is_empty();
            let mut is_failed =
                plan.deliveries.iter().any(|delivery| delivery.outcome.failure().is_some());
            let mut is_shadowed = false;
            if unplanned.replay > 0 {
                let row = transaction.query_one(STANDING, params![seq.0]).await?;
                (stands, is_failed, is_shadowed) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
            }
            let unmatched = (plan.deliveries.is_empty() && !stands).then(|| unmatched(plan));
            ends.push(Some(End { is_failed, is_shadowed, unmatched }));
        }
        Ok(ends)
    }

    async fn write_states(
        &self,
        transaction: &Connection,
        ends: &[Option<End>],
    ) -> Result<(), Fault> {
        let mut planned = Array(Vec::new());
        let (mut done, mut outcomes) = (Array(Vec::new()), Outcomes::default());
        for ((seq, plan), end) in self.merge.plans.iter().zip(ends) {
            match end {
                None => planned.0.push(seq.0),
                Some(end) => {
                    done.0.push(seq.0);
                    outcomes.add(*seq, to_ms(plan.now), end.is_failed, end.unmatched.as_ref());
                }
            }
        }
        if !planned.0.is_empty()
            && transaction.execute(PLANNED, params![planned]).await? != planned.0.len() as u64
        {
            return Err(GONE);
        }
        if !done.0.is_empty() {
            if transaction.execute(NO_LONGER_PENDING, params![done]).await? != done.0.len() as u64 {
                return Err(GONE);
            }
            outcomes.insert(transaction).await?;
        }
        Ok(())
    }

    fn count(&self, unplanned: &[Unplanned], ends: &[Option<End>], effects: &mut Effects) {
        if let Some(first) = unplanned.first() {
            let destination = &self.lease.destination;
            effects.tallies.add_economy(&self.merge, destination, &first.source);
        }
        let plans = self.merge.plans.iter().zip(unplanned).zip(ends);
        for (((_, plan), Unplanned { source, .. }), end) in plans {
            let counted = |stage| Counted::new(stage, &self.lease.destination, source);
            for delivery in &plan.deliveries {
                let destination = &self.lease.destination;
                effects.tallies.add_delivery(plan.now, delivery, destination, source);
            }
            let Some(End { is_failed, is_shadowed, unmatched }) = end else { continue };
            let ended = match unmatched {
                Some(unmatched) => {
                    let reason = unmatched.reason.as_str().to_owned();
                    Counted { reason, ..counted(Stage::Unmatched) }
                }
                None => counted(Stage::of_end(*is_failed, *is_shadowed)),
            };
            effects.tallies.add(plan.now, ended, 1);
        }
    }
}

/// Returns numbers for this many requests.
async fn next_ids(
    transaction: &Connection,
    count: usize,
    now: i64,
    effects: &mut Effects,
) -> Result<Vec<i64>, Fault> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let now = (effects.time == Time::OfCallers).then_some(now);
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let mut ids = Vec::new();
    for row in transaction.query(NEXT_IDS, params![count, now]).await? {
        let id = numbers::first_at(get(&row, 1)?) | get::<i64>(&row, 0)?;
        effects.days.push(numbers::day(id));
        ids.push(id);
    }
    effects.days.sort_unstable();
    effects.days.dedup();
    Ok(ids)
}

/// The rows that a plan inserts.
#[derive(Default)]
struct Rows<'a> {
    requests: RequestRows<'a>,
    deliveries: DeliveryRows<'a>,
}

#[derive(Default)]
struct RequestRows<'a> {
    now: i64,
    rows: Vec<RequestRow<'a>>,
}

/// A request to insert. A request in the state `part` waits in case the merged one is refused.
struct RequestRow<'a> {
    id: i64,
    request: &'a NewRequest,
    state: &'static str,
    /// The messages that it carries.
    seqs: Vec<i64>,
    /// The parts, if it is a merged request.
    parts: Option<Vec<i64>>,
    merged_into: Option<i64>,
}

impl RequestRows<'_> {
    async fn insert(&self, transaction: &Connection, destination: &str) -> Result<(), Fault> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let array = |numbers: &[i64]| {
            let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
            format!("{{{}}}", numbers.join(","))
        };
        let id: Array<i64> = self.rows.iter().map(|row| row.id).collect();
        let path: Array<&str> = self.rows.iter().map(|row| row.request.endpoint.path()).collect();
        let body: Array<&[u8]> = self.rows.iter().map(|row| &row.request.body[..]).collect();
        let key: Array<Option<&str>> =
            self.rows.iter().map(|row| row.request.idempotency_key.as_deref()).collect();
        let state: Array<&str> = self.rows.iter().map(|row| row.state).collect();
        let is_merged: Array<bool> = self.rows.iter().map(|row| row.parts.is_some()).collect();
        let merged_into: Array<Option<i64>> = self.rows.iter().map(|row| row.merged_into).collect();
        let expires_at: Array<Option<i64>> =
            self.rows.iter().map(|row| row.request.expires_at.map(to_ms)).collect();
        let seqs: Array<String> = self.rows.iter().map(|row| array(&row.seqs)).collect();
        let parts: Array<Option<String>> =
            self.rows.iter().map(|row| row.parts.as_deref().map(array)).collect();
        let params = params![
            id,
            destination,
            path,
            body,
            key,
            self.now,
            state,
            is_merged,
            merged_into,
            expires_at,
            seqs,
            parts,
        ];
        transaction.execute(INSERT_REQUESTS, params).await?;
        Ok(())
    }
}

/// A message without deliveries must never look delivered, so it always has a reason.
pub(super) fn unmatched(plan: &NewPlan) -> Unmatched {
    plan.unmatched.clone().unwrap_or_else(|| Unmatched {
        reason: UnmatchedReason::NoSubscription,
        detail: "no subscription took it".to_owned(),
    })
}
