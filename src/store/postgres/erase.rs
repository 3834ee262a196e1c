//! Erases the contents of people whose deletion was delivered, a bounded number per transaction.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::connection::{Connection, Connections};
use super::error::Fault;
use super::params::{Array, params};
use super::replay::LOCK_DONE;
use super::rows::{get, to_ms};
use super::{
    awaiting, conflicts, contacts, contents, feedback, numbers, opt_outs, partitions, receipts,
};
use crate::queue::ErasedRows;

/// $1 after this deletion. Returns the next deletion whose erasure is open, and the progress of the erasure.
const NEXT: &str = "
    SELECT e.seq, e.erased_through, e.lane, e.destination, d.accepted
    FROM @erasures e LEFT JOIN @deletions d ON d.seq = e.seq WHERE e.seq > $1 ORDER BY e.seq LIMIT 1";
/// $1 lane, $2 after this message, $3 up to this one, $4 limit. Also finds messages of other destinations.
pub(super) const OF_LANE: &str = "
    SELECT seq FROM @messages WHERE lane = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4";
/// $1 the deletion. Another process may be working on it.
const IS_OPEN: &str = "SELECT FROM @erasures WHERE seq = $1 FOR UPDATE SKIP LOCKED";
/// $1 seqs of messages that are done, $2 lane, $3 destination.
const ERASABLE: &str =
    "SELECT seq FROM @messages WHERE seq = ANY($1) AND lane = $2 AND destination = $3";
/// $1 seqs. Warnings name fields, and senders choose the names of fields. Digests of requests could be compared.
const DROP_WARNINGS: &str = "
    UPDATE @deliveries SET warnings = NULL, planned = NULL
    WHERE seq = ANY($1) AND (warnings IS NOT NULL OR planned IS NOT NULL)";
/// $1 seqs.
const DROP_DIGESTS: &str = "
    UPDATE @messages SET warnings = NULL, lane = NULL, anonymous = NULL, email = NULL WHERE seq = ANY($1)";
/// $1 the deletion, $2 through.
const ERASED_THROUGH: &str =
    "UPDATE @erasures SET erased_through = $2 WHERE seq = $1 AND erased_through < $2";
/// $1 the deletion.
const DELETE_ERASURE: &str = "DELETE FROM @erasures WHERE seq = $1";
/// $1 lane, $2 destination, $3 accepted. This deletion covers everything that earlier ones cover.
const DELETE_DELETIONS: &str =
    "DELETE FROM @deletions WHERE lane = $1 AND destination = $2 AND accepted <= $3";

/// $1 days.
const NOTE_DAYS: &str = "INSERT INTO @erased_days (day) SELECT unnest($1)";
/// Newest first.
const NOTED_DAYS: &str =
    "SELECT day, array_agg(id) FROM @erased_days GROUP BY day ORDER BY day DESC";
/// $1 ids.
const FORGET_DAYS: &str = "DELETE FROM @erased_days WHERE id = ANY($1)";

/// How many messages one transaction erases.
const MESSAGES_MAX: usize = 200;

/// The tables whose dead rows keep erased data until they are vacuumed. Old partitions get too few writes for the
/// server to vacuum them by itself.
const VACUUMED: [&str; 3] = ["payloads", "messages", "deliveries"];

/// How long one call of [`vacuum`] may take.
const VACUUM_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// A deletion whose erasure is open.
pub(super) struct Deletion {
    pub(super) seq: i64,
    erased_through: i64,
    lane: i64,
    destination: String,
    /// The deletion's sequence number when it was accepted, if it is still known.
    accepted: Option<i64>,
}

/// Finds the first deletion after a sequence number with something left to erase.
pub(super) async fn next_deletion(
    connection: &Connection,
    behind: i64,
) -> Result<Option<Deletion>, Fault> {
    let Some(row) = connection.query_opt(NEXT, params![behind]).await? else { return Ok(None) };
    Ok(Some(Deletion {
        seq: get(&row, 0)?,
        erased_through: get(&row, 1)?,
        lane: get(&row, 2)?,
        destination: get(&row, 3)?,
        accepted: get(&row, 4)?,
    }))
}

impl Deletion {
    /// Erases the next part for the deletion; returns how many rows changed.
    pub(super) async fn erase(
        &self,
        connections: &Connections,
        now: Timestamp,
    ) -> Result<u64, Fault> {
        let connection = connections.get().await?;
        let seqs = self.next(&connection).await?;
        connection.give_back();
        let transaction = connections.transaction().await?;
        if transaction.query_opt(IS_OPEN, params![self.seq]).await?.is_none() {
            transaction.commit().await?;
            return Ok(0);
        }
        let limit = i64::try_from(MESSAGES_MAX).unwrap_or(i64::MAX);
        let heard = params![self.lane, self.destination, limit];
        let mut erased = ErasedRows {
            feedback: transaction.execute(feedback::OF_PERSON, heard).await?,
            ..ErasedRows::default()
        };
        let mut rows = erased.feedback;
        if rows >= limit.unsigned_abs() {
            receipts::erased(&transaction, self.seq, erased, None).await?;
            transaction.commit().await?;
            return Ok(rows);
        }
        // Conflicts go before contacts, which show which addresses are the person's.
        let of_person = params![self.destination, self.lane];
        rows += transaction.execute(conflicts::OF_PERSON, of_person).await?;
        erased.contacts =
            transaction.execute(contacts::OF_PERSON, params![self.destination, self.lane]).await?;
        erased.opt_outs =
            transaction.execute(opt_outs::OF_PERSON, params![self.lane, self.destination]).await?;
        rows += erased.contacts + erased.opt_outs;
        rows +=
            transaction.execute(awaiting::OF_PERSON, params![self.lane, self.destination]).await?;
        let done = transaction.query(LOCK_DONE, params![seqs]).await?;
        let done: Array<i64> = done.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        let erasable = params![done, self.lane, self.destination];
        let erasable = transaction.query(ERASABLE, erasable).await?;
        let erasable: Array<i64> =
            erasable.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        erased.messages = erasable.0.len() as u64;
        if !erasable.0.is_empty() {
            rows += contents::drop_all(&transaction, &erasable).await?;
            for text in [DROP_WARNINGS, DROP_DIGESTS] {
                rows += transaction.execute(text, params![erasable]).await?;
            }
            let erased_at = to_ms(now);
            transaction.execute(receipts::CLOSE_ERASED, params![erasable, erased_at]).await?;
            let days: BTreeSet<i32> = erasable.0.iter().map(|seq| numbers::day(*seq)).collect();
            let days: Array<i32> = days.into_iter().collect();
            transaction.execute(NOTE_DAYS, params![days]).await?;
        }
        match seqs.0.last() {
            Some(last) if seqs.0.len() >= MESSAGES_MAX && *last < self.seq => {
                let params = params![self.seq, *last];
                rows += transaction.execute(ERASED_THROUGH, params).await?;
                receipts::erased(&transaction, self.seq, erased, None).await?;
            }
            // Every message that these deletions kept from being replayed has lost its contents.
            _ => {
                receipts::erased(&transaction, self.seq, erased, Some(now)).await?;
                let now = to_ms(now);
                let covered = params![self.lane, self.destination, now, self.seq];
                transaction.execute(receipts::CLOSE_EARLIER, covered).await?;
                let governed = params![self.lane, self.destination, self.accepted];
                rows += transaction.execute(DELETE_DELETIONS, governed).await?;
                rows += transaction.execute(DELETE_ERASURE, params![self.seq]).await?;
            }
        }
        transaction.commit().await?;
        Ok(rows)
    }

    /// Returns the next messages that may have to be erased, up to the deletion itself.
    async fn next(&self, connection: &Connection) -> Result<Array<i64>, Fault> {
        let mut days = partitions::days(connection).await?;
        days.retain(|day| {
            day.has_records && day.end() > self.erased_through && day.first() <= self.seq
        });
        let mut seqs = Array(Vec::new());
        for (first, end) in partitions::parts(&days) {
            let (after, through) = (self.erased_through.max(first - 1), self.seq.min(end - 1));
            let limit = i64::try_from(MESSAGES_MAX - seqs.0.len()).unwrap_or(0);
            let params = params![self.lane, after, through, limit];
            for row in connection.query(OF_LANE, params).await? {
                seqs.0.push(get(&row, 0)?);
            }
            if seqs.0.len() >= MESSAGES_MAX {
                break;
            }
        }
        Ok(seqs)
    }
}

/// Vacuums the tables with erased rows, so that the server can overwrite them. Returns how many notes of erased days it
/// has handled. The next call handles those for which there was no time.
pub(super) async fn vacuum(connections: &Connections) -> Result<u64, Fault> {
    let connection = connections.get().await?;
    let noted = connection.query(NOTED_DAYS, params![]).await?;
    let days = partitions::days(&connection).await?;
    if noted.is_empty() {
        connection.give_back();
        return Ok(0);
    }
    let vacuumed = tokio::time::timeout(VACUUM_TIMEOUT, async {
        vacuum_table(&connection, "payloads_kept").await?;
        vacuum_table(&connection, "loops_events").await?;
        let mut rows = 0;
        for row in &noted {
            let (day, ids) = (get::<i32>(row, 0)?, Array(get::<Vec<i64>>(row, 1)?));
            if let Some(day) = days.iter().find(|with| with.day == day && with.has_records) {
                for table in VACUUMED.into_iter().filter(|of| day.has_payloads || *of != "payloads")
                {
                    vacuum_table(&connection, &partitions::name(table, day.day)).await?;
                }
            }
            rows += connection.execute(FORGET_DAYS, params![ids]).await?;
        }
        Ok(rows)
    });
    match vacuumed.await {
        Ok(vacuumed) => {
            connection.give_back();
            vacuumed
        }
        Err(_) => Ok(0),
    }
}

/// Does not wait for another vacuum of the same table, which frees the same rows.
async fn vacuum_table(connection: &Connection, table: &str) -> Result<(), Fault> {
    connection.batch(&format!("VACUUM (SKIP_LOCKED) @{table}")).await
}
