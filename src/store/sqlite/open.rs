//! Opens the file: creates it, checks that it is ours, migrates its schema. The errors are for the person
//! who starts the program.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqlitePool};
use tokio::time::Instant;
use tracing::warn;

use super::network::{folder_of, network_disk};
use super::{Fault, OpenError, SqliteOptions, accept};
use crate::store::sql;

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations/sqlite");

/// Two processes that make one file at the same time stand in each other's way at most this often.
const MIGRATION_TRIES: u32 = 5;
/// Switching a new file to the write-ahead log does not wait for a lock but fails at once, so two
/// processes that start together need another try, as long as one may wait for a lock.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);
/// Connections for readers: the engine, the console and the health check at once.
const READERS_MAX: u32 = 4;
/// Page caches in KiB. The writer's holds the upper levels of the indices, which are hit at random.
const WRITER_CACHE_KIB: u32 = 64 * 1024;
const READER_CACHE_KIB: u32 = 8 * 1024;
/// Prepared statements that the writer keeps beside those that insert.
const OTHER_STATEMENTS: usize = 100;
/// Pages of 4 KiB in the write-ahead log before they are moved into the file: more than SQLite's
/// 1,000, so that a page which is written often is moved seldom.
const CHECKPOINT_PAGES: u32 = 4_000;
/// What the write-ahead log is cut down to after it had to grow.
const WAL_BYTES_KEPT: u32 = 64 * 1024 * 1024;

pub(super) struct Opened {
    pub(super) writer: SqliteConnection,
    pub(super) writer_options: SqliteConnectOptions,
    pub(super) readers: SqlitePool,
}

pub(super) async fn open(options: &SqliteOptions) -> Result<Opened, OpenError> {
    let path = options.path.as_path();
    make_file(path, options.allow_network_disk)?;
    let writer_options = writer_options(options);
    let started = Instant::now();
    let writer = loop {
        match connect(path, &writer_options).await {
            Err(OpenError::Locked { .. }) if started.elapsed() < options.busy_timeout => {}
            connected => break connected?,
        }
        tokio::time::sleep(LOCKED_PAUSE).await;
    };
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .acquire_timeout(options.busy_timeout.max(Duration::from_secs(1)))
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(reader_options(options));
    Ok(Opened { writer, writer_options, readers })
}

async fn connect(
    path: &Path,
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, OpenError> {
    let mut connection = options.connect().await.map_err(|error| explain(path, error))?;
    if !is_ours(&mut connection).await.map_err(|error| explain(path, error))? {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    migrate(path, &mut connection).await?;
    Ok(connection)
}

/// Fails unless the file can be read and has exactly the migrations of this release.
pub(super) async fn check_schema(readers: &SqlitePool) -> Result<(), Fault> {
    let needed = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let found: Option<i64> = sqlx::query_scalar(sql::SCHEMA_VERSION).fetch_one(readers).await?;
    if found == Some(needed) { Ok(()) } else { Err(Fault::Schema { found, needed }) }
}

/// Makes the file if there is none, readable by its owner only; the log beside it follows its mode.
///
/// One that exists is left to SQLite: to open and close it here would drop the locks that another
/// connection of this process holds on it (POSIX locks belong to the process, not the descriptor).
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

fn base_options(options: &SqliteOptions, cache_kib: u32) -> SqliteConnectOptions {
    // The file is never made here: one that was taken away must not come back empty.
    SqliteConnectOptions::new()
        .filename(&options.path)
        .create_if_missing(false)
        .busy_timeout(options.busy_timeout)
        .foreign_keys(true)
        .pragma("cache_size", format!("-{cache_kib}"))
        .pragma("temp_store", "memory")
        // What is deleted is overwritten: a person's data must not stay in free pages.
        .pragma("secure_delete", "on")
        .disable_statement_logging()
}

fn writer_options(options: &SqliteOptions) -> SqliteConnectOptions {
    let mut base = base_options(options, WRITER_CACHE_KIB);
    if let Some(pages) = options.pages_max {
        base = base.pragma("max_page_count", pages.to_string());
    }
    base.statement_cache_capacity(accept::ROWS_EXACT_MAX + OTHER_STATEMENTS)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("journal_size_limit", WAL_BYTES_KEPT.to_string())
}

fn reader_options(options: &SqliteOptions) -> SqliteConnectOptions {
    base_options(options, READER_CACHE_KIB).read_only(true)
}

/// Whether the database is empty or has our table of migrations.
async fn is_ours(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let (tables, ours): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), COALESCE(SUM(name = '_sqlx_migrations'), 0) FROM sqlite_master WHERE type = 'table'",
    )
    .fetch_one(connection)
    .await?;
    Ok(tables == 0 || ours == 1)
}

async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let mut tries = 1;
    loop {
        let failed = match MIGRATIONS.run(&mut *connection).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match failed {
            MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
                return Err(OpenError::OtherVersion { path: path.to_owned(), version });
            }
            // Another process made the same step first: look again.
            MigrateError::Execute(_) | MigrateError::ExecuteMigration(..)
                if tries < MIGRATION_TRIES =>
            {
                tries += 1
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                return Err(explain(path, error));
            }
            error => return Err(OpenError::Open { path: path.to_owned(), source: error.into() }),
        }
    }
}

pub(super) fn explain(path: &Path, error: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match primary_code(&error) {
        Some(code::CORRUPT | code::NOTADB) => OpenError::NotADatabase { path },
        Some(code::BUSY | code::LOCKED) => OpenError::Locked { path },
        Some(code::PERM | code::READONLY | code::CANTOPEN) => {
            OpenError::NotWritable { path, source: error.into() }
        }
        Some(code::FULL) => OpenError::NoRoom { path },
        _ => OpenError::Open { path, source: error.into() },
    }
}

/// What a failure in use means, and what a person can do.
pub(super) fn advice(error: &sqlx::Error) -> &'static str {
    match primary_code(error) {
        Some(code::FULL) => {
            "the disk of the database is full: make room, and the program recovers by itself"
        }
        Some(code::PERM | code::READONLY) => {
            "the database cannot be written: give the user that runs this program write access to the file and its folder, on a disk that is mounted writable; the program then recovers by itself"
        }
        Some(code::CORRUPT | code::NOTADB) => {
            "the database is damaged: stop the program, and restore the file from a backup, or save what can be saved with `sqlite3 FILE .recover`"
        }
        Some(code::IOERR) => {
            "the disk of the database fails: check whether it is full, and read the system's log; the program recovers by itself once the disk works"
        }
        Some(code::CANTOPEN) => {
            "the database file is gone: put it back, and the program recovers by itself"
        }
        Some(code::BUSY | code::LOCKED) => {
            "another process keeps the database locked: stop it, and the program recovers by itself"
        }
        _ => "the database failed",
    }
}

/// SQLite's primary result codes, by its documentation.
pub(super) mod code {
    pub(crate) const PERM: i64 = 3;
    pub(crate) const BUSY: i64 = 5;
    pub(crate) const LOCKED: i64 = 6;
    pub(crate) const NOMEM: i64 = 7;
    pub(crate) const READONLY: i64 = 8;
    pub(crate) const IOERR: i64 = 10;
    pub(crate) const CORRUPT: i64 = 11;
    pub(crate) const FULL: i64 = 13;
    pub(crate) const CANTOPEN: i64 = 14;
    pub(crate) const NOTADB: i64 = 26;
}

/// The primary code is the low byte of the extended one.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i64>().ok().map(|code| code & 0xff)
}

/// Whether the state of the machine is to blame, so that no other transaction would have fared better.
pub(super) fn is_environmental(fault: &Fault) -> bool {
    let Fault::Database { source: error, .. } = fault else { return !fault.is_broken() };
    match primary_code(error) {
        Some(code) => matches!(
            code,
            code::PERM
                | code::BUSY
                | code::LOCKED
                | code::NOMEM
                | code::READONLY
                | code::IOERR
                | code::CORRUPT
                | code::FULL
                | code::CANTOPEN
                | code::NOTADB
        ),
        None => !matches!(**error, sqlx::Error::Encode(_)) && !fault.is_broken(),
    }
}

/// Whether what is stored is to blame: a row that is not there, a value that cannot be read, or a
/// constraint that what is there already breaks.
pub(super) fn blames_rows(error: &sqlx::Error) -> bool {
    if let sqlx::Error::Database(error) = error {
        return error.is_unique_violation()
            || error.is_foreign_key_violation()
            || matches!(
                error.kind(),
                sqlx::error::ErrorKind::NotNullViolation | sqlx::error::ErrorKind::CheckViolation
            );
    }
    matches!(error, sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. })
}

/// Closes a connection whose state is not known; what it had begun is rolled back.
pub(super) async fn discard(connection: SqliteConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(error = %error, "could not close a broken connection");
    }
}
