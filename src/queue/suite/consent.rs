//! An opt-out is known until Loops reports otherwise or the person is erased.

use super::contacts::learned;
use super::erasure::{deleting, deletion, end as end_message, erase_all};
use super::*;
use crate::queue::{
    ContactChange, FeedbackRecord, Learned, NewFeedback, OptIn, OptOut, Origin, OriginKind,
};

fn address(address: &str) -> PersonDigest {
    Digests::new(&INSTALLATION_KEY).person(PersonIdKind::Email, address)
}

/// An event about Ada at this second.
fn event(event: &str, second: i64) -> FeedbackRecord {
    FeedbackRecord {
        destination: DESTINATION.into(),
        webhook_id: format!("msg_{}", fastrand::u64(..)),
        received_at: at(second),
        at: at(second),
        event: event.into(),
        user: Some(user("ada")),
        email: Some(address("ada@example.com")),
        contact_id: None,
        origin: None,
        email_id: None,
    }
}

fn of_list(name: &str, list: &str, second: i64) -> FeedbackRecord {
    let origin = Origin { kind: OriginKind::MailingList, id: list.into(), name: None };
    FeedbackRecord { origin: Some(origin), ..event(name, second) }
}

async fn report(store: &dyn Store, record: FeedbackRecord) {
    store.record(NewFeedback { record, forward: None }).await.unwrap();
}

/// The mailing lists that these persons left (`None`: all mails), and when.
async fn left(store: &dyn Store, persons: &[PersonDigest]) -> Vec<(Option<String>, Timestamp)> {
    let mut found = store.opt_outs(DESTINATION, persons).await.unwrap();
    assert!(found.iter().all(|left| left.is_about(persons)));
    found.sort_by(|a, b| (&a.list, a.at).cmp(&(&b.list, b.at)));
    found.dedup();
    found.into_iter().map(|left| (left.list, left.at)).collect()
}

pub(crate) async fn who_left_is_known(store: &dyn Store) {
    let (ada, mailbox) = (user("ada"), address("ada@example.com"));
    assert_eq!(left(store, &[ada, mailbox]).await, []);
    for passed_over in ["email.delivered", "email.softBounced", "contact.deleted"] {
        report(store, event(passed_over, 1)).await;
    }
    let without_list =
        FeedbackRecord { origin: None, ..of_list("contact.mailingList.unsubscribed", "a", 1) };
    report(store, without_list).await;
    let of_nobody = FeedbackRecord { user: None, email: None, ..event("email.unsubscribed", 1) };
    report(store, of_nobody).await;
    assert_eq!(left(store, &[ada, mailbox]).await, []);
    let leaving =
        ["contact.unsubscribed", "email.unsubscribed", "email.spamReported", "email.hardBounced"];
    for (second, name) in (10..).zip(leaving) {
        report(store, event(name, second)).await;
        let expected = OptOut {
            user: Some(ada),
            email: Some(mailbox),
            list: None,
            at: at(second),
            event: name.into(),
        };
        assert_eq!(store.opt_outs(DESTINATION, &[ada]).await.unwrap(), [expected]);
    }
    report(store, of_list("contact.mailingList.unsubscribed", "a", 20)).await;
    let all = [(None, at(13)), (Some("a".to_owned()), at(20))];
    for persons in [&[ada][..], &[mailbox], &[mailbox, ada]] {
        assert_eq!(left(store, persons).await, all);
    }
    assert_eq!(left(store, &[user("bob")]).await, []);
    assert_eq!(left(store, &[]).await, []);
    assert_eq!(store.opt_outs("another", &[ada]).await.unwrap(), []);
}

pub(crate) async fn who_came_back_has_not_left(store: &dyn Store) {
    let (ada, mailbox) = (user("ada"), address("ada@example.com"));
    report(store, event("email.unsubscribed", 10)).await;
    report(store, of_list("contact.mailingList.unsubscribed", "a", 10)).await;
    report(store, of_list("contact.mailingList.unsubscribed", "b", 10)).await;
    // The event that takes back the opt-out of a list, with the address alone.
    let by_address =
        FeedbackRecord { user: None, ..of_list("contact.mailingList.subscribed", "a", 11) };
    report(store, by_address).await;
    assert_eq!(left(store, &[ada]).await, [(None, at(10)), (Some("b".into()), at(10))]);
    report(store, event("email.resubscribed", 12)).await;
    assert_eq!(left(store, &[ada, mailbox]).await, [(Some("b".into()), at(10))]);
    // A late report changes nothing.
    report(store, event("email.unsubscribed", 11)).await;
    assert_eq!(left(store, &[ada]).await, [(Some("b".into()), at(10))]);
    report(store, event("email.unsubscribed", 13)).await;
    assert_eq!(left(store, &[ada]).await, [(None, at(13)), (Some("b".into()), at(10))]);
}

pub(crate) async fn a_request_that_loops_accepted_brings_back_who_had_left_before(
    store: &dyn Store,
) {
    let (ada, mailbox) = (user("ada"), address("ada@example.com"));
    let lease = lease(store).await;
    let accept = async |id: &str, key, lists: &[Option<&str>], ms, as_new: bool| {
        let lists = lists.iter().map(|list| list.map(str::to_owned)).collect();
        let opt_in = Some(OptIn { lists, at: at(ms) });
        let learned = Learned { opt_in, ..learned(key, &[]) };
        let seq = put(store, message(id)).await;
        let plan = plan(vec![delivery("one", Ok(request(0)))]);
        let frozen = store.freeze_one(&lease, seq, plan).await.unwrap();
        let change =
            if as_new { ContactChange::Learn(learned) } else { ContactChange::Confirm(learned) };
        let settlement = settlement(&frozen[0], 1, Consequence::Delivered);
        store.settle(&lease, Settlement { contact: Some(change), ..settlement }).await.unwrap();
    };
    report(store, event("email.unsubscribed", 10)).await;
    report(store, of_list("contact.mailingList.unsubscribed", "a", 10)).await;
    report(store, of_list("contact.mailingList.unsubscribed", "b", 10)).await;
    let bob = FeedbackRecord { user: Some(user("bob")), ..event("email.unsubscribed", 10) };
    report(store, FeedbackRecord { email: None, ..bob }).await;
    let all = [(None, at(10)), (Some("a".to_owned()), at(10)), (Some("b".to_owned()), at(10))];
    accept("same", ada, &[None, Some("a")], 10, true).await;
    assert_eq!(left(store, &[ada]).await, all, "of a message that was not later");
    accept("before", ada, &[None, Some("a")], 11, false).await;
    assert_eq!(left(store, &[ada]).await, all, "Loops may have had another body");
    accept("later", mailbox, &[None, Some("a")], 11, true).await;
    for person in [ada, mailbox] {
        assert_eq!(left(store, &[person]).await, all[2..]);
    }
    assert_eq!(left(store, &[user("bob")]).await, all[..1]);
    // A report of an earlier time changes nothing. Any other report counts, because Loops' clock may be behind.
    report(store, event("contact.unsubscribed", 9)).await;
    assert_eq!(left(store, &[ada]).await, all[2..]);
    report(store, event("contact.unsubscribed", 11)).await;
    assert_eq!(left(store, &[ada]).await[0], (None, at(11)));
}

pub(crate) async fn an_opt_out_that_was_taken_back_before_it_arrived_does_not_count(
    store: &dyn Store,
) {
    report(store, event("email.resubscribed", 12)).await;
    report(store, event("email.unsubscribed", 10)).await;
    report(store, of_list("contact.mailingList.subscribed", "a", 12)).await;
    report(store, of_list("contact.mailingList.unsubscribed", "a", 10)).await;
    assert_eq!(left(store, &[user("ada")]).await, []);
    // The way back was for another list.
    report(store, of_list("contact.mailingList.unsubscribed", "b", 10)).await;
    assert_eq!(left(store, &[user("ada")]).await, [(Some("b".into()), at(10))]);
}

pub(crate) async fn who_left_outlives_retention_and_not_the_person(store: &dyn Store) {
    let (ada, bob) = (user("ada"), user("bob"));
    report(store, event("email.unsubscribed", 10)).await;
    report(
        store,
        FeedbackRecord { user: Some(bob), email: None, ..event("email.unsubscribed", 10) },
    )
    .await;
    let years = Duration::from_secs(5 * 366 * 24 * 60 * 60);
    while store.purge(at(10) + years).await.unwrap() > 0 {}
    assert_eq!(store.by_person(&[ada], 10).await.unwrap(), []);
    for person in [ada, bob] {
        assert_eq!(left(store, &[person]).await, [(None, at(10))]);
    }
    let lease = lease(store).await;
    let seq = put(store, NewMessage { lane: ada.into(), ..deletion("deletion") }).await;
    end_message(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    assert_eq!(left(store, &[ada, address("ada@example.com")]).await, []);
    assert_eq!(left(store, &[bob]).await, [(None, at(10))]);
}
