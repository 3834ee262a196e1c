//! A batch, split into pieces.

use super::envelope::Envelope;
use crate::js::Object;

/// A batch, split into slices of the body.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Its first pieces in order, as many as were asked for.
    pub pieces: Vec<Piece<'a>>,
    /// The number of all pieces.
    pub count: usize,
    /// Whether the body is `{"batch": […], …}` and none of it is broken.
    pub is_sound: bool,
    /// The `writeKey` of an envelope, otherwise that of the first message that has one; in a damaged body, the first
    /// one anywhere.
    pub write_key: Option<String>,
    pub(super) envelopes: Vec<Envelope<'a>>,
}

/// One piece of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A complete item: a message, or another JSON value in its place.
    Item {
        /// Its bytes as they came.
        bytes: &'a [u8],
        /// Index of its envelope, for [`Batch::shared`].
        envelope: usize,
    },
    /// Something that is not a complete item.
    Broken {
        /// Where it starts, in bytes from the start of the body.
        at: usize,
    },
}

impl Batch<'_> {
    /// Whether it has any complete item.
    pub fn has_items(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Item { .. }))
    }

    /// Returns the most bytes that an envelope shares with its messages.
    pub fn shared_bytes_max(&self) -> usize {
        self.envelopes.iter().map(Envelope::bytes).max().unwrap_or(0)
    }

    /// Returns how many bytes of the body the messages of an envelope share.
    pub fn shared_bytes(&self, envelope: usize) -> usize {
        self.envelopes.get(envelope).map_or(0, Envelope::bytes)
    }

    /// Decodes what the messages of an envelope share: `context`, `integrations` and `sentAt`. A part that cannot
    /// be read is left out.
    pub fn shared(&self, envelope: usize) -> Object {
        self.envelopes.get(envelope).map(Envelope::decode).unwrap_or_default()
    }
}
