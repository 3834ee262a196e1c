//! Writes deliveries, and the outcomes of messages.

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params, text};
use super::rows::to_json;
use crate::action::{ActionKind, Unmatched};
use crate::queue::{NewDelivery, Seq};

/// $1 seqs, $2 replays, $3 positions, $4 request ids, $5 states, $6 ended at, $7 subscriptions, $8 actions, $9 reasons,
/// $10 details, $11 warnings, $12 their parts of merged requests, $13 the digests of the planned requests.
pub(super) const INSERT_DELIVERIES: &str = "
    INSERT INTO @deliveries (seq, replay, position, request_id, state, ended_at, subscription, action, reason, detail,
                             warnings, part_id, planned)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
/// $1 seqs. The messages are no longer held, and no longer expected to create contacts.
pub(super) const NO_LONGER_PENDING: &str = "
    WITH ended AS (DELETE FROM @held WHERE seq = ANY($1)), created AS (DELETE FROM @creating WHERE seq = ANY($1))
    DELETE FROM @pending WHERE seq = ANY($1)";
/// $1 seqs, $2 done at, $3 are failed, $4 unmatched, $5 their details. The retention of payloads kept beyond their day
/// begins now. Must run after `NO_LONGER_PENDING`, so that it sees a payload copied meanwhile.
pub(super) const INSERT_OUTCOMES: &str = "
    WITH kept AS (
        UPDATE @payloads_kept k SET done_at = u.done_at, is_failed = u.is_failed
        FROM unnest($1, $2, $3) u (seq, done_at, is_failed) WHERE k.seq = u.seq)
    INSERT INTO @outcomes (seq, done_at, is_failed, unmatched, unmatched_detail)
    SELECT * FROM unnest($1, $2, $3, $4, $5)";

#[derive(Default)]
pub(super) struct DeliveryRows<'a> {
    pub(super) rows: Vec<DeliveryRow<'a>>,
}

/// A delivery to insert.
pub(super) struct DeliveryRow<'a> {
    pub(super) seq: Seq,
    pub(super) replay: i32,
    pub(super) position: i32,
    pub(super) delivery: &'a NewDelivery,
    pub(super) now: i64,
    pub(super) carried: CarriedBy,
}

/// The requests of a delivery.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CarriedBy {
    pub(super) request: Option<i64>,
    /// Its part of a merged request.
    pub(super) part: Option<i64>,
}

impl DeliveryRows<'_> {
    pub(super) async fn insert(&self, transaction: &Connection) -> Result<(), Fault> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let ended = || self.rows.iter().map(|row| row.delivery.outcome.ended());
        let seq: Array<i64> = self.rows.iter().map(|row| row.seq.0).collect();
        let replay: Array<i32> = self.rows.iter().map(|row| row.replay).collect();
        let position: Array<i32> = self.rows.iter().map(|row| row.position).collect();
        let request: Array<Option<i64>> = self.rows.iter().map(|row| row.carried.request).collect();
        let state: Array<&str> =
            self.rows.iter().map(|row| row.delivery.outcome.state().as_str()).collect();
        let ended_at: Array<Option<i64>> =
            ended().zip(&self.rows).map(|(ended, row)| ended.map(|_| row.now)).collect();
        let subscription: Array<&str> = self
            .rows
            .iter()
            .map(|row| row.delivery.subscription.as_deref().unwrap_or_default())
            .collect();
        let action: Array<&str> = self
            .rows
            .iter()
            .map(|row| row.delivery.action.map_or("", ActionKind::as_str))
            .collect();
        let reason: Array<Option<&str>> =
            ended().map(|ended| ended.map(|(reason, _)| reason)).collect();
        let detail: Array<Option<_>> =
            ended().map(|ended| ended.map(|(_, detail)| text(detail))).collect();
        let warnings: Array<Option<String>> =
            self.rows.iter().map(|row| to_json(&row.delivery.warnings)).collect();
        let part: Array<Option<i64>> = self.rows.iter().map(|row| row.carried.part).collect();
        let planned: Array<Option<i64>> =
            self.rows.iter().map(|row| row.delivery.planned.map(|digest| digest.0)).collect();
        let params = params![
            seq,
            replay,
            position,
            request,
            state,
            ended_at,
            subscription,
            action,
            reason,
            detail,
            warnings,
            part,
            planned,
        ];
        transaction.execute(INSERT_DELIVERIES, params).await?;
        Ok(())
    }
}

/// Outcomes to insert.
#[derive(Debug)]
pub(super) struct Outcomes {
    seq: Array<i64>,
    done_at: Array<i64>,
    is_failed: Array<bool>,
    unmatched: Array<Option<&'static str>>,
    detail: Array<Option<String>>,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            seq: Array(Vec::new()),
            done_at: Array(Vec::new()),
            is_failed: Array(Vec::new()),
            unmatched: Array(Vec::new()),
            detail: Array(Vec::new()),
        }
    }
}

impl Outcomes {
    pub(super) fn add(
        &mut self,
        seq: Seq,
        done_at: i64,
        is_failed: bool,
        unmatched: Option<&Unmatched>,
    ) {
        self.seq.0.push(seq.0);
        self.done_at.0.push(done_at);
        self.is_failed.0.push(is_failed);
        self.unmatched.0.push(unmatched.map(|unmatched| unmatched.reason.as_str()));
        self.detail.0.push(unmatched.map(|unmatched| text(&unmatched.detail).into_owned()));
    }

    pub(super) async fn insert(&self, transaction: &Connection) -> Result<(), Fault> {
        let Self { seq, done_at, is_failed, unmatched, detail } = self;
        let params = params![*seq, *done_at, *is_failed, *unmatched, *detail];
        transaction.execute(INSERT_OUTCOMES, params).await?;
        Ok(())
    }
}

/// A guarded write did not find a row that the same transaction had just read.
pub(super) const GONE: Fault = Fault::Broken("a row vanished within the transaction");
/// $1 seq. Returns the number of its latest replay, and the first position that no delivery of the message has.
pub(super) const FREE_POSITION: &str = "
    SELECT COALESCE((SELECT number FROM @replays WHERE seq = $1), 0),
           (SELECT COALESCE(MAX(position) + 1, 0) FROM @deliveries WHERE seq = $1)";
