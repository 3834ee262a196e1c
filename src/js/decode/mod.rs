//! Reads JSON: as leniently as senders write it, or as strictly as `JSON.parse`.
//!
//! `serde_json` rejects what real SDKs send: unpaired surrogates (all JavaScript SDKs), bare `NaN` and
//! `Infinity` (Python), numbers beyond a double's range, deep nesting. Such a message is still worth
//! delivering, so this reader accepts it: an unpaired surrogate and invalid UTF-8 become U+FFFD, a number out
//! of range is infinite. A key called `__proto__` is lost, as it is on the way through Segment's runtime.
//! Errors never contain a part of the input.

mod number;

use number::{is_number, keep_digits};

use super::plain::plain_length;
use super::value::{Object, Value};

/// How deep arrays and objects may be nested. SDKs let 500 levels through; reading and dropping a value both
/// recurse, on a runtime thread's stack of 2 MiB.
pub const DEPTH_MAX: usize = 600;

/// Why a string is not JSON, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {problem} at byte {at}")]
pub struct DecodeError {
    /// Offset in bytes from the start.
    pub at: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// Reads a whole JSON document leniently: `[NaN, "\ud83d"]` is an array of NaN and `"\u{fffd}"`.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    Reader::lenient(bytes).whole()
}

/// Like [`decode`], but turns a whole number that a double cannot hold into a string of its digits, if it is a
/// member whose key satisfies `keeps_digits`, at any depth.
pub fn decode_keeping_digits(
    bytes: &[u8],
    keeps_digits: fn(&str) -> bool,
) -> Result<Value, DecodeError> {
    Reader { keeps_digits: Some(keeps_digits), ..Reader::lenient(bytes) }.whole()
}

/// Reads a whole JSON document as `JSON.parse` does: no byte order mark, no bare `NaN` or `Infinity`.
pub fn decode_strict(text: &str) -> Result<Value, DecodeError> {
    let bytes = text.as_bytes();
    Reader { bytes, utf8: Some(text), at: 0, is_strict: true, keeps_digits: None }.whole()
}

/// Returns where the document begins: behind a byte order mark, which some senders put first.
pub(crate) fn skip_bom(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 }
}

/// Whether a byte is white space between the tokens of JSON.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// The same bytes, if all of them are UTF-8: one check of the whole costs less than one of each string.
    utf8: Option<&'a str>,
    at: usize,
    is_strict: bool,
    /// The members whose digits are kept where a double cannot hold them.
    keeps_digits: Option<fn(&str) -> bool>,
}

impl<'a> Reader<'a> {
    fn lenient(bytes: &'a [u8]) -> Self {
        let utf8 = std::str::from_utf8(bytes).ok();
        Self { bytes, utf8, at: skip_bom(bytes), is_strict: false, keeps_digits: None }
    }

    fn whole(mut self) -> Result<Value, DecodeError> {
        let value = self.value(0)?;
        self.skip_space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.error("unexpected text after the value")),
        }
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

    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(self.error("nested too deeply"));
        }
        self.skip_space();
        match self.peek() {
            None => Err(self.error("unexpected end of input")),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.text()?)),
            Some(b'0'..=b'9' | b'-') => self.number(),
            Some(b't') => self.word(b"true", Value::Bool(true)),
            Some(b'f') => self.word(b"false", Value::Bool(false)),
            Some(b'n') => self.word(b"null", Value::Null),
            Some(b'N') if !self.is_strict => self.word(b"NaN", Value::Number(f64::NAN)),
            Some(b'I') if !self.is_strict => self.word(b"Infinity", Value::Number(f64::INFINITY)),
            Some(_) => Err(self.error("expected a value")),
        }
    }

    fn word(&mut self, word: &[u8], value: Value) -> Result<Value, DecodeError> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.error("expected a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn object(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let mut object = Object::new();
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(object));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a quoted key"));
            }
            let key = self.text()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.error("expected a colon"));
            }
            self.at += 1;
            self.skip_space();
            let from = self.at;
            let mut value = self.value(depth + 1)?;
            if matches!(value, Value::Number(_))
                && self.keeps_digits.is_some_and(|keeps_digits| keeps_digits(&key))
            {
                keep_digits(&mut value, &self.bytes[from..self.at]);
            }
            if key != "__proto__" {
                object.insert(key, value);
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    if object.len() == 1 {
                        object.shrink_to_fit();
                    }
                    return Ok(Value::Object(object));
                }
                _ => return Err(self.error("expected a comma or a closing brace")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    // A vector starts with capacity for four: deep nesting would take 64 bytes for each bracket.
                    if items.len() == 1 {
                        items.shrink_to_fit();
                    }
                    return Ok(Value::Array(items));
                }
                _ => return Err(self.error("expected a comma or a closing bracket")),
            }
        }
    }

    fn number(&mut self) -> Result<Value, DecodeError> {
        let start = self.at;
        if !self.is_strict && self.bytes[start..].starts_with(b"-Infinity") {
            self.at += b"-Infinity".len();
            return Ok(Value::Number(f64::NEG_INFINITY));
        }
        while self
            .peek()
            .is_some_and(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
        {
            self.at += 1;
        }
        let text = &self.bytes[start..self.at];
        let number =
            is_number(text).then(|| std::str::from_utf8(text).ok()?.parse::<f64>().ok()).flatten();
        number
            .map(Value::Number)
            .ok_or(DecodeError { at: start, problem: "the number is malformed" })
    }

    /// Reads a string; the reader is at its opening quote.
    fn text(&mut self) -> Result<String, DecodeError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let start = self.at;
            self.at += plain_length(&self.bytes[start..]);
            match self.utf8 {
                Some(whole) => text.push_str(&whole[start..self.at]),
                None => text.push_str(&String::from_utf8_lossy(&self.bytes[start..self.at])),
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => self.escape(&mut text)?,
                Some(_) => {
                    return Err(self.error("a control character in a string must be escaped"));
                }
                None => return Err(self.error("the string does not end")),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), DecodeError> {
        let plain = match self.bytes.get(self.at + 1) {
            Some(b'u') => return self.unicode_escape(text),
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            _ => return Err(self.error("an unknown escape")),
        };
        text.push(plain);
        self.at += 2;
        Ok(())
    }

    fn unicode_escape(&mut self, text: &mut String) -> Result<(), DecodeError> {
        let first = self.code_unit(self.at)?;
        self.at += 6;
        if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
            let second = self.code_unit(self.at)?;
            if (0xdc00..0xe000).contains(&second) {
                self.at += 6;
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                return Ok(());
            }
        }
        text.push(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        Ok(())
    }

    /// Returns the code unit of the `\uXXXX` that begins at `at`.
    fn code_unit(&self, at: usize) -> Result<u32, DecodeError> {
        let digits = self.bytes.get(at + 2..at + 6).unwrap_or_default();
        let mut unit = 0;
        for digit in digits {
            let value =
                char::from(*digit).to_digit(16).ok_or_else(|| self.error("an unknown escape"))?;
            unit = unit * 16 + value;
        }
        if digits.len() == 4 { Ok(unit) } else { Err(self.error("the escape does not end")) }
    }
}

#[cfg(test)]
mod tests;
