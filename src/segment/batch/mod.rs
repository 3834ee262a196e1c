//! Splits a batch into messages, even a damaged one: mobile SDKs keep batches in files, which may be truncated,
//! overwritten or joined before they are sent.
//!
//! These rules decide what is a message:
//!
//! - Outside messages, brackets, commas and white space are ignored. A complete JSON object there is a message, unless
//!   it has an array called `batch`, which makes it the envelope of the messages in that array. An object that
//!   contains a message but has none of Segment's types is broken: it is the rest of an envelope, or of a truncated
//!   message.
//! - An object that ends, but is not valid JSON in between, is still one item: its decoder rejects it.
//! - Anything else is broken. The reader looks for the next object that is complete and has one of Segment's types, or
//!   that starts an envelope; everything before it is one broken piece. An object behind a name and a colon is the
//!   value of a member, so it is never taken for a message; an item of an array within a broken object only if it has
//!   a message id.
//! - What an envelope shares (`context`, `integrations`, `sentAt`) applies to its messages as long as nothing in it is
//!   broken. Behind a broken piece nothing is shared, since it might belong to a message, and would put one person's
//!   data into the messages of another.
//!
//! Messages are found by following strings and brackets, without recursion and without decoding: nothing is decoded
//! before the sender is known. The time is linear in the length of the body, however hostile, because the search for
//! complete messages follows no object twice.

mod envelope;
mod pieces;
mod reader;
mod search;
mod token;

pub use envelope::merge_envelope;
pub use pieces::{Batch, Piece};

#[cfg(test)]
mod tests;
