//! Takes messages in: the hot path. Statements of a few fixed sizes, so that each is prepared once.

use std::collections::{HashMap, HashSet};

use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use crate::queue::{Accepted, NewMessage};
use crate::store::to_ms;

/// How many messages one statement takes, the largest first.
const CHUNKS: [usize; 4] = [64, 16, 4, 1];

/// Stores those of `messages` that are no duplicates; `window` in milliseconds.
pub(super) async fn accept(
    connection: &mut SqliteConnection,
    messages: &[&NewMessage],
    window: i64,
) -> Result<Vec<Accepted>, sqlx::Error> {
    let known = known(connection, messages).await?;
    let mut own: HashSet<(&str, &str)> = HashSet::new();
    let mut new: Vec<&NewMessage> = Vec::with_capacity(messages.len());
    let mut accepted = Vec::with_capacity(messages.len());
    for message in messages {
        let id = (message.source.as_str(), message.message_id.as_str());
        let earliest = to_ms(message.received_at).saturating_sub(window);
        let came_before = known
            .get(&message.message_hash.0)
            .is_some_and(|rows| rows.iter().any(|row| row.is(id) && row.received_at >= earliest));
        if came_before || !own.insert(id) {
            accepted.push(Accepted::Duplicate);
        } else {
            accepted.push(Accepted::New);
            new.push(message);
        }
    }
    for chunk in chunks(&new) {
        insert(connection, chunk).await?;
    }
    Ok(accepted)
}

/// A stored message whose id has the digest that was looked for.
struct Known {
    source: String,
    message_id: String,
    received_at: i64,
}

impl Known {
    fn is(&self, (source, message_id): (&str, &str)) -> bool {
        self.source == source && self.message_id == message_id
    }
}

async fn known(
    connection: &mut SqliteConnection,
    messages: &[&NewMessage],
) -> Result<HashMap<i64, Vec<Known>>, sqlx::Error> {
    let mut known: HashMap<i64, Vec<Known>> = HashMap::new();
    for chunk in chunks(messages) {
        let sql = format!(
            "SELECT message_hash, source, message_id, received_at FROM messages WHERE message_hash IN ({})",
            vec!["?"; chunk.len()].join(",")
        );
        // The text is made of constants alone.
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for message in chunk {
            query = query.bind(message.message_hash.0);
        }
        for row in query.fetch_all(&mut *connection).await? {
            known.entry(row.try_get(0)?).or_default().push(Known {
                source: row.try_get(1)?,
                message_id: row.try_get(2)?,
                received_at: row.try_get(3)?,
            });
        }
    }
    Ok(known)
}

async fn insert(
    connection: &mut SqliteConnection,
    chunk: &[&NewMessage],
) -> Result<(), sqlx::Error> {
    let sql = format!(
        "INSERT INTO messages (source, destination, message_id, message_hash, kind, class, lane, person, received_at, payload) VALUES {}",
        vec!["(?,?,?,?,?,?,?,?,?,?)"; chunk.len()].join(",")
    );
    // The text is made of constants alone.
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for message in chunk {
        query = query
            .bind(message.source.as_str())
            .bind(message.destination.as_str())
            .bind(message.message_id.as_str())
            .bind(message.message_hash.0)
            .bind(message.kind.as_str())
            .bind(message.class.code())
            .bind(message.lane.0)
            .bind(message.person.0)
            .bind(to_ms(message.received_at))
            .bind(message.payload.as_ref());
    }
    query.execute(connection).await?;
    Ok(())
}

/// Cuts a list into chunks of the fixed sizes.
fn chunks<'a, 'b>(mut rest: &'a [&'b NewMessage]) -> Vec<&'a [&'b NewMessage]> {
    let mut chunks = Vec::new();
    for size in CHUNKS {
        while rest.len() >= size {
            let (chunk, behind) = rest.split_at(size);
            chunks.push(chunk);
            rest = behind;
        }
    }
    chunks
}
