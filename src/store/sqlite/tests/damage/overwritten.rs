//! Bytes of the write-ahead log or of its index are overwritten.

use super::*;

const FRAME_BYTES: usize = 24 + 4_096;

/// The frames of the log.
fn frames(folder: &TempDir) -> Vec<Vec<u8>> {
    let log = std::fs::read(path(folder, "-wal")).unwrap();
    let frames = log[32..].chunks_exact(FRAME_BYTES);
    frames.take_while(|frame| frame[8..16] == log[16..24]).map(<[u8]>::to_vec).collect()
}

/// Overwrites a frame of the log, whose page a later frame does or does not repeat.
fn overwrite_frame(folder: &TempDir, is_superseded: bool) {
    let frames = frames(folder);
    let page = |n: usize| &frames[n][..4];
    let has_successor = |n: usize| (n + 1..frames.len()).any(|later| page(later) == page(n));
    // Not the last frame, which is checked with each group.
    let frame = (2..frames.len() - 1).find(|n| has_successor(*n) == is_superseded).unwrap();
    overwrite_log(folder, 32 + frame * FRAME_BYTES, FRAME_BYTES);
}

/// Accepts messages until one is refused; returns the acknowledged ids.
async fn accept_until_one_is_refused(store: &SqliteStore) -> Vec<String> {
    let began = std::time::Instant::now();
    let mut acknowledged = Vec::new();
    loop {
        let id = format!("meanwhile{}", acknowledged.len());
        if store.accept(vec![message(&id)]).await.is_err() {
            return acknowledged;
        }
        acknowledged.push(id);
        assert!(began.elapsed() < Duration::from_secs(30), "not noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_overwritten_bytes_is_moved_into_the_database_before_anything_is_acknowledged() {
    let (store, folder) = fresh().await;
    let mut acknowledged = accept_some(&store).await;
    // It keeps the log from being emptied, so that the test sees the store refuse messages.
    let reader = raw(&folder);
    execute(&reader, "BEGIN; SELECT COUNT(*) FROM messages");
    overwrite_frame(&folder, true);
    acknowledged.extend(accept_until_one_is_refused(&store).await);
    let why = store.ready().await.unwrap_err();
    assert!(telemetry_chain(&why).contains("overwritten"), "{why:?}");
    assert_unavailable(store.accept(vec![message("refused")]).await);
    execute(&reader, "ROLLBACK");
    eventually_ready(&store).await;
    acknowledged.push(accept_until_one_is(&store, "after").await);
    assert_kept(&store, &folder, &acknowledged).await;
    assert_eq!(quick_check(&folder), "ok");
}

fn quick_check(folder: &TempDir) -> String {
    raw(folder).query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwritten_frame_that_was_the_newest_of_its_page_is_damage_of_the_database() {
    let (store, folder) = fresh().await;
    for n in 0..40 {
        put(&store, message(&n.to_string())).await;
    }
    let salts = || std::fs::read(path(&folder, "-wal")).unwrap().get(16..24).map(<[u8]>::to_vec);
    let before = salts();
    // It keeps the log from being emptied before the wrong frame is noticed.
    let reader = raw(&folder);
    execute(&reader, "BEGIN; SELECT COUNT(*) FROM messages");
    overwrite_frame(&folder, false);
    accept_until_one_is_refused(&store).await;
    execute(&reader, "ROLLBACK");
    // Once moved into the database, the log is empty or starts over.
    let began = std::time::Instant::now();
    while salts() == before {
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_unavailable(store.ready().await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..3 {
        assert_unavailable(store.ready().await);
        assert_unavailable(store.accept(vec![message(&format!("refused{n}"))]).await);
    }
    assert_ne!(quick_check(&folder), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_header_is_overwritten_is_moved_into_the_database() {
    let (store, folder) = fresh().await;
    let mut acknowledged = accept_some(&store).await;
    overwrite_log(&folder, 0, 32);
    assert_unavailable(store.accept(vec![message("refused")]).await);
    eventually_ready(&store).await;
    acknowledged.push(accept_until_one_is(&store, "after").await);
    assert_kept(&store, &folder, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_header_is_overwritten_while_the_writer_has_no_connection_is_moved_too() {
    let folder = TempDir::new().unwrap();
    let hasty = SqliteOptions { busy_timeout: Duration::ZERO, ..options(&folder) };
    let store = SqliteStore::open(hasty).await.unwrap();
    let mut acknowledged = accept_some(&store).await;
    let other = raw(&folder);
    execute(&other, "BEGIN IMMEDIATE");
    assert_unavailable(store.accept(vec![message("locked")]).await);
    overwrite_log(&folder, 0, 32);
    execute(&other, "ROLLBACK");
    assert_unavailable(store.accept(vec![message("refused")]).await);
    eventually_ready(&store).await;
    acknowledged.push(accept_until_one_is(&store, "after").await);
    assert_kept(&store, &folder, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_last_frame_is_overwritten_is_moved_into_the_database() {
    let (store, folder) = fresh().await;
    let mut acknowledged = accept_some(&store).await;
    let end = 32 + frames(&folder).len() * FRAME_BYTES;
    // The salts of its header, not its page.
    overwrite_log(&folder, end - FRAME_BYTES + 8, 8);
    assert_unavailable(store.accept(vec![message("refused")]).await);
    eventually_ready(&store).await;
    acknowledged.push(accept_until_one_is(&store, "after").await);
    assert_kept(&store, &folder, &acknowledged).await;
}

#[test]
fn a_fault_that_is_found_while_the_files_are_opened_again_is_not_forgotten() {
    let folder = TempDir::new().unwrap();
    let health = Health::new(Files::new(path(&folder, "")));
    health.saw(&Fault::Shorter);
    assert!(matches!(health.next(), Next::Verify { .. }));
    health.verified(true, Duration::ZERO);
    // Another thread finds the next damage, or worse.
    health.saw(&Fault::Shorter);
    health.reopened();
    assert!(matches!(health.admit(), Err(Fault::Shorter)));
    health.lost(&Fault::NotAlone);
    health.was_alone();
    health.reopened();
    assert!(matches!(health.must_end(), Some(Fault::NotAlone)));
}

/// Overwrites bytes of the index of the log.
fn overwrite_index(folder: &TempDir, from: u64, bytes: &[u8]) {
    let index = OpenOptions::new().write(true).open(path(folder, "-shm")).unwrap();
    index.write_all_at(bytes, from).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_the_log_that_is_overwritten_is_made_again_by_sqlite() {
    for from in [0, 48] {
        let (store, folder) = fresh().await;
        let mut acknowledged = accept_some(&store).await;
        let bytes = std::fs::metadata(path(&folder, "-shm")).unwrap().len();
        overwrite_index(&folder, from, &vec![0xff; (bytes - from) as usize]);
        for n in 0..10 {
            acknowledged.push(accept_until_one_is(&store, &format!("after{n}-")).await);
        }
        eventually_ready(&store).await;
        assert_kept(&store, &folder, &acknowledged).await;
        assert_eq!(quick_check(&folder), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_index_of_the_log_ends_the_store_and_the_next_one_finds_everything() {
    let (store, folder) = fresh().await;
    let acknowledged: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let mut earlier = Vec::new();
    for (n, id) in acknowledged.iter().enumerate() {
        if n == 20 {
            earlier = std::fs::read(path(&folder, "-shm")).unwrap();
        }
        put(&store, message(id)).await;
    }
    overwrite_index(&folder, 0, &earlier);
    assert_unavailable(store.accept(vec![message("refused")]).await);
    let why = tokio::time::timeout(Duration::from_secs(30), store.ended()).await.unwrap();
    let why = telemetry_chain(&why.unwrap());
    assert!(why.contains("-shm") && why.contains("start the program again"), "{why}");
    store.close().await;
    drop(store);
    let again = SqliteStore::open(options(&folder)).await.unwrap();
    assert_stored(&again, &acknowledged).await;
    assert_eq!(quick_check(&folder), "ok");
}
