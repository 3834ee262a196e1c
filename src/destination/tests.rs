//! The default subscriptions, from message to request.

use super::*;
use crate::js::decode::decode;

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

/// The body that a subscription makes of a message, and the warnings; or why there is none.
fn body(written: &str, unsupported: Unsupported, text: &str) -> (serde_json::Value, Vec<String>) {
    let one = subscription(written).unwrap();
    let destination = Destination::compile(&[one], unsupported).unwrap();
    let delivery = destination.plan(&message(text)).deliveries.remove(0);
    let told = match delivery.outcome {
        Ok(request) => serde_json::from_slice(&request.body).unwrap(),
        Err(failure) => failure.detail.into(),
    };
    (told, delivery.warnings)
}

const CONTACT: &str =
    r#"{"name":"s","action":"createOrUpdateContact","trigger":"type = \"identify\""}"#;
const DELETE: &str = r#"{"name":"s","action":"deleteContact","trigger":"type = \"delete\""}"#;

/// A subscription that sends every event with these contact properties.
fn sending(contact_properties: &str) -> String {
    format!(
        r#"{{"name":"s","action":"sendEvent","events":["*"],"mapping":{{"contactProperties":{contact_properties}}}}}"#
    )
}

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
fn mailing_lists_are_read_however_they_are_written() {
    let cases = [
        (
            r#"[{"listId":"a","subscribed":true},{"id":"b","subscribed":"false"}]"#,
            r#"{"a":true,"b":false}"#,
            0,
        ),
        (r#"{"listId":"a","subscribed":false}"#, r#"{"a":false}"#, 0),
        (r#"{"a":true,"b":1,"c":null}"#, r#"{"a":true}"#, 2),
        (r#"["a",{"listId":"b"},{"listId":"c","subscribed":"yes"},true]"#, "{}", 4),
        (r#""a""#, "{}", 1),
        ("[]", "{}", 0),
        ("null", "{}", 0),
    ];
    let in_field =
        CONTACT.replace('}', r#","mapping":{"mailingLists":{"@path":"$.context.lists"}}}"#);
    for (lists, expected, warned) in cases {
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        let in_traits =
            format!(r#"{{"type":"identify","userId":"u","traits":{{"mailingLists":{lists}}}}}"#);
        let in_context =
            format!(r#"{{"type":"identify","userId":"u","context":{{"lists":{lists}}}}}"#);
        let event =
            format!(r#"{{"type":"track","userId":"u","event":"e","context":{{"lists":{lists}}}}}"#);
        let with_event = sending(r#"{"mailingLists":{"@path":"$.context.lists"}}"#);
        for (written, text) in
            [(CONTACT, &in_traits), (&in_field, &in_context), (&with_event, &event)]
        {
            let (body, warnings) = body(written, Unsupported::Omit, text);
            if lists == r#""a""# && written == in_field {
                assert_eq!(body, "Mailing Lists must be an object but it was a string.");
                continue;
            }
            let found = body.get("mailingLists").cloned().unwrap_or(serde_json::json!({}));
            assert_eq!((&found, warnings.len()), (&expected, warned), "{text} {warnings:?}");
        }
    }
    let pass = |lists: &str| {
        let text =
            format!(r#"{{"type":"identify","userId":"u","traits":{{"mailingLists":{lists}}}}}"#);
        body(CONTACT, Unsupported::Pass, &text).0["mailingLists"].to_string()
    };
    assert_eq!(pass(r#"[{"listId":"a","subscribed":true}]"#), "{}");
    assert_eq!(pass("[true]"), r#"{"0":true}"#, "as Segment has it");
}

#[test]
fn lists_of_the_message_give_way_to_those_of_the_subscription_and_that_is_told() {
    let written = CONTACT.replace('}', r#","mapping":{"mailingLists":{"a":true}}}"#);
    let text = r#"{"type":"identify","userId":"u","traits":{"mailingLists":{"b":true}}}"#;
    let (body, warnings) = body(&written, Unsupported::Omit, text);
    assert_eq!((body["mailingLists"].to_string().as_str(), warnings.len()), (r#"{"a":true}"#, 1));
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
fn literals_that_subscribe_people_again_and_again_are_warned_of() {
    let once = r#"type = "track" and event = "Signed Up""#;
    let identify = r#"type = "identify""#;
    let contact = "createOrUpdateContact";
    let subscribed: &[&str] = &["subscribed"];
    let lists: &[&str] = &["mailingLists"];
    let none: &[&str] = &[];
    // Mappings of an identify, and the fields that the warning names.
    let mappings = [
        (r#"{"subscribed":true}"#, subscribed),
        (r#"{"subscribed":"true"}"#, subscribed),
        (r#"{"subscribed":1}"#, subscribed),
        (r#"{"subscribed":[true]}"#, subscribed),
        (r#"{"subscribed":{"@literal":true}}"#, subscribed),
        (r#"{"subscribed":{"@template":"true"}}"#, subscribed),
        (r#"{"subscribed":{"@liquid":"true"}}"#, subscribed),
        (r#"{"subscribed":{"@if":{"exists":{"@path":"x"},"then":true}}}"#, subscribed),
        (
            r#"{"subscribed":{"@if":{"exists":{"@path":"x"},"then":{"@path":"x"},"else":{"@if":{"blank":{"@path":"y"},"else":"true"}}}}}"#,
            subscribed,
        ),
        (r#"{"subscribed":{"@json":{"mode":"decode","value":"true"}}}"#, subscribed),
        (r#"{"subscribed":false,"mailingLists":{"a":false}}"#, none),
        (r#"{"subscribed":{"@path":"$.traits.news"}}"#, none),
        (r#"{"mailingLists":{"a":false,"b":true}}"#, lists),
        (r#"{"mailingLists":{"a":"true"}}"#, lists),
        (r#"{"mailingLists":{"@literal":{"a":true}}}"#, lists),
        (r#"{"mailingLists":{"a":{"@literal":true}}}"#, lists),
        (r#"{"mailingLists":[{"listId":"a","subscribed":true}]}"#, lists),
        (r#"{"mailingLists":[{"id":{"@path":"x"},"subscribed":{"@literal":true}}]}"#, lists),
        (r#"{"mailingLists":{"listId":"a","subscribed":true}}"#, lists),
        (
            r#"{"mailingLists":{"@arrayPath":["$.traits.lists",{"listId":{"@path":"id"},"subscribed":true}]}}"#,
            lists,
        ),
        (r#"{"mailingLists":{"@if":{"exists":{"@path":"x"},"then":{"a":true}}}}"#, lists),
        (r#"{"mailingLists":{"@json":{"mode":"decode","value":"{\"a\":true}"}}}"#, lists),
        (r#"{"mailingLists":{"a":{"@path":"$.traits.news"}}}"#, none),
        (r#"{"mailingLists":[{"listId":"a","subscribed":false}]}"#, none),
        (r#"{"subscribed":true,"mailingLists":{"b":true}}"#, &["subscribed", "mailingLists"]),
        (
            r#"{"customAttributes":{"subscribed":true,"mailingLists":{"a":true}}}"#,
            &["customAttributes.subscribed", "customAttributes.mailingLists"],
        ),
        (
            r#"{"customAttributes":{"@merge":{"direction":"right","objects":[{"@path":"$.traits"},{"subscribed":true}]}}}"#,
            &["customAttributes.subscribed"],
        ),
        (r#"{"customAttributes":{"isAdmin":true}}"#, none),
    ];
    let mut cases: Vec<(&str, &str, &str, &[&str])> =
        mappings.iter().map(|(mapping, fields)| (contact, identify, *mapping, *fields)).collect();
    let plain = r#"{"subscribed":true}"#;
    let triggers = [
        (r#"type = "page""#, subscribed),
        (r#"type = "screen" and name = "Home""#, subscribed),
        (r#"type = "track""#, subscribed),
        (r#"type = "track" and event != "Left""#, subscribed),
        (r#"userId != null"#, subscribed),
        (r#"type = "identify" or event = "Signed Up""#, subscribed),
        (once, none),
        (r#"event = "Signed Up" or event = "Joined""#, none),
    ];
    cases.extend(triggers.iter().map(|(trigger, fields)| (contact, *trigger, plain, *fields)));
    let event = r#"{"contactProperties":{"mailingLists":{"a":true},"subscribed":true}}"#;
    let both: &[&str] = &["contactProperties.subscribed", "contactProperties.mailingLists"];
    cases
        .extend([("sendEvent", r#"type = "track""#, event, both), ("sendEvent", once, event, &[])]);
    for (action, trigger, mapping, fields) in cases {
        let trigger = serde_json::to_string(trigger).unwrap();
        let written = format!(
            r#"{{"name":"s","action":"{action}","trigger":{trigger},"mapping":{mapping}}}"#
        );
        let contacts = r#"{"name":"c","action":"createOrUpdateContact","events":["Signed Up"]}"#;
        let both = [subscription(&written).unwrap(), subscription(contacts).unwrap()];
        let warnings = Destination::compile(&both, Unsupported::Omit).unwrap().warnings();
        assert_eq!(warnings.len(), usize::from(!fields.is_empty()), "{written} {warnings:?}");
        for warning in warnings {
            let fields: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
            let expected =
                format!("a literal in {} subscribes the person again", fields.join(" and "));
            assert!(warning.problem.starts_with(&expected), "{written} {warning}");
        }
    }
    // With "*", every event counts.
    let one = r#"{"name":"s","action":"createOrUpdateContact","events":["*"],"mapping":{"subscribed":true}}"#;
    let one = [subscription(one).unwrap()];
    assert_eq!(Destination::compile(&one, Unsupported::Omit).unwrap().warnings().len(), 1);
}

#[test]
fn a_colon_that_can_become_part_of_the_name_of_an_event_is_warned_of() {
    const PAID: &str = r#""events":["Order: Paid"]"#;
    const EVERY: &str = r#""events":["*"]"#;
    let path = r#"{"@path":"$.event"}"#;
    let replace = |pattern: &str, replacement: &str, value: &str| {
        format!(
            r#"{{"@replace":{{"pattern":"{pattern}","replacement":"{replacement}","value":{value}}}}}"#
        )
    };
    let text = str::to_owned;
    let cases = [
        (EVERY, text(r#""a: b""#), "`a: b`"),
        (EVERY, text(r#"["a: b"]"#), "`a: b`"),
        (EVERY, text(r#"{"@literal":"a: b"}"#), "`a: b`"),
        (EVERY, text(r#"{"@template":"app: {{event}}"}"#), "`app: `"),
        (EVERY, text(r#"{"@template":"app {{event}}"}"#), ""),
        (EVERY, text(r#"{"@if":{"exists":{"@path":"x"},"then":"a: b"}}"#), "`a: b`"),
        (
            EVERY,
            text(
                r#"{"@if":{"exists":{"@path":"x"},"then":"a","else":{"@template":"{{x}}:{{y}}"}}}"#,
            ),
            "`:`",
        ),
        (EVERY, text(r#"{"@if":{"exists":"a: b","then":"a"}}"#), ""),
        (EVERY, text(r#"{"@case":{"operator":"lower","value":"A: B"}}"#), "`a: b`"),
        (EVERY, text(r#"{"@liquid":"x: {{event}}"}"#), "`x: `"),
        (EVERY, text(r#"{"@liquid":"{% if properties.vip %}vip:{% endif %}{{event}}"}"#), "`vip:`"),
        (EVERY, text(r#"{"@liquid":"{% if x %}{{ event | prepend: 'a:' }}{% endif %}"}"#), "`a:`"),
        (EVERY, text(r#"{"@liquid":"{{ event | replace: ':', '-' }}"}"#), ""),
        (EVERY, text(r#"{"@liquid":"{% if event == 'a: b' %}c{% endif %}"}"#), ""),
        (EVERY, replace(" ", ":", path), "`:`"),
        (EVERY, replace(":", "-", path), ""),
        (EVERY, replace(":", "-", r#""a: b""#), ""),
        (EVERY, replace(":", "-", r#"{"@template":"a: {{event}}"}"#), ""),
        (EVERY, text(r#"{"@json":{"mode":"decode","value":"\"a: b\""}}"#), "`a: b`"),
        (EVERY, text(r#"{"@excludeWhenNull":{"@literal":"a: b"}}"#), "`a: b`"),
        (
            EVERY,
            text(r#"{"@transform":{"apply":{"n":"a: b"},"mapping":{"@path":"$.n"}}}"#),
            "`a: b`",
        ),
        (EVERY, text(r#"{"@transform":{"apply":{"n":"a: b"},"mapping":{"@path":"$.m"}}}"#), ""),
        (PAID, text(path), "`Order: Paid` is sent as it is"),
        (PAID, text(r#"{"@template":"{{event}}"}"#), "`Order: Paid` is sent as it is"),
        (PAID, text(r#"{"@liquid":"{{event}}"}"#), "`Order: Paid` is sent as it is"),
        (
            PAID,
            text(r#"{"@case":{"operator":"lower","value":{"@path":"event"}}}"#),
            "`order: paid`",
        ),
        (PAID, text(r#"{"@liquid":"{{ event | remove: ':' }}"}"#), ""),
        (PAID, replace(":", "", path), ""),
        (PAID, text(r#"{"@path":"$.properties.name"}"#), ""),
    ];
    for (trigger, name, told) in cases {
        let one = format!(
            r#"{{"name":"s","action":"sendEvent",{trigger},"mapping":{{"eventName":{name}}}}}"#
        );
        let contacts = r#"{"name":"c","action":"createOrUpdateContact","events":["Signed Up"]}"#;
        let both = [subscription(&one).unwrap(), subscription(contacts).unwrap()];
        let warnings = Destination::compile(&both, Unsupported::Omit).unwrap().warnings();
        assert_eq!(warnings.len(), usize::from(!told.is_empty()), "{one} {warnings:?}");
        for warning in warnings {
            let problem = &warning.problem;
            assert!(problem.contains("colon (:)") && problem.contains(told), "{one} {problem}");
        }
    }
    // A mapping that is one directive as a whole.
    let whole = r#"{"name":"s","partnerAction":"sendEvent","subscribe":"type = \"track\"","mapping":{"@if":{"exists":{"@path":"x"},"then":{"eventName":"a: b"}}}}"#;
    let one = CompiledSubscription::compile(&subscription(whole).unwrap());
    let warnings = one.unwrap().warnings();
    assert!(warnings.len() == 1 && warnings[0].problem.contains("`a: b`"), "{warnings:?}");
}

#[test]
fn events_of_people_who_never_become_contacts_are_warned_of() {
    let event = r#"{"name":"e","action":"sendEvent","events":["*"]}"#;
    let contact = r#"{"name":"c","action":"createOrUpdateContact","trigger":"type = \"identify\"""#;
    let (off, on) = (format!(r#"{contact},"enabled":false}}"#), format!("{contact}}}"));
    let gone = r#"{"name":"d","action":"deleteContact","trigger":"type = \"delete\""}"#;
    let cases = [
        (vec![event], true),
        (vec![event, &off], true),
        (vec![event, gone], true),
        (vec![event, &on], false),
        (vec![&on], false),
        (vec![gone], false),
    ];
    for (written, is_warned) in cases {
        let subscriptions: Vec<_> =
            written.iter().map(|text| subscription(text).unwrap()).collect();
        let destination = Destination::compile(&subscriptions, Unsupported::Omit).unwrap();
        let warnings = destination.warnings();
        assert_eq!(warnings.len(), usize::from(is_warned), "{written:?} {warnings:?}");
        assert!(warnings.iter().all(|one| one.to_string().contains("creates contacts")));
    }
}

#[test]
fn what_a_subscription_does_unseen_is_warned_of() {
    let cases = [
        (
            r#""trigger":"type = \"track\" and properties.test != false""#,
            "{}",
            "true for every message",
        ),
        (
            r#""trigger":"type = \"track\" and (traits.a != true or context.b = true)""#,
            "{}",
            "true for every message",
        ),
        (
            r#""trigger":"type = \"track\" and properties.test != \"false\" and properties.n != 0""#,
            "{}",
            "",
        ),
        (r#""events":["Order: Paid"]"#, "{}", "`Order: Paid` is sent as it is"),
        (r#""events":["Order: *"]"#, "{}", "colon"),
        (r#""trigger":"event = \"Order: Paid\"""#, "{}", "colon"),
        (r#""events":["Order: Paid"]"#, r#"{"eventName":"orderPaid"}"#, ""),
        (r#""events":["Order"]"#, r#"{"eventName":"order:paid"}"#, "colon"),
        (r#""events":["Order"]"#, r#"{"eventName":{"@literal":"order:paid"}}"#, "colon"),
        (r#""events":["Order Paid"]"#, "{}", ""),
        (r#""trigger":"type = \"trakc\" or event = \"x\"""#, "{}", "`trakc` is never true"),
        (r#""trigger":"type = \"Track\"""#, "{}", "the types are identify, track, page"),
        (r#""trigger":"type != \"trakc\"""#, "{}", "`trakc` is true for every message"),
        (r#""trigger":"type = \"group\" or type = \"alias\"""#, "{}", ""),
    ];
    for (trigger, mapping, told) in cases {
        let one = subscription(&format!(
            r#"{{"name":"s","action":"sendEvent",{trigger},"mapping":{mapping}}}"#
        ));
        let contacts = r#"{"name":"c","action":"createOrUpdateContact","events":["Signed Up"]}"#;
        let both = [one.unwrap(), subscription(contacts).unwrap()];
        let destination = Destination::compile(&both, Unsupported::Omit).unwrap();
        let warnings = destination.warnings();
        assert_eq!(warnings.len(), usize::from(!told.is_empty()), "{trigger} {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.problem.contains(told)), "{warnings:?}");
    }
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
        (r#"{"All":false,"Loops":false,"Loops (Actions)":true}"#, false),
        (r#"{"Loops":true,"Actions Loops":true,"Loops (Actions)":false}"#, true),
        (r#"{"Loops":false,"Actions Loops":true}"#, false),
        (r#"{"Loops":false,"Loops (Actions)":null}"#, true),
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
    let unmatched = plan.unmatched.unwrap();
    assert_eq!(unmatched.reason, UnmatchedReason::NoSubscription);
    assert_eq!(unmatched.detail, "no subscription's trigger matches this page message");
    assert!(defaults().takes(MessageType::Delete) && !defaults().takes(MessageType::Page));
}

fn subscription(written: &str) -> Result<Subscription, Vec<SubscriptionProblem>> {
    subscription::read(&decode(written.as_bytes()).unwrap(), 0)
}

#[test]
fn all_problems_are_found_and_name_their_subscription() {
    let written = [
        r#"{"name":"a","actionSlug":"sendEvent","trigger":"nonsense","settings":{}}"#,
        r#"{"name":"b","actionSlug":"sendEvent","trigger":"type = \"track\"","settings":{}}"#,
        r#"{"name":"c","action":"sendEvent","events":["x"],"mapping":{"email":{"@nope":1},"userId":{"@path":1}}}"#,
        r#"{"name":"d","action":"sendEvent","events":["*a*"],"mapping":{"userId":[{"@nope":1}]}}"#,
        r#"{"name":"e","action":"sendEvent","events":["a"],"mapping":{"userId":[{"@nope":1}]}}"#,
        r#"{"name":"b","action":"sendEvent","trigger":"type = \"track\" and ()"}"#,
    ];
    let subscriptions: Vec<_> = written.iter().map(|text| subscription(text).unwrap()).collect();
    let problems = Destination::compile(&subscriptions, Unsupported::Omit).unwrap_err();
    let told: Vec<(&str, &str)> = problems
        .iter()
        .map(|problem| (problem.subscription.as_str(), problem.field.as_str()))
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
    let short = subscription(
        r#"{"name":"s","action":"deleteContact","trigger":"type = \"delete\"","without":["email"]}"#,
    );
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
fn shapes_with_problems_are_refused_with_what_is_allowed() {
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
        let problems = subscription(written).unwrap_err();
        let told: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
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

fn guarded(placeholder_ids: Option<&[&str]>, consent_categories: &[&str]) -> Destination {
    let mut options = DestinationOptions::default();
    if let Some(ids) = placeholder_ids {
        options.placeholder_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    }
    options.consent_categories = consent_categories.iter().map(|one| (*one).to_owned()).collect();
    Destination::compile(&Destination::default_subscriptions(), options).unwrap()
}

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
