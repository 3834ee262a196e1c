//! Corrects values whose form alone is wrong, such as addresses with spaces around them or mailing lists as an array,
//! and warns of values that Loops would misunderstand.
//!
//! Segment sends such values unchanged, and so does [`super::Unsupported::Pass`]; only the warning about a
//! colon is given in any case.

use super::entries::Entries;
use crate::js::{Object, Value, is_space, number_of_text};
use crate::segment::message::id_text;

/// The keys of a mailing list's id in an array: Loops' own guide for Segment uses the first one.
const LIST_ID_KEYS: [&str; 2] = ["listId", "id"];

/// The numbers that are seconds rather than milliseconds since 1970: those of 8 to 10 digits. As seconds
/// they are dates from April 1970 to 2286, as milliseconds all of them are in the first four months of 1970.
const SECONDS: std::ops::Range<f64> = 1e7..1e10;

/// Returns an address without the white space around it; `None` if there is none. Zero-width characters count as white
/// space, since they are copied along with an address from web pages.
pub(super) fn address(value: &Value, field: &str, warnings: &mut Vec<String>) -> Option<Value> {
    let is_space = |c: char| {
        is_space(c) || c.is_whitespace() || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}')
    };
    let text = match value {
        Value::Array(items) => match items.as_slice() {
            [Value::String(text)] => text,
            _ => return None,
        },
        value => value.as_str()?,
    };
    let trimmed = text.trim_matches(is_space);
    if trimmed.len() == text.len() {
        return None;
    }
    warnings.push(match trimmed.is_empty() {
        true => format!("`{field}` was left out: it is only white space"),
        false => format!("`{field}`: the white space around the address was removed"),
    });
    Some(Value::from(trimmed))
}

/// Turns mailing lists in the form of an array of `{"listId": …, "subscribed": …}` (or a single one of
/// those) into an object of flags; `None` for any other form.
pub(super) fn listed(value: &Value, warnings: &mut Vec<String>) -> Option<Object> {
    let entry = |value: &Value| -> Option<(String, Value)> {
        let id = LIST_ID_KEYS.iter().find_map(|key| id_text(value.get(key)))?;
        Some((id.into_owned(), value.get("subscribed")?.clone()))
    };
    match value {
        Value::Array(items) => {
            let mut lists = Object::new();
            for (index, item) in items.iter().enumerate() {
                match entry(item) {
                    Some((id, flag)) => lists.insert(id, flag),
                    None => warnings.push(format!(
                        "mailing lists: entry {} was left out: write {{\"listId\": \"…\", \"subscribed\": true}}",
                        index + 1
                    )),
                }
            }
            Some(lists)
        }
        value => entry(value).map(|entry| Object::from_iter([entry])),
    }
}

/// Warns of a date that Loops would read as one in 1970.
pub(super) fn warn_of_seconds(body: &Entries<'_>, warnings: &mut Vec<String>) {
    let number = match body.get("createdAt").map(AsRef::as_ref) {
        Some(Value::Number(number)) => *number,
        Some(Value::String(text)) => number_of_text(text),
        _ => return,
    };
    if SECONDS.contains(&number) {
        warnings.push(
            "`createdAt` looks like seconds since 1970, which Loops reads as milliseconds: the contact's date will be in 1970; send milliseconds, or a string such as 2024-01-15T09:30:00Z"
                .to_owned(),
        );
    }
}

/// Warns of an event name that Loops refuses.
pub(super) fn warn_of_colon(body: &Entries<'_>, warnings: &mut Vec<String>) {
    let name = body.get("eventName").and_then(|name| name.as_str());
    if name.is_some_and(|name| name.contains(':')) {
        warnings.push(
            "the event's name contains a colon (:), which Loops refuses: fill `eventName` with a name without one"
                .to_owned(),
        );
    }
}
