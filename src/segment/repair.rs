//! Reads a message as its sender meant it, where the sender's language cannot write it so.
//!
//! Segment takes both of these literally. We do not, because people are harmed by it:
//!
//! * PHP writes an empty array for an empty object: `"properties": []`. Where Segment's spec has an
//!   object, an empty array is an empty object.
//! * Numbers are doubles, and a double has room for 53 bits: two 18-digit user ids that differ in
//!   the last digit would become one person. An id that a double cannot hold keeps its digits, as a
//!   string (see [`decode_keeping_ids`]).

use super::decode::{DecodeError, decode_keeping_ids};
use super::value::{Object, Value};

/// The members of a message that are objects.
const OBJECTS: [&str; 4] = ["context", "integrations", "properties", "traits"];

/// The members of `context` that are objects.
const CONTEXT_OBJECTS: [&str; 12] = [
    "app", "campaign", "consent", "device", "library", "location", "network", "os", "page",
    "referrer", "screen", "traits",
];

/// Decodes a message, or whatever else stands in its place.
pub fn read_message(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut value = decode_keeping_ids(bytes)?;
    if let Value::Object(message) = &mut value {
        fill_empty_arrays(message, &OBJECTS);
        if let Some(Value::Object(context)) = message.get_mut("context") {
            fill_empty_arrays(context, &CONTEXT_OBJECTS);
        }
    }
    Ok(value)
}

/// Makes objects of the members with these names that are empty arrays.
fn fill_empty_arrays(object: &mut Object, names: &[&str]) {
    for name in names {
        if let Some(value) = object.get_mut(name)
            && value.as_array().is_some_and(<[Value]>::is_empty)
        {
            *value = Value::Object(Object::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_array_is_an_empty_object_where_one_belongs() {
        let cases = [
            (
                r#"{"properties":[],"traits":[],"context":[],"integrations":[]}"#,
                r#"{"properties":{},"traits":{},"context":{},"integrations":{}}"#,
            ),
            (
                r#"{"context":{"traits":[],"page":[],"own":[]}}"#,
                r#"{"context":{"traits":{},"page":{},"own":[]}}"#,
            ),
            (
                r#"{"properties":[1],"traits":{"tags":[]},"own":[]}"#,
                r#"{"properties":[1],"traits":{"tags":[]},"own":[]}"#,
            ),
            ("[]", "[]"),
        ];
        for (text, expected) in cases {
            assert_eq!(read_message(text.as_bytes()).unwrap().to_json(), expected);
        }
    }
}
