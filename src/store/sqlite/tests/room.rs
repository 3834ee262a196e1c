//! Bounds: the writer's queue, the backlog, the disk.

use super::*;

#[tokio::test]
async fn refuses_more_than_fit_the_queue_of_the_writer() {
    let folder = TempDir::new().unwrap();
    let few =
        SqliteOptions { waiting_messages_max: 3, waiting_bytes_max: 1_000, ..options(&folder) };
    let store = SqliteStore::open(few).await.unwrap();
    let large =
        |id: &str, bytes: usize| NewMessage { payload: vec![b' '; bytes].into(), ..message(id) };
    let cases = [
        ("messages: 3 of 3", vec![message("1"), message("2")], vec![message("3")], false),
        (
            "messages: 4 of 3",
            vec![message("4"), message("5")],
            vec![message("6"), message("7")],
            true,
        ),
        ("bytes: 999", vec![large("8", 500)], vec![large("9", 499)], false),
        ("bytes: 1,000", vec![large("10", 500)], vec![large("11", 500)], false),
        ("bytes: 1,001", vec![large("12", 500)], vec![large("13", 501)], true),
        ("more than all, alone", vec![large("14", 5_000)], vec![], false),
        ("more than all, after another", vec![message("15")], vec![large("16", 5_000)], true),
    ];
    for (what, waiting, next, is_busy) in cases {
        // Locked, so that waiting calls keep waiting.
        let other = raw(&folder);
        execute(&other, "BEGIN IMMEDIATE");
        let mut first = store.accept(waiting);
        assert!(poll_once(first.as_mut()).await.is_pending(), "{what}");
        let mut second = store.accept(next);
        match poll_once(second.as_mut()).await {
            Poll::Ready(answer) => {
                assert_eq!(matches!(answer, Err(AcceptError::Busy)), is_busy, "{what}");
                drop(second);
            }
            Poll::Pending => {
                assert!(!is_busy, "{what}");
                // A caller that gives up neither disturbs the others nor keeps their room.
                drop(second);
            }
        }
        execute(&other, "ROLLBACK");
        first.await.unwrap();
        drop(other);
        // A later order is answered after all earlier ones, whose room is free by then.
        store.lease(ask("a", at(0))).await.unwrap();
        store.accept(vec![message("barrier")]).await.unwrap();
    }
    let kept = store.depth(DESTINATION).await.unwrap().messages;
    assert_eq!(kept, 9 + 3 + 1, "those that waited, those given up half-way, the barrier");
}

#[tokio::test]
async fn refuses_messages_while_the_backlog_is_full() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 3, ..options(&folder) };
    let store = SqliteStore::open(few.clone()).await.unwrap();
    let is_full =
        |answer: Result<Vec<Accepted>, AcceptError>| matches!(answer, Err(AcceptError::Full));
    let first = put(&store, message("1")).await;
    // A call that begins below the bound is taken as a whole.
    store.accept(vec![message("2"), message("3"), message("4")]).await.unwrap();
    assert!(is_full(store.accept(vec![message("5")]).await));
    assert!(is_full(store.accept(vec![message("4")]).await), "a duplicate too");
    // What is pending is counted when the file is opened.
    store.close().await;
    let store = SqliteStore::open(few).await.unwrap();
    assert!(is_full(store.accept(vec![message("5")]).await));
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    store.freeze_one(&lease, first, plan(vec![])).await.unwrap();
    assert!(is_full(store.accept(vec![message("5")]).await), "three are still pending");
    store.freeze_one(&lease, Seq(first.0 + 1), plan(vec![])).await.unwrap();
    let began = std::time::Instant::now();
    while is_full(store.accept(vec![message("5")]).await) {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 3);
}

#[tokio::test]
async fn refuses_messages_while_too_many_bytes_are_pending() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_bytes_max: 1_000, ..options(&folder) };
    let store = SqliteStore::open(few.clone()).await.unwrap();
    let large =
        |id: &str, bytes: usize| NewMessage { payload: vec![b' '; bytes].into(), ..message(id) };
    let is_full =
        |answer: Result<Vec<Accepted>, AcceptError>| matches!(answer, Err(AcceptError::Full));
    let first = put(&store, large("1", 999)).await;
    // A call that begins below the bound is taken as a whole.
    store.accept(vec![large("2", 400), large("3", 601)]).await.unwrap();
    assert!(is_full(store.accept(vec![large("4", 1)]).await));
    // What is pending is summed up when the file is opened.
    store.close().await;
    let store = SqliteStore::open(few).await.unwrap();
    assert!(is_full(store.accept(vec![large("4", 1)]).await));
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    for seq in [first, Seq(first.0 + 1)] {
        store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    }
    let began = std::time::Instant::now();
    while is_full(store.accept(vec![large("4", 399)]).await) {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pending = raw(&folder).query_row(log::BACKLOG, [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(pending.unwrap(), (2, 1_000));
}

#[tokio::test]
async fn refuses_nothing_while_few_messages_are_pending() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 8, ..options(&folder) };
    let store = SqliteStore::open(few).await.unwrap();
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    // At most four are pending at a time; all together they pass the bound again and again.
    let sender = async |sender: usize| {
        for n in 0..25 {
            let id = format!("{sender}-{n}");
            let accepted = store.accept(vec![message(&id)]).await.unwrap();
            assert_eq!(accepted, [Accepted::New], "{id}");
            let seq = record(&store, &id).await.seq;
            store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
        }
    };
    tokio::join!(sender(1), sender(2), sender(3), sender(4));
    // Duplicates are admitted as well, but are never pending.
    for _ in 0..20 {
        assert_eq!(store.accept(vec![message("1-0")]).await.unwrap(), [Accepted::Duplicate]);
    }
}

#[tokio::test]
async fn admits_no_more_than_the_backlog_from_concurrent_senders() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 20, ..options(&folder) };
    let store = Arc::new(SqliteStore::open(few).await.unwrap());
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = store.clone();
        senders.spawn(async move { store.accept(vec![message(&format!("m{n}"))]).await });
    }
    let answers = senders.join_all().await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    let full = answers.iter().filter(|answer| matches!(answer, Err(AcceptError::Full))).count();
    assert_eq!((accepted, full), (20, 180));
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 20);
}

/// Delivers this many messages; returns the ask that replays them all.
async fn delivered(store: &SqliteStore, count: usize) -> ReplayAsk {
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    for n in 0..count {
        let seq = put(store, message(&format!("done{n}"))).await;
        store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    }
    let selection = crate::queue::Criteria {
        state: Some("all".into()),
        from: Some("2000-01-01".into()),
        ..Default::default()
    };
    let selection = selection.selection(&store.digests()).unwrap();
    ReplayAsk { selection, position: None, is_dry_run: false, now: at(1), choice: None }
}

#[tokio::test]
async fn replayed_messages_take_room_in_the_backlog() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 20, ..options(&folder) };
    let store = SqliteStore::open(few.clone()).await.unwrap();
    let all = delivered(&store, 12).await;
    store.close().await;
    let store = SqliteStore::open(few).await.unwrap();
    assert_eq!(store.replay(&all).await.unwrap().replayed, 12);
    let mut accepted = 0;
    while store.accept(vec![message(&format!("new{accepted}"))]).await.is_ok() {
        accepted += 1;
        assert!(accepted < 100);
    }
    assert_eq!(accepted, 8);
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 20);
}

#[tokio::test]
async fn a_replay_stops_with_words_when_there_is_no_room() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(options(&folder)).await.unwrap();
    let all = delivered(&store, 3).await;
    put(&store, message("waits")).await;
    store.close().await;
    let full = SqliteOptions { backlog_messages_max: 1, ..options(&folder) };
    let short = SqliteOptions { free_bytes_min: Some(1 << 62), ..options(&folder) };
    for (options, word) in [(full, "backlog is full"), (short, "store.free_bytes_min")] {
        let store = SqliteStore::open(options).await.unwrap();
        let counted = store.replay(&ReplayAsk { is_dry_run: true, ..all.clone() }).await;
        assert_eq!(counted.unwrap().replayed, 3, "counting needs no room");
        let text = crate::telemetry::chain(&store.replay(&all).await.unwrap_err()).to_string();
        assert!(text.contains(word) && text.contains("replay the rest"), "{text}");
        assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 1);
        store.close().await;
    }
}

#[tokio::test]
async fn what_other_processes_accept_takes_room_in_the_backlog() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 20, ..options(&folder) };
    let store = SqliteStore::open(few.clone()).await.unwrap();
    let other = SqliteStore::open(few).await.unwrap();
    for n in 0..15 {
        put(&other, message(&format!("other{n}"))).await;
    }
    store.backlog.make_old();
    put(&store, message("first")).await;
    let began = std::time::Instant::now();
    while !store.backlog.is_renewed() {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut accepted = 1;
    while store.accept(vec![message(&format!("m{accepted}"))]).await.is_ok() {
        accepted += 1;
        assert!(accepted < 100);
    }
    assert_eq!(accepted, 5);
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 20);
}

#[tokio::test]
async fn recovers_from_a_full_disk_without_loss_or_restart() {
    let folder = TempDir::new().unwrap();
    let small = SqliteOptions { pages_max: Some(250), ..options(&folder) };
    let store = SqliteStore::open(small).await.unwrap();
    fill(&store, "old", 20).await;
    let large = |id: &str| NewMessage { payload: vec![b' '; 50_000].into(), ..message(id) };
    let mut accepted = 0;
    let fault = loop {
        match store
            .accept(vec![large(&format!("l{accepted}")), message(&accepted.to_string())])
            .await
        {
            Ok(_) => accepted += 1,
            Err(fault) => break fault,
        }
        assert!(accepted < 100);
    };
    let mut texts = fault.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&fault);
    while let Some(error) = cause {
        texts.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(texts.contains("make room"), "{texts}");
    // A call is accepted as a whole or not at all, and accepted messages can be read.
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 2 * accepted);
    assert_unavailable(store.ready().await);
    // A message that still fits does not show that there is room for a group of that size.
    assert_eq!(store.accept(vec![message("small")]).await.unwrap(), [Accepted::New]);
    for _ in 0..5 {
        assert_unavailable(store.ready().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Contents past their retention make room.
    while store.purge(at(100) + LIMITS.delivered_retention).await.unwrap() > 0 {}
    assert_eq!(store.accept(vec![large("later")]).await.unwrap(), [Accepted::New]);
    eventually_ready(&store).await;
}

#[tokio::test]
async fn contents_of_delivered_messages_make_room_on_a_full_disk() {
    let folder = TempDir::new().unwrap();
    // No disk has this much space.
    let options = SqliteOptions { free_bytes_min: Some(u64::MAX), ..options(&folder) };
    let store = SqliteStore::open(options).await.unwrap();
    assert_ne!(store.free_space(), FreeSpace::Ample);
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let settle = async |id: &str, consequence: Consequence| {
        let seq = put(&store, message(id)).await;
        let planned = plan(vec![delivery("one", Ok(request(1)))]);
        let frozen = store.freeze_one(&lease, seq, planned).await.unwrap();
        store.settle(&lease, settlement(&frozen[0], 1, consequence)).await.unwrap();
    };
    settle("failed", Consequence::Failed(failure())).await;
    let pending = put(&store, message("pending")).await;
    settle("delivered", Consequence::Delivered).await;
    let database = raw(&folder);
    let contents = || -> String {
        let text = "SELECT group_concat(message_id) FROM messages JOIN payloads USING (seq)";
        database.query_row(text, [], |row| row.get(0)).unwrap()
    };
    while contents().contains("delivered") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Other messages keep their contents: otherwise they could not be delivered or replayed.
    assert_eq!(contents(), "failed,pending");
    assert!(store.open(pending).await.unwrap().is_some());
    store.close().await;
}
