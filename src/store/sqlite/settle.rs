//! Records an attempt, or that a request is given up, with the consequences for the request, its deliveries and its
//! messages.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::deliveries::GONE;
use super::error::Fault;
use super::group::{Effects, Step};
use super::lease::{Fenced, is_in_force};
use super::receipts;
use super::rows::{duration_ms, request_state, to_ms};
use super::{awaiting, contacts};
use crate::action::{ActionKind, Endpoint};
use crate::queue::{
    Attempt, Consequence, DeliveryState, Failure, Lease, RequestId, Settled, Settlement, Stage,
};
use crate::store::tally::{Counted, Tallies};

/// ?1 request id, ?2 destination.
pub(super) const REQUEST_STATE: &str =
    "SELECT state, path FROM requests WHERE id = ?1 AND destination = ?2";
/// ?1 request id, ?2 number.
pub(super) const ATTEMPT_KNOWN: &str =
    "SELECT id FROM attempts WHERE request_id = ?1 AND number = ?2";
/// ?1 request id, ?2 number, ?3 started at, ?4 duration, ?5 status, ?6 outcome, ?7 excerpt.
pub(super) const INSERT_ATTEMPT: &str = "
    INSERT INTO attempts (request_id, number, started_at, duration_ms, status, outcome, excerpt)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (request_id, number) DO NOTHING";
/// ?1 request id, ?2 state, ?3 how many attempts to add, ?4 started at, ?5 next attempt at, ?6 whether ?4 replaces the
/// recorded start of the first attempt. Otherwise the earlier of the two counts: if the clock was ahead at the first
/// attempt, the window would never end.
pub(super) const SETTLE_REQUEST: &str = "
    UPDATE requests SET state = ?2, attempts = attempts + ?3,
        first_attempt_at = CASE WHEN ?6 THEN ?4
            ELSE COALESCE(MIN(first_attempt_at, ?4), first_attempt_at, ?4) END,
        next_attempt_at = ?5
    WHERE id = ?1 AND state = 'pending'";
/// ?1 merged request. Each of its deliveries is carried by its own request from now on.
pub(super) const TAKE_APART_DELIVERIES: &str = "
    UPDATE deliveries SET request_id = part_id, part_id = NULL
    WHERE request_id = ?1 AND state = 'pending' AND part_id IS NOT NULL";
/// ?1 merged request. Its parts count as tried since the merged request was.
pub(super) const TAKE_APART_REQUESTS: &str = "
    UPDATE requests SET state = 'pending',
        first_attempt_at = (SELECT m.first_attempt_at FROM requests m WHERE m.id = ?1)
    WHERE merged_into = ?1 AND state = 'part'";
/// ?1 merged request that was taken apart. The part that is an event, unless its message was set aside; no two
/// events are merged.
pub(super) const PART_WITH_KEY: &str = "
    SELECT id FROM requests r WHERE merged_into = ?1 AND idempotency_key IS NOT NULL AND EXISTS (
        SELECT 1 FROM deliveries d WHERE d.request_id = r.id AND d.state = 'pending')";
/// ?1 merged request. Its parts have all of its contents.
pub(super) const DROP_MERGED_BODY: &str = "UPDATE requests SET body = NULL WHERE id = ?1";
/// ?1 merged request, which has ended as one.
pub(super) const FORGET_PARTS: &str = "
    UPDATE deliveries SET part_id = NULL WHERE request_id = ?1 AND part_id IS NOT NULL";
/// ?1 merged request, which has ended as one.
pub(super) const DELETE_PARTS: &str =
    "DELETE FROM requests WHERE merged_into = ?1 AND state = 'part'";
/// ?1 request id, ?2 state, ?3 ended at, ?4 reason, ?5 detail.
pub(super) const SETTLE_DELIVERIES: &str = "
    UPDATE deliveries SET state = ?2, ended_at = ?3, reason = ?4, detail = ?5
    WHERE request_id = ?1 AND state = 'pending'
    RETURNING (SELECT source FROM messages m WHERE m.seq = deliveries.seq), subscription";
/// ?1 request id, ?2 done at. Ends every message of the request that has no pending delivery left.
pub(super) const SETTLE_MESSAGES: &str = "
    UPDATE messages SET state = 1, done_at = ?2, is_failed = EXISTS (
        SELECT 1 FROM deliveries d
        WHERE d.seq = messages.seq AND d.state = 'failed' AND d.is_superseded = 0)
    WHERE seq IN (SELECT seq FROM deliveries WHERE request_id = ?1) AND state = 0 AND is_planned = 1
      AND NOT EXISTS (
        SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 'pending')
    RETURNING source, is_failed, EXISTS (
        SELECT 1 FROM deliveries d
        WHERE d.seq = messages.seq AND d.state = 'shadowed' AND d.is_superseded = 0)";
/// ?1 request id, ?2 the deleting action. For the deletions of this request, which was delivered.
pub(super) const SETTLE_DELETIONS: &str = "
    INSERT INTO deletions (seq, lane, destination, accepted)
    SELECT DISTINCT m.seq, m.lane, m.destination, COALESCE(p.first_seq, m.seq)
    FROM deliveries d JOIN messages m ON m.seq = d.seq LEFT JOIN replays p ON p.seq = m.seq
    WHERE d.request_id = ?1 AND d.action = ?2 AND d.state = 'delivered'
    ON CONFLICT (seq) DO NOTHING";
/// ?1 request id, ?2 the deleting action. For the deletions of this request that are done and were delivered.
pub(super) const SETTLE_ERASURES: &str = "
    INSERT INTO erasures (seq)
    SELECT DISTINCT d.seq FROM deliveries d JOIN messages m ON m.seq = d.seq
    WHERE d.request_id = ?1 AND m.kind = 'delete' AND m.state = 1 AND EXISTS (
        SELECT 1 FROM deliveries e WHERE e.seq = m.seq AND e.action = ?2 AND e.state = 'delivered')
    ON CONFLICT (seq) DO NOTHING";

pub(super) struct Settle {
    pub(super) lease: Lease,
    pub(super) settlement: Settlement,
}

impl Step for Settle {
    type Output = Result<Settled, Fenced>;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease)? {
            return Ok(Err(Fenced));
        }
        let found: Option<(String, String)> = transaction
            .prepare_cached(REQUEST_STATE)?
            .query_row(params![self.settlement.request.0, self.lease.destination], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let state = found.as_ref().map(|(state, _)| state.as_str());
        match state {
            Some(state) if state == DeliveryState::Pending.as_str() => {
                let settled = self.write(transaction, &mut effects.tallies)?;
                if found.is_some_and(|(_, path)| path == Endpoint::DeleteContact.path()) {
                    receipts::settle(transaction, &self.settlement)?;
                }
                effects.has_written = true;
                Ok(Ok(settled))
            }
            // A repeated call, because the first reply was lost: already settled.
            Some(state) if self.is_known(transaction, state)? => Ok(Ok(Settled::default())),
            Some(_) => Err(Fault::Broken("the request was already settled differently")),
            None => Err(Fault::Broken("the request is gone")),
        }
    }
}

impl Settle {
    /// Whether this settlement was written before and left the request in this state.
    fn is_known(&self, transaction: &Connection, state: &str) -> Result<bool, Fault> {
        let Some(attempt) = &self.settlement.attempt else {
            return Ok(state == request_state(&self.settlement.consequence));
        };
        let mut known = transaction.prepare_cached(ATTEMPT_KNOWN)?;
        Ok(known.exists(params![self.settlement.request.0, attempt.number])?)
    }

    fn write(&self, transaction: &Connection, tallies: &mut Tallies) -> Result<Settled, Fault> {
        let Settlement { request, attempt, consequence, now, contact, awaiting } = &self.settlement;
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
        let recorded = match attempt {
            Some(attempt) => record(transaction, *request, attempt)?,
            None => 0,
        };
        let settled = transaction.prepare_cached(SETTLE_REQUEST)?.execute(params![
            request.0,
            request_state(&self.settlement.consequence),
            recorded,
            started_at.map(to_ms),
            next_attempt_at,
            matches!(consequence, Consequence::Hold { .. }),
        ])?;
        if settled != 1 {
            return Err(GONE);
        }
        let mut settled = Settled::default();
        if let Some(change) = contact {
            let destination = &self.lease.destination;
            settled.is_new_contact = contacts::apply(transaction, destination, change, *now)?;
        }
        if settled.is_new_contact {
            tallies.add(*now, Counted::new(Stage::NewContact, &self.lease.destination, ""), 1);
        }
        if let Some(awaiting) = awaiting {
            awaiting::apply(transaction, &self.lease.destination, *request, *awaiting, *now)?;
        }
        match consequence {
            Consequence::Begin | Consequence::Retry(_) | Consequence::Hold { .. } => {}
            Consequence::TakenApart => self.take_apart(transaction)?,
            Consequence::EventDelivered => {
                self.end_event(transaction, Consequence::Delivered, tallies)?;
            }
            Consequence::EventFailed(failure) => {
                self.end_event(transaction, Consequence::Failed(failure.clone()), tallies)?;
            }
            Consequence::Delivered | Consequence::Shadowed => {
                self.end(transaction, None, tallies)?;
            }
            Consequence::Failed(failure) => self.end(transaction, Some(failure), tallies)?,
        }
        Ok(settled)
    }

    /// Each delivery of a merged request is carried by its own request from now on.
    fn take_apart(&self, transaction: &Connection) -> Result<(), Fault> {
        for text in [TAKE_APART_DELIVERIES, TAKE_APART_REQUESTS, DROP_MERGED_BODY] {
            // A request without parts must never end this way: nothing would carry its deliveries.
            if transaction.prepare_cached(text)?.execute([self.settlement.request.0])? == 0 {
                return Err(GONE);
            }
        }
        Ok(())
    }

    /// Takes a merged request apart, and ends the part that is an event.
    fn end_event(
        &self,
        transaction: &Connection,
        consequence: Consequence,
        tallies: &mut Tallies,
    ) -> Result<(), Fault> {
        self.take_apart(transaction)?;
        let Settlement { request, now, .. } = &self.settlement;
        let event: Option<i64> = transaction
            .prepare_cached(PART_WITH_KEY)?
            .query_row([request.0], |row| row.get(0))
            .optional()?;
        let Some(event) = event.map(RequestId) else { return Ok(()) };
        let settlement = Settlement {
            request: event,
            now: *now,
            attempt: None,
            consequence,
            contact: None,
            awaiting: None,
        };
        Settle { lease: self.lease.clone(), settlement }.write(transaction, tallies)?;
        Ok(())
    }

    /// Ends the deliveries of the request, and the messages that have no other.
    fn end(
        &self,
        transaction: &Connection,
        failure: Option<&Failure>,
        tallies: &mut Tallies,
    ) -> Result<(), Fault> {
        let request = self.settlement.request.0;
        self.end_deliveries(transaction, failure, tallies)?;
        for text in [FORGET_PARTS, DELETE_PARTS] {
            transaction.prepare_cached(text)?.execute([request])?;
        }
        self.end_messages(transaction, tallies)?;
        for text in [SETTLE_DELETIONS, SETTLE_ERASURES] {
            let action = ActionKind::DeleteContact.as_str();
            transaction.prepare_cached(text)?.execute(params![request, action])?;
        }
        Ok(())
    }

    fn end_deliveries(
        &self,
        transaction: &Connection,
        failure: Option<&Failure>,
        tallies: &mut Tallies,
    ) -> Result<(), Fault> {
        let Settlement { request, now, .. } = &self.settlement;
        let reason = failure.map(|failure| failure.reason.as_str());
        let detail = failure.map(|failure| failure.detail.as_str());
        let stage = match (failure, &self.settlement.consequence) {
            (Some(_), _) => Stage::DeliveryFailed,
            (None, Consequence::Shadowed) => Stage::DeliveryShadowed,
            (None, _) => Stage::DeliveryDelivered,
        };
        let mut statement = transaction.prepare_cached(SETTLE_DELIVERIES)?;
        let parameters = params![
            request.0,
            request_state(&self.settlement.consequence),
            to_ms(*now),
            reason,
            detail
        ];
        let mut ended = statement.query(parameters)?;
        let mut is_any = false;
        while let Some(row) = ended.next()? {
            let source: String = row.get(0)?;
            let counted = Counted {
                subscription: row.get(1)?,
                reason: reason.unwrap_or_default().to_owned(),
                ..Counted::new(stage, &self.lease.destination, &source)
            };
            tallies.add(*now, counted, 1);
            is_any = true;
        }
        if is_any { Ok(()) } else { Err(GONE) }
    }

    /// Ends the messages of the request, except those with another delivery that is pending.
    fn end_messages(&self, transaction: &Connection, tallies: &mut Tallies) -> Result<(), Fault> {
        let Settlement { request, now, .. } = &self.settlement;
        let mut statement = transaction.prepare_cached(SETTLE_MESSAGES)?;
        let mut done = statement.query(params![request.0, to_ms(*now)])?;
        while let Some(row) = done.next()? {
            let source: String = row.get(0)?;
            let stage = Stage::of_end(row.get(1)?, row.get(2)?);
            tallies.add(*now, Counted::new(stage, &self.lease.destination, &source), 1);
        }
        Ok(())
    }
}

/// Writes an attempt; returns 0 if it was written before, otherwise 1.
fn record(transaction: &Connection, request: RequestId, attempt: &Attempt) -> Result<i64, Fault> {
    let recorded = transaction.prepare_cached(INSERT_ATTEMPT)?.execute(params![
        request.0,
        attempt.number,
        to_ms(attempt.started_at),
        duration_ms(attempt.duration),
        attempt.status,
        attempt.outcome.as_str(),
        attempt.excerpt,
    ])?;
    Ok(i64::from(recorded > 0))
}
