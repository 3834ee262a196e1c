//! JSON values as JavaScript sees them, since that is what Segment's runtime maps.
//!
//! Every number is a double (also an infinite one, which `1e400` reads as), objects remember the
//! order of their keys, and texts are written as `JSON.stringify` writes them. `serde_json::Value`
//! has 64-bit integers, no infinity and Rust's way to write numbers, so it is not used for messages.

use std::borrow::Cow;
use std::fmt::Write as _;

use indexmap::IndexMap;

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

/// A JSON object: keys in the order in which they first appeared, a key given twice has its last value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object(IndexMap<String, Value>);

impl Object {
    /// Makes an empty object.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The value of `key`, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.0.get_mut(key)
    }

    /// Whether `key` is there, null included.
    pub fn contains_key(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Sets `key`; a new key goes to the end, a known one keeps its place.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) {
        self.0.insert(key.into(), value);
    }

    /// Takes `key` out, keeping the order of the others.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(key)
    }

    /// Keeps the entries for which `keep` is true, in one pass.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.0.retain(|key, value| keep(key, value));
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries in the order in which JavaScript lists them: whole-number keys first, by number,
    /// then all others as they came.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&str, &Value)> + '_> {
        let pairs = self.0.iter().map(|(key, value)| (key.as_str(), value));
        if !self.0.keys().any(|key| array_index(key).is_some()) {
            return Box::new(pairs);
        }
        let mut sorted: Vec<(&str, &Value)> = pairs.collect();
        sort_entries(&mut sorted);
        Box::new(sorted.into_iter())
    }

    /// The keys in the order in which they came.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The entries, by value, in JavaScript's order.
    pub fn into_entries(self) -> Vec<(String, Value)> {
        let mut entries: Vec<(String, Value)> = self.0.into_iter().collect();
        sort_entries(&mut entries);
        entries
    }
}

impl FromIterator<(String, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// Brings entries into JavaScript's order: whole-number keys first, by number, all others as they came.
pub fn sort_entries<K: AsRef<str>, V>(entries: &mut [(K, V)]) {
    if entries.iter().any(|(key, _)| array_index(key.as_ref()).is_some()) {
        // Stable, and `None` must come last: hence the pair of "has no index" and the index.
        entries.sort_by_key(|(key, _)| {
            array_index(key.as_ref()).map_or((true, 0), |index| (false, index))
        });
    }
}

/// The number of a key that JavaScript lists first: 0 to 4294967294 in its shortest form.
fn array_index(key: &str) -> Option<u32> {
    let bytes = key.as_bytes();
    let shortest = match bytes {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => bytes.len() <= 10 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !shortest {
        return None;
    }
    key.parse::<u32>().ok().filter(|index| *index != u32::MAX)
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
        let mut out = String::new();
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
    let mut plain_from = 0;
    for (place, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0c => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[plain_from..place]);
        if escape.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
        plain_from = place + 1;
    }
    out.push_str(&text[plain_from..]);
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
    fn whole_number_keys_come_first() {
        let object: Object = ["b", "10", "2", "01", "a", "4294967295"]
            .into_iter()
            .map(|key| (key.to_owned(), Value::Null))
            .collect();
        let keys: Vec<&str> = object.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["2", "10", "b", "01", "a", "4294967295"]);
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
