//! Restores a queue from a backup, or from another copy of its database.
//!
//! The copy is written beside its final path and prepared there: waiting messages count as tried
//! ([`restored`](super::restored)), the known property values of contacts are dropped, no event waits for its contact,
//! leases are free, and people who were erased since are erased again. Only then is the copy renamed, so that no
//! process ever finds it unprepared. The restored file itself stays unchanged.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::backup::quick_check;
use super::copied::{SET_BACKUP_AT, UNSET_COPIED_AT};
use super::error::{Fault, OpenError, explain};
use super::group::{Effects, Step as _};
use super::migrations::MIGRATIONS;
use super::network::network_disk;
use super::open::{Found, identify_as, upgrade_copy};
use super::part::{Part, Replaces, Taken, with_end};
use super::restored::{Restoration, Restorations};
use super::rows::{from_ms, to_ms};
use super::store::digests;
use super::{erase, folder, purge, receipts, set_aside, tally};
use crate::config::StoreConfig;
use crate::queue::{AuditAction, AuditEntry, Failure, FailureReason, Receipt, Seq};
use crate::segment::Digests;
use crate::store::copies::{CopyError, ReErased, Restored};
use crate::store::error::StoreError;
use crate::telemetry;

/// ?1 the time of the backup. Requests that were tried before keep their time.
const TRIED: &str = "
    UPDATE requests SET first_attempt_at = COALESCE(MIN(first_attempt_at, ?1), ?1)
    WHERE state = 'pending' AND idempotency_key IS NOT NULL";
/// The values at Loops may have changed since.
const FORGET_CONTACTS: &str = "UPDATE contacts SET properties = x''";
/// The waiting events may have been replayed since the backup, and the copy does not know that these replays were
/// tried.
const FORGET_AWAITING: &str = "DELETE FROM awaiting";
const FREE_LEASES: &str = "UPDATE leases SET holder = '', expires_at = 0";
const FORGET_REPLICAS: &str = "DELETE FROM replicas";
const LAST_SEQ: &str = "SELECT value FROM meta WHERE name = 'last_seq'";
/// The time of the last activity in the database, for copies without a mark of their time. A running process checks in
/// every few seconds.
const LAST_SEEN: &str = "
    SELECT MAX(at) FROM (
        SELECT MAX(last_seen_at) AS at FROM replicas
        UNION ALL
        SELECT MAX(taken_at) FROM leases
        UNION ALL
        SELECT MAX(started_at) FROM attempts)";
const COUNT: &str = "SELECT COUNT(*), COALESCE(SUM(state = 0), 0) FROM messages";
/// ?1 person, ?2 destination, ?3 accepted at or before. Includes messages that are not sorted in yet.
const OF_PERSON: &str = "
    SELECT seq, source, state FROM messages
    WHERE lane = ?1 AND destination = ?2 AND received_at <= ?3 ORDER BY seq";

/// The end of the name that the copy has until it is prepared.
const PART_ENDS: &str = ".part";

/// A copy beside its final path that is checked, but not prepared yet.
pub struct Restore {
    part: Part,
    target: PathBuf,
    connection: Connection,
    made_at: Timestamp,
    /// The version of the copy's schema, if it was an earlier one.
    migrated_from: Option<i32>,
    digests: Digests,
    /// The name of the copy in errors.
    from: String,
}

impl Restore {
    /// Copies a file, or standard input if it is `None`, into the configured data folder, checks the copy and migrates
    /// its schema. Blocks. `now` is the current time.
    pub fn open(
        from: Option<&Path>,
        config: &StoreConfig,
        now: Timestamp,
    ) -> Result<Self, CopyError> {
        Self::open_as(from, config, now, MIGRATIONS)
    }

    /// Does the same with these migrations.
    pub(super) fn open_as(
        from: Option<&Path>,
        config: &StoreConfig,
        now: Timestamp,
        migrations: &[&str],
    ) -> Result<Self, CopyError> {
        let target = folder::file_in(&config.data);
        for end in ["", "-wal", "-shm"] {
            let path = with_end(&target, end);
            if path.symlink_metadata().is_ok() {
                return Err(CopyError::HasDatabase { path });
            }
        }
        let name = from.map_or("standard input".to_owned(), |from| from.display().to_string());
        let unread = |source| CopyError::Read { from: name.clone(), source };
        let mut stream: Box<dyn Read> = match from {
            Some(from) => {
                let file = File::open(from).map_err(unread)?;
                if !file.metadata().map_err(unread)?.is_file() {
                    return Err(not_a_backup(&name, "it is not a file"));
                }
                for end in ["-wal", "-journal"] {
                    let log = with_end(from, end);
                    if std::fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
                        return Err(CopyError::HasLog { from: name, log });
                    }
                }
                Box::new(file)
            }
            None => Box::new(io::stdin().lock()),
        };
        make_folder(config, &target)?;
        let path = with_end(&target, PART_ENDS);
        let part = match Part::take(path.clone()) {
            Ok(part) => part,
            Err(Taken::Busy) => return Err(CopyError::Busy { path }),
            Err(Taken::Failed(source)) => {
                return Err(CopyError::Write { path, source: source.into() });
            }
        };
        pour(&mut stream, &part, &name)?;
        let Checked { connection, made_at, migrated_from } = check(&path, &name, migrations)?;
        let key = digests(&connection).map_err(|fault| damaged(&name, &fault))?;
        // If a clock was ahead, the events would never expire.
        let made_at = made_at.unwrap_or(now).min(now);
        Ok(Self { part, target, connection, made_at, migrated_from, digests: key, from: name })
    }

    /// Returns the digests of the copied installation, with which its receipts are signed.
    pub fn digests(&self) -> Digests {
        self.digests.clone()
    }

    /// Returns when the copy was made.
    pub fn made_at(&self) -> Timestamp {
        self.made_at
    }

    /// Prepares the copy, erases the people named by the receipts again, and gives the copy its final name.
    pub fn finish(mut self, receipts: &[Receipt], now: Timestamp) -> Result<Restored, CopyError> {
        let prepared = self.prepare(receipts, now);
        let (erased, messages, waiting) = prepared.map_err(|fault| self.failed(fault))?;
        let Self { part, target, connection, made_at, migrated_from, .. } = self;
        let closed = connection.close().map_err(|(_, error)| Fault::from(error));
        let write = |source| CopyError::Write { path: target.clone(), source };
        closed.map_err(|fault| write(Box::new(fault)))?;
        part.place(&target, Replaces::No).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CopyError::HasDatabase { path: target.clone() },
            _ => write(source.into()),
        })?;
        Ok(Restored { path: target, made_at, migrated_from, messages, waiting, erased })
    }

    fn failed(&self, fault: Fault) -> CopyError {
        if fault.is_damage() || fault.is_broken() {
            return damaged(&self.from, &fault);
        }
        CopyError::Write { path: self.part.path.clone(), source: Box::new(fault) }
    }

    /// Writes everything in one transaction. Returns what was erased, how many messages there are, and how many of them
    /// wait.
    fn prepare(
        &mut self,
        receipts: &[Receipt],
        now: Timestamp,
    ) -> Result<(ReErased, u64, u64), Fault> {
        let restorations = Restorations::load(&self.connection)?;
        let transaction = self.connection.transaction()?;
        let made_at = to_ms(self.made_at);
        let through = transaction.query_row(LAST_SEQ, [], |row| row.get(0))?;
        restorations.add(&transaction, Restoration { made_at, through })?;
        transaction.execute(TRIED, [made_at])?;
        transaction.execute(FORGET_CONTACTS, [])?;
        transaction.execute(FORGET_AWAITING, [])?;
        transaction.execute(FREE_LEASES, [])?;
        transaction.execute(FORGET_REPLICAS, [])?;
        transaction.execute(UNSET_COPIED_AT, [])?;
        transaction.execute(SET_BACKUP_AT, [made_at])?;
        let erased = erase_again(&transaction, receipts, &self.digests, now)?;
        entry(self.made_at, erased, now).run(&transaction, &mut Effects::default())?;
        let (messages, waiting): (i64, i64) =
            transaction.query_row(COUNT, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        transaction.commit()?;
        if erased.messages > 0 {
            // A deleted row may have left its bytes in an unused part of a page.
            self.connection.execute_batch("VACUUM")?;
        }
        Ok((erased, messages.unsigned_abs(), waiting.unsigned_abs()))
    }
}

fn not_a_backup(from: &str, why: impl Into<String>) -> CopyError {
    CopyError::NotABackup { from: from.to_owned(), why: why.into() }
}

fn damaged(from: &str, fault: &Fault) -> CopyError {
    let problem = match fault {
        Fault::Database { source } => source.to_string(),
        other => telemetry::chain(other).to_string(),
    };
    CopyError::Damaged { from: from.to_owned(), problem }
}

/// Makes the data folder, which must be on a local disk.
fn make_folder(config: &StoreConfig, target: &Path) -> Result<(), CopyError> {
    let refused = |error: OpenError| CopyError::Folder(StoreError::new(error));
    folder::make(config).map_err(refused)?;
    match network_disk(target) {
        Some(file_system) if !config.allow_network_disk => {
            Err(refused(OpenError::NetworkDisk { folder: config.data.clone(), file_system }))
        }
        _ => Ok(()),
    }
}

/// Writes a stream to the unfinished file.
fn pour(stream: &mut dyn Read, part: &Part, from: &str) -> Result<(), CopyError> {
    // Either side may fail, and the errors differ.
    let mut failed = None;
    let mut noted = Noted { stream, failed: &mut failed };
    let poured = io::copy(&mut noted, &mut &part.file);
    match (poured, failed) {
        (Ok(_), _) => Ok(()),
        (Err(source), Some(())) => Err(CopyError::Read { from: from.to_owned(), source }),
        (Err(source), None) => {
            Err(CopyError::Write { path: part.path.clone(), source: source.into() })
        }
    }
}

/// A stream that notes whether reading it failed.
struct Noted<'a> {
    stream: &'a mut dyn Read,
    failed: &'a mut Option<()>,
}

impl Read for Noted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        *self.failed = read.is_err().then_some(());
        read
    }
}

/// A copy that can be used.
struct Checked {
    connection: Connection,
    /// When it was made, if that is known.
    made_at: Option<Timestamp>,
    /// The version of its schema, if it was an earlier one.
    migrated_from: Option<i32>,
}

/// Opens the unfinished file exclusively, as one file without a log, checks that it is an intact database of this
/// release or an earlier one, and migrates it. So what prepares it knows this release's schema alone.
fn check(path: &Path, from: &str, migrations: &[&str]) -> Result<Checked, CopyError> {
    let open = || -> Result<_, Fault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        // Must come before the first access, so that SQLite needs no index of a log. The copy's log is empty.
        connection.pragma_update(None, "locking_mode", "exclusive")?;
        connection.pragma_update(None, "journal_mode", "delete")?;
        // The file is synced as a whole, and discarded if anything fails before.
        connection.pragma_update(None, "synchronous", "off")?;
        connection.pragma_update(None, "secure_delete", true)?;
        let found = identify_as(&connection, migrations)?;
        Ok((connection, found))
    };
    let (mut connection, found) = open().map_err(|fault| unusable(path, from, fault))?;
    let made_at = match found {
        Found::Copy(at) => Some(at),
        Found::Ours | Found::Older(_) => None,
        Found::Empty => return Err(not_a_backup(from, "it is empty")),
        Found::Foreign => return Err(not_a_backup(from, "it is a database of another program")),
        Found::Earlier => {
            return Err(not_a_backup(
                from,
                "an earlier build of this program wrote it, from before its first release, whose databases are not migrated",
            ));
        }
        Found::Later(version) => {
            return Err(not_a_backup(
                from,
                format!(
                    "a newer version of this program wrote it (schema {version}): restore it with that version"
                ),
            ));
        }
        Found::Moved(mark) => {
            return Err(not_a_backup(
                from,
                format!(
                    "its queue was moved, or was being moved, to PostgreSQL ({}): use that database",
                    mark.to
                ),
            ));
        }
        Found::Damaged => return Err(not_whole(from)),
    };
    let problem = quick_check(&connection).map_err(|error| unusable(path, from, error.into()))?;
    if problem != "ok" {
        return Err(CopyError::Damaged { from: from.to_owned(), problem });
    }
    let migrated = upgrade_copy(&mut connection, migrations)
        .and_then(|from| Ok((from, identify_as(&connection, migrations)?)));
    let (migrated_from, found) = migrated.map_err(|fault| unusable(path, from, fault))?;
    if !matches!(found, Found::Ours | Found::Copy(_)) {
        return Err(not_whole(from));
    }
    let made_at = match made_at {
        Some(at) => Some(at),
        None => last_seen(&connection).map_err(|fault| unusable(path, from, fault))?,
    };
    Ok(Checked { connection, made_at, migrated_from })
}

fn not_whole(from: &str) -> CopyError {
    let problem = "its schema was changed, or is not whole".to_owned();
    CopyError::Damaged { from: from.to_owned(), problem }
}

fn unusable(path: &Path, from: &str, fault: Fault) -> CopyError {
    match &fault {
        Fault::Database { source }
            if source.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) =>
        {
            not_a_backup(from, "it is not a database")
        }
        fault if fault.is_damage() || fault.is_broken() => damaged(from, fault),
        _ => CopyError::Write { path: path.to_owned(), source: Box::new(explain(path, fault)) },
    }
}

/// Returns the time of the last activity in a database.
fn last_seen(connection: &Connection) -> Result<Option<Timestamp>, Fault> {
    let seen: Option<i64> =
        connection.query_row(LAST_SEEN, [], |row| row.get(0)).optional()?.flatten();
    Ok(purge::newest(connection)?.max(seen.map(from_ms)))
}

/// Erases the people named by the receipts, and keeps the receipts.
fn erase_again(
    transaction: &Connection,
    receipts: &[Receipt],
    digests: &Digests,
    now: Timestamp,
) -> Result<ReErased, Fault> {
    let mut erased = ReErased::default();
    let mut effects = Effects::default();
    for receipt in receipts {
        if receipt.deleted_at.is_none() && receipt.erased_at.is_none() {
            erased.open += 1;
            continue;
        }
        erased.receipts += 1;
        let person = params![receipt.person.0, receipt.destination, to_ms(receipt.asked_at)];
        let messages: Vec<(i64, String, i64)> = transaction
            .prepare_cached(OF_PERSON)?
            .query_map(person, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        for (seq, source, state) in messages {
            if state == 0 {
                let ended = set_aside::Ended {
                    seq: Seq(seq),
                    destination: &receipt.destination,
                    source: &source,
                    now,
                    failure: &Failure {
                        reason: FailureReason::Expired,
                        detail: "its person was erased after the backup was made".to_owned(),
                    },
                };
                set_aside::end(transaction, &ended, &mut effects)?;
            }
            erase::erase_message(transaction, seq)?;
            erased.messages += 1;
        }
        erase::erase_beside(transaction, receipt.person.0, &receipt.destination)?;
        receipts::keep(transaction, receipt, digests, now)?;
    }
    tally::write(effects.tallies, transaction)?;
    Ok(erased)
}

/// Returns the restoration's entry in the audit log.
fn entry(made_at: Timestamp, erased: ReErased, now: Timestamp) -> AuditEntry {
    AuditEntry {
        at: now,
        role: "command".to_owned(),
        session: String::new(),
        process: "segment-loops restore".to_owned(),
        action: AuditAction::Restore,
        arguments: serde_json::json!({"backupOf": made_at.to_string()}).to_string(),
        result: format!("restored; {} receipts of erasures applied", erased.receipts),
    }
}
