//! New contacts: which requests are counted as creating one, and which messages are held.

use super::contacts::{address, learned, report};
use super::erasure::deletion;
use super::replay::replay;
use super::*;
use crate::queue::{
    ContactCap, ContactChange, Creation, Frozen, Held, Hold, HoldReason, HoldsAnswer, HoldsAsk,
    KnownContact, Learned, MessageState, ReplayState, Stage, TallyStep,
};

/// Settles a request with this change of its contact; returns whether the contact was new.
async fn is_new(store: &dyn Store, change: ContactChange) -> bool {
    let lease = lease(store).await;
    let seq = put(store, message(&format!("m{}", fastrand::u64(..)))).await;
    let plan = plan(vec![delivery("one", Ok(request(0)))]);
    let frozen = store.freeze_one(&lease, seq, plan).await.unwrap();
    let delivered = settlement(&frozen[0], 1, Consequence::Delivered);
    let delivered = Settlement { contact: Some(change), ..delivered };
    let settled = store.settle(&lease, delivered.clone()).await.unwrap();
    // Repeated, as if the response of the store had been lost.
    assert!(!store.settle(&lease, delivered).await.unwrap().is_new_contact);
    settled.is_new_contact
}

async fn learn(store: &dyn Store, learned: Learned) -> bool {
    is_new(store, ContactChange::Learn(learned)).await
}

/// Returns how many new contacts were counted.
async fn counted(store: &dyn Store, step: TallyStep) -> u64 {
    let from = at(0) - Duration::from_secs(3_600);
    let tallies = store.tallies(step, from, at(0) + LIMITS.records_retention).await.unwrap();
    let new = tallies.into_iter().filter(|tally| tally.stage == Stage::NewContact);
    new.map(|tally| tally.count).sum()
}

pub(crate) async fn counts_each_new_contact_once(store: &dyn Store) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let email = Some(address("ada@example.com"));
    let first = Learned { email, ..learned(ada, &[]) };
    assert!(learn(store, first.clone()).await);
    assert!(!learn(store, first.clone()).await, "by its user id");
    let by_address = address("ada@example.com");
    assert!(!learn(store, learned(by_address, &[])).await, "by its address alone");
    let other_id = Learned { email, ..learned(user("ada2"), &[]) };
    assert!(!learn(store, other_id).await, "by the address beside another id");
    // Loops does not create a contact without an address, so it had this one.
    assert!(!learn(store, Learned { may_create: false, ..learned(bob, &[]) }).await);
    assert!(!learn(store, learned(bob, &[])).await);
    // The request was sent before a crash, and Loops knew its idempotency key.
    assert!(is_new(store, ContactChange::Confirm(learned(eve, &[]))).await);
    assert!(!learn(store, learned(eve, &[])).await);
    for step in TallyStep::ALL {
        assert_eq!(counted(store, step).await, 2, "{step:?}");
    }
}

pub(crate) async fn a_contact_that_loops_reported_is_not_new(store: &dyn Store) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    report(store, "contact.created", ada, 9).await;
    assert!(!learn(store, learned(ada, &[])).await);
    // The attempt began at 10, so the report is about what the attempt did.
    report(store, "contact.created", bob, 12).await;
    assert!(learn(store, learned(bob, &[])).await);
    assert!(!learn(store, learned(bob, &[])).await);
    // No event but the creation shows that Loops has the contact.
    report(store, "email.delivered", eve, 5).await;
    report(store, "contact.unsubscribed", eve, 5).await;
    assert!(learn(store, learned(eve, &[])).await);
}

pub(crate) async fn a_contact_that_was_deleted_is_new_again(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    assert!(learn(store, learned(ada, &[])).await);
    is_new(store, ContactChange::Delete(ada)).await;
    // The deletion was recorded at 15.
    let later = |key| Learned { started_at: at(100), ..learned(key, &[]) };
    assert!(learn(store, later(ada)).await);
    report(store, "contact.deleted", ada, 200).await;
    // The attempt began before the report, so it is unknown whether the contact exists.
    assert!(!learn(store, later(ada)).await);
    let again = Learned { started_at: at(300), ..learned(ada, &[]) };
    assert!(learn(store, again).await);
    // The report of the creation arrives late.
    report(store, "contact.deleted", bob, 20).await;
    report(store, "contact.created", bob, 15).await;
    assert!(learn(store, later(bob)).await);
    assert_eq!(counted(store, TallyStep::Hour).await, 4);
}

/// A message in the lane of this user id.
fn of(id: &str, person: &str) -> NewMessage {
    NewMessage { lane: lane(person), ..message(id) }
}

/// Freezes a message that would create a contact, with this cap.
async fn freeze_capped(store: &dyn Store, seq: Seq, key: PersonDigest, per_day: u32) -> Frozen {
    let lease = lease(store).await;
    let plans = vec![(seq, plan(vec![delivery("one", Ok(request(1)))]))];
    let contact = KnownContact { key, email: None };
    let cap = Some(ContactCap { per_day, creations: vec![Creation { seq, contact }] });
    let merge = NewMerge { plans, merged: Vec::new(), claims: Vec::new(), is_shadow: false, cap };
    store.freeze(&lease, merge).await.unwrap()
}

/// Puts a message of a person, and freezes it as [`freeze_capped`] does.
async fn put_capped(store: &dyn Store, person: &str, per_day: u32) -> (Seq, Frozen) {
    let seq = put(store, of(&format!("m-{person}"), person)).await;
    (seq, freeze_capped(store, seq, user(person), per_day).await)
}

/// Returns the lanes that may go on at this time.
async fn ready(store: &dyn Store, now: Timestamp, per_day: Option<u32>) -> Vec<LaneKey> {
    let ask = HoldsAsk { now, per_day, limit: 10 };
    store.holds(DESTINATION, ask).await.unwrap().lanes
}

const NEW: Option<Hold> = Some(Hold { is_new: true, is_before_deletion: false });
const AGAIN: Option<Hold> = Some(Hold { is_new: false, is_before_deletion: false });
const NOBODY: [LaneKey; 0] = [];

pub(crate) async fn holds_what_would_create_too_many_contacts(store: &dyn Store) {
    let lease = lease(store).await;
    let (_, ada) = put_capped(store, "ada", 2).await;
    let (_, bob) = put_capped(store, "bob", 2).await;
    assert_eq!((ada.hold, bob.hold), (None, None));
    let (eve, held) = put_capped(store, "eve", 2).await;
    assert_eq!((held.hold, held.requests.len()), (NEW, 0));
    assert_eq!(freeze_capped(store, eve, user("eve"), 2).await.hold, AGAIN);
    assert_eq!(store.held_lanes(DESTINATION).await.unwrap(), [(eve, lane("eve"))]);
    let behind = put(store, of("behind", "eve")).await;
    let expected = |is_behind| Held { reason: HoldReason::NewContactCap, since: at(1), is_behind };
    assert_eq!(record(store, "m-eve").await.held, Some(expected(false)));
    assert_eq!(record(store, "behind").await.held, Some(expected(true)));
    assert_eq!(record(store, "m-ada").await.held, None);
    assert_eq!(record(store, "m-eve").await.state(), MessageState::Pending);
    let depth = store.depth(DESTINATION).await.unwrap();
    assert_eq!((depth.messages, depth.held, depth.held_since), (4, 1, Some(at(1))));
    assert_eq!(store.count_held(DESTINATION).await.unwrap(), (1, Some(at(1))));
    assert_eq!(store.count_held("other").await.unwrap(), (0, None));
    let pending = Some(MessageState::Pending);
    let all = Filter { state: pending, is_held: true, ..Filter::default() };
    let held_by =
        |destination: &str| Filter { destination: Some(destination.into()), ..all.clone() };
    let of_eve = Filter { persons: vec![user("eve")], ..all.clone() };
    for (filter, count) in
        [(&all, 1), (&held_by(DESTINATION), 1), (&held_by("other"), 0), (&of_eve, 1)]
    {
        let page = store.list(filter, None, 10).await.unwrap();
        assert!(page.next.is_none() && page.messages.iter().all(|found| found.seq == eve));
        assert_eq!(page.messages.len(), count, "{filter:?}");
    }

    // A contact that may be created already takes no more room for another message.
    let again = put(store, of("again", "bob2")).await;
    assert_eq!(freeze_capped(store, again, user("bob"), 2).await.hold, None);
    assert_eq!(ready(store, at(2), Some(2)).await, NOBODY);
    // One contact was created, so there is no more room than before.
    let delivered = settlement(&ada.requests[0], 1, Consequence::Delivered);
    let contact = Some(ContactChange::Learn(learned(user("ada"), &[])));
    store.settle(&lease, Settlement { contact, ..delivered }).await.unwrap();
    assert_eq!(ready(store, at(20), Some(2)).await, NOBODY);
    assert_eq!(freeze_capped(store, eve, user("eve"), 2).await.hold, AGAIN);
    // The other contact is never created.
    for request in [&bob.requests[0]] {
        let failed = settlement(request, 1, Consequence::Failed(failure()));
        store.settle(&lease, failed).await.unwrap();
    }
    assert_eq!(ready(store, at(20), Some(2)).await, NOBODY, "another message may still create it");
    let frozen = store.open(again).await.unwrap().unwrap().requests;
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Failed(failure()))).await.unwrap();
    assert_eq!(ready(store, at(20), Some(2)).await, [lane("eve")]);
    let frozen = freeze_capped(store, eve, user("eve"), 2).await;
    assert_eq!((frozen.hold, frozen.requests.len()), (None, 1));
    assert_eq!(record(store, "m-eve").await.held, None);
    assert_eq!(record(store, "behind").await.held, None);
    assert_eq!(store.held_lanes(DESTINATION).await.unwrap(), []);
    assert!(heads(store).await.iter().any(|head| head.seq == behind));
}

pub(crate) async fn what_is_held_is_not_the_oldest_that_waits(store: &dyn Store) {
    let received =
        |id: &str, person: &str, second| NewMessage { received_at: at(second), ..of(id, person) };
    let oldest = async || store.depth(DESTINATION).await.unwrap().oldest_received_at();
    let before = put(store, received("before", "eve", 2)).await;
    let eve = put(store, received("m-eve", "eve", 3)).await;
    assert_eq!(freeze_capped(store, eve, user("eve"), 0).await.hold, NEW);
    put(store, received("behind", "eve", 4)).await;
    put(store, received("other", "bob", 5)).await;
    assert_eq!(oldest().await, Some(at(2)), "it is not behind what is held");
    let lease = lease(store).await;
    let plan = plan(vec![delivery("one", Ok(request(1)))]);
    let frozen = store.freeze_one(&lease, before, plan).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert_eq!(oldest().await, Some(at(5)));
    let depth = store.depth(DESTINATION).await.unwrap();
    assert_eq!((depth.messages, depth.held), (3, 1));
}

pub(crate) async fn what_is_held_goes_on_when_there_is_room(store: &dyn Store) {
    let (eve, held) = put_capped(store, "eve", 0).await;
    assert_eq!(held.hold, NEW);
    let (bob, held) = put_capped(store, "bob", 0).await;
    assert_eq!(held.hold, NEW);
    assert_eq!(ready(store, at(2), Some(0)).await, NOBODY);
    // The message that was held first goes first.
    store.release_contacts(DESTINATION, 1, at(2)).await.unwrap();
    store.release_contacts("other", 5, at(2)).await.unwrap();
    let mut days = store.new_contacts(at(2)).await.unwrap();
    days.sort_by(|a, b| a.destination.cmp(&b.destination));
    let released: Vec<(&str, u64)> =
        days.iter().map(|day| (day.destination.as_str(), day.released)).collect();
    assert_eq!(released, [(DESTINATION, 1), ("other", 5)]);
    assert_eq!(ready(store, at(2), Some(0)).await, [lane("eve")]);
    assert_eq!(freeze_capped(store, eve, user("eve"), 0).await.hold, None);
    assert_eq!(freeze_capped(store, bob, user("bob"), 0).await.hold, AGAIN);
    // The cap is raised or removed.
    assert_eq!(ready(store, at(2), Some(1)).await, [lane("bob")]);
    assert_eq!(ready(store, at(2), None).await, [lane("bob")]);
    // On the next day, the release has lapsed, but contacts that may be created still count.
    let tomorrow = at(0) + Duration::from_secs(24 * 60 * 60);
    assert_eq!(store.new_contacts(tomorrow).await.unwrap(), []);
    assert_eq!(ready(store, tomorrow, Some(1)).await, NOBODY);
    assert_eq!(ready(store, tomorrow, Some(2)).await, [lane("bob")]);
    // A message whose contact Loops has by now goes on without any room.
    assert_eq!(ready(store, at(2), Some(0)).await, NOBODY);
    report(store, "contact.created", user("bob"), 3).await;
    assert_eq!(ready(store, at(4), Some(0)).await, [lane("bob")]);
    assert_eq!(freeze_capped(store, bob, user("bob"), 0).await.hold, None);
}

pub(crate) async fn a_merge_without_room_holds_nothing(store: &dyn Store) {
    let lease = lease(store).await;
    let (one, two) = (put(store, of("one", "eve")).await, put(store, of("two", "eve")).await);
    let plans = [one, two].map(|seq| (seq, plan(vec![delivery("one", Ok(request(1)))])));
    let creations = [(one, "eve"), (two, "bob")].map(|(seq, person)| Creation {
        seq,
        contact: KnownContact { key: user(person), email: None },
    });
    let cap = Some(ContactCap { per_day: 0, creations: creations.into() });
    let (merged, claims) = (Vec::new(), Vec::new());
    let merge = NewMerge { plans: plans.into(), merged, claims, is_shadow: false, cap };
    let frozen = store.freeze(&lease, merge).await.unwrap();
    assert_eq!((frozen.hold, frozen.requests), (AGAIN, vec![]));
    assert_eq!(store.held_lanes(DESTINATION).await.unwrap(), []);
    // Planned alone, the message is newly held.
    assert_eq!(freeze_capped(store, one, user("eve"), 0).await.hold, NEW);
}

pub(crate) async fn discards_what_is_held(store: &dyn Store) {
    let (_, held) = put_capped(store, "eve", 0).await;
    assert_eq!(held.hold, NEW);
    put(store, of("behind", "eve")).await;
    assert_eq!(store.discard_held("other", at(9), at(9)).await.unwrap(), 0);
    assert_eq!(store.discard_held(DESTINATION, at(0), at(9)).await.unwrap(), 0, "held later");
    assert_eq!(store.discard_held(DESTINATION, at(9), at(9)).await.unwrap(), 1);
    assert_eq!(store.discard_held(DESTINATION, at(9), at(9)).await.unwrap(), 0);
    let ended = record(store, "m-eve").await;
    assert_eq!((ended.state(), ended.held), (MessageState::Failed, None));
    let reason = ended.deliveries[0].failure.as_ref().map(|failure| failure.reason);
    assert_eq!(reason, Some(FailureReason::Discarded));
    assert_eq!(record(store, "behind").await.held, None);
    let ask = HoldsAsk { now: at(9), per_day: Some(0), limit: 10 };
    let answer = store.holds(DESTINATION, ask).await.unwrap();
    assert_eq!(answer, HoldsAnswer { lanes: vec![], discarded: 1 });
    assert_eq!(store.held_lanes(DESTINATION).await.unwrap(), []);
    // A replay has it planned again.
    let filter = Filter { reason: Some(FailureReason::Discarded), ..Filter::default() };
    let selection = meeting(filter, ReplayState::Failed);
    assert_eq!(replay(store, selection, false).await, (1, 0));
    let again = record(store, "m-eve").await;
    assert_eq!(again.state(), MessageState::Pending);
    assert_eq!(freeze_capped(store, again.seq, user("eve"), 1).await.hold, None);
}

pub(crate) async fn what_is_held_keeps_nobody_from_being_deleted(store: &dyn Store) {
    let (eve, held) = put_capped(store, "eve", 0).await;
    assert_eq!(held.hold, NEW);
    put(store, NewMessage { lane: lane("eve"), ..deletion("d") }).await;
    let hold = freeze_capped(store, eve, user("eve"), 0).await.hold;
    assert_eq!(hold, Some(Hold { is_new: false, is_before_deletion: true }));
    let lease = lease(store).await;
    store.freeze_one(&lease, eve, plan(vec![])).await.unwrap();
    assert_eq!(record(store, "m-eve").await.state(), MessageState::Unmatched);
    assert_eq!(store.held_lanes(DESTINATION).await.unwrap(), []);
}

pub(crate) async fn a_list_makes_contacts_known(store: &dyn Store) {
    let (ada, bob, eve) = (user("ada"), user("bob"), address("eve@example.com"));
    let email = Some(address("ada@example.com"));
    let all = [
        KnownContact { key: ada, email },
        KnownContact { key: bob, email: None },
        KnownContact { key: eve, email: None },
    ];
    assert!(!store.knows_any(DESTINATION).await.unwrap());
    assert_eq!(store.unknown_contacts(DESTINATION, &all).await.unwrap(), all);
    let held = put_capped(store, "bob", 0).await.1;
    assert_eq!(held.hold, NEW);
    assert_eq!(store.make_known(DESTINATION, &all, at(5)).await.unwrap(), 3);
    assert_eq!(store.make_known(DESTINATION, &all, at(6)).await.unwrap(), 0, "twice");
    assert!(store.knows_any(DESTINATION).await.unwrap());
    assert!(!store.knows_any("other").await.unwrap());
    assert_eq!(store.unknown_contacts("other", &all).await.unwrap(), all);
    // Contacts with the address alone, and with the address beside another id.
    let by_address = KnownContact { key: address("ada@example.com"), email: None };
    let with_address = KnownContact { key: user("eve"), email: Some(eve) };
    let known = [by_address, with_address, all[0], all[1], all[2]];
    assert_eq!(store.unknown_contacts(DESTINATION, &known).await.unwrap(), []);
    assert_eq!(ready(store, at(7), Some(0)).await, [lane("bob")], "it goes on");
    assert!(!learn(store, Learned { email, ..learned(ada, &[]) }).await);
    assert_eq!(counted(store, TallyStep::Hour).await, 0);
    // A deletion by the user id applies to the address too, which may come from a list without user ids.
    store.make_known(DESTINATION, &[by_address], at(7)).await.unwrap();
    report(store, "contact.deleted", ada, 8).await;
    let gone = [by_address, all[0]];
    assert_eq!(store.unknown_contacts(DESTINATION, &gone).await.unwrap(), gone);
    store.make_known(DESTINATION, &all, at(9)).await.unwrap();
    // A deleted contact is no longer known. A later list shows that it exists again.
    report(store, "contact.deleted", bob, 8).await;
    assert_eq!(store.unknown_contacts(DESTINATION, &all).await.unwrap(), [all[1]]);
    assert_eq!(store.make_known(DESTINATION, &all, at(9)).await.unwrap(), 1);
}
