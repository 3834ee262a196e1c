//! Mailing lists in the forms in which they come.

use super::*;

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
