//! Decodes a message as its sender meant it, where the sender's language cannot express it in JSON.
//!
//! Segment takes both of the following literally. We do not, because that harms people:
//!
//! - PHP encodes an empty associative array as `[]`: `"properties": []`. Where Segment's spec has an object, an empty
//!   array is read as an empty object.
//! - Numbers are doubles with 53 bits of precision: two 18-digit user ids that differ in the last digit would become
//!   one person. An id that a double cannot represent is kept as the string of its digits
//!   (see [`decode_keeping_digits`]).

use crate::js::decode::{DecodeError, decode_keeping_digits};
use crate::js::{Object, Value};

/// The members of a message that are objects in Segment's spec.
const OBJECTS: [&str; 4] = ["context", "integrations", "properties", "traits"];

/// The members of `context` that are objects in Segment's spec.
const CONTEXT_OBJECTS: [&str; 12] = [
    "app", "campaign", "consent", "device", "library", "location", "network", "os", "page",
    "referrer", "screen", "traits",
];

/// Decodes a message, or whatever else is in its place.
pub fn read_message(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut value = decode_keeping_digits(bytes, is_id_name)?;
    if let Value::Object(message) = &mut value {
        fill_empty_arrays(message, &OBJECTS);
        if let Some(Value::Object(context)) = message.get_mut("context") {
            fill_empty_arrays(context, &CONTEXT_OBJECTS);
        }
    }
    Ok(value)
}

/// Replaces empty arrays by empty objects in the members with these names.
fn fill_empty_arrays(object: &mut Object, names: &[&str]) {
    for name in names {
        if let Some(value) = object.get_mut(name)
            && value.as_array().is_some_and(<[Value]>::is_empty)
        {
            *value = Value::Object(Object::new());
        }
    }
}

/// Whether a member of this name is an id: `id`, `userId`, `UserID`, `order_id`, but not `paid`.
fn is_id_name(name: &str) -> bool {
    // Written as one lower-case word, only Segment's own fields can be told from words such as "paid".
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

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
            assert_eq!(read_message(text.as_bytes()).unwrap().to_json(), expected);
        }
        let plain = decode(br#"{"userId":9007199254740993}"#).unwrap();
        assert_eq!(plain.to_json(), r#"{"userId":9007199254740992}"#);
    }
}
