//! Reads JSON as leniently as senders write it.
//!
//! `serde_json` refuses what real SDKs send: unpaired surrogates (all JavaScript SDKs), bare `NaN`
//! and `Infinity` (Python), numbers beyond a double's range, deep nesting. Each such message is
//! still worth delivering, so this reader takes them: an unpaired surrogate and invalid UTF-8 become
//! U+FFFD, a number out of range is infinite. A key called `__proto__` is lost, as it is on the way
//! through Segment's runtime. Errors never hold a part of the input.

use super::text::plain_length;
use super::value::{Object, Value};

/// How deep lists and objects may be nested. SDKs let 500 levels through; the reader and the drop of
/// a value use the stack, and a thread of the runtime has 2 MiB of it.
pub const DEPTH_MAX: usize = 600;

/// Why a text is not JSON, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {problem} at byte {at}")]
pub struct DecodeError {
    /// Offset in bytes from the beginning.
    pub at: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// Reads a whole JSON text.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    Reader::lenient(bytes).whole()
}

/// Reads a whole JSON text like [`decode`], but makes a string of the digits of an id that a double
/// cannot hold: of a whole number that is called `id`, or `…Id`, `…ID` or `…_id`, at any depth.
pub fn decode_keeping_ids(bytes: &[u8]) -> Result<Value, DecodeError> {
    Reader { keeps_ids: true, ..Reader::lenient(bytes) }.whole()
}

/// Reads a whole JSON text as `JSON.parse` does: no byte order mark, no bare `NaN` or `Infinity`.
pub fn decode_strict(text: &str) -> Result<Value, DecodeError> {
    let bytes = text.as_bytes();
    Reader { bytes, utf8: Some(text), at: 0, is_strict: true, keeps_ids: false }.whole()
}

/// Where the text begins behind a byte order mark, which some senders put first.
pub(super) fn skip_bom(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 }
}

/// White space of JSON.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// The same, if all of it is UTF-8: one check of the whole costs less than one of each string.
    utf8: Option<&'a str>,
    at: usize,
    is_strict: bool,
    keeps_ids: bool,
}

impl<'a> Reader<'a> {
    fn lenient(bytes: &'a [u8]) -> Self {
        let utf8 = std::str::from_utf8(bytes).ok();
        Self { bytes, utf8, at: skip_bom(bytes), is_strict: false, keeps_ids: false }
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
            return Err(self.error("an unknown word"));
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
            if self.keeps_ids && matches!(value, Value::Number(_)) && is_id_name(&key) {
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
                    // A vector begins with room for four: deep nesting would take 64 bytes for each bracket.
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
        number.map(Value::Number).ok_or(DecodeError { at: start, problem: "a number is malformed" })
    }

    /// Reads a text; the reader stands at its opening quote.
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
                Some(_) => return Err(self.error("a control character in a text must be escaped")),
                None => return Err(self.error("a text does not end")),
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

    /// The code unit of the `\uXXXX` that begins at `at`.
    fn code_unit(&self, at: usize) -> Result<u32, DecodeError> {
        let digits = self.bytes.get(at + 2..at + 6).unwrap_or_default();
        let mut unit = 0;
        for digit in digits {
            let value =
                char::from(*digit).to_digit(16).ok_or_else(|| self.error("an unknown escape"))?;
            unit = unit * 16 + value;
        }
        if digits.len() == 4 { Ok(unit) } else { Err(self.error("an escape does not end")) }
    }
}

/// Whether a member of this name holds an id: `id`, `userId`, `UserID`, `order_id`, but not `paid`.
fn is_id_name(name: &str) -> bool {
    // In one word only the fields that Segment itself has can be told from other words.
    const WORDS: [&str; 7] =
        ["id", "uid", "userid", "anonymousid", "groupid", "previousid", "messageid"];
    if WORDS.iter().any(|word| name.eq_ignore_ascii_case(word)) {
        return true;
    }
    let Some((start, end)) = name.len().checked_sub(2).and_then(|at| name.split_at_checked(at))
    else {
        return false;
    };
    match end {
        "Id" => true,
        "ID" => !start.ends_with(|c: char| c.is_ascii_uppercase()),
        "id" => start.ends_with(|c: char| !c.is_alphanumeric()),
        _ => false,
    }
}

/// Makes a string of a whole number that its double does not hold exactly.
fn keep_digits(value: &mut Value, written: &[u8]) {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a double beyond the range differs from every whole number in it"
    )]
    let is_held =
        |number: f64, digits: &str| digits.parse().is_ok_and(|exact: i128| number as i128 == exact);
    if let Value::Number(number) = *value
        && let Some(digits) = whole_digits(written)
        && !is_held(number, &digits)
    {
        *value = Value::String(digits);
    }
}

/// The digits of a JSON number that is whole, however it is written: `175`, `175.0`, `1.75e2`.
fn whole_digits(written: &[u8]) -> Option<String> {
    /// A number with more digits is no id.
    const EXPONENT_MAX: usize = 100;
    let written = std::str::from_utf8(written).ok()?;
    let (sign, number) = match written.strip_prefix('-') {
        Some(number) => ("-", number),
        None => ("", written),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: usize = exponent.parse().ok().filter(|exponent| *exponent <= EXPONENT_MAX)?;
    let fraction = fraction.trim_end_matches('0');
    let zeros = exponent.checked_sub(fraction.len())?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(zeros));
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".to_owned() } else { format!("{sign}{digits}") })
}

/// Whether a text is a number by JSON's grammar; Rust's own parser takes more (`1.`, `+1`).
fn is_number(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"-").unwrap_or(text);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent =
            exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_senders_write() {
        let cases = [
            (
                "\u{feff} {\"a\" : [1, -0.5e+2,true,false,null]} ",
                r#"{"a":[1,-50,true,false,null]}"#,
            ),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
            (r#"{"__proto__":{"x":1},"b":2}"#, r#"{"b":2}"#),
            (
                r#""\ud83d\ude00 \ud83d \ude00 \ud83dx \ud83d\u0041""#,
                "\"😀 \u{fffd} \u{fffd} \u{fffd}x \u{fffd}A\"",
            ),
            (r#""\"\\\/\b\f\n\r\t\u00e9\u0000""#, "\"\\\"\\\\/\\b\\f\\n\\r\\té\\u0000\""),
            ("[NaN, Infinity, -Infinity, 1e400]", "[null,null,null,null]"),
            ("12345678901234567890", "12345678901234567000"),
            ("1180591620717411303424", "1.1805916207174113e+21"),
        ];
        for (text, expected) in cases {
            assert_eq!(
                decode(text.as_bytes()).map(|value| value.to_json()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        assert_eq!(decode(b"\"a\xffb\""), Ok(Value::from("a\u{fffd}b")));
        assert_eq!(decode(b"-Infinity"), Ok(Value::Number(f64::NEG_INFINITY)));
    }

    #[test]
    fn an_id_that_a_double_cannot_hold_keeps_its_digits() {
        let cases = [
            (r#"{"userId":175928847299117063}"#, r#"{"userId":"175928847299117063"}"#),
            (r#"{"userId":9007199254740992}"#, r#"{"userId":9007199254740992}"#),
            (r#"{"userId":9007199254740993}"#, r#"{"userId":"9007199254740993"}"#),
            (r#"{"userId": -9007199254740993 }"#, r#"{"userId":"-9007199254740993"}"#),
            (r#"{"userId":17,"anonymousId":0}"#, r#"{"userId":17,"anonymousId":0}"#),
            (r#"{"userId":1e22,"id":1.5}"#, r#"{"userId":1e+22,"id":1.5}"#),
            (r#"{"userId":1e400,"id":1e-3}"#, r#"{"userId":null,"id":0.001}"#),
            (r#"{"userId":175928847299117063.0}"#, r#"{"userId":"175928847299117063"}"#),
            (r#"{"userId":1.75928847299117063e17}"#, r#"{"userId":"175928847299117063"}"#),
            (r#"{"userId":-0.0,"id":17.50e1}"#, r#"{"userId":0,"id":175}"#),
            (r#"{"uid":9007199254740993}"#, r#"{"uid":"9007199254740993"}"#),
            (
                r#"{"USER_ID":12345678901234567890,"traits":{"id":12345678901234567890}}"#,
                r#"{"USER_ID":"12345678901234567890","traits":{"id":"12345678901234567890"}}"#,
            ),
            (
                r#"{"groupId":123456789012345678901234567890123456789012345678901234567890}"#,
                r#"{"groupId":"123456789012345678901234567890123456789012345678901234567890"}"#,
            ),
            (r#"{"amount":9007199254740993}"#, r#"{"amount":9007199254740992}"#),
            (
                r#"{"a":[{"order_id":9007199254740993,"orderID":9007199254740993,"userid":9007199254740993}]}"#,
                r#"{"a":[{"order_id":"9007199254740993","orderID":"9007199254740993","userid":"9007199254740993"}]}"#,
            ),
            (
                r#"{"paid":9007199254740993,"PAID":9007199254740993,"é":9007199254740993,"":1}"#,
                r#"{"paid":9007199254740992,"PAID":9007199254740992,"é":9007199254740992,"":1}"#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(decode_keeping_ids(text.as_bytes()).unwrap().to_json(), expected);
        }
        let plain = decode(br#"{"userId":9007199254740993}"#).unwrap();
        assert_eq!(plain.to_json(), r#"{"userId":9007199254740992}"#);
    }

    #[test]
    fn refuses_what_is_no_json() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "\"",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "--1",
            "tru",
            "nul",
            "1 1",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "'a'",
            "-",
        ] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_and_fits_a_small_stack() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let check = move || {
            for (depth, taken) in [
                (DEPTH_MAX - 1, true),
                (DEPTH_MAX, true),
                (DEPTH_MAX + 1, false),
                (1_000_000, false),
            ] {
                let read = decode(nested(depth).as_bytes());
                assert_eq!(read.is_ok(), taken, "{depth}");
                if let Ok(value) = read {
                    assert_eq!(value.to_json(), nested(depth));
                    drop(value.clone());
                }
            }
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn what_it_writes_it_reads(text in "\\PC*", number in any::<f64>()) {
            let value = Value::Array(vec![Value::String(text), Value::Number(number)]);
            let stored = value.to_stored_json();
            let read = decode(stored.as_bytes()).unwrap();
            prop_assert_eq!(read.to_stored_json(), stored);
        }
    }
}
