//! The union of two requests for one contact, if nothing is lost by it. Pure.
//!
//! Upserts whose properties agree or do not overlap become one upsert. An upsert and the event behind it
//! become one event, which carries the upsert's properties as contact properties. Two different values of
//! one property are never merged: Loops sees each change.

use bytes::Bytes;

use crate::action::Endpoint;
use crate::destination::Request;
use crate::js::decode::decode;
use crate::js::{Object, Value};
use crate::large::LARGE_BYTES;

/// The union of one or more requests.
#[derive(Debug)]
pub(super) struct Union {
    endpoint: Endpoint,
    body: Object,
    /// How many requests were merged.
    members: usize,
}

impl Union {
    /// Begins with one request. Returns `None` unless it is an upsert, the only kind that others can join, and small
    /// enough to be kept decoded.
    pub(super) fn begin(first: &Request) -> Option<Self> {
        if first.endpoint != Endpoint::UpdateContact || first.body.len() > LARGE_BYTES {
            return None;
        }
        Some(Self { endpoint: first.endpoint, body: object(&first.body)?, members: 1 })
    }

    /// Returns whether the next request could join without loss.
    pub(super) fn would_join(&self, next: &Request) -> bool {
        self.merged_with(next).is_some()
    }

    fn merged_with(&self, next: &Request) -> Option<Object> {
        if next.body.len() > LARGE_BYTES {
            return None;
        }
        let body = object(&next.body)?;
        match (self.endpoint, next.endpoint) {
            (Endpoint::UpdateContact, Endpoint::UpdateContact) => merge_upserts(&self.body, &body),
            (Endpoint::UpdateContact, Endpoint::SendEvent) => merge_into_event(&self.body, body),
            _ => None,
        }
    }

    /// Merges the next request, unless something would be lost; returns whether it did.
    pub(super) fn join(&mut self, next: &Request) -> bool {
        let Some(merged) = self.merged_with(next) else {
            return false;
        };
        self.body = merged;
        self.endpoint = next.endpoint;
        self.members += 1;
        true
    }

    /// Returns whether more requests may join: none may follow an event.
    pub(super) fn is_open(&self) -> bool {
        self.endpoint == Endpoint::UpdateContact
    }

    /// How many requests were merged.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// Returns the request that carries them all.
    pub(super) fn into_request(self) -> Request {
        Request { endpoint: self.endpoint, body: Bytes::from(Value::Object(self.body).to_json()) }
    }
}

/// Parses the body of a request; `None` if it is not an object.
pub(super) fn object(body: &Bytes) -> Option<Object> {
    match decode(body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// Merges two upserts of one contact. A property of both must have the same value in both.
fn merge_upserts(first: &Object, second: &Object) -> Option<Object> {
    // A request without this id may be for another contact.
    if first.get("userId") != second.get("userId") {
        return None;
    }
    let mut merged = first.clone();
    for (key, value) in second.iter() {
        add(&mut merged, key, value)?;
    }
    Some(merged)
}

/// Merges an upsert into the event that follows it.
fn merge_into_event(upsert: &Object, mut event: Object) -> Option<Object> {
    if upsert.get("userId") != event.get("userId") {
        return None;
    }
    for (key, value) in upsert.iter() {
        match (key, value) {
            // These names belong to the event itself.
            ("eventName" | "eventProperties", _) => return None,
            ("mailingLists", Value::Object(lists)) if lists.is_empty() => {}
            ("mailingLists", Value::Object(_)) => add(&mut event, key, value)?,
            // As contact properties of an event, Loops' contract takes only strings, numbers and booleans.
            (_, Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
                add(&mut event, key, value)?
            }
            _ => return None,
        }
    }
    Some(event)
}

/// Sets a property; `None` if it already has another value. Mailing lists are compared one by one.
fn add(merged: &mut Object, key: &str, value: &Value) -> Option<()> {
    match (merged.get_mut(key), value) {
        (None, value) => merged.insert(key, value.clone()),
        (Some(Value::Object(known)), Value::Object(lists)) if key == "mailingLists" => {
            for (list, flag) in lists.iter() {
                add(known, list, flag)?;
            }
        }
        (Some(known), value) => (*known == *value).then_some(())?,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsert(body: &str) -> Request {
        Request { endpoint: Endpoint::UpdateContact, body: Bytes::from(body.to_owned()) }
    }

    fn event(body: &str) -> Request {
        Request { endpoint: Endpoint::SendEvent, body: Bytes::from(body.to_owned()) }
    }

    fn merged(requests: &[Request]) -> Option<String> {
        let mut union = Union::begin(&requests[0])?;
        for request in &requests[1..] {
            if !union.is_open() || !union.join(request) {
                return None;
            }
        }
        assert_eq!(union.members(), requests.len());
        let request = union.into_request();
        Some(format!("{} {}", request.endpoint.path(), String::from_utf8_lossy(&request.body)))
    }

    #[test]
    fn upserts_that_agree_become_one_upsert() {
        let one = r#"{"userId":"u","plan":"pro","mailingLists":{"a":true}}"#;
        let other = r#"{"userId":"u","plan":"pro","email":"a@b.co","mailingLists":{"b":false}}"#;
        assert_eq!(
            merged(&[upsert(one), upsert(other)]).as_deref(),
            Some(
                r#"/contacts/update {"userId":"u","plan":"pro","mailingLists":{"a":true,"b":false},"email":"a@b.co"}"#
            )
        );
    }

    #[test]
    fn an_event_carries_the_upsert_before_it() {
        let requests = [
            upsert(r#"{"userId":"u","email":"a@b.co","plan":"pro","mailingLists":{}}"#),
            event(
                r#"{"userId":"u","eventName":"Signed Up","eventProperties":{"n":1},"plan":"pro"}"#,
            ),
        ];
        assert_eq!(
            merged(&requests).as_deref(),
            Some(
                r#"/events/send {"userId":"u","eventName":"Signed Up","eventProperties":{"n":1},"plan":"pro","email":"a@b.co"}"#
            )
        );
    }

    #[test]
    fn requests_are_not_merged_if_anything_would_be_lost() {
        let cases = [
            // Two values of one property, null included.
            [upsert(r#"{"userId":"u","plan":"free"}"#), upsert(r#"{"userId":"u","plan":"pro"}"#)],
            [upsert(r#"{"userId":"u","plan":"free"}"#), upsert(r#"{"userId":"u","plan":null}"#)],
            [
                upsert(r#"{"userId":"u","mailingLists":{"a":true}}"#),
                upsert(r#"{"userId":"u","mailingLists":{"a":false}}"#),
            ],
            // Another contact.
            [upsert(r#"{"userId":"u"}"#), upsert(r#"{"userId":"v"}"#)],
            [upsert(r#"{"userId":"u"}"#), event(r#"{"userId":"v","eventName":"e"}"#)],
            [
                upsert(r#"{"userId":"u","email":"a@b.co"}"#),
                event(r#"{"userId":"u","email":"c@d.co","eventName":"e"}"#),
            ],
            // Values that an event cannot carry as contact properties.
            [upsert(r#"{"userId":"u","plan":null}"#), event(r#"{"userId":"u","eventName":"e"}"#)],
            [
                upsert(r#"{"userId":"u","eventName":"x"}"#),
                event(r#"{"userId":"u","eventName":"x"}"#),
            ],
            [upsert(r#"{"userId":"u","a":{"b":1}}"#), event(r#"{"userId":"u","eventName":"x"}"#)],
            // An event is never delayed until a later request.
            [event(r#"{"userId":"u","eventName":"e"}"#), upsert(r#"{"userId":"u"}"#)],
            [
                event(r#"{"userId":"u","eventName":"e"}"#),
                event(r#"{"userId":"u","eventName":"e"}"#),
            ],
        ];
        for requests in cases {
            assert_eq!(merged(&requests), None, "{requests:?}");
        }
    }

    #[test]
    fn no_request_joins_an_event_or_a_deletion() {
        let delete = Request {
            endpoint: Endpoint::DeleteContact,
            body: Bytes::from_static(br#"{"userId":"u"}"#),
        };
        assert!(Union::begin(&delete).is_none());
        let mut union = Union::begin(&upsert(r#"{"userId":"u"}"#)).unwrap();
        assert!(!union.join(&delete));
        assert!(union.join(&event(r#"{"userId":"u","eventName":"e"}"#)));
        assert!(!union.is_open());
    }
}
