//! Conversions between rows and records. Times are Unix milliseconds.
//!
//! Words that this release does not know, because another one wrote them, are shown as unknown. They are an error only
//! where the program would have to act on them.

use bytes::Bytes;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::error::Fault;
use crate::action::Endpoint;
use crate::queue::{Class, FrozenRequest, Head, Job, Replay, RequestId, Seq};
use crate::segment::LaneKey;
use crate::store::contacts::day;

pub(super) use crate::store::values::{count, duration_ms, from_ms, request_state, to_json, to_ms};

/// Returns the value of a column.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Fault> {
    row.try_get(column).map_err(|_| Fault::Broken("a column holds a value of an unexpected type"))
}

/// Reads the stored warnings of a row of the given table.
pub(super) fn from_json(warnings: Option<&str>, table: &'static str) -> Result<Vec<String>, Fault> {
    let Some(json) = warnings else { return Ok(Vec::new()) };
    serde_json::from_str(json).map_err(|_| Fault::Unreadable { table, column: "warnings" })
}

/// Reads a row of `PENDING` or `HEADS` in `work`.
pub(super) fn head(row: &Row) -> Result<Head, Fault> {
    Ok(Head {
        seq: Seq(get(row, 0)?),
        lane: LaneKey(get(row, 1)?),
        class: Class::from_code(i64::from(get::<i16>(row, 2)?)),
        next_attempt_at: get::<Option<i64>>(row, 3)?.map(from_ms),
    })
}

/// Reads a row of `OPEN_MESSAGE` in `work`, without its requests and the subscriptions that are settled.
pub(super) fn job(row: &Row) -> Result<Job, Fault> {
    Ok(Job {
        source: get(row, 0)?,
        message_id: get(row, 1)?,
        received_at: from_ms(get(row, 2)?),
        payload: get::<Option<&[u8]>>(row, 3)?.map(Bytes::copy_from_slice).unwrap_or_default(),
        is_planned: get(row, 4)?,
        replay: Replay {
            number: count(i64::from(get::<i32>(row, 5)?)),
            only: get(row, 6)?,
            settled: Vec::new(),
            is_before_deletion: get(row, 7)?,
        },
        requests: Vec::new(),
        restored_from: None,
    })
}

/// Reads a row of `REQUESTS` in `work`. A request to an endpoint that this release does not know is an error: it
/// cannot be sent, since its effect is unknown.
pub(super) fn frozen_request(row: &Row) -> Result<FrozenRequest, Fault> {
    let unreadable = Fault::Unreadable { table: "requests", column: "path" };
    let body: Option<&[u8]> = get(row, 2)?;
    Ok(FrozenRequest {
        id: RequestId(get(row, 0)?),
        endpoint: Endpoint::from_path(get(row, 1)?).ok_or(unreadable)?,
        body: body.map(Bytes::copy_from_slice).unwrap_or_default(),
        idempotency_key: get(row, 3)?,
        attempts: count(i64::from(get::<i32>(row, 4)?)),
        first_attempt_at: get::<Option<i64>>(row, 5)?.map(from_ms),
        next_attempt_at: get::<Option<i64>>(row, 6)?.map(from_ms),
        is_merged: get(row, 7)?,
        expires_at: get::<Option<i64>>(row, 8)?.map(from_ms),
    })
}

/// Returns the stored day of a time.
pub(super) fn to_day(at: Timestamp) -> i32 {
    i32::try_from(day(to_ms(at))).unwrap_or(i32::MAX)
}
