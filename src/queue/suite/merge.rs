//! Merged requests: frozen together, ended together, taken apart.

use super::*;
use crate::queue::{
    BrokenMessage, DeliveryState, NewMerge, NewMergedRequest, ReplayState, RequestContents,
    RequestId,
};
use crate::telemetry::TraceContext;

/// Freezes two messages, each with a delivery under `one` that the same merged request carries. The first has another
/// delivery that failed, the second another with a request of its own.
async fn merged(store: &dyn Store, lease: &Lease) -> (Seq, Seq, Vec<FrozenRequest>) {
    let first = put(store, message("a")).await;
    let second = put(store, message("b")).await;
    let merge = NewMerge {
        plans: vec![
            (first, plan(vec![delivery("one", Ok(request(0))), delivery("bad", Err(failure()))])),
            (second, plan(vec![delivery("one", Ok(request(1))), delivery("two", Ok(request(2)))])),
        ],
        merged: vec![NewMergedRequest { request: request(9), carries: vec![(0, 0), (1, 0)] }],
        claims: Vec::new(),
        is_shadow: false,
        cap: None,
    };
    let frozen = store.freeze(lease, merge).await.unwrap().requests;
    (first, second, frozen)
}

fn states(record: &MessageRecord) -> Vec<DeliveryState> {
    record.deliveries.iter().map(|delivery| delivery.state).collect()
}

pub(crate) async fn a_merged_request_carries_its_deliveries(store: &dyn Store) {
    let lease = lease(store).await;
    let (_, second, frozen) = merged(store, &lease).await;
    assert_eq!(frozen.len(), 1);
    assert!(frozen[0].is_merged);
    assert_eq!(
        (&frozen[0].body, &frozen[0].idempotency_key),
        (&request(9).body, &request(9).idempotency_key)
    );
    // The second message has the merged request first, and then its own.
    let of_second = store.open(second).await.unwrap().unwrap().requests;
    assert_eq!(
        (of_second.len(), of_second[0].id, of_second[1].is_merged),
        (2, frozen[0].id, false)
    );
    assert_eq!(of_second[1].body, request(2).body);
    let ids = |record: &MessageRecord| {
        record.deliveries.iter().map(|d| d.request.as_ref().map(|r| r.id)).collect::<Vec<_>>()
    };
    assert_eq!(ids(&record(store, "a").await), [Some(frozen[0].id), None]);
    assert_eq!(ids(&record(store, "b").await)[0], Some(frozen[0].id));

    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    use DeliveryState::{Delivered, Failed, Pending};
    assert_eq!(states(&record(store, "a").await), [Delivered, Failed]);
    assert!(record(store, "a").await.is_done);
    assert_eq!(states(&record(store, "b").await), [Delivered, Pending]);
    let rest = store.open(second).await.unwrap().unwrap().requests;
    assert_eq!(
        rest.iter().map(|request| request.body.clone()).collect::<Vec<_>>(),
        [request(2).body]
    );
    store.settle(&lease, settlement(&rest[0], 1, Consequence::Delivered)).await.unwrap();
    assert!(record(store, "b").await.is_done);
}

pub(crate) async fn what_a_request_carries_can_be_read(store: &dyn Store) {
    let lease = lease(store).await;
    let (first, second, frozen) = merged(store, &lease).await;
    let own = store.open(second).await.unwrap().unwrap().requests.remove(1);
    let read = async |ids: &[RequestId]| store.request_contents(ids).await.unwrap();
    let of_own = RequestContents { id: own.id, body: Some(request(2).body), seqs: vec![second] };
    let of_merged = RequestContents {
        id: frozen[0].id,
        body: Some(request(9).body),
        seqs: vec![first, second],
    };
    // The result has the order of the ids, without requests that do not exist.
    let ids = [own.id, RequestId(i64::MAX), frozen[0].id];
    assert_eq!(read(&ids).await, [of_own, of_merged]);
    assert_eq!(read(&[]).await, []);
    // When the request has ended, its messages are still known; its body may be gone.
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    let ended = read(&[frozen[0].id]).await;
    assert_eq!(ended[0].seqs, [first, second]);
    assert!(ended[0].body.as_ref().is_none_or(|body| *body == request(9).body), "{ended:?}");
}

pub(crate) async fn the_traces_of_what_a_request_carries_can_be_read(store: &dyn Store) {
    let lease = lease(store).await;
    let trace = |n: u8| TraceContext::new([n; 16], [n; 8], 1);
    let first = put(store, NewMessage { trace: trace(1), ..message("a") }).await;
    let second = put(store, message("b")).await;
    let third = put(store, NewMessage { trace: trace(3), ..message("c") }).await;
    let one = |n: u32| plan(vec![delivery("one", Ok(request(n)))]);
    let other = plan(vec![delivery("a other", Ok(request(2)))]);
    let merge = NewMerge {
        plans: vec![(first, one(1)), (second, other), (third, one(4))],
        merged: vec![NewMergedRequest {
            request: request(9),
            carries: vec![(0, 0), (1, 0), (2, 0)],
        }],
        claims: Vec::new(),
        is_shadow: false,
        cap: None,
    };
    let frozen = store.freeze(&lease, merge).await.unwrap().requests;
    let traces = async |id: RequestId| store.traces(id).await.unwrap();
    assert_eq!(traces(frozen[0].id).await, [trace(1), None, trace(3)]);
    assert_eq!(traces(RequestId(i64::MAX)).await, []);
    let subscriptions = async |id: RequestId| store.subscriptions(id).await.unwrap();
    assert_eq!(subscriptions(frozen[0].id).await, ["a other", "one"]);
    assert_eq!(subscriptions(RequestId(i64::MAX)).await, [] as [&str; 0]);
    let parts = async |id: RequestId| {
        let found = store.parts(id).await.unwrap().into_iter();
        let mut found: Vec<_> = found.map(|part| (part.subscription, part.body)).collect();
        found.sort();
        found
    };
    let part = |name: &str, n: u32| (name.to_owned(), Some(request(n).body));
    assert_eq!(parts(frozen[0].id).await, [part("a other", 2), part("one", 1), part("one", 4)]);
    assert_eq!(parts(RequestId(i64::MAX)).await, []);
    // A request that is sent alone has the trace of its own message. After a replay, that is still the trace in which
    // the message was accepted.
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::TakenApart)).await.unwrap();
    let alone = async |seq: Seq| store.open(seq).await.unwrap().unwrap().requests.remove(0);
    let part = alone(third).await;
    assert_eq!(traces(part.id).await, [trace(3)]);
    assert_eq!(subscriptions(part.id).await, ["one"]);
    assert_eq!(parts(part.id).await, [("one".to_owned(), None)]);
    store.settle(&lease, settlement(&part, 2, Consequence::Failed(failure()))).await.unwrap();
    assert_eq!(replay(store, all(ReplayState::Failed), false).await, (1, 0));
    let replayed = record(store, "c").await.seq;
    assert_ne!(replayed, third);
    store.freeze_one(&lease, replayed, one(5)).await.unwrap();
    assert_eq!(traces(alone(replayed).await.id).await, [trace(3)]);
}

pub(crate) async fn a_refused_merged_request_is_taken_apart(store: &dyn Store) {
    let lease = lease(store).await;
    let (first, second, frozen) = merged(store, &lease).await;
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::TakenApart)).await.unwrap();
    let open = async |seq| store.open(seq).await.unwrap().unwrap().requests;
    let parts = open(first).await;
    assert_eq!((parts.len(), &parts[0].body, parts[0].attempts), (1, &request(0).body, 0));
    assert!(!parts[0].is_merged);
    let others = open(second).await;
    let bodies: Vec<_> = others.iter().map(|request| request.body.clone()).collect();
    assert_eq!(bodies, [request(1).body, request(2).body]);
    assert_eq!(others[0].idempotency_key, request(1).idempotency_key);

    // Only the part that Loops refused fails.
    store.settle(&lease, settlement(&parts[0], 1, Consequence::Failed(failure()))).await.unwrap();
    for request in &others {
        store.settle(&lease, settlement(request, 1, Consequence::Delivered)).await.unwrap();
    }
    use DeliveryState::{Delivered, Failed};
    assert_eq!(states(&record(store, "a").await), [Failed, Failed]);
    assert_eq!(states(&record(store, "b").await), [Delivered, Delivered]);
    // Repeated, it changes nothing.
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::TakenApart)).await.unwrap();
    assert_eq!(states(&record(store, "a").await), [Failed, Failed]);
}

/// Freezes an upsert and the event after it in one request.
async fn merged_with_event(
    store: &dyn Store,
    lease: &Lease,
    ids: [&str; 2],
) -> (Seq, Seq, FrozenRequest) {
    let [first, second] = ids.map(message);
    let (first, second) = (put(store, first).await, put(store, second).await);
    let upsert = NewRequest { idempotency_key: None, ..request(0) };
    let merge = NewMerge {
        plans: vec![
            (first, plan(vec![delivery("one", Ok(upsert))])),
            (second, plan(vec![delivery("two", Ok(request(1)))])),
        ],
        merged: vec![NewMergedRequest { request: request(9), carries: vec![(0, 0), (1, 0)] }],
        claims: Vec::new(),
        is_shadow: false,
        cap: None,
    };
    let frozen = store.freeze(lease, merge).await.unwrap().requests.remove(0);
    (first, second, frozen)
}

pub(crate) async fn neighbours_of_an_event_that_ended_are_sent_alone(store: &dyn Store) {
    use DeliveryState::{Delivered, Failed};
    let lease = lease(store).await;
    for (ids, consequence, state) in [
        (["a", "b"], Consequence::EventDelivered, Delivered),
        (["c", "d"], Consequence::EventFailed(failure()), Failed),
    ] {
        let (first, second, frozen) = merged_with_event(store, &lease, ids).await;
        let known = settlement(&frozen, 1, consequence);
        store.settle(&lease, known.clone()).await.unwrap();
        assert!(store.open(second).await.unwrap().is_none());
        assert_eq!(states(&record(store, ids[1]).await), [state]);
        let parts = store.open(first).await.unwrap().unwrap().requests;
        assert_eq!((parts.len(), &parts[0].body), (1, &request(0).body));
        // Repeated, it changes nothing.
        store.settle(&lease, known).await.unwrap();
        store.settle(&lease, settlement(&parts[0], 1, Consequence::Delivered)).await.unwrap();
        assert_eq!(states(&record(store, ids[0]).await), [Delivered]);
        assert!(record(store, ids[0]).await.is_done);
    }
}

pub(crate) async fn neighbours_of_an_event_that_was_set_aside_are_sent_alone(store: &dyn Store) {
    let lease = lease(store).await;
    let (first, second, frozen) = merged_with_event(store, &lease, ["a", "b"]).await;
    let broken = BrokenMessage { seq: second, now: at(5), failure: failure() };
    store.set_aside(&lease, broken).await.unwrap();
    let failed = settlement(&frozen, 1, Consequence::EventFailed(failure()));
    store.settle(&lease, failed).await.unwrap();
    assert_eq!(states(&record(store, "b").await), [DeliveryState::Failed]);
    let parts = store.open(first).await.unwrap().unwrap().requests;
    assert_eq!((parts.len(), &parts[0].body), (1, &request(0).body));
}

pub(crate) async fn a_merged_request_goes_on_without_a_message_that_is_set_aside(
    store: &dyn Store,
) {
    let lease = lease(store).await;
    let (first, second, frozen) = merged(store, &lease).await;
    let failure = Failure { reason: FailureReason::Unreadable, detail: "broken".into() };
    let broken = BrokenMessage { seq: first, now: at(5), failure };
    assert_eq!(store.set_aside(&lease, broken).await.unwrap().as_deref(), Some("a"));
    use DeliveryState::{Delivered, Failed, Pending};
    assert_eq!(states(&record(store, "a").await), [Failed, Failed]);
    assert_eq!(states(&record(store, "b").await), [Pending, Pending]);
    // When the merged request is taken apart, the message that has ended gets no request.
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::TakenApart)).await.unwrap();
    assert!(store.open(first).await.unwrap().is_none());
    for request in store.open(second).await.unwrap().unwrap().requests {
        store.settle(&lease, settlement(&request, 1, Consequence::Delivered)).await.unwrap();
    }
    assert_eq!(states(&record(store, "a").await), [Failed, Failed]);
    assert_eq!(states(&record(store, "b").await), [Delivered, Delivered]);
    let late = at(0) + LIMITS.records_retention * 2;
    while store.purge(late).await.unwrap() > 0 {}
    assert_eq!(store.purge(late).await.unwrap(), 0);
}

pub(crate) async fn merged_requests_go_with_their_records(store: &dyn Store) {
    let lease = lease(store).await;
    let (_, second, frozen) = merged(store, &lease).await;
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::TakenApart)).await.unwrap();
    for id in ["a", "b"] {
        let seq = record(store, id).await.seq;
        while let Some(job) = store.open(seq).await.unwrap() {
            let settlement = settlement(&job.requests[0], 1, Consequence::Delivered);
            store.settle(&lease, settlement).await.unwrap();
        }
    }
    let late = at(0) + LIMITS.records_retention * 2;
    while store.purge(late).await.unwrap() > 0 {}
    assert!(store.by_message_id(message_hash("a"), "a").await.unwrap().is_empty());
    assert!(store.open(second).await.unwrap().is_none());
    // A second purge finds nothing left of them.
    assert_eq!(store.purge(late).await.unwrap(), 0);
}

pub(crate) async fn merging_writes_all_or_nothing(store: &dyn Store) {
    let lease = lease(store).await;
    let first = put(store, message("a")).await;
    let second = put(store, message("b")).await;
    store.freeze_one(&lease, second, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();
    let merge = |plans: Vec<Seq>| NewMerge {
        plans: plans
            .into_iter()
            .map(|seq| (seq, plan(vec![delivery("one", Ok(request(4)))])))
            .collect(),
        merged: vec![NewMergedRequest { request: request(9), carries: vec![(0, 0), (1, 0)] }],
        claims: Vec::new(),
        is_shadow: false,
        cap: None,
    };
    // A merged request cannot carry a neighbour that is frozen already.
    let refused = store.freeze(&lease, merge(vec![first, second])).await;
    assert!(matches!(refused, Err(WorkError::Broken(_))), "{refused:?}");
    assert!(!store.open(first).await.unwrap().unwrap().is_planned);
    // If the first message was planned before, its existing requests are returned.
    let there = store.freeze(&lease, merge(vec![second, first])).await.unwrap().requests;
    assert_eq!((there.len(), &there[0].body), (1, &request(1).body));
    assert!(!store.open(first).await.unwrap().unwrap().is_planned);
    // Nor can it carry a message that does not exist.
    let refused = store.freeze(&lease, merge(vec![first, Seq(999)])).await;
    assert!(matches!(refused, Err(WorkError::Broken(_))), "{refused:?}");
    assert!(!store.open(first).await.unwrap().unwrap().is_planned);
    let stale = Lease { token: lease.token + 1, ..lease.clone() };
    let refused = store.freeze(&stale, merge(vec![first])).await;
    assert!(matches!(refused, Err(WorkError::Fenced)), "{refused:?}");
}
