//! Removes data that is past its retention: first the contents (payloads, bodies, excerpts), later the
//! records. Also erases the contents of people whose deletion was delivered.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::recent::{Recent, json_list};
use super::steps::Step;
use crate::segment::PersonHash;
use crate::store::rows::{duration_ms, to_ms};
use crate::store::{Fault, Retention, sql};

/// Messages of each kind that one call works on. Small, since it shares the writer with the senders.
const MESSAGES_MAX: usize = 200;

/// What holds anything that was sent; the payload last, since it tells that there is more to do.
const CONTENTS: [&str; 4] =
    [sql::DROP_EXCERPTS, sql::DROP_DETAILS, sql::DROP_BODIES, sql::DROP_PAYLOAD];

/// An erasure deletes these too: warnings name fields, and senders choose the names of fields.
const WARNINGS: [&str; 2] = [sql::DROP_WARNINGS, sql::DROP_MESSAGE_WARNINGS];

pub(super) struct Purge {
    pub(super) now: Timestamp,
    pub(super) retention: Retention,
}

#[async_trait]
impl Step for Purge {
    type Output = u64;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<u64, Fault> {
        let mut rows = 0;
        for (is_failed, kept) in [(0_i64, self.retention.delivered), (1, self.retention.failed)] {
            let past: Vec<i64> = sqlx::query_scalar(sql::PAST_PAYLOADS)
                .bind(is_failed)
                .bind(self.before(kept))
                .bind(MESSAGES_MAX as i64)
                .fetch_all(&mut *connection)
                .await?;
            for seq in past {
                for text in CONTENTS {
                    rows += execute(connection, text, seq).await?;
                }
            }
        }
        let past: Vec<i64> = sqlx::query_scalar(sql::PAST_RECORDS)
            .bind(self.before(self.retention.records))
            .bind(MESSAGES_MAX as i64)
            .fetch_all(&mut *connection)
            .await?;
        for seq in past {
            rows += delete(connection, seq).await?;
        }
        let merged: Vec<i64> = sqlx::query_scalar(sql::PAST_MERGED)
            .bind(MESSAGES_MAX as i64)
            .fetch_all(&mut *connection)
            .await?;
        for id in merged {
            rows += execute(connection, sql::DELETE_ATTEMPTS, id).await?;
            rows += execute(connection, sql::DELETE_REQUEST, id).await?;
        }
        Ok(rows)
    }
}

/// The first deletion whose person's contents are to be erased, and how far that has come.
pub(super) const NEXT_ERASURE: &str = "
    SELECT e.seq, e.erased_through, m.person, m.destination
    FROM erasures e JOIN messages m ON m.seq = e.seq ORDER BY e.seq LIMIT 1";

/// $1 places, $2 person, $3 destination.
pub(super) const ERASABLE: &str = "
    SELECT seq FROM messages NOT INDEXED
    WHERE seq IN (SELECT value FROM json_each($1)) AND person = $2 AND destination = $3 AND state = 1";

/// Erases for the first deletion there is.
pub(super) struct Erase {
    pub(super) recent: Arc<Recent>,
}

#[async_trait]
impl Step for Erase {
    type Output = u64;
    const ERASES: bool = true;

    fn has_erased(rows: &u64) -> bool {
        *rows > 0
    }

    async fn run(&self, connection: &mut SqliteConnection) -> Result<u64, Fault> {
        let next: Option<(i64, i64, i64, String)> =
            sqlx::query_as(NEXT_ERASURE).fetch_optional(&mut *connection).await?;
        let Some((deletion, through, person, destination)) = next else {
            return Ok(0);
        };
        let range = through.saturating_add(1)..=deletion;
        let person = PersonHash(person);
        let places = self.recent.first_of_person(connection, person, range, MESSAGES_MAX).await?;
        let last = places.last().copied().filter(|_| places.len() == MESSAGES_MAX);
        let seqs: Vec<i64> = sqlx::query_scalar(ERASABLE)
            .bind(json_list(places))
            .bind(person.0)
            .bind(destination)
            .fetch_all(&mut *connection)
            .await?;
        let mut rows = 0;
        for seq in seqs {
            for text in CONTENTS.into_iter().chain(WARNINGS) {
                rows += execute(connection, text, seq).await?;
            }
        }
        rows += match last {
            Some(last) => {
                let moved_on = sqlx::query(sql::ERASED_THROUGH).bind(deletion).bind(last);
                moved_on.execute(connection).await?.rows_affected()
            }
            None => execute(connection, sql::DELETE_ERASURE, deletion).await?,
        };
        Ok(rows)
    }
}

impl Purge {
    fn before(&self, kept: Duration) -> i64 {
        to_ms(self.now).saturating_sub(duration_ms(kept))
    }
}

/// Deletes a message with all that belongs to it; a request stays while another message needs it.
async fn delete(connection: &mut SqliteConnection, seq: i64) -> Result<u64, sqlx::Error> {
    let requests: Vec<Option<i64>> =
        sqlx::query_scalar(sql::DELETE_DELIVERIES).bind(seq).fetch_all(&mut *connection).await?;
    let mut rows = requests.len() as u64;
    for id in requests.into_iter().flatten() {
        rows += execute(connection, sql::DELETE_ATTEMPTS, id).await?;
        rows += execute(connection, sql::DELETE_REQUEST, id).await?;
    }
    for text in [sql::DELETE_REPLAY, sql::DELETE_ERASURE, sql::DELETE_DELETION] {
        rows += execute(connection, text, seq).await?;
    }
    Ok(rows + execute(connection, sql::DELETE_MESSAGE, seq).await?)
}

async fn execute(
    connection: &mut SqliteConnection,
    text: &'static str,
    id: i64,
) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(text).bind(id).execute(connection).await?.rows_affected())
}
