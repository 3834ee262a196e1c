//! Short, fixed-size forms of the ids that queues and indices are keyed by.
//!
//! All are the first eight bytes of a SHA-256. That keeps indices small and personal data out of
//! them. Where two different texts must never be taken for one (duplicates), the text itself is
//! compared as well.

use sha2::{Digest, Sha256};

/// The order key of a message, digested: what must stay in order at one destination.
///
/// The order key is `userId`, else `anonymousId`, else e-mail (see [`crate::segment::message`]).
/// Two people whose keys collide are merely kept in order with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey(pub i64);

/// A message id, digested, to find it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageHash(pub i64);

/// A user id (or anonymous id), digested, to find a person's messages by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonHash(pub i64);

impl LaneKey {
    /// Digests an order key; `kind` keeps a user id apart from an equal anonymous id.
    pub fn of(kind: OrderKeyKind, key: &str) -> Self {
        Self(digest(&[kind.tag(), key]))
    }
}

impl MessageHash {
    /// Digests a message id.
    pub fn of(message_id: &str) -> Self {
        Self(digest(&["message", message_id]))
    }
}

impl PersonHash {
    /// Digests the text of a user id, or of an anonymous id where there is no user id.
    pub fn of(person_id: &str) -> Self {
        Self(digest(&["person", person_id]))
    }
}

/// Which field an order key was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKeyKind {
    /// `userId`.
    User,
    /// `anonymousId`.
    Anonymous,
    /// An e-mail address.
    Email,
}

impl OrderKeyKind {
    fn tag(self) -> &'static str {
        match self {
            OrderKeyKind::User => "user",
            OrderKeyKind::Anonymous => "anonymous",
            OrderKeyKind::Email => "email",
        }
    }
}

fn digest(parts: &[&str]) -> i64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let full = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&full[..8]);
    i64::from_be_bytes(first)
}
