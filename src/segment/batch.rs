//! Takes bodies of several messages apart, so that one broken message costs itself alone.
//!
//! The messages are found by following texts and brackets only, without recursion and without
//! reading what is between them: each is then decoded by itself. Slices are the bytes as they came,
//! which is what signatures are computed over.

use super::decode::{DecodeError, decode, is_space, skip_bom};
use super::value::{Object, Value};

/// The longest key or name that is looked at: the keys of sources are shorter.
const TEXT_BYTES_MAX: usize = 8_192;

/// The envelope of a batch, as slices: nothing of it is decoded before it is known who sends.
#[derive(Debug, Default)]
pub struct Envelope<'a> {
    /// Its messages.
    pub list: List<'a>,
    /// Its `writeKey`.
    pub write_key: Option<String>,
    context: Option<&'a [u8]>,
    integrations: Option<&'a [u8]>,
    sent_at: Option<&'a [u8]>,
}

/// Messages that came together.
#[derive(Debug, Default)]
pub struct List<'a> {
    /// The first of them, no more than were asked for, as the bytes that came.
    pub messages: Vec<&'a [u8]>,
    /// How many there are in all.
    pub count: usize,
}

impl Envelope<'_> {
    /// The bytes of what counts for each message.
    pub fn shared_bytes(&self) -> usize {
        let parts = [self.context, self.integrations, self.sent_at];
        parts.iter().flatten().map(|part| part.len()).sum()
    }

    /// What counts for each message: `context`, `integrations` and `sentAt`. One that cannot be read
    /// is left out.
    pub fn shared(&self) -> Object {
        let parts = [
            ("context", self.context),
            ("integrations", self.integrations),
            ("sentAt", self.sent_at),
        ];
        let read = |(key, part): (&str, Option<&[u8]>)| Some((key.to_owned(), decode(part?).ok()?));
        parts.into_iter().filter_map(read).collect()
    }
}

/// Takes a batch apart: `{"batch": [...], "context": {...}, ...}`. Of its messages it gives the
/// first `messages_max`, and counts the others.
pub fn split_envelope(body: &[u8], messages_max: usize) -> Result<Envelope<'_>, DecodeError> {
    let mut scan = Scan::new(body);
    let mut envelope = Envelope::default();
    let mut has_batch = false;
    scan.members(|scan, name| {
        scan.skip_space();
        if name == Some("batch") && scan.peek() == Some(b'[') {
            has_batch = true;
            envelope.list = scan.list(messages_max)?;
            return Ok(());
        }
        let value = scan.slice()?;
        match name {
            Some("writeKey") => envelope.write_key = short_text(value),
            Some("context") => envelope.context = Some(value),
            Some("integrations") => envelope.integrations = Some(value),
            Some("sentAt") => envelope.sent_at = Some(value),
            _ => {}
        }
        Ok(())
    })?;
    scan.end()?;
    if has_batch {
        return Ok(envelope);
    }
    Err(DecodeError { at: 0, problem: "there is no list called `batch`" })
}

/// The `writeKey` of a message, found without decoding anything else of it. An error tells that it is
/// no object.
pub fn write_key(message: &[u8]) -> Result<Option<String>, DecodeError> {
    let mut scan = Scan::new(message);
    let mut write_key = None;
    scan.members(|scan, name| {
        let value = scan.slice()?;
        if name == Some("writeKey") {
            write_key = short_text(value);
        }
        Ok(())
    })?;
    scan.end()?;
    Ok(write_key)
}

/// A text that is no longer than what can be a key.
fn short_text(slice: &[u8]) -> Option<String> {
    if slice.len() > TEXT_BYTES_MAX || slice.first() != Some(&b'"') {
        return None;
    }
    match decode(slice) {
        Ok(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Takes a bare list apart, as Segment's webhook sends it. Of its messages it gives the first
/// `messages_max`, and counts the others.
pub fn split_list(body: &[u8], messages_max: usize) -> Result<List<'_>, DecodeError> {
    let mut scan = Scan::new(body);
    scan.skip_space();
    let list = scan.list(messages_max)?;
    scan.end()?;
    Ok(list)
}

/// Whether a body is a list rather than a single value.
pub fn is_list(body: &[u8]) -> bool {
    let text = &body[skip_bom(body)..];
    text.iter().find(|byte| !is_space(**byte)) == Some(&b'[')
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

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: skip_bom(bytes) }
    }

    fn error(&self, problem: &'static str) -> DecodeError {
        DecodeError { at: self.at, problem }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, problem: &'static str) -> Result<(), DecodeError> {
        self.skip_space();
        if self.peek() != Some(byte) {
            return Err(self.error(problem));
        }
        self.at += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<(), DecodeError> {
        self.skip_space();
        if self.peek().is_some() { Err(self.error("something follows the value")) } else { Ok(()) }
    }

    /// The slices of a list; the scan stands at its bracket.
    fn list(&mut self, messages_max: usize) -> Result<List<'a>, DecodeError> {
        let mut list = List::default();
        self.expect(b'[', "a list should be here")?;
        self.items(b']', |scan| {
            let message = scan.slice()?;
            if list.count < messages_max {
                list.messages.push(message);
            }
            list.count += 1;
            Ok(())
        })?;
        Ok(list)
    }

    /// Calls `one` for each member of an object, with its name; the scan then stands at its value.
    fn members(
        &mut self,
        mut one: impl FnMut(&mut Self, Option<&str>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.expect(b'{', "an object should be here")?;
        self.items(b'}', |scan| {
            let name = short_text(scan.slice()?);
            scan.expect(b':', "a colon should be here")?;
            one(scan, name.as_deref())
        })
    }

    /// Calls `one` for each item up to `close`, behind its opening bracket.
    fn items(
        &mut self,
        close: u8,
        mut one: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            one(self)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.error("the list or object does not end")),
            }
        }
    }

    /// Passes over one value, whatever is in it, up to the comma, colon or bracket that ends it.
    fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        self.skip_space();
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match self.peek() {
                None => return Err(self.error("the text ends within a value")),
                Some(b'"') => self.pass_text()?,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']' | b',' | b':') if depth == 0 => break,
                Some(b'}' | b']') => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(_) => self.at += 1,
            }
        }
        let mut end = self.at;
        while end > start && is_space(self.bytes[end - 1]) {
            end -= 1;
        }
        if end == start {
            Err(self.error("a value should be here"))
        } else {
            Ok(&self.bytes[start..end])
        }
    }

    fn pass_text(&mut self) -> Result<(), DecodeError> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.error("a text does not end")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(slices: &[&[u8]]) -> Vec<String> {
        slices.iter().map(|slice| String::from_utf8_lossy(slice).into_owned()).collect()
    }

    #[test]
    fn a_batch_is_taken_apart_whatever_is_in_its_messages() {
        let body = r#" { "sentAt" : "x", "batch" : [ {"a":"]}\"{"} , NaN ,{"b":[1,{,}]}, 17 , "t" ] ,"context":{"k":1}, "odd":nope } "#;
        let envelope = split_envelope(body.as_bytes(), 9).unwrap();
        assert_eq!(
            texts(&envelope.list.messages),
            [r#"{"a":"]}\"{"}"#, "NaN", r#"{"b":[1,{,}]}"#, "17", r#""t""#]
        );
        let shared = Value::Object(envelope.shared()).to_json();
        assert_eq!(shared, r#"{"context":{"k":1},"sentAt":"x"}"#);
        assert_eq!(envelope.shared_bytes(), r#"{"k":1}"x""#.len());
        assert_eq!(envelope.write_key, None);
    }

    #[test]
    fn no_more_messages_are_kept_than_were_asked_for() {
        for (most, kept) in [(0, 0), (2, 2), (3, 3), (4, 3)] {
            let envelope = split_envelope(b"{\"batch\":[1,2,3]}", most).unwrap();
            assert_eq!((envelope.list.messages.len(), envelope.list.count), (kept, 3));
            let list = split_list(b"[1,2,3]", most).unwrap();
            assert_eq!((list.messages.len(), list.count), (kept, 3));
        }
    }

    #[test]
    fn a_key_is_found_whatever_stands_beside_it() {
        let long = format!(r#"{{"writeKey":"{}"}}"#, "k".repeat(TEXT_BYTES_MAX));
        let cases = [
            (r#"{"writeKey":"k"}"#, Some("k")),
            (
                r#" { "a" : [{}, nope, "\"writeKey\":\"x\""] , "write\u004bey" : "\u006b" } "#,
                Some("k"),
            ),
            (r#"{"writeKey":"a","writeKey":"b"}"#, Some("b")),
            (r#"{"writeKey":"a","writeKey":null}"#, None),
            (r#"{"a":{"writeKey":"k"}}"#, None),
            (r#"{"writeKey":["k"]}"#, None),
            (r#"{"writeKey":"\x"}"#, None),
            (long.as_str(), None),
            ("{}", None),
        ];
        for (message, expected) in cases {
            assert_eq!(write_key(message.as_bytes()).unwrap().as_deref(), expected, "{message}");
            let batch = message.replacen('{', r#"{"batch":[1],"#, 1).replace(",}", "}");
            let envelope = split_envelope(batch.as_bytes(), 9).unwrap();
            assert_eq!(envelope.write_key.as_deref(), expected, "{batch}");
        }
        for message in ["", "[]", "17", r#"{"writeKey":"k""#, r#"{"writeKey":"k",}"#, "{} x"] {
            assert!(write_key(message.as_bytes()).is_err(), "{message}");
        }
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            "{\"batch\":{}}",
            "{\"batch\":[1}",
            "{\"batch\":[1,]}",
            "{\"batch\":[1]} x",
            "{\"batch\":[\"]}",
            "{\"batch\":[{]}",
            "17",
            "{\"batch\"",
            "{\"batch\":[\"\\",
        ] {
            assert!(split_envelope(body.as_bytes(), 9).is_err(), "{body}");
        }
        assert_eq!(split_envelope(b"{\"batch\":[]}", 9).unwrap().list.count, 0);
    }

    #[test]
    fn a_list_is_taken_apart_into_the_bytes_that_came() {
        assert_eq!(
            texts(&split_list(b" [ {\"a\" : 1} ,null ] ", 9).unwrap().messages),
            ["{\"a\" : 1}", "null"]
        );
        assert_eq!(split_list(b"[]", 9).unwrap().count, 0);
        assert!(is_list(b"\xef\xbb\xbf [") && !is_list(b"{}") && !is_list(b""));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("[{}]", "[".repeat(1_000_000) + &"]".repeat(1_000_000));
        assert_eq!(split_list(deep.as_bytes(), 9).unwrap().count, 1);
    }

    #[test]
    fn the_keys_of_a_message_win_over_those_of_its_envelope() {
        let envelope =
            decode(br#"{"context":{"a":1,"b":1},"integrations":{"All":false},"sentAt":"x"}"#)
                .unwrap();
        let message = decode(br#"{"context":{"b":2}}"#).unwrap();
        let (Value::Object(envelope), Value::Object(mut message)) = (envelope, message) else {
            panic!()
        };
        merge_envelope(&mut message, &envelope);
        assert_eq!(
            Value::Object(message).to_json(),
            r#"{"context":{"b":2,"a":1},"integrations":{"All":false}}"#
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split_envelope(&bytes, 9);
            let _ = split_list(&bytes, 9);
            let _ = write_key(&bytes);
        }
    }
}
