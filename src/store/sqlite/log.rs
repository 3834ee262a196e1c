//! What the engine reads (pending messages, the job of one message, the depth), and the records of messages.

use std::collections::HashMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::Fault;
use super::new_contacts;
use super::recent::{Known, sorted_through};
use super::rows::{self, from_ms, json_list, message_columns};
use crate::queue::{
    Attempt, CARRIED_MAX, CarriedPart, Class, Contents, DeliveryRecord, Depth, FrozenRequest, Head,
    Job, LaneAsk, LanePart, LeaseHolder, MessageRecord, PendingAsk, RequestContents, RequestId,
    Seq,
};
use crate::segment::{LaneKey, MessageHash};
use crate::store::backlog::Size;
use crate::telemetry::TraceContext;

// `state = 0` is always a literal, never a parameter: only then does SQLite use the partial index.

/// ?1 destination, ?2 class, ?3 after, ?4 limit.
///
/// A message's next attempt is the earliest one of its tried requests. Requests of one message share a lane, so that
/// request holds back the ones behind it.
pub(super) const PENDING: &str = "
    SELECT m.seq, m.lane, m.class,
           CASE WHEN m.is_planned = 1 THEN (
               SELECT MIN(r.next_attempt_at) FROM deliveries d JOIN requests r ON r.id = d.request_id
               WHERE d.seq = m.seq AND r.state = 'pending'
           ) END
    FROM messages m
    WHERE m.destination = ?1 AND m.state = 0 AND m.class = ?2 AND m.seq > ?3
    ORDER BY m.seq LIMIT ?4";

/// ?1 destination.
pub(super) const LEASE_HOLDER: &str =
    "SELECT holder, taken_at, expires_at FROM leases WHERE destination = ?1 AND holder <> ''";

/// ?1 lane, ?2 after, ?3 limit, ?4 destination. A row for each sequence number of the lane; its class is NULL
/// unless the message is pending. Rows of `persons` may belong to other lanes: an address is also found there
/// for messages that have a user id.
pub(super) const OF_LANE: &str = concat!(
    "
    SELECT s.seq, m.class,
           CASE WHEN m.is_planned = 1 THEN (
               SELECT MIN(r.next_attempt_at) FROM deliveries d JOIN requests r ON r.id = d.request_id
               WHERE d.seq = m.seq AND r.state = 'pending'
           ) END
    FROM (SELECT * FROM (SELECT seq FROM persons WHERE person = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3)
          UNION
          SELECT * FROM (SELECT seq FROM messages
                         WHERE seq > MAX(?2, ",
    sorted_through!(),
    ")
                           AND lane = ?1
                         ORDER BY seq LIMIT ?3)
          ORDER BY seq LIMIT ?3) s
    LEFT JOIN messages m NOT INDEXED
        ON m.seq = s.seq AND m.lane = ?1 AND m.destination = ?4 AND m.state = 0
    ORDER BY s.seq"
);

/// ?1 seq.
pub(super) const OPEN_MESSAGE: &str = "
    SELECT m.source, m.message_id, m.received_at, c.payload, m.is_planned, COALESCE(p.number, 0),
           p.only_subscription,
           EXISTS (
               SELECT 1 FROM deletions e
               WHERE e.lane = m.lane AND e.destination = m.destination AND e.accepted >= p.first_seq),
           m.lane
    FROM messages m LEFT JOIN payloads c ON c.seq = m.seq LEFT JOIN replays p ON p.seq = m.seq
    WHERE m.seq = ?1 AND m.state = 0";

/// ?1 seq. Its pending requests in the order of the deliveries, each once.
pub(super) const OPEN_REQUESTS: &str = "
    SELECT r.id, r.path, r.body, r.idempotency_key, r.attempts, r.first_attempt_at,
           r.next_attempt_at, r.is_merged, r.expires_at
    FROM deliveries d JOIN requests r ON r.id = d.request_id
    WHERE d.seq = ?1 AND r.state = 'pending'
    GROUP BY r.id ORDER BY MIN(d.replay), MIN(d.position)";

/// ?1 seq. The subscriptions under which a replayed message has a delivery that stands.
pub(super) const OPEN_SETTLED: &str =
    "SELECT DISTINCT subscription FROM deliveries WHERE seq = ?1 AND is_superseded = 0";

/// Steps from one name in the index to the next instead of reading everything that is pending.
pub(super) const PENDING_DESTINATIONS: &str = "
    WITH RECURSIVE found (destination) AS (
        SELECT MIN(destination) FROM messages WHERE state = 0
        UNION ALL
        SELECT (SELECT MIN(destination) FROM messages WHERE state = 0 AND destination > found.destination)
        FROM found WHERE found.destination IS NOT NULL)
    SELECT destination FROM found WHERE destination IS NOT NULL";

/// ?1 destination.
pub(super) const DEPTH_COUNT: &str =
    "SELECT class, COUNT(*) FROM messages WHERE destination = ?1 AND state = 0 GROUP BY class";

/// ?1 destination, ?2 class. The oldest message of a class is the first in order. Held messages and those behind them
/// do not count: they wait for a person or another day, not for Loops.
pub(super) const DEPTH_OLDEST: &str = "
    SELECT received_at FROM messages m WHERE destination = ?1 AND state = 0 AND class = ?2 AND NOT EXISTS (
        SELECT 1 FROM held h WHERE h.lane = m.lane AND h.destination = ?1 AND h.seq <= m.seq)
    ORDER BY seq LIMIT 1";

/// Everything that is pending.
pub(super) const BACKLOG: &str =
    "SELECT COUNT(*), COALESCE(SUM(payload_bytes), 0) FROM messages WHERE state = 0";

/// ?1 message_hash, ?2 message_id, ?3 limit, ?4 list of the newest messages that may have this id, ?5 up to which one
/// they are known.
pub(super) const BY_MESSAGE_ID: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages m LEFT JOIN replays p ON p.seq = m.seq
        LEFT JOIN event_names n ON n.id = m.event_id
    WHERE m.seq IN (
            SELECT seq FROM message_ids WHERE message_hash = ?1
            UNION ALL
            SELECT value FROM json_each(?4)
            UNION ALL
            SELECT seq FROM messages WHERE seq > MAX(?5, ",
    sorted_through!(),
    ") AND message_hash = ?1)
      AND m.message_id = ?2
    ORDER BY m.seq DESC LIMIT ?3"
);

/// ?1 seq.
pub(super) const BY_SEQ: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages m LEFT JOIN replays p ON p.seq = m.seq
        LEFT JOIN event_names n ON n.id = m.event_id
    WHERE m.seq = ?1"
);

/// ?1 seq.
pub(super) const CONTENTS: &str = "SELECT payload FROM payloads WHERE seq = ?1";

/// ?1 seq.
pub(super) const TRACE: &str = "SELECT trace FROM payloads WHERE seq = ?1";

/// ?1 request id.
pub(super) const REQUEST_BODY: &str = "SELECT body FROM requests WHERE id = ?1";

/// ?1 request id, ?2 limit. The messages of its deliveries, some perhaps twice.
pub(super) const CARRIED: &str = "SELECT seq FROM deliveries WHERE request_id = ?1 LIMIT ?2";

/// ?1 request id.
pub(super) const SUBSCRIPTIONS: &str =
    "SELECT DISTINCT subscription FROM deliveries WHERE request_id = ?1 ORDER BY subscription";

/// ?1 request id, ?2 limit.
pub(super) const PARTS: &str = "
    SELECT d.subscription, p.body
    FROM deliveries d LEFT JOIN requests p ON p.id = d.part_id
    WHERE d.request_id = ?1 LIMIT ?2";

/// ?1 list of sequence numbers. The deliveries of each message in order.
pub(super) const DELIVERIES: &str = "
    SELECT d.seq, d.subscription, d.action, d.replay, d.is_superseded, d.state, d.reason, d.detail,
           d.warnings, d.request_id, r.path, r.idempotency_key, r.next_attempt_at, d.planned, a.until
    FROM json_each(?1) s CROSS JOIN deliveries d ON d.seq = s.value
        LEFT JOIN requests r ON r.id = d.request_id
        LEFT JOIN awaiting a ON a.seq = d.seq AND a.subscription = d.subscription
            AND d.state = 'failed' AND d.is_superseded = 0
    ORDER BY d.seq, d.replay, d.position";

/// ?1 list of request ids. The attempts at each request in order.
pub(super) const ATTEMPTS: &str = "
    SELECT a.request_id, a.number, a.started_at, a.duration_ms, a.status, a.outcome, a.excerpt
    FROM json_each(?1) r CROSS JOIN attempts a ON a.request_id = r.value
    ORDER BY a.request_id, a.number";

/// How many messages of one id are shown. There is one per source that sent it; more only if the id was sent again
/// after the duplicate window.
const SAME_ID_MAX: i64 = 100;

pub(super) fn pending(
    snapshot: &Connection,
    destination: &str,
    ask: [PendingAsk; Class::COUNT],
) -> Result<[Vec<Head>; Class::COUNT], Fault> {
    let mut statement = snapshot.prepare_cached(PENDING)?;
    let mut found: [Vec<Head>; Class::COUNT] = Default::default();
    for (class, PendingAsk { after, limit }) in Class::ALL.into_iter().zip(ask) {
        if limit > 0 {
            let ask = params![destination, class.code(), after.0, limit];
            found[class.index()] =
                statement.query_map(ask, rows::head)?.collect::<Result<_, _>>()?;
        }
    }
    Ok(found)
}

pub(super) fn lease_holder(
    snapshot: &Connection,
    destination: &str,
) -> Result<Option<LeaseHolder>, Fault> {
    let mut statement = snapshot.prepare_cached(LEASE_HOLDER)?;
    let found = statement.query_row([destination], |row| {
        let (since, until) = (from_ms(row.get(1)?), from_ms(row.get(2)?));
        Ok(LeaseHolder { holder: row.get(0)?, since, until })
    });
    Ok(found.optional()?)
}

pub(super) fn of_lane(
    snapshot: &Connection,
    destination: &str,
    ask: LaneAsk,
) -> Result<LanePart, Fault> {
    let LaneAsk { lane: LaneKey(lane), after, limit } = ask;
    let mut statement = snapshot.prepare_cached(OF_LANE)?;
    let mut found = statement.query(params![lane, after.0, limit, destination])?;
    let mut heads = Vec::new();
    let (mut examined, mut last) = (0, after);
    while let Some(row) = found.next()? {
        let seq = Seq(row.get(0)?);
        if let Some(class) = rows::number(row, 1)? {
            heads.push(Head {
                seq,
                lane: ask.lane,
                class: Class::from_code(class),
                next_attempt_at: rows::number(row, 2)?.map(from_ms),
            });
        }
        (examined, last) = (examined + 1, seq);
    }
    Ok(LanePart { heads, through: (examined >= limit).then_some(last) })
}

pub(super) fn open(snapshot: &Connection, seq: Seq) -> Result<Option<Job>, Fault> {
    let mut statement = snapshot.prepare_cached(OPEN_MESSAGE)?;
    let Some(mut job) = statement.query_row([seq.0], rows::job).optional()? else {
        return Ok(None);
    };
    job.requests = frozen(snapshot, seq)?;
    if job.replay.number > 0 && !job.is_planned {
        let mut statement = snapshot.prepare_cached(OPEN_SETTLED)?;
        let settled = statement.query_map([seq.0], |row| row.get(0))?;
        job.replay.settled = settled.collect::<Result<_, _>>()?;
    }
    Ok(Some(job))
}

/// Returns the pending requests of a message, in order.
pub(super) fn frozen(connection: &Connection, seq: Seq) -> Result<Vec<FrozenRequest>, Fault> {
    let mut statement = connection.prepare_cached(OPEN_REQUESTS)?;
    statement.query_and_then([seq.0], rows::frozen_request)?.collect()
}

pub(super) fn destinations(snapshot: &Connection) -> Result<Vec<String>, Fault> {
    let mut statement = snapshot.prepare_cached(PENDING_DESTINATIONS)?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

pub(super) fn depth(snapshot: &Connection, destination: &str) -> Result<Depth, Fault> {
    let mut count = snapshot.prepare_cached(DEPTH_COUNT)?;
    let mut by_class = [0; Class::COUNT];
    let mut rows = count.query([destination])?;
    while let Some(row) = rows.next()? {
        let count: i64 = row.get(1)?;
        by_class[Class::from_code(row.get(0)?).index()] += count.unsigned_abs();
    }
    let mut first = snapshot.prepare_cached(DEPTH_OLDEST)?;
    let mut oldest_by_class = [None; Class::COUNT];
    for class in Class::ALL {
        let oldest =
            first.query_row(params![destination, class.code()], |row| row.get(0)).optional()?;
        oldest_by_class[class.index()] = oldest.map(from_ms);
    }
    let (held, held_since) = new_contacts::count_held(snapshot, destination)?;
    let messages = by_class.iter().sum();
    Ok(Depth { messages, by_class, oldest_by_class, held, held_since })
}

pub(super) fn backlog(snapshot: &Connection) -> Result<Size, Fault> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let (messages, bytes): (i64, i64) = snapshot.prepare_cached(BACKLOG)?.query_row([], read)?;
    Ok(Size { messages: messages.unsigned_abs(), bytes: bytes.unsigned_abs() })
}

pub(super) fn by_message_id(
    snapshot: &Connection,
    hash: MessageHash,
    message_id: &str,
    known: &Known,
) -> Result<Vec<MessageRecord>, Fault> {
    let mut statement = snapshot.prepare_cached(BY_MESSAGE_ID)?;
    let newest = json_list(known.seqs.iter().copied());
    let wanted = params![hash.0, message_id, SAME_ID_MAX, newest, known.through];
    let found = statement.query_and_then(wanted, rows::message)?;
    let mut messages: Vec<MessageRecord> = found.collect::<Result<_, _>>()?;
    add_deliveries(snapshot, &mut messages)?;
    Ok(messages)
}

pub(super) fn message(snapshot: &Connection, seq: Seq) -> Result<Option<MessageRecord>, Fault> {
    let mut statement = snapshot.prepare_cached(BY_SEQ)?;
    let mut found = statement.query_and_then([seq.0], rows::message)?;
    let Some(message) = found.next().transpose()? else { return Ok(None) };
    let mut messages = [message];
    add_deliveries(snapshot, &mut messages)?;
    let [message] = messages;
    Ok(Some(message))
}

pub(super) fn contents(snapshot: &Connection, seqs: &[Seq]) -> Result<Vec<Contents>, Fault> {
    let mut statement = snapshot.prepare_cached(CONTENTS)?;
    let mut contents = Vec::with_capacity(seqs.len());
    for &seq in seqs {
        let payload: Option<Vec<u8>> = statement.query_row([seq.0], |row| row.get(0)).optional()?;
        contents.extend(payload.map(|payload| Contents { seq, payload: payload.into() }));
    }
    Ok(contents)
}

pub(super) fn request_contents(
    snapshot: &Connection,
    requests: &[RequestId],
) -> Result<Vec<RequestContents>, Fault> {
    let mut body = snapshot.prepare_cached(REQUEST_BODY)?;
    let mut contents = Vec::with_capacity(requests.len());
    for &id in requests {
        let read = |row: &Row<'_>| row.get::<_, Option<Vec<u8>>>(0);
        let Some(body) = body.query_row([id.0], read).optional()? else { continue };
        let seqs = carried(snapshot, id)?;
        contents.push(RequestContents { id, body: body.map(Bytes::from), seqs });
    }
    Ok(contents)
}

/// Returns the traces of the messages that a request carries.
pub(super) fn traces(
    snapshot: &Connection,
    request: RequestId,
) -> Result<Vec<Option<TraceContext>>, Fault> {
    let mut trace = snapshot.prepare_cached(TRACE)?;
    let mut traces = Vec::new();
    for seq in carried(snapshot, request)? {
        let read = |row: &Row<'_>| row.get::<_, Option<Vec<u8>>>(0);
        let found = trace.query_row([seq.0], read).optional()?.flatten();
        traces.push(found.as_deref().and_then(TraceContext::from_bytes));
    }
    Ok(traces)
}

/// Returns the subscriptions whose deliveries a request carries.
pub(super) fn subscriptions(
    snapshot: &Connection,
    request: RequestId,
) -> Result<Vec<String>, Fault> {
    let mut statement = snapshot.prepare_cached(SUBSCRIPTIONS)?;
    let found = statement.query_map([request.0], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Returns the deliveries that a request carries, each with its part of it.
pub(super) fn parts(snapshot: &Connection, request: RequestId) -> Result<Vec<CarriedPart>, Fault> {
    let mut statement = snapshot.prepare_cached(PARTS)?;
    let limit = i64::try_from(CARRIED_MAX).unwrap_or(i64::MAX);
    let found = statement.query_map([request.0, limit], |row| {
        let body = row.get::<_, Option<Vec<u8>>>(1)?.map(Bytes::from);
        Ok(CarriedPart { subscription: row.get(0)?, body })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Returns the messages that a request carries, in order.
fn carried(snapshot: &Connection, request: RequestId) -> Result<Vec<Seq>, Fault> {
    let mut statement = snapshot.prepare_cached(CARRIED)?;
    let limit = i64::try_from(CARRIED_MAX).unwrap_or(i64::MAX);
    let seqs = statement.query_map([request.0, limit], |row| Ok(Seq(row.get(0)?)))?;
    let mut seqs: Vec<Seq> = seqs.collect::<Result<_, _>>()?;
    seqs.sort_unstable();
    seqs.dedup();
    Ok(seqs)
}

/// Adds deliveries, with requests and attempts, to messages.
pub(super) fn add_deliveries(
    snapshot: &Connection,
    messages: &mut [MessageRecord],
) -> Result<(), Fault> {
    let seqs = json_list(messages.iter().map(|message| message.seq.0));
    let mut statement = snapshot.prepare_cached(DELIVERIES)?;
    let found = statement.query_and_then([seqs], rows::delivery)?;
    let deliveries: Vec<(Seq, DeliveryRecord)> = found.collect::<Result<_, _>>()?;
    let attempts = attempts(snapshot, &deliveries)?;
    let mut of_message: HashMap<Seq, Vec<DeliveryRecord>> = HashMap::new();
    for (seq, mut delivery) in deliveries {
        if let Some(request) = &mut delivery.request {
            // Deliveries that were merged share a request.
            request.attempts = attempts.get(&request.id).cloned().unwrap_or_default();
        }
        of_message.entry(seq).or_default().push(delivery);
    }
    for message in &mut *messages {
        message.deliveries = of_message.remove(&message.seq).unwrap_or_default();
    }
    new_contacts::add_holds(snapshot, messages)
}

fn attempts(
    snapshot: &Connection,
    deliveries: &[(Seq, DeliveryRecord)],
) -> Result<HashMap<RequestId, Vec<Attempt>>, Fault> {
    let requests = deliveries.iter().filter_map(|(_, delivery)| delivery.request.as_ref());
    let mut ids: Vec<i64> = requests.map(|request| request.id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut of_request: HashMap<RequestId, Vec<Attempt>> = HashMap::new();
    let mut statement = snapshot.prepare_cached(ATTEMPTS)?;
    let found = statement.query_map([json_list(ids)], rows::attempt)?;
    for attempt in found {
        let (id, attempt) = attempt?;
        of_request.entry(id).or_default().push(attempt);
    }
    Ok(of_request)
}
