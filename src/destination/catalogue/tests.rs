//! What a plan says of the names and types at Loops, and what it does about them.

use serde_json::json;

use super::*;
use crate::destination::{
    Destination, DestinationOptions, Plan, PlannedDelivery, subscription::read,
};
use crate::js::decode::decode;
use crate::segment::Message;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn property(name: &str, kind: PropertyType) -> ContactProperty {
    ContactProperty { name: name.to_owned(), kind: Some(kind) }
}

fn list(id: &str, name: &str) -> MailingList {
    MailingList { id: id.to_owned(), name: name.to_owned() }
}

const NEWS: &str = "newsnewsnewsnewsnews1";

fn record() -> CatalogueRecord {
    let mut record = CatalogueRecord::default();
    let properties = vec![
        property("planName", PropertyType::String),
        property("seats", PropertyType::Number),
        property("isVip", PropertyType::Boolean),
        property("trialEnds", PropertyType::Date),
        property("createdAt", PropertyType::Date),
        ContactProperty { name: "later".to_owned(), kind: None },
    ];
    record.set_properties(properties, at(0));
    let lists = vec![list(NEWS, "Product news"), list("b", "Beta"), list("c", "Beta")];
    record.set_lists(lists, at(0));
    record.set_events(vec!["Signed Up".to_owned()], true, at(0));
    record
}

fn message(written: serde_json::Value) -> Message {
    Message::from_stored(decode(written.to_string().as_bytes()).unwrap()).unwrap()
}

/// An identify with these traits, by the default subscriptions.
fn planned(options: CatalogueOptions, traits: serde_json::Value) -> PlannedDelivery {
    let destination = destination(options, &Destination::default_subscriptions());
    let message = message(json!({
        "type": "identify", "messageId": "m", "userId": "u", "traits": traits,
    }));
    let mut plan = destination.plan(&message);
    assert_eq!(plan.deliveries.len(), 1);
    plan.deliveries.remove(0)
}

fn destination(
    catalogue: CatalogueOptions,
    subscriptions: &[crate::destination::Subscription],
) -> Destination {
    let options = DestinationOptions { catalogue, ..DestinationOptions::default() };
    let destination = Destination::compile(subscriptions, options).unwrap();
    destination.with_catalogue(Some(std::sync::Arc::new(Catalogue::new(record()))))
}

fn body(delivery: &PlannedDelivery) -> serde_json::Value {
    serde_json::from_slice(&delivery.outcome.as_ref().unwrap().body).unwrap()
}

fn unknown(unknown_properties: UnknownProperties) -> CatalogueOptions {
    CatalogueOptions { unknown_properties, ..CatalogueOptions::default() }
}

fn wrong(wrong_types: WrongTypes) -> CatalogueOptions {
    CatalogueOptions { wrong_types, ..CatalogueOptions::default() }
}

#[test]
fn by_default_the_body_stays_as_it_is_whatever_the_catalogue_says() {
    let traits = json!({
        "email": "ada@example.com", "plan_name": "pro", "seats": "3", "isVip": "yes", "later": 1,
        "trialEnds": "soon", "firstName": "Ada", "userGroup": "g", "subscribed": false,
        "mailingLists": {"Product news": true, "x": false},
    });
    let delivery = planned(CatalogueOptions::default(), traits.clone());
    let message = message(json!({
        "type": "identify", "messageId": "m", "userId": "u", "traits": traits,
    }));
    let options = DestinationOptions::default();
    let plain = Destination::compile(&Destination::default_subscriptions(), options).unwrap();
    let Plan { deliveries, .. } = plain.plan(&message);
    assert_eq!(delivery.outcome, deliveries[0].outcome, "byte by byte");
    assert_eq!(
        delivery.warnings,
        [
            "contact properties: Loops has no property `plan_name` (did you mean `planName`?)",
            "contact properties: `seats` has the type number at Loops, and another one here",
            "contact properties: `isVip` has the type boolean at Loops, and another one here",
            "contact properties: `trialEnds` has the type date at Loops, and another one here",
            // A name that no mapping spells out is not taken for that of a list.
            "mailing lists: Loops has no list `Product news` (did you mean `newsnewsnewsnewsnews1`, the list `Product news`?)",
            "mailing lists: Loops has no list `x`",
        ]
    );
    assert!(!delivery.relies_on_catalogue && delivery.missing.is_empty());
}

#[test]
fn what_is_as_loops_has_it_gets_no_warning() {
    let traits = json!({
        "email": "ada@example.com", "planName": "pro", "seats": 3, "isVip": true, "later": {},
        "trialEnds": "2026-01-31", "createdAt": 1_700_000_000_000_i64, "lastName": null,
        "mailingLists": {NEWS: true},
    });
    let delivery = planned(CatalogueOptions::default(), traits);
    let warnings: Vec<_> =
        delivery.warnings.iter().filter(|one| !one.contains("`later`")).collect();
    assert_eq!(warnings, [""; 0]);
    for cleared in ["planName", "seats", "isVip", "trialEnds"] {
        let delivery = planned(wrong(WrongTypes::Omit), json!({cleared: null}));
        assert_eq!((body(&delivery)[cleared].clone(), delivery.warnings.len()), (json!(null), 0));
    }
}

#[test]
fn unknown_properties_are_treated_as_the_configuration_says() {
    let traits = json!({"planNam": "pro", "seats": 3});
    let sent = planned(unknown(UnknownProperties::Send), traits.clone());
    assert_eq!((sent.warnings.len(), &body(&sent)["planNam"]), (0, &json!("pro")));
    let omitted = planned(unknown(UnknownProperties::Omit), traits.clone());
    assert_eq!((body(&omitted).get("planNam"), &body(&omitted)["seats"]), (None, &json!(3)));
    assert!(omitted.relies_on_catalogue);
    assert!(omitted.warnings[0].contains("`planNam` was left out"), "{:?}", omitted.warnings);
    let failed = planned(unknown(UnknownProperties::Fail), traits.clone());
    assert!(failed.relies_on_catalogue);
    let detail = failed.outcome.unwrap_err().detail;
    assert!(detail.contains("`planNam` (did you mean `planName`?)"), "{detail}");
    // No property is unknown to a catalogue that is not complete.
    let mut partial = record();
    partial
        .set_properties(vec![property("planName", PropertyType::String); ENTRIES_MAX + 1], at(0));
    assert_eq!(partial.properties.as_ref().map(|part| part.entries.len()), Some(ENTRIES_MAX));
    assert!(!Catalogue::new(partial).lacks_property("planNam"));
    assert!(!Catalogue::default().lacks_property("planNam"));
}

#[test]
fn only_what_loops_may_be_asked_to_create_is_to_be_created() {
    let traits = json!({
        "score": 1.5, "nick": "a", "isNew": false, "seenAt": "2026-01-31T10:00:00Z", "day": "May",
        "snake_case": 1, "Upper": 1, "a b": 1, "cleared": null, "subscribed": false,
    });
    let delivery = planned(unknown(UnknownProperties::Create), traits);
    let missing: Vec<_> =
        delivery.missing.iter().map(|one| (one.name.as_str(), one.kind.unwrap())).collect();
    assert_eq!(
        missing,
        [
            ("score", PropertyType::Number),
            ("nick", PropertyType::String),
            ("isNew", PropertyType::Boolean),
            ("seenAt", PropertyType::Date),
            ("day", PropertyType::String),
        ]
    );
    assert_eq!(body(&delivery)["snake_case"], json!(1));
    for name in ["email", "userId", "mailingLists", "source", "", "é", "9lives", "a-b"] {
        assert!(!can_be_created(name), "{name}");
    }
}

#[test]
fn at_most_twenty_properties_are_created_in_a_day_and_none_twice() {
    let mut record = record();
    for n in 0..CREATED_MAX {
        assert!(record.may_create(&format!("p{n}"), at(60)), "{n}");
        record.note_created(&format!("p{n}"), at(n as i64));
        assert!(!record.may_create(&format!("p{n}"), at(60)), "{n}");
    }
    assert!(!record.may_create("more", at(60)));
    let later = at(0) + CREATED_WITHIN;
    assert!(record.may_create("more", later) && record.may_create("p0", later));
    assert!(!record.may_create("p1", later));
    record.note_created("more", later);
    assert_eq!(record.created.len(), CREATED_MAX);
}

#[test]
fn wrong_types_are_converted_only_if_nothing_is_lost() {
    for (name, given, expected) in [
        ("seats", json!("3"), Some(json!(3))),
        ("seats", json!(" 1.5 "), Some(json!(1.5))),
        ("seats", json!("three"), None),
        ("seats", json!(""), None),
        ("seats", json!(true), None),
        ("isVip", json!("TRUE"), Some(json!(true))),
        ("isVip", json!("false"), Some(json!(false))),
        ("isVip", json!("yes"), None),
        ("isVip", json!(1), None),
        ("planName", json!(7), Some(json!("7"))),
        ("planName", json!(false), Some(json!("false"))),
        ("trialEnds", json!("soon"), None),
        ("trialEnds", json!(true), None),
    ] {
        let delivery = planned(wrong(WrongTypes::Coerce), json!({name: given}));
        let sent = &body(&delivery)[name];
        assert_eq!(*sent, expected.clone().unwrap_or(given.clone()), "{name} {given}");
        assert_eq!(delivery.relies_on_catalogue, expected.is_some(), "{name} {given}");
        assert_eq!(delivery.warnings.len(), 1, "{name} {given}");
        let omitted = planned(wrong(WrongTypes::Omit), json!({name: given}));
        assert_eq!(body(&omitted).get(name), None, "{name} {given}");
    }
}

#[test]
fn a_catalogue_that_may_be_old_only_warns() {
    let options = CatalogueOptions {
        unknown_properties: UnknownProperties::Fail,
        wrong_types: WrongTypes::Omit,
        ..CatalogueOptions::default()
    };
    let destination = destination(options, &Destination::default_subscriptions());
    let message = message(json!({
        "type": "identify", "messageId": "m", "userId": "u", "traits": {"new": 1, "seats": "3"},
    }));
    let plan = destination.plan_with_old_catalogue(&message);
    let delivery = &plan.deliveries[0];
    assert_eq!((&body(delivery)["new"], &body(delivery)["seats"]), (&json!(1), &json!("3")));
    assert_eq!((delivery.warnings.len(), delivery.relies_on_catalogue), (2, false));
}

/// A contact on lists that the mapping spells out, and on those of its traits.
fn on_lists(record: CatalogueRecord, named: &str) -> PlannedDelivery {
    let written = format!(
        r#"{{"name": "one", "action": "createOrUpdateContact", "trigger": "type = \"identify\"",
            "mapping": {{"userId": "u", "mailingLists": {named}}}}}"#
    );
    let subscription = read(&decode(written.as_bytes()).unwrap(), 0).unwrap();
    let destination = Destination::compile(&[subscription], DestinationOptions::default()).unwrap();
    let catalogue = std::sync::Arc::new(Catalogue::new(record));
    let message = message(json!({"type": "identify", "messageId": "m", "userId": "u"}));
    destination.with_catalogue(Some(catalogue)).plan(&message).deliveries.remove(0)
}

#[test]
fn a_mapping_may_name_a_mailing_list_by_its_name() {
    let lists = |delivery: &PlannedDelivery| body(delivery)["mailingLists"].clone();
    let named = on_lists(record(), r#"{"Product news": true, "b": false}"#);
    assert_eq!(lists(&named), json!({NEWS: true, "b": false}));
    assert_eq!(named.warnings, [""; 0]);
    // The id itself wins over the name.
    let both = on_lists(record(), &format!(r#"{{"Product news": true, "{NEWS}": false}}"#));
    assert_eq!(lists(&both), json!({NEWS: false}));
    // Loops decides about a name that says too little; the warning says what to write.
    let ambiguous = on_lists(record(), r#"{"Beta": true}"#);
    assert_eq!(lists(&ambiguous), json!({"Beta": true}));
    assert!(ambiguous.warnings[0].contains("2 lists"), "{:?}", ambiguous.warnings);
    let misspelt = on_lists(record(), r#"{"product_news": true}"#);
    assert_eq!(lists(&misspelt), json!({"product_news": true}));
    assert!(misspelt.warnings[0].contains(NEWS), "{:?}", misspelt.warnings);
}

#[test]
fn a_renamed_list_is_found_by_its_former_name_until_another_list_has_that() {
    let mut record = record();
    record.set_lists(vec![list(NEWS, "Updates")], at(1));
    let renamed = on_lists(record.clone(), r#"{"Product news": true}"#);
    assert_eq!(body(&renamed)["mailingLists"], json!({NEWS: true}));
    assert!(renamed.warnings[0].contains("`Updates`"), "{:?}", renamed.warnings);
    record.set_lists(vec![list(NEWS, "Updates"), list("d", "Product news")], at(2));
    let taken = on_lists(record.clone(), r#"{"Product news": true}"#);
    assert_eq!(body(&taken)["mailingLists"], json!({"d": true}));
    // The names that it had are bounded.
    for n in 0..20 {
        record.set_lists(vec![list(NEWS, &format!("n{n}"))], at(3));
    }
    let kept = &record.lists.as_ref().unwrap().entries[0].former;
    assert_eq!(kept[..], ["n18", "n17", "n16", "n15", "n14"]);
}

#[test]
fn a_new_event_gets_a_warning_without_its_name() {
    let destination =
        destination(CatalogueOptions::default(), &Destination::default_subscriptions());
    for (name, expected) in [
        ("Signed Up", None),
        ("signed_up", Some("sending creates it (did you mean `Signed Up`?)")),
        ("Ada Lovelace bought", Some("sending creates it")),
    ] {
        let message = message(json!({
            "type": "track", "messageId": "m", "userId": "u", "event": name,
        }));
        let warnings = destination.plan(&message).deliveries.remove(0).warnings;
        let expected = expected.map(|text| format!("Loops has no event of this name yet: {text}"));
        assert_eq!(warnings, Vec::from_iter(expected), "{name}");
    }
}

#[test]
fn the_warnings_of_a_request_are_bounded() {
    let traits: serde_json::Map<String, serde_json::Value> =
        (0..1_000).map(|n| (format!("unknown{n}"), json!(n))).collect();
    let delivery = planned(CatalogueOptions::default(), traits.clone().into());
    assert_eq!(delivery.warnings.len(), 11);
    assert!(delivery.warnings[10].starts_with("990 more"), "{:?}", delivery.warnings[10]);
    let failed = planned(unknown(UnknownProperties::Fail), traits.into());
    assert!(failed.outcome.unwrap_err().detail.len() < 1_000);
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let mut record = record();
    record.set_lists(vec![list(NEWS, "Updates")], at(1));
    record.note_created("p", at(2));
    let written = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<CatalogueRecord>(&written).unwrap(), record);
    assert_eq!((record.read_at(), record.newest()), (Some(at(0)), Some(at(1))));
}

#[test]
fn ids_of_lists_are_told_from_names() {
    for (key, expected) in [
        ("clm2k8j4h6g0f8d6s4a2b0z8", true),
        ("sandboxnewsletter0000000", true),
        ("Product news", false),
        ("newsletter", false),
        ("Clm2k8j4h6g0f8d6s4a2b0z8", false),
    ] {
        assert_eq!(is_like_list_id(key), expected, "{key}");
    }
}
