//! Whether messages may be acknowledged.
//!
//! | state | entered when | left when | messages |
//! | --- | --- | --- | --- |
//! | well | | | are acknowledged |
//! | failing | a write failed (full disk, lock, read-only), or the log could not be read | a write of at least the same size succeeds | are written, or refused if that fails |
//! | unsafe: verify | a connection read a damaged page, or the database became shorter | a check finds all pages whole; then *reopen* | are refused |
//! | unsafe: save | bytes of the log were overwritten | the writer has moved the log into the database; then *verify* | are refused |
//! | unsafe: close | the log was moved | no process has the database open; then *reopen* | are refused |
//! | unsafe: reopen | the check found all pages whole, or the moved log is in the database | the writer has opened the files again; then *well* | are refused |
//! | unsafe: end | the log was cut, its index was overwritten, or another process keeps the files of a moved log open | never: the process ends | are refused |
//!
//! A database missing from its path is not a state: the writer checks for it before and after each group, and refuses
//! the group's messages.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::error::Fault;
use super::files::Files;
use crate::telemetry;

/// A group that takes longer makes the store not ready.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// The shortest time between two trial writes, however often readiness is checked.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// After a check of all pages, the next one waits 20 times as long as the check took, and at least a second.
const VERIFY_RESTS: u32 = 20;
const VERIFY_REST_MIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Health {
    pub(super) files: Files,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// When the writer began its current group; `None` between groups.
    writing_since: Option<Instant>,
    /// The earliest time of the next trial write or check of all pages.
    try_at: Instant,
    verify_at: Instant,
}

#[derive(Debug)]
enum State {
    Well,
    Failing {
        why: Fault,
        /// The size of the largest group that was not written.
        bytes: u64,
    },
    Unsafe {
        why: Fault,
        cure: Cure,
    },
}

/// What makes an unsafe store safe again. A fault only ever raises the cure, never lowers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cure {
    Reopen,
    Verify,
    Verifying,
    Save,
    Close,
    End,
}

/// What the writer must do to make an unsafe store safe again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Move the log into the database.
    Save,
    /// Close all connections and open the files again.
    Reopen,
}

/// How to find out whether the store is ready.
#[derive(Debug)]
pub(super) enum Next {
    /// Read something: no failure is known.
    Read,
    /// Write at least this much.
    Write { why: Fault, bytes: u64 },
    /// Check all pages. Until then, the store is not ready.
    Verify { why: Fault },
    /// Do nothing for now: the store is not ready.
    Wait { why: Fault },
}

impl Health {
    pub(super) fn new(files: Files) -> Self {
        let now = Instant::now();
        let inner = Inner { state: State::Well, writing_since: None, try_at: now, verify_at: now };
        Self { files, inner: Mutex::new(inner) }
    }

    /// Fails while messages must not be acknowledged. Uses the results of earlier checks; looks at no file.
    pub(super) fn admit(&self) -> Result<(), Fault> {
        match &self.inner().state {
            State::Unsafe { why, .. } => Err(why.clone()),
            State::Well | State::Failing { .. } => Ok(()),
        }
    }

    /// Fails unless the files of the writer's connection are in place and hold everything that was committed. If it
    /// fails, no message may be acknowledged.
    pub(super) fn check(&self, connection: Option<&Connection>) -> Result<(), Fault> {
        let looked = self.files.look();
        let looked = match (looked, connection) {
            (Ok(()), Some(connection)) => self.files.look_into_log(connection),
            (looked, _) => looked,
        };
        match &looked {
            Err(why @ Fault::LogMoved) => self.endanger(why, Cure::Close),
            Err(why @ Fault::LogOverwritten) => self.endanger(why, Cure::Save),
            Err(why @ (Fault::LogCut | Fault::IndexOverwritten)) => self.endanger(why, Cure::End),
            Err(fault) => self.saw(fault),
            Ok(()) => {}
        }
        looked?;
        self.admit()
    }

    /// Verifies the checksums of the log and records an error in them. Blocks.
    pub(super) fn verify_log(&self) -> Result<(), Fault> {
        let verified = self.files.verify_log();
        if let Err(why @ Fault::LogOverwritten) = &verified {
            self.endanger(why, Cure::Save);
        }
        verified
    }

    /// Records damage that a connection found. Ignores other faults.
    pub(super) fn saw(&self, fault: &Fault) {
        if fault.is_damage() {
            self.endanger(fault, Cure::Verify);
        }
    }

    /// Records that the writer must end.
    pub(super) fn lost(&self, why: &Fault) {
        self.endanger(why, Cure::End);
    }

    fn endanger(&self, why: &Fault, cure: Cure) {
        let mut inner = self.inner();
        if let State::Unsafe { cure: present, .. } = inner.state
            && present >= cure
        {
            return;
        }
        inner.state = State::Unsafe { why: why.clone(), cure };
        drop(inner);
        let error = telemetry::chain(why).to_string();
        tracing::error!(error, "no message is acknowledged until the database is safe again");
    }

    /// Records that the writer begins a group.
    pub(super) fn begins(&self) {
        self.inner().writing_since = Some(Instant::now());
    }

    /// Records that the current group was written or has failed.
    pub(super) fn ends(&self) {
        self.inner().writing_since = None;
    }

    /// Records that a group of at least this many bytes was written; returns whether that ends a failure.
    pub(super) fn written(&self, bytes: u64) -> bool {
        let mut inner = self.inner();
        let is_over =
            matches!(&inner.state, State::Failing { bytes: failed, .. } if bytes >= *failed);
        if is_over {
            inner.state = State::Well;
        }
        is_over
    }

    /// Records that a group of this size was not written; returns whether the store was well before.
    pub(super) fn failed(&self, fault: &Fault, bytes: u64) -> bool {
        let mut inner = self.inner();
        let (is_news, largest) = match &inner.state {
            State::Well => (true, bytes),
            State::Failing { bytes: before, .. } => (false, bytes.max(*before)),
            State::Unsafe { .. } => return false,
        };
        inner.state = State::Failing { why: fault.clone(), bytes: largest };
        drop(inner);
        self.saw(fault);
        is_news
    }

    /// Returns what the writer must do now to make the store safe.
    pub(super) fn remedy(&self) -> Option<Remedy> {
        match self.inner().state {
            State::Unsafe { cure: Cure::Save, .. } => Some(Remedy::Save),
            State::Unsafe { cure: Cure::Reopen | Cure::Close, .. } => Some(Remedy::Reopen),
            _ => None,
        }
    }

    /// Records that the log was moved into the database. The overwritten bytes may be in the database now, so all
    /// pages must be checked.
    pub(super) fn saved(&self) {
        if let State::Unsafe { cure: cure @ Cure::Save, .. } = &mut self.inner().state {
            *cure = Cure::Verify;
        }
    }

    /// Whether all other processes must close the database first.
    pub(super) fn must_be_alone(&self) -> bool {
        matches!(self.inner().state, State::Unsafe { cure: Cure::Close, .. })
    }

    /// Records that all other processes have closed the database.
    pub(super) fn was_alone(&self) {
        if let State::Unsafe { cure: cure @ Cure::Close, .. } = &mut self.inner().state {
            *cure = Cure::Reopen;
        }
    }

    /// Records that the files were opened again while no other connection of this process had them open. Another thread
    /// may have found a worse fault meanwhile, which stays.
    pub(super) fn reopened(&self) {
        let mut inner = self.inner();
        if !matches!(inner.state, State::Unsafe { cure: Cure::Reopen, .. }) {
            return;
        }
        self.files.accept_size();
        inner.state = State::Well;
        drop(inner);
        tracing::info!("the database is safe again");
    }

    /// Returns why the process must end; `None` if it need not.
    pub(super) fn must_end(&self) -> Option<Fault> {
        match &self.inner().state {
            State::Unsafe { why, cure: Cure::End } => Some(why.clone()),
            _ => None,
        }
    }

    /// Records the result of a check of all pages.
    pub(super) fn verified(&self, is_whole: bool, took: Duration) {
        let mut inner = self.inner();
        inner.verify_at = Instant::now() + (took * VERIFY_RESTS).max(VERIFY_REST_MIN);
        if let State::Unsafe { cure: cure @ Cure::Verifying, .. } = &mut inner.state {
            *cure = if is_whole { Cure::Reopen } else { Cure::Verify };
            if is_whole {
                // Otherwise the next check would find a vacuumed database to be shorter once more, before the files are
                // reopened.
                self.files.accept_size();
            }
        }
    }

    /// Returns how to find out whether the store is ready. The caller must do it.
    pub(super) fn next(&self) -> Next {
        let looked = self.files.look();
        let now = Instant::now();
        let mut inner = self.inner();
        let (why, bytes) = match (&inner.state, looked) {
            (State::Unsafe { why, cure: Cure::Verify }, _) if inner.verify_at <= now => {
                let why = why.clone();
                inner.state = State::Unsafe { why: why.clone(), cure: Cure::Verifying };
                return Next::Verify { why };
            }
            (State::Unsafe { why, cure: Cure::Reopen | Cure::Save | Cure::Close }, _) => {
                (why.clone(), 0)
            }
            (State::Unsafe { why, .. }, _) => return Next::Wait { why: why.clone() },
            (_, Err(why @ (Fault::Gone | Fault::Files { .. }))) => return Next::Wait { why },
            // The writer finds this too, and applies the cure.
            (_, Err(why)) => (why, 0),
            (State::Failing { why, bytes }, Ok(())) => (why.clone(), *bytes),
            (State::Well, Ok(())) => {
                let is_stuck = |since: Instant| now.duration_since(since) >= STUCK_AFTER;
                return match inner.writing_since.is_some_and(is_stuck) {
                    true => Next::Wait { why: Fault::Stuck },
                    false => Next::Read,
                };
            }
        };
        if inner.try_at > now {
            return Next::Wait { why };
        }
        inner.try_at = now + TRY_EVERY;
        Next::Write { why, bytes }
    }

    #[cfg(test)]
    pub(super) fn is_writing(&self) -> bool {
        self.inner().writing_since.is_some()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change is a few assignments that cannot panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
