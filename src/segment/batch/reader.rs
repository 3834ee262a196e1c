//! Walks over a body, outside its messages, and splits it into pieces.

use super::super::list::{short_text, text_end};
use super::envelope::Envelope;
use super::pieces::{Batch, Piece};
use super::search::{Followed, Members, Search};
use super::token::{Name, loose_write_key, skip_blank, word_end};

/// Where the reader is in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In no envelope, or in one whose members cannot be trusted.
    Outside,
    /// In its array of messages, at this depth of arrays within it.
    List(usize),
    /// Behind that array.
    Tail,
}

impl<'a> Batch<'a> {
    /// Splits a body. Keeps the first `pieces_max` pieces and counts the others.
    pub fn read(body: &'a [u8], pieces_max: usize) -> Self {
        Reader::new(body, pieces_max).read()
    }
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    place: Place,
    pieces_max: usize,
    pieces: Vec<Piece<'a>>,
    count: usize,
    /// The first one is empty, for messages without an envelope.
    envelopes: Vec<Envelope<'a>>,
    /// Whether a piece that is kept refers to the last envelope.
    is_envelope_used: bool,
    has_batch: bool,
    is_damaged: bool,
    envelope_key: Option<String>,
    message_key: Option<String>,
    search: Search<'a>,
    /// How many bytes [`Reader::balanced_end`] may still look at.
    patience: usize,
}

impl<'a> Reader<'a> {
    /// Creates a reader that keeps at most `pieces_max` pieces.
    pub(super) fn new(bytes: &'a [u8], pieces_max: usize) -> Self {
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
            search: Search::new(bytes),
            patience: bytes.len().saturating_mul(2),
        }
    }

    /// Reads the whole body.
    pub(super) fn read(mut self) -> Batch<'a> {
        while let Some(byte) = self.bytes.get(self.at) {
            self.step(*byte);
        }
        // An envelope that does not end was truncated.
        self.is_damaged |= self.place != Place::Outside;
        let loose_key = || self.is_damaged.then(|| loose_write_key(self.bytes)).flatten();
        Batch {
            is_sound: self.has_batch && !self.is_damaged,
            pieces: self.pieces,
            count: self.count,
            write_key: self.envelope_key.or(self.message_key).or_else(loose_key),
            envelopes: self.envelopes,
        }
    }

    /// Passes over whatever starts at the current byte, which is outside any message.
    fn step(&mut self, byte: u8) {
        match byte {
            // White space, and NUL, of which half-written files are full.
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
        if self.search.is_broken(start) {
            return self.broken(start);
        }
        match self.search.follow(start) {
            // An item that was truncated within an array may take the brackets of its envelope for its own, and
            // then contains the messages behind it.
            Followed::Whole { end, members }
                if (!members.is_message || self.is_end_missing(end))
                    && self.search.next_message(start + 1, end).is_some() =>
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

    /// Whether the body ends here, within the array of its envelope.
    fn is_end_missing(&self, at: usize) -> bool {
        matches!(self.place, Place::List(_)) && skip_blank(self.bytes, at) == self.bytes.len()
    }

    fn begin_envelope(&mut self, members: Members<'a>) {
        // An envelope that no piece refers to is replaced, so that there are never more of them than pieces.
        if !self.is_envelope_used {
            self.envelopes.pop();
        }
        self.envelopes.push(members.envelope);
        self.is_envelope_used = false;
        if let Some(key) = members.write_key {
            self.envelope_key = short_text(key);
        }
    }

    /// Reads a string, or a run of other bytes: an item, the start of a member, or something broken.
    fn scalar(&mut self) {
        let start = self.at;
        let is_text = self.bytes[start] == b'"';
        let end = if is_text { text_end(self.bytes, start) } else { word_end(self.bytes, start) };
        let Some(end) = end else {
            return self.broken(start);
        };
        let behind = skip_blank(self.bytes, end);
        match self.bytes.get(behind) {
            None | Some(b',' | b']' | b'}') => self.item(start, end),
            Some(b':') if is_text => self.member(start, end, behind + 1),
            Some(_) => self.broken(start),
        }
    }

    /// Reads a member outside a message: the envelope's, or the rest of a message.
    fn member(&mut self, start: usize, name_end: usize, from: usize) {
        let from = skip_blank(self.bytes, from);
        let name = Name::of(&self.bytes[start..name_end]);
        let is_envelopes = match name {
            Name::Batch => {
                // The head of the envelope is missing; its messages follow.
                self.place = Place::Outside;
                self.is_damaged = true;
                self.at = from;
                return;
            }
            Name::Context | Name::Integrations | Name::SentAt | Name::WriteKey => true,
            Name::Other => self.place == Place::Tail,
            Name::Type | Name::MessageId | Name::OfMessage => {
                // What looked like the members of an envelope is the rest of a message.
                if let (Place::Tail, Some(envelope)) = (self.place, self.envelopes.last_mut()) {
                    *envelope = Envelope::default();
                }
                false
            }
        };
        let end = match self.bytes.get(from) {
            Some(b'{' | b'[') => match self.search.follow(from) {
                Followed::Whole { end, .. } => Some(end),
                Followed::Envelope { .. } | Followed::Broken => None,
            },
            Some(b'"') => text_end(self.bytes, from),
            Some(_) => word_end(self.bytes, from),
            None => None,
        };
        let is_end = |end: &usize| {
            let behind = self.bytes.get(skip_blank(self.bytes, *end));
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
            envelope.note(name, value);
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

    /// Notes something broken at `start`, and continues at the next complete message.
    fn broken(&mut self, start: usize) {
        if let Some(end) = self.balanced_end(start)
            && self.search.next_message(start + 1, end).is_none()
        {
            return self.item(start, end);
        }
        self.is_damaged = true;
        self.place = Place::Outside;
        let end = self.bytes.len();
        let end = self.search.next_message(start + 1, end).unwrap_or(end);
        let means_nothing = |byte: &u8| matches!(byte, 0..=b' ' | b',' | b'[' | b']' | b'{' | b'}');
        if !self.bytes[start..end].iter().all(means_nothing) {
            self.push(Piece::Broken { at: start });
        }
        self.at = end;
    }

    /// Returns the end of an object whose brackets are balanced, whatever else is in it, if an item could end there.
    /// Its quotes may be wrong, so this looks at a bounded number of bytes in all.
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
                let behind = self.bytes.get(skip_blank(self.bytes, at));
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
}
