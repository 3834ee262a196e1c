//! Bounds of transactions that write.

use std::time::Duration;

use super::connection::ANSWER_TIMEOUT;

/// How long a group may take. A server that does not respond must not keep callers waiting.
pub(super) const GROUP_TIMEOUT: Duration = ANSWER_TIMEOUT;

/// How often a transaction is retried after the server ended it in favour of another one.
pub(super) const TRIES_MAX: u32 = 5;
