//! Ends a message whose records are broken, so that it does not block its lane.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::contacts;
use super::deliveries::{CarriedBy, FREE_POSITION, SET_ASIDE_MESSAGE, insert_delivery};
use super::error::Fault;
use super::group::{Effects, Step};
use super::lease::{Fenced, is_in_force};
use super::rows::to_ms;
use crate::action::ActionKind;
use crate::queue::{BrokenMessage, Failure, Lease, NewDelivery, NewOutcome, Seq, Stage};
use crate::store::tally::Counted;

/// ?1 seq, ?2 destination.
pub(super) const PENDING_ID: &str =
    "SELECT message_id, source FROM messages WHERE seq = ?1 AND destination = ?2 AND state = 0";
/// ?1 seq. Its parts of merged requests. The merged requests continue with their other deliveries.
pub(super) const SET_ASIDE_PARTS: &str = "
    DELETE FROM requests
    WHERE state = 'part' AND id IN (SELECT part_id FROM deliveries WHERE seq = ?1)";
/// ?1 seq, ?2 ended at, ?3 reason, ?4 detail.
pub(super) const SET_ASIDE_DELIVERIES: &str = "
    UPDATE deliveries SET state = 'failed', ended_at = ?2, reason = ?3, detail = ?4, part_id = NULL
    WHERE seq = ?1 AND state = 'pending'
    RETURNING subscription";
/// ?1 seq. Its requests that carry no other message.
pub(super) const SET_ASIDE_REQUESTS: &str = "
    UPDATE requests SET state = 'failed', next_attempt_at = NULL
    WHERE id IN (SELECT request_id FROM deliveries WHERE seq = ?1) AND state = 'pending'
      AND NOT EXISTS (
        SELECT 1 FROM deliveries d WHERE d.request_id = requests.id AND d.state = 'pending')";
/// ?1 seq, ?2 the deleting action. A deletion that was delivered before the message was set aside.
pub(super) const SET_ASIDE_ERASURE: &str = "
    INSERT INTO erasures (seq)
    SELECT m.seq FROM messages m
    WHERE m.seq = ?1 AND m.kind = 'delete' AND EXISTS (
        SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.action = ?2 AND d.state = 'delivered')
    ON CONFLICT (seq) DO NOTHING";

pub(super) struct SetAside {
    pub(super) lease: Lease,
    pub(super) broken: BrokenMessage,
}

/// Relies only on the row of the message itself, since its other records may be broken.
impl Step for SetAside {
    type Output = Result<Option<String>, Fenced>;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease)? {
            return Ok(Err(Fenced));
        }
        let BrokenMessage { seq, now, failure } = &self.broken;
        let destination = &self.lease.destination;
        let pending = transaction
            .prepare_cached(PENDING_ID)?
            .query_row(params![seq.0, destination], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((message_id, source)): Option<(String, String)> = pending else {
            return Ok(Ok(None));
        };
        let ended = Ended { seq: *seq, destination, source: &source, now: *now, failure };
        end(transaction, &ended, effects)?;
        Ok(Ok(Some(message_id)))
    }
}

/// A pending message to be ended.
pub(super) struct Ended<'a> {
    pub(super) seq: Seq,
    pub(super) destination: &'a str,
    pub(super) source: &'a str,
    pub(super) now: Timestamp,
    pub(super) failure: &'a Failure,
}

/// Ends a pending message: its pending deliveries fail; without any, it gets a failed one.
pub(super) fn end(
    transaction: &Connection,
    ended: &Ended<'_>,
    effects: &mut Effects,
) -> Result<(), Fault> {
    let Ended { seq, destination, source, now, failure } = *ended;
    let of_lane = params![destination, seq.0];
    transaction.prepare_cached(contacts::FORGET_OF_LANE)?.execute(of_lane)?;
    transaction.prepare_cached(SET_ASIDE_PARTS)?.execute([seq.0])?;
    let mut failed: Vec<String> = transaction
        .prepare_cached(SET_ASIDE_DELIVERIES)?
        .query_map(params![seq.0, to_ms(now), failure.reason.as_str(), failure.detail], |row| {
            row.get(0)
        })?
        .collect::<Result<_, _>>()?;
    transaction.prepare_cached(SET_ASIDE_REQUESTS)?.execute([seq.0])?;
    if failed.is_empty() {
        let position =
            transaction.prepare_cached(FREE_POSITION)?.query_row([seq.0], |row| row.get(0))?;
        let delivery = NewDelivery {
            subscription: None,
            action: None,
            warnings: Vec::new(),
            planned: None,
            outcome: NewOutcome::Failed(failure.clone()),
        };
        let by = CarriedBy::default();
        insert_delivery(transaction, seq, position, &delivery, to_ms(now), by)?;
        failed.push(String::new());
    }
    transaction.prepare_cached(SET_ASIDE_MESSAGE)?.execute(params![seq.0, to_ms(now)])?;
    let action = ActionKind::DeleteContact.as_str();
    transaction.prepare_cached(SET_ASIDE_ERASURE)?.execute(params![seq.0, action])?;
    for subscription in failed {
        let counted = Counted {
            subscription,
            reason: failure.reason.as_str().to_owned(),
            ..Counted::new(Stage::DeliveryFailed, destination, source)
        };
        effects.tallies.add(now, counted, 1);
    }
    effects.tallies.add(now, Counted::new(Stage::Failed, destination, source), 1);
    effects.has_written = true;
    Ok(())
}
