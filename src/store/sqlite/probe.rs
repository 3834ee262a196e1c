//! A write that changes nothing, to see whether writing works.

use rusqlite::Connection;

use super::Fault;
use super::open::SCHEMA_VERSION;
use super::writer::{Effects, Step};

/// Writes a page with unchanged contents, to see whether writing works.
pub(super) struct TryToWrite;

impl Step for TryToWrite {
    type Output = ();

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        effects.has_written = true;
        Ok(())
    }
}
