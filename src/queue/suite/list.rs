//! Lists of messages, groups of failures, and the names of events.

use super::replay::replay;
use super::*;
use crate::queue::{
    EVENT_NAMES_MAX, EventName, FailureGroup, MessageState, OTHER_EVENTS, ReplayState,
};

/// The ids of the messages that meet a filter, newest first, read in pages.
async fn listed(store: &dyn Store, filter: &Filter, limit: u32) -> Vec<String> {
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = store.list(filter, before, limit).await.unwrap();
        assert!(page.messages.len() <= limit as usize, "{filter:?}");
        ids.extend(page.messages.into_iter().map(|message| message.message_id));
        match page.next {
            Some(next) => {
                assert!(before.is_none_or(|before| next < before), "{filter:?}");
                before = Some(next);
            }
            None => return ids,
        }
    }
}

fn person(kind: PersonIdKind, id: &str) -> PersonDigest {
    Digests::new(&INSTALLATION_KEY).person(kind, id)
}

fn email(address: &str) -> PersonDigest {
    person(PersonIdKind::Email, address)
}

pub(crate) async fn finds_a_person_by_any_id(store: &dyn Store) {
    let anonymous = person(PersonIdKind::Anonymous, "a1");
    let address = email("ada@example.com");
    let known = NewMessage { anonymous: Some(anonymous), email: Some(address), ..message("known") };
    let nameless =
        NewMessage { lane: anonymous.into(), email: Some(address), ..message("nameless") };
    let address_only = NewMessage { lane: address.into(), ..message("address only") };
    let another = NewMessage { lane: lane("u2"), ..message("another") };
    store.accept(vec![known, nameless, address_only, another]).await.unwrap();
    let cases: [(&[PersonDigest], &[&str]); 6] = [
        (&[user("u1")], &["known"]),
        (&[anonymous], &["nameless", "known"]),
        (&[address], &["address only", "nameless", "known"]),
        (&[email("  Ada@Example.com")], &["address only", "nameless", "known"]),
        (&[user("u2"), anonymous], &["another", "nameless", "known"]),
        // An anonymous id is not a user id, even if the strings are equal.
        (&[user("a1")], &[]),
    ];
    for (n, (persons, expected)) in cases.into_iter().enumerate() {
        let filter = Filter { persons: persons.to_vec(), ..Filter::default() };
        assert_eq!(listed(store, &filter, 1).await, expected, "case {n}");
        assert_eq!(listed(store, &filter, 100).await, expected, "case {n}");
    }
    // A replay finds a person by the same ids.
    let lease = lease(store).await;
    for head in heads(store).await {
        store.freeze_one(&lease, head.seq, plan(vec![])).await.unwrap();
    }
    for (id, expected) in [("u1", 1), ("a1", 2), ("ada@example.com", 3), ("nobody", 0)] {
        let selection = about(id, ReplayState::All, Filter::default());
        assert_eq!(replay(store, selection, true).await, (expected, 0), "{id}");
    }
}

/// The subscription of each delivery, and its consequence.
type Deliveries<'a> = &'a [(&'a str, Consequence)];

pub(crate) async fn lists_what_meets_every_condition(store: &dyn Store) {
    use MessageState::{Delivered, Failed, Pending, Shadowed, Unmatched};
    let lease = lease(store).await;
    let failed = |reason| Consequence::Failed(Failure { reason, detail: "no".into() });
    let cases: [(&str, &str, Option<&str>, Deliveries); 8] = [
        ("unmatched", "web", Some("Signed Up"), &[]),
        ("refused", "web", Some("Left"), &[("one", failed(FailureReason::Refused))]),
        ("expired", "app", Some("Left"), &[("two", failed(FailureReason::Expired))]),
        ("delivered", "app", None, &[("one", Consequence::Delivered)]),
        (
            "half",
            "web",
            None,
            &[("one", Consequence::Delivered), ("two", failed(FailureReason::Refused))],
        ),
        // Its second delivery has not ended.
        (
            "retried",
            "web",
            Some("Left"),
            &[("one", failed(FailureReason::Refused)), ("two", Consequence::Retry(at(900)))],
        ),
        (
            "shadowed",
            "web",
            None,
            &[("three", Consequence::Delivered), ("four", Consequence::Shadowed)],
        ),
        (
            "lost",
            "web",
            None,
            &[("three", failed(FailureReason::Expired)), ("four", Consequence::Shadowed)],
        ),
    ];
    for (n, (id, source, event, deliveries)) in cases.into_iter().enumerate() {
        let kind = if event.is_some() { MessageType::Track } else { MessageType::Identify };
        let received_at = at(100_000 * n as i64);
        let (source, event) = (source.into(), event.map(str::to_owned));
        let new = NewMessage { source, event, kind, received_at, ..message(id) };
        let seq = put(store, new).await;
        let planned = deliveries.iter().map(|(name, _)| delivery(name, Ok(request(1)))).collect();
        let frozen = store.freeze_one(&lease, seq, plan(planned)).await.unwrap();
        for (request, (_, consequence)) in frozen.iter().zip(deliveries) {
            store.settle(&lease, settlement(request, 1, consequence.clone())).await.unwrap();
        }
    }
    let elsewhere = NewMessage {
        destination: "other".into(),
        received_at: at(800_000),
        event: Some("Signed Up".into()),
        ..message("elsewhere")
    };
    put(store, elsewhere).await;

    let any = Filter::default;
    let text = |text: &str| Some(text.to_owned());
    let refused = Some(FailureReason::Refused);
    let cases: Vec<(Filter, &[&str])> = vec![
        (
            any(),
            &[
                "elsewhere",
                "lost",
                "shadowed",
                "retried",
                "half",
                "delivered",
                "expired",
                "refused",
                "unmatched",
            ],
        ),
        (Filter { state: Some(Shadowed), ..any() }, &["shadowed"]),
        (Filter { subscription: text("four"), ..any() }, &["lost", "shadowed"]),
        (Filter { subscription: text("four"), state: Some(Shadowed), ..any() }, &["shadowed"]),
        (Filter { state: Some(Pending), ..any() }, &["elsewhere", "retried"]),
        (Filter { state: Some(Delivered), ..any() }, &["delivered"]),
        (Filter { state: Some(Failed), ..any() }, &["lost", "half", "expired", "refused"]),
        (Filter { state: Some(Unmatched), ..any() }, &["unmatched"]),
        (Filter { reason: refused, ..any() }, &["retried", "half", "refused"]),
        (Filter { reason: Some(FailureReason::Invalid), ..any() }, &[]),
        (Filter { reason: refused, state: Some(Failed), ..any() }, &["half", "refused"]),
        (Filter { destination: text("other"), ..any() }, &["elsewhere"]),
        (Filter { destination: text("other"), state: Some(Failed), ..any() }, &[]),
        (Filter { source: text("app"), ..any() }, &["delivered", "expired"]),
        (
            Filter { kind: Some(MessageType::Identify), ..any() },
            &["lost", "shadowed", "half", "delivered"],
        ),
        (Filter { event: text("Left"), ..any() }, &["retried", "expired", "refused"]),
        (Filter { event: text("Left"), source: text("app"), ..any() }, &["expired"]),
        (Filter { event: text("left"), ..any() }, &[]),
        (
            Filter { subscription: text("one"), ..any() },
            &["retried", "half", "delivered", "refused"],
        ),
        // The same delivery must meet both conditions.
        (Filter { subscription: text("one"), reason: refused, ..any() }, &["retried", "refused"]),
        (
            Filter { from: Some(at(400_000)), ..any() },
            &["elsewhere", "lost", "shadowed", "retried", "half"],
        ),
        (Filter { to: Some(at(100_000)), ..any() }, &["unmatched"]),
        (
            Filter { from: Some(at(100_000)), to: Some(at(300_001)), ..any() },
            &["delivered", "expired", "refused"],
        ),
        (
            Filter {
                persons: vec![user("u1")],
                source: text("app"),
                to: Some(at(300_000)),
                ..any()
            },
            &["expired"],
        ),
    ];
    for (filter, expected) in cases {
        for limit in [1, 2, 100] {
            assert_eq!(listed(store, &filter, limit).await, expected, "{filter:?} by {limit}");
        }
    }
}

/// More messages than an engine examines in one call.
const LONG_QUEUE: usize = 5_100;

pub(crate) async fn lists_what_ended_behind_a_long_queue(store: &dyn Store) {
    use MessageState::{Delivered, Failed, Shadowed, Unmatched};
    let lease = lease(store).await;
    for (id, ends) in [
        ("delivered", Some(Consequence::Delivered)),
        ("failed", Some(Consequence::Failed(failure()))),
        ("shadowed", Some(Consequence::Shadowed)),
        ("unmatched", None),
    ] {
        let seq = put(store, message(id)).await;
        let planned = ends.iter().map(|_| delivery("one", Ok(request(1)))).collect();
        let frozen = store.freeze_one(&lease, seq, plan(planned)).await.unwrap();
        if let Some(ends) = ends {
            store.settle(&lease, settlement(&frozen[0], 1, ends)).await.unwrap();
        }
    }
    let waiting: Vec<NewMessage> =
        (0..LONG_QUEUE).map(|n| message(&format!("waiting {n}"))).collect();
    for part in waiting.chunks(1_000) {
        store.accept(part.to_vec()).await.unwrap();
    }
    for (state, id) in [
        (Delivered, "delivered"),
        (Failed, "failed"),
        (Shadowed, "shadowed"),
        (Unmatched, "unmatched"),
    ] {
        let filter = Filter { state: Some(state), ..Filter::default() };
        let page = store.list(&filter, None, 10).await.unwrap();
        let ids: Vec<&str> = page.messages.iter().map(|one| one.message_id.as_str()).collect();
        assert_eq!((ids, page.next), (vec![id], None), "the first page has all that is {state:?}");
    }
}

pub(crate) async fn lists_replayed_messages_by_the_time_they_were_received(store: &dyn Store) {
    let lease = lease(store).await;
    for n in 0..6_i64 {
        let seq =
            put(store, NewMessage { received_at: at(n * 60_000), ..message(&n.to_string()) }).await;
        if n % 2 == 0 {
            end_failed(store, &lease, seq).await;
        }
    }
    assert_eq!(replay_all(store).await, (3, 0));
    // The replay gave them new sequence numbers; their times are unchanged.
    let cases: [(Option<i64>, Option<i64>, &[&str]); 6] = [
        (None, None, &["4", "2", "0", "5", "3", "1"]),
        (Some(0), Some(1), &["0"]),
        (Some(2), Some(4), &["2", "3"]),
        (Some(4), None, &["4", "5"]),
        (None, Some(3), &["2", "0", "1"]),
        (Some(6), None, &[]),
    ];
    for (from, to, expected) in cases {
        let minute = |n: Option<i64>| n.map(|n| at(n * 60_000));
        let filter = Filter { from: minute(from), to: minute(to), ..Filter::default() };
        assert_eq!(listed(store, &filter, 1).await, expected, "{filter:?}");
        assert_eq!(listed(store, &filter, 100).await, expected, "{filter:?}");
    }
}

pub(crate) async fn groups_failures_by_cause(store: &dyn Store) {
    let lease = lease(store).await;
    let cases = [
        ("a", "one", FailureReason::Refused, "no list cm1"),
        ("b", "one", FailureReason::Refused, "no list cm22"),
        ("c", "one", FailureReason::Expired, "no list cm1"),
        ("d", "two", FailureReason::Refused, "no list cm1"),
        ("e", "one", FailureReason::Refused, "no list cm333"),
    ];
    for (n, (id, name, reason, detail)) in cases.into_iter().enumerate() {
        let seq = put(store, message(id)).await;
        let failure = Failure { reason, detail: detail.into() };
        let planned =
            NewPlan { now: at(10 * n as i64), ..plan(vec![delivery(name, Err(failure))]) };
        store.freeze_one(&lease, seq, planned).await.unwrap();
    }
    let delivered = put(store, message("delivered")).await;
    let planned = plan(vec![delivery("one", Ok(request(1)))]);
    let frozen = store.freeze_one(&lease, delivered, planned).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();

    let groups = async |filter: &Filter| {
        let found = store.failures(filter).await.unwrap();
        assert!(found.is_complete);
        found.groups
    };
    let shown = |group: &FailureGroup| {
        let FailureGroup { subscription, reason, cause, deliveries, example, .. } = group;
        format!(
            "{} {} {cause}: {deliveries}, {example}",
            subscription.as_deref().unwrap(),
            reason.as_str()
        )
    };
    let found = groups(&Filter::default()).await;
    let expected = [
        "one refused no list …: 3, e",
        "two refused no list …: 1, d",
        "one expired no list …: 1, c",
    ];
    assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), expected);
    assert_eq!((found[0].first_at, found[0].last_at), (at(0), at(40)));
    assert_eq!(found[0].example_seq, record(store, "e").await.seq);
    let two = Filter { subscription: Some("two".into()), ..Filter::default() };
    assert_eq!(groups(&two).await, found[1..2]);
    let expired = Filter { reason: Some(FailureReason::Expired), ..Filter::default() };
    assert_eq!(groups(&expired).await, found[2..]);
    // A failure that was superseded no longer counts.
    assert_eq!(replay_all(store).await, (5, 0));
    assert_eq!(groups(&Filter::default()).await, []);
    let seq = record(store, "a").await.seq;
    store.freeze_one(&lease, seq, plan(vec![delivery("one", Err(failure()))])).await.unwrap();
    let again = groups(&Filter::default()).await;
    let expected = ["one invalid `userId` is missing: 1, a"];
    assert_eq!(again.iter().map(shown).collect::<Vec<_>>(), expected);
}

/// Returns the names of a source's events, and when each was seen first and last, in milliseconds after the beginning
/// of the test.
async fn names(store: &dyn Store, source: Option<&str>) -> Vec<(String, i64, i64)> {
    let found = store.event_names(source).await.unwrap();
    let ms = |time: Timestamp| time.as_millisecond() - at(0).as_millisecond();
    let shown = |event: EventName| {
        let EventName { source, name, first_seen_at, last_seen_at } = event;
        (format!("{source}: {name}"), ms(first_seen_at), ms(last_seen_at))
    };
    found.into_iter().map(shown).collect()
}

fn event(id: &str, source: &str, name: &str, ms: i64) -> NewMessage {
    let (source, event) = (source.into(), Some(name.into()));
    NewMessage { source, event, received_at: at(ms), ..message(id) }
}

pub(crate) async fn remembers_the_names_of_events(store: &dyn Store) {
    assert_eq!(names(store, None).await, []);
    for new in [
        event("a", "web", "Left", 0),
        event("b", "app", "Left", 1_000),
        event("c", "web", "Signed Up", 2_000),
        event("d", "web", "Left", 70_000),
        // It arrived late.
        event("e", "web", "Left", 1_000),
        NewMessage { event: None, kind: MessageType::Identify, ..message("f") },
    ] {
        store.accept(vec![new]).await.unwrap();
    }
    let [left, signed_up, app] =
        [("web: Left", 0, 70_000), ("web: Signed Up", 2_000, 2_000), ("app: Left", 1_000, 1_000)]
            .map(|(name, first, last)| (name.to_owned(), first, last));
    assert_eq!(names(store, None).await, [left.clone(), signed_up.clone(), app.clone()]);
    assert_eq!(names(store, Some("web")).await, [left, signed_up]);
    assert_eq!(names(store, Some("app")).await, [app]);
    assert_eq!(names(store, Some("none")).await, []);
    assert_eq!(record(store, "c").await.event.as_deref(), Some("Signed Up"));
    assert_eq!(record(store, "f").await.event, None);
}

pub(crate) async fn bounds_the_names_of_events_of_a_source(store: &dyn Store) {
    // Two names more than are kept apart, all in one call, and then all of them again.
    let of_round = |round: usize| {
        let new = |n| event(&format!("{round} {n}"), "web", &format!("Event {n}"), n as i64);
        (0..EVENT_NAMES_MAX + 2).map(new).collect::<Vec<_>>()
    };
    for round in 0..2 {
        store.accept(of_round(round)).await.unwrap();
    }
    store.accept(vec![event("a", "app", "Event 99", 0)]).await.unwrap();
    let mut found: Vec<String> =
        store.event_names(Some("web")).await.unwrap().into_iter().map(|event| event.name).collect();
    found.sort_unstable();
    let apart = (0..EVENT_NAMES_MAX).map(|n| format!("Event {n}"));
    assert_eq!(found, [OTHER_EVENTS.to_owned()].into_iter().chain(apart).collect::<Vec<_>>());
    assert_eq!(names(store, Some("app")).await, [("app: Event 99".to_owned(), 0, 0)]);
    let filter = |name: &str| Filter { event: Some(name.into()), ..Filter::default() };
    assert_eq!(listed(store, &filter("Event 0"), 100).await, ["1 0", "0 0"]);
    let others = [(1, 9), (1, 8), (0, 9), (0, 8)].map(|(round, n)| format!("{round} {n}"));
    assert_eq!(listed(store, &filter(OTHER_EVENTS), 100).await, others);
}
