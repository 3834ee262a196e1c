//! What triggers take, refuse and tell.

use super::*;
use crate::js::decode::decode;
use crate::segment::MessageType;

fn takes(trigger: &str, message: &str) -> bool {
    let message = decode(message.as_bytes()).unwrap();
    Trigger::compile(trigger).unwrap().matches(&message).unwrap()
}

#[test]
fn reads_what_segment_reads() {
    let message = r#"{"type":"track","event":"Order Completed","userId":"u","properties":{"n":5,"flag":true,"zero":0,"text":"🚀done","a b":1}}"#;
    let cases = [
        ("type = \"track\"", true),
        ("type = track", true),
        ("event = an", false),
        ("properties.n = 5", true),
        ("properties.n = \"5\"", false),
        ("properties.n >= 5", true),
        ("properties.n < \"6\"", true),
        ("properties.flag = true", true),
        ("properties.flag != true", true),
        ("properties.zero.deep = 0", true),
        ("properties.missing != null", false),
        ("properties.missing = null", true),
        ("properties.a\\ b = 1", true),
        ("properties.text contains \"done\"", true),
        ("match(event, \"Order *\") and type = \"track\"", true),
        ("match(event, \"xompleted\")", true),
        ("match(event, \"xordered\")", false),
        ("match(event, \"*Completed\")", true),
        // Half of the rocket is dropped, the other half must be there.
        ("match(properties.text, \"🚀done\")", true),
        ("match(properties.text, \"🚁done\")", false),
        ("type = \"page\" and event = \"Order Completed\" or event = \"x\"", true),
        ("type = \"track\" and (event = \"x\" or event = \"Order Completed\")", true),
        ("anonymousId != null and type = \"track\"", true),
    ];
    for (trigger, expected) in cases {
        assert_eq!(takes(trigger, message), expected, "{trigger}");
    }
}

#[test]
fn an_empty_group_fails_when_it_is_reached() {
    let message = decode(br#"{"type":"track"}"#).unwrap();
    let matches = |text| Trigger::compile(text).unwrap().matches(&message);
    assert!(matches("type = \"track\" and ()").is_err());
    assert_eq!(matches("type = \"page\" and ()"), Ok(false));
}

#[test]
fn problems_have_their_place() {
    let long = format!("type = \"{}\"", "x".repeat(TRIGGER_BYTES_MAX));
    let cases = [
        ("", 0),
        ("   ", 0),
        ("anonymousId != null", 0),
        ("type = \"track", 7),
        ("type", 0),
        ("type = \"track\" and properties.seats>5", 35),
        ("type = \"track\" and é", 19),
        ("properties.n = 1.2.3", 15),
        ("(type = \"track\"", 0),
        ("type = \"track\" and (event = \"a\" or (event = \"b\"))", 35),
        ("type!=\"track\"", 4),
        ("contains()", 0),
        (&long, 0),
    ];
    for (trigger, at) in cases {
        assert_eq!(Trigger::compile(trigger).unwrap_err().at, at, "{trigger}");
    }
}

#[test]
fn events_are_taken_by_name() {
    let trigger = Trigger::events(["User \"Ann\" Registered", "Order *", "* Failed"]).unwrap();
    let takes = |kind: &str, event: &str| {
        let fields = [("type", kind), ("event", event)];
        let object = fields.map(|(key, value)| (key.to_owned(), crate::js::Value::from(value)));
        trigger.matches(&crate::js::Value::Object(object.into_iter().collect())).unwrap()
    };
    assert!(takes("track", "User \"Ann\" Registered") && takes("track", "Order Completed"));
    assert!(takes("track", "Payment Failed"));
    assert!(!takes("track", "order completed") && !takes("page", "Order Completed"));
    for wrong in [vec![], vec![""], vec!["ok", "a*b*"], vec!["*a*"]] {
        assert!(Trigger::events(wrong.clone()).is_err(), "{wrong:?}");
    }
    assert!(Trigger::events(["*"]).is_ok());
}

#[test]
fn a_trigger_may_be_as_long_as_its_bounds_and_no_longer() {
    let names = [&["x"; EVENTS_MAX][..], &["y"]].concat();
    assert!(Trigger::events(names[..EVENTS_MAX].iter().copied()).is_ok());
    assert!(Trigger::events(names).is_err());
    let quoted = |bytes: usize| format!("type = \"{}\"", "x".repeat(bytes - "type = \"\"".len()));
    assert!(Trigger::compile(&quoted(TRIGGER_BYTES_MAX)).is_ok());
    assert!(Trigger::compile(&quoted(TRIGGER_BYTES_MAX + 1)).is_err());
}

#[test]
fn knows_which_events_it_may_take() {
    let may =
        |text, event| Trigger::compile(text).unwrap().may_match_event(MessageType::Track, event);
    assert!(may("event = \"a\" and userId = \"u\"", "a"));
    assert!(!may("event = \"a\" and userId = \"u\"", "b"));
    assert!(may("event = \"a\" or userId = \"u\"", "b"));
    assert!(may("event != \"a\"", "b") && !may("event != \"a\"", "a"));
    assert!(may("type = \"track\"", "b") && !may("type = \"page\" and event = \"b\"", "b"));
    let by_name = Trigger::events(["Order *", "Left"]).unwrap();
    let may = |event| by_name.may_match_event(MessageType::Track, event);
    assert!(may("Order Completed") && may("Left") && !may("Completed"));
}

#[test]
fn knows_which_types_it_may_take() {
    let may = |text, kind| Trigger::compile(text).unwrap().may_match(kind);
    assert!(may("type = \"track\"", MessageType::Track));
    assert!(!may("type = \"track\" and event = \"x\"", MessageType::Page));
    assert!(may("type = \"track\" or event = \"x\"", MessageType::Page));
    assert!(may("event = \"x\"", MessageType::Page));
    assert!(!may("type != \"page\"", MessageType::Page));
    assert!(!may(
        "(type = \"track\" or type = \"identify\") and userId != null",
        MessageType::Group
    ));
}
