//! Lists and groups read a bounded number of messages, whatever the question, and find a message by its time, whatever
//! the clocks did.

use super::*;
use crate::queue::{Filter, MessageState, Page};
use crate::store::postgres::list;

/// Accepts messages, each with the id of its index.
async fn accept(store: &dyn Store, count: usize, change: impl Fn(usize, &mut NewMessage)) {
    let new = |index: usize| {
        let mut new = message(&index.to_string());
        change(index, &mut new);
        new
    };
    store.accept((0..count).map(new).collect()).await.unwrap();
}

fn ids(page: &Page) -> Vec<&str> {
    page.messages.iter().map(|message| message.message_id.as_str()).collect()
}

#[tokio::test]
async fn a_page_stops_at_the_bound_and_says_where_to_continue() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    accept(&store, 100, |index, new| {
        if index == 9 {
            new.source = "app".into();
        }
    })
    .await;
    let raw = raw(&schema).await;
    let filter = Filter { source: Some("app".into()), ..Filter::default() };
    let page = async |before: Option<Seq>, examined_max| {
        list::list_bounded(&raw, &filter, before, 5, examined_max).await.unwrap()
    };
    let seq = async |index: usize| record(&store, &index.to_string()).await.seq;
    let (tenth, eleventh, second) = (seq(9).await, seq(10).await, seq(1).await);
    let first = page(None, 90).await;
    assert_eq!((ids(&first), first.next), (vec![], Some(eleventh)));
    let one_more = page(None, 91).await;
    assert_eq!((ids(&one_more), one_more.next), (vec!["9"], Some(tenth)));
    let next = page(Some(eleventh), 9).await;
    assert_eq!((ids(&next), next.next), (vec!["9"], Some(second)));
    // All were examined: nothing follows.
    let last = page(Some(eleventh), 10).await;
    assert_eq!((ids(&last), last.next), (vec!["9"], None));
    store.close().await;
}

#[tokio::test]
async fn the_latest_failures_are_grouped_up_to_the_bound() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    accept(&store, 6, |_, _| {}).await;
    let lease = lease(&store).await;
    for head in heads(&store).await {
        let failed = plan(vec![delivery("one", Err(failure()))]);
        store.freeze_one(&lease, head.seq, failed).await.unwrap();
    }
    let raw = raw(&schema).await;
    for (read_max, deliveries, is_complete) in [(5, 5, false), (6, 6, true), (7, 6, true)] {
        let found = list::failures_bounded(&raw, &Filter::default(), read_max).await.unwrap();
        let group = &found.groups[0];
        assert_eq!(
            (found.read, group.deliveries, found.is_complete),
            (deliveries, deliveries, is_complete)
        );
        assert_eq!(group.example, "5");
    }
    store.close().await;
}

#[tokio::test]
async fn a_message_is_found_by_its_time_though_its_number_was_given_at_another() {
    const HOUR: i64 = 3_600_000;
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    // The group gets its numbers at the time of its first message.
    accept(&store, 6, |index, new| new.received_at = at(index as i64 * HOUR)).await;
    for (from, to, expected) in [
        (None, Some(2), vec!["1", "0"]),
        (Some(2), Some(4), vec!["3", "2"]),
        (Some(5), None, vec!["5"]),
        (Some(6), None, vec![]),
    ] {
        let hour = |hour: Option<i64>| hour.map(|hour| at(hour * HOUR));
        let filter = Filter { from: hour(from), to: hour(to), ..Filter::default() };
        let page = store.list(&filter, None, 10).await.unwrap();
        assert_eq!(ids(&page), expected, "{filter:?}");
    }
    store.close().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_does_not_hide_the_others() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    accept(&store, 5, |_, _| {}).await;
    let later = "UPDATE @messages SET kind = 'later' WHERE message_id IN ('2', '4')";
    raw(&schema).await.execute(later, &[]).await.unwrap();
    let page = store.list(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(ids(&page), ["3", "1", "0"]);
    store.close().await;
}

/// U+0000 cannot be stored, but messages with it are found.
#[tokio::test]
async fn texts_with_nul_are_found() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let with_nul = NewMessage { event: Some("a\0b".into()), ..message("id\0") };
    store.accept(vec![with_nul]).await.unwrap();
    assert_eq!(record(&store, "id\0").await.event.as_deref(), Some("a\u{2400}b"));
    let event = Filter { event: Some("a\0b".into()), ..Filter::default() };
    assert_eq!(store.list(&event, None, 10).await.unwrap().messages.len(), 1);
    let nowhere = Filter {
        destination: Some("\0".into()),
        state: Some(MessageState::Pending),
        ..Filter::default()
    };
    assert_eq!(store.list(&nowhere, None, 10).await.unwrap().messages.len(), 0);
    store.close().await;
}
