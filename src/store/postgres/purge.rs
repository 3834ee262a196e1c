//! Removes data that is past its retention: first the contents, later the records, with their counts and other traces.
//!
//! Once the messages of a day are past their retention, the day's partitions are dropped as a whole; deleting row by
//! row would take hours and would not free the space. Before the payloads are dropped, those of messages that wait,
//! failed, or were done late are copied to `payloads_kept`. Records are dropped once every message of the day is past
//! its retention. So data may outlive its retention by a day, or until a message that holds back its day is done. Rows
//! that stay for longer than [`Retention::whole_days_for`] are deleted one by one, as are those of `payloads_kept`.
//!
//! Only one process at a time removes data: the one with the lease of a destination that cannot exist. This merely
//! saves the server double work. A process that stalls for longer than its lease does no harm when it continues.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;

use super::connection::{Connection, Connections};
use super::error::Fault;
use super::options::Retention;
use super::params::{Array, params};
use super::partitions::{self, Day};
use super::replay::LOCK_DONE;
use super::rows::{duration_ms, get};
use super::{
    awaiting, conflicts, contacts, contents, erase, feedback, lease, new_contacts, numbers,
    receipts,
};
use crate::queue::{AWAITING_KEPT, FORWARD_KEPT, RECEIPTS_KEPT, TallyStep};
use crate::store::contacts::{first_day_of_conflicts, first_kept_day};

/// $1 first number of the day, $2 the one after its last, $3 past at, $4 ahead from. Whether no message of the day is
/// pending or within its retention.
pub(super) const DAY_IS_PAST: &str = "
    SELECT NOT EXISTS (SELECT FROM @pending WHERE seq >= $1 AND seq < $2)
       AND NOT EXISTS (SELECT FROM @outcomes WHERE seq >= $1 AND seq < $2 AND done_at > $3 AND done_at <= $4)";
/// $1 first number of the day, $2 the one after its last.
const DELETE_OF_DAY: [&str; 4] = [
    "DELETE FROM @payloads_kept WHERE seq >= $1 AND seq < $2",
    "DELETE FROM @replays WHERE seq >= $1 AND seq < $2",
    "DELETE FROM @erasures WHERE seq >= $1 AND seq < $2",
    "DELETE FROM @deletions WHERE seq >= $1 AND seq < $2",
];
/// $1 day.
const HAS_NO_RECORDS: &str =
    "UPDATE @days SET has_payloads = false, has_records = false WHERE day = $1";
/// $1 first number of the day, $2 the one after its last. Whether a request of the day carries a message that still
/// exists. A message that was replayed since has a later number, and loses the requests of its earlier deliveries.
const IS_NEEDED: &str = "
    SELECT EXISTS (
        SELECT FROM @requests r CROSS JOIN LATERAL unnest(r.seqs) s (seq)
        JOIN @days d ON d.has_records AND d.day = ((s.seq >> 23) + 1577836800) / 86400
        WHERE r.id >= $1 AND r.id < $2 AND s.seq < $2)";
/// $1 day.
const DELETE_DAY: &str = "DELETE FROM @days WHERE day = $1";

// Finds what must be kept of a day whose contents are dropped: $1 after this number, $2 up to this one, $3 limit.

/// Locked, so that a message does not end unnoticed while it is copied.
pub(super) const KEEP_PENDING: &str = "
    SELECT seq FROM @pending WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3 FOR SHARE";
/// $4 is failed, $5 done after this, $6 ahead from. Locked, so that a message is not erased while it is copied.
pub(super) const KEEP_DONE: &str = "
    SELECT seq FROM @outcomes
    WHERE seq > $1 AND seq <= $2 AND is_failed = $4 AND done_at > $5 AND done_at <= $6
    ORDER BY seq LIMIT $3 FOR SHARE";
/// $1 seqs.
const KEEP: &str = "
    INSERT INTO @payloads_kept (seq, done_at, is_failed, trace, payload)
    SELECT c.seq, o.done_at, o.is_failed, c.trace, c.payload
    FROM @payloads c LEFT JOIN @outcomes o ON o.seq = c.seq AND o.seq = ANY($1) WHERE c.seq = ANY($1)
    ON CONFLICT (seq) DO NOTHING";
/// $1 after this number, $2 the one after the last of the day, $3 limit. Messages with deliveries.
pub(super) const STRIP_NEXT: &str = "
    SELECT DISTINCT seq FROM @deliveries WHERE seq > $1 AND seq < $2 ORDER BY seq LIMIT $3";
/// $1 seqs.
const KEPT: &str = "SELECT seq FROM @payloads_kept WHERE seq = ANY($1)";
/// $1 day, $2 through.
const KEPT_THROUGH: &str =
    "UPDATE @days SET kept_through = $2 WHERE day = $1 AND kept_through < $2";
/// $1 day, $2 through.
const STRIPPED_THROUGH: &str = "UPDATE @days SET stripped_through = $2 WHERE day = $1";
/// $1 day.
const HAS_NO_PAYLOADS: &str = "UPDATE @days SET has_payloads = false WHERE day = $1";

// Finds messages to be handled one by one: $1 is failed, $2 done up to this, $3 limit.

const PAST_KEPT: &str = "
    SELECT seq FROM @payloads_kept WHERE is_failed = $1 AND done_at <= $2 ORDER BY done_at LIMIT $3";
/// $4 done since, $5 first number, $6 the one after the last.
pub(super) const PAST_CONTENTS: &str = "
    SELECT o.seq, o.done_at FROM @outcomes o
    WHERE o.seq >= $5 AND o.seq < $6 AND o.is_failed = $1 AND o.done_at >= $4 AND o.done_at <= $2
      AND EXISTS (SELECT FROM @payloads c WHERE c.seq = o.seq AND c.seq >= $5 AND c.seq < $6)
    ORDER BY o.done_at LIMIT $3";
/// $1 done up to this, $2 limit, $3 first number, $4 the one after the last.
pub(super) const PAST_RECORDS: &str = "
    SELECT seq FROM @outcomes WHERE seq >= $3 AND seq < $4 AND done_at <= $1 ORDER BY done_at LIMIT $2";
/// $1 done after this, $2 accepted before, $3 limit, $4 first number. For rows written while the clock was ahead.
const AHEAD_RECORDS: &str = "
    SELECT seq FROM @outcomes WHERE seq >= $4 AND seq < $2 AND done_at > $1 ORDER BY done_at LIMIT $3";
/// $1 seqs.
const DELETE_DELIVERIES: &str = "DELETE FROM @deliveries WHERE seq = ANY($1) RETURNING request_id";
/// $1 seqs.
const DELETE_MESSAGES: [&str; 7] = [
    "DELETE FROM @payloads WHERE seq = ANY($1)",
    "DELETE FROM @payloads_kept WHERE seq = ANY($1)",
    "DELETE FROM @replays WHERE seq = ANY($1)",
    "DELETE FROM @erasures WHERE seq = ANY($1)",
    "DELETE FROM @deletions WHERE seq = ANY($1)",
    "DELETE FROM @outcomes WHERE seq = ANY($1)",
    "DELETE FROM @messages WHERE seq = ANY($1)",
];
/// $1 ids. Locks the requests, so that what they carry cannot change.
const REQUESTS: &str =
    "SELECT id, seqs, parts, merged_into FROM @requests WHERE id = ANY($1) ORDER BY id FOR UPDATE";
/// $1 ids, $2 messages that they may carry. Returns the requests that have a delivery.
const CARRYING: &str =
    "SELECT DISTINCT request_id FROM @deliveries WHERE seq = ANY($2) AND request_id = ANY($1)";
/// $1 ids.
const THERE: &str = "SELECT id FROM @requests WHERE id = ANY($1)";
/// $1 ids.
const DELETE_ATTEMPTS: &str = "DELETE FROM @attempts WHERE request_id = ANY($1)";
/// $1 ids.
const DELETE_REQUESTS: &str = "DELETE FROM @requests WHERE id = ANY($1)";

/// $1 step, $2 ended before or at, $3 limit.
const DELETE_TALLIES: &str = "
    DELETE FROM @tallies t USING (
        SELECT step, at, stage, destination, source, subscription, reason FROM @tallies
        WHERE step = $1 AND at <= $2 - $1 ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED) d
    WHERE t.step = d.step AND t.at = d.at AND t.stage = d.stage AND t.destination = d.destination
      AND t.source = d.source AND t.subscription = d.subscription AND t.reason = d.reason";
/// $1 last seen before, $2 limit.
const DELETE_AUDIT: &str = "
    DELETE FROM @audit WHERE id IN (SELECT id FROM @audit WHERE at <= $1 ORDER BY at LIMIT $2)";
const DELETE_EVENT_NAMES: &str = "
    DELETE FROM @event_names e USING (
        SELECT source, name FROM @event_names WHERE last_seen_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED) d
    WHERE e.source = d.source AND e.name = d.name";

/// $1 first number, $2 the one after the last.
pub(super) const NEWEST_MESSAGE: &str = "
    SELECT received_at FROM @messages WHERE seq >= $1 AND seq < $2 ORDER BY seq DESC LIMIT 1";
/// $1 first number, $2 the one after the last.
pub(super) const LAST_DONE: &str =
    "SELECT MAX(done_at) FROM @outcomes WHERE seq >= $1 AND seq < $2";

/// How many messages of each kind one call handles one by one, and how many payloads it copies.
const ROWS_MAX: i64 = 200;
const COPIES_MAX: i64 = 1_000;

/// How long tallies by minute are kept.
const MINUTES_KEPT: Duration = Duration::from_secs(48 * 60 * 60);

/// A record that ended further in the future than this was written while the clock was ahead. (A year, because the
/// clock may be behind now.) Whether such a record is past its retention is decided by the order of acceptance.
const AHEAD_MIN: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// How far clocks may differ: a message is hardly ever done this long before its number was given.
const SKEW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The lease of the process that removes data. No destination has this name.
pub(super) const CHORES: &str = "~chores";

/// How long that lease lasts after the last call: longer than one call takes, which removes at most four partitions.
const CHORES_TTL: Duration = partitions::REMOVE_TIMEOUT.saturating_mul(5);

/// How long a day is left alone after its end, however short the retentions are: a transaction with a number from
/// before midnight may commit later.
const SETTLED_AFTER: Duration = Duration::from_secs(60 * 60);

/// How often erased rows are vacuumed. Each run vacuums a few tables of every day with erased messages.
const VACUUM_EVERY: Duration = Duration::from_secs(10 * 60);

/// The memory of a process that removes data.
#[derive(Debug)]
pub(super) struct Purger {
    /// The unique name of the process.
    holder: String,
    /// For delivered and for failed messages: when the last one was done whose contents were removed one by one. No
    /// earlier ones are left, so the index of outcomes need not be read from its beginning.
    done_since: Mutex<[i64; 2]>,
    vacuumed_at: Mutex<Option<Instant>>,
}

impl Purger {
    pub(super) fn new() -> Self {
        let holder = uuid::Uuid::now_v7().to_string();
        Self { holder, done_since: Mutex::new([i64::MIN; 2]), vacuumed_at: Mutex::default() }
    }

    /// Whether this process removes data now.
    async fn has_lease(&self, connection: &Connection) -> Result<bool, Fault> {
        let (now, ttl) = (None::<i64>, duration_ms(CHORES_TTL));
        let longest = ttl.saturating_mul(10);
        let params = params![CHORES, self.holder, now, ttl, longest];
        Ok(connection.query_opt(lease::LEASE, params).await?.is_some())
    }
}

/// One call of the purge.
pub(super) struct Purge<'a> {
    pub(super) connections: &'a Connections,
    pub(super) purger: &'a Purger,
    pub(super) retention: Retention,
    /// The current time in Unix milliseconds.
    pub(super) now: i64,
}

impl Purge<'_> {
    /// Removes a bounded part; returns how many rows changed, or how many partitions were dropped.
    pub(super) async fn run(&self) -> Result<u64, Fault> {
        let connection = self.connections.get().await?;
        if !self.purger.has_lease(&connection).await? {
            connection.give_back();
            return Ok(0);
        }
        let days = partitions::days(&connection).await?;
        connection.give_back();
        let mut rows = self.drop_day(&days).await?;
        if rows == 0 {
            rows = self.drop_contents(&days).await?;
        }
        if rows == 0 {
            rows = self.delete(&days).await?;
        }
        if rows == 0 {
            rows = self.drop_requests(&days).await?;
        }
        if rows == 0 && self.is_vacuum_due() {
            rows = erase::vacuum(self.connections).await?;
        }
        Ok(rows)
    }

    /// Returns a time. Everything that ended at or before it is past its retention.
    fn before(&self, kept: Duration) -> i64 {
        self.now.saturating_sub(duration_ms(kept))
    }

    /// Returns a time. Days that ended at or before it are past their retention.
    fn day_before(&self, kept: Duration) -> i64 {
        self.before(kept.max(SETTLED_AFTER))
    }

    fn is_vacuum_due(&self) -> bool {
        let mut at = self.purger.vacuumed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = at.is_none_or(|at| at.elapsed() >= VACUUM_EVERY);
        if is_due {
            *at = Some(Instant::now());
        }
        is_due
    }

    /// Returns a time. Everything that ended after it was written while the clock was ahead.
    fn ahead(&self) -> i64 {
        self.now.saturating_add(duration_ms(AHEAD_MIN))
    }

    /// Drops the records of the first day on which every message is past its retention.
    async fn drop_day(&self, days: &[Day]) -> Result<u64, Fault> {
        let (past, day_past) =
            (self.before(self.retention.records), self.day_before(self.retention.records));
        let connection = self.connections.get().await?;
        let mut gone = None;
        for day in days.iter().filter(|day| day.has_records && day.is_before(day_past)) {
            let (first, end, ahead) = (day.first(), day.end(), self.ahead());
            let params = params![first, end, past, ahead];
            if get(&connection.query_one(DAY_IS_PAST, params).await?, 0)? {
                gone = Some(day);
                break;
            }
        }
        connection.give_back();
        let Some(day) = gone else { return Ok(0) };
        // From here on, the day cannot change: it has no contents that could be replayed. Messages go first, so that
        // none is shown without what belongs to it.
        self.remove(&["messages", "payloads", "outcomes", "deliveries"], day).await?;
        let connection = self.connections.get().await?;
        let (first, end) = (day.first(), day.end());
        let mut rows = 4;
        for text in DELETE_OF_DAY {
            rows += connection.execute(text, params![first, end]).await?;
        }
        connection.execute(HAS_NO_RECORDS, params![day.day]).await?;
        connection.give_back();
        Ok(rows)
    }

    /// Drops the requests and attempts of the first day whose requests carry no existing message.
    async fn drop_requests(&self, days: &[Day]) -> Result<u64, Fault> {
        let connection = self.connections.get().await?;
        let mut gone = None;
        let past = self.day_before(Duration::ZERO);
        let without_records =
            days.iter().enumerate().filter(|(_, day)| !day.has_records && day.is_before(past));
        for (index, day) in without_records {
            let has_earlier = days[..index].iter().any(|earlier| earlier.has_records);
            let (first, end) = (day.first(), day.end());
            let range = params![first, end];
            if !has_earlier || !get::<bool>(&connection.query_one(IS_NEEDED, range).await?, 0)? {
                gone = Some(day);
                break;
            }
        }
        connection.give_back();
        let Some(day) = gone else { return Ok(0) };
        self.remove(&["requests", "attempts"], day).await?;
        let connection = self.connections.get().await?;
        connection.execute(DELETE_DAY, params![day.day]).await?;
        connection.give_back();
        Ok(2)
    }

    /// Removes partitions of a day. That may take long, since it waits for every transaction that uses the tables.
    async fn remove(&self, tables: &[&str], day: &Day) -> Result<(), Fault> {
        let connection = self.connections.get().await?;
        for table in tables {
            partitions::remove(&connection, table, day.day).await?;
        }
        connection.give_back();
        Ok(())
    }

    /// Continues with the first day whose contents are past their retention, except those that are kept.
    async fn drop_contents(&self, days: &[Day]) -> Result<u64, Fault> {
        let past = self.day_before(self.retention.delivered);
        let Some(day) = days.iter().find(|day| day.has_payloads && day.is_before(past)) else {
            return Ok(0);
        };
        let rows = self.keep(day).await?;
        if rows > 0 {
            return Ok(rows);
        }
        let rows = self.strip(day).await?;
        if rows > 0 {
            return Ok(rows);
        }
        self.remove(&["payloads"], day).await?;
        let connection = self.connections.get().await?;
        connection.execute(HAS_NO_PAYLOADS, params![day.day]).await?;
        connection.give_back();
        Ok(1)
    }

    /// Copies payloads that outlive their day; returns zero once none is left to copy.
    async fn keep(&self, day: &Day) -> Result<u64, Fault> {
        let (after, last) = (day.kept_through.max(day.first() - 1), day.end() - 1);
        if after >= last {
            return Ok(0);
        }
        let transaction = self.connections.transaction().await?;
        // Pending messages go first, and are locked: a message that ends before is found among the done ones.
        let (mut seqs, mut through) = (Array(Vec::new()), last);
        let found = transaction.query(KEEP_PENDING, params![after, last, COPIES_MAX]).await?;
        take(&mut seqs, &mut through, &found)?;
        for (is_failed, kept) in [(false, self.retention.delivered), (true, self.retention.failed)]
        {
            let (past, ahead, part) = (self.before(kept), self.ahead(), through);
            let params = params![after, part, COPIES_MAX, is_failed, past, ahead];
            let found = transaction.query(KEEP_DONE, params).await?;
            take(&mut seqs, &mut through, &found)?;
        }
        seqs.0.retain(|seq| *seq <= through);
        let mut rows = 0;
        if !seqs.0.is_empty() {
            rows = transaction.execute(KEEP, params![seqs]).await?;
        }
        rows += transaction.execute(KEPT_THROUGH, params![day.day, through]).await?;
        transaction.commit().await?;
        // Another process may have been faster.
        Ok(rows.max(1))
    }

    /// Removes what responses and failures repeat of the contents that are about to be dropped.
    async fn strip(&self, day: &Day) -> Result<u64, Fault> {
        let transaction = self.connections.transaction().await?;
        let (after, end) = (day.stripped_through.max(day.first() - 1), day.end());
        let params = params![after, end, COPIES_MAX];
        let found = transaction.query(STRIP_NEXT, params).await?;
        let mut seqs: Array<i64> = found.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        let mut rows = 0;
        if let Some(last) = seqs.0.last().copied() {
            let kept = transaction.query(KEPT, params![seqs]).await?;
            let kept: Vec<i64> = kept.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
            seqs.0.retain(|seq| !kept.contains(seq));
            rows = contents::strip(&transaction, &seqs).await?;
            rows += transaction.execute(STRIPPED_THROUGH, params![day.day, last]).await?;
        }
        transaction.commit().await?;
        Ok(rows)
    }

    /// Deletes one by one the rows that are not dropped with a day.
    async fn delete(&self, days: &[Day]) -> Result<u64, Fault> {
        let Retention { delivered, failed, records, whole_days_for } = self.retention;
        let transaction = self.connections.transaction().await?;
        let mut rows = 0;
        for (is_failed, kept) in [(false, delivered), (true, failed)] {
            let past = self.before(kept);
            let found = transaction.query(PAST_KEPT, params![is_failed, past, ROWS_MAX]).await?;
            let seqs = found.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
            rows += drop_contents(&transaction, Array(seqs)).await?;
            let past = self.before(kept.saturating_add(whole_days_for));
            rows += self.delete_contents(&transaction, days, is_failed, past).await?;
        }
        let past = self.before(records.saturating_add(whole_days_for));
        rows += self.delete_records(&transaction, days, past).await?;
        for (step, kept) in
            [(TallyStep::Minute, MINUTES_KEPT.min(records)), (TallyStep::Hour, records)]
        {
            let step = i32::try_from(step.ms()).unwrap_or(i32::MAX);
            let past = self.before(kept);
            let params = params![step, past, ROWS_MAX];
            rows += transaction.execute(DELETE_TALLIES, params).await?;
        }
        for (text, kept) in [
            (feedback::PAST, records),
            (feedback::PAST_FORWARDS, FORWARD_KEPT),
            (receipts::PAST, RECEIPTS_KEPT),
            (awaiting::PAST, AWAITING_KEPT),
            (new_contacts::PAST, records),
        ] {
            let past = self.before(kept);
            rows += transaction.execute(text, params![past, ROWS_MAX]).await?;
        }
        let past = self.before(records);
        rows += transaction.execute(DELETE_AUDIT, params![past, ROWS_MAX]).await?;
        let first_kept = i32::try_from(first_kept_day(self.now)).unwrap_or(i32::MIN);
        rows += transaction.execute(contacts::PAST, params![first_kept, ROWS_MAX]).await?;
        let first_kept = i32::try_from(first_day_of_conflicts(self.now)).unwrap_or(i32::MIN);
        rows += transaction.execute(conflicts::PAST, params![first_kept, ROWS_MAX]).await?;
        // No index finds these rows, so search only when little else is left.
        if rows < ROWS_MAX.unsigned_abs() {
            let params = params![past, ROWS_MAX];
            rows += transaction.execute(DELETE_EVENT_NAMES, params).await?;
        }
        transaction.commit().await?;
        Ok(rows)
    }

    /// Removes the contents of messages that were done up to a time and whose contents are still in their day's
    /// partition.
    async fn delete_contents(
        &self,
        transaction: &Connection,
        days: &[Day],
        is_failed: bool,
        past: i64,
    ) -> Result<u64, Fault> {
        let skew = duration_ms(SKEW_MAX);
        let with_payloads: Vec<Day> = days
            .iter()
            .filter(|day| {
                day.has_payloads && day.first() <= numbers::first_at(past.saturating_add(skew))
            })
            .copied()
            .collect();
        let index = usize::from(is_failed);
        let since = self.done_since()[index];
        let (mut seqs, mut last) = (Array(Vec::new()), past);
        for (first, end) in partitions::parts(&with_payloads) {
            let limit = ROWS_MAX - seqs.0.len() as i64;
            let params = params![is_failed, past, limit, since, first, end];
            let found = transaction.query(PAST_CONTENTS, params).await?;
            for row in &found {
                seqs.0.push(get(row, 0)?);
            }
            if seqs.0.len() as i64 >= ROWS_MAX {
                last = since;
                break;
            }
        }
        let rows = drop_contents(transaction, seqs).await?;
        // If the transaction fails, these messages are found again after a restart, or are dropped with their day.
        self.done_since()[index] = last;
        Ok(rows)
    }

    /// Deletes the records of messages that were done up to a time.
    async fn delete_records(
        &self,
        transaction: &Connection,
        days: &[Day],
        past: i64,
    ) -> Result<u64, Fault> {
        let accepted = numbers::first_at(past.saturating_add(duration_ms(SKEW_MAX)));
        let of_time: Vec<Day> =
            days.iter().filter(|day| day.has_records && day.first() <= accepted).copied().collect();
        let mut seqs = Array(Vec::new());
        for (first, end) in partitions::parts(&of_time) {
            let limit = ROWS_MAX - seqs.0.len() as i64;
            for row in transaction.query(PAST_RECORDS, params![past, limit, first, end]).await? {
                seqs.0.push(get(&row, 0)?);
            }
            if seqs.0.len() as i64 >= ROWS_MAX {
                break;
            }
        }
        let Some(last) = seqs.0.iter().max().copied() else { return Ok(0) };
        let oldest = of_time.first().map_or(0, Day::first);
        let ahead = self.ahead();
        let params = params![ahead, last, ROWS_MAX, oldest];
        for row in transaction.query(AHEAD_RECORDS, params).await? {
            seqs.0.push(get(&row, 0)?);
        }
        delete(transaction, &seqs).await
    }

    fn done_since(&self) -> std::sync::MutexGuard<'_, [i64; 2]> {
        // Each change is a single assignment.
        self.purger.done_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the rows that a statement found. If the limit was reached, they are complete only up to the last of them.
fn take(seqs: &mut Array<i64>, through: &mut i64, found: &[Row]) -> Result<(), Fault> {
    for row in found {
        seqs.0.push(get(row, 0)?);
    }
    if found.len() as i64 >= COPIES_MAX
        && let Some(last) = seqs.0.last()
    {
        *through = *last;
    }
    Ok(())
}

/// Removes the contents of messages if they are still done.
async fn drop_contents(transaction: &Connection, seqs: Array<i64>) -> Result<u64, Fault> {
    if seqs.0.is_empty() {
        return Ok(0);
    }
    let done = transaction.query(LOCK_DONE, params![seqs]).await?;
    let done: Array<i64> = done.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    contents::drop_all(transaction, &done).await
}

/// Deletes messages that are still done, with everything that belongs to them. A request stays while another message
/// needs it.
async fn delete(transaction: &Connection, seqs: &Array<i64>) -> Result<u64, Fault> {
    let done = transaction.query(LOCK_DONE, params![*seqs]).await?;
    let done: Array<i64> = done.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    let deliveries = transaction.query(DELETE_DELIVERIES, params![done]).await?;
    let mut requests: Vec<i64> = Vec::new();
    for row in &deliveries {
        requests.extend(get::<Option<i64>>(row, 0)?);
    }
    requests.sort_unstable();
    requests.dedup();
    let mut rows = deliveries.len() as u64 + delete_requests(transaction, requests).await?;
    for text in DELETE_MESSAGES {
        rows += transaction.execute(text, params![done]).await?;
    }
    Ok(rows)
}

/// Deletes requests that no longer carry anything, with their attempts. A merged request that was taken apart goes with
/// its last part.
async fn delete_requests(transaction: &Connection, ids: Vec<i64>) -> Result<u64, Fault> {
    if ids.is_empty() {
        return Ok(0);
    }
    let ids = Array(ids);
    let (mut carried, mut merged) = (Array(Vec::new()), Array(Vec::new()));
    for row in transaction.query(REQUESTS, params![ids]).await? {
        carried.0.extend(get::<Vec<i64>>(&row, 1)?);
        merged.0.extend(get::<Option<i64>>(&row, 3)?);
    }
    let mut gone = Array(ids.0.clone());
    for row in transaction.query(CARRYING, params![ids, carried]).await? {
        let carrying: i64 = get(&row, 0)?;
        gone.0.retain(|id| *id != carrying);
    }
    let mut rows = drop_requests(transaction, &gone).await?;
    if !merged.0.is_empty() {
        let mut gone = Array(Vec::new());
        for row in transaction.query(REQUESTS, params![merged]).await? {
            let parts = Array(get::<Option<Vec<i64>>>(&row, 2)?.unwrap_or_default());
            if transaction.query(THERE, params![parts]).await?.is_empty() {
                gone.0.push(get(&row, 0)?);
            }
        }
        rows += drop_requests(transaction, &gone).await?;
    }
    Ok(rows)
}

async fn drop_requests(transaction: &Connection, ids: &Array<i64>) -> Result<u64, Fault> {
    if ids.0.is_empty() {
        return Ok(0);
    }
    Ok(transaction.execute(DELETE_ATTEMPTS, params![*ids]).await?
        + transaction.execute(DELETE_REQUESTS, params![*ids]).await?)
}

/// Returns when the last message was received or done, whichever is later, in Unix milliseconds.
pub(super) async fn newest(connection: &Connection) -> Result<Option<i64>, Fault> {
    let mut days = partitions::days(connection).await?;
    days.retain(|day| day.has_records);
    let parts: Vec<(i64, i64)> = partitions::parts(&days).collect();
    let mut received: Option<i64> = None;
    let mut done: Option<i64> = None;
    for (first, end) in parts.into_iter().rev() {
        if received.is_none() {
            let row = connection.query_opt(NEWEST_MESSAGE, params![first, end]).await?;
            received = row.map(|row| get(&row, 0)).transpose()?;
        }
        let row = connection.query_one(LAST_DONE, params![first, end]).await?;
        done = done.max(get(&row, 0)?);
    }
    Ok(received.max(done))
}
