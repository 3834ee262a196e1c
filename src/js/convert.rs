//! Conversions of any value: `String(…)`, `Number(…)`, the name of its type, `== ''`.

use super::number::{number_of_text, number_text};
use super::value::Value;

/// Returns a value as `String(…)` writes it: arrays joined by commas, `[object Object]` for any object.
pub fn to_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        other => joined_text(other),
    }
}

/// Returns a value as `Array.join` writes an item: like [`to_text`], but nothing for null.
pub fn joined_text(item: &Value) -> String {
    let mut out = String::new();
    push_joined(&mut out, item);
    out
}

/// Appends a value to `out` as `Array.join` writes an item.
pub fn push_joined(out: &mut String, item: &Value) {
    match item {
        Value::Null => {}
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number_text(*number)),
        Value::String(text) => out.push_str(text),
        Value::Object(_) => out.push_str("[object Object]"),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_joined(out, item);
            }
        }
    }
}

/// Returns the number that `Number(…)` makes of a value: 0 of null, NaN of most objects, 5 of `["5"]`.
pub fn to_number(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Number(number) => *number,
        Value::String(text) => number_of_text(text),
        Value::Array(_) | Value::Object(_) => number_of_text(&to_text(value)),
    }
}

/// Returns the name of a value's type as `Object.prototype.toString` gives it, in lower case: unlike
/// `typeof`, it tells `null` and `array` from `object`.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether `value == ''` holds: also for 0, false, and arrays that join to an empty string.
pub fn equals_empty_text(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(true) | Value::Object(_) => false,
        Value::Bool(false) => true,
        Value::Number(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => match items.as_slice() {
            [] => true,
            [item] => joins_to_nothing(item),
            _ => false,
        },
    }
}

/// Whether an array of this one item joins to an empty string.
pub fn joins_to_nothing(item: &Value) -> bool {
    match item {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(_) => equals_empty_text(item),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

    fn value(json: &str) -> Value {
        decode(json.as_bytes()).unwrap()
    }

    #[test]
    fn values_become_strings_and_numbers_as_in_javascript() {
        let cases = [
            ("null", "null", 0.0),
            ("true", "true", 1.0),
            ("1.50", "1.5", 1.5),
            ("\" 7 \"", " 7 ", 7.0),
            ("[]", "", 0.0),
            ("[\"5\"]", "5", 5.0),
            ("[1,null,[2,[]],{}]", "1,,2,,[object Object]", f64::NAN),
            ("{}", "[object Object]", f64::NAN),
        ];
        for (json, text, number) in cases {
            assert_eq!(to_text(&value(json)), text, "{json}");
            assert!(to_number(&value(json)).total_cmp(&number).is_eq(), "{json}");
        }
        assert_eq!(joined_text(&Value::Null), "");
    }

    #[test]
    fn loose_equality_with_an_empty_string() {
        for json in ["\"\"", "0", "false", "[]", "[null]", "[\"\"]", "[[]]", "[[null]]"] {
            assert!(equals_empty_text(&value(json)), "{json}");
        }
        for json in ["null", "\" \"", "1", "true", "{}", "[0]", "[false]", "[[],[]]"] {
            assert!(!equals_empty_text(&value(json)), "{json}");
        }
    }

    #[test]
    fn null_and_arrays_have_type_names_of_their_own() {
        let names = ["null", "true", "1", "\"\"", "[]", "{}"].map(|json| type_name(&value(json)));
        assert_eq!(names, ["null", "boolean", "number", "string", "array", "object"]);
    }
}
