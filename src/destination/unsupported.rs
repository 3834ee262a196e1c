//! Values that Loops cannot hold: its contract takes strings of up to 500 characters, numbers, booleans,
//! dates and null as properties. One nested value makes it refuse the whole contact.

use std::borrow::Cow;

use super::entries::Entries;
use crate::js::{Object, Value};

/// The longest string of a contact property, in characters, by Loops' contract.
const TEXT_CHARS_MAX: usize = 500;

/// The name of the contact properties in warnings.
pub(super) const CONTACT_PROPERTIES: &str = "contact properties";

/// The name of the event properties in warnings.
pub(super) const EVENT_PROPERTIES: &str = "event properties";

/// How deep nested values are flattened; deeper values are left out.
const FLATTEN_DEPTH_MAX: usize = 16;

/// What to do with a value that Loops cannot hold.
///
/// ```
/// use segment_loops::destination::{Destination, Unsupported};
/// use segment_loops::js::decode::decode;
/// use segment_loops::segment::Message;
///
/// let message = Message::from_stored(decode(br#"{
///     "type": "identify", "messageId": "m1", "userId": "u1", "traits": {"plan": "pro", "address": {"city": "London"}}
/// }"#)?)?;
/// for (unsupported, key, value) in [
///     (Unsupported::Omit, None, None),
///     (Unsupported::Flatten, Some("addressCity"), Some(r#""London""#)),
///     (Unsupported::Pass, Some("address"), Some(r#"{"city":"London"}"#)),
/// ] {
///     let destination = Destination::compile(&Destination::default_subscriptions(), unsupported).unwrap();
///     let delivery = &destination.plan(&message).deliveries[0];
///     let body = decode(&delivery.outcome.as_ref().unwrap().body)?;
///     let sent = ["address", "addressCity"].into_iter().find(|key| body.get(key).is_some());
///     assert_eq!(sent, key);
///     assert_eq!(sent.map(|key| body.get(key).unwrap().to_json()).as_deref(), value);
///     assert_eq!(delivery.warnings.is_empty(), unsupported != Unsupported::Omit);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unsupported {
    /// Leave it out, and keep the fact as a warning.
    #[default]
    Omit,
    /// Turn `address.city` into `addressCity`; leave out values that are still unsupported.
    Flatten,
    /// Send it as Segment does.
    Pass,
}

impl Unsupported {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Unsupported::Omit => "omit",
            Unsupported::Flatten => "flatten",
            Unsupported::Pass => "pass",
        }
    }

    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Omit, Self::Flatten, Self::Pass].into_iter().find(|one| one.as_str() == text)
    }

    /// Removes or flattens unsupported properties. `place` names the properties in warnings, which never
    /// hold a value.
    pub(super) fn fit<'a>(
        self,
        properties: Entries<'a>,
        place: &str,
        warnings: &mut Vec<String>,
    ) -> Entries<'a> {
        if self == Unsupported::Pass {
            return properties;
        }
        let mut fitting = Entries::with_capacity(properties.len());
        let mut flattened = Vec::new();
        for (key, value) in properties {
            match value.as_ref() {
                Value::Object(inner) if self == Unsupported::Flatten => {
                    flatten(&key, inner, 1, &mut flattened);
                }
                _ => add(&mut fitting, key, value, place, warnings),
            }
        }
        for (key, value) in flattened {
            // A property to which the sender gave this name wins.
            if !fitting.contains_key(key.as_str()) {
                add(&mut fitting, Cow::Owned(key), Cow::Owned(value), place, warnings);
            }
        }
        fitting
    }
}

fn add<'a>(
    fitting: &mut Entries<'a>,
    key: Cow<'a, str>,
    value: Cow<'a, Value>,
    place: &str,
    warnings: &mut Vec<String>,
) {
    let problem = match value.as_ref() {
        Value::Object(_) => Some("a nested object"),
        Value::Array(_) => Some("an array"),
        // There are never fewer bytes than characters, and bytes need no counting.
        Value::String(text)
            if text.len() > TEXT_CHARS_MAX && text.chars().count() > TEXT_CHARS_MAX =>
        {
            Some("a string of more than 500 characters")
        }
        // For a contact property, null has a meaning to Loops: it clears the value.
        Value::Null if place == EVENT_PROPERTIES => Some("null there"),
        // JSON can write it only as null.
        Value::Number(number) if place == EVENT_PROPERTIES && !number.is_finite() => {
            Some("NaN or an infinite number")
        }
        Value::Bool(_) => None,
        // The field of this name converts strings, 1 and 0; an attribute is sent unchanged.
        _ if key == "subscribed" && place == CONTACT_PROPERTIES => Some(
            "anything but true and false there (the field `subscribed` of the action reads more)",
        ),
        _ => None,
    };
    match problem {
        None => {
            fitting.insert(key, value);
        }
        Some(problem) => {
            warnings.push(format!("{place}: `{key}` was left out: Loops cannot hold {problem}"));
        }
    }
}

fn flatten(prefix: &str, object: &Object, depth: usize, flattened: &mut Vec<(String, Value)>) {
    for (key, value) in object.iter() {
        let mut letters = key.chars();
        let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        let name = format!("{prefix}{capital}{}", letters.as_str());
        match value {
            Value::Object(inner) if depth < FLATTEN_DEPTH_MAX => {
                flatten(&name, inner, depth + 1, flattened);
            }
            value => flattened.push((name, value.clone())),
        }
    }
}
