//! Pages of the database are damaged, missing, or locked.

use super::*;

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
