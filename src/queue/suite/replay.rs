//! Replaying: which messages, in which order, and which earlier records stay.

use FailureReason::{Expired, Refused};

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::queue::{
    Awaiting, Choice, Chosen, Class, DeliveryState, MessageRecord, MessageState, PendingAsk,
    ReplayAsk, ReplayPosition, ReplayState, Selection, Settlement, Unavailable,
};
use crate::segment::LaneKey;

/// The digests of the installation that the suite opens its stores with.
fn digests() -> Digests {
    Digests::new(&INSTALLATION_KEY)
}

/// Selects messages about a person, by any kind of id, that meet other conditions.
pub(crate) fn about(id: &str, state: ReplayState, filter: Filter) -> Selection {
    Selection { filter: Filter { persons: digests().any_person(id), ..filter }, ..all(state) }
}

/// Selects messages that meet conditions.
pub(crate) fn meeting(filter: Filter, state: ReplayState) -> Selection {
    Selection { filter, ..all(state) }
}

/// Selects all messages in a state.
pub(crate) fn all(state: ReplayState) -> Selection {
    Selection { state, ..Selection::default() }
}

/// Replays to the end; returns how many messages were replayed, and how many had no contents.
pub(super) async fn replay(
    store: &dyn Store,
    selection: Selection,
    is_dry_run: bool,
) -> (u64, u64) {
    let mut ask = ReplayAsk { selection, position: None, is_dry_run, now: at(1_000), choice: None };
    let (mut replayed, mut without_contents) = (0, 0);
    loop {
        let chunk = store.replay(&ask).await.unwrap();
        replayed += chunk.replayed;
        without_contents += chunk.without_contents;
        match chunk.next {
            None => return (replayed, without_contents),
            next => ask.position = next,
        }
    }
}

pub(crate) async fn replay_all(store: &dyn Store) -> (u64, u64) {
    replay(store, all(ReplayState::Failed), false).await
}

/// Plans a message with deliveries and ends each: `deliveries` has the names of their subscriptions, and why they
/// failed, if they did.
async fn end(
    store: &dyn Store,
    lease: &Lease,
    seq: Seq,
    deliveries: &[(&str, Option<FailureReason>)],
) {
    let planned =
        deliveries.iter().map(|(name, _)| delivery(name, Ok(request(1)))).collect::<Vec<_>>();
    let frozen = store.freeze_one(lease, seq, plan(planned)).await.unwrap();
    for (request, (_, reason)) in frozen.iter().zip(deliveries) {
        let consequence = match reason {
            None => Consequence::Delivered,
            Some(reason) => Consequence::Failed(Failure { reason: *reason, detail: "no".into() }),
        };
        store.settle(lease, settlement(request, 1, consequence)).await.unwrap();
    }
}

pub(crate) async fn end_failed(store: &dyn Store, lease: &Lease, seq: Seq) {
    end(store, lease, seq, &[("one", Some(Refused))]).await;
}

pub(crate) async fn put_failed(store: &dyn Store, lease: &Lease, message: NewMessage) -> Seq {
    let seq = put(store, message).await;
    end_failed(store, lease, seq).await;
    seq
}

/// Plans the first pending message without deliveries; returns why it ended as unmatched, if it did.
async fn freeze_empty(store: &dyn Store, lease: &Lease) -> Option<UnmatchedReason> {
    let plans = vec![(heads(store).await[0].seq, plan(vec![]))];
    store
        .freeze(
            lease,
            NewMerge { plans, merged: Vec::new(), claims: Vec::new(), is_shadow: false, cap: None },
        )
        .await
        .unwrap()
        .unmatched
}

/// Returns the ids of the pending messages, in order.
async fn pending_ids(store: &dyn Store) -> Vec<String> {
    let mut ids = Vec::new();
    for head in heads(store).await {
        ids.push(store.open(head.seq).await.unwrap().unwrap().message_id);
    }
    ids
}

pub(crate) async fn replays_behind_pending_messages(store: &dyn Store) {
    let lease = lease(store).await;
    put_failed(store, &lease, message("a")).await;
    put_failed(store, &lease, message("b")).await;
    put(store, message("waiting")).await;
    let mut arrivals = store.arrivals();
    arrivals.mark_unchanged();
    assert_eq!(replay_all(store).await, (2, 0));
    assert!(arrivals.has_changed().unwrap(), "the engines must look");
    assert_eq!(pending_ids(store).await, ["waiting", "a", "b"]);

    let shown = heads(store).await[1];
    let new = message("a");
    assert_eq!((shown.lane, shown.next_attempt_at), (new.lane, None));
    let job = store.open(shown.seq).await.unwrap().unwrap();
    assert_eq!((job.payload, job.source, job.received_at), (new.payload, new.source, at(0)));
    assert!(!job.is_planned && job.requests.is_empty());
    assert_eq!((job.replay.number, job.replay.only, job.replay.settled), (1, None, vec![]));
    // Pending messages are not replayed, and are still known as duplicates.
    assert_eq!(replay_all(store).await, (0, 0));
    let again = store.accept(vec![message("a")]).await.unwrap();
    assert_eq!(again, [crate::queue::Accepted::Duplicate]);
    assert!(put(store, message("next")).await > heads(store).await[2].seq, "numbers go on");
}

pub(crate) async fn keeps_the_order_of_acceptance_over_replays(store: &dyn Store) {
    let lease = lease(store).await;
    for id in ["a", "b", "c"] {
        put_failed(store, &lease, message(id)).await;
    }
    let only = |id: &str| Selection { message_ids: vec![id.into()], ..all(ReplayState::Failed) };
    for id in ["b", "a"] {
        assert_eq!(replay(store, only(id), false).await, (1, 0));
        let seq = heads(store).await[0].seq;
        end_failed(store, &lease, seq).await;
    }
    assert_eq!(replay_all(store).await, (3, 0));
    assert_eq!(pending_ids(store).await, ["a", "b", "c"]);
    let numbers: Vec<u32> = {
        let mut numbers = Vec::new();
        for head in heads(store).await {
            numbers.push(store.open(head.seq).await.unwrap().unwrap().replay.number);
        }
        numbers
    };
    assert_eq!(numbers, [2, 2, 1]);
}

pub(crate) async fn a_replay_keeps_earlier_deliveries(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    end(store, &lease, seq, &[("good", None), ("bad", Some(Refused))]).await;
    assert_eq!(replay_all(store).await, (1, 0));
    let seq = heads(store).await[0].seq;
    let job = store.open(seq).await.unwrap().unwrap();
    assert_eq!(job.replay.settled, ["good"]);
    assert!(job.replay.wants("bad") && job.replay.wants("new") && !job.replay.wants("good"));
    end(store, &lease, seq, &[("bad", None)]).await;

    let shown = record(store, "a").await;
    assert_eq!((shown.replay, shown.is_done), (1, true));
    let history: Vec<_> = shown
        .deliveries
        .iter()
        .map(|d| {
            (d.subscription.as_deref().unwrap_or_default(), d.replay, d.is_superseded, d.state)
        })
        .collect();
    use DeliveryState::{Delivered, Failed};
    let expected =
        [("good", 0, false, Delivered), ("bad", 0, true, Failed), ("bad", 1, false, Delivered)];
    assert_eq!(history, expected);
    assert_eq!(shown.deliveries[1].request.as_ref().unwrap().attempts.len(), 1);
    // The message is no longer failed.
    assert_eq!(replay_all(store).await, (0, 0));
    assert_eq!(replay(store, all(ReplayState::Delivered), false).await, (1, 0));
    let job = store.open(heads(store).await[0].seq).await.unwrap().unwrap();
    assert_eq!((job.replay.number, job.replay.settled), (2, vec![]));
    // The purge deletes the records of all its replays.
    store.freeze_one(&lease, heads(store).await[0].seq, plan(vec![])).await.unwrap();
    while store.purge(at(100) + LIMITS.records_retention).await.unwrap() > 0 {}
    assert!(store.by_message_id(message_hash("a"), "a").await.unwrap().is_empty());
}

pub(crate) async fn replays_for_one_subscription_alone(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    end(store, &lease, seq, &[("one", Some(Refused)), ("two", Some(Expired))]).await;
    let under = |name: &str| Filter { subscription: Some(name.into()), ..Filter::default() };
    let two = meeting(under("two"), ReplayState::Failed);
    assert_eq!(replay(store, two, false).await, (1, 0));
    let seq = heads(store).await[0].seq;
    let job = store.open(seq).await.unwrap().unwrap();
    assert!(job.replay.wants("two") && !job.replay.wants("one") && !job.replay.wants("three"));
    end(store, &lease, seq, &[("two", None)]).await;
    // The other failure stands, so the message still counts as failed, however it ended.
    assert_eq!(replay_all(store).await, (1, 0));
    let seq = heads(store).await[0].seq;
    assert_eq!(store.open(seq).await.unwrap().unwrap().replay.settled, ["two"]);
    end(store, &lease, seq, &[("one", Some(Refused))]).await;
    let one = meeting(under("one"), ReplayState::Failed);
    assert_eq!(replay(store, one, false).await, (1, 0));
    // No subscription takes it this time: the earlier delivery stands.
    assert_eq!(freeze_empty(store, &lease).await, None);
    assert!(record(store, "a").await.unmatched.is_none());
    assert_eq!(replay(store, all(ReplayState::Delivered), true).await, (1, 0));
    // No delivery stands, and no subscription takes it.
    assert_eq!(replay(store, all(ReplayState::All), false).await, (1, 0));
    assert_eq!(freeze_empty(store, &lease).await, Some(UnmatchedReason::Integrations));
    assert!(record(store, "a").await.unmatched.is_some());
}

/// Chooses messages by their ids, for given subscriptions.
#[derive(Debug)]
struct Chooses(HashMap<Seq, Vec<String>>);

#[async_trait]
impl Choice for Chooses {
    async fn choose(&self, _: &Selection, seqs: &[Seq]) -> Result<Vec<Chosen>, Unavailable> {
        let of = |seq: &Seq| Some(Chosen { seq: *seq, subscriptions: self.0.get(seq)?.clone() });
        Ok(seqs.iter().filter_map(of).collect())
    }
}

pub(crate) async fn replays_what_a_choice_takes_for_its_subscriptions(store: &dyn Store) {
    let lease = lease(store).await;
    let mut seqs = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let seq = put(store, message(id)).await;
        end(store, &lease, seq, &[("one", None), ("two", None)]).await;
        seqs.push(seq);
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    // All messages but one; the last two are for the same subscriptions.
    let chosen = [
        (seqs[0], names(&["one"])),
        (seqs[2], names(&["two", "new"])),
        (seqs[3], names(&["two", "new"])),
    ];
    let mut ask = ReplayAsk {
        selection: all(ReplayState::Delivered),
        position: None,
        is_dry_run: true,
        choice: Some(Arc::new(Chooses(chosen.into()))),
        now: at(1_000),
    };
    let counted = store.replay(&ask).await.unwrap();
    assert!(heads(store).await.is_empty(), "counting changes nothing");
    ask.is_dry_run = false;
    let done = store.replay(&ask).await.unwrap();
    for chunk in [counted, done] {
        assert_eq!((chunk.replayed, chunk.unchanged, chunk.without_contents), (3, 1, 0));
        let expected = [("new", 2), ("one", 1), ("two", 2)];
        assert_eq!(chunk.by_subscription, expected.map(|(name, n)| (name.to_owned(), n)).into());
    }
    assert_eq!(pending_ids(store).await, ["a", "c", "d"]);
    let mut settled = Vec::new();
    for head in heads(store).await {
        settled.push(store.open(head.seq).await.unwrap().unwrap().replay.settled);
    }
    assert_eq!(settled, [["two"], ["one"], ["one"]]);
    // The digests from the first planning are still known.
    let planned = |record: &MessageRecord| {
        record.deliveries.iter().map(|delivery| delivery.planned).collect::<Vec<_>>()
    };
    assert_eq!(planned(&record(store, "a").await), [PLANNED, PLANNED]);
    assert_eq!(planned(&record(store, "b").await), [PLANNED, PLANNED]);
}

pub(crate) async fn a_failure_that_stands_keeps_a_message_failed(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, message("a")).await;
    end(store, &lease, seq, &[("one", Some(Refused)), ("two", Some(Refused))]).await;
    let under = |name: &str| Filter { subscription: Some(name.into()), ..Filter::default() };
    let two = meeting(under("two"), ReplayState::Failed);
    assert_eq!(replay(store, two, false).await, (1, 0));
    assert_eq!(freeze_empty(store, &lease).await, None);
    assert!(record(store, "a").await.unmatched.is_none());
    assert_eq!(replay(store, all(ReplayState::Failed), true).await, (1, 0));
    assert_eq!(replay(store, all(ReplayState::Unmatched), true).await, (0, 0));
}

pub(crate) async fn replays_only_selected_messages(store: &dyn Store) {
    use ReplayState::{All, Delivered, Failed, Unmatched};
    let lease = lease(store).await;
    let other_lease = store
        .lease(LeaseRequest { destination: "other".into(), ..ask("a", at(0)) })
        .await
        .unwrap()
        .unwrap();
    let of = |id: &str, ms: i64, person: &str| NewMessage {
        received_at: at(ms),
        lane: lane(person),
        ..message(id)
    };
    let refused = NewMessage { event: Some("Signed Up".into()), ..of("refused", 10, "u1") };
    let refused = put(store, refused).await;
    end(store, &lease, refused, &[("one", Some(Refused)), ("two", None)]).await;
    let expired = NewMessage { kind: MessageType::Identify, ..of("expired", 20, "u2") };
    let expired = put(store, expired).await;
    end(store, &lease, expired, &[("two", Some(Expired))]).await;
    let delivered = put(store, of("delivered", 30, "u1")).await;
    end(store, &lease, delivered, &[("one", None)]).await;
    let unmatched = put(store, of("unmatched", 40, "u2")).await;
    store.freeze_one(&lease, unmatched, plan(vec![])).await.unwrap();
    let elsewhere = NewMessage { destination: "other".into(), ..of("elsewhere", 50, "u1") };
    let elsewhere = put(store, elsewhere).await;
    end(store, &other_lease, elsewhere, &[("one", Some(Refused))]).await;
    put(store, of("pending", 60, "u1")).await;

    let text = |text: &str| Some(text.to_owned());
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let any = Filter::default;
    let cases: Vec<(Selection, u64)> = vec![
        (all(Failed), 3),
        (all(Unmatched), 1),
        (all(Delivered), 1),
        (all(All), 5),
        (Selection { message_ids: ids(&["refused", "delivered", "nothing"]), ..all(Failed) }, 1),
        (Selection { message_ids: ids(&["refused", "delivered", "pending"]), ..all(All) }, 2),
        (about("u1", Failed, any()), 2),
        (about("u1", All, any()), 3),
        (about("u3", All, any()), 0),
        (meeting(Filter { reason: Some(Refused), ..any() }, Failed), 2),
        (meeting(Filter { reason: Some(FailureReason::Invalid), ..any() }, Failed), 0),
        (meeting(Filter { destination: text("other"), ..any() }, Failed), 1),
        (meeting(Filter { source: text("web"), ..any() }, All), 5),
        (meeting(Filter { source: text("app"), ..any() }, All), 0),
        (meeting(Filter { event: text("Signed Up"), ..any() }, Failed), 1),
        (meeting(Filter { kind: Some(MessageType::Track), ..any() }, All), 4),
        (meeting(Filter { kind: Some(MessageType::Identify), ..any() }, All), 1),
        (meeting(Filter { destination: text(DESTINATION), ..any() }, All), 4),
        (meeting(Filter { subscription: text("two"), ..any() }, Failed), 1),
        (meeting(Filter { subscription: text("two"), ..any() }, All), 2),
        (meeting(Filter { subscription: text("one"), reason: Some(Expired), ..any() }, Failed), 0),
        (meeting(Filter { from: Some(at(20)), ..any() }, All), 4),
        (meeting(Filter { from: Some(at(20)), to: Some(at(40)), ..any() }, All), 2),
        (meeting(Filter { to: Some(at(10)), ..any() }, All), 0),
        (about("u1", Failed, Filter { reason: Some(Refused), to: Some(at(50)), ..any() }), 1),
    ];
    for (n, (selection, expected)) in cases.into_iter().enumerate() {
        assert_eq!(replay(store, selection, true).await, (expected, 0), "case {n}");
    }
    assert_eq!(heads(store).await.len(), 1, "counting changes nothing");
}

pub(crate) async fn replays_each_once_in_bounded_parts(store: &dyn Store) {
    let lease = lease(store).await;
    let batch: Vec<NewMessage> = (0..1_100).map(|n| message(&format!("m{n}"))).collect();
    store.accept(batch).await.unwrap();
    let failed = || plan(vec![delivery("one", Err(failure()))]);
    let ask_all = [PendingAsk { after: Seq(0), limit: 1_200 }; 3];
    let heads = store.pending(DESTINATION, ask_all).await.unwrap().concat();
    let last = heads.last().unwrap().seq;
    assert_eq!(heads.len(), 1_100);
    for head in heads.iter().skip(1).step_by(2) {
        store.freeze_one(&lease, head.seq, failed()).await.unwrap();
    }
    let mut ask = ReplayAsk {
        selection: all(ReplayState::Failed),
        position: None,
        is_dry_run: false,
        choice: None,
        now: at(1_000),
    };
    let (mut calls, mut replayed) = (0, 0);
    loop {
        let chunk = store.replay(&ask).await.unwrap();
        calls += 1;
        replayed += chunk.replayed;
        // In the meantime, the replayed messages fail again, and so does a new one: none of them is replayed.
        let ask_behind = [PendingAsk { after: last, limit: 1_200 }; 3];
        for head in store.pending(DESTINATION, ask_behind).await.unwrap().concat() {
            store.freeze_one(&lease, head.seq, failed()).await.unwrap();
        }
        let new = put(store, message(&format!("new {calls}"))).await;
        store.freeze_one(&lease, new, failed()).await.unwrap();
        let Some(next) = chunk.next else { break };
        assert!(ask.position.is_none_or(|before: ReplayPosition| before.after < next.after));
        ask.position = Some(next);
    }
    assert_eq!(replayed, 550);
    assert!(calls > 1, "all at once");
    // All are of one person: another index finds them, in parts that are just as bounded.
    let of_person = about("u1", ReplayState::Failed, Filter::default());
    assert_eq!(replay(store, of_person, true).await, (550 + calls, 0));
}

/// As after a commit whose response was lost: the caller continues after the previous part.
pub(crate) async fn replays_nothing_twice_when_a_part_is_repeated(store: &dyn Store) {
    let lease = lease(store).await;
    for id in ["a", "b", "c"] {
        put_failed(store, &lease, message(id)).await;
    }
    // An earlier replay does not count.
    let first = Selection { message_ids: vec!["b".into()], ..all(ReplayState::All) };
    assert_eq!(replay(store, first, false).await, (1, 0));
    let until = heads(store).await[0].seq;
    end_failed(store, &lease, until).await;
    let ask = ReplayAsk {
        selection: all(ReplayState::All),
        position: Some(ReplayPosition { after: Seq::default(), until }),
        is_dry_run: false,
        choice: None,
        now: at(1_000),
    };
    assert_eq!(store.replay(&ask).await.unwrap().replayed, 3);
    for head in heads(store).await {
        end_failed(store, &lease, head.seq).await;
    }
    let chunk = store.replay(&ask).await.unwrap();
    assert_eq!((chunk.replayed, chunk.without_contents, chunk.next), (0, 0, None));
}

pub(crate) async fn counts_messages_without_contents(store: &dyn Store) {
    let lease = lease(store).await;
    put_failed(store, &lease, message("a")).await;
    while store.purge(at(15) + LIMITS.failed_retention).await.unwrap() > 0 {}
    let late = put(store, NewMessage { received_at: at(10_000), ..message("b") }).await;
    end(store, &lease, late, &[("one", Some(Refused))]).await;
    assert_eq!(replay(store, all(ReplayState::Failed), true).await, (1, 1));
    assert_eq!(replay_all(store).await, (1, 1));
    assert_eq!(pending_ids(store).await, ["b"]);
    let shown = record(store, "a").await;
    assert!(shown.is_done && shown.deliveries[0].state == DeliveryState::Failed);
}

/// Settles the request of a message of this lane; returns the message's sequence number.
async fn settle_awaiting(
    store: &dyn Store,
    id: &str,
    lane: LaneKey,
    consequence: Consequence,
    awaiting: Option<Awaiting>,
) -> Seq {
    let lease = lease(store).await;
    let seq = put(store, NewMessage { lane, ..message(id) }).await;
    let plan = plan(vec![delivery("event", Ok(request(0)))]);
    let frozen = store.freeze_one(&lease, seq, plan).await.unwrap();
    let settlement = Settlement { awaiting, ..settlement(&frozen[0], 1, consequence) };
    store.settle(&lease, settlement).await.unwrap();
    seq
}

pub(crate) async fn an_event_is_revived_once_its_contact_appears(store: &dyn Store) {
    let (ada, bob) = (LaneKey::from(user("ada")), LaneKey::from(user("bob")));
    let begins = |lane, until| Some(Awaiting::Begins { lane, until: at(until) });
    let refused = || Consequence::Failed(failure());
    for (id, lane, until) in [("event", ada, 100), ("late", ada, 10), ("other", bob, 100)] {
        settle_awaiting(store, id, lane, refused(), begins(lane, until)).await;
    }
    assert_eq!(store.revive(at(20)).await.unwrap(), [""; 0], "there is no contact");
    let awaits = async |id| record(store, id).await.deliveries[0].awaits_contact_until;
    assert_eq!((awaits("event").await, awaits("late").await), (Some(at(100)), Some(at(10))));
    let ends = Some(Awaiting::Ends { lane: ada });
    settle_awaiting(store, "upsert", ada, Consequence::Delivered, ends).await;
    assert_eq!(store.revive(at(20)).await.unwrap(), [DESTINATION]);
    assert_eq!(store.revive(at(20)).await.unwrap(), [""; 0], "once");
    let revived = record(store, "event").await;
    assert_eq!((revived.state(), revived.replay), (MessageState::Pending, 1));
    // A person is waiting for this message.
    assert_eq!(revived.class, Class::Event);
    let [refused] = &revived.deliveries[..] else { panic!("{revived:?}") };
    assert!(refused.is_superseded && refused.awaits_contact_until.is_none());
    let detail = &refused.failure.as_ref().unwrap().detail;
    assert!(
        detail.ends_with(" (sent again automatically, because its contact was created afterwards)")
    );
    for id in ["late", "other"] {
        assert_eq!(record(store, id).await.state(), MessageState::Failed, "{id}");
    }
}

pub(crate) async fn what_a_person_replays_is_not_revived_too(store: &dyn Store) {
    let ada = LaneKey::from(user("ada"));
    let begins = Some(Awaiting::Begins { lane: ada, until: at(100) });
    settle_awaiting(store, "event", ada, Consequence::Failed(failure()), begins).await;
    let selection = Selection { message_ids: vec!["event".into()], ..Selection::default() };
    assert_eq!(replay(store, selection, false).await.0, 1);
    let ends = Some(Awaiting::Ends { lane: ada });
    settle_awaiting(store, "upsert", ada, Consequence::Delivered, ends).await;
    assert_eq!(store.revive(at(20)).await.unwrap(), [""; 0]);
}

pub(crate) async fn each_delivery_that_waits_is_revived(store: &dyn Store) {
    let ada = LaneKey::from(user("ada"));
    let lease = lease(store).await;
    let seq = put(store, NewMessage { lane: ada, ..message("event") }).await;
    let deliveries = vec![delivery("one", Ok(request(0))), delivery("two", Ok(request(1)))];
    for request in store.freeze_one(&lease, seq, plan(deliveries)).await.unwrap() {
        let awaiting = Some(Awaiting::Begins { lane: ada, until: at(100) });
        let settlement = settlement(&request, 1, Consequence::Failed(failure()));
        store.settle(&lease, Settlement { awaiting, ..settlement }).await.unwrap();
    }
    let ends = Some(Awaiting::Ends { lane: ada });
    settle_awaiting(store, "upsert", ada, Consequence::Delivered, ends).await;
    for name in ["one", "two"] {
        assert_eq!(store.revive(at(20)).await.unwrap(), [DESTINATION], "{name}");
        assert_eq!(store.revive(at(20)).await.unwrap(), [""; 0], "it is pending");
        let seq = record(store, "event").await.seq;
        let job = store.open(seq).await.unwrap().unwrap();
        assert_eq!(job.replay.only.as_deref(), Some(name));
        let plan = plan(vec![delivery(name, Ok(request(0)))]);
        let frozen = store.freeze_one(&lease, seq, plan).await.unwrap();
        store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    }
    assert_eq!(record(store, "event").await.state(), MessageState::Delivered);
}
