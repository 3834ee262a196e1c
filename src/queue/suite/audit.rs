//! The list of people's actions.

use super::*;
use crate::queue::{AuditAction, AuditEntry, AuditRecord};

fn entry(session: &str, ms: i64) -> AuditEntry {
    AuditEntry {
        at: at(ms),
        role: "admin".to_owned(),
        session: session.to_owned(),
        process: "a-1".to_owned(),
        action: AuditAction::Replay,
        arguments: r#"{"reason":"refused"}"#.to_owned(),
        result: "1 replayed".to_owned(),
    }
}

async fn sessions(store: &dyn Store, before: Option<i64>, limit: u32) -> Vec<String> {
    let found = store.audit_list(before, limit).await.unwrap();
    found.into_iter().map(|record| record.entry.session).collect()
}

pub(crate) async fn lists_what_people_did_newest_first(store: &dyn Store) {
    assert_eq!(store.audit_list(None, 10).await.unwrap(), []);
    let entries = [
        entry("one", 0),
        AuditEntry { action: AuditAction::Reload, ..entry("two", 1) },
        // Recorded by a clock that is behind.
        AuditEntry { action: AuditAction::ShowContents, ..entry("three", -5) },
    ];
    for entry in &entries {
        store.audit(entry).await.unwrap();
    }
    let found = store.audit_list(None, 10).await.unwrap();
    let expected: Vec<&AuditEntry> = entries.iter().rev().collect();
    assert_eq!(found.iter().map(|record| &record.entry).collect::<Vec<_>>(), expected);
    assert_eq!(sessions(store, None, 2).await, ["three", "two"]);
    assert_eq!(sessions(store, Some(found[1].id), 2).await, ["one"]);
    assert_eq!(sessions(store, Some(found[2].id), 2).await, [""; 0]);
}

pub(crate) async fn keeps_what_people_did_as_long_as_records(store: &dyn Store) {
    for (session, ms) in [("old", 0), ("new", 1)] {
        store.audit(&entry(session, ms)).await.unwrap();
    }
    let end = at(0) + LIMITS.records_retention;
    for (now, expected) in [
        (end - Duration::from_millis(1), &["new", "old"] as &[&str]),
        (end, &["new"]),
        (end + Duration::from_millis(1), &[]),
    ] {
        while store.purge(now).await.unwrap() > 0 {}
        assert_eq!(sessions(store, None, 10).await, expected, "{now}");
    }
    // The number of an entry that was removed is not used again.
    let last =
        || async { store.audit_list(None, 1).await.unwrap().first().map(|record| record.id) };
    store.audit(&entry("a", 2)).await.unwrap();
    let before = last().await;
    while store.purge(at(2) + LIMITS.records_retention).await.unwrap() > 0 {}
    store.audit(&entry("b", 3)).await.unwrap();
    assert!(last().await > before, "{before:?}");
    let AuditRecord { entry: kept, .. } = store.audit_list(None, 1).await.unwrap().remove(0);
    assert_eq!(kept, entry("b", 3));
}
