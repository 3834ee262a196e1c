//! Writes deliveries, and ends messages that have no request.

use rusqlite::{Connection, params};

use super::error::Fault;
use super::rows::to_json;
use crate::action::ActionKind;
use crate::queue::{NewDelivery, RequestId, Seq};

/// ?1 seq, ?2 position, ?3 request id, ?4 state, ?5 ended at, ?6 subscription, ?7 action, ?8 reason,
/// ?9 detail, ?10 warnings, ?11 its part of a merged request, ?12 the digest of the planned request. It belongs to the latest replay of its message.
pub(super) const INSERT_DELIVERY: &str = "
    INSERT INTO deliveries (seq, position, request_id, state, ended_at, subscription, action,
                            reason, detail, warnings, part_id, planned, replay)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,
            COALESCE((SELECT number FROM replays WHERE seq = ?1), 0))";

/// The requests of a delivery.
#[derive(Default)]
pub(super) struct CarriedBy {
    pub(super) request: Option<RequestId>,
    /// Its part of a merged request.
    pub(super) part: Option<RequestId>,
}

pub(super) fn insert_delivery(
    transaction: &Connection,
    seq: Seq,
    position: i64,
    delivery: &NewDelivery,
    now: i64,
    by: CarriedBy,
) -> Result<(), Fault> {
    let ended = delivery.outcome.ended();
    transaction.prepare_cached(INSERT_DELIVERY)?.execute(params![
        seq.0,
        position,
        by.request.map(|id| id.0),
        delivery.outcome.state().as_str(),
        ended.map(|_| now),
        delivery.subscription.as_deref().unwrap_or_default(),
        delivery.action.map_or("", ActionKind::as_str),
        ended.map(|(reason, _)| reason),
        ended.map(|(_, detail)| detail),
        to_json(&delivery.warnings),
        by.part.map(|id| id.0),
        delivery.planned.map(|digest| digest.0),
    ])?;
    Ok(())
}

/// A guarded write did not find a row that the same transaction had just read.
pub(super) const GONE: Fault = Fault::Broken("a row vanished within the transaction");
/// ?1 seq. Returns the first position that no delivery of the message has.
pub(super) const FREE_POSITION: &str =
    "SELECT COALESCE(MAX(position) + 1, 0) FROM deliveries WHERE seq = ?1";
/// ?1 seq, ?2 done at.
pub(super) const SET_ASIDE_MESSAGE: &str = "
    UPDATE messages SET state = 1, is_planned = 1, is_failed = 1, done_at = ?2
    WHERE seq = ?1 AND state = 0";
