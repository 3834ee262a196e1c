//! Counts: what happened to messages and deliveries, by minute and by hour.

use super::replay::{all, replay};
use super::*;
use crate::queue::{
    BrokenMessage, NewMergedRequest, ReplayAsk, ReplayState, Stage, Tally, TallyStep,
};

/// Returns the tallies of an interval that contains every time of a test.
async fn tallies(store: &dyn Store, step: TallyStep) -> Vec<Tally> {
    let (from, to) = (at(0) - Duration::from_secs(3_600), at(0) + LIMITS.records_retention * 10);
    store.tallies(step, from, to).await.unwrap()
}

/// Returns the counts of all intervals as strings: the stage, the source, the subscription, the reason, the count.
async fn counted(store: &dyn Store, step: TallyStep) -> Vec<String> {
    let mut counts: std::collections::BTreeMap<String, u64> = Default::default();
    for Tally { stage, destination, source, subscription, reason, count, .. } in
        tallies(store, step).await
    {
        assert_eq!(destination, DESTINATION);
        let words = [Some(stage.as_str().to_owned()), Some(source), subscription, reason];
        *counts.entry(words.into_iter().flatten().collect::<Vec<_>>().join(" ")).or_default() +=
            count;
    }
    counts.into_iter().map(|(words, count)| format!("{words}: {count}")).collect()
}

/// Asserts that the messages that became pending have ended or are still pending.
async fn assert_balanced(store: &dyn Store, after: &str) {
    let pending = store.depth(DESTINATION).await.unwrap().messages;
    for step in TallyStep::ALL {
        let tallies = tallies(store, step).await;
        let sum = |stages: &[Stage]| -> u64 {
            tallies
                .iter()
                .filter(|tally| stages.contains(&tally.stage))
                .map(|tally| tally.count)
                .sum()
        };
        let begun = sum(&[Stage::Received, Stage::Replayed]);
        let ended = sum(&[Stage::Unmatched, Stage::Delivered, Stage::Shadowed, Stage::Failed]);
        assert_eq!(begun, pending + ended, "{after}, {step:?}: {tallies:#?}");
    }
}

fn broken(seq: Seq) -> BrokenMessage {
    let failure = Failure { reason: FailureReason::Unreadable, detail: "broken".into() };
    BrokenMessage { seq, now: at(20), failure }
}

/// Plans a message and settles its requests in order.
async fn end(store: &dyn Store, lease: &Lease, seq: Seq, planned: NewPlan, with: &[Consequence]) {
    let frozen = store.freeze_one(lease, seq, planned).await.unwrap();
    for (request, consequence) in frozen.iter().zip(with) {
        store.settle(lease, settlement(request, 1, consequence.clone())).await.unwrap();
    }
}

pub(crate) async fn counts_each_message_once_however_it_ends(store: &dyn Store) {
    let lease = lease(store).await;
    let failed = || Consequence::Failed(failure());
    let ok = |name: &str| delivery(name, Ok(request(1)));
    let warned = |name: &str| NewDelivery { warnings: vec!["left out".into()], ..ok(name) };
    let endings: [(&str, NewPlan, &[Consequence]); 5] = [
        ("unmatched", plan(vec![]), &[]),
        (
            "delivered",
            plan(vec![ok("one"), warned("two")]),
            &[Consequence::Delivered, Consequence::Delivered],
        ),
        ("failed", plan(vec![ok("one"), ok("two")]), &[failed(), Consequence::Delivered]),
        ("planned failure", plan(vec![delivery("one", Err(failure()))]), &[]),
        ("retried", plan(vec![ok("one")]), &[Consequence::Retry(at(900))]),
    ];
    for (id, planned, with) in endings {
        let seq = put(store, message(id)).await;
        assert_balanced(store, "a message was accepted").await;
        end(store, &lease, seq, planned, with).await;
        assert_balanced(store, id).await;
    }
    let unplanned = put(store, message("unplanned")).await;
    store.set_aside(&lease, broken(unplanned)).await.unwrap();
    assert_balanced(store, "set aside before it was planned").await;
    let retried = record(store, "retried").await.seq;
    store.set_aside(&lease, broken(retried)).await.unwrap();
    assert_balanced(store, "set aside").await;

    let expected = [
        "delivered web: 1",
        "delivery_delivered web one: 1",
        "delivery_delivered web two: 2",
        "delivery_failed web one invalid: 2",
        "delivery_failed web one unreadable: 1",
        "delivery_failed web unreadable: 1",
        "delivery_warned web two: 1",
        "failed web: 4",
        "received web: 6",
        "request web: 5",
        "unmatched web integrations: 1",
    ];
    for step in TallyStep::ALL {
        assert_eq!(counted(store, step).await, expected, "{step:?}");
    }

    // After a replay, the messages end once more. Deliveries that were delivered stand.
    assert_eq!(replay_all(store).await, (4, 0));
    assert_eq!(replay(store, all(ReplayState::Unmatched), false).await, (1, 0));
    assert_balanced(store, "replayed").await;
    for head in heads(store).await {
        end(store, &lease, head.seq, plan(vec![]), &[]).await;
        assert_balanced(store, "replayed and ended").await;
    }
    let counts = counted(store, TallyStep::Minute).await;
    let whole: Vec<&str> =
        counts.iter().map(String::as_str).filter(|words| !words.starts_with("delivery")).collect();
    // One of the failed messages has a delivery that stands: it counts as delivered now.
    let expected = [
        "delivered web: 2",
        "failed web: 4",
        "received web: 6",
        "replayed web: 5",
        "request web: 5",
        "unmatched web integrations: 5",
    ];
    assert_eq!(whole, expected);
}

pub(crate) async fn counts_merged_deliveries_by_source(store: &dyn Store) {
    let lease = lease(store).await;
    // Two messages of two sources. One request carries the first delivery of each.
    let merged = async |first: &str, second: &str| {
        let second = NewMessage { source: "app".into(), ..message(second) };
        let seqs = [put(store, message(first)).await, put(store, second).await];
        let deliveries = || vec![delivery("one", Ok(request(1)))];
        let merge = NewMerge {
            plans: vec![
                (seqs[0], plan(deliveries())),
                (seqs[1], plan([deliveries(), vec![delivery("two", Ok(request(2)))]].concat())),
            ],
            merged: vec![NewMergedRequest { request: request(9), carries: vec![(0, 0), (1, 0)] }],
            claims: Vec::new(),
            is_shadow: false,
            cap: None,
        };
        (seqs, store.freeze(&lease, merge).await.unwrap().requests.remove(0))
    };
    let settle = async |request: &FrozenRequest, with: Consequence| {
        store.settle(&lease, settlement(request, 1, with)).await.unwrap();
        assert_balanced(store, "settled").await;
    };
    let deliver_rest = async |seq: Seq| {
        for request in store.open(seq).await.unwrap().unwrap().requests {
            settle(&request, Consequence::Delivered).await;
        }
    };
    let (seqs, request) = merged("a", "b").await;
    settle(&request, Consequence::Delivered).await;
    deliver_rest(seqs[1]).await;
    assert_eq!(
        counted(store, TallyStep::Minute).await,
        [
            "delivered app: 1",
            "delivered web: 1",
            "delivery_delivered app one: 1",
            "delivery_delivered app two: 1",
            "delivery_delivered web one: 1",
            "received app: 1",
            "received web: 1",
            "request web: 2",
            "request_saved web merged: 1",
        ]
    );
    let (seqs, request) = merged("c", "d").await;
    settle(&request, Consequence::TakenApart).await;
    let part = store.open(seqs[0]).await.unwrap().unwrap().requests.remove(0);
    settle(&part, Consequence::Failed(failure())).await;
    deliver_rest(seqs[1]).await;
    let (seqs, request) = merged("e", "f").await;
    store.set_aside(&lease, broken(seqs[0])).await.unwrap();
    assert_balanced(store, "set aside").await;
    settle(&request, Consequence::Delivered).await;
    deliver_rest(seqs[1]).await;
    let expected = [
        "delivered app: 3",
        "delivered web: 1",
        "delivery_delivered app one: 3",
        "delivery_delivered app two: 3",
        "delivery_delivered web one: 1",
        "delivery_failed web one invalid: 1",
        "delivery_failed web one unreadable: 1",
        "failed web: 2",
        "received app: 3",
        "received web: 3",
        "request web: 6",
        "request_saved web merged: 3",
    ];
    for step in TallyStep::ALL {
        assert_eq!(counted(store, step).await, expected, "{step:?}");
    }
}

pub(crate) async fn counts_a_repeated_step_once(store: &dyn Store) {
    let lease = lease(store).await;
    let one = || plan(vec![delivery("one", Ok(request(1)))]);
    let [delivered, given_up, unmatched, aside] = ["delivered", "given up", "unmatched", "aside"];
    for id in [delivered, given_up, unmatched, aside] {
        put(store, message(id)).await;
    }
    for _ in 0..2 {
        for id in [delivered, given_up, unmatched, aside] {
            store.accept(vec![message(id)]).await.unwrap();
        }
        let seq = async |id| record(store, id).await.seq;
        store.freeze_one(&lease, seq(unmatched).await, plan(vec![])).await.unwrap();
        store.set_aside(&lease, broken(seq(aside).await)).await.unwrap();
        for id in [delivered, given_up] {
            store.freeze_one(&lease, seq(id).await, one()).await.unwrap();
            let id_of = record(store, id).await.deliveries[0].request.clone().unwrap().id;
            let with = if id == delivered {
                Consequence::Delivered
            } else {
                Consequence::Failed(failure())
            };
            let attempt = (id == delivered).then(|| attempt(1, AttemptOutcome::Delivered));
            let settlement = Settlement {
                request: id_of,
                now: at(20),
                attempt,
                consequence: with,
                contact: None,
                awaiting: None,
            };
            store.settle(&lease, settlement).await.unwrap();
        }
        assert_balanced(store, "once more").await;
    }
    let ask = ReplayAsk {
        selection: all(ReplayState::Failed),
        position: None,
        is_dry_run: true,
        choice: None,
        now: at(30),
    };
    // A dry run adds no counts, and the replayed messages are pending.
    assert_eq!(store.replay(&ask).await.unwrap().replayed, 2);
    let ask = ReplayAsk { is_dry_run: false, ..ask };
    assert_eq!(store.replay(&ask).await.unwrap().replayed, 2);
    assert_eq!(store.replay(&ask).await.unwrap().replayed, 0);
    assert_balanced(store, "replayed").await;
    let expected = [
        "delivered web: 1",
        "delivery_delivered web one: 1",
        "delivery_failed web one invalid: 1",
        "delivery_failed web unreadable: 1",
        "failed web: 2",
        "received web: 4",
        "replayed web: 2",
        "request web: 2",
        "unmatched web integrations: 1",
    ];
    assert_eq!(counted(store, TallyStep::Hour).await, expected);
}

pub(crate) async fn counts_by_minute_and_by_hour(store: &dyn Store) {
    // The test begins 20 seconds into a minute, and 800 seconds into an hour.
    let lease = lease(store).await;
    let received = [39_999, 40_000, 2_799_999, 2_800_000];
    for ms in received {
        let seq = put(store, NewMessage { received_at: at(ms), ..message(&ms.to_string()) }).await;
        let later = NewPlan { now: at(2_860_000), ..plan(vec![]) };
        store.freeze_one(&lease, seq, later).await.unwrap();
    }
    let shown = async |step, from: i64, to: i64| {
        let found = store.tallies(step, at(from), at(to)).await.unwrap();
        let ms = |time: Timestamp| time.as_millisecond() - at(0).as_millisecond();
        found.iter().map(|tally| (ms(tally.at), tally.stage, tally.count)).collect::<Vec<_>>()
    };
    let minutes = [
        (-20_000, Stage::Received, 1),
        (40_000, Stage::Received, 1),
        (2_740_000, Stage::Received, 1),
        (2_800_000, Stage::Received, 1),
        (2_860_000, Stage::Unmatched, 4),
    ];
    assert_eq!(shown(TallyStep::Minute, -20_000, 2_860_001).await, minutes);
    assert_eq!(shown(TallyStep::Minute, -19_999, 2_800_000).await, minutes[1..3]);
    let hours = [
        (-800_000, Stage::Received, 3),
        (2_800_000, Stage::Received, 1),
        (2_800_000, Stage::Unmatched, 4),
    ];
    assert_eq!(shown(TallyStep::Hour, -800_000, 2_800_001).await, hours);
    assert_eq!(shown(TallyStep::Hour, -799_999, 2_800_000).await, []);
}

async fn purge(store: &dyn Store, now: Timestamp) -> u64 {
    let mut calls = 0;
    while store.purge(now).await.unwrap() > 0 {
        calls += 1;
    }
    calls
}

pub(crate) async fn keeps_counts_by_minute_for_two_days(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    let days = Duration::from_secs(48 * 60 * 60);
    // The minute ends at 40 seconds, the hour at 2,800. Their retention counts from these times.
    let (minute, hour) = (at(40_000) + days, at(2_800_000) + LIMITS.records_retention);
    let moment = Duration::from_millis(1);
    for (now, expected) in
        [(minute - moment, [2, 2]), (minute, [0, 2]), (hour - moment, [0, 2]), (hour, [0, 0])]
    {
        purge(store, now).await;
        let left = TallyStep::ALL.map(async |step| tallies(store, step).await.len());
        let [minutes, hours] = left;
        assert_eq!([minutes.await, hours.await], expected, "at {now}");
    }
}

pub(crate) async fn purges_a_bounded_number_of_counts_per_call(store: &dyn Store) {
    let new = |n: i64| NewMessage { received_at: at(n * 60_000), ..message(&n.to_string()) };
    store.accept((0..450).map(new).collect()).await.unwrap();
    assert_eq!(tallies(store, TallyStep::Minute).await.len(), 450);
    let late = at(450 * 60_000) + Duration::from_secs(49 * 60 * 60);
    assert!(purge(store, late).await > 1, "all at once");
    assert_eq!(tallies(store, TallyStep::Minute).await, []);
    assert_eq!(tallies(store, TallyStep::Hour).await.len(), 8);
}
