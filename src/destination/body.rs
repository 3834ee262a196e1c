//! The bodies of the requests, as Segment's Loops destination makes them.

use std::borrow::Cow;

use bytes::Bytes;
use indexmap::IndexMap;

use super::action::ActionKind;
use super::unsupported::{CONTACT_PROPERTIES, Unsupported};
use crate::loops::{Endpoint, Request};
use crate::segment::Value;
use crate::segment::value::{Object, object_json};

/// The entries of an object; values that the message has are borrowed.
pub(super) type Entries<'a> = IndexMap<Cow<'a, str>, Cow<'a, Value>>;

/// The fields of an event's body that are not properties of the contact.
const EVENT_OWN: [&str; 5] = ["email", "eventName", "userId", "eventProperties", "mailingLists"];

/// Makes the request of an action's validated fields.
pub(super) fn request(
    action: ActionKind,
    fields: Entries<'_>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> Request {
    let (endpoint, body) = match action {
        ActionKind::CreateOrUpdateContact => {
            (Endpoint::UpdateContact, contact(fields, unsupported, warnings))
        }
        ActionKind::SendEvent => (Endpoint::SendEvent, event(fields, unsupported, warnings)),
        // Segment sends the id in a list, which Loops' contract refuses.
        ActionKind::DeleteContact => (Endpoint::DeleteContact, fields),
    };
    let body = object_json(body.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
    Request { endpoint, body: Bytes::from(body) }
}

/// The custom attributes, under the fields that are there, then the mailing lists, always.
fn contact<'a>(
    mut fields: Entries<'a>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> Entries<'a> {
    let mut body = entries(fields.shift_remove("customAttributes"));
    let in_attributes = body.shift_remove("mailingLists");
    let in_field = fields.shift_remove("mailingLists");
    let has_keys =
        in_field.as_deref().and_then(Value::as_object).is_some_and(|lists| !lists.is_empty());
    let lists = if has_keys { in_field } else { in_attributes };
    body.extend(fields);
    let mut body = unsupported.fit(body, CONTACT_PROPERTIES, warnings);
    let lists = Value::Object(mailing_lists(lists.as_deref()));
    body.insert(Cow::Borrowed("mailingLists"), Cow::Owned(lists));
    body
}

/// Only true, false, "true" and "false" survive; the places of a list count as ids.
fn mailing_lists(given: Option<&Value>) -> Object {
    let flag = |value: &Value| match value {
        Value::Bool(flag) => Some(Value::Bool(*flag)),
        Value::String(text) if text == "true" => Some(Value::Bool(true)),
        Value::String(text) if text == "false" => Some(Value::Bool(false)),
        _ => None,
    };
    match given {
        Some(Value::Object(lists)) => {
            lists.iter().filter_map(|(id, value)| Some((id.to_owned(), flag(value)?))).collect()
        }
        Some(Value::Array(items)) => {
            let places = items.iter().enumerate();
            places.filter_map(|(place, value)| Some((place.to_string(), flag(value)?))).collect()
        }
        _ => Object::new(),
    }
}

/// The event's own fields, then the contact properties over them, whatever their names.
fn event<'a>(
    mut fields: Entries<'a>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> Entries<'a> {
    let contact_properties = entries(fields.shift_remove("contactProperties"));
    if unsupported != Unsupported::Pass
        && let Some(properties) = fields.get_mut("eventProperties")
    {
        let fitting = unsupported.fit(
            entries(Some(std::mem::take(properties))),
            "event properties",
            warnings,
        );
        let fitting =
            fitting.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned()));
        *properties = Cow::Owned(Value::Object(fitting.collect()));
    }
    // What replaces a field of the event is not a contact property to Loops.
    let (own, properties): (Entries<'_>, Entries<'_>) =
        contact_properties.into_iter().partition(|(key, _)| EVENT_OWN.contains(&key.as_ref()));
    let mut body = fields;
    body.extend(unsupported.fit(properties, CONTACT_PROPERTIES, warnings));
    body.extend(own);
    body
}

/// The entries of an object; of anything else none.
fn entries(value: Option<Cow<'_, Value>>) -> Entries<'_> {
    match value {
        Some(Cow::Borrowed(Value::Object(object))) => {
            object.iter().map(|(key, value)| (Cow::Borrowed(key), Cow::Borrowed(value))).collect()
        }
        Some(Cow::Owned(Value::Object(object))) => {
            let entries = object.into_entries().into_iter();
            entries.map(|(key, value)| (Cow::Owned(key), Cow::Owned(value))).collect()
        }
        _ => Entries::new(),
    }
}
