//! What requests leave in a contact at Loops, if nothing else writes to it. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::action::Endpoint;

/// The key by which Loops finds a contact: its `userId`, or its address if requests have no `userId`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    User(String),
    Email(String),
}

/// A value that a contact should have, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) subscription: String,
    pub(super) message_id: String,
}

/// The expected contents of a contact.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Expected {
    pub(super) properties: BTreeMap<String, Setting>,
    /// Whether the contact is on each list, by the list's id.
    pub(super) lists: BTreeMap<String, Setting>,
    /// Whether the last request deletes it.
    pub(super) is_deleted: bool,
}

/// A request, and what it was made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) body: &'a Map<String, Value>,
    pub(super) subscription: &'a str,
    pub(super) message_id: &'a str,
}

/// The fields of an event that do not belong to its contact.
const OF_EVENTS: [&str; 2] = ["eventName", "eventProperties"];

const LISTS: &str = "mailingLists";

impl Key {
    /// Returns the key of the contact that a request names.
    pub(super) fn of(body: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| {
            let text = body.get(name)?.as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        text("userId").map(Key::User).or_else(|| text("email").map(Key::Email))
    }
}

impl Expected {
    /// Returns whether no request sets a value, so that there is nothing to compare.
    pub(super) fn is_empty(&self) -> bool {
        self.properties.is_empty() && self.lists.is_empty()
    }

    /// Applies the next request for the contact. `takes_addresses` says whether the address in an event becomes that of
    /// a contact found by its `userId`.
    pub(super) fn apply(&mut self, made: Made<'_>, takes_addresses: bool) {
        if made.endpoint == Endpoint::DeleteContact {
            *self = Self { is_deleted: true, ..Self::default() };
            return;
        }
        self.is_deleted = false;
        let is_event = made.endpoint == Endpoint::SendEvent;
        let setting = |value: &Value| Setting {
            value: value.clone(),
            subscription: made.subscription.to_owned(),
            message_id: made.message_id.to_owned(),
        };
        for (name, value) in made.body {
            let is_foreign =
                name == "email" && made.body.contains_key("userId") && !takes_addresses;
            match (name.as_str(), value) {
                (LISTS, Value::Object(lists)) => {
                    let lists = lists.iter().map(|(list, value)| (list.clone(), setting(value)));
                    self.lists.extend(lists);
                }
                (name, _) if is_event && (OF_EVENTS.contains(&name) || is_foreign) => {}
                _ => drop(self.properties.insert(name.clone(), setting(value))),
            }
        }
    }
}

/// The result of comparing one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Compared {
    Same,
    Differs,
    Missing,
    /// Loops holds a value that no request set.
    OnlyThere,
}

/// The comparison of a property or a mailing list of a contact.
#[derive(Debug, PartialEq)]
pub(super) struct Line<'a> {
    pub(super) name: String,
    pub(super) compared: Compared,
    /// The expected value; `None` if no request set it.
    pub(super) expected: Option<&'a Setting>,
    pub(super) held: Option<&'a Value>,
}

/// The properties that Loops adds to each contact by itself.
const OF_LOOPS: [&str; 5] = ["id", "optInStatus", "source", "subscribed", LISTS];

/// Compares a contact, as Loops returned it, with its expected contents.
pub(super) fn compare<'a>(expected: &'a Expected, held: &'a Map<String, Value>) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (name, setting) in &expected.properties {
        let found = held.get(name);
        let compared = match found {
            _ if is_same(name, &setting.value, found.unwrap_or(&Value::Null)) => Compared::Same,
            // Loops does not return this one.
            None if name == "subscribed" => continue,
            None => Compared::Missing,
            Some(found) if is_empty(found) => Compared::Missing,
            Some(_) => Compared::Differs,
        };
        lines.push(Line { name: name.clone(), compared, expected: Some(setting), held: found });
    }
    if let Some(Value::Object(lists)) = held.get(LISTS) {
        for (list, setting) in &expected.lists {
            let is_on = |value: Option<&Value>| {
                value.is_some_and(|value| *value == Value::Bool(true) || value == "true")
            };
            let found = lists.get(list);
            let compared = match (is_on(Some(&setting.value)), is_on(found)) {
                (wanted, found) if wanted == found => Compared::Same,
                (true, _) => Compared::Missing,
                (false, _) => Compared::Differs,
            };
            let name = format!("{LISTS}.{list}");
            lines.push(Line { name, compared, expected: Some(setting), held: found });
        }
    }
    for (name, value) in held {
        let is_known = expected.properties.contains_key(name) || OF_LOOPS.contains(&&**name);
        if !is_known && !is_empty(value) {
            let compared = Compared::OnlyThere;
            lines.push(Line { name: name.clone(), compared, expected: None, held: Some(value) });
        }
    }
    lines
}

/// Returns whether a value counts as empty: null clears a property, and Loops returns some empty ones as an empty
/// string.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// Returns whether Loops holds what was sent: numbers compare as numbers, dates as moments, nothing like null, and
/// addresses in any case.
fn is_same(name: &str, sent: &Value, held: &Value) -> bool {
    if sent == held || is_empty(sent) && is_empty(held) {
        return true;
    }
    if let (Some(sent), Some(held)) = (sent.as_f64(), held.as_f64()) {
        return sent == held;
    }
    if let (true, Some(sent), Some(held)) = (name == "email", sent.as_str(), held.as_str()) {
        return sent.trim().eq_ignore_ascii_case(held.trim());
    }
    match (moment(sent), moment(held)) {
        (Some(sent), Some(held)) => sent == held,
        (Some(date), None) => held.as_f64() == Some(date),
        (None, Some(date)) => sent.as_f64() == Some(date),
        (None, None) => false,
    }
}

/// Returns the moment, in milliseconds, that a string in the format of ISO 8601 names. Other strings may be names.
fn moment(value: &Value) -> Option<f64> {
    let text = value.as_str()?;
    let bytes = text.as_bytes();
    let is_date = bytes.len() >= 10
        && bytes[..10].iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date.then(|| crate::js::date::parse_date(text)).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    fn expected(requests: &[(Endpoint, Value)], takes_addresses: bool) -> Expected {
        let mut expected = Expected::default();
        for (index, (endpoint, body)) in requests.iter().enumerate() {
            let (body, message_id) = (object(body.clone()), format!("m{index}"));
            let made = Made {
                endpoint: *endpoint,
                body: &body,
                subscription: "S",
                message_id: &message_id,
            };
            expected.apply(made, takes_addresses);
        }
        expected
    }

    fn values(expected: &Expected) -> Value {
        let values = expected.properties.iter();
        values
            .map(|(name, setting)| (name.clone(), setting.value.clone()))
            .collect::<Map<_, _>>()
            .into()
    }

    #[test]
    fn the_last_value_of_each_property_counts() {
        use Endpoint::{DeleteContact, SendEvent, UpdateContact};
        let requests = [
            (UpdateContact, json!({"userId": "u", "email": "a@b.co", "plan": "free", "seats": 1})),
            (
                SendEvent,
                json!({"userId": "u", "email": "friend@b.co", "eventName": "E",
                "eventProperties": {"plan": "no"}, "plan": "pro", "mailingLists": {"l": true}}),
            ),
            (UpdateContact, json!({"userId": "u", "seats": null, "mailingLists": {"l": false}})),
        ];
        let guarded = expected(&requests, false);
        let wanted = json!({"userId": "u", "email": "a@b.co", "plan": "pro", "seats": null});
        assert_eq!(values(&guarded), wanted);
        assert_eq!(guarded.properties["plan"].message_id, "m1");
        assert_eq!(
            (&guarded.lists["l"].value, &*guarded.lists["l"].message_id),
            (&json!(false), "m2")
        );
        assert_eq!(values(&expected(&requests, true))["email"], "friend@b.co");
        // The address is everything that such an event has.
        let alone = [(SendEvent, json!({"email": "a@b.co", "eventName": "E"}))];
        assert_eq!(values(&expected(&alone, false)), json!({"email": "a@b.co"}));
        let deleted = [&requests[..1], &[(DeleteContact, json!({"userId": "u"}))]].concat();
        assert!(expected(&deleted, false).is_deleted);
        let again = [&deleted[..], &[(UpdateContact, json!({"userId": "u", "a": 1}))]].concat();
        let again = expected(&again, false);
        assert!(!again.is_deleted);
        assert_eq!(values(&again), json!({"userId": "u", "a": 1}));
    }

    #[test]
    fn values_are_compared_by_what_they_mean() {
        for (name, sent, held, same) in [
            ("p", json!("Ada"), json!("Ada"), true),
            ("p", json!("Ada"), json!("ada"), false),
            ("p", json!(1), json!(1.0), true),
            ("p", json!(1), json!("1"), false),
            ("p", json!(null), json!(""), true),
            ("p", json!(null), json!("Ada"), false),
            ("p", json!("2026-01-02T01:00:00+01:00"), json!("2026-01-02T00:00:00.000Z"), true),
            ("p", json!("2026-01-02"), json!(1_767_312_000_000_i64), true),
            ("p", json!(1_767_312_000_000_i64), json!("2026-01-02T00:00:00Z"), true),
            ("p", json!("2026-01-02T00:00:00Z"), json!("2026-01-03T00:00:00Z"), false),
            // A browser would read these names as dates.
            ("p", json!("week 3"), json!("day 3"), false),
            ("p", json!("7"), json!("07"), false),
            ("email", json!("Ada@B.co"), json!("ada@b.co"), true),
            ("email", json!("ada@b.co"), json!("ben@b.co"), false),
            ("p", json!(true), json!("true"), false),
        ] {
            assert_eq!(is_same(name, &sent, &held), same, "{name}: {sent} {held}");
        }
    }

    #[test]
    fn a_contact_is_compared_property_by_property() {
        let sent = json!({"userId": "u", "plan": "pro", "seats": 3, "city": "Rome", "gone": null,
            "subscribed": true, "mailingLists": {"on": true, "off": false, "lost": true, "stays": false}});
        let expected = expected(&[(Endpoint::UpdateContact, sent)], false);
        let held =
            object(json!({"id": "x", "userId": "u", "plan": "free", "seats": 3.0, "city": null,
            "firstName": null, "source": "API", "extra": 1, "optInStatus": null,
            "mailingLists": {"on": true, "stays": true, "other": true}}));
        let lines = compare(&expected, &held);
        let found: Vec<(&str, Compared)> =
            lines.iter().map(|line| (line.name.as_str(), line.compared)).collect();
        use Compared::{Differs, Missing, OnlyThere, Same};
        let wanted = [
            ("city", Missing),
            ("gone", Same),
            ("plan", Differs),
            ("seats", Same),
            ("userId", Same),
            ("mailingLists.lost", Missing),
            ("mailingLists.off", Same),
            ("mailingLists.on", Same),
            ("mailingLists.stays", Differs),
            ("extra", OnlyThere),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_contact_is_named_by_its_user_id_or_else_its_address() {
        let key = |body| Key::of(&object(body));
        assert_eq!(key(json!({"userId": "u", "email": "e"})), Some(Key::User("u".into())));
        assert_eq!(key(json!({"userId": "", "email": "e"})), Some(Key::Email("e".into())));
        assert_eq!(key(json!({"userId": 7})), None);
    }
}
