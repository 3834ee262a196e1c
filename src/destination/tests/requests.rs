//! The requests that are made, and what is left out of them.

use super::*;

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

/// The body that a subscription makes of a message, and the warnings; or why there is none.

#[test]
fn who_has_no_id_is_deleted_by_address() {
    let cases = [
        (r#""userId":"u","traits":{"email":"a@b.co"}"#, r#"{"userId":"u"}"#),
        // What is wrong with an address that is not needed does not matter.
        (r#""userId":"u","traits":{"email":"nobody"}"#, r#"{"userId":"u"}"#),
        (r#""traits":{"email":"a@b.co"}"#, r#"{"email":"a@b.co"}"#),
        (
            r#""userId":"","anonymousId":"x","properties":{"email":" a@b.co"}"#,
            r#"{"email":"a@b.co"}"#,
        ),
        (r#""userId":null,"context":{"traits":{"email":"a@b.co"}}"#, r#"{"email":"a@b.co"}"#),
        (r#""traits":{"email":""},"email":"a@b.co""#, r#"{"email":"a@b.co"}"#),
        (r#""anonymousId":"x""#, r#""The root value is missing the required field 'userId'.""#),
        (
            r#""traits":{"email":"nobody"}"#,
            r#""The root value is missing the required field 'userId'. Contact Email must be a valid email address string but it was not.""#,
        ),
    ];
    for (fields, expected) in cases {
        let text = format!(r#"{{"type":"delete",{fields}}}"#);
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(body(DELETE, Unsupported::Omit, &text).0, expected, "{text}");
    }
}

#[test]
fn a_deletion_comes_last_whatever_the_order_of_subscriptions() {
    let written = [
        r#"{"name":"gone","action":"deleteContact","trigger":"event = \"Gone\""}"#,
        r#"{"name":"bye","action":"sendEvent","events":["Gone"]}"#,
        r#"{"name":"upsert","action":"createOrUpdateContact","trigger":"type = \"track\""}"#,
    ];
    let subscriptions: Vec<_> = written.iter().map(|text| subscription(text).unwrap()).collect();
    let destination = Destination::compile(&subscriptions, Unsupported::Omit).unwrap();
    let plan = destination.plan(&message(r#"{"type":"track","userId":"u","event":"Gone"}"#));
    let names: Vec<&str> = plan.deliveries.iter().map(|one| one.subscription.as_str()).collect();
    assert_eq!(names, ["bye", "upsert", "gone"]);
    let warnings = destination.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0]
            .to_string()
            .contains("subscription `gone`, trigger: it deletes the contact, and `bye`")
    );
    assert!(defaults().warnings().is_empty());
}

#[test]
fn an_event_has_no_nulls_among_its_properties_unless_they_are_passed() {
    let text = r#"{"type":"track","userId":"u","event":"e","properties":{"coupon":null,"n":NaN,"a":{"b":null,"c":1}}}"#;
    for (unsupported, expected, warned) in [
        (Unsupported::Omit, "{}", 3),
        (Unsupported::Flatten, r#"{"aC":1}"#, 3),
        (Unsupported::Pass, r#"{"coupon":null,"n":null,"a":{"b":null,"c":1}}"#, 0),
    ] {
        let (body, warnings) = body(&sending(r#"{"plan":null}"#), unsupported, text);
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!((&body["eventProperties"], warnings.len()), (&expected, warned), "{warnings:?}");
        // There it clears a property of the contact.
        assert!(body["plan"].is_null() && body.get("plan").is_some());
    }
}

#[test]
fn a_colon_in_the_name_of_an_event_is_warned_of() {
    let text = r#"{"type":"track","userId":"u","event":"Order: Paid"}"#;
    for unsupported in [Unsupported::Omit, Unsupported::Pass] {
        let (body, warnings) = body(&sending("{}"), unsupported, text);
        assert_eq!(body["eventName"], "Order: Paid");
        assert!(warnings.len() == 1 && warnings[0].contains("colon"), "{warnings:?}");
    }
}

#[test]
fn dates_in_seconds_are_warned_of_and_sent_as_they_are() {
    let date_field = CONTACT.replace('}', r#","mapping":{"createdAt":{"@path":"$.context.at"}}}"#);
    let with_event = sending(r#"{"createdAt":{"@path":"$.context.at"}}"#);
    for (at, is_seconds) in [
        ("1705310000", true),
        ("1705310000.5", true),
        (r#""1705310000""#, true),
        ("10000000", true),
        ("20240115", true),
        ("9999999999", true),
        ("9999999", false),
        ("10000000000", false),
        ("1705310000123", false),
        (r#""2024-01-15""#, false),
        ("0", false),
    ] {
        let messages = [
            (
                CONTACT,
                format!(r#"{{"type":"identify","userId":"u","traits":{{"createdAt":{at}}}}}"#),
            ),
            (&date_field, format!(r#"{{"type":"identify","userId":"u","context":{{"at":{at}}}}}"#)),
            (
                &with_event,
                format!(r#"{{"type":"track","userId":"u","event":"e","context":{{"at":{at}}}}}"#),
            ),
        ];
        for (written, text) in messages {
            let (sent, warnings) = body(written, Unsupported::Omit, &text);
            let given: serde_json::Value = serde_json::from_str(at).unwrap();
            assert_eq!(
                (&sent["createdAt"], warnings.len()),
                (&given, usize::from(is_seconds)),
                "{text}"
            );
            assert!(body(written, Unsupported::Pass, &text).1.is_empty());
        }
    }
}

#[test]
fn white_space_around_an_address_is_no_part_of_it() {
    let without = CONTACT.replace('}', r#","without":["email"]}"#);
    let among = sending(r#"{"email":{"@path":"$.traits.email"}}"#);
    for spaces in [" ", "\t", "\n", "\r\n", "\u{a0}", "\u{feff}", "\u{2003}", "\u{200b}", "\u{85}"]
    {
        let email = serde_json::json!(format!("{spaces}a@b.co{spaces}"));
        for written in [CONTACT, &without, &among] {
            let kind = if written == among { r#""track","event":"e""# } else { r#""identify""# };
            let text = format!(r#"{{"type":{kind},"userId":" u ","traits":{{"email":{email}}}}}"#);
            let (sent, warnings) = body(written, Unsupported::Omit, &text);
            assert_eq!((&sent["email"], warnings.len()), (&"a@b.co".into(), 1), "{text} {sent}");
            assert_eq!(sent["userId"], " u ", "an id is what the sender says it is");
            assert!(!warnings[0].contains("a@b.co"));
            let (passed, warnings) = body(written, Unsupported::Pass, &text);
            assert!(warnings.is_empty() && passed["email"] != "a@b.co", "{passed}");
        }
    }
    let (sent, warnings) = body(
        CONTACT,
        Unsupported::Omit,
        r#"{"type":"identify","userId":"u","traits":{"email":" \n"}}"#,
    );
    assert_eq!((sent.get("email"), warnings.len()), (None, 2), "{warnings:?}");
    let (sent, _) = body(
        CONTACT,
        Unsupported::Omit,
        r#"{"type":"identify","userId":"u","traits":{"email":"a @b.co"}}"#,
    );
    assert!(sent.as_str().unwrap().contains("valid email"), "{sent}");
}

#[test]
fn what_an_event_has_itself_is_not_overwritten_by_contact_properties() {
    let all = r#"{"email":"other@b.co","eventName":"Other","userId":"other","eventProperties":{"x":1},"plan":"pro"}"#;
    let text = r#"{"type":"track","userId":"u","event":"e","properties":{"email":"a@b.co"}}"#;
    let (sent, warnings) = body(&sending(all), Unsupported::Omit, text);
    let own = r#"{"email":"a@b.co","eventName":"e","userId":"u","eventProperties":{"email":"a@b.co"},"plan":"pro"}"#;
    assert_eq!(sent, serde_json::from_str::<serde_json::Value>(own).unwrap());
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(warnings.iter().all(|warning| !warning.contains("ther")), "{warnings:?}");
    // As Segment has it.
    let (sent, warnings) = body(&sending(all), Unsupported::Pass, text);
    assert_eq!(
        (sent["email"].as_str(), sent["eventName"].as_str()),
        (Some("other@b.co"), Some("Other"))
    );
    assert!(warnings.is_empty());
    // What the event does not have is taken, if it is one.
    for (email, expected, warned) in [("a@b.co", Some("a@b.co"), 0), ("nobody", None, 1)] {
        let text = r#"{"type":"track","userId":"u","event":"e"}"#;
        let written = sending(&format!(r#"{{"email":"{email}","eventName":"e"}}"#));
        let (sent, warnings) = body(&written, Unsupported::Omit, text);
        assert_eq!((sent["email"].as_str(), warnings.len()), (expected, warned));
    }
}

#[test]
fn nothing_that_is_flattened_takes_the_place_of_a_field_of_the_event() {
    let text = r#"{"type":"track","userId":"u","event":"e","context":{"traits":{"user":{"id":"other","name":"A"},"event":{"name":"x"},"mailing":{"lists":true},"created":{"at":1705310000}}}}"#;
    let written = sending(r#"{"@path":"$.context.traits"}"#);
    let (sent, warnings) = body(&written, Unsupported::Flatten, text);
    let expected = r#"{"userId":"u","eventName":"e","userName":"A","createdAt":1705310000}"#;
    assert_eq!(sent, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    // Three that were left out, and the date in seconds.
    assert_eq!(warnings.len(), 4, "{warnings:?}");
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
