//! The bodies of the requests, as Segment's Loops destination makes them.

use bytes::Bytes;

use super::action::ActionKind;
use super::unsupported::Unsupported;
use crate::loops::{Endpoint, Request};
use crate::segment::Value;
use crate::segment::value::Object;

/// The fields of an event's body that are not properties of the contact.
const EVENT_OWN: [&str; 5] = ["email", "eventName", "userId", "eventProperties", "mailingLists"];

/// Makes the request of an action's validated fields.
pub(super) fn request(
    action: ActionKind,
    fields: Object,
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
    Request { endpoint, body: Bytes::from(Value::Object(body).to_json()) }
}

/// The custom attributes, under the fields that are there, then the mailing lists, always.
fn contact(mut fields: Object, unsupported: Unsupported, warnings: &mut Vec<String>) -> Object {
    let mut body = take_object(&mut fields, "customAttributes");
    let in_attributes = body.remove("mailingLists");
    let lists = match fields.remove("mailingLists") {
        Some(Value::Object(lists)) if !lists.is_empty() => Some(Value::Object(lists)),
        _ => in_attributes,
    };
    for (key, value) in fields.into_entries() {
        body.insert(key, value);
    }
    let mut body = unsupported.fit(body, "contact properties", warnings);
    body.insert("mailingLists", Value::Object(mailing_lists(lists)));
    body
}

/// Only true, false, "true" and "false" survive; the places of a list count as ids.
fn mailing_lists(given: Option<Value>) -> Object {
    let entries = match given {
        Some(Value::Object(lists)) => lists.into_entries(),
        Some(Value::Array(items)) => {
            items.into_iter().enumerate().map(|(place, item)| (place.to_string(), item)).collect()
        }
        _ => Vec::new(),
    };
    let flag = |value: &Value| match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text == "true" => Some(true),
        Value::String(text) if text == "false" => Some(false),
        _ => None,
    };
    entries.into_iter().filter_map(|(id, value)| Some((id, Value::Bool(flag(&value)?)))).collect()
}

/// The event's own fields, then the contact properties over them, whatever their names.
fn event(mut fields: Object, unsupported: Unsupported, warnings: &mut Vec<String>) -> Object {
    let contact_properties = take_object(&mut fields, "contactProperties");
    let mut body = Object::new();
    for key in EVENT_OWN {
        match fields.remove(key) {
            Some(Value::Object(properties)) => {
                let properties = unsupported.fit(properties, "event properties", warnings);
                body.insert(key, Value::Object(properties));
            }
            Some(value) => body.insert(key, value),
            None => {}
        }
    }
    // What replaces a field of the event is not a contact property to Loops.
    let (own, properties): (Vec<_>, Vec<_>) = contact_properties
        .into_entries()
        .into_iter()
        .partition(|(key, _)| EVENT_OWN.contains(&key.as_str()));
    let properties =
        unsupported.fit(properties.into_iter().collect(), "contact properties", warnings);
    for (key, value) in properties.into_entries().into_iter().chain(own) {
        body.insert(key, value);
    }
    body
}

fn take_object(fields: &mut Object, key: &str) -> Object {
    match fields.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Object::new(),
    }
}
