//! Reads a batch of messages, even a damaged one: mobile SDKs keep batches in files, and those files
//! may be cut off, overwritten or joined before they are sent.
//!
//! One rule decides what is a message:
//!
//! * Outside a message, brackets, commas and white space mean nothing. A whole JSON object that
//!   stands there is a message, unless it has an array called `batch`: that makes it the envelope
//!   of the messages in that array. One without a type of Segment's that holds a message is broken:
//!   it is what is left of an envelope, or of a message that was cut off.
//! * An object that ends, but is no JSON in between, is still one item: its decoder rejects it.
//! * Anything else that stands there is broken. The reader looks for the next object that is whole
//!   and has one of Segment's types, or that begins an envelope; everything before it is one broken
//!   piece. An object behind a name and a colon is the value of a member, so it is never taken for a
//!   message, and an item of an array within a broken object only if it has a message id.
//! * What an envelope shares (`context`, `integrations`, `sentAt`) counts for its messages as long
//!   as nothing in it is broken. Behind a broken piece nothing is shared: it might belong to a
//!   message, and would then put one person's data into the messages of another.
//!
//! Messages are found by following strings and brackets, without recursion and without decoding:
//! nothing is decoded before the sender is known. The time is linear in the length of the body,
//! however hostile, because no object is followed twice by the search for whole messages.

mod envelope;
mod pieces;
mod reader;
mod search;
mod token;

pub use envelope::merge_envelope;
pub use pieces::{Batch, Piece};

#[cfg(test)]
mod tests;
