//! The contents of messages: their payloads, and the parts of them that responses and failures repeat.

use std::collections::HashMap;

use bytes::Bytes;

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params};
use super::records;
use super::rows::get;
use crate::queue::{CarriedPart, Contents, RequestId, Seq};
use crate::telemetry::TraceContext;

/// $1 seqs. The requests that carry or carried their deliveries.
const REQUESTS: &str = "
    SELECT DISTINCT request_id FROM @deliveries WHERE seq = ANY($1) AND request_id IS NOT NULL";
/// $1 ids. Returns the ended requests, and the merged ones of which they were parts: the response to a merged request
/// that was taken apart belongs to each of its parts. A request whose other messages wait is pending, and stays.
const ENDED: &str = "
    SELECT CASE WHEN state <> 'pending' THEN id END, merged_into FROM @requests WHERE id = ANY($1)";
/// $1 ids. A response from Loops may repeat the contents of the request.
const DROP_EXCERPTS: &str =
    "UPDATE @attempts SET excerpt = '' WHERE request_id = ANY($1) AND excerpt <> ''";
/// $1 seqs. So may the detail that is derived from it.
const DROP_DETAILS: &str =
    "UPDATE @deliveries SET detail = NULL WHERE seq = ANY($1) AND detail IS NOT NULL";
/// $1 seqs.
const DROP_PAYLOADS: [&str; 2] =
    ["DELETE FROM @payloads WHERE seq = ANY($1)", "DELETE FROM @payloads_kept WHERE seq = ANY($1)"];

/// $1 seqs. Some payloads may be in both tables: a payload that outlives its day is copied before the day is removed.
pub(super) const READ: &str = "
    SELECT seq, payload FROM @payloads WHERE seq = ANY($1)
    UNION ALL
    SELECT seq, payload FROM @payloads_kept WHERE seq = ANY($1)";

/// $1 seqs. Some may be in both tables.
pub(super) const TRACES: &str = "
    SELECT seq, trace FROM @payloads WHERE seq = ANY($1)
    UNION ALL
    SELECT seq, trace FROM @payloads_kept WHERE seq = ANY($1)";

/// $1 seqs, $2 id of their request.
pub(super) const SUBSCRIPTIONS: &str = "
    SELECT DISTINCT subscription COLLATE \"C\" FROM @deliveries
    WHERE seq = ANY($1) AND request_id = $2 ORDER BY 1";

/// $1 seqs, $2 id of their request.
pub(super) const PARTS: &str = "
    SELECT subscription, part_id FROM @deliveries WHERE seq = ANY($1) AND request_id = $2";

/// Returns the contents of messages, in the order of `seqs`.
pub(super) async fn read(connection: &Connection, seqs: &[Seq]) -> Result<Vec<Contents>, Fault> {
    let mut payloads: HashMap<i64, Bytes> = HashMap::new();
    let asked = Array(seqs.iter().map(|seq| seq.0).collect());
    for row in connection.query(READ, params![asked]).await? {
        payloads.insert(get(&row, 0)?, Bytes::copy_from_slice(get(&row, 1)?));
    }
    let of = |seq: &Seq| {
        let payload = payloads.get(&seq.0)?.clone();
        Some(Contents { seq: *seq, payload })
    };
    Ok(seqs.iter().filter_map(of).collect())
}

/// Returns the traces of the messages that a request carries.
pub(super) async fn traces(
    connection: &Connection,
    request: RequestId,
) -> Result<Vec<Option<TraceContext>>, Fault> {
    let mut contents = records::request_contents(connection, &[request]).await?;
    let Some(contents) = contents.pop() else { return Ok(Vec::new()) };
    let mut traces: HashMap<i64, TraceContext> = HashMap::new();
    let asked = Array(contents.seqs.iter().map(|seq| seq.0).collect());
    for row in connection.query(TRACES, params![asked]).await? {
        let trace = get::<Option<&[u8]>>(&row, 1)?.and_then(TraceContext::from_bytes);
        if let Some(trace) = trace {
            traces.insert(get(&row, 0)?, trace);
        }
    }
    Ok(contents.seqs.iter().map(|seq| traces.get(&seq.0).copied()).collect())
}

/// Returns the subscriptions whose deliveries a request carries.
pub(super) async fn subscriptions(
    connection: &Connection,
    request: RequestId,
) -> Result<Vec<String>, Fault> {
    let mut contents = records::request_contents(connection, &[request]).await?;
    let Some(contents) = contents.pop() else { return Ok(Vec::new()) };
    let seqs = Array(contents.seqs.iter().map(|seq| seq.0).collect());
    let found = connection.query(SUBSCRIPTIONS, params![seqs, request.0]).await?;
    found.iter().map(|row| get(row, 0)).collect()
}

/// The deliveries that a request carries, each with its part of it.
pub(super) async fn parts(
    connection: &Connection,
    request: RequestId,
) -> Result<Vec<CarriedPart>, Fault> {
    let mut contents = records::request_contents(connection, &[request]).await?;
    let Some(contents) = contents.pop() else { return Ok(Vec::new()) };
    let seqs = Array(contents.seqs.iter().map(|seq| seq.0).collect());
    let mut carried: Vec<(String, Option<RequestId>)> = Vec::new();
    for row in connection.query(PARTS, params![seqs, request.0]).await? {
        carried.push((get(&row, 0)?, get::<Option<i64>>(&row, 1)?.map(RequestId)));
    }
    let ids: Vec<RequestId> = carried.iter().filter_map(|(_, part)| *part).collect();
    let mut bodies: HashMap<RequestId, Bytes> = HashMap::new();
    for part in records::request_contents(connection, &ids).await? {
        bodies.extend(part.body.map(|body| (part.id, body)));
    }
    let of = |(subscription, part): (String, Option<RequestId>)| CarriedPart {
        subscription,
        body: part.and_then(|part| bodies.get(&part).cloned()),
    };
    Ok(carried.into_iter().map(of).collect())
}

/// Removes the contents of messages that are done; returns how many rows changed. The bodies of their requests were
/// removed when the requests ended.
pub(super) async fn drop_all(transaction: &Connection, seqs: &Array<i64>) -> Result<u64, Fault> {
    let mut rows = strip(transaction, seqs).await?;
    for text in DROP_PAYLOADS {
        rows += transaction.execute(text, params![*seqs]).await?;
    }
    Ok(rows)
}

/// Removes everything but the payloads.
pub(super) async fn strip(transaction: &Connection, seqs: &Array<i64>) -> Result<u64, Fault> {
    if seqs.0.is_empty() {
        return Ok(0);
    }
    let found = transaction.query(REQUESTS, params![*seqs]).await?;
    let ids: Array<i64> = found.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    let mut rows = transaction.execute(DROP_DETAILS, params![*seqs]).await?;
    if ids.0.is_empty() {
        return Ok(rows);
    }
    let mut ended = Array(Vec::new());
    for row in transaction.query(ENDED, params![ids]).await? {
        ended.0.extend(get::<Option<i64>>(&row, 0)?);
        ended.0.extend(get::<Option<i64>>(&row, 1)?);
    }
    if !ended.0.is_empty() {
        rows += transaction.execute(DROP_EXCERPTS, params![ended]).await?;
    }
    Ok(rows)
}
