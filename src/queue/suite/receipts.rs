//! Receipts of erasures: the request, Loops' response and what was erased. They outlive all of these.

use super::erasure::{deleting, deletion, end, erase_all};
use super::replay::{about, all, replay};
use super::*;
use crate::queue::{
    ContactChange, ErasedRows, FeedbackRecord, NewFeedback, NewReceipt, RECEIPTS_KEPT, Receipt,
    ReceiptFilter, ReplayState, Selection,
};

async fn report(store: &dyn Store, event: &str, ms: i64) {
    let record = FeedbackRecord {
        destination: DESTINATION.into(),
        webhook_id: format!("msg_{}", fastrand::u64(..)),
        received_at: at(ms),
        at: at(ms),
        event: event.into(),
        user: Some(user("u1")),
        email: None,
        contact_id: None,
        origin: None,
        email_id: None,
    };
    store.record(NewFeedback { record, forward: None }).await.unwrap();
}

async fn receipts(store: &dyn Store) -> Vec<Receipt> {
    store.receipts(&ReceiptFilter::default(), 100).await.unwrap()
}

async fn only(store: &dyn Store) -> Receipt {
    let [receipt] = receipts(store).await.try_into().unwrap();
    receipt
}

/// A deletion of the person of [`message`].
fn of_u1(id: &str) -> NewMessage {
    NewMessage { lane: user("u1").into(), ..deletion(id) }
}

pub(crate) async fn each_deletion_has_a_receipt(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, NewMessage { lane: user("u1").into(), ..message("before") }).await;
    end(store, &lease, seq, delivery("one", Ok(request(1))), Consequence::Delivered).await;
    report(store, "email.opened", 1).await;
    assert_eq!(receipts(store).await, []);
    let message = of_u1("deletion");
    let asked_at = message.received_at;
    let seq = put(store, message).await;
    let frozen = store.freeze_one(&lease, seq, plan(vec![deleting(Ok(request(0)))])).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Retry(at(9)))).await.unwrap();
    let open = only(store).await;
    assert_eq!((open.person, open.asked_at, open.erased_at), (user("u1"), asked_at, None));
    assert_eq!((&*open.destination, open.deleted_at), (DESTINATION, None));
    assert!(open.problem.is_some(), "{open:?}");
    assert_eq!(store.open_erasures().await.unwrap(), [(DESTINATION.to_owned(), 1)]);
    store.settle(&lease, settlement(&frozen[0], 2, Consequence::Delivered)).await.unwrap();
    let deleted = only(store).await;
    assert!(deleted.deleted_at.is_some() && deleted.problem.is_none(), "{deleted:?}");
    assert_eq!(deleted.request, Some(frozen[0].id));
    assert_eq!((deleted.erased_at, deleted.erased), (None, ErasedRows::default()));
    erase_all(store).await;
    let erased = only(store).await;
    assert_eq!(erased.erased_at, Some(at(50)));
    let rows = ErasedRows { messages: 2, feedback: 1, contacts: 0, opt_outs: 0 };
    assert_eq!((&erased.id, erased.erased), (&open.id, rows));
    assert_eq!(store.open_erasures().await.unwrap(), []);
    assert_eq!(store.receipt(&open.id).await.unwrap(), Some(erased));
    assert_eq!(store.receipt("none").await.unwrap(), None);
    // Messages of other types have no receipt, whatever they do.
    let seq = put(store, super::message("event")).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    assert_eq!(receipts(store).await.len(), 1);
}

pub(crate) async fn a_receipt_can_be_made_before_the_first_attempt(store: &dyn Store) {
    let lease = lease(store).await;
    let message = of_u1("deletion");
    let new = NewReceipt::of(&message);
    let seq = put(store, message).await;
    let id = store.open_receipt(&new).await.unwrap();
    assert_eq!(store.open_receipt(&new).await.unwrap(), id, "it has one");
    let open = store.receipt(&id).await.unwrap().unwrap();
    assert_eq!((open.problem.as_deref(), open.request), (None, None));
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    assert_eq!(store.open_receipt(&new).await.unwrap(), id, "it has one");
    erase_all(store).await;
    let erased = only(store).await;
    assert_eq!((&erased.id, erased.erased.messages), (&id, 1));
    // The same message id from another source is another deletion.
    let other = NewReceipt { source: "other".into(), ..new };
    assert_ne!(store.open_receipt(&other).await.unwrap(), id);
}

pub(crate) async fn a_refused_deletion_stays_open_until_a_later_one_covers_it(store: &dyn Store) {
    let lease = lease(store).await;
    let seq = put(store, of_u1("refused")).await;
    let failed = Consequence::Failed(failure());
    end(store, &lease, seq, deleting(Ok(request(0))), failed).await;
    erase_all(store).await;
    let refused = only(store).await;
    assert_eq!(refused.problem.as_deref(), Some(failure().reason.as_str()));
    assert_eq!((refused.deleted_at, refused.erased_at), (None, None));
    let of_another = NewMessage { lane: user("u2").into(), ..deletion("another") };
    let seq = put(store, of_another).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    let state = async || {
        let found = receipts(store).await;
        found.into_iter().map(|receipt| receipt.erased_at.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(state().await, [true, false]);
    let later = NewMessage { received_at: at(40), ..of_u1("later") };
    let seq = put(store, later).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    assert_eq!(state().await, [true, true, true]);
    let covered = receipts(store).await.pop().unwrap();
    assert_eq!(covered.deleted_at, None, "Loops refused it");
}

pub(crate) async fn a_deletion_that_was_refused_twice_ends_with_one_replay(store: &dyn Store) {
    let lease = lease(store).await;
    let refuse = async |id: &str, ms| {
        let seq = put(store, NewMessage { received_at: at(ms), ..of_u1(id) }).await;
        let failed = Consequence::Failed(failure());
        end(store, &lease, seq, deleting(Ok(request(0))), failed).await;
    };
    let deliver = async |seq| {
        end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
        erase_all(store).await;
    };
    let open = async || {
        let found = receipts(store).await;
        found.iter().filter(|receipt| receipt.erased_at.is_none()).count()
    };
    refuse("a", 0).await;
    refuse("b", 10).await;
    let only_a = Selection { message_ids: vec!["a".into()], ..all(ReplayState::Failed) };
    assert_eq!(replay(store, only_a, false).await, (1, 0));
    deliver(heads(store).await[0].seq).await;
    assert_eq!(open().await, 0, "the other one was erased with the person");

    // Both are replayed in their order, as the dry run counted.
    refuse("c", 20).await;
    refuse("d", 30).await;
    let failed = || about("u1", ReplayState::Failed, Filter::default());
    assert_eq!(replay(store, failed(), true).await, (2, 0));
    for id in ["c", "d"] {
        let only = Selection { message_ids: vec![id.into()], ..all(ReplayState::Failed) };
        assert_eq!(replay(store, only, false).await, (1, 0), "{id}");
    }
    let [c, d] = heads(store).await.try_into().unwrap();
    deliver(c.seq).await;
    assert_eq!(open().await, 1, "the later one is still to come");
    deliver(d.seq).await;
    assert_eq!(open().await, 0);
}

pub(crate) async fn loops_confirms_a_deletion_before_its_answer_or_after(store: &dyn Store) {
    let lease = lease(store).await;
    // The report of an earlier deletion of the person, made by hand.
    report(store, "contact.deleted", -500_000).await;
    for (id, reported_first) in [("first", true), ("second", false)] {
        let seq = put(store, of_u1(id)).await;
        if reported_first {
            report(store, "contact.deleted", 7).await;
        }
        end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
        if !reported_first {
            assert_eq!(receipts(store).await[0].confirmed_at, None, "{id}");
            report(store, "contact.deleted", 7).await;
        }
        assert_eq!(receipts(store).await[0].confirmed_at, Some(at(7)), "{id}");
        erase_all(store).await;
    }
}

pub(crate) async fn leaving_beside_a_deletion_is_nobodys_wish(store: &dyn Store) {
    let lease = lease(store).await;
    let left = async || store.opt_outs(DESTINATION, &[user("u1")]).await.unwrap().len();
    let seq = put(store, of_u1("deletion")).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    let deleted_at = only(store).await.deleted_at.unwrap();
    let deleted = deleted_at.as_millisecond() - at(0).as_millisecond();
    report(store, "contact.unsubscribed", deleted + 2_000).await;
    assert_eq!(left().await, 0, "nothing is kept of a person who was erased");
    report(store, "email.unsubscribed", deleted + 2_000).await;
    assert_eq!(left().await, 1, "that is a person's act");
    report(store, "contact.unsubscribed", deleted + 3_600_000).await;
    let found = store.opt_outs(DESTINATION, &[user("u1")]).await.unwrap();
    assert_eq!(found[0].event, "contact.unsubscribed", "long after the deletion");
}

pub(crate) async fn who_leaves_after_coming_back_has_left(store: &dyn Store) {
    let lease = lease(store).await;
    let left = async || store.opt_outs(DESTINATION, &[user("u1")]).await.unwrap().len();
    let seq = put(store, of_u1("deletion")).await;
    let frozen = store.freeze_one(&lease, seq, plan(vec![deleting(Ok(request(0)))])).await.unwrap();
    let contact = Some(ContactChange::Delete(user("u1")));
    let settlement = settlement(&frozen[0], 1, Consequence::Delivered);
    store.settle(&lease, Settlement { contact, ..settlement }).await.unwrap();
    erase_all(store).await;
    let deleted_at = only(store).await.deleted_at.unwrap();
    let deleted = deleted_at.as_millisecond() - at(0).as_millisecond();
    report(store, "contact.unsubscribed", deleted + 120_000).await;
    assert_eq!(left().await, 0, "it is late, and nobody is there");
    report(store, "contact.created", deleted + 130_000).await;
    report(store, "contact.unsubscribed", deleted + 1_000).await;
    assert_eq!(left().await, 0, "it is of the deletion, and later still");
    report(store, "contact.unsubscribed", deleted + 140_000).await;
    assert_eq!(left().await, 1);
}

pub(crate) async fn it_is_known_when_a_person_was_deleted(store: &dyn Store) {
    let lease = lease(store).await;
    let known = async |person, since| {
        let persons = [user("nobody"), person];
        store.deleted_at(DESTINATION, &persons, since).await.unwrap()
    };
    assert_eq!(known(user("u1"), at(-100)).await, None);
    let seq = put(store, of_u1("deletion")).await;
    end(store, &lease, seq, deleting(Ok(request(0))), Consequence::Delivered).await;
    erase_all(store).await;
    let deleted_at = only(store).await.deleted_at.unwrap();
    assert_eq!(known(user("u1"), deleted_at).await, Some(deleted_at));
    assert_eq!(known(user("u1"), deleted_at + Duration::from_millis(1)).await, None);
    assert_eq!(known(user("u2"), at(-100)).await, None);
    assert_eq!(store.deleted_at("other", &[user("u1")], at(-100)).await.unwrap(), None);
}

pub(crate) async fn receipts_are_listed_in_pages_and_kept_for_400_days(store: &dyn Store) {
    let new = |id: &str, destination: &str| {
        let message = NewMessage { destination: destination.into(), ..of_u1(id) };
        NewReceipt::of(&message)
    };
    let mut ids = Vec::new();
    for (id, destination) in [("a", DESTINATION), ("b", "other"), ("c", DESTINATION)] {
        ids.push(store.open_receipt(&new(id, destination)).await.unwrap());
    }
    let list = async |filter: ReceiptFilter, limit| {
        let found = store.receipts(&filter, limit).await.unwrap();
        let last = found.last().map(|receipt| receipt.number);
        (found.into_iter().map(|receipt| receipt.id).collect::<Vec<_>>(), last)
    };
    let (page, last) = list(ReceiptFilter::default(), 2).await;
    assert_eq!(page, [ids[2].clone(), ids[1].clone()]);
    let before = last;
    assert_eq!(list(ReceiptFilter { before, ..ReceiptFilter::default() }, 2).await.0, ids[..1]);
    let destination = Some("other".to_owned());
    assert_eq!(
        list(ReceiptFilter { destination, ..ReceiptFilter::default() }, 9).await.0,
        ids[1..2]
    );
    for (is_open, count) in [(true, 3), (false, 0)] {
        let filter = ReceiptFilter { is_open: Some(is_open), ..ReceiptFilter::default() };
        assert_eq!(list(filter, 9).await.0.len(), count);
    }
    let asked_at = of_u1("a").received_at;
    let purge = async |now| while store.purge(now).await.unwrap() > 0 {};
    purge(asked_at + RECEIPTS_KEPT - Duration::from_secs(1)).await;
    assert_eq!(receipts(store).await.len(), 3);
    purge(asked_at + RECEIPTS_KEPT).await;
    assert_eq!(receipts(store).await, []);
}
