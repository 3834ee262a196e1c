//! The mark of a queue that is being moved, or was.

use std::path::Path;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};

use super::error::OpenError;
use super::rows::from_ms;

const MARK: &str = "SELECT value FROM meta WHERE name = 'moved'";

/// Marks a queue that is being moved, or was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Mark {
    /// The id of the move, which its target has as well.
    pub(in crate::store) id: String,
    /// Host, port, database and schema of the target.
    pub(in crate::store) to: String,
    /// When the move began, in Unix milliseconds.
    pub(in crate::store) began_at: i64,
    /// When the move was finished; `None` while it is under way.
    pub(in crate::store) finished_at: Option<i64>,
}

impl Mark {
    /// Returns why the database is not opened.
    pub(super) fn refusal(&self, path: &Path) -> OpenError {
        let (path, to) = (path.to_owned(), self.to.clone());
        let at = |ms| format!("{:.0}", from_ms(ms));
        match self.finished_at {
            Some(ms) => OpenError::Moved { path, to, at: at(ms) },
            None => OpenError::BeingMoved { path, to, since: at(self.began_at) },
        }
    }
}

/// Returns the mark of a database; `None` if no move has begun.
pub(super) fn mark(connection: &Connection) -> Result<Option<Mark>, rusqlite::Error> {
    let text = |row: &Row<'_>| row.get::<_, String>(0);
    let Some(text) = connection.query_row(MARK, [], text).optional()? else { return Ok(None) };
    let read = serde_json::from_str(&text);
    read.map(Some)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}
