//! Segment's vocabulary: values as JavaScript sees them, messages, ids, batches, stamping and the
//! webhook signature. No I/O, no clock, no configuration; knows nothing of Loops.

pub mod batch;
pub mod casing;
pub mod date;
pub mod decode;
pub mod ids;
pub mod list;
pub mod message;
mod object;
pub mod repair;
pub mod signature;
pub mod stamp;
mod text;
mod time;
pub mod value;

pub use ids::{
    Digests, LaneKey, MessageHash, PersonDigest, PersonIdKind, PropertyName, PropertyValue,
    RequestDigest,
};
pub use message::{Message, MessageType};
pub use value::{Object, Value};
