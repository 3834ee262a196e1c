//! What `check` warns of.

use super::*;

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
