//! Masks contents for people who have not asked to see them: keys, types and lengths are shown, values are not.

use serde_json::Value;

use crate::js::date::parse_date;

/// Keys of a message whose values reveal nothing about a person, provided that they have the expected form.
const TIMES: [&str; 4] = ["timestamp", "originalTimestamp", "receivedAt", "sentAt"];
const NAMES: [&str; 3] = ["type", "event", "messageId"];

/// Masks a whole message. Its type, its id, the name of its event and its times stay, because lists show them as well.
pub(super) fn message(message: &Value) -> Value {
    let Value::Object(members) = message else { return value(message) };
    let of = |(key, member): (&String, &Value)| {
        let is_time = |text: &str| TIMES.contains(&key.as_str()) && parse_date(text).is_some();
        let stays = NAMES.contains(&key.as_str()) || member.as_str().is_some_and(is_time);
        (self::key(key), if stays && member.is_string() { member.clone() } else { value(member) })
    };
    Value::Object(members.iter().map(of).collect())
}

/// Masks the body of a request to Loops. The name of its event stays.
pub(super) fn body(body: &Value) -> Value {
    let Value::Object(members) = body else { return value(body) };
    let of = |(key, member): (&String, &Value)| {
        let stays = key == "eventName" && member.is_string();
        (self::key(key), if stays { member.clone() } else { value(member) })
    };
    Value::Object(members.iter().map(of).collect())
}

/// Masks any value.
pub(super) fn value(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => "••• (boolean)".into(),
        Value::Number(_) => "••• (number)".into(),
        Value::String(text) => self::text(text).into(),
        Value::Array(items) => items.iter().map(self::value).collect(),
        Value::Object(members) => {
            let of = |(key, member): (&String, &Value)| (self::key(key), self::value(member));
            Value::Object(members.iter().map(of).collect())
        }
    }
}

/// Masks a string. Of an e-mail address, the first letters and the top-level domain stay.
pub(super) fn text(text: &str) -> String {
    address(text).unwrap_or_else(|| match text.chars().count() {
        0 => String::new(),
        1 => "••• (1 character)".to_owned(),
        more => format!("••• ({more} characters)"),
    })
}

/// Masks a key if it looks like an address. Other keys are names that programs chose.
fn key(key: &str) -> String {
    if key.contains('@') { text(key) } else { key.to_owned() }
}

fn address(text: &str) -> Option<String> {
    let (name, domain) = text.split_once('@')?;
    let (host, last) = domain.rsplit_once('.')?;
    let is_plain = |part: &str| !part.is_empty() && !part.contains(['@', ' ']);
    if !is_plain(name) || !is_plain(host) || !(2..=10).contains(&last.len()) {
        return None;
    }
    let last = last.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(last)?;
    // A part of a single letter would be shown whole.
    let first = |part: &str| {
        let mut letters = part.chars();
        letters.next().filter(|_| letters.next().is_some()).map(String::from).unwrap_or_default()
    };
    Some(format!("{}…@{}….{last}", first(name), first(host)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_value_stays_but_keys_types_and_lengths() {
        let given = json!({
            "type": "track", "event": "Signed Up", "messageId": "m1", "userId": "u1",
            "timestamp": "2026-01-02T03:04:05.000Z", "originalTimestamp": "ada@example.com", "sentAt": 7,
            "traits": {"email": "ada@example.com", "ada@example.com": "x", "age": 36, "vip": true, "tags": ["a", null, ""]},
        });
        let expected = json!({
            "type": "track", "event": "Signed Up", "messageId": "m1", "userId": "••• (2 characters)",
            "timestamp": "2026-01-02T03:04:05.000Z", "originalTimestamp": "a…@e….com", "sentAt": "••• (number)",
            "traits": {
                "email": "a…@e….com", "a…@e….com": "••• (1 character)", "age": "••• (number)", "vip": "••• (boolean)",
                "tags": ["••• (1 character)", null, ""],
            },
        });
        assert_eq!(message(&given), expected);
        assert_eq!(message(&json!("ada")), json!("••• (3 characters)"));
        let odd = json!({"type": {"name": "Ada"}, "event": ["Ada"]});
        assert_eq!(message(&odd)["type"]["name"], "••• (3 characters)");
        let sent = json!({"eventName": "signedUp", "email": "ada@example.com"});
        assert_eq!(body(&sent), json!({"eventName": "signedUp", "email": "a…@e….com"}));
    }

    #[test]
    fn an_address_keeps_its_first_letters_unless_they_are_all_of_it() {
        for (given, expected) in [
            ("ada@example.com", "a…@e….com"),
            ("élodie@exämple.co.uk", "é…@e….uk"),
            ("a@b.de", "…@….de"),
            ("a@b", "••• (3 characters)"),
            ("@example.com", "••• (12 characters)"),
            ("see ada@example.com", "••• (19 characters)"),
            ("ada@example.com, bob@example.com", "••• (32 characters)"),
            ("ada@example.averylongdomain", "••• (27 characters)"),
            ("", ""),
        ] {
            assert_eq!(text(given), expected);
        }
    }
}
