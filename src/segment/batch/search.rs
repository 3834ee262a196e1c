//! Follows arrays and objects to their ends, and finds complete messages in what is broken.

use super::super::list::text_end;
use super::super::message::MessageType;
use super::envelope::Envelope;
use super::token::{Name, word_end};
use crate::js::decode::is_space;

/// An array or object that is being followed.
struct Frame {
    start: usize,
    is_object: bool,
    /// Whether it is where an item of an array can be.
    is_item: bool,
    /// Its `type`, if that is one of Segment's.
    kind: Option<MessageType>,
    has_message_id: bool,
    /// The name of the current member.
    name: Name,
}

impl Frame {
    /// Whether it can be taken for a message although what comes before it is broken. A message may itself contain
    /// arrays of objects with a type, so within another object it must have a message id, as the messages of SDKs do.
    /// A deletion must always have one.
    fn is_message(&self, is_outermost: bool) -> bool {
        let is_plain = is_outermost && self.kind != Some(MessageType::Delete);
        self.kind.is_some() && (self.has_message_id || is_plain)
    }
}

/// The members of an object that the reader looks at.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Members<'a> {
    pub(super) envelope: Envelope<'a>,
    pub(super) write_key: Option<&'a [u8]>,
    /// Whether its `type` is one of Segment's.
    pub(super) is_message: bool,
}

impl<'a> Members<'a> {
    fn note(&mut self, name: Name, value: &'a [u8]) {
        match name {
            Name::WriteKey => self.write_key = Some(value),
            _ => self.envelope.note(name, value),
        }
    }
}

/// The result of following an array or object.
pub(super) enum Followed<'a> {
    /// It is complete, and ends before `end`.
    Whole { end: usize, members: Members<'a> },
    /// It is an object with an array called `batch`, at `items`, or with an item in its place.
    Envelope { items: usize, members: Members<'a> },
    /// It is not complete.
    Broken,
}

/// Follows the arrays and objects of a body. A search remembers what it has found out, in a bit for each byte of the
/// body, so that no search follows an object twice. The bits are allocated when something broken is found.
pub(super) struct Search<'a> {
    bytes: &'a [u8],
    stack: Vec<Frame>,
    /// Where the objects start that were followed.
    seen: Vec<u64>,
    /// Those of them that are complete messages, or start an envelope.
    found: Vec<u64>,
    /// Those of them that are not complete.
    broken: Vec<u64>,
}

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
}

fn set(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

/// What may come next while an array or object is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    ValueOrEnd,
    Name,
    NameOrEnd,
    Colon,
    CommaOrEnd,
}

impl<'a> Search<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, stack: Vec::new(), seen: Vec::new(), found: Vec::new(), broken: Vec::new() }
    }

    /// Whether an object is known not to be complete.
    pub(super) fn is_broken(&self, at: usize) -> bool {
        is_set(&self.broken, at)
    }

    /// Follows the array or object at `start` to its end.
    pub(super) fn follow(&mut self, start: usize) -> Followed<'a> {
        self.walk(start, false)
    }

    /// Returns the next object before `end` that is a complete message or starts an envelope.
    ///
    /// The bytes before it are broken, so quotes cannot be trusted: a brace may be in what looks like a string. An
    /// object that was followed once is not followed again; any other was in what looked like a string then, so that
    /// two passes over each byte are enough.
    pub(super) fn next_message(&mut self, from: usize, end: usize) -> Option<usize> {
        let words = self.bytes.len().div_ceil(64);
        for bits in [&mut self.seen, &mut self.found, &mut self.broken] {
            bits.resize(words, 0);
        }
        let mut from = from;
        loop {
            let at = from + self.bytes.get(from..end)?.iter().position(|byte| *byte == b'{')?;
            if !is_set(&self.seen, at)
                && let Followed::Broken = self.walk(at, true)
            {
                let Self { found, broken, stack, .. } = self;
                // An envelope need not end: its messages are complete without it.
                let is_broken = |frame: &&Frame| frame.is_object && !is_set(found, frame.start);
                for frame in stack.iter().filter(is_broken) {
                    set(broken, frame.start);
                }
            }
            if is_set(&self.found, at) {
                return Some(at);
            }
            from = at + 1;
        }
    }

    /// Follows an array or object; a search also notes each object in it.
    fn walk(&mut self, start: usize, is_search: bool) -> Followed<'a> {
        let mut members = Members::default();
        let mut value_from = start;
        let mut at = start;
        let mut next = Next::Value;
        self.stack.clear();
        loop {
            while self.bytes.get(at).copied().is_some_and(is_space) {
                at += 1;
            }
            let Some(byte) = self.bytes.get(at).copied() else {
                return Followed::Broken;
            };
            let is_value = matches!(next, Next::Value | Next::ValueOrEnd);
            if is_value && self.stack.len() == 1 {
                value_from = at;
            }
            match byte {
                b'{' | b'[' if is_value => {
                    if let Some(frame) = self.stack.last()
                        && frame.name == Name::Batch
                    {
                        if is_search && frame.is_item {
                            set(&mut self.found, frame.start);
                        }
                        if self.stack.len() == 1 {
                            return Followed::Envelope { items: at, members };
                        }
                    }
                    self.open(at, byte == b'{', is_search);
                    at += 1;
                    next = if byte == b'{' { Next::NameOrEnd } else { Next::ValueOrEnd };
                    continue;
                }
                b'"' if matches!(next, Next::Name | Next::NameOrEnd) => {
                    let Some(end) = text_end(self.bytes, at) else {
                        return Followed::Broken;
                    };
                    if let Some(frame) = self.stack.last_mut() {
                        frame.name = Name::of(&self.bytes[at..end]);
                        frame.has_message_id |= frame.name == Name::MessageId;
                    }
                    at = end;
                    next = Next::Colon;
                    continue;
                }
                b':' if next == Next::Colon => {
                    at += 1;
                    next = Next::Value;
                    continue;
                }
                b',' if next == Next::CommaOrEnd => {
                    at += 1;
                    let is_object = self.stack.last().is_some_and(|frame| frame.is_object);
                    next = if is_object { Next::Name } else { Next::Value };
                    continue;
                }
                b'}' | b']' if matches!(next, Next::CommaOrEnd) || is_empty_end(next, byte) => {
                    let closes = |frame: &Frame| frame.is_object == (byte == b'}');
                    let Some(frame) = self.stack.pop_if(|frame| closes(frame)) else {
                        return Followed::Broken;
                    };
                    at += 1;
                    if is_search && frame.is_item && frame.is_message(self.stack.is_empty()) {
                        set(&mut self.found, frame.start);
                    }
                    if self.stack.is_empty() {
                        return Followed::Whole { end: at, members };
                    }
                }
                b'"' if is_value => {
                    let Some(end) = text_end(self.bytes, at) else {
                        return Followed::Broken;
                    };
                    if let Some(frame) = self.stack.last_mut()
                        && frame.name == Name::Type
                    {
                        frame.kind = frame.kind.or_else(|| kind_of(&self.bytes[at + 1..end - 1]));
                        members.is_message |= frame.kind.is_some() && self.stack.len() == 1;
                    }
                    at = end;
                }
                _ if is_value => {
                    let Some(end) = word_end(self.bytes, at) else {
                        return Followed::Broken;
                    };
                    at = end;
                }
                _ => return Followed::Broken,
            }
            // Behind a value.
            if let [frame] = self.stack.as_slice() {
                members.note(frame.name, &self.bytes[value_from..at]);
            }
            next = Next::CommaOrEnd;
        }
    }

    fn open(&mut self, start: usize, is_object: bool, is_search: bool) {
        let is_item = match self.stack.last() {
            Some(frame) => !frame.is_object || frame.name == Name::Batch,
            None => is_search && !self.is_value_of_member(start),
        };
        if is_search && is_object {
            set(&mut self.seen, start);
        }
        let frame = Frame {
            start,
            is_object,
            is_item,
            kind: None,
            has_message_id: false,
            name: Name::Other,
        };
        self.stack.push(frame);
    }

    /// Whether a byte follows a name and a colon. A member called `batch` contains messages, so its name does not count.
    fn is_value_of_member(&self, at: usize) -> bool {
        let before = self.bytes[..at].trim_ascii_end();
        let name = before.strip_suffix(b":").map(<[u8]>::trim_ascii_end);
        name.is_some_and(|name| name.ends_with(b"\"") && !name.ends_with(b"\"batch\""))
    }
}

/// Whether an array or object that has just started may end with this byte.
fn is_empty_end(next: Next, byte: u8) -> bool {
    match next {
        Next::NameOrEnd => byte == b'}',
        Next::ValueOrEnd => byte == b']',
        Next::Value | Next::Name | Next::Colon | Next::CommaOrEnd => false,
    }
}

fn kind_of(text: &[u8]) -> Option<MessageType> {
    MessageType::parse(std::str::from_utf8(text).ok()?)
}
