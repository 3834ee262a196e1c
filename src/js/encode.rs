//! Writes JSON as `JSON.stringify` does.

use std::fmt::Write as _;

use super::plain::plain_length;
use super::value::Value;

/// How infinite numbers are written, which JSON does not have.
#[derive(Debug, Clone, Copy)]
enum Infinity {
    /// As `null`, as `JSON.stringify` does.
    Null,
    /// As `±1e999`, which reads back as infinite.
    OutOfRange,
}

impl Value {
    /// Returns the JSON that `JSON.stringify` writes: no spaces, infinities as `null`.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        write_value(&mut out, self, Infinity::Null);
        out
    }

    /// Returns JSON that reads back as exactly this value: infinities as `±1e999`.
    ///
    /// Messages are stored so: a template over `1e400` still gives `Infinity` when the message is mapped.
    pub fn to_stored_json(&self) -> String {
        self.to_stored_json_of(0)
    }

    /// Like [`Value::to_stored_json`], with capacity for this many bytes.
    pub fn to_stored_json_of(&self, usual_bytes: usize) -> String {
        let mut out = String::with_capacity(usual_bytes);
        write_value(&mut out, self, Infinity::OutOfRange);
        out
    }

    /// Returns the JSON that `JSON.stringify(value, null, indent)` writes, with `indent` at the start of each
    /// line, once for each level; `None` if that takes more than `bytes_max`, since the indent of a deep value may be a
    /// thousand times as long as the value.
    pub fn to_indented_json(&self, indent: &str, bytes_max: usize) -> Option<String> {
        let mut out = String::new();
        if indent.is_empty() {
            out = self.to_json();
        } else {
            write_indented(&mut out, self, indent, "\n", bytes_max);
        }
        (out.len() <= bytes_max).then_some(out)
    }
}

/// Returns the JSON of an object of these entries, in this order, as `JSON.stringify` writes it.
pub fn object_json<'v>(entries: impl Iterator<Item = (&'v str, &'v Value)>) -> String {
    let mut out = String::new();
    write_entries(&mut out, entries, Infinity::Null);
    out
}

fn write_value(out: &mut String, value: &Value, infinity: Infinity) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) if number.is_finite() => {
            out.push_str(ryu_js::Buffer::new().format_finite(*number));
        }
        Value::Number(number) => out.push_str(match infinity {
            Infinity::OutOfRange if *number == f64::INFINITY => "1e999",
            Infinity::OutOfRange if *number == f64::NEG_INFINITY => "-1e999",
            Infinity::OutOfRange | Infinity::Null => "null",
        }),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item, infinity);
            }
            out.push(']');
        }
        Value::Object(object) => write_entries(out, object.iter(), infinity),
    }
}

fn write_entries<'v>(
    out: &mut String,
    entries: impl Iterator<Item = (&'v str, &'v Value)>,
    infinity: Infinity,
) {
    out.push('{');
    for (index, (key, item)) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(out, key);
        out.push(':');
        write_value(out, item, infinity);
    }
    out.push('}');
}

/// `newline` is the end of a line and the indent of this level. Stops once `out` is longer than `bytes_max`.
fn write_indented(out: &mut String, value: &Value, indent: &str, newline: &str, bytes_max: usize) {
    let inner = format!("{newline}{indent}");
    match value {
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if out.len() > bytes_max {
                    return;
                }
                out.push(if index == 0 { '[' } else { ',' });
                out.push_str(&inner);
                write_indented(out, item, indent, &inner, bytes_max);
            }
            out.push_str(newline);
            out.push(']');
        }
        Value::Object(object) if !object.is_empty() => {
            for (index, (key, item)) in object.iter().enumerate() {
                if out.len() > bytes_max {
                    return;
                }
                out.push(if index == 0 { '{' } else { ',' });
                out.push_str(&inner);
                write_string(out, key);
                out.push_str(": ");
                write_indented(out, item, indent, &inner, bytes_max);
            }
            out.push_str(newline);
            out.push('}');
        }
        other => write_value(out, other, Infinity::Null),
    }
}

/// Writes a string in quotes, escaping what `JSON.stringify` escapes and nothing else.
fn write_string(out: &mut String, text: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

    #[test]
    fn infinity_is_null_on_the_wire_and_kept_in_the_store() {
        let infinite = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(Value::Number);
        let value = Value::Array(infinite.to_vec());
        assert_eq!(value.to_json(), "[null,null,null]");
        assert_eq!(value.to_stored_json(), "[1e999,-1e999,null]");
    }

    #[test]
    fn strings_are_escaped_as_javascript_escapes_them() {
        let value = Value::from("\"\\\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}é😀");
        assert_eq!(value.to_json(), r#""\"\\\b\f\n\r\t\u0000\u001f"#.to_owned() + "\u{7f}é😀\"");
    }

    #[test]
    fn an_indent_puts_each_entry_on_a_line_of_its_own() {
        let value = decode(br#"{"b":[1,[],{"c":null}],"1":{}}"#).unwrap();
        assert_eq!(
            value.to_indented_json(" ", 100).unwrap(),
            "{\n \"1\": {},\n \"b\": [\n  1,\n  [],\n  {\n   \"c\": null\n  }\n ]\n}"
        );
        assert_eq!(value.to_indented_json("", 100), Some(value.to_json()));
        let length = value.to_indented_json(" ", 100).unwrap().len();
        assert!(value.to_indented_json(" ", length).is_some());
        assert_eq!(value.to_indented_json(" ", length - 1), None);
    }
}
