//! Erasing: whose contents are deleted, when, and which records stay.

use super::replay::{all, replay, replay_all};
use super::*;
use crate::queue::{Accepted, BrokenMessage, ReplayState};

pub(super) fn deletion(id: &str) -> NewMessage {
    NewMessage { kind: MessageType::Delete, ..message(id) }
}

pub(super) fn deleting(outcome: Result<NewRequest, Failure>) -> NewDelivery {
    let outcome =
        outcome.map(|request| NewRequest { endpoint: Endpoint::DeleteContact, ..request });
    NewDelivery { action: Some(ActionKind::DeleteContact), ..delivery("deletion", outcome) }
}

/// Ends a message with one delivery.
pub(super) async fn end(
    store: &dyn Store,
    lease: &Lease,
    seq: Seq,
    planned: NewDelivery,
    with: Consequence,
) {
    let frozen = store.freeze_one(lease, seq, plan(vec![planned])).await.unwrap();
    store.settle(lease, settlement(&frozen[0], 1, with)).await.unwrap();
}

async fn put_delivered(store: &dyn Store, lease: &Lease, message: NewMessage) {
    let seq = put(store, message).await;
    end(store, lease, seq, delivery("one", Ok(request(1))), Consequence::Delivered).await;
}

pub(super) async fn erase_all(store: &dyn Store) -> u64 {
    let mut rows = 0;
    loop {
        match store.erase(at(50)).await.unwrap() {
            0 => return rows,
            more => rows += more,
        }
    }
}

/// Whether the log still shows a warning or a response from Loops, which are erased with all other contents.
async fn has_contents(store: &dyn Store, id: &str) -> bool {
    let shown = record(store, id).await;
    if !shown.warnings.is_empty() {
        return true;
    }
    let requests = shown.deliveries.iter().filter_map(|delivery| delivery.request.as_ref());
    requests.flat_map(|request| &request.attempts).any(|attempt| !attempt.excerpt.is_empty())
}

pub(crate) async fn erases_after_a_delivered_deletion(store: &dyn Store) {
    let lease = lease(store).await;
    let elsewhere = LeaseRequest { destination: "other".into(), ..ask("a", at(0)) };
    let elsewhere = store.lease(elsewhere).await.unwrap().unwrap();
    let of = |id: &str, person: &str| NewMessage {
        lane: lane(person),
        warnings: vec!["a field".into()],
        ..message(id)
    };
    put_delivered(store, &lease, of("before", "u1")).await;
    let failed = put(store, of("failed", "u1")).await;
    let warned =
        NewDelivery { warnings: vec!["a field".into()], ..delivery("one", Ok(request(1))) };
    end(store, &lease, failed, warned, Consequence::Failed(failure())).await;
    put_delivered(store, &lease, of("another", "u2")).await;
    let other = NewMessage { destination: "other".into(), ..of("elsewhere", "u1") };
    put_delivered(store, &elsewhere, other).await;
    let seq = put(store, deletion("deletion")).await;
    let after = put(store, of("after", "u1")).await;
    assert_eq!(erase_all(store).await, 0, "it was not delivered yet");
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    end(store, &lease, after, delivery("one", Ok(request(1))), Consequence::Delivered).await;

    assert!(erase_all(store).await > 0);
    assert_eq!(erase_all(store).await, 0);
    let expected = [
        ("before", false),
        ("failed", false),
        ("deletion", false),
        ("another", true),
        ("elsewhere", true),
        ("after", true),
    ];
    for (id, expected) in expected {
        assert_eq!(has_contents(store, id).await, expected, "{id}");
    }
    // The record stays, with its outcome, but is no longer replayed.
    let shown = record(store, "failed").await;
    let failure = shown.deliveries[0].failure.clone().unwrap();
    assert_eq!((failure.reason.as_str(), failure.detail.as_str()), ("invalid", ""));
    assert!(shown.deliveries[0].warnings.is_empty());
    assert_eq!(replay_all(store).await, (0, 1));
    // It is deleted when its own retention is over.
    while store.purge(at(100) + LIMITS.records_retention).await.unwrap() > 0 {}
    assert!(of_person(store, "u1", None, 10).await.is_empty());
}

pub(crate) async fn erases_after_nothing_but_a_delivered_deletion(store: &dyn Store) {
    let lease = lease(store).await;
    put_delivered(store, &lease, message("before")).await;
    let cases = [
        (
            "retried",
            deletion("retried"),
            deleting(Ok(request(0))),
            Consequence::Retry(at(9)),
            false,
        ),
        ("held", deletion("held"), deleting(Ok(request(0))), HOLD, false),
        (
            "refused",
            deletion("refused"),
            deleting(Ok(request(0))),
            Consequence::Failed(failure()),
            false,
        ),
        (
            "another action",
            deletion("event"),
            delivery("one", Ok(request(1))),
            Consequence::Delivered,
            false,
        ),
        ("another type", message("track"), deleting(Ok(request(0))), Consequence::Delivered, false),
        ("delivered", deletion("deletion"), deleting(Ok(request(0))), Consequence::Delivered, true),
    ];
    for (what, message, planned, consequence, is_erased) in cases {
        let seq = put(store, message).await;
        end(store, &lease, seq, planned, consequence).await;
        erase_all(store).await;
        assert_eq!(has_contents(store, "before").await, !is_erased, "{what}");
    }
}

pub(crate) async fn erases_once_a_partly_failed_deletion_is_done(store: &dyn Store) {
    let lease = lease(store).await;
    put_delivered(store, &lease, message("before")).await;
    let seq = put(store, deletion("deletion")).await;
    let planned = vec![deleting(Ok(request(0))), delivery("event", Ok(request(1)))];
    let frozen = store.freeze_one(&lease, seq, plan(planned)).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert_eq!(erase_all(store).await, 0, "its second request needs what it holds");
    let failed = Consequence::Failed(failure());
    store.settle(&lease, settlement(&frozen[1], 1, failed)).await.unwrap();
    assert!(erase_all(store).await > 0);
    assert!(!has_contents(store, "before").await);
}

pub(crate) async fn erases_a_bounded_number_per_call(store: &dyn Store) {
    let lease = lease(store).await;
    store.accept((0..450).map(|n| message(&format!("m{n}"))).collect()).await.unwrap();
    for head in heads(store).await {
        store.freeze_one(&lease, head.seq, plan(vec![])).await.unwrap();
    }
    let seq = put(store, deletion("deletion")).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    let mut calls = 0;
    while store.erase(at(50)).await.unwrap() > 0 {
        calls += 1;
    }
    assert!(calls > 2, "all at once");
    assert_eq!(replay(store, all(ReplayState::All), true).await, (0, 451));
    // No digest finds them any more.
    let of_person = about("u1", ReplayState::All, Filter::default());
    assert_eq!(replay(store, of_person, true).await, (0, 0));
    assert!(super::of_person(store, "u1", None, 10).await.is_empty());
}

pub(crate) async fn does_not_replay_a_person_being_deleted(store: &dyn Store) {
    let lease = lease(store).await;
    let replayed = async || replay(store, all(ReplayState::All), false).await;
    put_delivered(store, &lease, message("before")).await;
    put_delivered(store, &lease, NewMessage { lane: lane("u2"), ..message("another") }).await;
    let elsewhere = NewMessage { destination: "other".into(), ..deletion("elsewhere") };
    put(store, elsewhere).await;
    // Dry runs and replays whose messages are then ended again, so that each of them finds the same messages.
    let waiting = put(store, deletion("deletion")).await;
    let dry = replay(store, all(ReplayState::All), true).await;
    assert_eq!(dry, (1, 1), "the deletion waits");
    end(store, &lease, waiting, deleting(Ok(request(0))), Consequence::Delivered).await;
    assert_eq!(replayed().await, (1, 2), "the erasure waits");
    erase_all(store).await;
    assert_eq!(replay(store, all(ReplayState::All), true).await, (0, 2), "it is erased");
    // A deletion that Loops refused does not keep the person's messages from being replayed.
    put_delivered(store, &lease, message("again")).await;
    let refused = put(store, deletion("refused")).await;
    let failed = Consequence::Failed(failure());
    end(store, &lease, refused, deleting(Ok(request(0))), failed).await;
    assert_eq!(replay(store, all(ReplayState::All), true).await, (2, 2));
}

pub(crate) async fn replays_nothing_from_before_a_deletion_whatever_its_type(store: &dyn Store) {
    let lease = lease(store).await;
    let of = |id: &str, person: &str| NewMessage { lane: lane(person), ..message(id) };
    put_delivered(store, &lease, of("before", "u1")).await;
    put_delivered(store, &lease, of("another", "u2")).await;
    put_delivered(store, &lease, of("kept", "u3")).await;
    let refused = put(store, of("refused", "u3")).await;
    let failed = Consequence::Failed(failure());
    end(store, &lease, refused, deleting(Ok(request(0))), failed.clone()).await;
    let seq = put(store, of("deletion", "u1")).await;
    put_delivered(store, &lease, of("after", "u1")).await;
    let planned = vec![delivery("event", Ok(request(1))), deleting(Ok(request(0)))];
    let frozen = store.freeze_one(&lease, seq, plan(planned)).await.unwrap();
    let replayed = async |state| replay(store, all(state), true).await;
    assert_eq!(replayed(ReplayState::All).await, (5, 0), "nobody was deleted yet");
    store.settle(&lease, settlement(&frozen[1], 1, Consequence::Delivered)).await.unwrap();
    assert_eq!(replayed(ReplayState::All).await, (4, 1), "though the message is not done");
    store.settle(&lease, settlement(&frozen[0], 1, failed)).await.unwrap();

    assert_eq!(replayed(ReplayState::All).await, (4, 2));
    assert_eq!(replayed(ReplayState::Failed).await, (1, 1), "the event would follow the deletion");
    assert_eq!(replay_all(store).await, (1, 1));
    // No record of the deletion outlives its message.
    let seq = heads(store).await[0].seq;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    while store.purge(at(100) + LIMITS.records_retention).await.unwrap() > 0 {}
    assert!(of_person(store, "u1", None, 10).await.is_empty());
}

pub(crate) async fn a_deletion_overtakes_a_replay(store: &dyn Store) {
    let lease = lease(store).await;
    let failed = || Consequence::Failed(failure());
    let put_failed = async |id: &str, planned| {
        let seq = put(store, message(id)).await;
        end(store, &lease, seq, planned, failed()).await;
    };
    let is_before_deletion =
        async |seq| store.open(seq).await.unwrap().unwrap().replay.is_before_deletion;
    put_failed("before", delivery("one", Ok(request(1)))).await;
    put_failed("deletion", deleting(Ok(request(0)))).await;
    put_failed("after", delivery("one", Ok(request(1)))).await;
    // `after` stands for a person who signed up again after the deletion.
    assert_eq!(replay_all(store).await, (3, 0));
    let [before, deletion, after] = heads(store).await.try_into().unwrap();
    assert!(!is_before_deletion(before.seq).await);
    end(store, &lease, deletion.seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    assert!(is_before_deletion(before.seq).await);
    assert!(!is_before_deletion(after.seq).await);
    assert!(!store.open(before.seq).await.unwrap().unwrap().replay.wants("one"));
}

pub(crate) async fn erases_once_a_half_delivered_deletion_is_set_aside(store: &dyn Store) {
    let lease = lease(store).await;
    put_delivered(store, &lease, message("before")).await;
    let seq = put(store, deletion("deletion")).await;
    let planned = vec![deleting(Ok(request(0))), delivery("event", Ok(request(1)))];
    let frozen = store.freeze_one(&lease, seq, plan(planned)).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert_eq!(erase_all(store).await, 0);
    let failure = Failure { reason: FailureReason::Unreadable, detail: "broken".into() };
    store.set_aside(&lease, BrokenMessage { seq, now: at(20), failure }).await.unwrap();
    assert!(erase_all(store).await > 0);
    assert!(!has_contents(store, "before").await);
}

pub(crate) async fn erases_nothing_of_another_person_with_the_same_address(store: &dyn Store) {
    let lease = lease(store).await;
    let address = Digests::new(&INSTALLATION_KEY).person(PersonIdKind::Email, "ada@example.com");
    let of = |id: &str, lane: LaneKey| NewMessage { lane, email: Some(address), ..message(id) };
    put_delivered(store, &lease, of("own", lane("u1"))).await;
    put_delivered(store, &lease, of("another", lane("u2"))).await;
    // A message whose person is known by the address alone.
    put_delivered(store, &lease, NewMessage { email: None, ..of("nameless", address.into()) })
        .await;
    let seq = put(store, NewMessage { email: Some(address), ..deletion("deletion") }).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    for (id, expected) in [("own", false), ("another", true), ("nameless", true)] {
        assert_eq!(has_contents(store, id).await, expected, "{id}");
    }
    // The other way round: a deletion by the address alone.
    let by_address = NewMessage { lane: address.into(), ..deletion("by address") };
    let seq = put(store, by_address).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    for (id, expected) in [("another", true), ("nameless", false)] {
        assert_eq!(has_contents(store, id).await, expected, "{id}");
    }
}

pub(crate) async fn only_the_message_id_finds_what_was_erased(store: &dyn Store) {
    let lease = lease(store).await;
    let digests = Digests::new(&INSTALLATION_KEY);
    let anonymous = digests.person(PersonIdKind::Anonymous, "a1");
    let email = digests.person(PersonIdKind::Email, "ada@example.com");
    let of =
        |id: &str| NewMessage { anonymous: Some(anonymous), email: Some(email), ..message(id) };
    let listed = async |person| {
        let filter = Filter { persons: vec![person], ..Filter::default() };
        let found = store.list(&filter, None, 100).await.unwrap().messages;
        found.into_iter().map(|message| message.message_id).collect::<Vec<_>>()
    };
    for id in ["a", "b", "c", "d"] {
        put_delivered(store, &lease, of(id)).await;
    }
    let seq = put(store, NewMessage { kind: MessageType::Delete, ..of("deletion") }).await;
    put(store, of("after")).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    assert_eq!(listed(email).await.len(), 6);
    erase_all(store).await;
    for person in [user("u1"), anonymous, email] {
        assert_eq!(listed(person).await, ["after"]);
    }
    for id in ["a", "b", "c", "d", "deletion"] {
        assert!(record(store, id).await.is_done, "{id}");
    }
    // The message ids are still known as duplicates.
    let again = store.accept(vec![of("a"), message("deletion")]).await.unwrap();
    assert_eq!(again, [Accepted::Duplicate, Accepted::Duplicate]);
    for id in ["u1", "a1", "ada@example.com"] {
        let selection = about(id, ReplayState::All, Filter::default());
        assert_eq!(replay(store, selection, true).await, (0, 0), "{id}");
    }
}
