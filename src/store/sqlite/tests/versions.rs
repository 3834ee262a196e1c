//! A file from an earlier release.

use std::collections::HashMap;

use super::super::restore::Restore;
use super::*;
use crate::config::{self, Flags};

/// The next version adds a column and an index.
const NEXT: &[&str] = &[
    migrations::MIGRATIONS[0],
    "ALTER TABLE leases ADD COLUMN region TEXT; CREATE INDEX messages_kind ON messages (kind);",
];

/// The next version rebuilds a table that others refer to.
const REBUILT: &[&str] = &[
    migrations::MIGRATIONS[0],
    "CREATE TABLE messages_new (seq INTEGER PRIMARY KEY NOT NULL, state INTEGER NOT NULL, message_id TEXT NOT NULL);
     INSERT INTO messages_new SELECT seq, state, message_id FROM messages;
     DROP TABLE messages;
     ALTER TABLE messages_new RENAME TO messages;",
];

fn open_as(folder: &TempDir, migrations: &'static [&'static str]) -> Result<Connection, OpenError> {
    open::open(&SqliteOptions { migrations, ..options(folder) })
}

fn number(connection: &Connection, query: &str) -> i64 {
    connection.query_row(query, [], |row| row.get(0)).unwrap()
}

/// Returns everything in a schema, as it was made.
fn schema(connection: &Connection) -> Vec<(String, Option<String>)> {
    let mut all = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
    let read = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    read.map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_file_of_an_earlier_release_is_migrated_once_and_keeps_what_waits() {
    let (store, folder) = fresh().await;
    put(&store, message("a")).await;
    let migrated = open_as(&folder, NEXT).unwrap();
    assert_eq!(number(&migrated, "PRAGMA user_version"), i64::from(open::SCHEMA_VERSION) + 1);
    assert_eq!(number(&migrated, "SELECT COUNT(*) FROM messages JOIN payloads USING (seq)"), 1);
    // The migrated schema equals a new one.
    let other = TempDir::new().unwrap();
    assert_eq!(schema(&migrated), schema(&open_as(&other, NEXT).unwrap()));
    drop((migrated, open_as(&folder, NEXT).unwrap()));
    // A program of the previous release neither continues to use the file nor opens it again.
    assert_unavailable(store.ready().await);
    store.accept(vec![message("b")]).await.unwrap_err();
    store.close().await;
    let refused = SqliteStore::open(options(&folder)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Later { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_table_that_others_refer_to_is_rebuilt_and_foreign_keys_are_enforced_again() {
    let (store, folder) = fresh().await;
    let seq = put(&store, message("a")).await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    store.freeze_one(&lease, seq, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();
    store.close().await;
    let rebuilt = open_as(&folder, REBUILT).unwrap();
    assert_eq!(number(&rebuilt, "SELECT COUNT(*) FROM messages JOIN deliveries USING (seq)"), 1);
    assert_eq!(number(&rebuilt, "PRAGMA foreign_keys"), 1);
    rebuilt.execute("DELETE FROM messages", []).unwrap_err();
}

#[tokio::test]
async fn a_migration_after_which_rows_refer_to_nothing_changes_nothing() {
    const CARELESS: &[&str] = &[migrations::MIGRATIONS[0], "DELETE FROM messages;"];
    let (store, folder) = fresh().await;
    let seq = put(&store, message("a")).await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    store.freeze_one(&lease, seq, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();
    store.close().await;
    let refused = open_as(&folder, CARELESS).map(drop).unwrap_err();
    let OpenError::Open { source, .. } = &refused else { panic!("{refused:?}") };
    assert!(source.to_string().contains("foreign_key_check"), "{source}");
    assert_eq!(number(&raw(&folder), "SELECT COUNT(*) FROM messages"), 1);
    assert_eq!(number(&raw(&folder), "PRAGMA user_version"), i64::from(open::SCHEMA_VERSION));
}

#[tokio::test]
async fn each_version_says_how_the_schema_is_and_changes_nothing() {
    use crate::store::Schema;
    let (store, folder) = fresh().await;
    let state = |migrations| open::schema(&SqliteOptions { migrations, ..options(&folder) });
    let version = open::SCHEMA_VERSION;
    let current = version + 1;
    assert_eq!(state(migrations::MIGRATIONS).unwrap(), Schema::Current { version });
    assert_eq!(state(NEXT).unwrap(), Schema::Older { version, current });
    assert_eq!(state(migrations::MIGRATIONS).unwrap(), Schema::Current { version });
    store.close().await;
    drop(open_as(&folder, NEXT).unwrap());
    assert_eq!(state(NEXT).unwrap(), Schema::Current { version: current });
    assert!(matches!(state(migrations::MIGRATIONS).unwrap_err(), OpenError::Later { .. }));
}

#[tokio::test]
async fn a_file_of_each_earlier_release_is_opened() {
    for count in 1..=migrations::MIGRATIONS.len() {
        let folder = TempDir::new().unwrap();
        drop(open_as(&folder, &migrations::MIGRATIONS[..count]).unwrap());
        let store = SqliteStore::open(options(&folder)).await.unwrap();
        put(&store, message("a")).await;
        assert_eq!(heads(&store).await.len(), 1, "{count}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    const BROKEN: &[&str] = &[NEXT[0], NEXT[1], "ALTER TABLE messages DROP COLUMN never_there;"];
    let (store, folder) = fresh().await;
    put(&store, message("a")).await;
    open_as(&folder, BROKEN).map(drop).unwrap_err();
    put(&store, message("b")).await;
    assert_eq!(heads(&store).await.len(), 2);
}

/// What an earlier release left behind that is not opened, and so not migrated either.
#[tokio::test]
async fn neither_a_backup_nor_a_moved_queue_of_an_earlier_release_is_migrated() {
    const MOVED: &str = r#"{"id": "1", "to": "db:5432/loops", "began_at": 1, "finished_at": 2}"#;
    let (store, folder) = fresh().await;
    store.close().await;
    let marked = raw(&folder);
    let look = || {
        let options = SqliteOptions { migrations: NEXT, ..options(&folder) };
        [open_as(&folder, NEXT).map(drop), open::schema(&options).map(drop)]
    };
    let mark = "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)";
    marked.execute(mark, ("copied_at", 1)).unwrap();
    for refused in look() {
        assert!(matches!(refused, Err(OpenError::Backup { .. })), "{refused:?}");
    }
    execute(&marked, "DELETE FROM meta WHERE name = 'copied_at'");
    marked.execute(mark, ("moved", MOVED)).unwrap();
    for refused in look() {
        assert!(matches!(refused, Err(OpenError::Moved { .. })), "{refused:?}");
    }
    let version = number(&marked, "PRAGMA user_version");
    assert_eq!(version, i64::from(open::SCHEMA_VERSION), "it was written to");
}

#[tokio::test]
async fn a_schema_of_an_earlier_release_that_is_not_whole_is_not_migrated() {
    let (store, folder) = fresh().await;
    store.close().await;
    let damaged = raw(&folder);
    execute(&damaged, "DROP INDEX messages_failed");
    let options = SqliteOptions { migrations: NEXT, ..options(&folder) };
    for refused in [open_as(&folder, NEXT).map(drop), open::schema(&options).map(drop)] {
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{refused:?}");
    }
    let version = number(&damaged, "PRAGMA user_version");
    assert_eq!(version, i64::from(open::SCHEMA_VERSION), "it was written to");
}

#[tokio::test]
async fn a_backup_of_an_earlier_release_is_migrated_when_it_is_restored() {
    let (store, folder) = fresh().await;
    put(&store, message("a")).await;
    store.close().await;
    let (backup, data) = (folder.path().join("queue.db"), folder.path().join("restored"));
    let flags = Flags { data: Some(data.clone()), ..Flags::default() };
    let config = config::load_store(&flags, HashMap::new()).unwrap().store;
    let restore = |migrations| {
        let restore = Restore::open_as(Some(&backup), &config, at(100), migrations);
        restore.and_then(|restore| restore.finish(&[], at(100)))
    };
    // A copy that cannot be migrated leaves nothing behind.
    const BROKEN: &[&str] = &[NEXT[0], "ALTER TABLE messages DROP COLUMN never_there;"];
    restore(BROKEN).unwrap_err();
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    let restored = restore(NEXT).unwrap();
    assert_eq!((restored.migrated_from, restored.waiting), (Some(open::SCHEMA_VERSION), 1));
    let path = folder::file_in(&data);
    let options = SqliteOptions { path, migrations: NEXT, ..options(&folder) };
    let opened = open::open(&options).unwrap();
    assert_eq!(number(&opened, "SELECT COUNT(*) FROM messages JOIN payloads USING (seq)"), 1);
    // The backup itself stays as it was.
    let (version, backup) = (i64::from(open::SCHEMA_VERSION), Connection::open(&backup).unwrap());
    assert_eq!(number(&backup, "PRAGMA user_version"), version);
    assert_eq!(number(&opened, "PRAGMA user_version"), version + 1);
}
