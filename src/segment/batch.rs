//! Takes bodies of several messages apart, so that one broken message costs itself alone.
//!
//! The messages are found by following texts and brackets only, without recursion and without
//! reading what is between them: each is then decoded by itself. Slices are the bytes as they came,
//! which is what signatures are computed over.

use super::decode::{DecodeError, decode, is_space, skip_bom};
use super::value::{Object, Value};

/// The envelope of a batch.
#[derive(Debug, Default)]
pub struct Envelope<'a> {
    /// The messages, as the bytes that came.
    pub messages: Vec<&'a [u8]>,
    /// What stands beside `batch`: `context`, `integrations`, `sentAt`, `writeKey` and so on.
    pub rest: Object,
}

/// Takes a batch apart: `{"batch": [...], "context": {...}, ...}`. A value beside `batch` that
/// cannot be read is left out.
pub fn split_envelope(body: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let mut scan = Scan { bytes: body, at: skip_bom(body) };
    let mut envelope = Envelope::default();
    let mut has_batch = false;
    scan.expect(b'{', "a batch must be an object")?;
    scan.items(b'}', |scan| {
        let key = scan.slice()?;
        scan.expect(b':', "a colon should be here")?;
        let key = decode(key).ok();
        let key = key.as_ref().and_then(Value::as_str);
        scan.skip_space();
        if key == Some("batch") && scan.peek() == Some(b'[') {
            has_batch = true;
            envelope.messages = scan.list()?;
            return Ok(());
        }
        let value = scan.slice()?;
        if let (Some(key), Ok(value)) = (key, decode(value)) {
            envelope.rest.insert(key, value);
        }
        Ok(())
    })?;
    scan.end()?;
    if has_batch {
        return Ok(envelope);
    }
    Err(DecodeError { at: 0, problem: "there is no list called `batch`" })
}

/// Takes a bare list apart, as Segment's webhook sends it.
pub fn split_list(body: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
    let mut scan = Scan { bytes: body, at: skip_bom(body) };
    scan.skip_space();
    let items = scan.list()?;
    scan.end()?;
    Ok(items)
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
    fn list(&mut self) -> Result<Vec<&'a [u8]>, DecodeError> {
        let mut items = Vec::new();
        self.expect(b'[', "a list should be here")?;
        self.items(b']', |scan| {
            items.push(scan.slice()?);
            Ok(())
        })?;
        Ok(items)
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
        let envelope = split_envelope(body.as_bytes()).unwrap();
        assert_eq!(
            texts(&envelope.messages),
            [r#"{"a":"]}\"{"}"#, "NaN", r#"{"b":[1,{,}]}"#, "17", r#""t""#]
        );
        assert_eq!(Value::Object(envelope.rest).to_json(), r#"{"sentAt":"x","context":{"k":1}}"#);
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
            assert!(split_envelope(body.as_bytes()).is_err(), "{body}");
        }
        assert!(split_envelope(b"{\"batch\":[]}").unwrap().messages.is_empty());
    }

    #[test]
    fn a_list_is_taken_apart_into_the_bytes_that_came() {
        assert_eq!(
            texts(&split_list(b" [ {\"a\" : 1} ,null ] ").unwrap()),
            ["{\"a\" : 1}", "null"]
        );
        assert!(split_list(b"[]").unwrap().is_empty());
        assert!(is_list(b"\xef\xbb\xbf [") && !is_list(b"{}") && !is_list(b""));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("[{}]", "[".repeat(1_000_000) + &"]".repeat(1_000_000));
        assert_eq!(split_list(deep.as_bytes()).unwrap().len(), 1);
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
            let _ = split_envelope(&bytes);
            let _ = split_list(&bytes);
        }
    }
}
