//! Restores the casing of a message's fields, for the one contract where it varies: Segment's documentation of
//! subscription destinations says that the casing depends on the customer, and to accept any.

use crate::js::Object;

/// The top-level fields of Segment's spec. What is inside them belongs to the sender.
const FIELDS: [&str; 18] = [
    "anonymousId",
    "category",
    "channel",
    "context",
    "event",
    "groupId",
    "integrations",
    "messageId",
    "name",
    "originalTimestamp",
    "previousId",
    "properties",
    "receivedAt",
    "sentAt",
    "timestamp",
    "traits",
    "type",
    "userId",
];

/// Renames the fields of a message to their spelling in the spec: `UserID`, `userid` and `user_id` become
/// `userId`. A field in the right spelling wins, and the one that would replace it stays as it is. Returns
/// whether anything was changed.
pub fn settle(object: &mut Object) -> bool {
    let is_settled = object.keys().all(|key| field(key).is_none_or(|field| field == key));
    if is_settled {
        return false;
    }
    let right = FIELDS.map(|field| object.contains_key(field).then_some(field));
    let mut is_changed = false;
    for (key, value) in std::mem::take(object).into_entries() {
        let is_free = |field: &&str| !right.contains(&Some(*field)) && !object.contains_key(field);
        match field(&key).filter(is_free) {
            Some(field) => {
                is_changed = true;
                object.insert(field, value);
            }
            None => object.insert(key, value),
        }
    }
    is_changed
}

/// Returns the field that a key stands for.
fn field(key: &str) -> Option<&'static str> {
    let letters = || key.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase());
    let is_same = |field: &&str| letters().eq(field.bytes().map(|byte| byte.to_ascii_lowercase()));
    FIELDS.into_iter().find(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::Value;
    use crate::js::decode::decode;

    #[test]
    fn fields_get_their_spelling_and_nothing_else_does() {
        let cases = [
            (r#"{"userId":"u","traits":{"Email":"e"}}"#, None),
            (r#"{"Plan":"pro","_":1,"":2}"#, None),
            (
                r#"{"Type":"track","USERID":"u","message_id":"m","Event":"E","Properties":{"UserId":1}}"#,
                Some(
                    r#"{"type":"track","userId":"u","messageId":"m","event":"E","properties":{"UserId":1}}"#,
                ),
            ),
            (
                r#"{"anonymousID":"a","GroupId":"g","sent_at":"t","other":1}"#,
                Some(r#"{"anonymousId":"a","groupId":"g","sentAt":"t","other":1}"#),
            ),
            // The right spelling wins, wherever it is; otherwise the first.
            (r#"{"userid":"b","userId":"a"}"#, None),
            (r#"{"userid":"b","userId":null}"#, None),
            (r#"{"UserID":"a","userid":"b"}"#, Some(r#"{"userId":"a","userid":"b"}"#)),
            (r#"{"userıd":"b"}"#, None),
        ];
        for (text, expected) in cases {
            let Ok(Value::Object(mut object)) = decode(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(settle(&mut object), expected.is_some(), "{text}");
            assert_eq!(Value::Object(object).to_json(), expected.unwrap_or(text));
        }
    }
}
