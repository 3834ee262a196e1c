//! Records an attempt, or that a request is given up, with the consequences for the request, its deliveries and its
//! messages.

use std::collections::HashMap;

use async_trait::async_trait;

use super::connection::Connection;
use super::deliveries::{GONE, NO_LONGER_PENDING, Outcomes};
use super::error::Fault;
use super::lease::{Fenced, is_in_force};
use super::params::{Array, params, text};
use super::rows::{duration_ms, get, request_state, to_ms};
use super::steps::{Effects, Step};
use super::{awaiting, contacts, receipts};
use crate::action::{ActionKind, Endpoint};
use crate::queue::{
    Attempt, Consequence, DeliveryState, Failure, Lease, RequestId, Seq, Settled, Settlement, Stage,
};
use crate::store::tally::Counted;

/// $1 request id, $2 destination. Locks the request, so a repeated settlement waits here.
const REQUEST_STATE: &str =
    "SELECT state, seqs, parts, path FROM @requests WHERE id = $1 AND destination = $2 FOR UPDATE";
/// $1 request id, $2 number.
const ATTEMPT_KNOWN: &str = "SELECT FROM @attempts WHERE request_id = $1 AND number = $2";
/// $1 request id, $2 number, $3 started at, $4 duration, $5 status, $6 outcome, $7 excerpt.
const INSERT_ATTEMPT: &str = "
    INSERT INTO @attempts (request_id, number, started_at, duration_ms, status, outcome, excerpt)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (request_id, number) DO NOTHING";
/// $1 request id, $2 state, $3 how many attempts to add, $4 started at, $5 next attempt at, $6 whether $4 replaces the
/// recorded start of the first attempt. Otherwise the earlier of the two counts: if the clock was ahead at the first
/// attempt, the window would never end.
const SETTLE_REQUEST: &str = "
    UPDATE @requests SET state = $2, attempts = attempts + $3,
        first_attempt_at = CASE WHEN $6 THEN $4 ELSE LEAST(first_attempt_at, $4) END, next_attempt_at = $5,
        body = CASE WHEN $2 = 'pending' THEN body END
    WHERE id = $1 AND state = 'pending'";
/// $1 merged request, $2 its messages. Each of its deliveries is carried by its own request from now on.
const TAKE_APART_DELIVERIES: &str = "
    UPDATE @deliveries SET request_id = part_id, part_id = NULL
    WHERE seq = ANY($2) AND request_id = $1 AND state = 'pending' AND part_id IS NOT NULL";
/// $1 merged request, $2 its parts. The parts count as tried since the merged request was.
const TAKE_APART_REQUESTS: &str = "
    UPDATE @requests SET state = 'pending',
        first_attempt_at = (SELECT m.first_attempt_at FROM @requests m WHERE m.id = $1)
    WHERE id = ANY($2) AND state = 'part'";
/// $1 merged request that was taken apart, $2 its parts, $3 its messages. The part that is an event, unless its message
/// was set aside; no two events are merged.
const PART_WITH_KEY: &str = "
    SELECT id FROM @requests r
    WHERE id = ANY($2) AND merged_into = $1 AND idempotency_key IS NOT NULL AND EXISTS (
        SELECT FROM @deliveries d WHERE d.seq = ANY($3) AND d.request_id = r.id AND d.state = 'pending')";
/// $1 merged request, which has ended as one, $2 its messages.
const FORGET_PARTS: &str = "
    UPDATE @deliveries SET part_id = NULL
    WHERE seq = ANY($2) AND request_id = $1 AND part_id IS NOT NULL";
/// $1 parts of a merged request that has ended as one.
const DELETE_PARTS: &str = "DELETE FROM @requests WHERE id = ANY($1) AND state = 'part'";
/// $1 request id, $2 its messages, $3 state, $4 ended at, $5 reason, $6 detail.
const SETTLE_DELIVERIES: &str = "
    UPDATE @deliveries SET state = $3, ended_at = $4, reason = $5, detail = $6
    WHERE seq = ANY($2) AND request_id = $1 AND state = 'pending'
    RETURNING seq, subscription";
/// $1 seqs. Returns the planned ones.
const OF_MESSAGES: &str =
    "SELECT seq, source FROM @pending WHERE seq = ANY($1) AND is_planned ORDER BY seq FOR UPDATE";
/// $1 seqs. Returns the states of all their deliveries that count or wait.
const STATES: &str = "
    SELECT seq, COALESCE(bool_or(state = 'pending'), false),
           COALESCE(bool_or(state = 'failed' AND NOT is_superseded), false),
           COALESCE(bool_or(state = 'delivered' AND action = $2), false),
           COALESCE(bool_or(state = 'shadowed' AND NOT is_superseded), false)
    FROM @deliveries WHERE seq = ANY($1) GROUP BY seq";
/// $1 seq, $2 the ids of its pending requests.
const RESCHEDULE: &str = "
    UPDATE @pending SET next_attempt_at = (
        SELECT MIN(r.next_attempt_at) FROM @requests r WHERE r.id = ANY($2) AND r.state = 'pending')
    WHERE seq = $1";
/// $1 seqs. The requests of their pending deliveries.
const PENDING_REQUESTS: &str = "
    SELECT DISTINCT seq, request_id FROM @deliveries
    WHERE seq = ANY($1) AND state = 'pending' AND request_id IS NOT NULL";
/// $1 seqs of messages with a delivery that deleted their person.
const SETTLE_DELETIONS: &str = "
    INSERT INTO @deletions (seq, lane, destination, accepted)
    SELECT m.seq, m.lane, m.destination, COALESCE(p.first_seq, m.seq)
    FROM @messages m LEFT JOIN @replays p ON p.seq = m.seq
    WHERE m.seq = ANY($1) AND m.lane IS NOT NULL
    ON CONFLICT (seq) DO NOTHING";
/// $1 seqs of messages that are done and have such a delivery.
pub(super) const SETTLE_ERASURES: &str = "
    INSERT INTO @erasures (seq, lane, destination)
    SELECT seq, lane, destination FROM @messages
    WHERE seq = ANY($1) AND kind = 'delete' AND lane IS NOT NULL
    ON CONFLICT (seq) DO NOTHING";

pub(super) struct Settle {
    pub(super) lease: Lease,
    pub(super) settlement: Settlement,
}

/// A request with the messages that it carries.
struct Request {
    id: i64,
    seqs: Array<i64>,
    parts: Option<Array<i64>>,
}

#[async_trait]
impl Step for Settle {
    type Output = Result<Settled, Fenced>;

    async fn run(
        &self,
        transaction: &Connection,
        effects: &mut Effects,
    ) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease).await? {
            return Ok(Err(Fenced));
        }
        let id = self.settlement.request.0;
        let params = params![id, self.lease.destination];
        let Some(row) = transaction.query_opt(REQUEST_STATE, params).await? else {
            // A standby without the last commits has taken over. Pending messages must be read again; if the same
            // request results, it has the same key.
            return Ok(Err(Fenced));
        };
        let state: &str = get(&row, 0)?;
        if state == DeliveryState::Pending.as_str() {
            let parts = get::<Option<Vec<i64>>>(&row, 2)?.map(Array);
            let request = Request { id, seqs: Array(get(&row, 1)?), parts };
            let settled = self.write(transaction, &request, effects).await?;
            if get::<&str>(&row, 3)? == Endpoint::DeleteContact.path() {
                receipts::settle(transaction, &request.seqs, &self.settlement).await?;
            }
            return Ok(Ok(settled));
        }
        // A repeated call, because the first reply was lost: already settled.
        if self.is_known(transaction, state).await? {
            return Ok(Ok(Settled::default()));
        }
        Err(Fault::Broken("the request was already settled differently"))
    }
}

impl Settle {
    /// Whether this settlement was written before and left the request in this state.
    async fn is_known(&self, transaction: &Connection, state: &str) -> Result<bool, Fault> {
        let Some(attempt) = &self.settlement.attempt else {
            return Ok(state == request_state(&self.settlement.consequence));
        };
        let number = i32::try_from(attempt.number).unwrap_or(i32::MAX);
        let params = params![self.settlement.request.0, number];
        Ok(transaction.query_opt(ATTEMPT_KNOWN, params).await?.is_some())
    }

    async fn write(
        &self,
        transaction: &Connection,
        request: &Request,
        effects: &mut Effects,
    ) -> Result<Settled, Fault> {
        let Settlement { attempt, consequence, now, contact, awaiting, .. } = &self.settlement;
        let next_attempt_at = match consequence {
            Consequence::Retry(at) => Some(to_ms(*at)),
            _ => None,
        };
        let started_at = match consequence {
            Consequence::Begin => Some(*now),
            // While the destination is paused, the retry window of a request does not begin.
            Consequence::Hold { first_attempt_at } => *first_attempt_at,
            _ => attempt.as_ref().map(|attempt| attempt.started_at),
        };
        let started_at = started_at.map(to_ms);
        let is_held = matches!(consequence, Consequence::Hold { .. });
        let recorded = match attempt {
            Some(attempt) => record(transaction, self.settlement.request, attempt).await?,
            None => 0,
        };
        let state = request_state(&self.settlement.consequence);
        let params = params![request.id, state, recorded, started_at, next_attempt_at, is_held];
        if transaction.execute(SETTLE_REQUEST, params).await? != 1 {
            return Err(GONE);
        }
        let mut settled = Settled::default();
        if let Some(change) = contact {
            let destination = &self.lease.destination;
            settled.is_new_contact =
                contacts::apply(transaction, destination, change, *now).await?;
        }
        if settled.is_new_contact {
            let counted = Counted::new(Stage::NewContact, &self.lease.destination, "");
            effects.tallies.add(*now, counted, 1);
        }
        if let Some(awaiting) = awaiting {
            let of_request = (request.id, &request.seqs);
            awaiting::apply(transaction, &self.lease.destination, of_request, *awaiting, *now)
                .await?;
        }
        match consequence {
            Consequence::Begin | Consequence::Retry(_) | Consequence::Hold { .. } => {
                reschedule(transaction, request).await?;
            }
            Consequence::TakenApart => {
                self.take_apart(transaction, request).await?;
                reschedule(transaction, request).await?;
            }
            Consequence::EventDelivered => {
                self.end_event(transaction, request, Consequence::Delivered, effects).await?;
            }
            Consequence::EventFailed(failure) => {
                let failed = Consequence::Failed(failure.clone());
                self.end_event(transaction, request, failed, effects).await?;
            }
            Consequence::Delivered | Consequence::Shadowed => {
                self.end(transaction, request, None, effects).await?;
            }
            Consequence::Failed(failure) => {
                self.end(transaction, request, Some(failure), effects).await?;
            }
        }
        Ok(settled)
    }

    /// Each delivery of a merged request is carried by its own request from now on. Returns those requests.
    async fn take_apart<'a>(
        &self,
        transaction: &Connection,
        request: &'a Request,
    ) -> Result<&'a Array<i64>, Fault> {
        // A request without parts must never end this way: nothing would carry its deliveries.
        let parts = request.parts.as_ref().ok_or(GONE)?;
        let (id, seqs) = (request.id, &request.seqs);
        let moved = transaction.execute(TAKE_APART_DELIVERIES, params![id, *seqs]).await?;
        let freed = transaction.execute(TAKE_APART_REQUESTS, params![id, *parts]).await?;
        if moved == 0 || freed == 0 {
            return Err(GONE);
        }
        Ok(parts)
    }

    /// Takes a merged request apart, and ends the part that is an event.
    async fn end_event(
        &self,
        transaction: &Connection,
        request: &Request,
        consequence: Consequence,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let parts = self.take_apart(transaction, request).await?;
        let params = params![request.id, *parts, request.seqs];
        if let Some(row) = transaction.query_opt(PART_WITH_KEY, params).await? {
            let (id, now) = (get(&row, 0)?, self.settlement.now);
            let settlement = Settlement {
                request: RequestId(id),
                now,
                attempt: None,
                consequence,
                contact: None,
                awaiting: None,
            };
            let part = Request { id, seqs: Array(request.seqs.0.clone()), parts: None };
            let settle = Settle { lease: self.lease.clone(), settlement };
            Box::pin(settle.write(transaction, &part, effects)).await?;
        }
        reschedule(transaction, request).await
    }

    /// Ends the deliveries of the request, and the messages that have no other.
    async fn end(
        &self,
        transaction: &Connection,
        request: &Request,
        failure: Option<&Failure>,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let now = self.settlement.now;
        let reason = failure.map(|failure| failure.reason.as_str());
        let detail = failure.map(|failure| text(&failure.detail));
        let (id, seqs) = (request.id, &request.seqs);
        let (state, ended_at) = (request_state(&self.settlement.consequence), to_ms(now));
        let params = params![id, *seqs, state, ended_at, reason, detail];
        let ended = transaction.query(SETTLE_DELIVERIES, params).await?;
        if ended.is_empty() {
            return Err(GONE);
        }
        if let Some(parts) = &request.parts {
            transaction.execute(FORGET_PARTS, params![id, *seqs]).await?;
            transaction.execute(DELETE_PARTS, params![*parts]).await?;
        }
        let stage = match (failure, &self.settlement.consequence) {
            (Some(_), _) => Stage::DeliveryFailed,
            (None, Consequence::Shadowed) => Stage::DeliveryShadowed,
            (None, _) => Stage::DeliveryDelivered,
        };
        let mut of_request: Vec<(i64, &str)> = Vec::new();
        for row in &ended {
            of_request.push((get(row, 0)?, get(row, 1)?));
        }
        let mut seqs: Vec<i64> = of_request.iter().map(|(seq, _)| *seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        let seqs = Array(seqs);
        let sources = sources(transaction, &seqs).await?;
        for (seq, subscription) in of_request {
            let source = sources.get(&seq).ok_or(GONE)?;
            let counted = Counted {
                subscription: subscription.to_owned(),
                reason: reason.unwrap_or_default().to_owned(),
                ..Counted::new(stage, &self.lease.destination, source)
            };
            effects.tallies.add(now, counted, 1);
        }
        self.end_messages(transaction, &seqs, &sources, effects).await
    }

    /// Ends messages, except those with another delivery that is pending.
    async fn end_messages(
        &self,
        transaction: &Connection,
        seqs: &Array<i64>,
        sources: &HashMap<i64, String>,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let now = self.settlement.now;
        let action = ActionKind::DeleteContact.as_str();
        let (mut done, mut waiting) = (Array(Vec::new()), Array(Vec::new()));
        let (mut deleting, mut deleted) = (Array(Vec::new()), Array(Vec::new()));
        let mut outcomes = Outcomes::default();
        for row in transaction.query(STATES, params![*seqs, action]).await? {
            let seq: i64 = get(&row, 0)?;
            let (is_waiting, is_failed, is_deletion, is_shadowed): (bool, bool, bool, bool) =
                (get(&row, 1)?, get(&row, 2)?, get(&row, 3)?, get(&row, 4)?);
            if is_deletion {
                deleting.0.push(seq);
            }
            if is_waiting {
                waiting.0.push(seq);
                continue;
            }
            done.0.push(seq);
            if is_deletion {
                deleted.0.push(seq);
            }
            outcomes.add(Seq(seq), to_ms(now), is_failed, None);
            let stage = Stage::of_end(is_failed, is_shadowed);
            let source = sources.get(&seq).ok_or(GONE)?;
            effects.tallies.add(now, Counted::new(stage, &self.lease.destination, source), 1);
        }
        if !done.0.is_empty() {
            if transaction.execute(NO_LONGER_PENDING, params![done]).await? != done.0.len() as u64 {
                return Err(GONE);
            }
            outcomes.insert(transaction).await?;
        }
        if !deleting.0.is_empty() {
            transaction.execute(SETTLE_DELETIONS, params![deleting]).await?;
        }
        if !deleted.0.is_empty() {
            transaction.execute(SETTLE_ERASURES, params![deleted]).await?;
        }
        reschedule_seqs(transaction, &waiting).await
    }
}

/// Returns the sources of pending messages.
async fn sources(
    transaction: &Connection,
    seqs: &Array<i64>,
) -> Result<HashMap<i64, String>, Fault> {
    let mut sources = HashMap::new();
    for row in transaction.query(OF_MESSAGES, params![*seqs]).await? {
        sources.insert(get(&row, 0)?, get(&row, 1)?);
    }
    Ok(sources)
}

/// Records when the next attempt at the messages of a request is due.
async fn reschedule(transaction: &Connection, request: &Request) -> Result<(), Fault> {
    reschedule_seqs(transaction, &request.seqs).await
}

async fn reschedule_seqs(transaction: &Connection, seqs: &Array<i64>) -> Result<(), Fault> {
    if seqs.0.is_empty() {
        return Ok(());
    }
    let mut requests: HashMap<i64, Vec<i64>> = HashMap::new();
    for row in transaction.query(PENDING_REQUESTS, params![*seqs]).await? {
        requests.entry(get(&row, 0)?).or_default().push(get(&row, 1)?);
    }
    for (seq, ids) in requests {
        transaction.execute(RESCHEDULE, params![seq, Array(ids)]).await?;
    }
    Ok(())
}

/// Writes an attempt; returns 0 if it was written before, otherwise 1.
async fn record(
    transaction: &Connection,
    request: RequestId,
    attempt: &Attempt,
) -> Result<i32, Fault> {
    let number = i32::try_from(attempt.number).unwrap_or(i32::MAX);
    let status = attempt.status.map(|status| i16::try_from(status).unwrap_or(i16::MAX));
    let (started_at, duration) = (to_ms(attempt.started_at), duration_ms(attempt.duration));
    let (outcome, excerpt) = (attempt.outcome.as_str(), text(&attempt.excerpt));
    let params = params![request.0, number, started_at, duration, status, outcome, excerpt];
    let recorded = transaction.execute(INSERT_ATTEMPT, params).await?;
    Ok(i32::from(recorded > 0))
}
