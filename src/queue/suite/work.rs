//! The methods that the delivery engine calls: lease, open, freeze, settle; every change of state and every fence.

use super::*;
use crate::queue::{BrokenMessage, DeliveryState, RequestId};

fn assert_fenced<T: std::fmt::Debug>(answer: Result<T, WorkError>, what: &str) {
    assert!(matches!(answer, Err(WorkError::Fenced)), "{what}: {answer:?}");
}

/// Asserts an error that makes the engine read the message again, or set it aside.
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, WorkError>, what: &str) {
    assert!(matches!(answer, Err(WorkError::Fenced | WorkError::Broken(_))), "{what}: {answer:?}");
}

fn assert_broken<T: std::fmt::Debug>(answer: Result<T, WorkError>, what: &str) {
    assert!(matches!(answer, Err(WorkError::Broken(_))), "{what}: {answer:?}");
}

/// Puts and freezes a message with one request.
async fn planned(store: &dyn Store, lease: &Lease, id: &str) -> (Seq, FrozenRequest) {
    let seq = put(store, message(id)).await;
    let mut requests =
        store.freeze_one(lease, seq, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();
    assert_eq!(requests.len(), 1);
    (seq, requests.remove(0))
}

pub(crate) async fn leases_to_one_holder_at_a_time(store: &dyn Store) {
    // A lease lasts 100 ms. Each case: the holder that asks, the time, and the token that is returned.
    let cases = [
        ("a", 0, Some(1), "first"),
        ("b", 50, None, "held by another"),
        ("a", 50, Some(1), "renewed: runs to 150"),
        ("b", 149, None, "not run out yet"),
        ("b", 150, Some(2), "run out"),
        ("a", 200, None, "changed hands"),
        ("b", 250, Some(2), "its own, expired: nobody held it since"),
        ("b", 260, Some(2), "renewed: runs to 360"),
        ("a", -639, None, "as long as can be"),
        ("a", -640, Some(3), "longer than can be: the clock was set back"),
        ("b", -600, None, "changed hands, by the clock that counts now"),
    ];
    for (holder, ms, token, why) in cases {
        let lease = store.lease(ask(holder, at(ms))).await.unwrap();
        assert_eq!(lease.as_ref().map(|lease| lease.token), token, "{why}");
        if let Some(lease) = lease {
            assert_eq!((lease.holder.as_str(), lease.destination.as_str()), (holder, DESTINATION));
        }
    }
    let other = LeaseRequest { destination: "other".into(), ..ask("a", at(0)) };
    assert_eq!(store.lease(other).await.unwrap().map(|lease| lease.token), Some(1));
}

pub(crate) async fn releases_a_lease_once(store: &dyn Store) {
    assert_eq!(store.lease_holder(DESTINATION).await.unwrap(), None);
    let first = lease(store).await;
    let holder = store.lease_holder(DESTINATION).await.unwrap().map(|found| found.holder);
    assert_eq!(holder.as_ref(), Some(&first.holder));
    store.release(&first).await.unwrap();
    assert_eq!(store.lease_holder(DESTINATION).await.unwrap(), None);
    assert_fenced(store.release(&first).await, "released before");
    let seq = put(store, message("a")).await;
    assert_fenced(store.freeze_one(&first, seq, plan(vec![])).await, "released before");
    let second = store.lease(ask("b", at(1))).await.unwrap().unwrap();
    assert!(second.token > first.token);
    assert_fenced(store.release(&first).await, "another holds it");
    assert!(store.lease(ask("a", at(2))).await.unwrap().is_none(), "the other still holds it");
}

pub(crate) async fn opens_pending_messages(store: &dyn Store) {
    assert!(store.open(Seq(1)).await.unwrap().is_none());
    let new = message("a");
    let seq = put(store, new.clone()).await;
    let job = store.open(seq).await.unwrap().unwrap();
    assert_eq!((job.source, job.message_id), (new.source, new.message_id));
    assert_eq!((job.received_at, job.payload), (new.received_at, new.payload));
    assert!(!job.is_planned && job.requests.is_empty());
}

pub(crate) async fn freezes_requests_in_order(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    let deliveries = vec![
        delivery("first", Ok(request(0))),
        delivery("second", Err(failure())),
        NewDelivery {
            warnings: vec!["left out".into(), "\"x\"".into()],
            ..delivery("third", Ok(request(3)))
        },
    ];
    let frozen = store.freeze_one(&lease, seq, plan(deliveries)).await.unwrap();
    let written = |n: usize, from: NewRequest| {
        let found = &frozen[n];
        assert_eq!(found.endpoint, from.endpoint);
        assert_eq!((&found.body, &found.idempotency_key), (&from.body, &from.idempotency_key));
        assert_eq!(
            (found.attempts, found.first_attempt_at, found.next_attempt_at),
            (0, None, None)
        );
    };
    assert_eq!(frozen.len(), 2);
    written(0, request(0));
    written(1, request(3));

    let job = store.open(seq).await.unwrap().unwrap();
    assert!(job.is_planned);
    assert_eq!(job.requests, frozen);
    let record = record(store, "a").await;
    let shown: Vec<_> = record
        .deliveries
        .iter()
        .map(|d| (d.subscription.as_deref().unwrap_or_default(), d.state, d.failure.clone()))
        .collect();
    let expected = [
        ("first", DeliveryState::Pending, None),
        ("second", DeliveryState::Failed, Some(failure())),
        ("third", DeliveryState::Pending, None),
    ];
    assert_eq!(shown, expected);
    assert_eq!(record.deliveries[2].warnings, ["left out", "\"x\""]);

    // A message is planned once: freezing another plan changes nothing and returns the existing requests.
    let again = store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    assert_eq!(again, frozen);
    assert_eq!(super::record(store, "a").await.deliveries.len(), 3);
}

pub(crate) async fn ends_a_message_that_needs_no_request(store: &dyn Store) {
    let lease = lease(store).await;
    for (id, deliveries, unmatched) in [
        ("unmatched", vec![], Some((UnmatchedReason::Integrations, "turned off"))),
        ("failed", vec![delivery("one", Err(failure()))], None),
    ] {
        let seq = put(store, message(id)).await;
        assert_eq!(store.freeze_one(&lease, seq, plan(deliveries)).await.unwrap(), []);
        assert!(store.open(seq).await.unwrap().is_none(), "{id}");
        let record = record(store, id).await;
        assert!(record.is_done, "{id}");
        let shown = record.unmatched.as_ref().map(|it| (it.reason, it.detail.as_str()));
        assert_eq!(shown, unmatched, "{id}");
        // Freezing a message that has ended returns no requests.
        assert_eq!(store.freeze_one(&lease, seq, plan(vec![])).await.unwrap(), []);
    }
    assert_eq!(heads(store).await, []);
}

pub(crate) async fn schedules_a_retry(store: &dyn Store) {
    let lease = lease(store).await;
    let (seq, frozen) = planned(store, &lease, "a").await;
    for number in [1, 2] {
        let due = at(1_000 * i64::from(number));
        let settlement = settlement(&frozen, number, Consequence::Retry(due));
        // A settlement that is repeated counts once.
        store.settle(&lease, settlement.clone()).await.unwrap();
        store.settle(&lease, settlement).await.unwrap();
        assert_eq!(heads(store).await[0].next_attempt_at, Some(due));
        let expected = FrozenRequest {
            attempts: number,
            first_attempt_at: Some(at(1)),
            next_attempt_at: Some(due),
            ..frozen.clone()
        };
        assert_eq!(store.open(seq).await.unwrap().unwrap().requests, [expected]);
    }
}

pub(crate) async fn a_held_request_does_not_start_its_retry_window(store: &dyn Store) {
    let lease = lease(store).await;
    let (seq, frozen) = planned(store, &lease, "a").await;
    store.settle(&lease, settlement(&frozen, 1, HOLD)).await.unwrap();
    let held = FrozenRequest { attempts: 1, ..frozen.clone() };
    assert_eq!(held.first_attempt_at, None);
    assert_eq!(store.open(seq).await.unwrap().unwrap().requests, [held]);
    store.settle(&lease, settlement(&frozen, 2, Consequence::Retry(at(900)))).await.unwrap();
    let retried = store.open(seq).await.unwrap().unwrap().requests.remove(0);
    assert_eq!((retried.attempts, retried.first_attempt_at), (2, Some(at(20))));
    // The request was tried before, and that stays recorded.
    let held = Consequence::Hold { first_attempt_at: Some(at(20)) };
    store.settle(&lease, settlement(&frozen, 3, held)).await.unwrap();
    let held = store.open(seq).await.unwrap().unwrap().requests.remove(0);
    assert_eq!((held.attempts, held.first_attempt_at), (3, Some(at(20))));
}

pub(crate) async fn an_event_counts_as_tried_before_it_is_sent(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    let deliveries = vec![delivery("one", Ok(request(1))), delivery("two", Ok(request(2)))];
    let frozen = store.freeze_one(&lease, seq, plan(deliveries)).await.unwrap();
    assert_eq!(frozen[0].first_attempt_at, None, "as it was before this step");
    let begun = || async {
        let requests = store.open(seq).await.unwrap().unwrap().requests;
        let begun = requests.iter().map(|one| (one.attempts, one.first_attempt_at));
        begun.collect::<Vec<_>>()
    };
    assert_eq!(begun().await, [(0, Some(at(1))), (0, None)], "the second one waits");
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert_eq!(begun().await, [(0, None)]);
    for now in [at(20), at(30)] {
        let begin = settlement(&frozen[1], 1, Consequence::Begin);
        store.settle(&lease, Settlement { now, attempt: None, ..begin }).await.unwrap();
        assert_eq!(begun().await, [(0, Some(at(20)))]);
    }
    // Requests other than events may be repeated at any time, so no attempt begins with the freeze.
    let seq = put(store, message("b")).await;
    let deliveries = plan(vec![delivery("one", Ok(request(0)))]);
    let frozen = store.freeze_one(&lease, seq, deliveries).await.unwrap();
    assert_eq!(store.open(seq).await.unwrap().unwrap().requests, frozen);
}

pub(crate) async fn counts_the_retry_window_from_the_earliest_attempt(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    let upsert = plan(vec![delivery("one", Ok(request(0)))]);
    let frozen = store.freeze_one(&lease, seq, upsert).await.unwrap().remove(0);
    // The clock was ahead at the first attempt, and was then set back by an hour.
    let hour = SignedDuration::from_hours(1);
    for (number, started_at, first) in
        [(1, at(10) + hour, at(10) + hour), (2, at(20), at(20)), (3, at(30), at(20))]
    {
        let mut settlement = settlement(&frozen, number, Consequence::Retry(at(900)));
        settlement.attempt.as_mut().unwrap().started_at = started_at;
        store.settle(&lease, settlement).await.unwrap();
        let requests = store.open(seq).await.unwrap().unwrap().requests;
        assert_eq!(requests[0].first_attempt_at, Some(first), "{number}");
    }
}

pub(crate) async fn shows_the_earliest_next_attempt(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    let deliveries = (1..=3).map(|n| delivery(&n.to_string(), Ok(request(n)))).collect();
    let frozen = store.freeze_one(&lease, seq, plan(deliveries)).await.unwrap();
    assert_eq!(heads(store).await[0].next_attempt_at, None, "none was tried");
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Retry(at(900)))).await.unwrap();
    assert_eq!(heads(store).await[0].next_attempt_at, Some(at(900)), "the others wait behind it");
    store.settle(&lease, settlement(&frozen[1], 1, Consequence::Retry(at(800)))).await.unwrap();
    assert_eq!(heads(store).await[0].next_attempt_at, Some(at(800)));
    for request in &frozen[..2] {
        store.settle(&lease, settlement(request, 2, Consequence::Delivered)).await.unwrap();
    }
    assert_eq!(heads(store).await[0].next_attempt_at, None, "the last one may go at once");
    assert_eq!(store.open(seq).await.unwrap().unwrap().requests, frozen[2..]);
}

pub(crate) async fn ends_a_message_with_its_last_delivery(store: &dyn Store) {
    let lease = lease(store).await;
    let refused = Failure { reason: FailureReason::Refused, detail: "no such event".into() };
    let seq = put(store, message("a")).await;
    let deliveries = vec![delivery("one", Ok(request(1))), delivery("two", Ok(request(2)))];
    let frozen = store.freeze_one(&lease, seq, plan(deliveries)).await.unwrap();

    let delivered = settlement(&frozen[0], 1, Consequence::Delivered);
    store.settle(&lease, delivered.clone()).await.unwrap();
    assert!(!record(store, "a").await.is_done);
    assert_eq!(store.open(seq).await.unwrap().unwrap().requests, frozen[1..]);

    store
        .settle(&lease, settlement(&frozen[1], 1, Consequence::Failed(refused.clone())))
        .await
        .unwrap();
    assert!(store.open(seq).await.unwrap().is_none());
    let ended = record(store, "a").await;
    assert!(ended.is_done);
    assert_eq!(heads(store).await, []);
    let [one, two] = ended.deliveries.as_slice() else { panic!("{ended:?}") };
    assert_eq!((one.state, &one.failure), (DeliveryState::Delivered, &None));
    assert_eq!((two.state, &two.failure), (DeliveryState::Failed, &Some(refused)));

    // A repeated settlement is recognized. Another attempt at a request that has ended is an error.
    store.settle(&lease, delivered).await.unwrap();
    let late = settlement(&frozen[0], 2, Consequence::Retry(at(9)));
    assert_broken(store.settle(&lease, late).await, "ended");
    assert_eq!(record(store, "a").await.deliveries[0].request.as_ref().unwrap().attempts.len(), 1);
}

pub(crate) async fn gives_up_a_request_without_an_attempt(store: &dyn Store) {
    let lease = lease(store).await;
    let (seq, frozen) = planned(store, &lease, "a").await;
    let expired = Failure { reason: FailureReason::Expired, detail: "too late".into() };
    let given_up = Settlement {
        attempt: None,
        ..settlement(&frozen, 1, Consequence::Failed(expired.clone()))
    };
    store.settle(&lease, given_up.clone()).await.unwrap();
    // Repeated, as if the response of the store had been lost.
    store.settle(&lease, given_up.clone()).await.unwrap();
    assert!(store.open(seq).await.unwrap().is_none());
    let delivery = record(store, "a").await.deliveries.remove(0);
    assert_eq!((delivery.state, delivery.failure), (DeliveryState::Failed, Some(expired)));
    assert_eq!(delivery.request.unwrap().attempts, []);

    let (_, frozen) = planned(store, &lease, "b").await;
    store.settle(&lease, settlement(&frozen, 1, Consequence::Delivered)).await.unwrap();
    let late = Settlement { request: frozen.id, ..given_up };
    assert_broken(store.settle(&lease, late).await, "delivered");
}

fn broken(seq: Seq) -> BrokenMessage {
    let failure = Failure { reason: FailureReason::Unreadable, detail: "broken".into() };
    BrokenMessage { seq, now: at(50), failure }
}

pub(crate) async fn sets_a_broken_message_aside(store: &dyn Store) {
    let lease = lease(store).await;
    let unplanned = put(store, message("unplanned")).await;
    let half = put(store, message("half")).await;
    let deliveries = vec![delivery("one", Ok(request(1))), delivery("two", Ok(request(2)))];
    let frozen = store.freeze_one(&lease, half, plan(deliveries)).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    store.settle(&lease, settlement(&frozen[1], 1, Consequence::Retry(at(900)))).await.unwrap();
    let old = Lease { token: lease.token + 1, ..lease.clone() };
    assert_fenced(store.set_aside(&old, broken(half)).await, "not in force");
    for (id, seq) in [("unplanned", unplanned), ("half", half)] {
        let ended = store.set_aside(&lease, broken(seq)).await.unwrap();
        assert_eq!(ended.as_deref(), Some(id));
        assert!(store.open(seq).await.unwrap().is_none());
        assert_eq!(store.set_aside(&lease, broken(seq)).await.unwrap(), None, "it has ended");
    }
    assert_eq!(
        store.set_aside(&lease, broken(Seq(999))).await.unwrap(),
        None,
        "there is no such message"
    );
    assert_eq!(heads(store).await, []);

    use DeliveryState::{Delivered, Failed};
    let shown = record(store, "unplanned").await;
    let [own] = shown.deliveries.as_slice() else { panic!("{shown:?}") };
    assert_eq!((shown.is_done, own.state, &own.subscription), (true, Failed, &None));
    assert_eq!(own.failure, Some(broken(unplanned).failure));
    let shown = record(store, "half").await;
    let states: Vec<_> = shown.deliveries.iter().map(|delivery| delivery.state).collect();
    assert_eq!((shown.is_done, states), (true, vec![Delivered, Failed]));
    assert_eq!(shown.deliveries[1].failure, Some(broken(half).failure));
    assert_eq!(shown.deliveries[1].request.as_ref().unwrap().next_attempt_at, None);
    // They are failed messages like any others: they can be replayed, and are purged after their retention.
    assert_eq!(super::replay_all(store).await, (2, 0));
}

pub(crate) async fn refuses_steps_under_a_lost_lease(store: &dyn Store) {
    let old = lease(store).await;
    let (_, frozen) = planned(store, &old, "a").await;
    let fresh = put(store, message("b")).await;
    let new = store.lease(ask("b", at(100))).await.unwrap().unwrap();
    let other = store
        .lease(LeaseRequest { destination: "other".into(), ..ask("b", at(0)) })
        .await
        .unwrap()
        .unwrap();
    let wrong = [
        ("lost", old.clone()),
        ("old token", Lease { token: new.token - 1, ..new.clone() }),
        ("token to come", Lease { token: new.token + 1, ..new.clone() }),
        ("other holder", Lease { holder: "a".into(), ..new.clone() }),
        ("never leased", Lease { destination: "nowhere".into(), ..new.clone() }),
    ];
    for (what, lease) in &wrong {
        let deliveries = plan(vec![delivery("one", Ok(request(9)))]);
        assert_fenced(store.freeze_one(lease, fresh, deliveries).await, what);
        assert_fenced(
            store.settle(lease, settlement(&frozen, 1, Consequence::Delivered)).await,
            what,
        );
    }
    assert!(!store.open(fresh).await.unwrap().unwrap().is_planned);
    let untouched = record(store, "a").await;
    assert!(
        !untouched.is_done && untouched.deliveries[0].request.as_ref().unwrap().attempts.is_empty()
    );

    // A lease that is in force, but for another destination, covers neither step.
    let deliveries = plan(vec![delivery("one", Ok(request(9)))]);
    assert_broken(store.freeze_one(&other, fresh, deliveries).await, "other destination");
    let delivered = settlement(&frozen, 1, Consequence::Delivered);
    assert_refused(store.settle(&other, delivered).await, "other destination");
    assert!(!store.open(fresh).await.unwrap().unwrap().is_planned);

    let unknown = FrozenRequest { id: RequestId(999), ..frozen.clone() };
    assert_refused(
        store.settle(&new, settlement(&unknown, 1, Consequence::Delivered)).await,
        "no such request",
    );
    assert_broken(store.freeze_one(&new, Seq(999), plan(vec![])).await, "no such message");
    store.settle(&new, settlement(&frozen, 1, Consequence::Delivered)).await.unwrap();
    assert!(record(store, "a").await.is_done);
}
