//! Two processes on the same data.

use super::*;
use crate::queue::{Accepted, WorkError};

pub(crate) async fn two_stores_share_order_and_duplicates(a: &dyn Store, b: &dyn Store) {
    for n in 0..20 {
        let (first, second) = if n % 2 == 0 {
            (message("even"), message("odd"))
        } else {
            (message("odd"), message("even"))
        };
        let id = |message: NewMessage| {
            let id = format!("{} {n}", message.message_id);
            NewMessage {
                message_hash: message_hash(&id),
                message_id: id,
                lane: LaneKey(n),
                ..message
            }
        };
        let (first, second) = (id(first), id(second));
        let both = tokio::join!(a.accept(vec![first.clone()]), b.accept(vec![second.clone()]));
        assert_eq!((both.0.unwrap(), both.1.unwrap()), (vec![Accepted::New], vec![Accepted::New]));
        assert_eq!(b.accept(vec![first]).await.unwrap(), [Accepted::Duplicate]);
        assert_eq!(a.accept(vec![second]).await.unwrap(), [Accepted::Duplicate]);
    }
    let found = heads(a).await;
    assert_eq!(found, heads(b).await);
    assert_eq!(found.len(), 40);
    assert!(found.is_sorted_by(|a, b| a.seq < b.seq && a.lane.0 <= b.lane.0));
}

pub(crate) async fn two_stores_keep_one_copy_of_a_message(a: &dyn Store, b: &dyn Store) {
    for n in 0..20 {
        let same = message(&format!("m{n}"));
        let (one, two) = tokio::join!(a.accept(vec![same.clone()]), b.accept(vec![same]));
        let mut answers = [one.unwrap(), two.unwrap()].concat();
        answers.sort_by_key(|answer| *answer == Accepted::Duplicate);
        assert_eq!(answers, [Accepted::New, Accepted::Duplicate]);
    }
    assert_eq!(heads(a).await.len(), 20);
}

pub(crate) async fn a_lease_passes_between_two_stores(a: &dyn Store, b: &dyn Store) {
    let seq = put(a, message("a")).await;
    let first = a.lease(ask("a", at(0))).await.unwrap().unwrap();
    assert_eq!(b.lease(ask("b", at(99))).await.unwrap(), None);
    let frozen =
        a.freeze_one(&first, seq, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();

    let second = b.lease(ask("b", at(100))).await.unwrap().unwrap();
    assert!(second.token > first.token);
    let delivered = settlement(&frozen[0], 1, Consequence::Delivered);
    assert!(matches!(a.settle(&first, delivered.clone()).await, Err(WorkError::Fenced)));
    // The second process goes on with the frozen request, byte for byte. It cannot know whether the first has sent it.
    let begun = FrozenRequest { first_attempt_at: Some(at(1)), ..frozen[0].clone() };
    assert_eq!(b.open(seq).await.unwrap().unwrap().requests, [begun]);
    b.settle(&second, delivered).await.unwrap();
    assert!(a.open(seq).await.unwrap().is_none());

    b.release(&second).await.unwrap();
    assert!(a.lease(ask("a", at(101))).await.unwrap().is_some());
}

pub(crate) async fn only_one_of_two_stores_gets_a_free_lease(a: &dyn Store, b: &dyn Store) {
    let (one, two) = tokio::join!(a.lease(ask("a", at(0))), b.lease(ask("b", at(0))));
    assert_eq!([one.unwrap(), two.unwrap()].iter().flatten().count(), 1);
}
