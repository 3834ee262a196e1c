//! The files of the database: the database itself, its write-ahead log (`-wal`) and the index of the log (`-shm`).
//!
//! An SQLite connection keeps using the files that it opened. If another program deletes or replaces one of them, new
//! messages go to a file without a name, which disappears with the last process that has it open, while other processes
//! use the file at the path. If another program cuts the log, committed messages are gone. SQLite notices neither, so
//! this module compares the files with what the writer opened.
//!
//! Of the three files, only the log may be opened here. When a process closes any descriptor of a file, it loses all
//! its POSIX locks on that file, and SQLite holds locks on the other two. The writer's descriptor of the log stays
//! open, so that checking the log needs no new one: running out of descriptors must not look like a log that was cut.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use super::error::Fault;
use super::frames::{Header, Place, Salts, end_of};

/// Returns the number of frames in the log as the second column. Moves nothing.
const COUNT_FRAMES: &str = "PRAGMA wal_checkpoint(NOOP)";

/// How often the log is read before it counts as cut or overwritten. Another process may empty the log or start it over
/// between two reads, but not each time.
const LOOKS: usize = 5;

/// The pause between two such reads.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    log_path: PathBuf,
    index_path: PathBuf,
    /// The database when the store was opened; `None` if the system does not number its files.
    database: Option<Identity>,
    seen: Mutex<Seen>,
}

/// The results of the last checks, which later checks compare the files with.
#[derive(Debug, Default)]
struct Seen {
    /// The largest size that the database has had. A database gets smaller only when it is vacuumed or damaged.
    database_bytes: u64,
    /// The log and its index as the writer opened them; `None` while the writer has no connection.
    log: Option<Log>,
    index: Option<Identity>,
    /// The last frame that was found in the log.
    tail: Tail,
    verified: Option<Verified>,
}

/// The state of the log in which it was verified.
#[derive(Debug)]
struct Verified {
    tail: Tail,
    modified_at: SystemTime,
    /// Whether it was verified in this state twice. A change within one tick of the file system's clock leaves the
    /// time as it was, so once is not enough.
    is_settled: bool,
}

#[derive(Debug)]
struct Log {
    file: File,
    identity: Option<Identity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tail {
    frames: u64,
    salts: Salts,
    /// The end of that frame in the file.
    end: u64,
}

/// The device and the inode of a file. While the file is open, no other file gets its inode.
type Identity = (u64, u64);

/// The file that was at the path of the log. It stays open, so that no other file gets its inode.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    is_harmless: bool,
}

impl Mark {
    /// Whether the file holds nothing of another process: it is empty, or is the log that this process has open.
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
        // If the file cannot be read now, later checks skip the comparison.
        let database = identity_of(&path).ok().flatten();
        Self { path, log_path, index_path, database, seen: Mutex::default() }
    }

    /// Records the log and its index after the writer has opened a connection.
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

    /// Records that the writer has closed its connection. If it was the last one, SQLite has deleted the log.
    pub(super) fn closed(&self) {
        let mut seen = self.seen();
        seen.log = None;
        seen.index = None;
    }

    /// Returns the size of the database; fails if another file is at its path.
    pub(super) fn look_at_database(&self) -> Result<u64, Fault> {
        let found = std::fs::metadata(&self.path);
        let found = found.map_err(|error| unless_missing(error, Fault::Gone))?;
        let is_same = self.database.is_none() || identity(&found) == self.database;
        if is_same { Ok(found.len()) } else { Err(Fault::Gone) }
    }

    /// Fails if a file was moved or replaced, or if the database became shorter. Takes a few microseconds.
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

    /// Accepts the current size of the database, after all pages were checked.
    pub(super) fn accept_size(&self) {
        self.seen().database_bytes = 0;
    }

    /// Fails unless the log has all frames that the index says it has.
    pub(super) fn look_into_log(&self, connection: &Connection) -> Result<(), Fault> {
        let mut found = Ok(());
        for look in 0..LOOKS {
            if look > 0 {
                sleep(LOOK_PAUSE);
            }
            let before = self.seen().salts()?;
            let frames: i64 =
                connection.prepare_cached(COUNT_FRAMES)?.query_row([], |row| row.get(1))?;
            // Below zero: another process is repairing the index.
            let frames = u64::try_from(frames).unwrap_or(0);
            if frames == 0 {
                return Ok(());
            }
            let mut seen = self.seen();
            let tail = match before {
                Some(_) => seen.find_frames(frames),
                None => Err(seen.without_header(frames, connection)?),
            };
            if seen.salts()? != before {
                // The log started over during this look, so the count may belong to the earlier log. If the salts are
                // the same, it does not: SQLite sets the count to zero, then writes the header, then counts frames.
                found = Ok(());
                continue;
            }
            found = tail.map(|tail| seen.tail = tail);
            if matches!(found, Ok(()) | Err(Fault::Files { .. })) {
                break;
            }
        }
        found
    }

    /// Fails if bytes of the log were overwritten. Reads all frames that the writer last found there, unless the log
    /// has not changed since they were verified. Blocks; neither the writer nor a reader waits for it.
    pub(super) fn verify_log(&self) -> Result<(), Fault> {
        let (tail, own) = {
            let seen = self.seen();
            let Some(log) = seen.log.as_ref().filter(|_| seen.tail.frames > 0) else {
                return Ok(());
            };
            (seen.tail, log.identity)
        };
        // The position of the writer's file belongs to the writer.
        let mut log = File::open(&self.log_path).map_err(Fault::files)?;
        let found = log.metadata().map_err(Fault::files)?;
        if identity(&found) != own {
            // The writer will notice that the log was moved, and save it.
            return Ok(());
        }
        let modified_at = found.modified().map_err(Fault::files)?;
        let is_same =
            |verified: &Verified| (verified.tail, verified.modified_at) == (tail, modified_at);
        let verified = self.seen().verified.take().filter(is_same);
        let is_settled = verified.is_some();
        if !verified.is_some_and(|verified| verified.is_settled) && !is_chained(&mut log, &tail)? {
            return Err(Fault::LogOverwritten);
        }
        self.seen().verified = Some(Verified { tail, modified_at, is_settled });
        Ok(())
    }

    /// Makes sure that there is a file at the path of the log, and returns a mark of it. When the last connection of
    /// all processes is closed, SQLite moves its log into the database and deletes the file at this path: once the
    /// marked file is gone, no process has the database open.
    pub(super) fn mark_log(&self) -> Result<Mark, Fault> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.log_path);
        let mark = file.and_then(|file| file.metadata().map(|found| (file, found)));
        let (file, found) = mark.map_err(Fault::files)?;
        let own = self.seen().log.as_ref().and_then(|log| log.identity);
        let is_own = own.is_some() && identity(&found) == own;
        Ok(Mark { file, is_harmless: is_own || found.len() == 0 })
    }

    /// Whether the marked file is still at the path of the log.
    pub(super) fn has(&self, mark: &Mark) -> bool {
        let marked = mark.file.metadata().ok().and_then(|found| identity(&found));
        marked.is_some() && identity_of(&self.log_path).ok().flatten() == marked
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // No change is left half-done by a panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn log(&mut self) -> Result<&mut File, Fault> {
        self.log.as_mut().map(|log| &mut log.file).ok_or(Fault::LogCut)
    }

    fn bytes(&mut self) -> Result<u64, Fault> {
        Ok(self.log()?.metadata().map_err(Fault::files)?.len())
    }

    /// Returns the salts of the log; `None` if it has no whole header.
    fn salts(&mut self) -> Result<Option<Salts>, Fault> {
        let header = Header::read(self.log()?).map_err(Fault::files)?;
        Ok(header.map(|header| header.salts))
    }

    /// Returns the new tail; fails unless the log has this many frames, which the index says it has.
    fn find_frames(&mut self, frames: u64) -> Result<Tail, Fault> {
        let (bytes, tail) = (self.bytes()?, self.tail);
        let log = self.log()?;
        let header = Header::read(log).map_err(Fault::files)?.ok_or(Fault::LogOverwritten)?;
        if bytes < header.end_of(frames) {
            return Err(Fault::LogCut);
        }
        if tail.salts == header.salts && tail.frames > 0 {
            match header.find(log, tail.frames).map_err(Fault::files)? {
                Place::Frame => {}
                Place::Hole => return Err(Fault::LogCut),
                Place::Other => return Err(Fault::LogOverwritten),
            }
            if frames < tail.frames {
                return Err(Fault::IndexOverwritten);
            }
        }
        Ok(Tail { frames, salts: header.salts, end: header.end_of(frames) })
    }

    /// Returns what was done to a log that has no whole header. The index says that it has this many frames.
    fn without_header(&mut self, frames: u64, connection: &Connection) -> Result<Fault, Fault> {
        let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let has_frames = self.bytes()? >= end_of(frames, page_bytes.unsigned_abs());
        let is_cut = !has_frames || Header::is_hole(self.log()?).map_err(Fault::files)?;
        Ok(if is_cut { Fault::LogCut } else { Fault::LogOverwritten })
    }
}

/// Whether the checksums of the log are right up to its tail. The log may be emptied or start over at any time, so a
/// missing tail is not an error.
fn is_chained(log: &mut File, tail: &Tail) -> Result<bool, Fault> {
    for look in 0..LOOKS {
        if look > 0 {
            sleep(LOOK_PAUSE);
        }
        let Some(header) = Header::read(log).map_err(Fault::files)? else {
            // The log was emptied, or its header is being written, or was overwritten.
            if log.metadata().map_err(Fault::files)?.len() < tail.end {
                return Ok(true);
            }
            continue;
        };
        // The writer finds a hole with its next group.
        if header.salts != tail.salts
            || header.find(log, tail.frames).map_err(Fault::files)? == Place::Hole
        {
            return Ok(true);
        }
        match header.first_wrong(log, tail.frames) {
            Ok(None) => return Ok(true),
            // If SQLite overwrites a frame, it has written a new header before, so the next look finds other salts.
            Ok(Some(frame)) => tracing::debug!(frame, "a frame of the write-ahead log is wrong"),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(true),
            Err(error) => return Err(Fault::files(error)),
        }
    }
    // An emptied log is not an error.
    Ok(log.metadata().map_err(Fault::files)?.len() < tail.end)
}

/// Returns `missing` if the file does not exist, else the fault for a file that cannot be read.
fn unless_missing(error: io::Error, missing: Fault) -> Fault {
    match error.kind() {
        ErrorKind::NotFound => missing,
        _ => Fault::files(error),
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_log_that_is_emptied_and_written_again_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let database = Connection::open(folder.path().join("x")).unwrap();
        let schema = "PRAGMA page_size = 512; PRAGMA journal_mode = wal; CREATE TABLE t (x)";
        database.execute_batch(schema).unwrap();
        let log = std::fs::read(folder.path().join("x-wal")).unwrap();
        // Found before the log was emptied.
        let tail = Tail { frames: 1, salts: Salts::default(), end: log.len() as u64 };
        let file = tempfile::tempfile().unwrap();
        let mut seen = file.try_clone().unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    file.set_len(0).unwrap();
                    sleep(Duration::from_micros(20));
                    file.write_all_at(&log, 0).unwrap();
                }
            });
            let wrong = (0..20_000).filter(|_| !is_chained(&mut seen, &tail).unwrap()).count();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(wrong, 0);
        });
    }
}
