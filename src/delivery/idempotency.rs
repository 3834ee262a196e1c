//! The `Idempotency-Key` of an event.

use sha2::{Digest, Sha256};

/// The parts of a key that come from the message.
pub(super) struct Origin {
    /// Name of the source.
    pub(super) source: String,
    pub(super) message_id: String,
    /// How many times the message was replayed.
    pub(super) replay: u32,
}

/// The kind of request that a key is for. After a merged request was refused, its parts need keys of their own.
/// Otherwise Loops would take them for the refused request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The first request that carries the delivery, alone or merged.
    First,
    /// A part of a merged request, sent alone.
    Part,
}

impl Origin {
    /// Returns the key, which is the same for the same message under the same subscription. Loops therefore recognizes
    /// the event even if our database was lost and Segment sent the message a second time. Each replay has a different
    /// key, and so has a part: a refused request may have used up the earlier key.
    pub(super) fn key(&self, subscription: &str, purpose: Purpose) -> String {
        let mut hasher = Sha256::new();
        // Lengths are hashed too, so that no two different triples yield the same bytes.
        for part in [&self.source, &self.message_id, subscription] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        if self.replay > 0 {
            hasher.update(self.replay.to_be_bytes());
        }
        if purpose == Purpose::Part {
            hasher.update(b"part");
        }
        // Loops allows 100 characters.
        hasher.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_message_source_subscription_replay_and_purpose() {
        let key = |source: &str, id: &str, subscription: &str, replay, purpose| {
            let origin = Origin { source: source.to_owned(), message_id: id.to_owned(), replay };
            origin.key(subscription, purpose)
        };
        let first = key("web", "m1", "Sign-up", 0, Purpose::First);
        assert_eq!(first, key("web", "m1", "Sign-up", 0, Purpose::First));
        assert!(first.len() <= 100);
        let others = [
            key("web", "m2", "Sign-up", 0, Purpose::First),
            key("app", "m1", "Sign-up", 0, Purpose::First),
            key("web", "m1", "Other", 0, Purpose::First),
            key("webm", "1", "Sign-up", 0, Purpose::First),
            key("web", "m1", "Sign-up", 1, Purpose::First),
            key("web", "m1", "Sign-up", 2, Purpose::First),
            key("web", "m1", "Sign-up", 0, Purpose::Part),
            key("web", "m1", "Sign-up", 1, Purpose::Part),
        ];
        let all: std::collections::HashSet<&String> = others.iter().chain([&first]).collect();
        assert_eq!(all.len(), 9);
    }
}
