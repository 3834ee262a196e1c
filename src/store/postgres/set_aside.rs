//! Ends a message whose records are broken, so that it does not block its lane.

use async_trait::async_trait;

use super::connection::Connection;
use super::contacts;
use super::deliveries::{
    CarriedBy, DeliveryRow, DeliveryRows, FREE_POSITION, NO_LONGER_PENDING, Outcomes,
};
use super::error::Fault;
use super::lease::{Fenced, is_in_force};
use super::params::{Array, params, text};
use super::rows::{get, to_ms};
use super::settle::SETTLE_ERASURES;
use super::steps::{Effects, Step};
use crate::action::ActionKind;
use crate::queue::{BrokenMessage, Lease, NewDelivery, NewOutcome, Stage};
use crate::store::tally::Counted;

/// $1 seq, $2 destination.
const PENDING_SOURCE: &str =
    "SELECT source FROM @pending WHERE seq = $1 AND destination = $2 FOR UPDATE";
/// $1 seq.
const MESSAGE_ID: &str = "SELECT message_id FROM @messages WHERE seq = $1";
/// $1 seq. Runs before the message ends.
const CARRIED: &str = "
    SELECT DISTINCT request_id, part_id FROM @deliveries WHERE seq = $1 AND state = 'pending'";
/// $1 ids. Its parts of merged requests. The merged requests continue with their other deliveries.
const DELETE_PARTS: &str = "DELETE FROM @requests WHERE id = ANY($1) AND state = 'part'";
/// $1 seq, $2 ended at, $3 reason, $4 detail.
const FAIL_DELIVERIES: &str = "
    UPDATE @deliveries SET state = 'failed', ended_at = $2, reason = $3, detail = $4, part_id = NULL
    WHERE seq = $1 AND state = 'pending'
    RETURNING subscription";
/// $1 ids.
const SEQS: &str = "SELECT id, seqs FROM @requests WHERE id = ANY($1) AND state = 'pending'";
/// $1 request id, $2 its messages.
const STILL_CARRIES: &str = "
    SELECT FROM @deliveries WHERE seq = ANY($2) AND request_id = $1 AND state = 'pending' LIMIT 1";
/// $1 id.
const FAIL_REQUEST: &str =
    "UPDATE @requests SET state = 'failed', next_attempt_at = NULL, body = NULL WHERE id = $1";
/// $1 seq, $2 the deleting action.
const IS_DELETION: &str = "
    SELECT FROM @deliveries WHERE seq = $1 AND action = $2 AND state = 'delivered' LIMIT 1";

pub(super) struct SetAside {
    pub(super) lease: Lease,
    pub(super) broken: BrokenMessage,
}

/// Relies only on the row of the message itself, since its other records may be broken.
#[async_trait]
impl Step for SetAside {
    type Output = Result<Option<String>, Fenced>;

    async fn run(
        &self,
        transaction: &Connection,
        effects: &mut Effects,
    ) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease).await? {
            return Ok(Err(Fenced));
        }
        let BrokenMessage { seq, now, failure } = &self.broken;
        let destination = &self.lease.destination;
        let pending = transaction.query_opt(PENDING_SOURCE, params![seq.0, *destination]).await?;
        let Some(pending) = pending else { return Ok(Ok(None)) };
        let source: &str = get(&pending, 0)?;
        let message_id = transaction.query_opt(MESSAGE_ID, params![seq.0]).await?;
        let message_id =
            message_id.map(|row| get::<String>(&row, 0)).transpose()?.unwrap_or_default();
        let of_lane = params![*destination, seq.0];
        transaction.execute(contacts::FORGET_OF_LANE, of_lane).await?;
        let (mut requests, mut parts) = (Array(Vec::new()), Array(Vec::new()));
        for row in transaction.query(CARRIED, params![seq.0]).await? {
            requests.0.extend(get::<Option<i64>>(&row, 0)?);
            parts.0.extend(get::<Option<i64>>(&row, 1)?);
        }
        if !parts.0.is_empty() {
            transaction.execute(DELETE_PARTS, params![parts]).await?;
        }
        let (ended_at, reason, detail) =
            (to_ms(*now), failure.reason.as_str(), text(&failure.detail));
        let params = params![seq.0, ended_at, reason, detail];
        let mut failed: Vec<String> = Vec::new();
        for row in transaction.query(FAIL_DELIVERIES, params).await? {
            failed.push(get(&row, 0)?);
        }
        self.fail_requests(transaction, &requests).await?;
        if failed.is_empty() {
            let row = transaction.query_one(FREE_POSITION, params![seq.0]).await?;
            let delivery = NewDelivery {
                subscription: None,
                action: None,
                warnings: Vec::new(),
                planned: None,
                outcome: NewOutcome::Failed(failure.clone()),
            };
            let row = DeliveryRow {
                seq: *seq,
                replay: get(&row, 0)?,
                position: get(&row, 1)?,
                delivery: &delivery,
                now: to_ms(*now),
                carried: CarriedBy::default(),
            };
            DeliveryRows { rows: vec![row] }.insert(transaction).await?;
            failed.push(String::new());
        }
        transaction.execute(NO_LONGER_PENDING, params![Array(vec![seq.0])]).await?;
        let mut outcomes = Outcomes::default();
        outcomes.add(*seq, to_ms(*now), true, None);
        outcomes.insert(transaction).await?;
        let action = ActionKind::DeleteContact.as_str();
        if transaction.query_opt(IS_DELETION, params![seq.0, action]).await?.is_some() {
            transaction.execute(SETTLE_ERASURES, params![Array(vec![seq.0])]).await?;
        }
        for subscription in failed {
            let counted = Counted {
                subscription,
                reason: failure.reason.as_str().to_owned(),
                ..Counted::new(Stage::DeliveryFailed, destination, source)
            };
            effects.tallies.add(*now, counted, 1);
        }
        effects.tallies.add(*now, Counted::new(Stage::Failed, destination, source), 1);
        Ok(Ok(Some(message_id)))
    }
}

impl SetAside {
    /// Fails the requests that carry no other message.
    async fn fail_requests(
        &self,
        transaction: &Connection,
        requests: &Array<i64>,
    ) -> Result<(), Fault> {
        if requests.0.is_empty() {
            return Ok(());
        }
        for row in transaction.query(SEQS, params![*requests]).await? {
            let (id, seqs): (i64, Array<i64>) = (get(&row, 0)?, Array(get(&row, 1)?));
            if transaction.query_opt(STILL_CARRIES, params![id, seqs]).await?.is_none() {
                transaction.execute(FAIL_REQUEST, params![id]).await?;
            }
        }
        Ok(())
    }
}
