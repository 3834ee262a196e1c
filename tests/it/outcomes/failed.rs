//! Messages that fail, expire or are not sent at all.

use serde_json::{Value, json};

use super::{after_first, attempts, is_paused, is_tried, outcome};
use crate::support::{Reply, ScriptedLoops, Seen, Setup, identify, track};

#[tokio::test]
async fn any_other_4xx_fails_with_the_words_of_loops() {
    for status in [400, 404, 405, 422] {
        let (message, seen) = outcome(identify("u1", "m1"), Reply::status(status), &[]).await;
        assert_eq!(message["state"], "failed");
        let delivery = &message["deliveries"][0];
        assert_eq!(delivery["reason"], "refused");
        assert_eq!(delivery["detail"], format!("Loops answered {status}: scripted {status}"));
        assert_eq!(seen.len(), 1);
    }
}

#[tokio::test]
async fn a_4xx_that_is_not_in_the_words_of_loops_is_a_refusal_only_if_the_key_is_right() {
    // A page is final only if other requests succeed in the meantime, because a proxy may temporarily not reach Loops.
    let mut loops = ScriptedLoops::start(|seen| match &seen.body["userId"] {
        user if user == "u1" => Reply::Status(413, Vec::new(), "<html>".to_owned()),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    let is_failed = |found: &Value| found["state"] == "failed";
    service.message("m1", is_tried).await;
    let mut others = 0;
    while !is_failed(&service.message("m1", |_| true).await) {
        others += 1;
        let id = format!("other-{others}");
        service.accept("/v1/identify", identify("u2", &id)).await;
        service.message(&id, |found| found["state"] == "delivered").await;
    }
    let message = service.message("m1", is_failed).await;
    let detail = message["deliveries"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("Loops answered 413: no message; several times"), "{detail}");
    assert!(attempts(&message).len() > 3);
    assert!(!loops.rest().is_empty());

    // A single page neither fails a message nor counts as a deletion.
    let page = Reply::Status(404, Vec::new(), "<html>".to_owned());
    let (message, seen) = outcome(identify("u1", "m1"), page, &[]).await;
    assert_eq!((&message["state"], seen.len()), (&json!("delivered"), 2));

    // A web app that serves its page at every path, and accepts no forms.
    for status in [405, 400] {
        let loops = ScriptedLoops::start(move |seen| {
            let status = if seen.path == "/api-key" { 200 } else { status };
            Reply::Status(status, Vec::new(), "<html>".to_owned())
        })
        .await;
        let service = Setup::with_loops(&loops.base_url).start();
        service.accept("/v1/identify", identify("u1", "m1")).await;
        service
            .logged(|line| {
                line["message"].as_str().is_some_and(|text| text.contains("there is no Loops"))
            })
            .await;
        assert!(is_paused(&service).await);
        assert_eq!(service.message("m1", is_tried).await["state"], "pending");
        loops.now(|_| Reply::ok());
        service.message("m1", |found| found["state"] == "delivered").await;
    }
}

#[tokio::test]
async fn a_failure_does_not_hold_back_what_comes_after_it() {
    let mut loops = ScriptedLoops::start(after_first(Reply::status(400))).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/batch", json!({"batch": [track("u1", "m1"), track("u1", "m2")]})).await;
    assert_eq!(loops.notes(2).await, ["m1", "m2"]);
    service.message("m1", |found| found["state"] == "failed").await;
    service.message("m2", |found| found["state"] == "delivered").await;
}

#[tokio::test]
async fn a_message_that_cannot_be_mapped_fails_without_a_request() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    // An event must have a name.
    let nameless = json!({"userId": "u1", "messageId": "m1", "properties": {}});
    service.accept("/v1/track", nameless).await;
    let message = service.message("m1", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "invalid");
    assert!(
        message["deliveries"][0]["detail"].as_str().unwrap().contains("eventName"),
        "{message}"
    );
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn a_message_that_no_subscription_takes_is_unmatched() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/page", json!({"userId": "u1", "messageId": "m1"})).await;
    let message = service.message("m1", |found| found["state"] == "unmatched").await;
    assert!(!message["reason"].as_str().unwrap().is_empty());
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn a_request_that_fails_for_longer_than_the_window_expires() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(500)).await;
    loops.now(|seen| if seen.note() == "m1" { Reply::status(500) } else { Reply::ok() });
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_WINDOW_MS", "300")
        .env("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__MERGE", "false")
        .start();
    // Upserts: an event whose retry is late is not sent, because Loops may have forgotten its key.
    let messages = [identify("u1", "m1"), identify("u1", "m2")];
    service.accept("/v1/batch", json!({"batch": messages})).await;
    let message = service.message("m1", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "expired");
    let detail = message["deliveries"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("gave up after") && detail.contains("300 ms"), "{detail}");
    assert!(detail.contains("the last answer was 500"), "{detail}");
    assert!(attempts(&message).len() >= 2, "{message}");
    assert!(loops.notes(attempts(&message).len()).await.iter().all(|note| note == "m1"));
    // The message behind it is delivered.
    assert_eq!(loops.next().await.note(), "m2");
}

#[tokio::test]
async fn a_request_that_is_too_old_when_its_turn_comes_is_not_sent() {
    // The key is accepted by the check at the start, and refused after that.
    let mut checks = 0;
    let script = move |seen: &Seen| {
        checks += u32::from(seen.path == "/api-key");
        Reply::status(if seen.path == "/api-key" && checks == 1 { 200 } else { 401 })
    };
    let mut loops = ScriptedLoops::start(script).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let text = "[[subscriptions]]\nname = 'Welcome'\naction = 'sendEvent'\nevents = ['*']\nmax_age_s = 3600\n";
    std::fs::write(&file, text).unwrap();
    let service = Setup::with_loops(&loops.base_url)
        .env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap())
        .start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", is_tried).await;
    // Simulates that the key was corrected an hour later.
    service.alter("UPDATE requests SET expires_at = 1").await;
    service.accept("/v1/track", track("u2", "m2")).await;
    loops.rest();
    loops.now(|_| Reply::ok());
    let message = service.message("m1", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "expired");
    assert!(message["deliveries"][0]["detail"].as_str().unwrap().contains("max_age_s"));
    service.message("m2", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().iter().map(Seen::note).collect::<Vec<_>>(), ["m2"]);
}

#[tokio::test]
async fn an_event_that_loops_would_not_know_again_is_not_repeated() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let setup = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS", "60000")
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "60000");
    let service = setup.start();
    service.accept("/v1/track", track("u1", "event")).await;
    service.accept("/v1/identify", identify("u2", "upsert")).await;
    service.message("event", is_tried).await;
    service.message("upsert", is_tried).await;
    loops.rest();
    loops.now(|_| Reply::ok());
    // Simulates that the program was stopped for longer than Loops keeps keys.
    let past =
        "UPDATE requests SET first_attempt_at = first_attempt_at - 90000000, next_attempt_at = 1";
    service.alter(past).await;
    let service = service.crash_and_restart(&setup);
    let message = service.message("event", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "expired");
    assert_eq!(attempts(&message).len(), 1);
    // An upsert can be repeated without harm, so it is tried again.
    service.message("upsert", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().iter().map(Seen::note).collect::<Vec<_>>(), ["upsert"]);
}
