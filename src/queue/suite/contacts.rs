//! Knowledge of contacts: learned with an outcome, shared between lanes, and forgotten as soon as it may no longer be
//! true.

use super::erasure::{deleting, deletion, erase_all};
use super::*;
use crate::queue::{
    BrokenMessage, CONFLICT_DAYS, CONTACTS_KEPT, ConflictKind, Contact, ContactChange,
    ContactClaim, DeliveryState, FeedbackRecord, IdentityConflict, KnownContact, KnownProperty,
    Learned, MessageState, NewFeedback, NewOutcome, NotNeeded, NotNeededReason, RequestId,
    USERS_COUNTED_MAX,
};
use crate::segment::{LaneKey, PropertyName, PropertyValue};

const NOTHING: [i64; 0] = [];

pub(super) fn address(address: &str) -> PersonDigest {
    Digests::new(&INSTALLATION_KEY).person(PersonIdKind::Email, address)
}

fn property(name: i64, value: i64) -> KnownProperty {
    let (name, value) = (PropertyName(name), PropertyValue(value));
    KnownProperty { name, value, at: at(15), happened_at: at(5), request: RequestId(7) }
}

/// What a request in the person's own lane teaches about the contact. Its attempt began at `at(10)`.
pub(super) fn learned(key: PersonDigest, properties: &[KnownProperty]) -> Learned {
    let properties = properties.to_vec();
    let (email, is_own_email, started_at) = (None, true, at(10));
    let (lane, address, request) = (key.into(), None, RequestId(7));
    Learned {
        key,
        email,
        is_own_email,
        may_create: true,
        lane,
        address,
        request,
        started_at,
        properties,
        opt_in: None,
    }
}

/// Freezes a request and settles it with this consequence.
async fn settle(store: &dyn Store, consequence: Consequence, change: ContactChange) {
    let id = format!("m{}", fastrand::u64(..));
    let lease = lease(store).await;
    let seq = put(store, message(&id)).await;
    let plan = plan(vec![delivery("one", Ok(request(0)))]);
    let frozen = store.freeze_one(&lease, seq, plan).await.unwrap();
    let settlement = settlement(&frozen[0], 1, consequence);
    let settlement = Settlement { contact: Some(change), ..settlement };
    store.settle(&lease, settlement.clone()).await.unwrap();
    // Repeated, as if the response of the store had been lost.
    store.settle(&lease, settlement).await.unwrap();
}

async fn learn(store: &dyn Store, learned: Learned) {
    settle(store, Consequence::Delivered, ContactChange::Learn(learned)).await;
}

async fn known(store: &dyn Store, key: PersonDigest) -> Option<Contact> {
    let mut found = store.contacts(DESTINATION, &[key]).await.unwrap();
    assert!(found.len() <= 1);
    found.pop()
}

/// The names of the properties that are known of a contact, and whether it is shared.
async fn names(store: &dyn Store, key: PersonDigest) -> (Vec<i64>, bool) {
    let contact = known(store, key).await.unwrap();
    let names = contact.properties.iter().map(|property| property.name.0);
    (names.collect(), contact.is_shared)
}

pub(super) async fn report(store: &dyn Store, event: &str, user: PersonDigest, seconds: i64) {
    let record = FeedbackRecord {
        destination: DESTINATION.into(),
        webhook_id: format!("msg_{}", fastrand::u64(..)),
        received_at: at(seconds),
        at: at(seconds),
        event: event.into(),
        user: Some(user),
        email: None,
        contact_id: None,
        origin: None,
        email_id: None,
    };
    store.record(NewFeedback { record, forward: None }).await.unwrap();
}

pub(crate) async fn learns_what_loops_accepted(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    assert_eq!(known(store, ada).await, None);
    let email = Some(address("ada@example.com"));
    let sealed = Some(b"sealed".to_vec());
    let first = learned(ada, &[property(1, 1), property(2, 1)]);
    learn(store, Learned { email, address: sealed.clone(), ..first }).await;
    learn(store, learned(bob, &[property(1, 9)])).await;
    learn(store, learned(ada, &[property(2, 5), property(3, 1)])).await;
    // An event may carry the address of somebody else.
    let friend = Some(address("friend@example.com"));
    let event = Learned { email: friend, is_own_email: false, ..learned(ada, &[]) };
    learn(store, event).await;
    let contact = Contact {
        key: ada,
        email,
        is_shared: false,
        address: sealed,
        properties: vec![property(1, 1), property(2, 5), property(3, 1)],
    };
    assert_eq!(known(store, ada).await, Some(contact));
    let mut both = store.contacts(DESTINATION, &[ada, bob, user("eve")]).await.unwrap();
    both.sort_by_key(|contact| contact.key != ada);
    let keys: Vec<PersonDigest> = both.iter().map(|contact| contact.key).collect();
    assert_eq!(keys, [ada, bob]);
    assert_eq!(store.contacts("another", &[ada]).await.unwrap(), []);
    assert_eq!(store.contacts(DESTINATION, &[]).await.unwrap(), []);
    // The next address is not to be kept.
    let email = Some(address("ada@new.example"));
    learn(store, Learned { email, ..learned(ada, &[]) }).await;
    let contact = known(store, ada).await.unwrap();
    assert_eq!((contact.email, contact.address), (email, None));
}

pub(crate) async fn finds_contacts_that_are_mixed_up(store: &dyn Store) {
    let day = Duration::from_secs(24 * 60 * 60);
    let (ada, bob) = (user("ada"), user("bob"));
    let with = |key, email: &str| Learned { email: Some(address(email)), ..learned(key, &[]) };
    let conflicts = async || {
        let mut found = store.conflicts(at(0)).await.unwrap();
        found.sort_by_key(|one| one.kind.as_str());
        let told = |one: &IdentityConflict| (one.kind, one.person, one.count, one.request);
        let days: Vec<Timestamp> = found.iter().map(|one| one.day).collect();
        assert!(days.iter().all(|seen| *seen <= at(0) && at(0) < *seen + day), "{days:?}");
        found.iter().map(told).collect::<Vec<_>>()
    };
    // Writing the same address again is no change, and an event may carry anyone's address.
    for learned in [
        with(ada, "a@example.com"),
        with(ada, "a@example.com"),
        Learned { is_own_email: false, ..with(ada, "friend@example.com") },
        learned(bob, &[]),
    ] {
        learn(store, learned).await;
    }
    assert_eq!(conflicts().await, []);
    for email in ["b@example.com", "c@example.com"] {
        assert_eq!(conflicts().await, [], "people change their addresses");
        learn(store, Learned { request: RequestId(8), ..with(ada, email) }).await;
    }
    let addresses = (ConflictKind::Addresses, ada, 3, RequestId(8));
    assert_eq!(conflicts().await, [addresses]);
    learn(store, with(bob, "c@example.com")).await;
    let shared = address("c@example.com");
    let users = |count| (ConflictKind::UserIds, shared, count, RequestId(7));
    assert_eq!(conflicts().await, [addresses, users(2)]);
    learn(store, with(user("eve"), "c@example.com")).await;
    assert_eq!(conflicts().await, [addresses, users(3)]);
    assert_eq!(store.conflicts(at(0) + day).await.unwrap(), []);

    // Erasing the person removes its conflicts, including those about its address.
    let lease = lease(store).await;
    let seq = put(store, NewMessage { lane: ada.into(), ..deletion("d") }).await;
    let frozen = store.freeze_one(&lease, seq, plan(vec![deleting(Ok(request(0)))])).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    erase_all(store).await;
    assert_eq!(conflicts().await, []);

    learn(store, with(bob, "c@example.com")).await;
    assert_eq!(conflicts().await, [users(2)]);
    let purge_at = async |now: Timestamp| while store.purge(now).await.unwrap() > 0 {};
    purge_at(at(15) + day * u32::from(CONFLICT_DAYS)).await;
    assert_eq!(conflicts().await, [users(2)]);
    purge_at(at(15) + day * u32::from(CONFLICT_DAYS + 2)).await;
    assert_eq!(conflicts().await, []);
}

pub(crate) async fn forgets_what_may_not_be_true(store: &dyn Store) {
    let ada = user("ada");
    for consequence in [Consequence::Failed(failure()), Consequence::Delivered] {
        learn(store, learned(ada, &[property(1, 1)])).await;
        assert_eq!(names(store, ada).await, (vec![1], false));
        settle(store, consequence, ContactChange::Forget(ada)).await;
        assert_eq!(names(store, ada).await, (vec![], false));
    }
    // The records of a message of the lane are broken.
    learn(store, learned(ada, &[property(1, 1)])).await;
    learn(store, Learned { lane: ada.into(), ..learned(user("team"), &[property(1, 1)]) }).await;
    learn(store, learned(user("bob"), &[property(1, 1)])).await;
    let lease = lease(store).await;
    let seq = put(store, NewMessage { lane: ada.into(), ..message("broken") }).await;
    let broken = BrokenMessage { seq, now: at(20), failure: failure() };
    store.set_aside(&lease, broken).await.unwrap();
    assert_eq!(names(store, ada).await.0, NOTHING);
    assert_eq!(names(store, user("team")).await.0, NOTHING);
    assert_eq!(names(store, user("bob")).await.0, [1]);
}

pub(crate) async fn a_contact_of_two_lanes_is_shared(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    let email = address("ada@example.com");
    learn(store, learned(ada, &[property(1, 1)])).await;
    let by_another = Learned { lane: bob.into(), ..learned(ada, &[property(2, 1)]) };
    learn(store, by_another).await;
    assert_eq!(names(store, ada).await, (vec![1, 2], true));
    learn(store, learned(ada, &[property(3, 1)])).await;
    assert!(names(store, ada).await.1, "it stays shared");

    // One contact by its id, and one by its address alone.
    let (eve, address_alone) = (user("eve"), email);
    learn(store, learned(address_alone, &[property(1, 1)])).await;
    assert!(!names(store, address_alone).await.1);
    learn(store, Learned { email: Some(email), ..learned(eve, &[property(1, 1)]) }).await;
    assert!(names(store, address_alone).await.1 && names(store, eve).await.1);
    // Two ids with one address.
    let other = Some(address("team@example.com"));
    learn(store, Learned { email: other, ..learned(user("x"), &[property(1, 1)]) }).await;
    assert!(!names(store, user("x")).await.1);
    learn(store, Learned { email: other, ..learned(user("y"), &[property(1, 1)]) }).await;
    assert!(names(store, user("x")).await.1 && names(store, user("y")).await.1);
}

/// Freezes a request that is about to change a contact.
async fn claim(store: &dyn Store, key: PersonDigest, email: Option<PersonDigest>, lane: LaneKey) {
    let lease = lease(store).await;
    let seq = put(store, message(&format!("m{}", fastrand::u64(..)))).await;
    let plans = vec![(seq, plan(vec![delivery("one", Ok(request(0)))]))];
    let claims = vec![ContactClaim { key, email, lane }];
    store
        .freeze(&lease, NewMerge { plans, merged: Vec::new(), claims, is_shadow: false, cap: None })
        .await
        .unwrap();
}

pub(crate) async fn a_request_that_is_on_its_way_shares_its_contact(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    // Nothing is known of the contact when a request of another lane is frozen, nor when its own is accepted.
    claim(store, ada, None, bob.into()).await;
    assert_eq!(names(store, ada).await, (vec![], false));
    learn(store, learned(ada, &[property(1, 1)])).await;
    assert_eq!(names(store, ada).await, (vec![1], true));

    learn(store, learned(bob, &[property(1, 1)])).await;
    claim(store, bob, None, bob.into()).await;
    assert_eq!(names(store, bob).await, (vec![1], false), "its own lane");
    claim(store, bob, None, ada.into()).await;
    assert_eq!(names(store, bob).await, (vec![1], true));

    // Another contact gets the address of this one.
    let (eve, email) = (user("eve"), Some(address("eve@example.com")));
    learn(store, Learned { email, ..learned(eve, &[property(1, 1)]) }).await;
    claim(store, user("mallory"), email, user("mallory").into()).await;
    assert!(names(store, eve).await.1 && names(store, user("mallory")).await.1);

    // Neither is known, and both get one address.
    let (x, y, email) = (user("x"), user("y"), Some(address("team@example.com")));
    claim(store, x, email, x.into()).await;
    claim(store, y, email, y.into()).await;
    assert!(names(store, x).await.1 && names(store, y).await.1);
    // A request that has ended no longer makes a contact shared.
    let (z, email) = (user("z"), Some(address("z@example.com")));
    claim(store, z, email, z.into()).await;
    learn(store, learned(z, &[])).await;
    claim(store, user("other"), email, user("other").into()).await;
    assert!(!names(store, z).await.1 && !names(store, user("other")).await.1);
}

/// How many user ids have one address, as with a test account.
const MANY: usize = 2_000;

pub(crate) async fn an_address_of_thousands_is_shared_by_all_of_them(store: &dyn Store) {
    let email = Some(address("info@example.com"));
    let many: Vec<PersonDigest> = (0..MANY).map(|n| user(&format!("u{n}"))).collect();
    let shared = async || {
        let found = store.contacts(DESTINATION, &many).await.unwrap();
        assert_eq!(found.len(), MANY);
        found.iter().filter(|contact| contact.is_shared).count()
    };
    // A list of contacts says nothing about who changes them.
    let listed: Vec<KnownContact> =
        many.iter().map(|key| KnownContact { key: *key, email }).collect();
    store.make_known(DESTINATION, &listed, at(5)).await.unwrap();
    assert_eq!(shared().await, 0);
    let of = |key, email: &str| {
        let email = Some(address(email));
        Learned { email, ..learned(key, &[property(1, 1)]) }
    };
    let (new, other) = (user("new"), user("other"));
    claim(store, new, email, new.into()).await;
    assert_eq!(shared().await, MANY, "a request on its way may change any of them");
    learn(store, of(new, "info@example.com")).await;
    learn(store, of(other, "other@example.com")).await;
    assert_eq!(names(store, new).await, (vec![1], true));
    assert_eq!(names(store, other).await, (vec![1], false), "nobody else has its address");
    // So many are not counted one by one.
    let conflicts = store.conflicts(at(0)).await.unwrap();
    let counted = |one: &IdentityConflict| (one.kind, one.person, one.count);
    let expected = (ConflictKind::UserIds, address("info@example.com"), USERS_COUNTED_MAX.into());
    assert_eq!(conflicts.iter().map(counted).collect::<Vec<_>>(), [expected]);
    // A contact that gets the same address later is shared too, whether its request is in flight or was accepted.
    let (by_claim, by_outcome) = (user("by claim"), user("by outcome"));
    claim(store, by_claim, email, by_claim.into()).await;
    assert!(names(store, by_claim).await.1);
    learn(store, of(by_outcome, "info@example.com")).await;
    assert!(names(store, by_outcome).await.1);
    // So is the contact that has nothing but the address.
    let by_address = address("info@example.com");
    claim(store, by_address, None, by_address.into()).await;
    assert!(names(store, by_address).await.1);
    // What one of them learns or loses is its own.
    learn(store, Learned { lane: many[7].into(), ..of(many[7], "seven@example.com") }).await;
    assert_eq!(names(store, many[7]).await, (vec![1], true), "it stays shared");
    settle(store, Consequence::Delivered, ContactChange::Forget(new)).await;
    assert_eq!(names(store, new).await, (vec![], true));
    settle(
        store,
        Consequence::Delivered,
        ContactChange::Confirm(of(by_outcome, "info@example.com")),
    )
    .await;
    assert_eq!(names(store, by_outcome).await, (vec![], true));
    assert_eq!(shared().await, MANY);
    assert!(!names(store, other).await.1);
}

pub(crate) async fn what_loops_reports_counts_more_than_an_earlier_attempt(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    let email = Some(address("ada@example.com"));
    let first = Learned { email, ..learned(ada, &[property(1, 1)]) };
    learn(store, first.clone()).await;
    report(store, "email.delivered", ada, 12).await;
    report(store, "contact.created", ada, 12).await;
    assert_eq!(names(store, ada).await.0, [1]);
    report(store, "contact.unsubscribed", ada, 12).await;
    assert_eq!(known(store, ada).await.unwrap().email, email);
    assert_eq!(names(store, ada).await.0, NOTHING);
    // The attempt began at 10, before the report.
    learn(store, first.clone()).await;
    assert_eq!(names(store, ada).await.0, NOTHING);
    learn(store, Learned { started_at: at(13), ..first.clone() }).await;
    assert_eq!(names(store, ada).await.0, [1]);
    report(store, "contact.deleted", address("ada@example.com"), 14).await;
    let contact = known(store, ada).await.unwrap();
    assert_eq!((contact.email, contact.properties), (None, vec![]));
    // Nothing was known of this contact.
    report(store, "contact.deleted", bob, 12).await;
    learn(store, learned(bob, &[property(1, 1)])).await;
    assert_eq!(names(store, bob).await.0, NOTHING);
}

pub(crate) async fn contacts_go_with_their_person(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    let email = address("ada@example.com");
    for (key, email) in [(ada, Some(email)), (bob, None)] {
        learn(store, Learned { email, ..learned(key, &[property(1, 1)]) }).await;
    }
    settle(store, Consequence::Delivered, ContactChange::Delete(email)).await;
    let deleted = known(store, ada).await.unwrap();
    assert_eq!((deleted.email, deleted.properties), (None, vec![]));
    assert_eq!(names(store, bob).await.0, [1]);
    // A request of another lane was being sent when the contact was deleted.
    learn(store, Learned { lane: bob.into(), ..learned(ada, &[property(1, 1)]) }).await;
    assert_eq!(names(store, ada).await.0, NOTHING);
    // The settlement above was recorded at 11.
    let started_at = at(100);
    let again = Learned { email: Some(email), started_at, ..learned(ada, &[property(1, 1)]) };
    learn(store, again).await;
    assert_eq!(names(store, ada).await.0, [1]);
    learn(store, Learned { lane: ada.into(), ..learned(user("team"), &[property(1, 1)]) }).await;
    let lease = lease(store).await;
    let seq = put(store, NewMessage { lane: ada.into(), ..deletion("d") }).await;
    let frozen = store.freeze_one(&lease, seq, plan(vec![deleting(Ok(request(0)))])).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    erase_all(store).await;
    assert_eq!(known(store, ada).await, None);
    assert_eq!(known(store, user("team")).await, None);
    assert!(known(store, bob).await.is_some());
}

pub(crate) async fn contacts_are_forgotten_after_a_long_time(store: &dyn Store) {
    let ada = user("ada");
    learn(store, learned(ada, &[property(1, 1)])).await;
    let purge_at = async |now: Timestamp| while store.purge(now).await.unwrap() > 0 {};
    purge_at(at(15) + CONTACTS_KEPT - Duration::from_secs(24 * 60 * 60)).await;
    assert!(known(store, ada).await.is_some());
    purge_at(at(15) + CONTACTS_KEPT + Duration::from_secs(2 * 24 * 60 * 60)).await;
    assert_eq!(known(store, ada).await, None);
}

pub(crate) async fn a_delivery_without_a_request_is_delivered(store: &dyn Store) {
    let lease = lease(store).await;
    let why = NotNeeded { reason: NotNeededReason::Unchanged, detail: "as request 7".into() };
    let unchanged = || NewDelivery {
        outcome: NewOutcome::NotNeeded(why.clone()),
        ..delivery("unchanged", Ok(request(0)))
    };
    let alone = put(store, message("alone")).await;
    let frozen = store.freeze_one(&lease, alone, plan(vec![unchanged()])).await.unwrap();
    assert_eq!(frozen, []);
    let shown = record(store, "alone").await;
    assert_eq!(shown.state(), MessageState::Delivered);
    let [delivery_] = &shown.deliveries[..] else { panic!("{shown:?}") };
    assert_eq!(delivery_.state, DeliveryState::Delivered);
    assert_eq!((&delivery_.failure, &delivery_.not_needed), (&None, &Some(why.clone())));
    assert!(delivery_.request.is_none());

    let beside = put(store, message("beside")).await;
    let deliveries = vec![unchanged(), delivery("sent", Ok(request(0)))];
    let frozen = store.freeze_one(&lease, beside, plan(deliveries)).await.unwrap();
    assert_eq!(frozen.len(), 1);
    assert_eq!(record(store, "beside").await.state(), MessageState::Pending);
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert_eq!(record(store, "beside").await.state(), MessageState::Delivered);

    let failed = put(store, message("failed")).await;
    let deliveries = vec![unchanged(), delivery("failed", Err(failure()))];
    store.freeze_one(&lease, failed, plan(deliveries)).await.unwrap();
    assert_eq!(record(store, "failed").await.state(), MessageState::Failed);
}
