//! Feedback: recorded once, found by person, handed on, and removed after its retention.

use super::erasure::{deleting, deletion, end as end_message, erase_all};
use super::*;
use crate::queue::{
    FORWARD_BYTES_MAX, FORWARD_KEPT, FORWARD_WAIT_MAX, FORWARDS_MAX, FeedbackRecord, NewFeedback,
    Origin, OriginKind, Recorded, SignedWebhook, forward_wait,
};

/// An event with the id of its webhook. Each event happens a second after the one before.
fn event(n: i64) -> FeedbackRecord {
    FeedbackRecord {
        destination: DESTINATION.into(),
        webhook_id: format!("msg_{n}"),
        received_at: at(n * 1_000 + 500),
        at: at(n * 1_000),
        event: "email.delivered".into(),
        user: Some(user("u1")),
        email: Some(address("ada@example.com")),
        contact_id: Some("c1".into()),
        origin: Some(Origin { kind: OriginKind::Workflow, id: "w1".into(), name: None }),
        email_id: Some(format!("mail_{n}")),
    }
}

fn address(address: &str) -> PersonDigest {
    Digests::new(&INSTALLATION_KEY).person(PersonIdKind::Email, address)
}

fn webhook(bytes: usize) -> SignedWebhook {
    SignedWebhook {
        timestamp: "1700000000".into(),
        signature: "v1,abc= v1,def=".into(),
        body: Bytes::from(vec![b'x'; bytes]),
    }
}

async fn put_event(store: &dyn Store, record: FeedbackRecord) -> Recorded {
    store.record(NewFeedback { record, forward: None }).await.unwrap()
}

async fn put_forward(store: &dyn Store, n: i64, bytes: usize) -> Recorded {
    let forward = Some(webhook(bytes));
    store.record(NewFeedback { record: event(n), forward }).await.unwrap()
}

async fn about(store: &dyn Store, persons: &[PersonDigest]) -> Vec<String> {
    let found = store.by_person(persons, 100).await.unwrap();
    found.into_iter().map(|record| record.webhook_id).collect()
}

/// Takes the webhooks that are due; returns their ids, and how often each was taken.
async fn take(store: &dyn Store, now: Timestamp, limit: u32) -> Vec<(String, u32)> {
    let taken = store.take_forwards(DESTINATION, now, limit).await.unwrap();
    taken.into_iter().map(|forward| (forward.webhook_id, forward.tries)).collect()
}

pub(crate) async fn records_feedback_once(store: &dyn Store) {
    let whole = FeedbackRecord {
        event: "something.new".into(),
        origin: Some(Origin {
            kind: OriginKind::MailingList,
            id: "l1".into(),
            name: Some("Weekly \u{1f4ec}".into()),
        }),
        ..event(1)
    };
    let bare = FeedbackRecord {
        destination: "other".into(),
        user: None,
        email: None,
        contact_id: None,
        origin: None,
        email_id: None,
        ..event(1)
    };
    assert_eq!(put_event(store, whole.clone()).await, Recorded::New);
    assert_eq!(put_event(store, whole.clone()).await, Recorded::Duplicate);
    // The event that was recorded first stays.
    let other = FeedbackRecord { event: "changed".into(), ..whole.clone() };
    assert_eq!(put_event(store, other).await, Recorded::Duplicate);
    assert_eq!(put_event(store, bare.clone()).await, Recorded::New, "of another destination");
    assert_eq!(store.by_destination(DESTINATION, 10).await.unwrap(), [whole]);
    assert_eq!(store.by_destination("other", 10).await.unwrap(), [bare]);
}

pub(crate) async fn finds_the_feedback_about_a_person_by_any_id(store: &dyn Store) {
    let [ada, bob] = ["ada@example.com", "bob@example.com"].map(address);
    for (n, user, email) in [
        (1, Some(user("u1")), Some(ada)),
        (2, None, Some(ada)),
        (3, Some(user("u2")), Some(bob)),
        (4, Some(user("u1")), None),
        (5, None, None),
    ] {
        put_event(store, FeedbackRecord { user, email, ..event(n) }).await;
    }
    // This event happened earlier and was reported later.
    put_event(store, FeedbackRecord { at: at(1_000), ..event(6) }).await;
    assert_eq!(about(store, &[user("u1")]).await, ["msg_4", "msg_6", "msg_1"]);
    assert_eq!(about(store, &[ada]).await, ["msg_2", "msg_6", "msg_1"]);
    assert_eq!(about(store, &[ada, user("u1")]).await, ["msg_4", "msg_2", "msg_6", "msg_1"]);
    assert_eq!(about(store, &[bob, user("u2")]).await, ["msg_3"]);
    assert_eq!(about(store, &[]).await, [""; 0]);
    let latest = store.by_person(&[user("u1"), ada], 2).await.unwrap();
    assert_eq!(
        latest.iter().map(|record| &record.webhook_id).collect::<Vec<_>>(),
        ["msg_4", "msg_2"]
    );
}

pub(crate) async fn lists_the_feedback_of_a_destination(store: &dyn Store) {
    assert_eq!(store.last_heard(DESTINATION).await.unwrap(), None);
    for n in [2, 1, 3] {
        put_event(store, event(n)).await;
    }
    put_event(store, FeedbackRecord { destination: "other".into(), ..event(4) }).await;
    let listed = store.by_destination(DESTINATION, 2).await.unwrap();
    assert_eq!(listed, [event(3), event(2)]);
    assert_eq!(store.last_heard(DESTINATION).await.unwrap(), Some(at(3_500)));
    assert_eq!(store.last_heard("other").await.unwrap(), Some(at(4_500)));
    assert_eq!(store.last_heard("none").await.unwrap(), None);
}

pub(crate) async fn hands_a_webhook_on_until_that_is_ended(store: &dyn Store) {
    put_event(store, event(0)).await;
    for n in 1..4 {
        assert_eq!(put_forward(store, n, 100).await, Recorded::New);
        assert_eq!(put_forward(store, n, 100).await, Recorded::Duplicate);
    }
    assert_eq!(store.take_forwards("other", at(9_000), 10).await.unwrap(), []);
    assert_eq!(take(store, at(1_499), 10).await, [], "not received yet");
    let taken = store.take_forwards(DESTINATION, at(4_000), 2).await.unwrap();
    assert_eq!(taken[0].webhook, webhook(100));
    assert_eq!((taken[0].received_at, taken[0].tries), (at(1_500), 1));
    assert_eq!(taken.len(), 2);
    assert_eq!(take(store, at(4_000), 10).await, [("msg_3".into(), 1)]);
    assert_eq!(take(store, at(4_000), 10).await, []);
    store.end_forward(DESTINATION, "msg_2").await.unwrap();
    store.end_forward(DESTINATION, "msg_2").await.unwrap();
    // The wait grows with each try.
    let mut now = at(4_000);
    for tries in 2..12 {
        now += SignedDuration::try_from(forward_wait(tries - 1)).unwrap();
        assert_eq!(take(store, now - SignedDuration::from_millis(1), 10).await, []);
        assert_eq!(take(store, now, 10).await, [("msg_1".into(), tries), ("msg_3".into(), tries)]);
    }
    assert_eq!(forward_wait(11), FORWARD_WAIT_MAX);
    // The clock is set back by a year.
    let back = now - SignedDuration::from_hours(24 * 365);
    assert_eq!(take(store, back, 10).await.len(), 2);
    for n in [1, 3] {
        store.end_forward(DESTINATION, &format!("msg_{n}")).await.unwrap();
    }
    assert_eq!(take(store, now + SignedDuration::from_hours(1), 10).await, []);
    assert_eq!(store.by_destination(DESTINATION, 10).await.unwrap().len(), 4, "the records stay");
}

pub(crate) async fn bounds_what_waits_to_be_handed_on(store: &dyn Store) {
    let most = i64::try_from(FORWARDS_MAX).unwrap();
    for n in 0..most {
        assert_eq!(put_forward(store, n, 10).await, Recorded::New);
    }
    assert_eq!(put_forward(store, most, 10).await, Recorded::NotForwarded);
    assert_eq!(put_forward(store, most, 10).await, Recorded::Duplicate);
    assert_eq!(put_event(store, event(most + 1)).await, Recorded::New);
    let taken = store.take_forwards(DESTINATION, at(100_000), 100).await.unwrap();
    assert_eq!(taken.len() as u64, FORWARDS_MAX);
    for forward in taken {
        store.end_forward(DESTINATION, &forward.webhook_id).await.unwrap();
    }
    let half = usize::try_from(FORWARD_BYTES_MAX / 2).unwrap();
    assert_eq!(put_forward(store, 100, half).await, Recorded::New);
    assert_eq!(put_forward(store, 101, half + 1).await, Recorded::NotForwarded);
    assert_eq!(put_forward(store, 102, half).await, Recorded::New);
    assert_eq!(put_forward(store, 103, 1).await, Recorded::NotForwarded);
}

pub(crate) async fn feedback_is_kept_as_long_as_records(store: &dyn Store) {
    put_event(store, event(0)).await;
    put_event(store, event(1)).await;
    let past = at(500) + LIMITS.records_retention;
    let purged = async |now| while store.purge(now).await.unwrap() > 0 {};
    purged(past - SignedDuration::from_millis(1)).await;
    assert_eq!(store.by_destination(DESTINATION, 10).await.unwrap().len(), 2);
    purged(past).await;
    assert_eq!(store.by_destination(DESTINATION, 10).await.unwrap(), [event(1)]);
}

pub(crate) async fn a_webhook_is_handed_on_for_a_day(store: &dyn Store) {
    put_forward(store, 0, 100).await;
    put_forward(store, 1, 100).await;
    let past = at(500) + FORWARD_KEPT;
    while store.purge(past).await.unwrap() > 0 {}
    assert_eq!(take(store, past, 10).await, [("msg_1".into(), 1)]);
    assert_eq!(store.by_destination(DESTINATION, 10).await.unwrap().len(), 2);
}

pub(crate) async fn erases_feedback_about_a_deleted_person(store: &dyn Store) {
    let lease = lease(store).await;
    let ada = address("ada@example.com");
    put_forward(store, 0, 100).await;
    put_event(store, FeedbackRecord { user: None, ..event(1) }).await;
    put_event(store, FeedbackRecord { user: Some(user("u2")), ..event(2) }).await;
    put_event(store, FeedbackRecord { destination: "other".into(), ..event(3) }).await;
    let seq = put(store, deletion("deletion")).await;
    erase_all(store).await;
    assert_eq!(about(store, &[user("u1"), ada]).await.len(), 4, "it was not delivered yet");
    end_message(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    // As with messages, events of another person with the same address stay.
    assert_eq!(about(store, &[user("u1"), ada]).await, ["msg_3", "msg_2", "msg_1"]);
    assert_eq!(take(store, at(9_000), 10).await, []);
    // The other way round: a deletion by the address alone.
    let by_address = NewMessage { lane: ada.into(), ..deletion("by address") };
    let seq = put(store, by_address).await;
    end_message(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    assert_eq!(about(store, &[user("u1"), user("u2"), ada]).await, ["msg_3"]);
}

pub(crate) async fn erases_much_feedback_in_bounded_parts(store: &dyn Store) {
    let lease = lease(store).await;
    for n in 0..450 {
        put_event(store, event(n)).await;
    }
    let seq = put(store, deletion("deletion")).await;
    end_message(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    let first = store.erase(at(50)).await.unwrap();
    assert!(first < 450, "all at once");
    erase_all(store).await;
    assert_eq!(about(store, &[user("u1")]).await, [""; 0]);
    assert_eq!(store.by_destination(DESTINATION, 10).await.unwrap(), []);
}

pub(crate) async fn two_stores_record_a_webhook_once_and_hand_it_on_once(
    a: &dyn Store,
    b: &dyn Store,
) {
    for n in 0..10 {
        let (one, two) = tokio::join!(put_forward(a, n, 10), put_forward(b, n, 10));
        assert!(matches!(
            (one, two),
            (Recorded::New, Recorded::Duplicate) | (Recorded::Duplicate, Recorded::New)
        ));
    }
    let (one, two) = tokio::join!(take(a, at(20_000), 10), take(b, at(20_000), 10));
    let mut taken = [one, two].concat();
    taken.extend(take(a, at(20_000), 10).await);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 10);
    assert!(taken.iter().all(|(_, tries)| *tries == 1));
}
