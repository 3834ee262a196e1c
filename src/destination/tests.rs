//! The default subscriptions, from message to request.

use super::*;
use crate::segment::decode::decode;

fn message(text: &str) -> Message {
    Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap()
}

fn defaults() -> Destination {
    Destination::compile(&Destination::default_subscriptions(), Unsupported::default()).unwrap()
}

fn plan(text: &str) -> Plan {
    defaults().plan(&message(text))
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
fn of_subscribed_loops_takes_only_booleans() {
    for value in ["\"true\"", "\"\"", "0", "null"] {
        let (told, warnings) = planned(&format!(
            r#"{{"type":"identify","userId":"u","traits":{{"subscribed":{value},"d":1}}}}"#
        ));
        assert_eq!((told.contains("subscribed"), warnings.len()), (false, 1), "{told}");
    }
    let (told, warnings) =
        planned(r#"{"type":"identify","userId":"u","traits":{"subscribed":false}}"#);
    assert!(told.contains(r#""subscribed":false"#) && warnings.is_empty(), "{told}");
}

#[test]
fn flatten_and_pass() {
    let identify = message(
        r#"{"type":"identify","userId":"u","traits":{"address":{"city":"Paris","geo":{"lat":1}},"addressCity":"own"}}"#,
    );
    let of = |unsupported| {
        let destination =
            Destination::compile(&Destination::default_subscriptions(), unsupported).unwrap();
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
    assert!(defaults().takes(MessageType::Delete) && !defaults().takes(MessageType::Page));
}

fn subscription(written: &str) -> Result<Subscription, Vec<SubscriptionMistake>> {
    subscription::read(&decode(written.as_bytes()).unwrap(), 0)
}

#[test]
fn all_mistakes_are_found_and_name_their_subscription() {
    let written = [
        r#"{"name":"a","actionSlug":"sendEvent","trigger":"nonsense","settings":{}}"#,
        r#"{"name":"b","actionSlug":"sendEvent","trigger":"type = \"track\"","settings":{}}"#,
        r#"{"name":"c","action":"sendEvent","events":["x"],"mapping":{"email":{"@nope":1},"userId":{"@path":1}}}"#,
        r#"{"name":"d","action":"sendEvent","events":["*a*"],"mapping":{"userId":[{"@nope":1}]}}"#,
        r#"{"name":"e","action":"sendEvent","events":["a"],"mapping":{"userId":[{"@nope":1}]}}"#,
        r#"{"name":"b","action":"sendEvent","trigger":"type = \"track\" and ()"}"#,
    ];
    let subscriptions: Vec<_> = written.iter().map(|text| subscription(text).unwrap()).collect();
    let mistakes = Destination::compile(&subscriptions, Unsupported::Omit).unwrap_err();
    let told: Vec<(&str, &str)> = mistakes
        .iter()
        .map(|mistake| (mistake.subscription.as_str(), mistake.field.as_str()))
        .collect();
    let expected = [
        ("a", "trigger"),
        ("c", "mapping"),
        ("c", "mapping"),
        ("d", "events"),
        ("e", "mapping"),
        ("b", "name"),
        ("b", "trigger"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn all_shapes_say_the_same() {
    let short =
        subscription(r#"{"name":"s","action":"deleteContact","trigger":"type = \"delete\""}"#);
    let others = [
        r#"{"name":"s","partnerAction":"deleteContact","subscribe":"type = \"delete\"","mapping":{"userId":{"@path":"$.userId"}}}"#,
        r#"{"id":"x","actionId":"y","name":"s","enabled":true,"actionSlug":"deleteContact","trigger":"type = \"delete\"","settings":{"userId":{"@path":"$.userId"}}}"#,
        r#"{"name":"s","actionSlug":"deleteContact","trigger":"type = \"delete\"","settings":"{\"userId\":{\"@path\":\"$.userId\"}}"}"#,
    ];
    for other in others {
        assert_eq!(subscription(other), short, "{other}");
    }
}

#[test]
fn the_short_form_goes_over_the_defaults() {
    let short = subscription(
        r#"{"name":"s","action":"sendEvent","events":["User Registered"],"without":["email"],"mapping":{"eventName":"userRegistered"}}"#,
    )
    .unwrap();
    assert_eq!(
        short.mapping.to_json(),
        r#"{"userId":{"@path":"$.userId"},"eventName":"userRegistered","eventProperties":{"@path":"$.properties"}}"#
    );
}

#[test]
fn shapes_with_mistakes_are_refused_with_what_is_allowed() {
    let cases = [
        ("7", vec!["(all)"]),
        ("{}", vec!["name", "action"]),
        (r#"{"name":"s","action":"sendMail","trigger":"type = \"track\""}"#, vec!["action"]),
        (r#"{"name":"s","action":"sendEvent"}"#, vec!["trigger"]),
        (r#"{"name":"s","action":"sendEvent","events":"x"}"#, vec!["events"]),
        (r#"{"name":"s","action":"sendEvent","events":["x"],"trigger":"y"}"#, vec!["events"]),
        (r#"{"name":"s","partnerAction":"sendEvent","subscribe":"x"}"#, vec!["mapping"]),
        (
            r#"{"name":"s","partnerAction":"sendEvent","subscribe":"x","mapping":{},"without":["email"]}"#,
            vec!["without"],
        ),
        (r#"{"name":"s","action":"sendEvent","events":["x"],"without":["plan"]}"#, vec!["without"]),
        (
            r#"{"name":"s","action":"sendEvent","events":["x"],"enabled":"yes","maping":{}}"#,
            vec!["maping", "enabled"],
        ),
        (r#"{"name":"","action":"sendEvent","events":["x"],"mapping":5}"#, vec!["name", "mapping"]),
    ];
    for (written, fields) in cases {
        let mistakes = subscription(written).unwrap_err();
        let told: Vec<&str> = mistakes.iter().map(|mistake| mistake.field.as_str()).collect();
        assert_eq!(told, fields, "{written}");
    }
}

#[test]
fn a_disabled_subscription_takes_nothing_and_is_told() {
    let off = subscription(
        r#"{"name":"s","action":"deleteContact","trigger":"type = \"delete\"","enabled":false}"#,
    );
    let destination = Destination::compile(&[off.unwrap()], Unsupported::Omit).unwrap();
    let delete = message(r#"{"type":"delete","userId":"u"}"#);
    assert!(destination.plan(&delete).deliveries.is_empty());
    assert!(!destination.takes(MessageType::Delete));
    let explained = destination.explain(&delete).subscriptions.remove(0);
    assert_eq!(explained.why_not.as_deref(), Some("it is disabled"));
}

#[test]
fn tells_where_each_value_comes_from_and_why_others_do_not_match() {
    let identify = message(r#"{"type":"identify","userId":"u","traits":{"email":"a@b.co"}}"#);
    let explanation = defaults().explain(&identify);
    let fields: Vec<(&str, &str, bool)> = explanation.subscriptions[0]
        .fields
        .iter()
        .map(|field| (field.name.as_str(), field.from.as_str(), field.value.is_some()))
        .collect();
    assert_eq!(fields[0], ("email", "$.traits.email ($.traits.email exists)", true));
    assert_eq!(fields[2], ("firstName", "$.traits.firstName", false));
    assert_eq!(
        fields[5],
        ("source", "the literal \"Segment\" ($.traits.source does not exist)", true)
    );
    assert_eq!(
        explanation.subscriptions[1].why_not.as_deref(),
        Some("type is \"identify\", which is not the text \"track\"")
    );
}
