//! The writer's connection: opens it, keeps committed data safe, and empties the write-ahead log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::runtime::Handle;

use super::error::Fault;
use super::health::{Health, Remedy};
use super::open::{FileOptions, check_schema, empty_wal};
use super::reader::Readers;
use crate::config::WalMode;
use crate::telemetry;

/// How long to wait before trying again after a reader kept the write-ahead log from being emptied.
const EMPTY_WAL_EVERY: Duration = Duration::from_secs(1);

/// How long to wait for busy readers when the write-ahead log is emptied. The writer writes nothing meanwhile.
const EMPTY_WAL_PATIENCE: Duration = Duration::from_millis(50);

/// How long other processes may take to notice that the log was moved, and to close the database.
const ALONE_PATIENCE: Duration = Duration::from_secs(10);
const ALONE_PAUSE: Duration = Duration::from_millis(20);

/// How long to wait before trying again after an attempt to make the store safe failed.
const REMEDY_EVERY: Duration = Duration::from_secs(1);

/// Copies as much of the log into the database as readers allow.
const MOVE_LOG: &str = "PRAGMA wal_checkpoint(PASSIVE)";

#[derive(Debug)]
pub(super) struct WriterConnection {
    /// `None` after a failure. The next group opens a new connection.
    connection: Option<Connection>,
    file: FileOptions,
    health: Arc<Health>,
    /// All other connections of this store.
    readers: [Readers; 2],
    runtime: Handle,
    /// Whether the write-ahead log may hold contents that were erased.
    wal_holds_erased: bool,
    /// When the writer last tried to empty the write-ahead log.
    wal_tried_at: Instant,
    /// When making the store safe last failed; `None` if it did not.
    remedy_failed_at: Option<Instant>,
}

impl WriterConnection {
    pub(super) fn new(
        connection: Connection,
        file: FileOptions,
        health: Arc<Health>,
        readers: [Readers; 2],
        runtime: Handle,
    ) -> Self {
        // A killed process may have left erased contents in the log.
        let wal_holds_erased = file.wal == WalMode::Own;
        Self {
            connection: Some(connection),
            file,
            health,
            readers,
            runtime,
            wal_holds_erased,
            wal_tried_at: Instant::now(),
            remedy_failed_at: None,
        }
    }

    /// Returns the connection; opens one if the previous one was given up.
    pub(super) fn get(&mut self) -> Result<&mut Connection, Fault> {
        if self.connection.is_none() {
            self.open()?;
        }
        self.connection.as_mut().ok_or(Fault::Closed)
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Gives the connection up after a failure, since its state is not known: a full disk may have ended the
    /// transaction already. If the log was moved or must be saved, it can be read only through this connection, which
    /// then stays open.
    pub(super) fn failed(&mut self) {
        if self.health.files.look().is_ok() && self.health.remedy() != Some(Remedy::Save) {
            self.give_up();
        }
    }

    /// Fails unless the files hold everything that was committed, so that messages can be acknowledged. If the store is
    /// unsafe and the writer can make it safe, it does.
    pub(super) fn secure(&mut self) -> Result<(), Fault> {
        let checked = self.health.check(self.connection.as_ref());
        let Some(remedy) = self.health.remedy() else { return checked };
        if self.remedy_failed_at.is_some_and(|at| at.elapsed() < REMEDY_EVERY) {
            return checked;
        }
        let cured = match remedy {
            Remedy::Save => self.save_log(),
            Remedy::Reopen => self.reopen(),
        };
        self.remedy_failed_at = cured.is_err().then(Instant::now);
        if let Err(fault) = &cured {
            let error = telemetry::chain(fault);
            tracing::warn!(%error, ?remedy, "could not make the database safe again; trying again");
        }
        cured.and_then(|()| self.health.admit())
    }

    /// Moves a log with wrong checksums into the database and empties it. The index still finds all pages of the log.
    /// So no connection may be closed first: once the last one is, SQLite rebuilds the index, and finds only the frames
    /// before the first wrong one.
    fn save_log(&mut self) -> Result<(), Fault> {
        if self.connection.is_none() {
            self.open()?;
            // Now the log can be checked for truncation. A truncated log must not be moved.
            self.health.check(self.connection.as_ref()).or_else(|fault| match fault {
                Fault::LogOverwritten => Ok(()),
                fault => Err(fault),
            })?;
        }
        let connection = self.connection.as_ref().ok_or(Fault::Closed)?;
        if !empty_wal(connection)? {
            return Err(Fault::KeptByReader);
        }
        self.health.saved();
        Ok(())
    }

    /// Closes all connections of this process and opens the files that are now at their paths.
    fn reopen(&mut self) -> Result<(), Fault> {
        let [readers, lookups] = self.readers.clone();
        let pause = async { (readers.pause().await, lookups.pause().await) };
        let _paused = self.runtime.block_on(pause);
        self.health.files.look_at_database()?;
        if self.health.must_be_alone() {
            self.close_moved_log()?;
            self.health.was_alone();
        }
        self.give_up();
        self.open()?;
        self.health.reopened();
        Ok(())
    }

    /// Copies a log that is no longer at its path into the database, through the connection that has it open. Then
    /// waits until no process has the database open; otherwise one database would have two logs.
    fn close_moved_log(&mut self) -> Result<(), Fault> {
        let mark = self.health.files.mark_log()?;
        if let Some(connection) = &self.connection
            && mark.is_harmless()
        {
            // Closing would copy the log too. But if the disk is full, the connection must stay open, since the log is
            // lost with it.
            connection.query_row(MOVE_LOG, [], |_| Ok(()))?;
        }
        if let Some(connection) = &self.connection {
            // The last process that closes the database must delete the marked file.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        }
        self.give_up();
        let began = Instant::now();
        while self.health.files.has(&mark) {
            if began.elapsed() >= ALONE_PATIENCE {
                self.health.lost(&Fault::NotAlone);
                return Err(Fault::NotAlone);
            }
            std::thread::sleep(ALONE_PAUSE);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Fault> {
        self.health.files.look_at_database()?;
        let connection = self.file.open_writer()?;
        // The first read opens the log and its index.
        check_schema(&connection)?;
        self.health.files.opened()?;
        self.connection = Some(connection);
        Ok(())
    }

    fn give_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            close(connection);
            self.health.files.closed();
        }
    }

    /// Empties the write-ahead log because contents were erased.
    pub(super) fn empty_erased(&mut self) {
        self.wal_holds_erased = self.file.wal == WalMode::Own;
        self.empty_wal();
    }

    /// Empties the write-ahead log again if a reader prevented it a while ago.
    pub(super) fn empty_wal_if_due(&mut self) {
        if self.wal_tried_at.elapsed() >= EMPTY_WAL_EVERY {
            self.empty_wal();
        }
    }

    /// Returns how long to wait before emptying the write-ahead log; `None` if it holds nothing that was erased, or if
    /// another program empties it.
    pub(super) fn empties_wal_after(&self) -> Option<Duration> {
        self.wal_holds_erased.then_some(EMPTY_WAL_EVERY)
    }

    /// Moves the write-ahead log into the file and empties it, if it may still hold erased contents. A reader that is
    /// busy for longer than [`EMPTY_WAL_PATIENCE`] prevents that; the writer then tries again later.
    pub(super) fn empty_wal(&mut self) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.wal_holds_erased) else {
            return;
        };
        self.wal_tried_at = Instant::now();
        let emptied =
            connection.busy_timeout(EMPTY_WAL_PATIENCE).and_then(|()| empty_wal(connection));
        let emptied = connection.busy_timeout(self.file.busy_timeout).and(emptied);
        match emptied {
            Ok(is_empty) => self.wal_holds_erased = !is_empty,
            Err(error) => {
                tracing::debug!(%error, "could not empty the write-ahead log; trying again");
            }
        }
    }

    /// Moves the write-ahead log into the file and closes the connection. After a failed group there is no connection;
    /// this opens one, since readers cannot move the log.
    pub(super) fn close(&mut self) -> Result<(), Fault> {
        if let Err(fault) = self.health.check(self.connection.as_ref()) {
            tracing::debug!(%fault, "closing a database that is not safe");
        }
        if self.health.must_end().is_some() {
            // Part of the log is missing, or not in its index: SQLite must not copy zeros or stale pages.
            if let Some(connection) = self.connection.take() {
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
                close(connection);
            }
            return Ok(());
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.file.open_writer()?,
        };
        let emptied = match self.file.wal {
            WalMode::Own => empty_wal(&connection).map(|_| ()),
            // Leave the log, as a killed process would: nothing is lost.
            WalMode::External => Ok(()),
        };
        close(connection);
        Ok(emptied?)
    }
}

/// Closes a connection, and so rolls back its open transaction.
fn close(connection: Connection) {
    if let Err((_, error)) = connection.close() {
        tracing::debug!(%error, "could not close a connection");
    }
}
