//! Loops' webhooks: how they are signed, and what they report. No I/O.
//!
//! Of a body, only names and ids are kept, and digests of the contact's `userId` and e-mail address: never a subject,
//! an address or contents.

mod report;
mod signature;

pub use report::{BadReport, EVENTS, Received, known, read};
pub use signature::{Key, is_valid, sign};

/// The header with the id of a webhook.
pub const ID_HEADER: &str = "webhook-id";
/// The header with the time of sending, in Unix seconds.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with its signatures.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
