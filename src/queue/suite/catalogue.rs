//! The catalogue of a team at Loops: kept by the holder of the lease, and seen by every process.

use super::*;
use crate::queue::{AuditAction, AuditEntry, StoredCatalogue};

fn catalogue(account: i64, ms: i64, record: &str) -> StoredCatalogue {
    StoredCatalogue { account, kept_at: at(ms), record: record.to_owned() }
}

pub(crate) async fn a_catalogue_is_kept_for_each_destination_and_seen_by_all(
    a: &dyn Store,
    b: &dyn Store,
) {
    assert_eq!(a.catalogue(DESTINATION, None).await.unwrap(), None);
    let held = lease(a).await;
    let first = catalogue(7, 0, r#"{"name":"é"}"#);
    a.keep_catalogue(&held, &first, None).await.unwrap();
    for store in [a, b] {
        assert_eq!(store.catalogue(DESTINATION, None).await.unwrap(), Some(first.clone()));
        assert_eq!(store.catalogue("other", None).await.unwrap(), None);
        assert_eq!(store.catalogue(DESTINATION, Some(at(0))).await.unwrap(), None, "it is known");
    }
    // Stored by a clock that was set back.
    let second = catalogue(8, -5, "{}");
    a.keep_catalogue(&held, &second, None).await.unwrap();
    assert_eq!(b.catalogue(DESTINATION, Some(at(0))).await.unwrap(), Some(second));
}

pub(crate) async fn only_the_holder_of_the_lease_keeps_a_catalogue(store: &dyn Store) {
    let held = lease(store).await;
    let entry = AuditEntry {
        at: at(0),
        role: "service".to_owned(),
        session: String::new(),
        process: "a-1".to_owned(),
        action: AuditAction::CreateProperty,
        arguments: "{}".to_owned(),
        result: "created".to_owned(),
    };
    let lost = Lease { token: held.token + 1, ..held.clone() };
    let refused = store.keep_catalogue(&lost, &catalogue(7, 0, "{}"), Some(&entry)).await;
    assert!(matches!(refused, Err(WorkError::Fenced)), "{refused:?}");
    assert_eq!(store.catalogue(DESTINATION, None).await.unwrap(), None);
    assert_eq!(store.audit_list(None, 10).await.unwrap(), []);
    store.keep_catalogue(&held, &catalogue(7, 0, "{}"), Some(&entry)).await.unwrap();
    let listed = store.audit_list(None, 10).await.unwrap();
    assert_eq!(listed.into_iter().map(|record| record.entry).collect::<Vec<_>>(), [entry]);
}
