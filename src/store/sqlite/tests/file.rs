//! The file: what is refused when it is opened, and who may read it.

use std::path::Path;

use super::*;

async fn refused(path: &Path) -> (OpenError, String) {
    let error = SqliteStore::open(SqliteOptions::new(path)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "names the path: {text}");
    (error, text)
}

#[tokio::test]
async fn says_what_is_wrong_with_the_file() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);

    let (error, text) = refused(&path("missing/queue.db")).await;
    assert!(matches!(error, OpenError::NoFolder { .. }) && text.contains("create it"), "{text}");

    std::fs::write(
        path("text.db"),
        "this is no database, but long enough to be looked at ".repeat(50),
    )
    .unwrap();
    let (error, _) = refused(&path("text.db")).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    let (error, _) = refused(folder.path()).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");

    let connection = Connection::open(path("foreign.db")).unwrap();
    execute(&connection, "CREATE TABLE invoices (id INTEGER)");
    let before = std::fs::read(path("foreign.db")).unwrap();
    let (error, _) = refused(&path("foreign.db")).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert!(std::fs::read(path("foreign.db")).unwrap() == before, "it was written to");

    let connection = Connection::open(path("earlier.db")).unwrap();
    execute(&connection, "CREATE TABLE _sqlx_migrations (version BIGINT)");
    execute(&connection, "CREATE TABLE messages (seq INTEGER PRIMARY KEY)");
    let (error, text) = refused(&path("earlier.db")).await;
    assert!(matches!(error, OpenError::Earlier { .. }), "{error:?}");
    assert!(text.contains("earlier build") && text.contains("move the file away"), "{text}");
}

#[tokio::test]
async fn refuses_a_database_of_an_earlier_build_and_says_so() {
    let (store, folder) = fresh().await;
    put(&store, message("a")).await;
    store.close().await;
    // As an earlier build made it.
    execute(&raw(&folder), "ALTER TABLE messages DROP COLUMN warnings; PRAGMA user_version = 1");
    let (error, text) = refused(&folder.path().join("queue.db")).await;
    assert!(matches!(error, OpenError::Earlier { .. }), "{error:?}");
    assert!(text.contains("earlier build") && text.contains("deliver what waits"), "{text}");
}

/// An edit of the schema needs a new version: its digest belongs here.
#[test]
fn the_schema_is_that_of_its_version() {
    let schema = include_str!("../schema.sql");
    let digest = <sha2::Sha256 as sha2::Digest>::digest(schema);
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((open::SCHEMA_VERSION, digest.as_str()), (20, "984911509e37a97a"));
}

#[tokio::test]
async fn refuses_a_schema_that_is_not_whole() {
    for damage in [
        "DROP INDEX messages_pending",
        "ALTER TABLE attempts DROP COLUMN excerpt",
        "DELETE FROM meta WHERE name = 'last_seq'",
        "UPDATE meta SET value = 'short' WHERE name = 'installation_key'",
    ] {
        let (store, folder) = fresh().await;
        store.close().await;
        execute(&raw(&folder), damage);
        let (error, text) = refused(&folder.path().join("queue.db")).await;
        assert!(matches!(error, OpenError::Damaged { .. }), "{damage}: {error:?}");
        assert!(text.contains("restore it from a backup"), "{text}");
    }
}

#[tokio::test]
async fn refuses_a_file_of_a_newer_version() {
    let (store, folder) = fresh().await;
    execute(&raw(&folder), "PRAGMA user_version = 9999");
    assert_unavailable(store.ready().await);
    let (error, text) = refused(&folder.path().join("queue.db")).await;
    assert!(matches!(error, OpenError::Later { version: 9999, .. }), "{error:?}");
    assert!(text.contains("newer"), "{text}");
}

#[cfg(unix)]
#[tokio::test]
async fn keeps_the_file_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let (store, folder) = fresh().await;
    put(&store, message("a")).await;
    for name in ["queue.db", "queue.db-wal"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn says_that_a_folder_is_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).unwrap();
    // No user can create a file in the first folder. Root can in the second, and tests in containers run as root.
    let mut folders = vec![Path::new("/sys")];
    if std::fs::write(locked.join("probe"), "").is_err() {
        folders.push(&locked);
    }
    for folder in folders {
        let (error, text) = refused(&folder.join("queue.db")).await;
        assert!(matches!(error, OpenError::NotWritable { .. }), "{error:?}");
        assert!(text.contains("write access"), "{text}");
    }
}
