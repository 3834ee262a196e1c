//! The coercions of Ajv, which validates an action's fields at Segment: its option `coerceTypes: "array"`.
//!
//! An array of one item counts as that item, one level deep. Whether a coerced value is valid, and what is said
//! if it is not, is decided by `destination`.

use std::borrow::Cow;

use super::number::number_text;
use super::value::Value;

/// Returns the value that Ajv judges in place of this one: the item of an array of one.
pub fn unwrapped(value: &Value) -> &Value {
    match value.as_array() {
        Some([item]) => item,
        _ => value,
    }
}

/// Returns the string that Ajv makes of a value: of numbers and booleans, and `""` of `[null]`.
pub fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Array(items) => match items.as_slice() {
            [Value::Null] => Some(Cow::Borrowed("")),
            [item] => scalar_text(item),
            _ => None,
        },
        value => scalar_text(value),
    }
}

fn scalar_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number_text(*number))),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns the boolean that Ajv makes of a value: of `"true"` and `"false"`, 1 and 0, and false of `[null]`.
pub fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text == "true" => Some(true),
        Value::String(text) if text == "false" => Some(false),
        Value::Number(number) if *number == 1.0 => Some(true),
        Value::Number(number) if *number == 0.0 => Some(false),
        Value::Array(items) => match items.as_slice() {
            [Value::Null] => Some(false),
            [Value::Array(_)] => None,
            [item] => boolean(item),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

    #[test]
    fn values_are_coerced_as_ajv_coerces_them() {
        let cases = [
            ("\"true\"", Some("true"), Some(true)),
            ("[\"false\"]", Some("false"), Some(false)),
            ("\"yes\"", Some("yes"), None),
            ("1", Some("1"), Some(true)),
            ("[0]", Some("0"), Some(false)),
            ("2.50", Some("2.5"), None),
            ("true", Some("true"), Some(true)),
            ("null", None, None),
            ("[null]", Some(""), Some(false)),
            ("[[true]]", None, None),
            ("[]", None, None),
            ("[1,1]", None, None),
            ("{}", None, None),
        ];
        for (json, expected_text, expected_boolean) in cases {
            let value = decode(json.as_bytes()).unwrap();
            assert_eq!(text(&value).as_deref(), expected_text, "{json}");
            assert_eq!(boolean(&value), expected_boolean, "{json}");
        }
    }
}
