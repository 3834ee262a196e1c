//! Segment's vocabulary: messages, ids, batches, stamping and the webhook signature. No I/O, no clock, no
//! configuration; knows nothing of Loops.

pub mod batch;
pub mod casing;
pub mod ids;
pub mod list;
pub mod message;
pub mod repair;
pub mod signature;
pub mod stamp;
mod time;

pub use ids::{
    Digests, LaneKey, MessageHash, PersonDigest, PersonIdKind, PropertyName, PropertyValue,
    RequestDigest,
};
pub use message::{Message, MessageType};
