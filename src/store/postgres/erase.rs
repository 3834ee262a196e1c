//! Erases the contents of people whose deletion was delivered, a bounded number in one transaction.

use std::collections::BTreeSet;

use super::connection::{Connection, Connections};
use super::params::{Array, params};
use super::replay::LOCK_DONE;
use super::rows::get;
use super::{Fault, contents, numbers, partitions};

/// $1 behind this one. The first deletion whose erasure is open, and how far that has come.
const NEXT: &str = "
    SELECT e.seq, e.erased_through, e.lane, e.destination, d.accepted
    FROM @erasures e LEFT JOIN @deletions d ON d.seq = e.seq WHERE e.seq > $1 ORDER BY e.seq LIMIT 1";
/// $1 lane, $2 behind this one, $3 up to this one, $4 limit. Also finds messages of other destinations.
pub(super) const OF_LANE: &str = "
    SELECT seq FROM @messages WHERE lane = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4";
/// $1 the deletion. Another process may be at it.
const IS_OPEN: &str = "SELECT FROM @erasures WHERE seq = $1 FOR UPDATE SKIP LOCKED";
/// $1 seqs of messages that are done, $2 lane, $3 destination.
const ERASABLE: &str =
    "SELECT seq FROM @messages WHERE seq = ANY($1) AND lane = $2 AND destination = $3";
/// $1 seqs. Warnings name fields, and senders choose the names of fields.
const DROP_WARNINGS: &str =
    "UPDATE @deliveries SET warnings = NULL WHERE seq = ANY($1) AND warnings IS NOT NULL";
/// $1 seqs.
const DROP_DIGESTS: &str = "
    UPDATE @messages SET warnings = NULL, lane = NULL, anonymous = NULL, email = NULL WHERE seq = ANY($1)";
/// $1 the deletion, $2 through.
const ERASED_THROUGH: &str =
    "UPDATE @erasures SET erased_through = $2 WHERE seq = $1 AND erased_through < $2";
/// $1 the deletion.
const DELETE_ERASURE: &str = "DELETE FROM @erasures WHERE seq = $1";
/// $1 lane, $2 destination, $3 accepted. Earlier deletions cover nothing that this one does not.
const DELETE_DELETIONS: &str =
    "DELETE FROM @deletions WHERE lane = $1 AND destination = $2 AND accepted <= $3";

/// Messages that are erased in one transaction.
const MESSAGES_MAX: usize = 200;

/// The tables whose rows hold something of a person after it was erased, until they are vacuumed. Nothing is written to
/// old partitions that would make the server do that by itself.
const VACUUMED: [&str; 3] = ["payloads", "messages", "deliveries"];

/// A deletion whose erasure is open.
pub(super) struct Deletion {
    pub(super) seq: i64,
    erased_through: i64,
    lane: i64,
    destination: String,
    /// The deletion's sequence number when it was accepted, if it is still known.
    accepted: Option<i64>,
}

/// What a part of an erasure changed.
#[derive(Default)]
pub(super) struct Erased {
    pub(super) rows: u64,
    /// The days of the messages that were erased.
    pub(super) days: BTreeSet<i32>,
}

/// Finds the first deletion behind a sequence number for which something is left to erase.
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
    /// Erases what comes next for the deletion.
    pub(super) async fn erase(&self, connections: &Connections) -> Result<Erased, Fault> {
        let connection = connections.get().await?;
        let seqs = self.next(&connection).await?;
        connection.give_back();
        let transaction = connections.transaction().await?;
        if transaction.query_opt(IS_OPEN, params![self.seq]).await?.is_none() {
            transaction.commit().await?;
            return Ok(Erased::default());
        }
        let mut erased = Erased::default();
        let done = transaction.query(LOCK_DONE, params![seqs]).await?;
        let done: Array<i64> = done.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        let erasable = params![done, self.lane, self.destination];
        let erasable = transaction.query(ERASABLE, erasable).await?;
        let erasable: Array<i64> =
            erasable.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        if !erasable.0.is_empty() {
            erased.rows += contents::drop_all(&transaction, &erasable).await?;
            for text in [DROP_WARNINGS, DROP_DIGESTS] {
                erased.rows += transaction.execute(text, params![erasable]).await?;
            }
            erased.days.extend(erasable.0.iter().map(|seq| numbers::day(*seq)));
        }
        match seqs.0.last() {
            Some(last) if seqs.0.len() >= MESSAGES_MAX && *last < self.seq => {
                let params = params![self.seq, *last];
                erased.rows += transaction.execute(ERASED_THROUGH, params).await?;
            }
            // All that these deletions keep from being replayed has no contents any more.
            _ => {
                let governed = params![self.lane, self.destination, self.accepted];
                erased.rows += transaction.execute(DELETE_DELETIONS, governed).await?;
                erased.rows += transaction.execute(DELETE_ERASURE, params![self.seq]).await?;
            }
        }
        transaction.commit().await?;
        Ok(erased)
    }

    /// The next messages that may have to be erased, up to the deletion itself.
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

/// Has the server free, and so sooner or later overwrite, what was erased from the partitions of these days.
pub(super) async fn vacuum(connection: &Connection, days: &BTreeSet<i32>) -> Result<(), Fault> {
    for day in partitions::days(connection).await? {
        if !day.has_records || !days.contains(&day.day) {
            continue;
        }
        for table in VACUUMED.into_iter().filter(|table| day.has_payloads || *table != "payloads") {
            let partition = partitions::name(table, day.day);
            connection.batch(&format!("VACUUM @{partition}")).await?;
        }
    }
    connection.batch("VACUUM @payloads_kept").await
}
