//! Who is not subscribed, not mixed up and not sent.

use super::*;

#[test]
fn nobody_is_subscribed_by_a_property_that_no_mapping_names() {
    let made = |consent, mapping: &str, action, text: &str| {
        let mut subscription = Destination::default_subscriptions().remove(action as usize);
        if !mapping.is_empty() {
            subscription.mapping = decode(mapping.as_bytes()).unwrap();
        }
        let options = DestinationOptions { consent, ..DestinationOptions::default() };
        let destination = Destination::compile(&[subscription], options).unwrap();
        let delivery = destination.plan(&message(text)).deliveries.remove(0);
        let body = decode(&delivery.outcome.unwrap().body).unwrap();
        (body.get("subscribed").map(Value::to_json), delivery.warnings.len())
    };
    use ActionKind::{CreateOrUpdateContact as Upsert, SendEvent};
    let identify = |subscribed: &str| {
        format!(r#"{{"type":"identify","userId":"u","traits":{{"subscribed":{subscribed}}}}}"#)
    };
    let (guard, pass) = (ConsentGuard::Guard, ConsentGuard::Pass);
    assert_eq!(made(guard, "", Upsert, &identify("true")), (None, 1));
    assert_eq!(made(pass, "", Upsert, &identify("true")), (Some("true".to_owned()), 0));
    assert_eq!(made(guard, "", Upsert, &identify("false")), (Some("false".to_owned()), 0));
    let user = r#""userId":{"@path":"$.userId"}"#;
    for named in [
        format!(r#"{{{user},"subscribed":{{"@path":"$.traits.subscribed"}}}}"#),
        format!(
            r#"{{{user},"customAttributes":{{"subscribed":{{"@path":"$.traits.subscribed"}}}}}}"#
        ),
    ] {
        assert_eq!(made(guard, &named, Upsert, &identify("true")), (Some("true".to_owned()), 0));
    }
    // The field was filled with nothing, so what is sent is the trait.
    let spread_too = format!(
        r#"{{{user},"subscribed":{{"@path":"$.traits.news"}},"customAttributes":{{"@path":"$.traits"}}}}"#
    );
    assert_eq!(made(guard, &spread_too, Upsert, &identify("true")), (None, 1));
    let track = r#"{"type":"track","userId":"u","event":"e","properties":{"subscribed":true}}"#;
    let event = format!(r#"{user},"eventName":{{"@path":"$.event"}}"#);
    let spread = format!(r#"{{{event},"contactProperties":{{"@path":"$.properties"}}}}"#);
    assert_eq!(made(guard, &spread, SendEvent, track), (None, 1));
    let named = format!(
        r#"{{{event},"contactProperties":{{"subscribed":{{"@path":"$.properties.subscribed"}}}}}}"#
    );
    assert_eq!(made(guard, &named, SendEvent, track), (Some("true".to_owned()), 0));
}

#[test]
fn ids_that_are_none_make_no_request() {
    let kind = |destination: &Destination, text: &str| {
        let outcome = destination.plan(&message(text)).deliveries.remove(0).outcome;
        outcome.err().map(|failure| failure.kind)
    };
    let by_default = guarded(None, &[]);
    let all_count = guarded(Some(&[]), &[]);
    let own = guarded(Some(&["Nobody"]), &[]);
    let placeholder = Some(PlanFailureKind::PlaceholderId);
    for id in [
        r#""undefined""#,
        r#""null""#,
        r#""NULL""#,
        r#""None""#,
        r#""NaN""#,
        r#""[object Object]""#,
        r#"" undefined\n""#,
        r#""  ""#,
        "0",
        "true",
        r#""00000000-0000-0000-0000-000000000000""#,
    ] {
        for text in [
            format!(r#"{{"type":"track","userId":{id},"anonymousId":"a","event":"e"}}"#),
            format!(r#"{{"type":"identify","userId":{id},"anonymousId":"a"}}"#),
            format!(
                r#"{{"type":"delete","userId":{id},"anonymousId":"a","traits":{{"email":"a@b.co"}}}}"#
            ),
        ] {
            assert_eq!(kind(&by_default, &text), placeholder, "{text}");
            assert_eq!(kind(&all_count, &text), None, "{text}");
            assert_eq!(kind(&own, &text), placeholder.filter(|_| id.contains("  ")), "{text}");
        }
    }
    for id in ["u1", "null-1", "undefined@example.com", "10", "Noneya", "a null"] {
        let text = format!(r#"{{"type":"identify","userId":"{id}","anonymousId":"undefined"}}"#);
        assert_eq!(kind(&by_default, &text), None, "{text}");
    }
    let text = r#"{"type":"identify","userId":"NOBODY"}"#;
    assert_eq!((kind(&own, text), kind(&by_default, text)), (placeholder, None));
    // Who is shown what would happen sees it as well, and without the id.
    let explained = by_default.explain(&message(r#"{"type":"identify","userId":"undefined"}"#));
    let failure = explained.subscriptions[0].outcome.clone().unwrap().unwrap_err();
    assert!(failure.detail.contains("placeholder_ids") && !failure.detail.contains("undefined"));
}

#[test]
fn what_counts_is_the_id_that_would_be_sent() {
    let written = |mapping: &str, pass: bool| {
        let one = subscription(&format!(
            r#"{{"name":"s","action":"sendEvent","events":["*"],"mapping":{mapping}}}"#
        ));
        let options = DestinationOptions {
            unsupported: if pass { Unsupported::Pass } else { Unsupported::Omit },
            ..DestinationOptions::default()
        };
        let destination = Destination::compile(&[one.unwrap()], options).unwrap();
        let text = r#"{"type":"track","userId":"u","event":"e","properties":{"id":"undefined"}}"#;
        destination.plan(&message(text)).deliveries.remove(0).outcome.is_err()
    };
    assert!(written(r#"{"userId":{"@path":"$.properties.id"}}"#, false));
    assert!(!written(r#"{"email":"a@b.co"}"#, false));
    // As Segment has it, a contact property replaces the id of the event.
    let beside = r#"{"contactProperties":{"userId":{"@path":"$.properties.id"}}}"#;
    assert!(written(beside, true) && !written(beside, false));
}

#[test]
fn consent_is_looked_at_as_segment_documents_it() {
    let two = guarded(None, &["marketing", "mail"]);
    let none = guarded(None, &[]);
    let preferences =
        |all: &str| format!(r#""context":{{"consent":{{"categoryPreferences":{all}}}}}"#);
    let cases = [
        (preferences(r#"{"marketing":true,"mail":true}"#), true),
        (preferences(r#"{"marketing":true,"mail":true,"other":false}"#), true),
        (preferences(r#"{"marketing":true,"mail":false}"#), false),
        (preferences(r#"{"marketing":false,"mail":false}"#), false),
        // What is not there, or not true itself, is not given.
        (preferences(r#"{"marketing":true}"#), false),
        (preferences(r#"{"Marketing":true,"mail":true}"#), false),
        (preferences(r#"{"marketing":true,"mail":"true"}"#), false),
        (preferences(r#"{"marketing":true,"mail":1}"#), false),
        (preferences("{}"), false),
        (preferences("null"), false),
        (preferences(r#"["marketing","mail"]"#), false),
        (r#""context":{"consent":"denied"}"#.to_owned(), false),
        (r#""context":{"consent":{"other":1}}"#.to_owned(), false),
        // No consent object, or an empty one.
        (r#""context":{}"#.to_owned(), true),
        (r#""context":null"#.to_owned(), true),
        (r#""context":{"consent":null}"#.to_owned(), true),
        (r#""context":{"consent":{}}"#.to_owned(), true),
        (r#""context":{"consent":{}},"integrations":{}"#.to_owned(), true),
        (r#""context":{"consent":{}},"integrations":{"Loops (Actions)":true}"#.to_owned(), false),
        (r#""userId":"u""#.to_owned(), true),
    ];
    for (fields, goes_on) in cases {
        let text = format!(r#"{{"type":"track","userId":"u","event":"e",{fields}}}"#);
        let reason = two.plan(&message(&text)).unmatched.map(|unmatched| unmatched.reason);
        assert_eq!(reason, (!goes_on).then_some(UnmatchedReason::Consent), "{text}");
        assert!(none.plan(&message(&text)).unmatched.is_none(), "{text}");
    }
    // It is looked at before `integrations`, which can still turn off what it lets through.
    for (all, reason) in
        [("false", UnmatchedReason::Consent), ("true", UnmatchedReason::Integrations)]
    {
        let all = preferences(&format!(r#"{{"marketing":{all},"mail":true}}"#));
        let text =
            format!(r#"{{"type":"identify","userId":"u","integrations":{{"Loops":false}},{all}}}"#);
        assert_eq!(two.plan(&message(&text)).unmatched.unwrap().reason, reason);
        assert!(two.explain(&message(&text)).turned_off.is_some());
    }
    let deletion = format!(r#"{{"type":"delete","userId":"u",{}}}"#, preferences("{}"));
    assert!(two.plan(&message(&deletion)).unmatched.is_none(), "a deletion takes data away");
}
