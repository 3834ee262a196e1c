//! Nobody is harmed by what is sent: nobody who was deleted is made again, nobody gets another's address.

use serde_json::json;

use crate::support::{ScriptedLoops, Setup};

#[tokio::test]
async fn a_deletion_is_the_last_request_of_its_message() {
    let mut loops = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let text = r#"
[[subscriptions]]
name = "Gone"
action = "deleteContact"
trigger = 'type = "track"'
[[subscriptions]]
name = "Contact"
action = "createOrUpdateContact"
trigger = 'type = "track"'
[[subscriptions]]
name = "Farewell"
action = "sendEvent"
trigger = 'type = "track"'
"#;
    std::fs::write(&file, text).unwrap();
    let service = Setup::with_loops(&loops.base_url)
        .env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap())
        .start();
    let event = json!({"userId": "u1", "event": "Account Deleted", "messageId": "m1"});
    service.accept("/v1/track", event).await;
    service.message("m1", |found| found["state"] == "delivered").await;
    let paths: Vec<String> = loops.rest().into_iter().map(|seen| seen.path).collect();
    // The update rides in the event, or goes before it.
    assert_eq!(paths.last().map(String::as_str), Some("/contacts/delete"), "{paths:?}");
    assert_eq!(paths.iter().filter(|path| *path == "/contacts/delete").count(), 1);
    assert!(paths.iter().any(|path| path == "/events/send"), "{paths:?}");
}
