//! What people did.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::{self, AuditAction};

/// What people did.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditList {
    /// The entries, newest first.
    pub entries: Vec<AuditEntry>,
    /// Send it as `before` to get the next page; null at the end.
    #[schema(required)]
    pub next: Option<i64>,
}

/// What a person changed or looked at.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its number.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What the person may do: `admin` or `viewer`; `command` for a command such as `segment-loops replay`.
    #[schema(example = "admin")]
    pub role: String,
    /// The session of the console, or which of the admin tokens the request had, such as `token-1` for the first.
    /// Empty for a command.
    pub session: String,
    /// Name of the process that did it.
    pub process: String,
    /// What was done.
    pub action: AuditAction,
    /// What it was done to.
    #[schema(value_type = Object)]
    pub arguments: serde_json::Value,
    /// The result, for people.
    pub result: String,
}

impl AuditList {
    /// Makes a page of a list that was read with this limit.
    pub(in crate::console) fn new(found: Vec<queue::AuditRecord>, limit: u32) -> Self {
        let is_full = found.len() >= limit as usize;
        let next = found.last().filter(|_| is_full).map(|record| record.id);
        Self { entries: found.into_iter().map(AuditEntry::from).collect(), next }
    }
}

impl From<queue::AuditRecord> for AuditEntry {
    fn from(queue::AuditRecord { id, entry }: queue::AuditRecord) -> Self {
        let queue::AuditEntry { at, role, session, process, action, arguments, result } = entry;
        let arguments = serde_json::from_str(&arguments).unwrap_or_default();
        Self { id, at, role, session, process, action, arguments, result }
    }
}
