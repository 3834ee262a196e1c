//! Shadow mode: a shadowed delivery has ended like a delivered one, but Loops knows nothing of it.

use super::erasure::{deleting, deletion, erase_all};
use super::replay::{all, meeting, replay};
use super::*;
use crate::queue::{
    ContactChange, DeliveryState, Learned, MessageState, NewMergedRequest, ReceiptFilter,
    ReplayState, RequestId, TallyStep,
};

/// Freezes one message in shadow mode.
async fn freeze(store: &dyn Store, lease: &Lease, seq: Seq, plan: NewPlan) -> Vec<FrozenRequest> {
    let plans = vec![(seq, plan)];
    let merge =
        NewMerge { plans, merged: Vec::new(), claims: Vec::new(), is_shadow: true, cap: None };
    store.freeze(lease, merge).await.unwrap().requests
}

fn shadowed(request: &FrozenRequest) -> Settlement {
    settlement(request, 1, Consequence::Shadowed)
}

/// Shadows a message with these deliveries.
async fn shadow(store: &dyn Store, lease: &Lease, id: &str, names: &[&str]) -> Seq {
    let seq = put(store, message(id)).await;
    let planned = names.iter().map(|name| delivery(name, Ok(request(1)))).collect();
    for request in freeze(store, lease, seq, plan(planned)).await {
        store.settle(lease, shadowed(&request)).await.unwrap();
    }
    seq
}

fn states(record: &MessageRecord) -> Vec<DeliveryState> {
    record.deliveries.iter().map(|delivery| delivery.state).collect()
}

async fn counted(store: &dyn Store) -> Vec<String> {
    let (from, to) = (at(0) - Duration::from_secs(3_600), at(0) + LIMITS.records_retention);
    let tallies = store.tallies(TallyStep::Hour, from, to).await.unwrap();
    let words = tallies.iter().map(|tally| {
        let name = tally.subscription.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{}{name}: {}", tally.stage.as_str(), tally.count)
    });
    words.collect()
}

pub(crate) async fn what_is_shadowed_has_ended_and_was_not_tried(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    let deliveries = vec![delivery("one", Ok(request(1))), delivery("two", Ok(request(2)))];
    let frozen = freeze(store, &lease, seq, plan(deliveries)).await;
    // Outside shadow mode, freezing begins the first attempt at an event, because Loops might have it after a crash.
    let job = store.open(seq).await.unwrap().unwrap();
    assert_eq!(job.requests[0].first_attempt_at, None);
    store.settle(&lease, shadowed(&frozen[0])).await.unwrap();
    assert_eq!(record(store, "a").await.state(), MessageState::Pending);
    store.settle(&lease, shadowed(&frozen[1])).await.unwrap();
    // Repeated, as if the response of the store had been lost.
    store.settle(&lease, shadowed(&frozen[1])).await.unwrap();
    let late = store.settle(&lease, settlement(&frozen[1], 1, Consequence::Delivered)).await;
    assert!(matches!(late, Err(WorkError::Broken(_))), "{late:?}");

    let shown = record(store, "a").await;
    assert_eq!((shown.state(), shown.is_done), (MessageState::Shadowed, true));
    assert_eq!(states(&shown), [DeliveryState::Shadowed; 2]);
    let delivery = &shown.deliveries[0];
    assert_eq!((&delivery.failure, &delivery.not_needed), (&None, &None));
    let request = delivery.request.as_ref().unwrap();
    assert_eq!((request.attempts.len(), request.next_attempt_at), (0, None));
    assert_eq!(heads(store).await, []);
    let expected = [
        "delivery_shadowed one: 1",
        "delivery_shadowed two: 1",
        "received: 1",
        "request: 2",
        "shadowed: 1",
    ];
    assert_eq!(counted(store).await, expected);
}

pub(crate) async fn a_shadowed_request_ends_all_that_it_carries(store: &dyn Store) {
    let lease = lease(store).await;
    let (first, second) = (put(store, message("a")).await, put(store, message("b")).await);
    let one = |name: &str| plan(vec![delivery(name, Ok(request(1)))]);
    let merge = NewMerge {
        plans: vec![(first, one("one")), (second, one("two"))],
        merged: vec![NewMergedRequest { request: request(9), carries: vec![(0, 0), (1, 0)] }],
        claims: Vec::new(),
        is_shadow: true,
        cap: None,
    };
    let frozen = store.freeze(&lease, merge).await.unwrap().requests.remove(0);
    store.settle(&lease, shadowed(&frozen)).await.unwrap();
    for id in ["a", "b"] {
        let shown = record(store, id).await;
        assert_eq!(states(&shown), [DeliveryState::Shadowed]);
        assert_eq!(shown.deliveries[0].request.as_ref().unwrap().id, frozen.id);
    }
}

pub(crate) async fn what_is_shadowed_teaches_nothing(store: &dyn Store) {
    let lease = lease(store).await;
    let key = user("u1");
    let known = async || store.contacts(DESTINATION, &[key]).await.unwrap();
    let settle = async |id: &str, with: Consequence, contact: ContactChange| {
        let seq = put(store, message(id)).await;
        let one = plan(vec![delivery("one", Ok(request(0)))]);
        let frozen = freeze(store, &lease, seq, one).await.remove(0);
        let settlement = Settlement { contact: Some(contact), ..settlement(&frozen, 1, with) };
        store.settle(&lease, settlement).await.unwrap();
    };
    settle("a", Consequence::Shadowed, ContactChange::Forget(key)).await;
    assert_eq!(known().await, []);
    let learned = Learned {
        key,
        email: Some(PersonDigest(3)),
        is_own_email: true,
        lane: key.into(),
        started_at: at(10),
        may_create: true,
        address: None,
        request: RequestId(7),
        properties: Vec::new(),
        opt_in: None,
    };
    settle("b", Consequence::Delivered, ContactChange::Learn(learned)).await;
    settle("c", Consequence::Shadowed, ContactChange::Forget(key)).await;
    let [contact] = known().await.try_into().unwrap();
    assert_eq!((contact.email, contact.properties), (Some(PersonDigest(3)), vec![]));
}

pub(crate) async fn a_shadowed_deletion_erases_nothing(store: &dyn Store) {
    let lease = lease(store).await;
    shadow(store, &lease, "before", &["one"]).await;
    let seq = put(store, deletion("deletion")).await;
    let frozen = freeze(store, &lease, seq, plan(vec![deleting(Ok(request(0)))])).await;
    store.settle(&lease, shadowed(&frozen[0])).await.unwrap();
    assert_eq!(record(store, "deletion").await.state(), MessageState::Shadowed);
    assert_eq!(erase_all(store).await, 0);
    // The deletion was requested and not carried out.
    let [receipt] =
        store.receipts(&ReceiptFilter::default(), 100).await.unwrap().try_into().unwrap();
    assert_eq!((receipt.problem.as_deref(), receipt.deleted_at), (Some("shadowed"), None));
    let since = at(0) - Duration::from_secs(60);
    assert_eq!(store.deleted_at(DESTINATION, &[user("u1")], since).await.unwrap(), None);
    // Both messages can be replayed, in order, and then the deletion is carried out.
    assert_eq!(replay(store, all(ReplayState::Shadowed), false).await, (2, 0));
    let [before, deleting_] = heads(store).await.try_into().unwrap();
    let one = plan(vec![delivery("one", Ok(request(1)))]);
    let frozen = store.freeze_one(&lease, before.seq, one).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    let one = plan(vec![deleting(Ok(request(0)))]);
    let frozen = store.freeze_one(&lease, deleting_.seq, one).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert!(erase_all(store).await > 0);
    assert_eq!(store.open_erasures().await.unwrap(), []);
}

pub(crate) async fn replays_what_was_shadowed_and_nothing_else(store: &dyn Store) {
    let lease = lease(store).await;
    shadow(store, &lease, "a", &["one", "two"]).await;
    // Each delivery of this message ends differently.
    let seq = put(store, message("b")).await;
    let names = ["one", "two", "three"].map(|name| delivery(name, Ok(request(1))));
    let frozen = freeze(store, &lease, seq, plan(names.into())).await;
    let fates = [Consequence::Delivered, Consequence::Shadowed, Consequence::Failed(failure())];
    for (request, fate) in frozen.iter().zip(fates) {
        store.settle(&lease, settlement(request, 1, fate)).await.unwrap();
    }
    assert_eq!(record(store, "b").await.state(), MessageState::Failed);
    let seq = put(store, message("delivered")).await;
    let one = plan(vec![delivery("one", Ok(request(1)))]);
    let frozen = store.freeze_one(&lease, seq, one).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    shadow(store, &lease, "c", &["one"]).await;

    assert_eq!(replay(store, all(ReplayState::Delivered), true).await, (1, 0));
    assert_eq!(replay(store, all(ReplayState::Failed), true).await, (1, 0));
    assert_eq!(replay(store, all(ReplayState::Shadowed), true).await, (3, 0));
    let under = |name: &str| Filter { subscription: Some(name.into()), ..Filter::default() };
    for (name, expected) in [("one", 2), ("two", 2), ("three", 0)] {
        let selection = meeting(under(name), ReplayState::Shadowed);
        assert_eq!(replay(store, selection, true).await, (expected, 0), "{name}");
    }
    assert_eq!(replay(store, all(ReplayState::Shadowed), false).await, (3, 0));
    let mut jobs = Vec::new();
    for head in heads(store).await {
        let job = store.open(head.seq).await.unwrap().unwrap();
        let mut settled = job.replay.settled;
        settled.sort();
        jobs.push((job.message_id, settled));
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let expected = [
        ("a".to_owned(), names(&[])),
        ("b".to_owned(), names(&["one", "three"])),
        ("c".to_owned(), names(&[])),
    ];
    assert_eq!(jobs, expected);
    assert_eq!(replay(store, all(ReplayState::Shadowed), true).await, (0, 0));
}

pub(crate) async fn what_was_shadowed_and_stands_keeps_a_message_shadowed(store: &dyn Store) {
    let lease = lease(store).await;
    shadow(store, &lease, "a", &["one", "two"]).await;
    let under = Filter { subscription: Some("two".into()), ..Filter::default() };
    assert_eq!(replay(store, meeting(under, ReplayState::Shadowed), false).await, (1, 0));
    // The subscription no longer takes the message.
    let seq = heads(store).await[0].seq;
    store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    assert_eq!(record(store, "a").await.state(), MessageState::Shadowed);
    assert_eq!(counted(store).await.last().unwrap(), "shadowed: 2");
    // The other subscription takes it, and Loops accepts the request. The delivery that was replayed first is
    // superseded, so nothing shadowed stands.
    let under = Filter { subscription: Some("one".into()), ..Filter::default() };
    assert_eq!(replay(store, meeting(under, ReplayState::Shadowed), false).await, (1, 0));
    let seq = heads(store).await[0].seq;
    let one = plan(vec![delivery("one", Ok(request(1)))]);
    let frozen = store.freeze_one(&lease, seq, one).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert_eq!(record(store, "a").await.state(), MessageState::Delivered);
}

pub(crate) async fn what_was_shadowed_is_kept_like_what_was_delivered(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = shadow(store, &lease, "a", &["one"]).await;
    let after = |kept: Duration| at(15) + kept;
    let long_before = Duration::from_millis(1);
    while store.purge(after(LIMITS.delivered_retention) - long_before).await.unwrap() > 0 {}
    assert_eq!(store.contents(&[seq]).await.unwrap().len(), 1);
    while store.purge(after(LIMITS.delivered_retention)).await.unwrap() > 0 {}
    assert_eq!(store.contents(&[seq]).await.unwrap(), []);
    assert_eq!(replay(store, all(ReplayState::Shadowed), true).await, (0, 1));
    while store.purge(after(LIMITS.records_retention)).await.unwrap() > 0 {}
    assert!(store.by_message_id(message_hash("a"), "a").await.unwrap().is_empty());
}
