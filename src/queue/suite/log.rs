//! Looking up the records of messages, and deleting them after their retention.

use super::replay::{end_failed, replay_all};
use super::*;

pub(crate) async fn shows_everything_about_a_message(store: &dyn Store) {
    assert!(store.by_message_id(message_hash("a"), "a").await.unwrap().is_empty());
    let lease = lease(store).await;
    let seq = put(store, NewMessage { kind: MessageType::Identify, ..message("a") }).await;
    let frozen =
        store.freeze_one(&lease, seq, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();
    let unanswered =
        Attempt { status: None, excerpt: "timed out".into(), ..attempt(1, AttemptOutcome::Retry) };
    let retried = Settlement {
        attempt: Some(unanswered.clone()),
        ..settlement(&frozen[0], 1, Consequence::Retry(at(500)))
    };
    store.settle(&lease, retried).await.unwrap();

    let shown = record(store, "a").await;
    assert_eq!((shown.seq, shown.kind, shown.received_at), (seq, MessageType::Identify, at(0)));
    assert_eq!((shown.source.as_str(), shown.destination.as_str()), ("web", DESTINATION));
    assert_eq!((shown.message_id.as_str(), shown.is_done, shown.unmatched), ("a", false, None));
    assert_eq!(shown.warnings, [] as [&str; 0]);
    assert_eq!(shown.deliveries[0].action, Some(ActionKind::SendEvent));
    let sent = shown.deliveries[0].request.clone().unwrap();
    assert_eq!((sent.id, sent.next_attempt_at), (frozen[0].id, Some(at(500))));
    assert_eq!(sent.endpoint, Some(Endpoint::SendEvent));
    assert_eq!(sent.idempotency_key, request(1).idempotency_key);
    assert_eq!(sent.attempts, std::slice::from_ref(&unanswered));

    store.settle(&lease, settlement(&frozen[0], 2, Consequence::Delivered)).await.unwrap();
    let sent = record(store, "a").await.deliveries.remove(0).request.unwrap();
    assert_eq!(sent.next_attempt_at, None);
    assert_eq!(sent.attempts, [unanswered, attempt(2, AttemptOutcome::Delivered)]);
}

pub(crate) async fn keeps_the_warnings_of_a_message(store: &dyn Store) {
    let warnings = vec!["`timestamp` cannot be read".to_owned(), "\"x\"".to_owned()];
    let noticed = NewMessage { warnings: warnings.clone(), ..message("noticed") };
    store.accept(vec![message("plain"), noticed, message("plain too")]).await.unwrap();
    assert_eq!(record(store, "plain").await.warnings, [] as [&str; 0]);
    assert_eq!(record(store, "noticed").await.warnings, warnings);
    assert_eq!(record(store, "plain too").await.warnings, [] as [&str; 0]);
    // A replay keeps the warnings.
    let lease = lease(store).await;
    put_back(store, &lease, "noticed").await;
    assert_eq!(record(store, "noticed").await.warnings, warnings);
}

/// Fails a message and replays it.
async fn put_back(store: &dyn Store, lease: &Lease, id: &str) {
    let seq = record(store, id).await.seq;
    end_failed(store, lease, seq).await;
    assert_eq!(replay_all(store).await, (1, 0));
}

pub(crate) async fn shows_a_message_that_failed_before_any_subscription_was_tried(
    store: &dyn Store,
) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    let failed = NewDelivery { subscription: None, action: None, ..delivery("", Err(failure())) };
    store.freeze_one(&lease, seq, plan(vec![failed])).await.unwrap();
    let shown = record(store, "a").await;
    assert!(shown.is_done);
    let [delivery] = shown.deliveries.as_slice() else { panic!("{shown:?}") };
    assert_eq!((&delivery.subscription, delivery.action), (&None, None));
    assert_eq!(delivery.failure, Some(failure()));
}

pub(crate) async fn finds_the_same_id_from_several_sources(store: &dyn Store) {
    let from = |source: &str| NewMessage { source: source.into(), ..message("a") };
    let impostor = NewMessage { message_hash: message_hash("a"), ..message("b") };
    store.accept(vec![from("web"), from("app"), impostor]).await.unwrap();
    let found = store.by_message_id(message_hash("a"), "a").await.unwrap();
    assert_eq!(found.iter().map(|m| m.source.as_str()).collect::<Vec<_>>(), ["app", "web"]);
}

pub(crate) async fn finds_a_message_by_its_number(store: &dyn Store) {
    assert!(store.message(Seq(1)).await.unwrap().is_none());
    let lease = lease(store).await;
    let first = put(store, message("first")).await;
    let failed = NewMessage { event: Some("Failed".into()), ..message("failed") };
    let failed = put(store, failed).await;
    store.freeze_one(&lease, failed, plan(vec![delivery("one", Err(failure()))])).await.unwrap();
    let found = store.message(first).await.unwrap().unwrap();
    assert_eq!((found.seq, found.message_id.as_str(), found.is_done), (first, "first", false));
    let found = store.message(failed).await.unwrap().unwrap();
    assert_eq!((found.message_id.as_str(), found.event.as_deref()), ("failed", Some("Failed")));
    assert_eq!(found.deliveries[0].failure, Some(failure()));
    for seq in [Seq(0), Seq(failed.0 + 1), Seq(-1), Seq(i64::MAX), Seq(i64::MIN)] {
        assert!(store.message(seq).await.unwrap().is_none(), "{seq:?}");
    }
    let several = async |seqs: &[Seq]| {
        let found = store.messages(seqs).await.unwrap();
        found.into_iter().map(|one| (one.seq, one.deliveries.len())).collect::<Vec<_>>()
    };
    let asked = [Seq(0), first, Seq(failed.0 + 1), failed, Seq(i64::MIN)];
    assert_eq!(several(&asked).await, [(failed, 1), (first, 0)]);
    assert_eq!(several(&[]).await, []);
    // A replay gives the message another number.
    assert_eq!(replay_all(store).await, (1, 0));
    assert!(store.message(failed).await.unwrap().is_none());
    assert_eq!(several(&[failed, first]).await, [(first, 0)]);
    let replayed = record(store, "failed").await.seq;
    let found = store.message(replayed).await.unwrap().unwrap();
    assert_eq!((found.seq, found.replay, found.deliveries.len()), (replayed, 1, 1));
}

pub(crate) async fn reads_contents_until_their_retention_is_over(store: &dyn Store) {
    let lease = lease(store).await;
    let payload = r#"{"type":"track","event":"Tested","userId":"u1","messageId":"whole"}"#;
    let whole = NewMessage { payload: Bytes::from(payload), ..message("whole") };
    let good = put(store, whole).await;
    let bad = put(store, message("bad")).await;
    let pending = put(store, message("pending")).await;
    let of = |contents: Vec<Contents>| {
        contents.into_iter().map(|contents| (contents.seq, contents.payload)).collect::<Vec<_>>()
    };
    let has = |seq, id| (seq, message(id).payload);
    // The contents are in the order of the request.
    let asked = [pending, Seq(-7), good, bad, Seq(i64::MAX)];
    let expected = [has(pending, "pending"), (good, Bytes::from(payload)), has(bad, "bad")];
    let found = store.contents(&asked).await.unwrap();
    let read = found[1].message().unwrap();
    assert_eq!((read.kind(), read.event()), (MessageType::Track, Some("Tested")));
    assert!(found[0].message().is_none(), "it has no type");
    assert_eq!(of(found), expected);
    assert!(store.contents(&[]).await.unwrap().is_empty());

    store.freeze_one(&lease, good, plan(vec![])).await.unwrap();
    store.freeze_one(&lease, bad, plan(vec![delivery("one", Err(failure()))])).await.unwrap();
    assert_eq!(of(store.contents(&asked).await.unwrap()), expected, "nothing is over yet");
    let over = |kept: Duration| at(1) + kept;
    while store.purge(over(LIMITS.delivered_retention)).await.unwrap() > 0 {}
    let expected = [has(pending, "pending"), has(bad, "bad")];
    assert_eq!(of(store.contents(&asked).await.unwrap()), expected);
    while store.purge(over(LIMITS.failed_retention)).await.unwrap() > 0 {}
    assert_eq!(of(store.contents(&asked).await.unwrap()), expected[..1]);
}

pub(crate) async fn finds_a_person_in_pages(store: &dyn Store) {
    let of = |id: &str, person: &str| NewMessage { lane: lane(person), ..message(id) };
    store.accept(vec![of("a", "u1"), of("b", "u2"), of("c", "u1"), of("d", "u1")]).await.unwrap();
    let ids =
        |found: &[MessageRecord]| found.iter().map(|m| m.message_id.clone()).collect::<Vec<_>>();
    let first = of_person(store, "u1", None, 2).await;
    assert_eq!(ids(&first), ["d", "c"]);
    let second = of_person(store, "u1", Some(first[1].seq), 2).await;
    assert_eq!(ids(&second), ["a"]);
    assert!(of_person(store, "u1", Some(second[0].seq), 2).await.is_empty());
    assert!(of_person(store, "u3", None, 2).await.is_empty());
}

pub(crate) async fn knows_the_newest_time(store: &dyn Store) {
    assert_eq!(store.newest().await.unwrap(), None);
    let lease = lease(store).await;
    let received = |id: &str, ms| NewMessage { received_at: at(ms), ..message(id) };
    let first = put(store, received("first", 100)).await;
    assert_eq!(store.newest().await.unwrap(), Some(at(100)));
    // The last message counts, even if its time is earlier: a clock that was ahead may have been corrected.
    put(store, received("second", 50)).await;
    assert_eq!(store.newest().await.unwrap(), Some(at(50)));
    store.freeze_one(&lease, first, NewPlan { now: at(70), ..plan(vec![]) }).await.unwrap();
    assert_eq!(store.newest().await.unwrap(), Some(at(70)));
}

pub(crate) async fn purges_after_each_retention(store: &dyn Store) {
    let lease = lease(store).await;
    // The messages end at 15 ms: an attempt starts at 10 and takes 5.
    for (id, consequence) in
        [("good", Consequence::Delivered), ("bad", Consequence::Failed(failure()))]
    {
        let seq = put(store, message(id)).await;
        let frozen = store
            .freeze_one(&lease, seq, plan(vec![delivery("one", Ok(request(1)))]))
            .await
            .unwrap();
        store.settle(&lease, settlement(&frozen[0], 1, consequence)).await.unwrap();
    }
    let pending = put(store, message("pending")).await;
    let waiting = put(store, message("waiting")).await;
    store.freeze_one(&lease, waiting, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();

    let after = |kept: Duration| 15 + i64::try_from(kept.as_millis()).unwrap();
    let edges = [
        (after(LIMITS.delivered_retention), "contents"),
        (after(LIMITS.failed_retention), "contents of the failed"),
        (after(LIMITS.records_retention), "records"),
    ];
    let mut before = shown(store).await;
    for (ms, what) in edges {
        // Counts by minute go before the records.
        while store.purge(at(ms - 1)).await.unwrap() > 0 {}
        assert_eq!(is_kept(store).await, [true, true], "before: {what}");
        assert_eq!(shown(store).await, before, "before: {what}");
        assert!(store.purge(at(ms)).await.unwrap() > 0, "{what}");
        assert_eq!(store.purge(at(ms)).await.unwrap(), 0, "after: {what}");
        let left = shown(store).await;
        let expected = match what {
            "contents" => vec!["", "{}", "`userId` is missing"],
            "contents of the failed" => vec!["", "", ""],
            _ => vec![],
        };
        assert_eq!(left, expected, "after: {what}");
        before = left;
    }
    assert_eq!(is_kept(store).await, [false, false]);
    // Pending messages are never purged.
    while store.purge(Timestamp::MAX).await.unwrap() > 0 {}
    assert_eq!(store.open(pending).await.unwrap().unwrap().payload, message("pending").payload);
    assert_eq!(store.open(waiting).await.unwrap().unwrap().requests[0].body, request(1).body);
    // A sequence number is never used twice.
    store.freeze_one(&lease, waiting, plan(vec![])).await.unwrap();
    assert!(put(store, message("next")).await > waiting);
}

pub(crate) async fn keeps_a_record_from_the_time_it_ended(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("late")).await;
    // It was retried for longer than records are kept. Its failure must be shown all the same.
    let now = at(0) + LIMITS.records_retention * 2;
    let failed = NewPlan { now, ..plan(vec![delivery("one", Err(failure()))]) };
    store.freeze_one(&lease, seq, failed).await.unwrap();
    while store.purge(now).await.unwrap() > 0 {}
    assert!(record(store, "late").await.is_done);
}

pub(crate) async fn purges_what_a_clock_that_was_ahead_has_written(store: &dyn Store) {
    let lease = lease(store).await;
    let years = SignedDuration::from_hours(24 * 366 * 10);
    for (id, now) in [("good", at(0) + years), ("right", at(15)), ("bad", at(0) + years)] {
        let seq = put(store, message(id)).await;
        store.freeze_one(&lease, seq, NewPlan { now, ..plan(vec![]) }).await.unwrap();
    }
    while store.purge(at(14) + LIMITS.records_retention).await.unwrap() > 0 {}
    assert_eq!(is_kept(store).await, [true, true]);
    // A message that was accepted before one that is past its retention is past its own too.
    while store.purge(at(15) + LIMITS.records_retention).await.unwrap() > 0 {}
    assert_eq!(is_kept(store).await, [false, true]);
}

/// Returns whether there is still a record of the good message, and of the bad one.
async fn is_kept(store: &dyn Store) -> [bool; 2] {
    let mut kept = [false; 2];
    for (kept, id) in kept.iter_mut().zip(["good", "bad"]) {
        *kept = !store.by_message_id(message_hash(id), id).await.unwrap().is_empty();
    }
    kept
}

/// Returns the contents that the log still shows: the excerpts of both messages, and why the bad one failed.
async fn shown(store: &dyn Store) -> Vec<String> {
    let mut shown = Vec::new();
    for id in ["good", "bad"] {
        for message in store.by_message_id(message_hash(id), id).await.unwrap() {
            for delivery in message.deliveries {
                let attempts = delivery.request.map(|request| request.attempts).unwrap_or_default();
                shown.extend(attempts.into_iter().map(|attempt| attempt.excerpt));
                shown.extend(delivery.failure.map(|failure| failure.detail));
            }
        }
    }
    shown
}

pub(crate) async fn purges_a_bounded_number_per_call(store: &dyn Store) {
    let lease = lease(store).await;
    let batch: Vec<NewMessage> = (0..450).map(|n| message(&format!("m{n}"))).collect();
    store.accept(batch).await.unwrap();
    for head in heads(store).await {
        store.freeze_one(&lease, head.seq, plan(vec![])).await.unwrap();
    }
    let mut calls = Vec::new();
    loop {
        match store.purge(at(100) + LIMITS.delivered_retention).await.unwrap() {
            0 => break,
            rows => calls.push(rows),
        }
    }
    assert!(calls.iter().sum::<u64>() >= 450);
    assert!(calls.len() > 1, "all at once");
}
