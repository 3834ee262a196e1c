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

mod reader;
mod search;
mod token;

use crate::js::decode::decode;
use crate::js::{Object, Value};
use reader::Reader;
use token::Name;

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
    envelopes: Vec<Envelope<'a>>,
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

/// What stands beside the messages of a batch.
#[derive(Debug, Default, Clone, Copy)]
struct Envelope<'a> {
    context: Option<&'a [u8]>,
    integrations: Option<&'a [u8]>,
    sent_at: Option<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// Reads a body. Of its pieces it keeps the first `pieces_max` and counts the others.
    pub fn read(body: &'a [u8], pieces_max: usize) -> Self {
        Reader::new(body, pieces_max).read()
    }

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

impl<'a> Envelope<'a> {
    /// Notes a member, if it is one that is shared.
    fn note(&mut self, name: Name, value: &'a [u8]) {
        match name {
            Name::Context => self.context = Some(value),
            Name::Integrations => self.integrations = Some(value),
            Name::SentAt => self.sent_at = Some(value),
            Name::Batch
            | Name::WriteKey
            | Name::Type
            | Name::MessageId
            | Name::OfMessage
            | Name::Other => {}
        }
    }

    fn parts(&self) -> [(&'static str, Option<&'a [u8]>); 3] {
        [("context", self.context), ("integrations", self.integrations), ("sentAt", self.sent_at)]
    }

    fn bytes(&self) -> usize {
        self.parts().iter().filter_map(|(_, part)| *part).map(<[u8]>::len).sum()
    }

    fn decode(&self) -> Object {
        let read = |(key, part): (&str, Option<&[u8]>)| Some((key.to_owned(), decode(part?).ok()?));
        self.parts().into_iter().filter_map(read).collect()
    }
}

/// Puts the envelope's `context` and `integrations` under those of a message, whose own keys win.
pub fn merge_envelope(message: &mut Object, envelope: &Object) {
    for key in ["context", "integrations"] {
        let Some(Value::Object(shared)) = envelope.get(key) else {
            continue;
        };
        match message.get_mut(key) {
            Some(Value::Object(own)) => {
                for (name, value) in shared.iter() {
                    if !own.contains_key(name) {
                        own.insert(name, value.clone());
                    }
                }
            }
            None | Some(Value::Null) => message.insert(key, Value::Object(shared.clone())),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
