//! JSON values as JavaScript sees them, since that is what Segment's runtime maps.
//!
//! Every number is a double (also an infinite one, which `1e400` reads as), objects remember the
//! order of their keys, and texts are written as `JSON.stringify` writes them. `serde_json::Value`
//! has 64-bit integers, no infinity and Rust's way to write numbers, so it is not used for messages.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::object::array_index;
pub use super::object::{Object, sort_entries};
use super::text::plain_length;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A double; may be infinite or not a number, both of which JSON writes as `null`.
    Number(f64),
    /// A text. An unpaired surrogate became U+FFFD when it was read.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

impl Value {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether JavaScript takes it for true.
    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            Value::Number(number) => *number != 0.0 && !number.is_nan(),
            Value::String(text) => !text.is_empty(),
            Value::Array(_) | Value::Object(_) => true,
        }
    }

    /// The member `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// The member `key` as JavaScript finds it: of an object, or the length and the places of a list
    /// or a text (in UTF-16 units).
    pub fn member(&self, key: &str) -> Option<Cow<'_, Value>> {
        match self {
            Value::Object(object) => object.get(key).map(Cow::Borrowed),
            Value::Array(items) if key == "length" => Some(Cow::Owned(length(items.len()))),
            Value::Array(items) => items.get(place(key)?).map(Cow::Borrowed),
            Value::String(text) if key == "length" => {
                Some(Cow::Owned(length(text.encode_utf16().count())))
            }
            Value::String(text) => {
                let unit = text.encode_utf16().nth(place(key)?)?;
                Some(Cow::Owned(Value::String(String::from_utf16_lossy(&[unit]))))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        }
    }

    /// What is at a path of keys, from the outside in. Looking into a falsy value gives that value
    /// back, as `value && value[key]` does.
    pub fn at<K: AsRef<str>>(&self, keys: &[K]) -> Option<Cow<'_, Value>> {
        let mut found = Cow::Borrowed(self);
        for key in keys {
            if !found.is_truthy() {
                return Some(found);
            }
            found = match found {
                Cow::Borrowed(value) => value.member(key.as_ref())?,
                Cow::Owned(value) => Cow::Owned(value.member(key.as_ref())?.into_owned()),
            };
        }
        Some(found)
    }

    /// The JSON text as `JSON.stringify` writes it: no spaces, infinities as `null`.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        write_value(&mut out, self, "null", "null");
        out
    }

    /// JSON text that reads back as exactly this value: infinities as `±1e999`.
    ///
    /// It is how messages are stored, so that a template over `1e400` still gives `Infinity`
    /// when the message is mapped.
    pub fn to_stored_json(&self) -> String {
        self.to_stored_json_of(0)
    }

    /// The same, with room made at once for a text of this many bytes.
    pub fn to_stored_json_of(&self, usual_bytes: usize) -> String {
        let mut out = String::with_capacity(usual_bytes);
        write_value(&mut out, self, "1e999", "-1e999");
        out
    }
}

/// The `length` of a list or a text.
#[allow(clippy::cast_precision_loss, reason = "no list has 2^53 items")]
pub fn length(count: usize) -> Value {
    Value::Number(count as f64)
}

/// A place in a list, in its shortest form: `1`, not `01`.
pub fn place(key: &str) -> Option<usize> {
    array_index(key).and_then(|index| usize::try_from(index).ok())
}

/// Whether JavaScript's `trim` takes a character for white space.
pub fn is_js_space(c: char) -> bool {
    c == '\u{feff}' || (c != '\u{85}' && c.is_whitespace())
}

/// The number that a text is to JavaScript's `Number`: empty is 0, what is no number is NaN.
pub fn number_of_text(text: &str) -> f64 {
    let text = text.trim_matches(is_js_space);
    let (sign, digits) = match text.as_bytes() {
        [] => return 0.0,
        [b'-', ..] => (-1.0, &text[1..]),
        [b'+', ..] => (1.0, &text[1..]),
        [b'0', b'x' | b'X', ..] => return whole_number(&text[2..], 16),
        [b'0', b'o' | b'O', ..] => return whole_number(&text[2..], 8),
        [b'0', b'b' | b'B', ..] => return whole_number(&text[2..], 2),
        _ => (1.0, text),
    };
    if digits == "Infinity" {
        return sign * f64::INFINITY;
    }
    // Rust also reads `inf`, `nan` and `infinity`, which JavaScript does not, and nothing else more.
    let is_decimal = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let number = is_decimal.then(|| digits.parse::<f64>().ok()).flatten();
    number.map_or(f64::NAN, |number| sign * number)
}

fn whole_number(digits: &str, radix: u32) -> f64 {
    let value = |c: char| c.to_digit(radix).map(f64::from);
    let add = |sum: f64, c| Some(sum * f64::from(radix) + value(c)?);
    if digits.is_empty() { f64::NAN } else { digits.chars().try_fold(0.0, add).unwrap_or(f64::NAN) }
}

/// A number as JavaScript writes it as text: `100`, `1e+21`, `1.5e-7`, `0` for `-0`, `Infinity`.
pub fn number_text(number: f64) -> String {
    ryu_js::Buffer::new().format(number).to_owned()
}

fn write_value(out: &mut String, value: &Value, infinity: &str, minus_infinity: &str) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) if number.is_nan() => out.push_str("null"),
        Value::Number(number) if number.is_infinite() => {
            out.push_str(if *number > 0.0 { infinity } else { minus_infinity });
        }
        Value::Number(number) => out.push_str(ryu_js::Buffer::new().format_finite(*number)),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_value(out, item, infinity, minus_infinity);
            }
            out.push(']');
        }
        Value::Object(object) => write_entries(out, object.iter(), infinity, minus_infinity),
    }
}

/// The JSON text of an object of these entries, in this order, as `JSON.stringify` writes it.
pub fn object_json<'v>(entries: impl Iterator<Item = (&'v str, &'v Value)>) -> String {
    let mut out = String::new();
    write_entries(&mut out, entries, "null", "null");
    out
}

fn write_entries<'v>(
    out: &mut String,
    entries: impl Iterator<Item = (&'v str, &'v Value)>,
    infinity: &str,
    minus_infinity: &str,
) {
    out.push('{');
    for (place, (key, item)) in entries.enumerate() {
        if place > 0 {
            out.push(',');
        }
        write_text(out, key);
        out.push(':');
        write_value(out, item, infinity, minus_infinity);
    }
    out.push('}');
}

/// Writes a text in quotes, escaping what `JSON.stringify` escapes and nothing else.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(plain_length(rest.as_bytes()));
        out.push_str(plain);
        let Some(byte) = special.bytes().next() else { break };
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0c => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            _ => "",
        };
        if escape.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
        rest = &special[1..];
    }
    out.push('"');
}

impl From<&serde_json::Value> for Value {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Bool(*flag),
            serde_json::Value::Number(number) => {
                Value::Number(number.as_f64().unwrap_or(f64::INFINITY))
            }
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(items) => {
                Value::Array(items.iter().map(Value::from).collect())
            }
            serde_json::Value::Object(object) => Value::Object(
                object.iter().map(|(key, item)| (key.clone(), Value::from(item))).collect(),
            ),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::String(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let cases = [
            (100.0, "100"),
            (-0.0, "0"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (1.5e-7, "1.5e-7"),
            (0.000_001, "0.000001"),
            (f64::INFINITY, "Infinity"),
            (9_007_199_254_740_993.0, "9007199254740992"),
        ];
        for (number, expected) in cases {
            assert_eq!(number_text(number), expected);
        }
    }

    #[test]
    fn infinity_is_null_on_the_wire_and_kept_in_the_store() {
        let value = Value::Array(vec![Value::Number(f64::INFINITY), Value::Number(f64::NAN)]);
        assert_eq!(value.to_json(), "[null,null]");
        assert_eq!(value.to_stored_json(), "[1e999,null]");
    }

    #[test]
    fn texts_are_escaped_as_javascript_escapes_them() {
        let value = Value::from("\"\\\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}é😀");
        assert_eq!(value.to_json(), r#""\"\\\b\f\n\r\t\u0000\u001f"#.to_owned() + "\u{7f}é😀\"");
    }
}
