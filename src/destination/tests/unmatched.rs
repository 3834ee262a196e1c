//! Why a message makes no request, and how a plan is explained.

use super::*;

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
        Some("type is \"identify\", which is not the string \"track\"")
    );
}
