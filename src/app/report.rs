//! The report of this process about itself.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::process::Process;
use super::reload::Reloader;
use crate::delivery::Board;
use crate::http::HttpState;
use crate::queue::{CheckIn, FreeSpace, Inbox, ProcessStatus};

/// Gathers what this process reports about itself.
pub(super) struct Reporter {
    pub(super) process: Process,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) board: Board,
    pub(super) http: HttpState,
    pub(super) reloader: Arc<Reloader>,
}

impl Reporter {
    /// Returns the record for a check-in of the process.
    pub(super) fn check_in(&self, now: Timestamp) -> CheckIn {
        let process = &self.process;
        CheckIn {
            name: process.name.clone(),
            host: process.host.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: process.started_at.elapsed(),
            status: self.status(now),
            now,
        }
    }

    fn status(&self, now: Timestamp) -> ProcessStatus {
        let reloaded_ago = self.reloader.reloaded_ago();
        let ago = reloaded_ago.and_then(|ago| SignedDuration::try_from(ago).ok());
        ProcessStatus {
            free_bytes: self.inbox.free_bytes(),
            is_space_low: self.inbox.free_space() != FreeSpace::Ample,
            reloaded_at: ago.and_then(|ago| now.checked_sub(ago).ok()),
            rejected: self.http.rejected_recently(),
            destinations: self.board.read(now),
        }
    }
}
