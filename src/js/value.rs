//! The values that JSON has, as JavaScript holds them.
//!
//! Every number is a double (also an infinite one, which `1e400` reads as) and objects remember the order of
//! their keys. `serde_json::Value` has 64-bit integers, no infinity and Rust's way to write numbers, so it is
//! not used for messages.

use std::borrow::Cow;

use super::number::count;
use super::object::{Map, array_index};
use super::string::{from_utf16, utf16_length};

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A double; may be infinite or NaN, both of which JSON writes as `null`.
    Number(f64),
    /// A string. An unpaired surrogate became U+FFFD when it was read.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

/// A JSON object: keys in the order in which they first appeared; of a key given twice, the last value.
pub type Object = Map<Value>;

impl Value {
    /// Returns the string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Returns the items, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Returns the number, if it is one.
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

    /// Whether `Boolean(…)` of it is true: all but null, false, 0, NaN and the empty string.
    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            Value::Number(number) => *number != 0.0 && !number.is_nan(),
            Value::String(text) => !text.is_empty(),
            Value::Array(_) | Value::Object(_) => true,
        }
    }

    /// Returns the member `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// Returns `value[key]`: a member of an object, or the `length` or an index of an array or a string (in
    /// UTF-16 code units).
    pub fn member(&self, key: &str) -> Option<Cow<'_, Value>> {
        let length = |length: usize| Some(Cow::Owned(Value::Number(count(length))));
        match self {
            Value::Object(object) => object.get(key).map(Cow::Borrowed),
            Value::Array(items) if key == "length" => length(items.len()),
            Value::Array(items) => items.get(array_index(key)?).map(Cow::Borrowed),
            Value::String(text) if key == "length" => length(utf16_length(text)),
            Value::String(text) => {
                let unit = text.encode_utf16().nth(array_index(key)?)?;
                Some(Cow::Owned(Value::String(from_utf16(&[unit]))))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        }
    }

    /// Returns what is at a path of keys, from the outside in. A falsy value on the way is itself the result,
    /// as with `value && value[key]`.
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
    use crate::js::decode::decode;

    #[test]
    fn members_are_found_as_javascript_finds_them() {
        let value = decode(br#"{"a":[10,20],"s":"h\u00e9","zero":0,"no":null,"t":true}"#).unwrap();
        let cases: [(&[&str], Option<&str>); 11] = [
            (&["a", "1"], Some("20")),
            (&["a", "01"], None),
            (&["a", "2"], None),
            (&["a", "length"], Some("2")),
            (&["s", "length"], Some("2")),
            (&["s", "1"], Some("\"é\"")),
            (&["s", "length", "x"], None),
            (&["zero", "x", "y"], Some("0")),
            (&["no", "x"], Some("null")),
            (&["t", "x"], None),
            (&["nothing"], None),
        ];
        for (keys, expected) in cases {
            let found = value.at(keys).map(|found| found.to_json());
            assert_eq!(found.as_deref(), expected, "{keys:?}");
        }
    }

    #[test]
    fn falsy_values_are_those_of_javascript() {
        let is_truthy = |json: &str| decode(json.as_bytes()).unwrap().is_truthy();
        assert!(!["null", "false", "0", "-0", "NaN", "\"\""].into_iter().any(is_truthy));
        assert!(["true", "-1", "\"0\"", "[]", "{}"].into_iter().all(is_truthy));
    }
}
