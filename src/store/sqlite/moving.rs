//! The source of a move to PostgreSQL: the database of a data folder, opened exclusively.
//!
//! Before anything is copied, a row of `meta` marks the database. From then on, this program refuses to open it, and
//! processes that have it open write nothing more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, TransactionBehavior, params};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::{Fault, OpenError, explain};
use super::folder;
use super::mark::{Mark, mark};
use super::open::{FileOptions, Found, SCHEMA_VERSION, empty_wal, identify, version};
use super::options::SqliteOptions;
use super::restored::Restorations;
use super::rows::to_ms;
use crate::store::moving::MoveError;
use crate::store::moving::part::{Batch, Column, Cursor, Part};
use crate::store::postgres::numbers::Renumbering;
use crate::telemetry;

const SET_MARK: &str = "INSERT OR REPLACE INTO meta (name, value) VALUES ('moved', ?1)";
const DELETE_MARK: &str = "DELETE FROM meta WHERE name = 'moved'";
const INSTALLATION_KEY: &str = "SELECT value FROM meta WHERE name = 'installation_key'";

/// Tables of the new numbers: for messages, by their current number and by the one before any replay; for requests; and
/// the streams of destinations.
const MAKE_NUMBERS: &str = "
    CREATE TABLE moved_messages (old INTEGER PRIMARY KEY NOT NULL, new INTEGER NOT NULL);
    CREATE TABLE moved_requests (old INTEGER PRIMARY KEY NOT NULL, new INTEGER NOT NULL);
    CREATE TABLE moved_streams (no INTEGER PRIMARY KEY NOT NULL, destination TEXT NOT NULL, last INTEGER NOT NULL);";
const DROP_NUMBERS: &str = "
    DROP TABLE moved_messages; DROP TABLE moved_requests; DROP TABLE moved_streams;";
/// In the order of acceptance.
const POSITIONS: &str = "
    SELECT seq AS old, destination, received_at FROM messages
    UNION ALL
    SELECT p.first_seq, m.destination, m.received_at FROM replays p JOIN messages m ON m.seq = p.seq
    ORDER BY old";
const REQUESTS: &str = "SELECT id, created_at FROM requests ORDER BY id";

const SIZES: [&str; 3] = [
    "SELECT COUNT(*) FROM messages",
    "SELECT COUNT(*) FROM messages WHERE state = 0",
    "SELECT COUNT(*) FROM requests",
];

/// How many rows, and how many bytes, a batch has at most.
const BATCH_ROWS_MAX: usize = if cfg!(test) { 20 } else { 4_000 };
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many batches may wait to be written.
const BATCHES_WAITING_MAX: usize = 2;

/// How to read the rows of a part.
struct Reading {
    /// The statement that reads the key of each row and its columns. ?1 begin after this key.
    text: &'static str,
    /// The types of the columns: `n`umbers, `t`exts, `b`ytes.
    columns: &'static str,
}

fn reading(part: Part) -> Reading {
    let (columns, text) = match part {
        Part::Streams => (
            "tnn",
            "SELECT no + 1, destination, no, last FROM moved_streams WHERE no + 1 > ?1 ORDER BY no",
        ),
        Part::EventNames => (
            "ttnn",
            "SELECT id, source, name, first_seen_at, last_seen_at FROM event_names WHERE id > ?1 ORDER BY id",
        ),
        Part::Tallies => (
            "nntttttn",
            "SELECT * FROM (
                SELECT ROW_NUMBER() OVER (ORDER BY step, at, stage, destination, source, subscription, reason)
                           AS number,
                       step, at, stage, destination, source, subscription, reason, count
                FROM tallies)
             WHERE number > ?1 ORDER BY number",
        ),
        Part::Messages => (
            "nnnnnnnnttttttbnnnnnttb",
            "SELECT m.seq, n.new, m.message_hash, m.lane, m.anonymous, m.email, m.received_at, m.payload_bytes,
                    m.class, m.kind, m.source, m.destination, m.message_id, e.name, m.warnings, c.payload,
                    m.state, m.is_planned,
                    CASE WHEN m.state = 0 AND m.is_planned = 1 THEN (
                        SELECT MIN(r.next_attempt_at) FROM deliveries d JOIN requests r ON r.id = d.request_id
                        WHERE d.seq = m.seq AND r.state = 'pending'
                    ) END,
                    m.done_at, m.is_failed, m.unmatched, m.unmatched_detail, c.trace
             FROM messages m JOIN moved_messages n ON n.old = m.seq LEFT JOIN payloads c ON c.seq = m.seq
                 LEFT JOIN event_names e ON e.id = m.event_id
             WHERE m.seq > ?1 ORDER BY m.seq",
        ),
        Part::Deliveries => (
            "nnnnnnnttttttn",
            "SELECT d.id, n.new, d.replay, d.position, d.is_superseded, r.new, p.new, d.ended_at, d.state,
                    d.subscription, d.action, d.reason, d.detail, d.warnings, d.planned
             FROM deliveries d JOIN moved_messages n ON n.old = d.seq
                 LEFT JOIN moved_requests r ON r.old = d.request_id LEFT JOIN moved_requests p ON p.old = d.part_id
             WHERE d.id > ?1 ORDER BY d.id",
        ),
        // The merged request carries the deliveries until it is taken apart; from then on, its parts do. Bodies of
        // ended requests are not kept.
        Part::Requests => (
            "nttnnnnnnnttttb",
            "SELECT r.id, n.new,
                    (SELECT '{' || COALESCE(group_concat(DISTINCT o.new), '') || '}' FROM (
                        SELECT seq FROM deliveries WHERE request_id = r.id
                        UNION ALL
                        SELECT d.seq FROM requests p JOIN deliveries d ON d.request_id = p.id WHERE p.merged_into = r.id
                        UNION ALL
                        SELECT seq FROM deliveries WHERE request_id = r.merged_into AND part_id = r.id
                    ) s JOIN moved_messages o ON o.old = s.seq),
                    CASE WHEN r.is_merged = 1 THEN (
                        SELECT '{' || COALESCE(group_concat(o.new), '') || '}'
                        FROM requests p JOIN moved_requests o ON o.old = p.id WHERE p.merged_into = r.id
                    ) END,
                    i.new, r.attempts, r.is_merged, r.created_at, r.first_attempt_at, r.next_attempt_at, r.expires_at,
                    r.state, r.destination, r.path, r.idempotency_key,
                    CASE WHEN r.state IN ('pending', 'part') THEN r.body END
             FROM requests r JOIN moved_requests n ON n.old = r.id LEFT JOIN moved_requests i ON i.old = r.merged_into
             WHERE r.id > ?1 ORDER BY r.id",
        ),
        Part::Attempts => (
            "nnnnntt",
            "SELECT a.id, n.new, a.number, a.started_at, a.duration_ms, a.status, a.outcome, a.excerpt
             FROM attempts a JOIN moved_requests n ON n.old = a.request_id WHERE a.id > ?1 ORDER BY a.id",
        ),
        Part::Replays => (
            "nnnt",
            "SELECT p.seq, n.new, p.number, f.new, p.only_subscription
             FROM replays p JOIN moved_messages n ON n.old = p.seq JOIN moved_messages f ON f.old = p.first_seq
             WHERE p.seq > ?1 ORDER BY p.seq",
        ),
        Part::Deletions => (
            "nntn",
            "SELECT e.seq, n.new, e.lane, e.destination, COALESCE(a.new, n.new)
             FROM deletions e JOIN moved_messages n ON n.old = e.seq LEFT JOIN moved_messages a ON a.old = e.accepted
             WHERE e.seq > ?1 ORDER BY e.seq",
        ),
        // Erasures start over, since repeating one does no harm. An erasure whose own message was erased by a later
        // deletion has nothing left to do.
        Part::Erasures => (
            "nnt",
            "SELECT e.seq, n.new, m.lane, m.destination
             FROM erasures e JOIN messages m ON m.seq = e.seq JOIN moved_messages n ON n.old = e.seq
             WHERE e.seq > ?1 AND m.lane IS NOT NULL ORDER BY e.seq",
        ),
        Part::LoopsEvents => (
            "nnnnnnttttttttttb",
            "SELECT id, received_at, at, person, email, forward_at, forward_tries, destination, webhook_id, event,
                    contact_id, origin, origin_id, origin_name, email_id, forward_timestamp, forward_signature,
                    forward_body
             FROM loops_events WHERE id > ?1 ORDER BY id",
        ),
        Part::Audit => (
            "nntttttt",
            "SELECT id, id, at, role, session, process, action, arguments, result
             FROM audit WHERE id > ?1 ORDER BY id",
        ),
        // Accepted values are left out, since they refer to requests by their old numbers. They are learned again.
        Part::Contacts => (
            "nnnnnnnt",
            "SELECT id, contact, email, lane, reported_at, known_at, changed_day, is_shared, destination
             FROM contacts WHERE id > ?1 ORDER BY id",
        ),
        Part::OptOuts => (
            "nnnnttt",
            "SELECT id, person, email, at, is_lifted, destination, list, event
             FROM opt_outs WHERE id > ?1 ORDER BY id",
        ),
        Part::Held => (
            "nnnnnntt",
            "SELECT h.seq, n.new, h.lane, h.contact, h.email, h.since, h.is_due, h.destination, h.reason
             FROM held h JOIN moved_messages n ON n.old = h.seq WHERE h.seq > ?1 ORDER BY h.seq",
        ),
        Part::Creating => (
            "nnnt",
            "SELECT * FROM (
                SELECT ROW_NUMBER() OVER (ORDER BY c.seq, c.contact) AS number, n.new, c.contact, c.email, c.destination
                FROM creating c JOIN moved_messages n ON n.old = c.seq)
             WHERE number > ?1 ORDER BY number",
        ),
        Part::NewContactDays => (
            "tnnn",
            "SELECT * FROM (
                SELECT ROW_NUMBER() OVER (ORDER BY destination, day) AS number, destination, day, released, discarded
                FROM new_contact_days)
             WHERE number > ?1 ORDER BY number",
        ),
        Part::Awaiting => (
            "nnnntt",
            "SELECT * FROM (
                SELECT ROW_NUMBER() OVER (ORDER BY a.seq, a.subscription) AS number, n.new, a.lane, a.until, a.is_due,
                       a.subscription, a.destination
                FROM awaiting a JOIN moved_messages n ON n.old = a.seq)
             WHERE number > ?1 ORDER BY number",
        ),
        // Requests have new numbers, unless they have been deleted.
        Part::Receipts => (
            "nnnnnnnnnnnntttt",
            "SELECT r.id, r.message_hash, r.person, r.asked_at, q.new, r.deleted_at, r.confirmed_at, r.erased_at,
                    r.messages, r.feedback, r.contacts, r.opt_outs, r.status, r.receipt, r.destination, r.source,
                    r.problem
             FROM receipts r LEFT JOIN moved_requests q ON q.old = r.request_id
             WHERE r.id > ?1 ORDER BY r.id",
        ),
    };
    Reading { text, columns }
}

/// The database, opened exclusively. Dropping this lets other processes in.
#[derive(Debug)]
pub(in crate::store) struct Source {
    folder: PathBuf,
    mark: Option<Mark>,
    connection: Arc<Mutex<Connection>>,
}

impl Source {
    /// Opens the database of a data folder.
    pub(in crate::store) async fn open(folder: &Path) -> Result<Self, MoveError> {
        let from = folder.to_owned();
        run(move || {
            let path = folder::file_in(&from);
            if !path.is_file() {
                return Err(MoveError::NoSource { from });
            }
            let file = FileOptions::new(&SqliteOptions::new(&path));
            // Checked before anything is written: a file that is not ours stays as it is.
            let found = file.open_reader().and_then(|mut reader| {
                let snapshot = reader.transaction()?;
                Ok((identify(&snapshot)?, version(&snapshot)?))
            });
            let (found, version) = found.map_err(|fault| refused(explain(&path, fault)))?;
            match found {
                Found::Moved(_) if version != SCHEMA_VERSION => {
                    return Err(refused(OpenError::Older { path, version }));
                }
                Found::Ours | Found::Moved(_) => {}
                Found::Empty => return Err(MoveError::NoSource { from }),
                other => {
                    if let Some(refusal) = other.refusal(&path) {
                        return Err(refused(refusal));
                    }
                }
            }
            let connection = file.open_alone().map_err(|fault| match explain(&path, fault) {
                OpenError::Locked { .. } => MoveError::InUse { from: from.clone() },
                other => refused(other),
            })?;
            let mark = mark(&connection).map_err(|error| refused(explain(&path, error.into())))?;
            Ok(Self { folder: from, mark, connection: Arc::new(Mutex::new(connection)) })
        })
        .await
    }

    pub(in crate::store) fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// Returns the error for a queue that was not moved.
    pub(in crate::store) fn is_not_moved(&self) -> MoveError {
        MoveError::NotMoved { from: self.folder.clone() }
    }

    /// Returns the error for a queue that is being moved to another target.
    pub(in crate::store) fn is_elsewhere(&self) -> MoveError {
        let mark = self.mark.as_ref();
        MoveError::Elsewhere {
            from: self.folder.clone(),
            place: mark.map(|mark| mark.to.clone()).unwrap_or_default(),
            is_finished: mark.is_some_and(|mark| mark.finished_at.is_some()),
        }
    }

    pub(in crate::store) async fn installation_key(&self) -> Result<[u8; 32], MoveError> {
        self.with(|connection| {
            let key: Vec<u8> = connection.query_row(INSTALLATION_KEY, [], |row| row.get(0))?;
            let whole = key.try_into();
            whole.map_err(|_| Fault::Broken("the key of the installation is not whole"))
        })
        .await
    }

    /// Fails if a page is damaged, or if restored messages still wait.
    pub(in crate::store) async fn verify(&self) -> Result<(), MoveError> {
        let check = |connection: &Connection| {
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        };
        let problem: String = self.with(move |connection| Ok(check(connection)?)).await?;
        if problem != "ok" {
            return Err(MoveError::Damaged { from: self.folder.clone(), problem });
        }
        // Only their numbers show that they were restored, and a move changes those.
        let waiting =
            self.with(|connection| Restorations::load(connection)?.waiting(connection)).await?;
        match waiting {
            0 => Ok(()),
            count => Err(MoveError::Restored { from: self.folder.clone(), count }),
        }
    }

    /// Gives all messages and requests new numbers, and marks the queue as being moved.
    pub(in crate::store) async fn begin(
        &mut self,
        id: &str,
        to: &str,
        now: Timestamp,
    ) -> Result<(), MoveError> {
        let mark =
            Mark { id: id.to_owned(), to: to.to_owned(), began_at: to_ms(now), finished_at: None };
        let marked = mark.clone();
        let numbered = self.with(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(MAKE_NUMBERS)?;
            if !number(&transaction, &mut Renumbering::new(mark.began_at))? {
                return Ok(false);
            }
            set_mark(&transaction, &mark)?;
            crate::crash::point("commit.before");
            transaction.commit()?;
            crate::crash::point("commit.after");
            Ok(true)
        });
        if !numbered.await? {
            return Err(MoveError::ManyDestinations);
        }
        self.mark = Some(marked);
        Ok(())
    }

    /// Returns how many rows there are to copy.
    pub(in crate::store) async fn rows(&self) -> Result<u64, MoveError> {
        self.with(|connection| {
            let mut rows = 0;
            for part in Part::ALL {
                let count = format!("SELECT COUNT(*) FROM {}", part.table());
                rows +=
                    connection.query_row(&count, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
            }
            Ok(rows)
        })
        .await
    }

    /// Returns how many messages, pending messages and requests there are.
    pub(in crate::store) async fn sizes(&self) -> Result<[u64; 3], MoveError> {
        self.with(|connection| {
            let mut sizes = [0; 3];
            for (size, text) in sizes.iter_mut().zip(SIZES) {
                *size = connection.query_row(text, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
            }
            Ok(sizes)
        })
        .await
    }

    /// Reads the rows after a cursor in another thread, which ends with the last batch or when the receiver is dropped.
    pub(in crate::store) fn read(
        &self,
        cursor: Cursor,
    ) -> (mpsc::Receiver<Result<Batch, MoveError>>, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        let (connection, folder) = (Arc::clone(&self.connection), self.folder.clone());
        let reader = tokio::task::spawn_blocking(move || {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let send = |batch| sender.blocking_send(Ok(batch)).is_ok();
            if let Err(fault) = read(&connection, cursor, &send) {
                let _ = sender.blocking_send(Err(failed(&folder, fault)));
            }
        });
        (receiver, reader)
    }

    /// Marks the queue as moved.
    pub(in crate::store) async fn finish(&mut self, now: Timestamp) -> Result<(), MoveError> {
        let Some(mark) = self.mark.clone().filter(|mark| mark.finished_at.is_none()) else {
            return Ok(());
        };
        let mark = Mark { finished_at: Some(to_ms(now)), ..mark };
        self.mark = Some(mark.clone());
        self.with(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(DROP_NUMBERS)?;
            set_mark(&transaction, &mark)?;
            crate::crash::point("commit.before");
            transaction.commit()?;
            crate::crash::point("commit.after");
            empty_wal(connection)?;
            Ok(())
        })
        .await
    }

    /// Removes the mark: the queue can be used again.
    pub(in crate::store) async fn release(&mut self) -> Result<(), MoveError> {
        let has_numbers = self.mark.take().is_some_and(|mark| mark.finished_at.is_none());
        self.with(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if has_numbers {
                transaction.execute_batch(DROP_NUMBERS)?;
            }
            transaction.execute(DELETE_MARK, [])?;
            crate::crash::point("commit.before");
            transaction.commit()?;
            crate::crash::point("commit.after");
            empty_wal(connection)?;
            Ok(())
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, MoveError> {
        let (connection, folder) = (Arc::clone(&self.connection), self.folder.clone());
        run(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection).map_err(|fault| failed(&folder, fault))
        })
        .await
    }
}

/// Runs blocking work in another thread.
async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MoveError> + Send + 'static,
) -> Result<T, MoveError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(MoveError::Source(Box::new(error))))
}

fn refused(error: OpenError) -> MoveError {
    MoveError::Source(Box::new(error))
}

fn failed(folder: &Path, fault: Fault) -> MoveError {
    if fault.is_damage() || fault.is_broken() {
        let problem = telemetry::chain(&fault).to_string();
        return MoveError::Damaged { from: folder.to_owned(), problem };
    }
    MoveError::Source(Box::new(fault))
}

fn set_mark(transaction: &Connection, mark: &Mark) -> Result<(), Fault> {
    let text =
        serde_json::to_string(mark).map_err(|_| Fault::Broken("the mark cannot be written"))?;
    transaction.execute(SET_MARK, [text])?;
    Ok(())
}

/// Writes all new numbers; returns whether there were enough.
fn number(transaction: &Connection, numbers: &mut Renumbering) -> Result<bool, Fault> {
    let mut positions = transaction.prepare(POSITIONS)?;
    let mut insert =
        transaction.prepare("INSERT INTO moved_messages (old, new) VALUES (?1, ?2)")?;
    let mut rows = positions.query([])?;
    while let Some(row) = rows.next()? {
        let destination = row
            .get_ref(1)?
            .as_str()
            .map_err(|_| Fault::Unreadable { table: "messages", column: "destination" })?;
        let Some(new) = numbers.message(destination, row.get(2)?) else { return Ok(false) };
        insert.execute(params![row.get::<_, i64>(0)?, new])?;
    }
    let mut requests = transaction.prepare(REQUESTS)?;
    let mut insert =
        transaction.prepare("INSERT INTO moved_requests (old, new) VALUES (?1, ?2)")?;
    let mut rows = requests.query([])?;
    while let Some(row) = rows.next()? {
        insert.execute(params![row.get::<_, i64>(0)?, numbers.request(row.get(1)?)])?;
    }
    let mut insert = transaction
        .prepare("INSERT INTO moved_streams (destination, no, last) VALUES (?1, ?2, ?3)")?;
    for (destination, no, last) in numbers.streams() {
        insert.execute(params![destination, no, last])?;
    }
    Ok(true)
}

/// Reads the rows after a cursor, and passes them on in batches until one is refused.
pub(super) fn read(
    connection: &Connection,
    from: Cursor,
    give: &dyn Fn(Batch) -> bool,
) -> Result<(), Fault> {
    let mut cursor = from;
    for part in Part::ALL.into_iter().filter(|part| part.index() >= from.part) {
        if part.index() > cursor.part {
            cursor = Cursor { part: part.index(), through: 0, ..cursor };
        }
        let Reading { text, columns: types } = reading(part);
        let mut statement = connection.prepare(text)?;
        let mut rows = statement.query([cursor.through])?;
        let (mut columns, mut count, mut bytes) = (columns_of(types), 0, 0);
        let mut is_over = false;
        while !is_over {
            match rows.next()? {
                Some(row) => {
                    cursor.through = row.get(0)?;
                    bytes += add(&mut columns, row, part.table())?;
                    count += 1;
                }
                None => is_over = true,
            }
            let is_full = count >= BATCH_ROWS_MAX || bytes >= BATCH_BYTES_MAX;
            if count > 0 && (is_full || is_over) {
                cursor.rows += count as i64;
                let columns = std::mem::replace(&mut columns, columns_of(types));
                if !give(Batch { part, columns, cursor }) {
                    return Ok(());
                }
                (count, bytes) = (0, 0);
            }
        }
    }
    Ok(())
}

fn columns_of(types: &str) -> Vec<Column> {
    let column = |kind| match kind {
        'n' => Column::Numbers(Vec::new()),
        't' => Column::Texts(Vec::new()),
        _ => Column::Bytes(Vec::new()),
    };
    types.chars().map(column).collect()
}

/// Adds a row; returns its size in bytes.
fn add(columns: &mut [Column], row: &Row<'_>, table: &'static str) -> Result<usize, Fault> {
    let mut bytes = 0;
    for (index, column) in columns.iter_mut().enumerate() {
        // The first column is the key.
        match (column, row.get_ref(index + 1)?) {
            (Column::Numbers(values), ValueRef::Null) => values.push(None),
            (Column::Numbers(values), ValueRef::Integer(number)) => values.push(Some(number)),
            (Column::Texts(values), ValueRef::Null) => values.push(None),
            (Column::Texts(values), ValueRef::Text(text)) => {
                bytes += text.len();
                let text = std::str::from_utf8(text);
                let text = text.map_err(|_| Fault::Unreadable { table, column: "text" })?;
                values.push(Some(text.to_owned()));
            }
            (Column::Bytes(values), ValueRef::Null) => values.push(None),
            (Column::Bytes(values), ValueRef::Blob(blob)) => {
                bytes += blob.len();
                values.push(Some(blob.to_owned()));
            }
            _ => return Err(Fault::Unreadable { table, column: "value of another type" }),
        }
    }
    Ok(bytes)
}
