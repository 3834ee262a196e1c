//! A file from an earlier release.

use super::*;

/// The next version adds a column and an index.
const NEXT: &[&str] = &[
    open::MIGRATIONS[0],
    "ALTER TABLE leases ADD COLUMN region TEXT; CREATE INDEX messages_kind ON messages (kind);",
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
async fn each_version_says_how_the_schema_is_and_changes_nothing() {
    use crate::store::Schema;
    let (store, folder) = fresh().await;
    let state = |migrations| open::schema(&SqliteOptions { migrations, ..options(&folder) });
    let version = open::SCHEMA_VERSION;
    let current = version + 1;
    assert_eq!(state(open::MIGRATIONS).unwrap(), Schema::Current { version });
    assert_eq!(state(NEXT).unwrap(), Schema::Older { version, current });
    assert_eq!(state(open::MIGRATIONS).unwrap(), Schema::Current { version });
    store.close().await;
    drop(open_as(&folder, NEXT).unwrap());
    assert_eq!(state(NEXT).unwrap(), Schema::Current { version: current });
    assert!(matches!(state(open::MIGRATIONS).unwrap_err(), OpenError::Later { .. }));
}

#[tokio::test]
async fn a_file_of_each_earlier_release_is_opened() {
    for count in 1..=open::MIGRATIONS.len() {
        let folder = TempDir::new().unwrap();
        drop(open_as(&folder, &open::MIGRATIONS[..count]).unwrap());
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

#[tokio::test]
async fn a_backup_of_an_earlier_release_is_no_queue_either() {
    let (store, folder) = fresh().await;
    store.close().await;
    let marked = raw(&folder);
    execute(&marked, "INSERT INTO meta (name, value) VALUES ('copied_at', 1)");
    let refused = open_as(&folder, NEXT).map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Backup { .. }), "{refused:?}");
    let version = number(&marked, "PRAGMA user_version");
    assert_eq!(version, i64::from(open::SCHEMA_VERSION), "it was written to");
}
