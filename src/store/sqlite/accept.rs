//! Accepts the messages of a group: finds the duplicates and inserts the rest. This is the hot path.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};

use super::recent::{Recent, Row, json_list};
use crate::queue::{Accepted, NewMessage};
use crate::store::Fault;
use crate::store::rows::{duration_ms, to_json, to_ms};

/// Up to this many rows are inserted by one statement, whatever their number: each statement is a passage
/// between two threads, during which all senders of the group wait. Larger groups take a few chunks.
pub(super) const ROWS_EXACT_MAX: usize = 64;

/// The chunks of larger groups, largest first. 256 rows of 11 values stay far below the 32,766 parameters
/// that SQLite allows.
const CHUNKS: [usize; 2] = [256, 128];

/// The statements for 1 to [`ROWS_EXACT_MAX`] rows, and for each chunk.
static EXACT: LazyLock<Vec<String>> =
    LazyLock::new(|| (1..=ROWS_EXACT_MAX).map(insert_sql).collect());
static CHUNKED: LazyLock<[String; 2]> = LazyLock::new(|| CHUNKS.map(insert_sql));

/// $1 digests of message ids, $2 places of some, $3 the place behind which `recent` is to be looked at:
/// what is stored under them.
pub(super) const LOOKUP: &str = "
    SELECT m.source, m.message_id, m.received_at
    FROM json_each($1) h CROSS JOIN message_ids i ON i.message_hash = h.value
    CROSS JOIN messages m ON m.seq = i.seq
    UNION ALL
    SELECT source, message_id, received_at FROM messages NOT INDEXED
    WHERE seq IN (SELECT value FROM json_each($2))
    UNION ALL
    SELECT m.source, m.message_id, m.received_at
    FROM recent r CROSS JOIN messages m ON m.seq = r.seq
    WHERE r.seq > $3 AND r.message_hash IN (SELECT value FROM json_each($1))";

type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// An accepted message, as far as it matters to those that may be its duplicates.
struct Seen {
    received_ms: i64,
    /// The call of this group that brought it; `None` if it was stored before.
    call: Option<usize>,
}

/// Returns whether each message of each call is new, and the rows that were added to `recent`.
pub(super) async fn accept(
    connection: &mut SqliteConnection,
    recent: &Recent,
    calls: &[&[NewMessage]],
    duplicate_window: Duration,
) -> Result<(Vec<Vec<Accepted>>, Vec<Row>), Fault> {
    if calls.is_empty() {
        return Ok(Default::default());
    }
    let stored = lookup(connection, recent, calls).await?;
    let mut seen: HashMap<(&str, &str), Seen> = HashMap::with_capacity(stored.len());
    for (source, message_id, received_ms) in &stored {
        let entry = seen
            .entry((source, message_id))
            .or_insert(Seen { received_ms: *received_ms, call: None });
        entry.received_ms = entry.received_ms.max(*received_ms);
    }
    let window_ms = duration_ms(duplicate_window);
    let mut fresh = Vec::new();
    let mut answers = Vec::with_capacity(calls.len());
    for (call, messages) in calls.iter().enumerate() {
        let mut accepted = Vec::with_capacity(messages.len());
        for message in *messages {
            let key = (message.source.as_str(), message.message_id.as_str());
            let received_ms = to_ms(message.received_at);
            let is_duplicate = seen.get(&key).is_some_and(|before| {
                before.call == Some(call)
                    || before.received_ms >= received_ms.saturating_sub(window_ms)
            });
            if is_duplicate {
                accepted.push(Accepted::Duplicate);
            } else {
                seen.insert(key, Seen { received_ms, call: Some(call) });
                fresh.push(message);
                accepted.push(Accepted::New);
            }
        }
        answers.push(accepted);
    }
    Ok((answers, insert(connection, &fresh).await?))
}

/// The messages stored under the digests of the given message ids: source, message id, received at.
async fn lookup(
    connection: &mut SqliteConnection,
    recent: &Recent,
    calls: &[&[NewMessage]],
) -> Result<Vec<(String, String, i64)>, sqlx::Error> {
    let mut hashes: Vec<i64> = calls
        .iter()
        .flat_map(|messages| messages.iter())
        .map(|message| message.message_hash.0)
        .collect();
    // In the order of the index: each look-up is near the one before.
    hashes.sort_unstable();
    let (places, read) = recent.of_ids(connection, &hashes).await?;
    let lookup = sqlx::query_as(LOOKUP).bind(json_list(hashes)).bind(places).bind(read);
    lookup.fetch_all(connection).await
}

/// Inserts in order: the order of the rows is the order of acceptance.
async fn insert(
    connection: &mut SqliteConnection,
    messages: &[&NewMessage],
) -> Result<Vec<Row>, Fault> {
    let mut added = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while !rest.is_empty() {
        let (text, rows) = statement(rest.len());
        let (chunk, after) = rest.split_at(rows);
        rest = after;
        let query = chunk.iter().fold(sqlx::query(text), |query, message| bind(query, message));
        let inserted = query.execute(&mut *connection).await?;
        if inserted.rows_affected() != chunk.len() as u64 {
            return Err(Fault::Broken("not every message was inserted"));
        }
        // No other connection can write meanwhile, so the rows of one statement follow each other.
        let places = inserted.last_insert_rowid() - chunk.len() as i64 + 1..;
        added.extend(places.zip(chunk).map(|(seq, message)| Row {
            seq,
            message_hash: message.message_hash.0,
            person: message.person.0,
        }));
    }
    Ok(added)
}

/// The statement for the next rows of at least one that are left, and how many of them it inserts.
fn statement(rows: usize) -> (&'static str, usize) {
    let chunk = CHUNKS.iter().zip(CHUNKED.iter()).find(|(chunk, _)| **chunk <= rows);
    if let Some((chunk, text)) = chunk {
        return (text, *chunk);
    }
    let rows = rows.min(ROWS_EXACT_MAX);
    (&EXACT[rows - 1], rows)
}

fn bind(query: Query, message: &NewMessage) -> Query {
    query
        .bind(message.class.code())
        .bind(message.lane.0)
        .bind(message.person.0)
        .bind(message.message_hash.0)
        .bind(to_ms(message.received_at))
        .bind(message.kind.as_str())
        .bind(message.source.clone())
        .bind(message.destination.clone())
        .bind(message.message_id.clone())
        .bind(message.payload.to_vec())
        .bind(to_json(&message.warnings))
}

fn insert_sql(rows: usize) -> String {
    let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows].join(", ");
    format!(
        "INSERT OR ROLLBACK INTO messages (class, lane, person, message_hash, received_at, kind, source, \
         destination, message_id, payload, warnings) VALUES {values}"
    )
}
