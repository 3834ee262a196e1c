//! A batch that was taken apart.

use super::envelope::Envelope;
use crate::js::Object;

/// A batch, taken apart into slices of the body.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Its pieces in order: the first of them, no more than were asked for.
    pub pieces: Vec<Piece<'a>>,
    /// How many pieces there are in all.
    pub count: usize,
    /// Whether the body is `{"batch": […], …}` and nothing of it is broken.
    pub is_sound: bool,
    /// The `writeKey` of an envelope, else that of the first message that has one. In a damaged body
    /// one that stands anywhere counts.
    pub write_key: Option<String>,
    pub(super) envelopes: Vec<Envelope<'a>>,
}

/// One piece of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole item: a message, or another JSON value in its place.
    Item {
        /// Its bytes, as they came.
        bytes: &'a [u8],
        /// Index of its envelope, for [`Batch::shared`].
        envelope: usize,
    },
    /// Something that is no whole item.
    Broken {
        /// Where it begins, in bytes from the start of the body.
        at: usize,
    },
}

impl Batch<'_> {
    /// Whether anything of it is whole.
    pub fn has_items(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Item { .. }))
    }

    /// The most bytes that an envelope shares with its messages.
    pub fn shared_bytes_max(&self) -> usize {
        self.envelopes.iter().map(Envelope::bytes).max().unwrap_or(0)
    }

    /// How many bytes of the body are shared by the messages of an envelope.
    pub fn shared_bytes(&self, envelope: usize) -> usize {
        self.envelopes.get(envelope).map_or(0, Envelope::bytes)
    }

    /// Decodes what the messages of an envelope share: `context`, `integrations` and `sentAt`. A part that cannot
    /// be read is left out.
    pub fn shared(&self, envelope: usize) -> Object {
        self.envelopes.get(envelope).map(Envelope::decode).unwrap_or_default()
    }
}
