//! Opens the file: creates it, checks that it is ours, and makes its schema. The errors are for the person who starts
//! the program.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior};
use tracing::{info, warn};

use super::copied;
use super::error::{Fault, OpenError, explain};
use super::mark::{self, Mark};
use super::migrations::MIGRATIONS;
use super::network::{folder_of, network_disk};
use super::options::SqliteOptions;
use crate::config::WalMode;
use crate::store::schema::Schema;

/// Whether all required single values exist, and none says that the queue was moved.
const HAS_META: &str = "
    SELECT COUNT(*) = 3 FROM meta
    WHERE name IN ('last_seq', 'sorted_through') AND typeof(value) = 'integer'
       OR name = 'installation_key' AND typeof(value) = 'blob' AND length(value) = 32
       OR name = 'moved'";

/// ?1 key.
const SET_INSTALLATION_KEY: &str = "UPDATE meta SET value = ?1 WHERE name = 'installation_key'";

/// The table of a row that refers to a row that does not exist.
const ORPHAN: &str = "SELECT \"table\" FROM pragma_foreign_key_check LIMIT 1";

/// Marks a file as ours: `SGLP`.
const APPLICATION_ID: i32 = 0x5347_4c50;

/// The version of the schema, raised with each migration. Until the first release, each edit of the first migration
/// raises it instead.
pub(super) const SCHEMA_VERSION: i32 = 20;

/// The version that the first migration makes.
const FIRST_VERSION: i32 = SCHEMA_VERSION + 1 - MIGRATIONS.len() as i32;

/// Switching a new file to the write-ahead log does not wait for a lock but fails at once, so two
/// processes that start together need another try, for as long as one may wait for a lock.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);
/// Page caches in KiB. The writer's holds the upper levels of the indices, which are hit at random.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
const READER_CACHE_KIB: i64 = 2 * 1024;
/// How many prepared statements a connection keeps: more than the program has.
const STATEMENTS_MAX: usize = 200;
/// Pages of 4 KiB in the write-ahead log before they are moved into the file: more than SQLite's default of 1,000, so
/// that a page that is written often is moved rarely.
const CHECKPOINT_PAGES: u32 = 4_000;
/// The size to which the write-ahead log is truncated after it has grown larger.
const WAL_BYTES_KEPT: u32 = 64 * 1024 * 1024;

/// How to open the file.
#[derive(Debug, Clone)]
pub(super) struct FileOptions {
    pub(super) path: PathBuf,
    /// How long to wait for another process's lock.
    pub(super) busy_timeout: Duration,
    /// Pages of 4 KiB that the file may have.
    pub(super) pages_max: Option<u32>,
    /// Who moves the write-ahead log into the file.
    pub(super) wal: WalMode,
}

impl FileOptions {
    pub(super) fn new(options: &SqliteOptions) -> Self {
        Self {
            path: options.path.clone(),
            busy_timeout: options.busy_timeout,
            pages_max: options.pages_max,
            wal: options.wal,
        }
    }

    pub(super) fn open_writer(&self) -> Result<Connection, Fault> {
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB)?;
        // SQLite silently opens a file that it cannot write for reading only.
        if connection.is_readonly("main")? {
            return Err(Fault::ReadOnly);
        }
        connection.pragma_update(None, "journal_mode", "wal")?;
        // Nothing less will do: a 2xx response promises that the message is on stable storage.
        connection.pragma_update(None, "synchronous", "full")?;
        let checkpoint_pages = match self.wal {
            WalMode::Own => CHECKPOINT_PAGES,
            WalMode::External => 0,
        };
        connection.pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
        if let Some(pages) = self.pages_max {
            connection.pragma_update(None, "max_page_count", pages)?;
        }
        Ok(connection)
    }

    pub(super) fn open_reader(&self) -> Result<Connection, Fault> {
        self.open(OpenFlags::SQLITE_OPEN_READ_ONLY, READER_CACHE_KIB)
    }

    /// Opens the file exclusively. Fails with `SQLITE_BUSY` while another process has it open, and keeps all others out
    /// until it is closed.
    pub(super) fn open_alone(&self) -> Result<Connection, Fault> {
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB)?;
        if connection.is_readonly("main")? {
            return Err(Fault::ReadOnly);
        }
        // Before the first access, which takes the lock.
        connection.pragma_update(None, "locking_mode", "exclusive")?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
        Ok(connection)
    }

    fn open(&self, access: OpenFlags, cache_kib: i64) -> Result<Connection, Fault> {
        // The file is never created here: a database that was moved away must not come back empty. Each connection is
        // used by one thread at a time.
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        // Statements keep their plans: otherwise SQLite prepares one with a bound LIMIT again for each value.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -cache_kib)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        if self.wal == WalMode::External {
            // Otherwise closing the last connection would move the log and delete it.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        // Deleted data is overwritten: nothing of a person may stay in free pages.
        connection.pragma_update(None, "secure_delete", true)?;
        Ok(connection)
    }
}

/// Opens the file for writing, with the schema of this release.
pub(super) fn open(options: &SqliteOptions) -> Result<Connection, OpenError> {
    make_file(&options.path, options.allow_network_disk)?;
    let file = FileOptions::new(options);
    let started = Instant::now();
    loop {
        match open_once(options, &file) {
            Err(OpenError::Locked { .. }) if started.elapsed() < options.busy_timeout => {}
            opened => return opened,
        }
        std::thread::sleep(LOCKED_PAUSE);
    }
}

fn open_once(options: &SqliteOptions, file: &FileOptions) -> Result<Connection, OpenError> {
    let explained = |fault| explain(&options.path, fault);
    // Checked before anything is written: a file that is not ours stays as it is. If it cannot be read, the writer's
    // attempt explains why. One snapshot, since another process may be making the schema.
    let found = file.open_reader().and_then(|mut reader| {
        let snapshot = reader.transaction()?;
        Ok(identify_as(&snapshot, options.migrations)?)
    });
    if let Some(refusal) = found.ok().and_then(|found| found.refusal_to_open(&options.path)) {
        return Err(refusal);
    }
    let opened = file.open_writer().map_err(explained)?;
    prepare(options, opened)
}

/// Compares the schema of the file with that of this program. Only reads.
pub(super) fn schema(options: &SqliteOptions) -> Result<Schema, OpenError> {
    let path = options.path.as_path();
    let looked = FileOptions::new(options).open_reader().and_then(|mut reader| {
        let snapshot = reader.transaction()?;
        Ok(identify_as(&snapshot, options.migrations)?)
    });
    let found = looked.map_err(|fault| explain(path, fault))?;
    if let Some(refusal) = found.refusal_to_open(path) {
        return Err(refusal);
    }
    let current = version_of(options.migrations);
    Ok(match found {
        Found::Empty => Schema::Missing,
        Found::Older(version) => Schema::Older { version, current },
        _ => Schema::Current { version: current },
    })
}

/// What kind of file was found.
pub(super) enum Found {
    Empty,
    Ours,
    /// Ours, perhaps of an earlier release, but the queue was moved, or is being moved.
    Moved(Mark),
    /// A backup of this release or an earlier one that was made at this time, and was not restored.
    Copy(Timestamp),
    Foreign,
    /// Made before the first release.
    Earlier,
    /// Of an earlier release: opening it migrates it.
    Older(i32),
    /// Of a later release.
    Later(i32),
    /// Ours, but with a damaged schema.
    Damaged,
}

/// Checks that the file is ours, makes the schema if the file is empty, and migrates the schema of an earlier release.
/// One transaction does it all, so that only one of two processes that start together does the work, and none ever sees
/// half of it.
fn prepare(options: &SqliteOptions, mut connection: Connection) -> Result<Connection, OpenError> {
    let path = options.path.as_path();
    let explained = |error: rusqlite::Error| explain(path, error.into());
    enforce_foreign_keys(&connection, false).map_err(explained)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explained)?;
    let identified = || identify_as(&transaction, options.migrations).map_err(explained);
    let mut found = identified()?;
    let to = version_of(options.migrations);
    let mut migrated_from = None;
    if let Found::Older(from) = found {
        info!(from, to, "migrating the schema of the database");
        upgrade(&transaction, from, options.migrations).map_err(|fault| explain(path, fault))?;
        migrated_from = Some(from);
        found = identified()?;
    }
    if let Some(refusal) = found.refusal(path) {
        return Err(refusal);
    }
    if matches!(found, Found::Empty) {
        make_schema(options, &transaction).map_err(explained)?;
    }
    transaction.commit().map_err(explained)?;
    enforce_foreign_keys(&connection, true).map_err(explained)?;
    if let Some(from) = migrated_from {
        info!(from, to, "the schema of the database was migrated");
    }
    Ok(connection)
}

/// Whether rows must refer to rows that exist. Off while a migration runs: one that rebuilds a table drops the old one,
/// although rows of other tables refer to it. Has no effect within a transaction.
fn enforce_foreign_keys(connection: &Connection, is_on: bool) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "foreign_keys", is_on)
}

/// Brings the schema of a copy of the database to this version. Returns the version that it had, unless it was this one.
pub(super) fn upgrade_copy(
    connection: &mut Connection,
    migrations: &[&str],
) -> Result<Option<i32>, Fault> {
    let from = version(connection)?;
    if from == version_of(migrations) {
        return Ok(None);
    }
    enforce_foreign_keys(connection, false)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    upgrade(&transaction, from, migrations)?;
    transaction.commit()?;
    enforce_foreign_keys(connection, true)?;
    Ok(Some(from))
}

/// Migrates a schema of an earlier release, and checks that all rows still refer to rows that exist. Foreign keys must
/// not be enforced meanwhile.
fn upgrade(transaction: &Connection, from: i32, migrations: &[&str]) -> Result<(), Fault> {
    migrate(transaction, from, migrations)?;
    let orphan: Option<String> = transaction.query_row(ORPHAN, [], |row| row.get(0)).optional()?;
    match orphan {
        None => Ok(()),
        Some(_) => Err(Fault::Broken(
            "the schema was not migrated, because rows would refer to rows that do not exist (see PRAGMA foreign_key_check)",
        )),
    }
}

/// The version to which migrations lead.
fn version_of(migrations: &[&str]) -> i32 {
    FIRST_VERSION - 1 + migrations.len() as i32
}

/// The migrations that lead to a version.
fn up_to<'a>(migrations: &'a [&'a str], version: i32) -> &'a [&'a str] {
    let count = usize::try_from(version - FIRST_VERSION + 1).unwrap_or_default();
    migrations.get(..count).unwrap_or(migrations)
}

/// Brings a schema of a released version to the one to which migrations lead.
fn migrate(
    transaction: &Connection,
    version: i32,
    migrations: &[&str],
) -> Result<(), rusqlite::Error> {
    let done = up_to(migrations, version).len();
    for (version, sql) in (FIRST_VERSION..).zip(migrations).skip(done) {
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    Ok(())
}

fn make_schema(options: &SqliteOptions, transaction: &Connection) -> Result<(), rusqlite::Error> {
    migrate(transaction, FIRST_VERSION - 1, options.migrations)?;
    if let Some(key) = options.installation_key {
        transaction.execute(SET_INSTALLATION_KEY, [key])?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)
}

impl Found {
    /// Returns why the file is not opened; `None` if it is, after migrating a file of an earlier release.
    fn refusal_to_open(&self, path: &Path) -> Option<OpenError> {
        match self {
            Found::Older(_) => None,
            found => found.refusal(path),
        }
    }

    /// Returns why the file cannot be used as it is; `None` if it can.
    pub(super) fn refusal(&self, path: &Path) -> Option<OpenError> {
        let path = path.to_owned();
        match self {
            Found::Empty | Found::Ours => None,
            Found::Moved(mark) => Some(mark.refusal(&path)),
            Found::Copy(at) => Some(OpenError::Backup { path, at: at.to_string() }),
            Found::Foreign => Some(OpenError::Foreign { path }),
            Found::Earlier => Some(OpenError::Earlier { path }),
            Found::Older(version) => Some(OpenError::Older { path, version: *version }),
            Found::Later(version) => Some(OpenError::Later { path, version: *version }),
            Found::Damaged => Some(OpenError::Damaged { path }),
        }
    }
}

pub(super) fn identify(connection: &Connection) -> Result<Found, rusqlite::Error> {
    identify_as(connection, MIGRATIONS)
}

/// Compares a file with these migrations. What was moved, and what is a backup, is not opened in whatever version.
pub(super) fn identify_as(
    connection: &Connection,
    migrations: &[&str],
) -> Result<Found, rusqlite::Error> {
    let (application, version) = marks(connection)?;
    let current = version_of(migrations);
    if application == APPLICATION_ID
        && (FIRST_VERSION..=current).contains(&version)
        && let Ok(Some(mark)) = mark::mark(connection)
    {
        return Ok(Found::Moved(mark));
    }
    Ok(match application {
        APPLICATION_ID if version > current => Found::Later(version),
        APPLICATION_ID if (1..FIRST_VERSION).contains(&version) => Found::Earlier,
        APPLICATION_ID
            if (FIRST_VERSION..current).contains(&version)
                && has_schema(connection, up_to(migrations, version))? =>
        {
            copied::copied_at(connection)?.map_or(Found::Older(version), Found::Copy)
        }
        APPLICATION_ID if version == current && is_whole(connection, migrations)? => {
            copied::copied_at(connection)?.map_or(Found::Ours, Found::Copy)
        }
        APPLICATION_ID => Found::Damaged,
        0 => {
            let (tables, earlier): (i64, i64) = connection.query_row(
                "SELECT COUNT(*), COALESCE(SUM(name = '_sqlx_migrations'), 0) FROM sqlite_schema",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            match (tables, earlier) {
                (0, _) => Found::Empty,
                (_, 0) => Found::Foreign,
                _ => Found::Earlier,
            }
        }
        _ => Found::Foreign,
    })
}

/// Whether the schema has everything of this release unchanged, and all required single values.
fn is_whole(connection: &Connection, migrations: &[&str]) -> Result<bool, rusqlite::Error> {
    Ok(has_schema(connection, migrations)?
        && connection.query_row(HAS_META, [], |row| row.get::<_, bool>(0))?)
}

/// Whether the schema has everything that these migrations make, unchanged.
fn has_schema(connection: &Connection, migrations: &[&str]) -> Result<bool, rusqlite::Error> {
    let model = Connection::open_in_memory()?;
    enforce_foreign_keys(&model, false)?;
    migrate(&model, FIRST_VERSION - 1, migrations)?;
    let mut expected =
        model.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let expected = expected.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut found = connection
        .prepare("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 AND sql = ?2)")?;
    for object in expected {
        let (name, sql): (String, String) = object?;
        if !found.query_row([name, sql], |row| row.get::<_, bool>(0))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the file is a database of this release, with its whole schema.
pub(super) fn is_ours(connection: &Connection) -> Result<bool, Fault> {
    Ok(matches!(identify(connection)?, Found::Ours))
}

/// Returns the version of the schema.
pub(super) fn version(connection: &Connection) -> Result<i32, rusqlite::Error> {
    Ok(marks(connection)?.1)
}

/// Whether this program made the file, in whatever version.
pub(super) fn is_of_this_program(connection: &Connection) -> Result<bool, rusqlite::Error> {
    Ok(marks(connection)?.0 == APPLICATION_ID)
}

/// Whether all required single values exist.
fn has_meta(connection: &Connection) -> Result<bool, Fault> {
    Ok(connection.prepare_cached(HAS_META)?.query_row([], |row| row.get(0))?)
}

/// Fails unless the file can be read and says that its schema is that of this release.
pub(super) fn check_schema(connection: &Connection) -> Result<(), Fault> {
    if marks(connection)? == (APPLICATION_ID, SCHEMA_VERSION) && has_meta(connection)? {
        Ok(())
    } else {
        Err(Fault::Schema)
    }
}

/// Returns the application that made the file, and the version of its schema.
fn marks(connection: &Connection) -> Result<(i32, i32), rusqlite::Error> {
    let number = |pragma| connection.prepare_cached(pragma)?.query_row([], |row| row.get(0));
    Ok((number("PRAGMA application_id")?, number("PRAGMA user_version")?))
}

/// Makes the file if there is none, readable by its owner only; the log beside it follows its mode.
///
/// An existing file is left to SQLite: opening and closing it here would drop the locks of this process's other
/// connections (POSIX locks belong to the process, not to the descriptor).
fn make_file(path: &Path, allow_network_disk: bool) -> Result<(), OpenError> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(OpenError::NoFolder { path: path.to_owned(), folder: folder.to_owned() });
    }
    if path.is_dir() {
        return Err(OpenError::NotADatabase { path: path.to_owned() });
    }
    if let Some(file_system) = network_disk(path) {
        if !allow_network_disk {
            return Err(OpenError::NetworkDisk { folder: folder.to_owned(), file_system });
        }
        warn!(
            file_system,
            "the data folder is on a network disk, as store.allow_network_disk permits: keep copies of the database elsewhere"
        );
    }
    let mut file = OpenOptions::new();
    file.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    match file.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(OpenError::NotWritable { path: path.to_owned(), source: error.into() })
        }
        Err(error) => Err(OpenError::Open { path: path.to_owned(), source: error.into() }),
    }
}

/// Moves the write-ahead log into the file and empties it; returns whether it is empty. Waits for readers as long
/// as the busy timeout of the connection.
pub(super) fn empty_wal(connection: &Connection) -> Result<bool, rusqlite::Error> {
    // The first column says whether a reader prevented it.
    let is_busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(is_busy == 0)
}
