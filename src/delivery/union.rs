//! Merging without loss: which neighbours of a lane can share one request, and how it looks.
//!
//! Upserts whose properties agree or do not overlap become one; an upsert before an event rides in the
//! event's request as contact properties. Two different values of one property are never merged: Loops
//! sees each change. Pure: it knows requests, not where they come from.

use bytes::Bytes;

use crate::action::Endpoint;
use crate::destination::Request;
use crate::segment::Value;
use crate::segment::decode::decode;
use crate::segment::value::Object;

/// Neighbours that share one request.
#[derive(Debug)]
pub(super) struct Group {
    endpoint: Endpoint,
    body: Object,
    /// How many requests were merged.
    members: usize,
}

impl Group {
    /// Begins a group; `None` unless the request is an upsert, the only kind that others can join.
    pub(super) fn begin(first: &Request) -> Option<Self> {
        if first.endpoint != Endpoint::UpdateContact {
            return None;
        }
        Some(Self { endpoint: first.endpoint, body: object(&first.body)?, members: 1 })
    }

    /// Whether the next request can join without loss.
    pub(super) fn would_join(&self, next: &Request) -> bool {
        self.merged(next).is_some()
    }

    fn merged(&self, next: &Request) -> Option<Object> {
        let body = object(&next.body)?;
        match (self.endpoint, next.endpoint) {
            (Endpoint::UpdateContact, Endpoint::UpdateContact) => union(&self.body, &body),
            (Endpoint::UpdateContact, Endpoint::SendEvent) => ride(&self.body, body),
            _ => None,
        }
    }

    /// Merges the next request if that loses nothing; returns whether it did.
    pub(super) fn join(&mut self, next: &Request) -> bool {
        let Some(merged) = self.merged(next) else {
            return false;
        };
        self.body = merged;
        self.endpoint = next.endpoint;
        self.members += 1;
        true
    }

    /// Whether more requests may join: none may follow an event.
    pub(super) fn is_open(&self) -> bool {
        self.endpoint == Endpoint::UpdateContact
    }

    /// How many requests were merged.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// The request that carries them all.
    pub(super) fn into_request(self) -> Request {
        Request { endpoint: self.endpoint, body: Bytes::from(Value::Object(self.body).to_json()) }
    }
}

fn object(body: &Bytes) -> Option<Object> {
    match decode(body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// Merges two upserts of one contact: every property that both have must be the same.
fn union(first: &Object, second: &Object) -> Option<Object> {
    // A request without this id may be about another contact.
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
fn ride(upsert: &Object, mut event: Object) -> Option<Object> {
    if upsert.get("userId") != event.get("userId") {
        return None;
    }
    for (key, value) in upsert.iter() {
        match (key, value) {
            // Names that belong to the event.
            ("eventName" | "eventProperties", _) => return None,
            ("mailingLists", Value::Object(lists)) if lists.is_empty() => {}
            ("mailingLists", Value::Object(_)) => add(&mut event, key, value)?,
            // Beside an event, Loops' contract takes strings, numbers and booleans, and nothing else.
            (_, Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
                add(&mut event, key, value)?
            }
            _ => return None,
        }
    }
    Some(event)
}

/// Sets a property; `None` if it has another value already. Mailing lists are compared one by one.
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
        let mut group = Group::begin(&requests[0])?;
        for request in &requests[1..] {
            if !group.is_open() || !group.join(request) {
                return None;
            }
        }
        assert_eq!(group.members(), requests.len());
        let request = group.into_request();
        Some(format!("{} {}", request.endpoint.path(), String::from_utf8_lossy(&request.body)))
    }

    #[test]
    fn upserts_that_agree_become_one() {
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
    fn an_upsert_rides_in_the_event_behind_it() {
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
    fn what_would_lose_something_is_not_merged() {
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
            // What cannot stand beside an event.
            [upsert(r#"{"userId":"u","plan":null}"#), event(r#"{"userId":"u","eventName":"e"}"#)],
            [
                upsert(r#"{"userId":"u","eventName":"x"}"#),
                event(r#"{"userId":"u","eventName":"x"}"#),
            ],
            [upsert(r#"{"userId":"u","a":{"b":1}}"#), event(r#"{"userId":"u","eventName":"x"}"#)],
            // Order: an event is not delayed into what comes behind it.
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
    fn nothing_joins_behind_an_event_or_a_deletion() {
        let delete = Request {
            endpoint: Endpoint::DeleteContact,
            body: Bytes::from_static(br#"{"userId":"u"}"#),
        };
        assert!(Group::begin(&delete).is_none());
        let mut group = Group::begin(&upsert(r#"{"userId":"u"}"#)).unwrap();
        assert!(!group.join(&delete));
        assert!(group.join(&event(r#"{"userId":"u","eventName":"e"}"#)));
        assert!(!group.is_open());
    }
}
