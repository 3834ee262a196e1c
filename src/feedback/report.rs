//! Reads what the body of a webhook reports.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::queue::{FeedbackRecord, Origin, OriginKind};
use crate::segment::{Digests, PersonIdKind};

/// The events that Loops' contract names.
pub const EVENTS: [&str; 17] = [
    "campaign.email.sent",
    "contact.created",
    "contact.deleted",
    "contact.mailingList.subscribed",
    "contact.mailingList.unsubscribed",
    "contact.unsubscribed",
    "email.clicked",
    "email.delivered",
    "email.hardBounced",
    "email.opened",
    "email.resubscribed",
    "email.softBounced",
    "email.spamReported",
    "email.unsubscribed",
    "loop.email.sent",
    "testing.testEvent",
    "transactional.email.sent",
];

/// The most characters of a name or an id that are kept.
const TEXT_CHARS_MAX: usize = 200;

/// Returns the name of an event if Loops' contract has it, else `other`. For labels and log lines.
pub fn known(event: &str) -> &'static str {
    EVENTS.into_iter().find(|known| *known == event).unwrap_or("other")
}

/// Why a body cannot be read. The error never contains a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    /// The body is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// The body is not an event.
    #[error("the body is not an event of Loops: it must be an object with the string `eventName`")]
    NotAnEvent,
}

impl BadReport {
    /// Returns the reason as a fixed word, for programs.
    pub fn code(self) -> &'static str {
        match self {
            BadReport::NotJson => "bad_json",
            BadReport::NotAnEvent => "not_an_event",
        }
    }
}

/// What is known of a webhook besides its body.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Makes the digests of persons.
    pub digests: &'a Digests,
    /// Name of the destination.
    pub destination: &'a str,
    /// The webhook's id.
    pub webhook_id: &'a str,
    /// When it was received.
    pub received_at: Timestamp,
}

/// Reads a body. Only the name of the event is required. Other parts are left out if they are missing or have an
/// unexpected type, so that events that Loops adds or changes are kept.
pub fn read(body: &[u8], received: Received<'_>) -> Result<FeedbackRecord, BadReport> {
    let body: Value = serde_json::from_slice(body).map_err(|_| BadReport::NotJson)?;
    let Value::Object(body) = body else { return Err(BadReport::NotAnEvent) };
    let event = text(&body, "eventName").ok_or(BadReport::NotAnEvent)?;
    let contact = body.get("contactIdentity").and_then(Value::as_object);
    let of_contact = |key| contact.and_then(|contact| contact.get(key)).and_then(Value::as_str);
    let digest = |kind, id: Option<&str>| {
        let id = id.filter(|id| !id.trim().is_empty());
        id.map(|id| received.digests.person(kind, id))
    };
    Ok(FeedbackRecord {
        destination: received.destination.to_owned(),
        webhook_id: received.webhook_id.to_owned(),
        received_at: received.received_at,
        at: happened_at(&body).unwrap_or(received.received_at),
        event,
        user: digest(PersonIdKind::User, of_contact("userId")),
        email: digest(PersonIdKind::Email, of_contact("email")),
        contact_id: contact.and_then(|contact| text(contact, "id")),
        origin: origin(&body),
        email_id: body.get("email").and_then(Value::as_object).and_then(|email| text(email, "id")),
    })
}

fn happened_at(body: &Map<String, Value>) -> Option<Timestamp> {
    Timestamp::from_second(body.get("eventTime")?.as_i64()?).ok()
}

fn origin(body: &Map<String, Value>) -> Option<Origin> {
    let of = |kind, id, name| Some(Origin { kind, id: text(body, id)?, name: text(body, name) });
    let of_list = || {
        let list = body.get("mailingList")?.as_object()?;
        Some(Origin {
            kind: OriginKind::MailingList,
            id: text(list, "id")?,
            name: text(list, "name"),
        })
    };
    of(OriginKind::Workflow, "loopId", "loopName")
        .or_else(|| of(OriginKind::Campaign, "campaignId", "campaignName"))
        .or_else(|| of(OriginKind::Transactional, "transactionalId", "transactionalName"))
        .or_else(of_list)
}

/// Returns a string that is not empty, cut if it is too long.
fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    let text = object.get(key)?.as_str().filter(|text| !text.is_empty())?;
    Some(text.chars().take(TEXT_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DIGESTS_KEY: [u8; 32] = [7; 32];

    fn reported(body: &str) -> Result<FeedbackRecord, BadReport> {
        let received = Received {
            digests: &Digests::new(&DIGESTS_KEY),
            destination: "default",
            webhook_id: "msg_1",
            received_at: Timestamp::from_second(1_700_000_010).unwrap(),
        };
        read(body.as_bytes(), received)
    }

    #[test]
    fn keeps_names_ids_and_digests() {
        let body = json!({
            "eventName": "loop.email.sent", "eventTime": 1_700_000_000, "webhookSchemaVersion": "1.0.0",
            "contactIdentity": {"id": "c1", "email": "Ada@Example.com", "userId": "u1"},
            "loopId": "l1", "loopName": "Welcome", "mailingLists": [],
            "email": {"id": "e1", "emailMessageId": "m1", "subject": "Hello Ada"},
        });
        let record = reported(&body.to_string()).unwrap();
        let digests = Digests::new(&DIGESTS_KEY);
        let expected = FeedbackRecord {
            destination: "default".into(),
            webhook_id: "msg_1".into(),
            received_at: Timestamp::from_second(1_700_000_010).unwrap(),
            at: Timestamp::from_second(1_700_000_000).unwrap(),
            event: "loop.email.sent".into(),
            user: Some(digests.person(PersonIdKind::User, "u1")),
            email: Some(digests.person(PersonIdKind::Email, "ada@example.com")),
            contact_id: Some("c1".into()),
            origin: Some(Origin {
                kind: OriginKind::Workflow,
                id: "l1".into(),
                name: Some("Welcome".into()),
            }),
            email_id: Some("e1".into()),
        };
        assert_eq!(record, expected);
        assert!(!format!("{record:?}").contains("Ada"));
    }

    #[test]
    fn knows_what_an_event_belongs_to() {
        let cases = [
            (json!({"campaignId": "1", "campaignName": "News"}), "campaign", Some("News")),
            (json!({"sourceType": "transactional", "transactionalId": "1"}), "transactional", None),
            (json!({"sourceType": "loop", "loopId": "1"}), "workflow", None),
            (json!({"mailingList": {"id": "1", "name": "Beta"}}), "mailing_list", Some("Beta")),
        ];
        for (mut body, kind, name) in cases {
            body["eventName"] = json!("any");
            let origin = reported(&body.to_string()).unwrap().origin.unwrap();
            assert_eq!((origin.kind.as_str(), origin.name.as_deref()), (kind, name), "{body}");
            assert_eq!(OriginKind::parse(kind), Some(origin.kind));
        }
    }

    #[test]
    fn only_the_name_must_be_there() {
        let long = "x".repeat(1_000);
        for body in [
            json!({"eventName": "something.new"}),
            json!({"eventName": long, "eventTime": "soon", "contactIdentity": [], "email": "a@b.c"}),
            json!({"eventName": "a", "eventTime": 1e300, "contactIdentity": {"userId": null, "email": " "}}),
        ] {
            let record = reported(&body.to_string()).unwrap();
            assert!(record.event.chars().count() <= TEXT_CHARS_MAX);
            assert_eq!(record.at, record.received_at);
            assert_eq!((record.user, record.email, record.email_id), (None, None, None));
        }
        for (body, error) in [
            ("", BadReport::NotJson),
            ("{\"eventName\": \"cut", BadReport::NotJson),
            ("[]", BadReport::NotAnEvent),
            ("{}", BadReport::NotAnEvent),
            ("{\"eventName\": \"\"}", BadReport::NotAnEvent),
            ("{\"eventName\": 1}", BadReport::NotAnEvent),
        ] {
            assert_eq!(reported(body), Err(error), "{body}");
        }
        assert_eq!(reported(&"[".repeat(100_000)), Err(BadReport::NotJson));
    }

    #[test]
    fn an_unknown_event_has_one_label() {
        assert_eq!(known("email.opened"), "email.opened");
        assert_eq!(known("email.read by ada@example.com"), "other");
    }
}
