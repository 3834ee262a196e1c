//! Reads a batch of messages, even a damaged one: mobile SDKs keep batches in files, and those files
//! may be cut off, overwritten or joined before they are sent.
//!
//! One rule decides what is a message:
//!
//! * Outside a message, brackets, commas and white space mean nothing. A whole JSON object that
//!   stands there is a message, unless it has an array called `batch`: that makes it the envelope
//!   of the messages in that array.
//! * An object that ends, but is no JSON in between, is still one item: its decoder rejects it.
//! * Anything else that stands there is broken. The reader looks for the next object that is whole
//!   and has one of Segment's types, or that begins an envelope; everything before it is one broken
//!   piece. An object behind a name and a colon is the value of a member, so it is never taken for a
//!   message.
//! * What an envelope shares (`context`, `integrations`, `sentAt`) counts for its messages as long
//!   as nothing in it is broken. Behind a broken piece nothing is shared: it might belong to a
//!   message, and would then put one person's data into the messages of another.
//!
//! Messages are found by following strings and brackets, without recursion and without decoding:
//! nothing is decoded before the sender is known. The time is linear in the length of the body,
//! however hostile, because no object is followed twice by the search for whole messages.

use super::decode::{decode, is_space};
use super::list::{short_text, text_end};
use super::message::MessageType;
use super::value::{Object, Value};

/// A batch, taken apart into slices of the body.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Its pieces in order: the first of them, no more than were asked for.
    pub pieces: Vec<Piece<'a>>,
    /// How many pieces there are in all.
    pub count: usize,
    /// Whether the body is `{"batch": […], …}` and nothing of it is broken.
    pub is_sound: bool,
    /// The `writeKey` of an envelope, else that of the first message that has one.
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
        let mut reader = Reader::new(body, pieces_max);
        while let Some(byte) = reader.peek() {
            reader.step(byte);
        }
        // An envelope that does not end was cut off.
        reader.is_damaged |= reader.place != Place::Outside;
        Self {
            is_sound: reader.has_batch && !reader.is_damaged,
            pieces: reader.pieces,
            count: reader.count,
            write_key: reader.envelope_key.or(reader.message_key),
            envelopes: reader.envelopes,
        }
    }

    /// Whether anything of it is whole.
    pub fn has_items(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Item { .. }))
    }

    /// The most bytes that an envelope shares with its messages.
    pub fn shared_bytes_max(&self) -> usize {
        let bytes = |envelope: &Envelope<'_>| {
            envelope.parts().iter().filter_map(|(_, part)| *part).map(<[u8]>::len).sum()
        };
        self.envelopes.iter().map(bytes).max().unwrap_or(0)
    }

    /// What each envelope shares with its messages: `context`, `integrations` and `sentAt`. A part
    /// that cannot be read is left out.
    pub fn shared(&self) -> Vec<Object> {
        self.envelopes.iter().map(Envelope::decode).collect()
    }
}

impl<'a> Envelope<'a> {
    fn parts(&self) -> [(&'static str, Option<&'a [u8]>); 3] {
        [("context", self.context), ("integrations", self.integrations), ("sentAt", self.sent_at)]
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

/// The names of the members that the reader looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Batch,
    Context,
    Integrations,
    SentAt,
    WriteKey,
    Type,
    Other,
}

impl Name {
    /// Reads the name of a member, with its quotes.
    fn of(quoted: &[u8]) -> Self {
        let of = |name: &[u8]| match name {
            b"batch" => Name::Batch,
            b"context" => Name::Context,
            b"integrations" => Name::Integrations,
            b"sentAt" => Name::SentAt,
            b"writeKey" => Name::WriteKey,
            b"type" => Name::Type,
            _ => Name::Other,
        };
        if !quoted.contains(&b'\\') {
            return of(&quoted[1..quoted.len() - 1]);
        }
        short_text(quoted).map_or(Name::Other, |name| of(name.as_bytes()))
    }
}

/// Where the reader stands in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In no envelope, or in one whose members cannot be trusted.
    Outside,
    /// In its array of messages, at this depth of arrays within it.
    List(usize),
    /// Behind that array.
    Tail,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    place: Place,
    pieces_max: usize,
    pieces: Vec<Piece<'a>>,
    count: usize,
    /// The first one is empty: it is that of messages without an envelope.
    envelopes: Vec<Envelope<'a>>,
    /// Whether a piece that is kept refers to the last envelope.
    is_envelope_used: bool,
    has_batch: bool,
    is_damaged: bool,
    envelope_key: Option<String>,
    message_key: Option<String>,
    stack: Vec<Frame>,
    search: Search,
    /// How many bytes may still be looked at by [`Reader::balanced_end`].
    patience: usize,
}

/// An array or object that is being followed.
struct Frame {
    start: usize,
    is_object: bool,
    /// Whether it stands where an item of an array can stand.
    is_item: bool,
    /// Whether it has one of Segment's types.
    is_message: bool,
    /// The name of the member at hand.
    name: Name,
}

/// The members of an object that the reader looks at.
#[derive(Debug, Default, Clone, Copy)]
struct Members<'a> {
    envelope: Envelope<'a>,
    write_key: Option<&'a [u8]>,
    /// Whether its `type` is one of Segment's.
    is_message: bool,
}

impl<'a> Members<'a> {
    fn note(&mut self, name: Name, value: &'a [u8]) {
        match name {
            Name::Context => self.envelope.context = Some(value),
            Name::Integrations => self.envelope.integrations = Some(value),
            Name::SentAt => self.envelope.sent_at = Some(value),
            Name::WriteKey => self.write_key = Some(value),
            Name::Batch | Name::Type | Name::Other => {}
        }
    }
}

/// What following an array or object came to.
enum Followed<'a> {
    /// It is whole, and ends before `end`.
    Whole { end: usize, members: Members<'a> },
    /// It is an object with an array called `batch`, at `items`, or with an item in its place.
    Envelope { items: usize, members: Members<'a> },
    /// It is not whole.
    Broken,
}

/// What the search for whole messages knows of the body: a bit for each byte, or nothing as long as
/// nothing was broken.
#[derive(Default)]
struct Search {
    /// Objects that were followed.
    seen: Vec<u64>,
    /// Those of them that are whole messages, or begin an envelope.
    found: Vec<u64>,
    /// Those of them that are not whole.
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

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], pieces_max: usize) -> Self {
        Self {
            bytes,
            at: 0,
            place: Place::Outside,
            pieces_max,
            pieces: Vec::new(),
            count: 0,
            envelopes: vec![Envelope::default()],
            is_envelope_used: true,
            has_batch: false,
            is_damaged: false,
            envelope_key: None,
            message_key: None,
            stack: Vec::new(),
            search: Search::default(),
            patience: bytes.len().saturating_mul(2),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Passes over whatever stands at the present byte, which is outside any message.
    fn step(&mut self, byte: u8) {
        match byte {
            // White space, and NUL, which half-written files are full of.
            0..=b' ' | b',' => self.at += 1,
            b'[' => {
                self.at += 1;
                if let Place::List(depth) = &mut self.place {
                    *depth += 1;
                }
            }
            b']' => {
                self.at += 1;
                if let Place::List(depth) = self.place {
                    self.place = depth.checked_sub(1).map_or(Place::Tail, Place::List);
                }
            }
            b'}' => {
                self.at += 1;
                if self.place == Place::Tail {
                    self.place = Place::Outside;
                }
            }
            b'{' => self.object(),
            _ if self.bytes[self.at..].starts_with(b"\xef\xbb\xbf") => self.at += 3,
            _ => self.scalar(),
        }
    }

    fn object(&mut self) {
        let start = self.at;
        if is_set(&self.search.broken, start) {
            return self.broken(start);
        }
        match self.follow(start, false) {
            // Without a type it is no message. Cut within an array, it may hold those that came behind it.
            Followed::Whole { end, members }
                if !members.is_message && self.next_message(start, end).is_some() =>
            {
                self.broken(start);
            }
            Followed::Whole { end, members } => {
                if let (None, Some(key)) = (&self.message_key, members.write_key) {
                    self.message_key = short_text(key);
                }
                self.item(start, end);
            }
            Followed::Envelope { items, members } => {
                self.has_batch = true;
                self.place = Place::List(0);
                self.begin_envelope(members);
                let has_bracket = self.bytes.get(items) == Some(&b'[');
                self.is_damaged |= !has_bracket;
                self.at = items + usize::from(has_bracket);
            }
            Followed::Broken => self.broken(start),
        }
    }

    fn begin_envelope(&mut self, members: Members<'a>) {
        // An envelope that no piece refers to gives way, so that there are never more of them than pieces.
        if !self.is_envelope_used {
            self.envelopes.pop();
        }
        self.envelopes.push(members.envelope);
        self.is_envelope_used = false;
        if let Some(key) = members.write_key {
            self.envelope_key = short_text(key);
        }
    }

    /// A string, or a run of other bytes: an item, the beginning of a member, or something broken.
    fn scalar(&mut self) {
        let start = self.at;
        let is_text = self.bytes[start] == b'"';
        let end = if is_text { text_end(self.bytes, start) } else { self.word_end(start) };
        let Some(end) = end else {
            return self.broken(start);
        };
        let behind = self.skip_blank(end);
        match self.bytes.get(behind) {
            None | Some(b',' | b']' | b'}') => self.item(start, end),
            Some(b':') if is_text => self.member(start, end, behind + 1),
            Some(_) => self.broken(start),
        }
    }

    /// A member outside a message: the envelope's, or what is left of a message.
    fn member(&mut self, start: usize, name_end: usize, from: usize) {
        let name = Name::of(&self.bytes[start..name_end]);
        let is_envelopes = match name {
            Name::Batch | Name::Context | Name::Integrations | Name::SentAt | Name::WriteKey => {
                true
            }
            Name::Type | Name::Other => self.place == Place::Tail,
        };
        let from = self.skip_blank(from);
        if name == Name::Batch {
            // The head of the envelope is missing; its messages follow.
            self.place = Place::Outside;
            self.is_damaged = true;
            self.at = from;
            return;
        }
        let end = match self.bytes.get(from) {
            Some(b'{' | b'[') => match self.follow(from, false) {
                Followed::Whole { end, .. } => Some(end),
                Followed::Envelope { .. } | Followed::Broken => None,
            },
            Some(b'"') => text_end(self.bytes, from),
            Some(_) => self.word_end(from),
            None => None,
        };
        let is_end = |end: &usize| {
            let behind = self.bytes.get(self.skip_blank(*end));
            matches!(behind, None | Some(b',' | b'}' | b'{'))
        };
        let Some(end) = end.filter(|end| is_envelopes && is_end(end)) else {
            return self.broken(start);
        };
        let value = &self.bytes[from..end];
        let is_trusted = self.place == Place::Tail;
        self.is_damaged |= !is_trusted;
        if name == Name::WriteKey {
            let key = short_text(value);
            if is_trusted || key.is_some() {
                self.envelope_key = key;
            }
        }
        if let (true, Some(envelope)) = (is_trusted, self.envelopes.last_mut()) {
            let mut members = Members { envelope: *envelope, ..Members::default() };
            members.note(name, value);
            *envelope = members.envelope;
        }
        self.at = end;
    }

    fn item(&mut self, start: usize, end: usize) {
        let envelope = match self.place {
            Place::Outside => 0,
            Place::List(_) | Place::Tail => self.envelopes.len() - 1,
        };
        self.is_damaged |= !matches!(self.place, Place::List(_));
        self.is_envelope_used |= envelope > 0 && self.count < self.pieces_max;
        self.push(Piece::Item { bytes: &self.bytes[start..end], envelope });
        self.at = end;
    }

    /// Something broken stands at `start`: goes on at the next whole message.
    fn broken(&mut self, start: usize) {
        if let Some(end) = self.balanced_end(start)
            && self.next_message(start, end).is_none()
        {
            return self.item(start, end);
        }
        self.is_damaged = true;
        self.place = Place::Outside;
        let end = self.bytes.len();
        let end = self.next_message(start, end).unwrap_or(end);
        let means_nothing = |byte: &u8| matches!(byte, 0..=b' ' | b',' | b'[' | b']' | b'{' | b'}');
        if !self.bytes[start..end].iter().all(means_nothing) {
            self.push(Piece::Broken { at: start });
        }
        self.at = end;
    }

    /// The end of an object whose brackets are balanced, whatever else is in it, where an item could
    /// end. Its strings may be wrong, so this looks at a bounded number of bytes in all.
    fn balanced_end(&mut self, start: usize) -> Option<usize> {
        if self.bytes[start] != b'{' {
            return None;
        }
        let mut open = Vec::new();
        let mut at = start;
        loop {
            let byte = *self.bytes.get(at)?;
            let end = match byte {
                b'"' => text_end(self.bytes, at)?,
                _ => at + 1,
            };
            self.patience = self.patience.checked_sub(end - at)?;
            match byte {
                b'{' => open.push(b'}'),
                b'[' => open.push(b']'),
                b'}' | b']' if open.pop() != Some(byte) => return None,
                _ => {}
            }
            at = end;
            if open.is_empty() {
                let behind = self.bytes.get(self.skip_blank(at));
                return matches!(behind, None | Some(b',' | b']' | b'}')).then_some(at);
            }
        }
    }

    fn push(&mut self, piece: Piece<'a>) {
        if self.count < self.pieces_max {
            self.pieces.push(piece);
        }
        self.count += 1;
    }

    /// The next object before `end` that is a whole message or begins an envelope.
    ///
    /// What came before it is broken, so quotes cannot be trusted: a brace may stand in what looks
    /// like a string. An object that was followed once needs no second look; another one is in what
    /// was a string then, and so two passes over each byte are enough.
    fn next_message(&mut self, from: usize, end: usize) -> Option<usize> {
        let words = self.bytes.len().div_ceil(64);
        self.search.seen.resize(words, 0);
        self.search.found.resize(words, 0);
        self.search.broken.resize(words, 0);
        let mut from = from;
        loop {
            let at = from + self.bytes.get(from..end)?.iter().position(|byte| *byte == b'{')?;
            if !is_set(&self.search.seen, at)
                && let Followed::Broken = self.follow(at, true)
            {
                let Search { found, broken, .. } = &mut self.search;
                // An envelope need not end: its messages are whole without it.
                let is_broken = |frame: &&Frame| frame.is_object && !is_set(found, frame.start);
                for frame in self.stack.iter().filter(is_broken) {
                    set(broken, frame.start);
                }
            }
            if is_set(&self.search.found, at) {
                return Some(at);
            }
            from = at + 1;
        }
    }

    /// Follows the array or object at `start` to its end. A search also notes each object in it.
    fn follow(&mut self, start: usize, is_search: bool) -> Followed<'a> {
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
                            set(&mut self.search.found, frame.start);
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
                    if is_search && frame.is_item && frame.is_message {
                        set(&mut self.search.found, frame.start);
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
                        frame.is_message |= is_type(&self.bytes[at + 1..end - 1]);
                        members.is_message |= frame.is_message && self.stack.len() == 1;
                    }
                    at = end;
                }
                _ if is_value => {
                    let Some(end) = self.word_end(at) else {
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
            set(&mut self.search.seen, start);
        }
        let frame = Frame { start, is_object, is_item, is_message: false, name: Name::Other };
        self.stack.push(frame);
    }

    /// Whether a name and a colon stand before a byte. What is called `batch` holds messages.
    fn is_value_of_member(&self, at: usize) -> bool {
        let before = self.bytes[..at].trim_ascii_end();
        let name = before.strip_suffix(b":").map(<[u8]>::trim_ascii_end);
        name.is_some_and(|name| name.ends_with(b"\"") && !name.ends_with(b"\"batch\""))
    }

    /// The end of a run of bytes that are neither blank nor have a meaning in JSON: a number, `true`,
    /// `NaN`, or something that is no JSON at all. `None` where there is no such byte.
    fn word_end(&self, start: usize) -> Option<usize> {
        let is_word =
            |byte: &u8| !matches!(byte, 0..=b' ' | b'"' | b',' | b':' | b'[' | b']' | b'{' | b'}');
        let length = self.bytes.get(start..)?.iter().take_while(|byte| is_word(byte)).count();
        (length > 0).then_some(start + length)
    }

    fn skip_blank(&self, from: usize) -> usize {
        let rest = self.bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|byte| **byte <= b' ').count()
    }
}

/// Whether an array or object that has just begun may end with this byte.
fn is_empty_end(next: Next, byte: u8) -> bool {
    match next {
        Next::NameOrEnd => byte == b'}',
        Next::ValueOrEnd => byte == b']',
        Next::Value | Next::Name | Next::Colon | Next::CommaOrEnd => false,
    }
}

fn is_type(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| MessageType::parse(text).is_some())
}

#[cfg(test)]
mod tests;
