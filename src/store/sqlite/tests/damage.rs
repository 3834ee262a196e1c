//! Damage to the files while the store has them open. Nothing is acknowledged that another process, or this one after a
//! crash, would not find.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::files::Files;
use super::super::health::Health;
use super::*;

const NAMES: [&str; 2] = ["-wal", "-shm"];

fn path(folder: &TempDir, suffix: &str) -> PathBuf {
    folder.path().join(format!("queue.db{suffix}"))
}

/// Opens another store on the files as a crash of the machine would leave them.
async fn after_a_crash(folder: &TempDir) -> (SqliteStore, TempDir) {
    let copy = TempDir::new().unwrap();
    for suffix in ["", "-wal"] {
        let from = path(folder, suffix);
        if from.exists() {
            std::fs::copy(from, path(&copy, suffix)).unwrap();
        }
    }
    (SqliteStore::open(options(&copy)).await.unwrap(), copy)
}

async fn assert_stored(store: &SqliteStore, ids: &[String]) {
    for id in ids {
        let found = store.by_message_id(message(id).message_hash, id).await.unwrap();
        assert_eq!(found.len(), 1, "{id}");
    }
}

/// Accepts enough messages for a log of many frames; returns their ids.
async fn accept_some(store: &SqliteStore) -> Vec<String> {
    let ids: Vec<String> = (0..40).map(|n| format!("before{n}")).collect();
    for id in &ids {
        put(store, message(id)).await;
    }
    ids
}

/// Fails unless the store, and another one after a crash, have these messages.
async fn assert_kept(store: &SqliteStore, folder: &TempDir, acknowledged: &[String]) {
    let (crashed, _copy) = after_a_crash(folder).await;
    assert_stored(&crashed, acknowledged).await;
    assert_stored(store, acknowledged).await;
}

/// Overwrites bytes of the log, as another program might.
fn overwrite_log(folder: &TempDir, at: usize, bytes: usize) {
    let log = OpenOptions::new().write(true).open(path(folder, "-wal")).unwrap();
    log.write_all_at(&vec![0xff; bytes], at as u64).unwrap();
}

/// Cuts the log, as another program might.
fn cut_log(folder: &TempDir, kept: u64) {
    let log = OpenOptions::new().write(true).open(path(folder, "-wal")).unwrap();
    log.set_len(kept).unwrap();
}

/// Empties the log. While the returned connection is open, later commits stay in the log: the connection reads the
/// database file, so SQLite moves nothing there. Otherwise the writer may move the log while idle, and then truncating
/// the log loses nothing.
fn keep_in_log(folder: &TempDir) -> Connection {
    assert!(open::empty_wal(&raw(folder)).unwrap());
    let reader = FileOptions::new(&options(folder)).open_reader().unwrap();
    execute(&reader, "BEGIN; SELECT 1 FROM messages");
    reader
}

/// Waits until the writer has checked the files and begun a group.
async fn until_writing(store: &SqliteStore) {
    let began = std::time::Instant::now();
    while !store.health.is_writing() {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Tries to accept messages until one is acknowledged; returns its id.
async fn accept_until_one_is(store: &SqliteStore, name: &str) -> String {
    let began = std::time::Instant::now();
    for n in 0.. {
        let id = format!("{name}{n}");
        if store.accept(vec![message(&id)]).await.is_ok() {
            return id;
        }
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    unreachable!()
}

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

/// Overwrites a page of the database; returns its former contents.
fn garble(folder: &TempDir, table: &str) -> (u64, Vec<u8>) {
    let page: i64 = raw(folder)
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [table], |row| row.get(0))
        .unwrap();
    let at = (page.unsigned_abs() - 1) * 4_096;
    let bytes = std::fs::read(path(folder, "")).unwrap();
    let before = bytes[at as usize..at as usize + 4_096].to_vec();
    let file = OpenOptions::new().write(true).open(path(folder, "")).unwrap();
    file.write_all_at(&[0xff; 4_096], at).unwrap();
    (at, before)
}

fn put_back(folder: &TempDir, (at, before): &(u64, Vec<u8>)) {
    let file = OpenOptions::new().write(true).open(path(folder, "")).unwrap();
    file.write_all_at(before, *at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_any_connection_sees_stops_acknowledging_until_all_pages_can_be_read() {
    type Look = for<'a> fn(&'a SqliteStore) -> Pin<Box<dyn Future<Output = bool> + 'a>>;
    let looks: [(&str, Look); 3] = [
        ("leases", |store| Box::pin(async { store.lease(ask("a", at(0))).await.is_err() })),
        ("payloads", |store| Box::pin(async { store.open(Seq(1)).await.is_err() })),
        ("tallies", |store| {
            let step = TallyStep::ALL[0];
            Box::pin(async move { store.tallies(step, at(-1), at(1)).await.is_err() })
        }),
    ];
    for (table, look) in looks {
        let (store, folder) = fresh().await;
        put(&store, message("before")).await;
        store.close().await;
        let store = SqliteStore::open(options(&folder)).await.unwrap();
        let garbled = garble(&folder, table);
        assert!(look(&store).await, "{table}");
        // No message is acknowledged, although not every one needs the page.
        for id in ["a", "b"] {
            assert_unavailable(store.accept(vec![message(id)]).await);
        }
        for _ in 0..3 {
            assert_unavailable(store.ready().await);
            // A write that succeeds proves nothing.
            let _ = store.purge(at(0)).await;
            assert_unavailable(store.accept(vec![message("c")]).await);
        }
        put_back(&folder, &garbled);
        eventually_ready(&store).await;
        assert_eq!(store.accept(vec![message("d")]).await.unwrap(), [Accepted::New], "{table}");
        assert_stored(&store, &["before".to_owned(), "d".to_owned()]).await;
    }
}

/// Holds the writer until its channel gets a value.
struct Hold(std::sync::Mutex<mpsc::Receiver<()>>);

impl Step for Hold {
    type Output = ();

    fn run(&self, _: &Connection, _: &mut Effects) -> Result<(), Fault> {
        let _ = self.0.lock().unwrap().recv();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_finds_damage_does_not_leave_the_writer_looking_stuck() {
    let (store, folder) = fresh().await;
    put(&store, message("before")).await;
    store.close().await;
    let store = SqliteStore::open(options(&folder)).await.unwrap();
    garble(&folder, "payloads");
    let (go_on, held) = mpsc::channel();
    let mut hold: Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>> =
        Box::pin(store.write(Hold(std::sync::Mutex::new(held))));
    assert!(poll_once(hold.as_mut()).await.is_pending());
    until_writing(&store).await;
    // Both in one group.
    let [mut a, mut b] = ["a", "b"].map(|id| store.accept(vec![message(id)]));
    assert!(poll_once(a.as_mut()).await.is_pending());
    assert!(poll_once(b.as_mut()).await.is_pending());
    go_on.send(()).unwrap();
    hold.await.unwrap();
    assert_unavailable(a.await);
    assert_unavailable(b.await);
    assert!(!store.health.is_writing());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_are_not_opened_again_while_all_pages_are_checked() {
    let (store, _folder) = fresh().await;
    // Stands in for a slow check.
    let (go_on, held) = mpsc::channel::<()>();
    let (begun, began) = oneshot::channel();
    let lookups = store.lookups.clone();
    let checking = tokio::spawn(async move {
        let check = move |_: &FileOptions| {
            let _ = begun.send(());
            let _ = held.recv();
            Ok(true)
        };
        lookups.run(check).await
    });
    began.await.unwrap();
    let mut pause: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(store.lookups.pause());
    assert!(poll_once(pause.as_mut()).await.is_pending(), "the writer waits for this");
    go_on.send(()).unwrap();
    assert!(checking.await.unwrap().unwrap());
    assert!(pause.await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_gets_shorter_stops_acknowledging_until_it_is_whole() {
    let (store, folder) = fresh().await;
    put(&store, message("before")).await;
    store.close().await;
    let whole = std::fs::read(path(&folder, "")).unwrap();
    let store = SqliteStore::open(options(&folder)).await.unwrap();
    // From now on, SQLite uses the size in the log.
    put(&store, message("in the log")).await;
    let file = OpenOptions::new().write(true).open(path(&folder, "")).unwrap();
    // The last page, which no message needs.
    file.set_len(whole.len() as u64 - 4_096).unwrap();
    assert_unavailable(store.accept(vec![message("a")]).await);
    assert_unavailable(store.ready().await);
    std::os::unix::fs::FileExt::write_all_at(&file, &whole, 0).unwrap();
    eventually_ready(&store).await;
    assert_eq!(store.accept(vec![message("b")]).await.unwrap(), [Accepted::New]);
    // A vacuumed database is intact.
    fill(&store, "old", 50).await;
    while store.purge(at(100) + LIMITS.records_retention).await.unwrap() > 0 {}
    let raw = raw(&folder);
    execute(&raw, "VACUUM");
    // While the store itself moves the log into the database, SQLite reports that at once and does nothing. The database
    // would then get shorter at some later moment.
    let (checkpoint, began) = ("PRAGMA wal_checkpoint(TRUNCATE)", std::time::Instant::now());
    while raw.query_row(checkpoint, [], |row| row.get::<_, bool>(0)).unwrap() {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(raw);
    eventually_ready(&store).await;
    assert_eq!(store.accept(vec![message("c")]).await.unwrap(), [Accepted::New]);
}

#[tokio::test]
async fn marks_that_were_changed_stop_acknowledging_until_they_are_right() {
    let version = open::SCHEMA_VERSION;
    let changes = [
        ("PRAGMA user_version = 9999".to_owned(), format!("PRAGMA user_version = {version}")),
        (
            "PRAGMA application_id = 7".to_owned(),
            format!("PRAGMA application_id = {}", 0x5347_4c50),
        ),
        (
            "UPDATE meta SET name = 'gone' WHERE name = 'last_seq'".to_owned(),
            "UPDATE meta SET name = 'last_seq' WHERE name = 'gone'".to_owned(),
        ),
    ];
    for (change, back) in changes {
        let (store, folder) = fresh().await;
        put(&store, message("before")).await;
        execute(&raw(&folder), &change);
        assert_unavailable(store.accept(vec![message("a")]).await);
        assert_unavailable(store.ready().await);
        execute(&raw(&folder), &back);
        eventually_ready(&store).await;
        assert_eq!(store.accept(vec![message("a")]).await.unwrap(), [Accepted::New], "{change}");
    }
}

#[tokio::test]
async fn a_deleted_database_acknowledges_nothing_from_the_first_message_on() {
    let (store, folder) = fresh().await;
    put(&store, message("before")).await;
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(path(&folder, ""), &elsewhere).unwrap();
    assert_unavailable(store.accept(vec![message("a")]).await);
    assert_unavailable(store.ready().await);
    // Messages accepted before can still be delivered.
    store.lease(ask("a", at(0))).await.unwrap();
    std::fs::rename(&elsewhere, path(&folder, "")).unwrap();
    assert_eq!(store.accept(vec![message("a")]).await.unwrap(), [Accepted::New]);
    store.ready().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_another_process_keeps_makes_the_store_not_ready_before_the_wait_ends() {
    let folder = TempDir::new().unwrap();
    let patient = SqliteOptions { busy_timeout: Duration::from_secs(60), ..options(&folder) };
    let store = SqliteStore::open(patient).await.unwrap();
    let other = raw(&folder);
    execute(&other, "BEGIN IMMEDIATE");
    let mut waiting = store.accept(vec![message("a")]);
    assert!(poll_once(waiting.as_mut()).await.is_pending());
    let began = std::time::Instant::now();
    let why = loop {
        if let Err(why) = store.ready().await {
            break why;
        }
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(telemetry_chain(&why).contains("locked"));
    execute(&other, "ROLLBACK");
    assert_eq!(waiting.await.unwrap(), [Accepted::New]);
    eventually_ready(&store).await;
}

fn telemetry_chain(error: &(dyn std::error::Error + 'static)) -> String {
    crate::telemetry::chain(error).to_string()
}

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
