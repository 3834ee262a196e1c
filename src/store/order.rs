//! A call that waits for its messages to be accepted.

use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::backlog::Admitted;
use crate::queue::{Accepted, Committed, NewMessage};

/// Messages to be accepted. `F` is why the engine failed.
#[derive(Debug)]
pub(super) struct AcceptOrder<F> {
    pub(super) messages: Vec<NewMessage>,
    pub(super) queued_at: Instant,
    pub(super) reply: oneshot::Sender<Result<Committed, F>>,
    /// The permits of the writer's queue, released when the order is dropped.
    pub(super) permits: [OwnedSemaphorePermit; 2],
    pub(super) admitted: Admitted,
}

impl<F> AcceptOrder<F> {
    /// Answers the call with the outcome of each message, after the transaction that began at this time and accepted
    /// this many messages in all.
    pub(super) fn answer(
        self,
        outcome: Result<Vec<Accepted>, F>,
        began_at: Option<Instant>,
        group_messages: usize,
    ) {
        let Self { reply, permits, admitted, queued_at, .. } = self;
        let waited = began_at.map(|began_at| began_at.saturating_duration_since(queued_at));
        let waited = waited.unwrap_or_default();
        // Release the permits before replying.
        drop((permits, admitted));
        // The caller may be gone; the writes stay.
        let _ = reply.send(outcome.map(|accepted| Committed { accepted, group_messages, waited }));
    }
}
