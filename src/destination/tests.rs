//! The default subscriptions, from message to request.

use super::*;
use crate::segment::decode::decode;

fn message(text: &str) -> Message {
    Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap()
}

fn plan(text: &str) -> Plan {
    Destination::segment_defaults().unwrap().plan(&message(text))
}

/// The one request's path and body, or why there is none; then the warnings.
fn planned(text: &str) -> (String, Vec<String>) {
    let mut plan = plan(text);
    assert_eq!(plan.deliveries.len(), 1, "{text}");
    let delivery = plan.deliveries.remove(0);
    let told = match delivery.outcome {
        Ok(request) => {
            format!("{} {}", request.endpoint.path(), String::from_utf8_lossy(&request.body))
        }
        Err(failure) => failure.detail,
    };
    (told, delivery.warnings)
}

#[test]
fn the_defaults_make_the_requests_that_segment_makes() {
    let cases = [
        (
            r#"{"type":"identify","userId":"u","traits":{"email":"a@b.co","firstName":"A","plan":"pro","n":null,"userGroup":7}}"#,
            r#"/contacts/update {"email":"a@b.co","firstName":"A","plan":"pro","n":null,"userGroup":"7","source":"Segment","userId":"u","mailingLists":{}}"#,
        ),
        (
            r#"{"type":"identify","userId":12,"email":"a@b.co","traits":{"source":"x","mailingLists":{"a":"true","b":false,"c":1}}}"#,
            r#"/contacts/update {"source":"x","email":"a@b.co","userId":"12","mailingLists":{"a":true,"b":false}}"#,
        ),
        (
            r#"{"type":"track","userId":"u","event":"Signed Up","properties":{"plan":"pro"},"context":{"traits":{"email":"a@b.co"}}}"#,
            r#"/events/send {"email":"a@b.co","eventName":"Signed Up","userId":"u","eventProperties":{"plan":"pro"}}"#,
        ),
        (r#"{"type":"delete","userId":"u"}"#, r#"/contacts/delete {"userId":"u"}"#),
        (
            r#"{"type":"track","userId":"u"}"#,
            "The root value is missing the required field 'eventName'.",
        ),
        (
            r#"{"type":"identify","anonymousId":"a","traits":{}}"#,
            "The root value is missing the required field 'userId'.",
        ),
        (
            r#"{"type":"identify","userId":{"x":1},"anonymousId":"a","traits":{"email":"nobody","firstName":[1,2]}}"#,
            "Contact Email must be a valid email address string but it was not. First Name must be a string but it was an array. User ID must be a string but it was an object.",
        ),
        (
            r#"{"type":"identify","userId":"u","traits":[]}"#,
            "Custom Contact Attributes must be an object but it was an array.",
        ),
    ];
    for (text, expected) in cases {
        let (told, _) = planned(text);
        match (told.split_once(" {"), expected.split_once(" {")) {
            // Bodies are compared as values: the order of keys tells nothing.
            (Some((path, body)), Some((expected_path, expected_body))) => {
                let value = |body: &str| -> serde_json::Value {
                    serde_json::from_str(&format!("{{{body}")).unwrap()
                };
                assert_eq!((path, value(body)), (expected_path, value(expected_body)), "{text}");
            }
            _ => assert_eq!(told, expected, "{text}"),
        }
    }
}

#[test]
fn what_loops_cannot_hold_is_left_out_and_told_without_its_value() {
    let long = "x".repeat(501);
    let (told, warnings) = planned(&format!(
        r#"{{"type":"identify","userId":"u","traits":{{"a":{{"city":"Paris"}},"b":[1],"c":"{long}","d":1}}}}"#
    ));
    assert_eq!(
        told,
        r#"/contacts/update {"d":1,"source":"Segment","userId":"u","mailingLists":{}}"#
    );
    assert_eq!(warnings.len(), 3);
    assert!(warnings.iter().all(|warning| !warning.contains("Paris") && !warning.contains("xxx")));
}

#[test]
fn flatten_and_pass() {
    let identify = message(
        r#"{"type":"identify","userId":"u","traits":{"address":{"city":"Paris","geo":{"lat":1}},"addressCity":"own"}}"#,
    );
    let of = |unsupported| {
        let subscription = Subscription {
            name: "s".to_owned(),
            enabled: true,
            action: ActionKind::CreateOrUpdateContact,
            trigger: "type = \"identify\"".to_owned(),
            mapping: ActionKind::CreateOrUpdateContact.default_mapping(),
        };
        let destination = Destination::compile(&[subscription], unsupported).unwrap();
        let request = destination.plan(&identify).deliveries.remove(0).outcome.unwrap();
        String::from_utf8(request.body.to_vec()).unwrap()
    };
    assert_eq!(
        of(Unsupported::Flatten),
        r#"{"addressCity":"own","source":"Segment","userId":"u","addressGeoLat":1,"mailingLists":{}}"#
    );
    assert!(of(Unsupported::Pass).contains(r#""address":{"city":"Paris","geo":{"lat":1}}"#));
}

#[test]
fn integrations_can_turn_it_off() {
    let cases = [
        (r#"{"All":false}"#, true),
        (r#"{"All":false,"Loops":true}"#, false),
        (r#"{"All":false,"Loops (Actions)":{}}"#, false),
        (r#"{"All":false,"Other":true}"#, true),
        (r#"{"Loops (Actions)":false}"#, true),
        (r#"{"All":true,"Actions Loops":false}"#, true),
        (r#"{"All":true}"#, false),
        ("{}", false),
        ("null", false),
    ];
    for (integrations, is_off) in cases {
        let plan =
            plan(&format!(r#"{{"type":"delete","userId":"u","integrations":{integrations}}}"#));
        assert_eq!(plan.deliveries.is_empty(), is_off, "{integrations}");
        assert_eq!(plan.unmatched.is_some(), is_off, "{integrations}");
    }
}

#[test]
fn other_types_are_unmatched_with_a_reason() {
    let plan = plan(r#"{"type":"page","userId":"u"}"#);
    assert_eq!(plan.unmatched.as_deref(), Some("no subscription takes this page message"));
    let defaults = Destination::segment_defaults().unwrap();
    assert!(defaults.takes(MessageType::Delete) && !defaults.takes(MessageType::Page));
}

#[test]
fn all_mistakes_are_found_and_name_their_subscription() {
    let subscription = |name: &str, trigger: &str, mapping: &str| Subscription {
        name: name.to_owned(),
        enabled: true,
        action: ActionKind::SendEvent,
        trigger: trigger.to_owned(),
        mapping: decode(mapping.as_bytes()).unwrap(),
    };
    let errors = Destination::compile(
        &[
            subscription("a", "nonsense", "{}"),
            subscription("b", "type = \"track\"", "{}"),
            subscription("c", "type = \"track\"", r#"{"email":{"@nope":1}}"#),
        ],
        Unsupported::Omit,
    )
    .unwrap_err();
    let names: Vec<&str> = errors.iter().map(|error| error.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
}
