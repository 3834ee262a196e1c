//! New contacts: which requests created one, and how many.

use super::contacts::{address, learned, report};
use super::*;
use crate::queue::{ContactChange, Learned, Stage, TallyStep};

/// Settles a request that teaches of a contact; returns whether it was new.
async fn is_new(store: &dyn Store, change: ContactChange) -> bool {
    let lease = lease(store).await;
    let seq = put(store, message(&format!("m{}", fastrand::u64(..)))).await;
    let plan = plan(vec![delivery("one", Ok(request(0)))]);
    let frozen = store.freeze_one(&lease, seq, plan).await.unwrap();
    let delivered = settlement(&frozen[0], 1, Consequence::Delivered);
    let delivered = Settlement { contact: Some(change), ..delivered };
    let settled = store.settle(&lease, delivered.clone()).await.unwrap();
    // Repeated, because the answer was lost.
    assert!(!store.settle(&lease, delivered).await.unwrap().is_new_contact);
    settled.is_new_contact
}

async fn learn(store: &dyn Store, learned: Learned) -> bool {
    is_new(store, ContactChange::Learn(learned)).await
}

/// How many new contacts were counted.
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
    // Without an address, Loops creates none: it had this one.
    assert!(!learn(store, Learned { may_create: false, ..learned(bob, &[]) }).await);
    assert!(!learn(store, learned(bob, &[])).await);
    // It was sent before a crash, and Loops knows its key.
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
    // The attempt began at 10: Loops reports what it did.
    report(store, "contact.created", bob, 12).await;
    assert!(learn(store, learned(bob, &[])).await);
    assert!(!learn(store, learned(bob, &[])).await);
    // Nothing but its creation says that Loops has it.
    report(store, "email.delivered", eve, 5).await;
    report(store, "contact.unsubscribed", eve, 5).await;
    assert!(learn(store, learned(eve, &[])).await);
}

pub(crate) async fn a_contact_that_was_deleted_is_new_again(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    assert!(learn(store, learned(ada, &[])).await);
    is_new(store, ContactChange::Delete(ada)).await;
    // Recorded at 15.
    let later = |key| Learned { started_at: at(100), ..learned(key, &[]) };
    assert!(learn(store, later(ada)).await);
    report(store, "contact.deleted", ada, 200).await;
    // It began before that, so it is unknown whether the contact is there.
    assert!(!learn(store, later(ada)).await);
    let again = Learned { started_at: at(300), ..learned(ada, &[]) };
    assert!(learn(store, again).await);
    // The report of its creation is late.
    report(store, "contact.deleted", bob, 20).await;
    report(store, "contact.created", bob, 15).await;
    assert!(learn(store, later(bob)).await);
    assert_eq!(counted(store, TallyStep::Hour).await, 4);
}
