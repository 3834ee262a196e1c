//! The reads: pending messages, the job of one message, the depth, and the records of messages.

use sqlx::sqlite::SqliteConnection;
use sqlx::{SqlitePool, Transaction};

use super::recent::{Recent, json_list};
use crate::queue::{
    Class, Depth, Head, Job, LaneAsk, LanePart, LeaseHolder, MessageRecord, PendingAsk, Seq,
};
use crate::segment::{MessageHash, PersonHash};
use crate::store::rows::{
    AttemptRow, DeliveryRow, HeadRow, JobRow, MessageRow, RequestRow, from_ms,
};
use crate::store::{Fault, sql};

/// $1 destination, $2 places, $3 lane.
pub(super) const OF_LANE: &str = "
    SELECT m.seq, m.lane, m.person, m.class,
           CASE WHEN m.is_planned = 1 THEN (
               SELECT MIN(r.next_attempt_at) FROM deliveries d JOIN requests r ON r.id = d.request_id
               WHERE d.seq = m.seq AND r.state = 'pending'
           ) END AS next_attempt_at
    FROM messages m NOT INDEXED
    WHERE m.seq IN (SELECT value FROM json_each($2))
      AND m.lane = $3 AND m.destination = $1 AND m.state = 0
    ORDER BY m.seq";

/// $1 places, $2 message_hash, $3 message_id, $4 limit.
pub(super) const BY_MESSAGE_ID: &str = "
    SELECT m.seq, m.source, m.destination, m.message_id, m.kind, m.received_at, m.state, m.unmatched,
           m.unmatched_detail, m.warnings, COALESCE(p.number, 0) AS replay
    FROM messages m LEFT JOIN replays p ON p.seq = m.seq
    WHERE m.seq IN (
            SELECT seq FROM message_ids WHERE message_hash = $2
            UNION ALL SELECT value FROM json_each($1))
      AND m.message_id = $3
    ORDER BY m.seq DESC LIMIT $4";

/// $1 places, $2 person, $3 before, $4 limit.
pub(super) const BY_PERSON: &str = "
    SELECT m.seq, m.source, m.destination, m.message_id, m.kind, m.received_at, m.state, m.unmatched,
           m.unmatched_detail, m.warnings, COALESCE(p.number, 0) AS replay
    FROM messages m LEFT JOIN replays p ON p.seq = m.seq
    WHERE m.seq IN (
            SELECT * FROM (
                SELECT seq FROM persons WHERE person = $2 AND seq < $3 ORDER BY seq DESC LIMIT $4)
            UNION ALL SELECT value FROM json_each($1))
      AND m.person = $2
    ORDER BY m.seq DESC LIMIT $4";

/// $1 places, $2 person.
pub(super) const STILL_OF_PERSON: &str = "
    SELECT seq FROM messages NOT INDEXED
    WHERE seq IN (SELECT value FROM json_each($1)) AND person = $2";

/// Messages of one id that are shown: one for each source that sent it, more only when an id came
/// back after the duplicate window.
const SAME_ID_MAX: i64 = 100;

pub(super) async fn pending(
    readers: &SqlitePool,
    destination: &str,
    ask: [PendingAsk; Class::COUNT],
) -> Result<[Vec<Head>; Class::COUNT], Fault> {
    // One transaction, so that all classes are read in the same snapshot.
    let mut snapshot = readers.begin().await?;
    let mut found: [Vec<Head>; Class::COUNT] = Default::default();
    for (class, PendingAsk { after, limit }) in Class::ALL.into_iter().zip(ask) {
        if limit == 0 {
            continue;
        }
        let rows: Vec<HeadRow> = sqlx::query_as(sql::PENDING)
            .bind(destination)
            .bind(class.code())
            .bind(after.0)
            .bind(i64::from(limit))
            .fetch_all(&mut *snapshot)
            .await?;
        found[class.index()] = rows.into_iter().map(HeadRow::into_record).collect();
    }
    end(snapshot).await?;
    Ok(found)
}

pub(super) async fn lease_holder(
    readers: &SqlitePool,
    destination: &str,
) -> Result<Option<LeaseHolder>, Fault> {
    let found: Option<(String, i64)> =
        sqlx::query_as(sql::LEASE_HOLDER).bind(destination).fetch_optional(readers).await?;
    Ok(found.map(|(holder, until)| LeaseHolder { holder, until: from_ms(until) }))
}

pub(super) async fn of_lane(
    readers: &SqlitePool,
    recent: &Recent,
    destination: &str,
    ask: &LaneAsk,
) -> Result<LanePart, Fault> {
    let LaneAsk { lane, person, after, limit } = *ask;
    let mut connection = readers.acquire().await?;
    // A lane's messages are all of one person, and no index of ours is better than their places.
    let behind = after.0.saturating_add(1)..=i64::MAX;
    let limit = limit as usize;
    let places = recent.first_of_person(&mut connection, person, behind, limit).await?;
    let is_cut = places.len() >= limit;
    let through = places.last().filter(|_| is_cut).map(|last| Seq(*last));
    let rows: Vec<HeadRow> = sqlx::query_as(OF_LANE)
        .bind(destination)
        .bind(json_list(places))
        .bind(lane.0)
        .fetch_all(&mut *connection)
        .await?;
    Ok(LanePart { heads: rows.into_iter().map(HeadRow::into_record).collect(), through })
}

pub(super) async fn open(readers: &SqlitePool, seq: Seq) -> Result<Option<Job>, Fault> {
    // One transaction, so that the message and its requests are read in the same snapshot.
    let mut snapshot = readers.begin().await?;
    let found: Option<JobRow> =
        sqlx::query_as(sql::OPEN_MESSAGE).bind(seq.0).fetch_optional(&mut *snapshot).await?;
    let Some(message) = found else { return Ok(None) };
    let requests: Vec<RequestRow> =
        sqlx::query_as(sql::OPEN_REQUESTS).bind(seq.0).fetch_all(&mut *snapshot).await?;
    let settled = if message.replay > 0 && message.is_planned == 0 {
        sqlx::query_scalar(sql::OPEN_SETTLED).bind(seq.0).fetch_all(&mut *snapshot).await?
    } else {
        Vec::new()
    };
    end(snapshot).await?;
    Ok(Some(message.into_record(requests, settled)?))
}

pub(super) async fn destinations(readers: &SqlitePool) -> Result<Vec<String>, Fault> {
    Ok(sqlx::query_scalar(sql::PENDING_DESTINATIONS).fetch_all(readers).await?)
}

pub(super) async fn depth(readers: &SqlitePool, destination: &str) -> Result<Depth, Fault> {
    let mut snapshot = readers.begin().await?;
    let messages: i64 =
        sqlx::query_scalar(sql::DEPTH_COUNT).bind(destination).fetch_one(&mut *snapshot).await?;
    let mut oldest: Option<i64> = None;
    for class in Class::ALL {
        let of_class: Option<i64> = sqlx::query_scalar(sql::DEPTH_OLDEST)
            .bind(destination)
            .bind(class.code())
            .fetch_optional(&mut *snapshot)
            .await?;
        oldest = [oldest, of_class].into_iter().flatten().min();
    }
    end(snapshot).await?;
    Ok(Depth {
        messages: u64::try_from(messages).unwrap_or(0),
        oldest_received_at: oldest.map(from_ms),
    })
}

pub(super) async fn by_message_id(
    readers: &SqlitePool,
    recent: &Recent,
    hash: MessageHash,
    message_id: &str,
) -> Result<Vec<MessageRecord>, Fault> {
    let places = recent.newest_of_ids(readers, &[hash]).await?;
    let mut snapshot = readers.begin().await?;
    let messages: Vec<MessageRow> = sqlx::query_as(BY_MESSAGE_ID)
        .bind(places)
        .bind(hash.0)
        .bind(message_id)
        .bind(SAME_ID_MAX)
        .fetch_all(&mut *snapshot)
        .await?;
    let records = records(&mut snapshot, messages).await?;
    end(snapshot).await?;
    Ok(records)
}

pub(super) async fn by_person(
    readers: &SqlitePool,
    recent: &Recent,
    person: PersonHash,
    before: Option<Seq>,
    limit: u32,
) -> Result<Vec<MessageRecord>, Fault> {
    let before = before.map_or(i64::MAX, |seq| seq.0);
    let places = {
        let mut connection = readers.acquire().await?;
        newest_of_person(&mut connection, recent, person, before, limit).await?
    };
    let mut snapshot = readers.begin().await?;
    let messages: Vec<MessageRow> = sqlx::query_as(BY_PERSON)
        .bind(json_list(places))
        .bind(person.0)
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&mut *snapshot)
        .await?;
    let records = records(&mut snapshot, messages).await?;
    end(snapshot).await?;
    Ok(records)
}

/// The last `limit` messages of a person that memory knows, before a place. Those that were replayed have
/// another place now, and memory may still name the old one: then it is asked for more, twice as many
/// each time.
async fn newest_of_person(
    connection: &mut SqliteConnection,
    recent: &Recent,
    person: PersonHash,
    mut before: i64,
    limit: u32,
) -> Result<Vec<i64>, Fault> {
    let limit = limit as usize;
    let mut found = Vec::new();
    let mut asked = limit;
    loop {
        let range = 0..=before.saturating_sub(1);
        let places = recent.last_of_person(connection, person, range, asked).await?;
        let last = places.last().copied().filter(|_| places.len() == asked);
        let there: Vec<i64> = sqlx::query_scalar(STILL_OF_PERSON)
            .bind(json_list(places))
            .bind(person.0)
            .fetch_all(&mut *connection)
            .await?;
        found.extend(there);
        match last {
            Some(last) if found.len() < limit => before = last,
            _ => return Ok(found),
        }
        asked = asked.saturating_mul(2);
    }
}

async fn records(
    connection: &mut SqliteConnection,
    messages: Vec<MessageRow>,
) -> Result<Vec<MessageRecord>, Fault> {
    let mut records = Vec::with_capacity(messages.len());
    for message in messages {
        let rows: Vec<DeliveryRow> = sqlx::query_as(sql::LOG_DELIVERIES)
            .bind(message.seq)
            .fetch_all(&mut *connection)
            .await?;
        let mut deliveries = Vec::with_capacity(rows.len());
        for row in rows {
            let attempts: Vec<AttemptRow> = match row.request_id {
                Some(id) => {
                    sqlx::query_as(sql::LOG_ATTEMPTS).bind(id).fetch_all(&mut *connection).await?
                }
                None => Vec::new(),
            };
            deliveries.push(row.into_record(attempts)?);
        }
        records.push(message.into_record(deliveries)?);
    }
    Ok(records)
}

/// Nothing was written: this only gives the snapshot back.
async fn end(snapshot: Transaction<'_, sqlx::Sqlite>) -> Result<(), sqlx::Error> {
    snapshot.commit().await
}
