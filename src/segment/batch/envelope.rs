//! What the messages of a batch share.

use super::token::Name;
use crate::js::decode::decode;
use crate::js::{Object, Value};

/// The members of an envelope that apply to all of its messages.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Envelope<'a> {
    context: Option<&'a [u8]>,
    integrations: Option<&'a [u8]>,
    sent_at: Option<&'a [u8]>,
}

impl<'a> Envelope<'a> {
    /// Keeps a member, if it is one that is shared.
    pub(super) fn note(&mut self, name: Name, value: &'a [u8]) {
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

    pub(super) fn bytes(&self) -> usize {
        self.parts().iter().filter_map(|(_, part)| *part).map(<[u8]>::len).sum()
    }

    pub(super) fn decode(&self) -> Object {
        let read = |(key, part): (&str, Option<&[u8]>)| Some((key.to_owned(), decode(part?).ok()?));
        self.parts().into_iter().filter_map(read).collect()
    }
}

/// Merges the envelope's `context` and `integrations` into those of a message, whose own keys win.
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
