//! The bodies of requests, as Segment's Loops destination makes them.

use std::borrow::Cow;

use super::entries::{Entries, entries};
use super::field::is_email;
use super::tidy;
use super::unsupported::{CONTACT_PROPERTIES, EVENT_PROPERTIES, Unsupported};
use crate::action::{ActionKind, Endpoint};
use crate::js::{Object, Value};

/// The fields of an event's body that are not properties of the contact.
const EVENT_OWN: [&str; 5] = ["email", "eventName", "userId", "eventProperties", "mailingLists"];

/// Makes the body of a request from an action's validated fields.
pub(super) fn make<'a>(
    action: ActionKind,
    fields: Entries<'a>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> (Endpoint, Entries<'a>) {
    match action {
        ActionKind::CreateOrUpdateContact => {
            (Endpoint::UpdateContact, contact(fields, unsupported, warnings))
        }
        ActionKind::SendEvent => (Endpoint::SendEvent, event(fields, unsupported, warnings)),
        // Segment sends the id in an array, which Loops' contract refuses.
        ActionKind::DeleteContact => (Endpoint::DeleteContact, fields),
    }
}

/// The custom attributes, overridden by the filled fields, and always the mailing lists.
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
    let (lists, unused) = if has_keys { (in_field, in_attributes) } else { (in_attributes, None) };
    if unsupported != Unsupported::Pass {
        if unused.is_some_and(|lists| lists.is_truthy()) {
            warnings.push(
                "mailing lists: those of `customAttributes` were left out, since the field `mailingLists` is filled"
                    .to_owned(),
            );
        }
        if !fields.contains_key("email")
            && let Some(email) = address_among(&mut body, CONTACT_PROPERTIES, warnings)
        {
            body.insert(Cow::Borrowed("email"), email);
        }
    }
    body.extend(fields);
    let mut body = unsupported.fit(body, CONTACT_PROPERTIES, warnings);
    if unsupported != Unsupported::Pass {
        tidy::warn_of_seconds(&body, warnings);
    }
    let lists = Value::Object(mailing_lists(lists.as_deref(), unsupported, warnings));
    body.insert(Cow::Borrowed("mailingLists"), Cow::Owned(lists));
    body
}

/// Keeps only true, false, "true" and "false". Segment takes the indices of an array for ids.
fn mailing_lists(
    given: Option<&Value>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> Object {
    let flag = |value: &Value| match value {
        Value::Bool(flag) => Some(Value::Bool(*flag)),
        Value::String(text) if text == "true" => Some(Value::Bool(true)),
        Value::String(text) if text == "false" => Some(Value::Bool(false)),
        _ => None,
    };
    let Some(given) = given else {
        return Object::new();
    };
    if unsupported == Unsupported::Pass {
        let entries: Vec<(String, &Value)> = match given {
            Value::Object(lists) => {
                lists.iter().map(|(id, value)| (id.to_owned(), value)).collect()
            }
            Value::Array(items) => {
                let items = items.iter().enumerate();
                items.map(|(index, value)| (index.to_string(), value)).collect()
            }
            _ => Vec::new(),
        };
        return entries.into_iter().filter_map(|(id, value)| Some((id, flag(value)?))).collect();
    }
    let listed = tidy::listed(given, warnings);
    let Some(lists) = listed.as_ref().or(given.as_object()) else {
        if given.is_truthy() {
            warnings.push(
                "mailing lists: all were left out: write {\"the list's id\": true}".to_owned(),
            );
        }
        return Object::new();
    };
    let mut flags = Object::new();
    for (id, value) in lists.iter() {
        match flag(value) {
            Some(flag) => flags.insert(id, flag),
            None => warnings.push(format!(
                "mailing lists: `{id}` was left out: Loops takes only true and false there"
            )),
        }
    }
    flags
}

/// The event's own fields, and the contact properties beside them. If both have the same name, the event's
/// own field wins; for Segment, the contact property does.
fn event<'a>(
    mut fields: Entries<'a>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> Entries<'a> {
    tidy::warn_of_colon(&fields, warnings);
    let mut properties = entries(fields.shift_remove("contactProperties"));
    if unsupported == Unsupported::Pass {
        fields.extend(properties);
        return fields;
    }
    let from_properties = own_of(&fields, &mut properties, unsupported, warnings);
    let mut body = fields;
    body.extend(from_properties);
    if let Some(properties) = body.get_mut("eventProperties") {
        let fitting =
            unsupported.fit(entries(Some(std::mem::take(properties))), EVENT_PROPERTIES, warnings);
        let fitting =
            fitting.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned()));
        *properties = Cow::Owned(Value::Object(fitting.collect()));
    }
    let mut properties = unsupported.fit(properties, CONTACT_PROPERTIES, warnings);
    // `user.id` is flattened to `userId`, for example.
    for name in EVENT_OWN {
        if properties.shift_remove(name).is_some() {
            warnings.push(format!(
                "{CONTACT_PROPERTIES}: a nested value was left out: flattened, it would be `{name}`, which the event has itself"
            ));
        }
    }
    body.extend(properties);
    tidy::warn_of_seconds(&body, warnings);
    body
}

/// Removes the names from the contact properties that Loops does not read as contact properties, and
/// returns those that the event does not have itself.
fn own_of<'a>(
    event: &Entries<'a>,
    properties: &mut Entries<'a>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> Entries<'a> {
    let mut found = Entries::new();
    for name in EVENT_OWN {
        if let Some(own) = event.get(name) {
            if properties.shift_remove(name).is_some_and(|other| other != *own) {
                warnings.push(format!(
                    "{CONTACT_PROPERTIES}: `{name}` was left out: the event has its own"
                ));
            }
            continue;
        }
        let value = match name {
            "email" => address_among(properties, CONTACT_PROPERTIES, warnings),
            "mailingLists" => properties.shift_remove(name).and_then(|lists| {
                let lists = mailing_lists(Some(&lists), unsupported, warnings);
                (!lists.is_empty()).then_some(Cow::Owned(Value::Object(lists)))
            }),
            _ => properties.shift_remove(name).filter(|value| {
                let is_object = value.as_object().is_some();
                if !is_object {
                    warnings.push(format!(
                        "{CONTACT_PROPERTIES}: `{name}` was left out: it is not an object"
                    ));
                }
                is_object
            }),
        };
        if let Some(value) = value {
            found.insert(Cow::Borrowed(name), value);
        }
    }
    found
}

/// Removes an e-mail address from among other properties, where no field has validated it. Returns it
/// trimmed; leaves out one that is not valid, since Loops would refuse the whole request.
fn address_among<'a>(
    properties: &mut Entries<'a>,
    place: &str,
    warnings: &mut Vec<String>,
) -> Option<Cow<'a, Value>> {
    let value = properties.shift_remove("email")?;
    let value = tidy::address(&value, "email", warnings).map_or(value, Cow::Owned);
    match value.as_str() {
        Some("") => None,
        Some(text) if is_email(text) => Some(value),
        _ => {
            warnings.push(format!("{place}: `email` was left out: it is not an e-mail address"));
            None
        }
    }
}
