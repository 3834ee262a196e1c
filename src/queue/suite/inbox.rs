//! Accepting: which messages are new, which are duplicates, and their order.

use super::*;
use crate::queue::Accepted::{self, Duplicate, New};
use crate::queue::{Class, Depth};
use crate::queue::{LaneAsk, LanePart};

pub(crate) async fn recognizes_duplicates(store: &dyn Store) {
    let other_source = NewMessage { source: "app".into(), ..message("a") };
    // Another id with the same digest is another message.
    let same_hash = NewMessage { message_hash: message_hash("a"), ..message("b") };
    let cases: Vec<(Vec<NewMessage>, Vec<Accepted>)> = vec![
        (vec![], vec![]),
        (vec![message("a"), message("a"), message("c")], vec![New, Duplicate, New]),
        (vec![message("c"), message("a")], vec![Duplicate, Duplicate]),
        (vec![other_source.clone()], vec![New]),
        (vec![other_source], vec![Duplicate]),
        (vec![same_hash.clone()], vec![New]),
        (vec![same_hash], vec![Duplicate]),
    ];
    for (n, (messages, expected)) in cases.into_iter().enumerate() {
        assert_eq!(store.accept(messages).await.unwrap(), expected, "case {n}");
    }
    assert_eq!(heads(store).await.len(), 4);
}

pub(crate) async fn keeps_the_edge_of_the_duplicate_window(store: &dyn Store) {
    let window = i64::try_from(LIMITS.duplicate_window.as_millis()).unwrap();
    for (ms, expected) in [(window - 1, Duplicate), (window, Duplicate), (window + 1, New)] {
        let id = format!("edge {ms}");
        let first = message(&id);
        let second = NewMessage { received_at: at(ms), ..first.clone() };
        assert_eq!(store.accept(vec![first]).await.unwrap(), [New]);
        assert_eq!(store.accept(vec![second]).await.unwrap(), [expected], "{ms} ms later");
    }
    // The window counts from the latest message that was kept, not from the first.
    let third =
        NewMessage { received_at: at(2 * window + 1), ..message(&format!("edge {}", window + 1)) };
    assert_eq!(store.accept(vec![third]).await.unwrap(), [Duplicate]);
    // Within one call, an earlier message makes a later one a duplicate, whatever their times.
    let far = NewMessage { received_at: at(10 * window), ..message("far") };
    assert_eq!(store.accept(vec![message("far"), far]).await.unwrap(), [New, Duplicate]);
}

pub(crate) async fn accepts_a_large_batch_in_order(store: &dyn Store) {
    // The length is no multiple of any chunk size, and some of the messages are duplicates.
    let ids: Vec<String> = (0..333).map(|n| format!("m{}", n - n % 7 / 6)).collect();
    let batch: Vec<NewMessage> = ids
        .iter()
        .enumerate()
        .map(|(n, id)| NewMessage { lane: LaneKey(n as i64), ..message(id) })
        .collect();
    let answers = store.accept(batch).await.unwrap();
    let expected: Vec<i64> = (0..333).filter(|n| n % 7 != 6).map(i64::from).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == New).count(), expected.len());
    let found = heads(store).await;
    assert_eq!(found.iter().map(|head| head.lane.0).collect::<Vec<_>>(), expected);
    assert!(found.is_sorted_by(|a, b| a.seq < b.seq));
}

pub(crate) async fn reads_pending_in_pages_by_destination(store: &dyn Store) {
    let bulk = NewMessage {
        class: crate::queue::Class::Bulk,
        kind: MessageType::Identify,
        lane: LaneKey(-5),
        ..message("b")
    };
    let elsewhere = NewMessage { destination: "other".into(), ..message("x") };
    store.accept(vec![message("a"), elsewhere, bulk.clone(), message("c")]).await.unwrap();

    let all = heads(store).await;
    assert_eq!(all.len(), 3);
    let second = all[1];
    assert_eq!((second.class, second.lane, second.next_attempt_at), (bulk.class, bulk.lane, None));
    // Each class is read in pages of its own.
    let ask = |after, limit| PendingAsk { after, limit };
    let none = ask(Seq(0), 0);
    let pending = async |destination, of| store.pending(destination, of).await.unwrap();
    let [events, live, bulk] = pending(DESTINATION, [ask(Seq(0), 1), ask(Seq(0), 9), none]).await;
    assert_eq!((events, live, bulk), (vec![all[0]], vec![], vec![]));
    let [events, _, bulk] = pending(DESTINATION, [ask(all[0].seq, 9), none, ask(Seq(0), 9)]).await;
    assert_eq!((events, bulk), (vec![all[2]], vec![second]));
    let [events, ..] = pending(DESTINATION, [ask(all[2].seq, 9), none, none]).await;
    assert_eq!(events, []);
    assert_eq!(pending("other", [ask(Seq(0), 9); 3]).await[0].len(), 1);
    assert_eq!(pending("nowhere", [ask(Seq(0), 9); 3]).await, [vec![], vec![], vec![]]);
}

pub(crate) async fn reads_a_lane_in_parts(store: &dyn Store) {
    let bulk = NewMessage { class: crate::queue::Class::Bulk, ..message("b") };
    let other = NewMessage { lane: LaneKey(-5), ..message("x") };
    let new = ["c", "d", "e"].map(message);
    store.accept([vec![message("a"), other, bulk], new.into()].concat()).await.unwrap();
    let all = heads(store).await;
    let of_lane = async |destination: &str, after: Seq, limit: u32| {
        let lane = all[0].lane;
        let ask = LaneAsk { lane, after, limit };
        let LanePart { heads, through } = store.of_lane(destination, &ask).await.unwrap();
        (heads.iter().map(|head| head.seq.0).collect::<Vec<_>>(), through.map(|seq| seq.0))
    };
    let at = |place: usize| all[place].seq.0;
    assert_eq!(of_lane(DESTINATION, Seq(0), 2).await, (vec![at(0), at(2)], Some(at(2))));
    assert_eq!(of_lane(DESTINATION, all[1].seq, 2).await, (vec![at(2), at(3)], Some(at(3))));
    assert_eq!(of_lane(DESTINATION, all[3].seq, 3).await, (vec![at(4), at(5)], None));
    assert_eq!(of_lane(DESTINATION, all[5].seq, 3).await, (vec![], None));
    assert_eq!(of_lane("other", Seq(0), 9).await, (vec![], None));
    let lease = lease(store).await;
    store.freeze_one(&lease, all[2].seq, plan(vec![])).await.unwrap();
    let rest = vec![at(0), at(3), at(4), at(5)];
    assert_eq!(of_lane(DESTINATION, Seq(0), 9).await, (rest, None));
}

pub(crate) async fn lists_destinations_with_pending_messages(store: &dyn Store) {
    assert_eq!(store.destinations().await.unwrap(), [""; 0]);
    for (id, destination) in [("a", "z"), ("b", DESTINATION), ("c", "z"), ("d", "an old one")] {
        put(store, NewMessage { destination: destination.into(), ..message(id) }).await;
    }
    assert_eq!(store.destinations().await.unwrap(), ["an old one", DESTINATION, "z"]);
    let lease = lease(store).await;
    let seq = record(store, "b").await.seq;
    store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    assert_eq!(store.destinations().await.unwrap(), ["an old one", "z"]);
}

pub(crate) async fn reports_the_depth_of_a_destination(store: &dyn Store) {
    assert_eq!(store.depth(DESTINATION).await.unwrap(), Depth::default());
    let first = put(store, NewMessage { received_at: at(3), ..message("a") }).await;
    put(store, NewMessage { received_at: at(4), class: Class::Bulk, ..message("b") }).await;
    put(store, NewMessage { destination: "other".into(), ..message("c") }).await;
    let depth = |by_class: [u64; 3], oldest_by_class| Depth {
        messages: by_class.iter().sum(),
        by_class,
        oldest_by_class,
        ..Depth::default()
    };
    let found = store.depth(DESTINATION).await.unwrap();
    assert_eq!(found, depth([1, 0, 1], [Some(at(3)), None, Some(at(4))]));
    assert_eq!(found.oldest_received_at(), Some(at(3)));
    let lease = lease(store).await;
    store.freeze_one(&lease, first, plan(vec![])).await.unwrap();
    assert_eq!(
        store.depth(DESTINATION).await.unwrap(),
        depth([0, 0, 1], [None, None, Some(at(4))])
    );
}

pub(crate) async fn signals_arrivals(store: &dyn Store) {
    let mut arrivals = store.arrivals();
    arrivals.mark_unchanged();
    store.accept(vec![message("a")]).await.unwrap();
    assert!(arrivals.has_changed().unwrap());
    arrivals.mark_unchanged();
    store.accept(vec![message("a")]).await.unwrap();
    assert!(!arrivals.has_changed().unwrap(), "a duplicate is no arrival");
}

pub(crate) async fn is_ready(store: &dyn Store) {
    store.ready().await.unwrap();
}
