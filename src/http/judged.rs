//! The outcome of judging the messages of a request.

use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::NewMessage;

/// The messages of a request, each judged.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) messages: Vec<NewMessage>,
    pub(super) rejected: Vec<RejectedMessage>,
}

/// A message of a batch that was not accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RejectedMessage {
    /// Its index in the batch, from 0.
    pub(super) index: usize,
    /// For programs: one of a few fixed words.
    pub(super) code: &'static str,
    /// For people: what was wrong, what is allowed, what to do.
    pub(super) message: String,
}
