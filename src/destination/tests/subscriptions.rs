//! The written forms of subscriptions, and what is wrong with them.

use super::*;

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
fn a_destination_may_have_so_many_subscriptions_and_no_more() {
    let one = subscription(DELETE).unwrap();
    let many: Vec<_> = (0..=SUBSCRIPTIONS_MAX)
        .map(|n| Subscription { name: n.to_string(), ..one.clone() })
        .collect();
    assert!(Destination::compile(&many[1..], Unsupported::Omit).is_ok());
    let problems = Destination::compile(&many, Unsupported::Omit).unwrap_err();
    assert_eq!(problems[0].field, "subscriptions");
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
