//! Programs of two versions on one schema, as when an operator replaces replicas one by one.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::store::postgres::migrations::MIGRATIONS;

/// The next version adds a column and an index.
const NEXT: &[Migration] = &[
    MIGRATIONS[0],
    Migration {
        sql: "ALTER TABLE @pending ADD COLUMN locale text NOT NULL DEFAULT 'en';
              CREATE INDEX pending_locale ON @pending (locale, seq);",
        usable_from: 1,
    },
];

/// The one after it removes what only the first version used.
const AFTER_NEXT: &[Migration] = &[
    NEXT[0],
    NEXT[1],
    Migration { sql: "ALTER TABLE @pending DROP COLUMN source;", usable_from: 2 },
];

async fn open_as(
    schema: &Schema,
    migrations: &'static [Migration],
) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(PostgresOptions { migrations, ..options(&schema.0) }).await
}

/// Returns the version and `usable_from` from the meta table.
async fn version(schema: &Schema) -> (i32, i32) {
    let row = raw(schema).await.query_one("SELECT version, usable_from FROM @meta", &[]).await;
    let row = row.unwrap();
    (rows::get(&row, 0).unwrap(), rows::get(&row, 1).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_schema_is_migrated_once_while_an_older_version_accepts() {
    let schema = Schema::empty().await;
    let old = open(&schema).await;
    let is_over = AtomicBool::new(false);
    let write = async {
        let mut accepted = 0;
        while !is_over.load(Ordering::Acquire) || accepted < 10 {
            put(&old, message(&format!("m{accepted}"))).await;
            accepted += 1;
        }
        accepted
    };
    let migrate = async {
        let (one, other) = tokio::join!(open_as(&schema, NEXT), open_as(&schema, NEXT));
        is_over.store(true, Ordering::Release);
        (one.unwrap(), other.unwrap())
    };
    let (accepted, (one, other)) = tokio::join!(write, migrate);
    assert_eq!(version(&schema).await, (2, 1));
    assert_eq!(heads(&one).await.len(), accepted);
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn versions_with_one_schema_between_them_share_a_queue() {
    let schema = Schema::empty().await;
    let old = open(&schema).await;
    let new = open_as(&schema, NEXT).await.unwrap();
    let first = put(&old, message("a")).await;
    let second = put(&new, message("b")).await;
    assert!(first < second);
    assert_eq!(old.accept(vec![message("b")]).await.unwrap(), [Accepted::Duplicate]);
    for store in [&old, &new] {
        store.ready().await.unwrap();
        assert_eq!(heads(store).await.len(), 2);
    }
    // Each delivers what the other one accepted.
    let held = lease(&old).await;
    let planned = plan(vec![delivery("one", Ok(request(1)))]);
    (&old as &dyn Store).freeze_one(&held, second, planned).await.unwrap();
    old.release(&held).await.unwrap();
    assert_eq!(new.open(second).await.unwrap().unwrap().requests.len(), 1);
    // A replica of the older version may still be started.
    open(&schema).await.close().await;
    assert_eq!(version(&schema).await, (2, 1));
}

#[tokio::test]
async fn a_schema_that_gave_up_what_an_older_version_uses_ends_it() {
    let schema = Schema::empty().await;
    let old = open(&schema).await;
    put(&old, message("a")).await;
    let new = open_as(&schema, AFTER_NEXT).await.unwrap();
    assert_eq!(version(&schema).await, (3, 2));
    assert_eq!(heads(&new).await.len(), 1);
    old.ready().await.unwrap_err();
    let refused = open_as(&schema, MIGRATIONS).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("run that version or a newer one"), "{refused}");
}

#[tokio::test]
async fn each_version_says_how_the_schema_is_and_changes_nothing() {
    use crate::store::Schema as State;
    let schema = Schema::empty().await;
    let state =
        async |migrations| schema_of(PostgresOptions { migrations, ..options(&schema.0) }).await;
    assert_eq!(state(MIGRATIONS).await.unwrap(), State::Missing);
    assert_eq!(state(MIGRATIONS).await.unwrap(), State::Missing);
    open(&schema).await.close().await;
    assert_eq!(state(MIGRATIONS).await.unwrap(), State::Current { version: 1 });
    assert_eq!(state(NEXT).await.unwrap(), State::Older { version: 1, current: 2 });
    assert_eq!(version(&schema).await, (1, 1));
    raw(&schema).await.batch("ALTER INDEX @messages_email RENAME TO elsewhere").await.unwrap();
    let refused = state(NEXT).await.unwrap_err();
    assert!(refused.to_string().contains("lacks messages_email"), "{refused}");
    raw(&schema).await.batch("ALTER INDEX @elsewhere RENAME TO messages_email").await.unwrap();
    open_as(&schema, NEXT).await.unwrap().close().await;
    assert_eq!(state(MIGRATIONS).await.unwrap(), State::Newer { version: 2, current: 1 });
    assert_eq!(state(AFTER_NEXT).await.unwrap(), State::Older { version: 2, current: 3 });
    open_as(&schema, AFTER_NEXT).await.unwrap().close().await;
    let refused = state(MIGRATIONS).await.unwrap_err();
    assert!(refused.to_string().contains("run that version or a newer one"), "{refused}");
}

#[tokio::test]
async fn the_schema_of_each_earlier_release_is_opened() {
    for count in 1..=MIGRATIONS.len() {
        let schema = Schema::empty().await;
        let earlier = open_as(&schema, &MIGRATIONS[..count]).await.unwrap();
        earlier.close().await;
        let store = open(&schema).await;
        put(&store, message("a")).await;
        assert_eq!(heads(&store).await.len(), 1, "{count}");
    }
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    const BROKEN: &[Migration] = &[
        NEXT[0],
        NEXT[1],
        Migration { sql: "ALTER TABLE @pending DROP COLUMN never_there;", usable_from: 2 },
    ];
    let schema = Schema::empty().await;
    let old = open(&schema).await;
    open_as(&schema, BROKEN).await.map(drop).unwrap_err();
    assert_eq!(version(&schema).await, (1, 1));
    put(&old, message("a")).await;
    old.ready().await.unwrap();
}

#[tokio::test]
async fn a_schema_to_which_an_earlier_version_moves_a_queue_is_left_to_it() {
    let schema = Schema::empty().await;
    open(&schema).await.close().await;
    raw(&schema).await.batch("INSERT INTO @moves (id, began_at) VALUES ('1', 1)").await.unwrap();
    let options = PostgresOptions { migrations: NEXT, ..options(&schema.0) };
    let looked = schema_of(options).await.unwrap_err();
    let refused = open_as(&schema, NEXT).await.map(drop).unwrap_err();
    for error in [looked, refused] {
        assert!(matches!(error, OpenError::BeingMoved { .. }), "{error:?}");
    }
    assert_eq!(version(&schema).await, (1, 1));
}
