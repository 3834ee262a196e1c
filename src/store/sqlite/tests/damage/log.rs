//! The write-ahead log is taken away, cut, or started over.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_taken_away_is_moved_into_the_database_before_anything_is_acknowledged() {
    for taken in [vec!["-wal"], vec!["-shm"], NAMES.to_vec()] {
        for is_replaced in [false, true] {
            let (store, folder) = fresh().await;
            let mut acknowledged = vec!["before".to_owned()];
            put(&store, message("before")).await;
            let copy = folder.path().join("copy");
            for suffix in &taken {
                std::fs::copy(path(&folder, suffix), &copy).unwrap();
                put(&store, message(&format!("between{suffix}"))).await;
                acknowledged.push(format!("between{suffix}"));
                std::fs::remove_file(path(&folder, suffix)).unwrap();
                if is_replaced {
                    std::fs::rename(&copy, path(&folder, suffix)).unwrap();
                }
            }
            acknowledged.push(accept_until_one_is(&store, "after").await);
            let (crashed, _copy) = after_a_crash(&folder).await;
            assert_stored(&crashed, &acknowledged).await;
            // Nothing had to be restarted, and another process sees the same messages.
            eventually_ready(&store).await;
            let other = SqliteStore::open(options(&folder)).await.unwrap();
            acknowledged.push(accept_until_one_is(&other, "other").await);
            acknowledged.push(accept_until_one_is(&store, "last").await);
            assert_stored(&store, &acknowledged).await;
            assert_stored(&other, &acknowledged).await;
            other.close().await;
            store.close().await;
            let check: String =
                raw(&folder).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_taken_away_during_a_commit_is_noticed_before_the_answer() {
    for suffix in NAMES {
        let (store, folder) = fresh().await;
        put(&store, message("before")).await;
        let other = raw(&folder);
        execute(&other, "BEGIN IMMEDIATE");
        let mut waiting = store.accept(vec![message("after")]);
        assert!(poll_once(waiting.as_mut()).await.is_pending());
        until_writing(&store).await;
        std::fs::remove_file(path(&folder, suffix)).unwrap();
        drop(other);
        assert_eq!(waiting.await.unwrap(), [Accepted::New]);
        let (crashed, _copy) = after_a_crash(&folder).await;
        assert_stored(&crashed, &["before".to_owned(), "after".to_owned()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_get_over_a_log_that_is_taken_away() {
    let (store, folder) = fresh().await;
    let other = SqliteStore::open(options(&folder)).await.unwrap();
    put(&store, message("a")).await;
    put(&other, message("b")).await;
    for suffix in NAMES {
        std::fs::remove_file(path(&folder, suffix)).unwrap();
    }
    let (first, second) =
        tokio::join!(accept_until_one_is(&store, "first"), accept_until_one_is(&other, "second"));
    let acknowledged = ["a".to_owned(), "b".to_owned(), first, second];
    assert_kept(&store, &folder, &acknowledged).await;
    assert_stored(&other, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_alone_with_a_moved_log_ends() {
    let (store, folder) = fresh().await;
    put(&store, message("a")).await;
    // Another program that does not notice.
    let other = raw(&folder);
    execute(&other, "SELECT 1 FROM messages");
    std::fs::remove_file(path(&folder, "-wal")).unwrap();
    assert_unavailable(store.accept(vec![message("b")]).await);
    let why = tokio::time::timeout(Duration::from_secs(30), store.ended()).await.unwrap();
    assert!(telemetry_chain(&why.unwrap()).contains("several processes"));
    assert_unavailable(store.accept(vec![message("c")]).await);
    drop(other);
    let (crashed, _copy) = after_a_crash(&folder).await;
    assert_stored(&crashed, &["a".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_ends_the_store_before_anything_is_acknowledged() {
    for kept in [0, 32, 10_000] {
        let (store, folder) = fresh().await;
        let reader = keep_in_log(&folder);
        for n in 0..20 {
            put(&store, message(&n.to_string())).await;
        }
        cut_log(&folder, kept);
        assert_unavailable(store.accept(vec![message("after")]).await);
        let why = tokio::time::timeout(Duration::from_secs(30), store.ended()).await.unwrap();
        let why = telemetry_chain(&why.unwrap());
        assert!(why.contains("cut") && why.contains("Start the program again"), "{why}");
        let why = store.ready().await.unwrap_err();
        assert!(telemetry_chain(&why).contains("cut"));
        store.close().await;
        drop(reader);
        // The next store continues with what is left.
        let again = SqliteStore::open(options(&folder)).await.unwrap();
        assert_eq!(again.accept(vec![message("after")]).await.unwrap(), [Accepted::New]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_and_written_on_is_recognized() {
    for kept in [0, 10_000] {
        let (store, folder) = fresh().await;
        let _reader = keep_in_log(&folder);
        for n in 0..20 {
            put(&store, message(&n.to_string())).await;
        }
        let log = OpenOptions::new().write(true).open(path(&folder, "-wal")).unwrap();
        let bytes = log.metadata().unwrap().len();
        log.set_len(kept).unwrap();
        log.set_len(bytes).unwrap();
        assert_unavailable(store.accept(vec![message("after")]).await);
        let why = tokio::time::timeout(Duration::from_secs(30), store.ended()).await.unwrap();
        assert!(telemetry_chain(&why.unwrap()).contains("cut"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_during_a_commit_ends_the_store_before_the_answer() {
    // How many bytes of the log are kept, or cut off its end.
    for (kept, cut) in [(0, 0), (32, 0), (10_000, 0), (0, 1), (0, 2_000), (0, 4_100)] {
        let (store, folder) = fresh().await;
        let _reader = keep_in_log(&folder);
        for n in 0..20 {
            put(&store, message(&n.to_string())).await;
        }
        let other = raw(&folder);
        execute(&other, "BEGIN IMMEDIATE");
        let mut waiting = store.accept(vec![message("after")]);
        assert!(poll_once(waiting.as_mut()).await.is_pending());
        until_writing(&store).await;
        let bytes = std::fs::metadata(path(&folder, "-wal")).unwrap().len();
        cut_log(&folder, if cut > 0 { bytes - cut } else { kept });
        drop(other);
        // The writer has continued after the hole.
        assert_unavailable(waiting.await);
        let why = tokio::time::timeout(Duration::from_secs(30), store.ended()).await.unwrap();
        let why = telemetry_chain(&why.unwrap());
        assert!(why.contains("cut"), "{kept} {cut}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_moved_into_the_database_can_be_cut_without_loss() {
    for kept in [0, 32, 10_000] {
        let folder = TempDir::new().unwrap();
        // Large enough that nothing is sorted in, which would write to the log.
        let unsorted = SqliteOptions { recent_max: 1_000, ..options(&folder) };
        let store = SqliteStore::open(unsorted).await.unwrap();
        let mut acknowledged = accept_some(&store).await;
        // As the writer does when it is idle.
        assert!(open::empty_wal(&raw(&folder)).unwrap());
        cut_log(&folder, kept);
        put(&store, message("after")).await;
        acknowledged.push("after".to_owned());
        assert_kept(&store, &folder, &acknowledged).await;
        assert!(is_well(&store));
    }
}

/// Writes to the database until it is dropped. The log starts over after each few commits.
struct OtherWriter {
    is_stopped: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OtherWriter {
    fn start(folder: &TempDir) -> Self {
        let other = raw(folder);
        execute(&other, "PRAGMA synchronous = off; PRAGMA wal_autocheckpoint = 30");
        let is_stopped = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&is_stopped);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                other.pragma_update(None, "user_version", open::SCHEMA_VERSION).unwrap();
            }
        });
        Self { is_stopped, thread: Some(thread) }
    }
}

impl Drop for OtherWriter {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_another_process_keeps_starting_over_raises_no_alarm() {
    let Folder(folder) = Folder::empty().await;
    let store = SqliteStore::open(options(&folder)).await.unwrap();
    let files = Files::new(path(&folder, ""));
    files.opened().unwrap();
    let reader = raw(&folder);
    let other = OtherWriter::start(&folder);
    // `None` while it is empty.
    let salts = || std::fs::read(path(&folder, "-wal")).unwrap().get(16..24).map(<[u8]>::to_vec);
    let mut starts = std::collections::HashSet::new();
    for n in 0..200 {
        put(&store, message(&n.to_string())).await;
        starts.insert(salts());
        // More often than a store does.
        for _ in 0..100 {
            files.look_into_log(&reader).unwrap();
        }
    }
    drop(other);
    assert!(starts.len() > 10);
    assert!(is_well(&store));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_opens_a_database_whose_log_was_cut_says_so() {
    for kept in [0, 32, 10_000] {
        let (store, folder) = fresh().await;
        let _reader = keep_in_log(&folder);
        for n in 0..20 {
            put(&store, message(&n.to_string())).await;
        }
        cut_log(&folder, kept);
        let why = telemetry_chain(&SqliteStore::open(options(&folder)).await.unwrap_err());
        for part in ["queue.db-wal", "was cut", "End all processes"] {
            assert!(why.contains(part), "{kept}: {why}");
        }
    }
}
