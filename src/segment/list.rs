//! Splits an array of messages into the bytes of each, which is what signatures are computed over, and finds the
//! write key of a message without decoding it.
//!
//! Messages are found by following strings and brackets only, without recursion and without decoding what is
//! between them. Each is then decoded on its own, so that a broken message costs no other. A body that is not an
//! array is an error, since a signature covers exact bytes and leaves nothing to guess.

use crate::js::Value;
use crate::js::decode::{DecodeError, decode, is_space, skip_bom};
use crate::js::plain::plain_length;

/// The longest string that is read as a key or a name; the write keys of sources are shorter.
const TEXT_BYTES_MAX: usize = 8_192;

/// An array of messages, split into slices of the body.
#[derive(Debug, Default)]
pub struct List<'a> {
    /// The bytes of the first messages, as many as were asked for.
    pub messages: Vec<&'a [u8]>,
    /// The number of all messages.
    pub count: usize,
}

/// Returns the `writeKey` of a message without decoding anything else of it. Fails if the message is not an object.
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

/// Decodes a JSON string, unless it is longer than a key can be.
pub(super) fn short_text(slice: &[u8]) -> Option<String> {
    if slice.len() > TEXT_BYTES_MAX || slice.first() != Some(&b'"') {
        return None;
    }
    match decode(slice) {
        Ok(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Splits a bare array, as Segment's webhook sends it. Returns the first `messages_max` messages and the number of
/// all.
pub fn split_list(body: &[u8], messages_max: usize) -> Result<List<'_>, DecodeError> {
    let mut scan = Scan::new(body);
    scan.skip_space();
    let list = scan.list(messages_max)?;
    scan.end()?;
    Ok(list)
}

/// Whether a body is an array rather than a single value.
pub fn is_list(body: &[u8]) -> bool {
    let text = &body[skip_bom(body)..];
    text.iter().find(|byte| !is_space(**byte)) == Some(&b'[')
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
        if self.peek().is_some() {
            Err(self.error("unexpected text after the value"))
        } else {
            Ok(())
        }
    }

    /// Splits an array; the scan is at its opening bracket.
    fn list(&mut self, messages_max: usize) -> Result<List<'a>, DecodeError> {
        let mut list = List::default();
        self.expect(b'[', "expected an array")?;
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

    /// Calls `one` for each member of an object, with its name; the scan is then at its value.
    fn members(
        &mut self,
        mut one: impl FnMut(&mut Self, Option<&str>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.expect(b'{', "expected an object")?;
        self.items(b'}', |scan| {
            let name = short_text(scan.slice()?);
            scan.expect(b':', "expected a colon")?;
            one(scan, name.as_deref())
        })
    }

    /// Calls `one` for each item up to `close`; the scan is behind the opening bracket.
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
                _ => return Err(self.error("the array or object does not end")),
            }
        }
    }

    /// Passes over one value, whatever it contains. An array, an object or a string ends with its bracket or quote,
    /// anything else before the next comma, colon, bracket or white space.
    fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        self.skip_space();
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match self.peek() {
                None if depth == 0 => break,
                None => return Err(self.error("unexpected end of input")),
                Some(b'"') => {
                    if depth == 0 && self.at > start {
                        break;
                    }
                    self.pass_text()?;
                    if depth == 0 {
                        break;
                    }
                }
                Some(b'{' | b'[') => {
                    if depth == 0 && self.at > start {
                        break;
                    }
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
                Some(byte) if depth == 0 && (is_space(byte) || b"}],:".contains(&byte)) => break,
                Some(_) => self.at += 1,
            }
        }
        if self.at == start {
            Err(self.error("expected a value"))
        } else {
            Ok(&self.bytes[start..self.at])
        }
    }

    fn pass_text(&mut self) -> Result<(), DecodeError> {
        let end = text_end(self.bytes, self.at);
        self.at = end.ok_or_else(|| self.error("the string does not end"))?;
        Ok(())
    }
}

/// Returns the position behind the closing quote of the JSON string whose opening quote is at `start`; `None` if it
/// has none.
pub(super) fn text_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += plain_length(bytes.get(at..)?);
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
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
    fn only_as_many_messages_are_kept_as_were_asked_for() {
        for (most, kept) in [(0, 0), (2, 2), (3, 3), (4, 3)] {
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
        }
        for message in ["", "[]", "17", r#"{"writeKey":"k""#, r#"{"writeKey":"k",}"#, "{} x"] {
            assert!(write_key(message.as_bytes()).is_err(), "{message}");
        }
    }

    #[test]
    fn an_array_is_split_into_the_bytes_that_came() {
        assert_eq!(
            texts(&split_list(b" [ {\"a\" : 1} ,null, {\"b\":[1,{,}]} ] ", 9).unwrap().messages),
            ["{\"a\" : 1}", "null", "{\"b\":[1,{,}]}"]
        );
        assert_eq!(split_list(b"[]", 9).unwrap().count, 0);
        assert!(is_list(b"\xef\xbb\xbf [") && !is_list(b"{}") && !is_list(b""));
    }

    #[test]
    fn a_body_that_is_not_an_array_is_an_error() {
        for body in [
            "",
            "{}",
            "17",
            "[1",
            "[1,]",
            "[,1]",
            "[1,,2]",
            "[1]x",
            "[\"]",
            "[{]",
            "[{} {}]",
            "[1 2]",
            "[{}\"a\"]",
            "[{} {}]\0",
        ] {
            assert!(split_list(body.as_bytes(), 9).is_err(), "{body}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("[{}]", "[".repeat(1_000_000) + &"]".repeat(1_000_000));
        assert_eq!(split_list(deep.as_bytes(), 9).unwrap().count, 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split_list(&bytes, 9);
            let _ = write_key(&bytes);
        }
    }
}
