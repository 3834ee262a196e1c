//! Loops' webhooks: how they are signed, and what they report. No I/O.
//!
//! What is read of a body is names and ids; of the contact's `userId` and e-mail address, digests. Subjects, addresses
//! and contents are never read.

mod report;
mod signature;

pub use report::{BadReport, EVENTS, Received, known, read};
pub use signature::{Key, is_valid, sign};

/// The header with the id of a webhook.
pub const ID_HEADER: &str = "webhook-id";
/// The header with the time at which it was sent, in Unix seconds.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with its signatures.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
