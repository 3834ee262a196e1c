//! Checks that acknowledged messages are safe: the file is where it was opened, and the last group that had
//! something to write was written. While all is well, this costs one look at the file a second.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Fault;

/// The shortest time between two checks of the file for incoming messages.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Health {
    path: PathBuf,
    /// The identity of the file when it was opened; `None` if the system has none.
    identity: Option<Identity>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked_at: Option<Instant>,
    is_gone: bool,
    /// Why the last group was not written.
    failure: Option<Fault>,
}

/// Device and number of a file. The number is not given to another one while the file is open.
type Identity = (u64, u64);

impl Health {
    pub(super) fn open(path: PathBuf) -> Self {
        let identity = std::fs::metadata(&path).ok().and_then(|found| identity(&found));
        Self { path, identity, state: Mutex::default() }
    }

    /// Fails while the file is not where it was, as known a second ago.
    pub(super) fn admit(&self) -> Result<(), Fault> {
        let is_due = {
            let mut state = self.lock();
            let is_due = state.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
            if is_due {
                state.looked_at = Some(Instant::now());
            }
            is_due
        };
        if is_due {
            return self.look();
        }
        if self.lock().is_gone { Err(Fault::Gone) } else { Ok(()) }
    }

    /// Fails unless the file is where it was. Takes microseconds on any disk that a database may be on.
    /// Blocking here is intended: awaiting would let later messages overtake.
    pub(super) fn look(&self) -> Result<(), Fault> {
        let is_here = match std::fs::metadata(&self.path) {
            Ok(found) => self.identity.is_none() || identity(&found) == self.identity,
            Err(_) => false,
        };
        self.lock().is_gone = !is_here;
        if is_here { Ok(()) } else { Err(Fault::Gone) }
    }

    /// Notes that a group was written; returns whether the previous one failed. A group that may have
    /// written nothing proves nothing.
    pub(super) fn written(&self, proves: bool) -> bool {
        proves && self.lock().failure.take().is_some()
    }

    /// Notes that a group was not written; returns whether the previous one was.
    pub(super) fn failed(&self, fault: &Fault) -> bool {
        self.lock().failure.replace(fault.clone()).is_none()
    }

    /// Why the last group was not written; `None` if it was.
    pub(super) fn failure(&self) -> Option<Fault> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(unix)]
fn identity(found: &std::fs::Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(_found: &std::fs::Metadata) -> Option<Identity> {
    None
}
