//! The files of the database: the database itself, its write-ahead log (`-wal`) and the index of the log (`-shm`).
//!
//! A connection goes on with the files that it opened. If one of them is deleted or replaced, what is written to
//! it vanishes with the last process that has it open, and other processes use other files. If the log is cut,
//! what was committed to it is gone. SQLite notices neither.
//!
//! Only the log is opened here. Closing a file drops all POSIX locks that the process has on it, and SQLite has
//! locks on the other two. The log stays open, so that looking into it takes no file descriptor: running out of
//! them must not look like a log that was cut.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::Fault;

/// The second column is the number of frames in the log. Moves nothing.
const COUNT_FRAMES: &str = "PRAGMA wal_checkpoint(NOOP)";

/// How often the log is looked at before it counts as cut: another process may empty it between the count of its
/// frames and the look at the file, but not each time.
const LOOKS: usize = 5;

/// The format of the log, from <https://www.sqlite.org/fileformat2.html#walformat>.
const LOG_HEADER_BYTES: u64 = 32;
const LOG_MAGIC: u32 = 0x377f_0682;
const FRAME_HEADER_BYTES: u64 = 24;

#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    log_path: PathBuf,
    index_path: PathBuf,
    /// The database when the store was opened; `None` if the system has no identities.
    database: Option<Identity>,
    seen: Mutex<Seen>,
}

/// The state by which a change is recognized.
#[derive(Debug, Default)]
struct Seen {
    /// The largest size that the database had. It never shrinks unless it is vacuumed or damaged.
    database_bytes: u64,
    /// The log and its index as the writer opened them; `None`: no connection needs them.
    log: Option<Log>,
    index: Option<Identity>,
    /// The last frame that was found in the log.
    tail: Tail,
}

#[derive(Debug)]
struct Log {
    file: File,
    identity: Option<Identity>,
}

#[derive(Debug, Default)]
struct Tail {
    frames: u64,
    /// New each time the log starts over; each frame has them too.
    salts: [u8; 8],
}

/// Device and number of a file. The number is not given to another one while the file is open.
type Identity = (u64, u64);

/// The file that was at the path of the log. It stays open, so that no other file gets its number.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    is_harmless: bool,
}

impl Mark {
    /// Whether no other process can have written to it: it is empty, or the log that this process has open.
    pub(super) fn is_harmless(&self) -> bool {
        self.is_harmless
    }
}

impl Files {
    pub(super) fn new(path: PathBuf) -> Self {
        let beside = |suffix: &str| {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (log_path, index_path) = (beside("-wal"), beside("-shm"));
        // A file that cannot be looked at now is not compared later.
        let database = identity_of(&path).ok().flatten();
        Self { path, log_path, index_path, database, seen: Mutex::default() }
    }

    /// Notes that the writer has opened a connection while no other file was in use.
    pub(super) fn opened(&self) -> Result<(), Fault> {
        let moved = |error| unless_missing(error, Fault::LogMoved);
        let file = File::open(&self.log_path).map_err(moved)?;
        let found = file.metadata().map_err(Fault::files)?;
        let index = identity_of(&self.index_path).map_err(moved)?;
        let mut seen = self.seen();
        seen.log = Some(Log { file, identity: identity(&found) });
        seen.index = index;
        seen.tail = Tail::default();
        Ok(())
    }

    /// Notes that the writer has closed its connection: if it was the last one, SQLite has deleted the log.
    pub(super) fn closed(&self) {
        let mut seen = self.seen();
        seen.log = None;
        seen.index = None;
    }

    /// Fails unless the database is where it was; returns its size.
    pub(super) fn look_at_database(&self) -> Result<u64, Fault> {
        let found = std::fs::metadata(&self.path);
        let found = found.map_err(|error| unless_missing(error, Fault::Gone))?;
        let is_same = self.database.is_none() || identity(&found) == self.database;
        if is_same { Ok(found.len()) } else { Err(Fault::Gone) }
    }

    /// Fails unless the files are where they were. Takes some microseconds.
    pub(super) fn look(&self) -> Result<(), Fault> {
        let bytes = self.look_at_database()?;
        let mut seen = self.seen();
        let log = seen.log.as_ref().and_then(|log| log.identity);
        for (was, path) in [(log, &self.log_path), (seen.index, &self.index_path)] {
            let moved = |error| unless_missing(error, Fault::LogMoved);
            if was.is_some() && identity_of(path).map_err(moved)? != was {
                return Err(Fault::LogMoved);
            }
        }
        if bytes < seen.database_bytes {
            return Err(Fault::Shorter);
        }
        seen.database_bytes = bytes;
        Ok(())
    }

    /// Accepts the present size of the database, after all pages were checked.
    pub(super) fn accept_size(&self) {
        self.seen().database_bytes = 0;
    }

    /// Fails unless the log has all frames that the index says it has.
    pub(super) fn look_into_log(&self, connection: &Connection) -> Result<(), Fault> {
        for _ in 0..LOOKS {
            let frames: i64 =
                connection.prepare_cached(COUNT_FRAMES)?.query_row([], |row| row.get(1))?;
            // Below zero: another process is repairing the index.
            let frames = u64::try_from(frames).unwrap_or(0);
            if frames == 0 || self.seen().has_frames(frames).map_err(Fault::files)? {
                return Ok(());
            }
        }
        Err(Fault::LogCut)
    }

    /// Marks the path of the log, by the file that is there or by an empty one. When the last connection of all
    /// processes is closed, SQLite moves its log into the database, and then deletes the file at this path.
    pub(super) fn mark_log(&self) -> Result<Mark, Fault> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.log_path);
        let mark = file.and_then(|file| file.metadata().map(|found| (file, found)));
        let (file, found) = mark.map_err(Fault::files)?;
        let own = self.seen().log.as_ref().and_then(|log| log.identity);
        let is_own = own.is_some() && identity(&found) == own;
        Ok(Mark { file, is_harmless: is_own || found.len() == 0 })
    }

    /// Whether a marked file is still at the path of the log.
    pub(super) fn has(&self, mark: &Mark) -> bool {
        let marked = mark.file.metadata().ok().and_then(|found| identity(&found));
        marked.is_some() && identity_of(&self.log_path).ok().flatten() == marked
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each change is complete before anything that can panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Whether the log has this many frames.
    fn has_frames(&mut self, frames: u64) -> io::Result<bool> {
        let Some(Log { file: log, .. }) = &mut self.log else { return Ok(false) };
        let Some(header) = read_at::<{ LOG_HEADER_BYTES as usize }>(log, 0)? else {
            return Ok(false);
        };
        let [magic, page_bytes] = [word(&header, 0), word(&header, 8)];
        let salts: [u8; 8] = std::array::from_fn(|n| header[16 + n]);
        let end_of =
            |frame: u64| LOG_HEADER_BYTES + frame * (FRAME_HEADER_BYTES + u64::from(page_bytes));
        // The last bit is the byte order of the checksums.
        if magic & !1 != LOG_MAGIC || log.metadata()?.len() < end_of(frames) {
            return Ok(false);
        }
        // A log that was cut and then written on has a hole.
        if self.tail.salts == salts && (1..=frames).contains(&self.tail.frames) {
            let at = end_of(self.tail.frames - 1);
            let frame = read_at::<{ FRAME_HEADER_BYTES as usize }>(log, at)?;
            if frame.is_none_or(|frame| frame[8..16] != salts) {
                return Ok(false);
            }
        }
        self.tail = Tail { frames, salts };
        Ok(true)
    }
}

/// Reads bytes at a position; `None` if the file ends before.
fn read_at<const BYTES: usize>(file: &mut File, at: u64) -> io::Result<Option<[u8; BYTES]>> {
    let mut bytes = [0; BYTES];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The fault for a file that is missing, or the one for a file that cannot be looked at.
fn unless_missing(error: io::Error, missing: Fault) -> Fault {
    match error.kind() {
        ErrorKind::NotFound => missing,
        _ => Fault::files(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|n| bytes[at + n]))
}

fn identity_of(path: &Path) -> io::Result<Option<Identity>> {
    std::fs::metadata(path).map(|found| identity(&found))
}

#[cfg(unix)]
fn identity(found: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(_found: &Metadata) -> Option<Identity> {
    None
}
