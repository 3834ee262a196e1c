//! Acknowledged messages are neither lost nor delivered twice, despite crashes, restarts and repetitions.

use serde_json::json;

use crate::support::{Reply, ScriptedLoops, Setup, identify, track};

#[tokio::test]
async fn killed_between_the_answer_and_the_delivery_it_delivers_once_after_the_restart() {
    // Nothing listens at this address, so accepted messages stay pending.
    let nowhere = Setup::with_loops("http://127.0.0.1:9/api/v1");
    let service = nowhere.start();
    let batch: Vec<_> = (0..50).map(|n| track(&format!("u{n}"), &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;

    let mut loops = ScriptedLoops::willing().await;
    let service = service.crash_and_restart(&Setup::with_loops(&loops.base_url));
    let mut notes = loops.notes(50).await;
    notes.sort();
    notes.dedup();
    assert_eq!(notes.len(), 50);
    for n in 0..50 {
        service.message(&format!("m{n}"), |found| found["state"] == "delivered").await;
    }
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn killed_while_loops_has_the_request_it_sends_exactly_the_same_again() {
    let mut loops = ScriptedLoops::start(|_| Reply::Silence).await;
    let setup = Setup::with_loops(&loops.base_url);
    loops.now(|seen| if seen.path == "/api-key" { Reply::ok() } else { Reply::Silence });
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let first = loops.next().await;

    loops.now(|_| Reply::ok());
    let service = service.crash_and_restart(&setup);
    let second = loops.next().await;
    assert_eq!(first.raw_body, second.raw_body);
    assert!(first.idempotency_key().is_some());
    assert_eq!(first.idempotency_key(), second.idempotency_key());
    service.message("m1", |found| found["state"] == "delivered").await;
}

#[tokio::test]
async fn a_retry_keeps_its_place_and_its_key_over_a_restart() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(500)).await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.accept("/v1/track", track("u1", "m2")).await;
    let first = loops.next().await;
    let service = service.stop_and_restart(&setup).await;
    loops.now(|_| Reply::ok());
    let mut last = loops.next().await;
    while last.note() == "m1" {
        assert_eq!(last.idempotency_key(), first.idempotency_key());
        assert_eq!(last.raw_body, first.raw_body);
        last = loops.next().await;
    }
    assert_eq!(last.note(), "m2");
    service.message("m1", |found| found["state"] == "delivered").await;
    service.message("m2", |found| found["state"] == "delivered").await;
}

#[tokio::test]
async fn the_same_message_id_is_kept_once() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.accept("/v1/track", track("u1", "m1")).await;
    let twice = json!({"batch": [track("u1", "m1"), track("u1", "m2"), track("u1", "m2")]});
    service.accept("/v1/batch", twice).await;
    service.accept("/v1/track", track("u1", "last")).await;
    assert_eq!(loops.notes(3).await, ["m1", "m2", "last"]);
    let metrics = service.admin("/metrics").await.body;
    let text = metrics.as_str().unwrap();
    assert!(
        text.contains(r#"segment_loops_messages_duplicate_total{source="default",type="track"} 3"#),
        "{text}"
    );
}

#[tokio::test]
async fn the_same_message_id_is_known_after_a_restart() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    assert_eq!(loops.next().await.note(), "m1");
    service.message("m1", |found| found["state"] == "delivered").await;
    let service = service.crash_and_restart(&setup);
    service.accept("/v1/track", track("u1", "m1")).await;
    service.accept("/v1/track", track("u1", "m2")).await;
    assert_eq!(loops.next().await.note(), "m2");
}

#[tokio::test]
async fn two_sources_may_use_one_message_id() {
    let mut loops = ScriptedLoops::willing().await;
    let config = r#"
        [sources.other]
        write_keys = ["other-key"]
    "#;
    let service = Setup::with_loops(&loops.base_url).config(config).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let mut other = track("u2", "m1");
    other["writeKey"] = json!("other-key");
    let request = service.request(reqwest::Method::POST, "/v1/track").body(other.to_string());
    assert_eq!(crate::support::Service::answer(request).await.status, 200);
    assert_eq!(loops.notes(2).await, ["m1", "m1"]);
    let both = service.admin("/api/messages/m1").await;
    assert_eq!(both.body["messages"].as_array().unwrap().len(), 2, "{both:?}");
}

#[tokio::test]
async fn a_second_process_on_the_same_database_waits_for_the_lease_and_takes_over() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let mut first = setup.start();
    first.logged(|line| line["message"] == "lease taken").await;
    let second = Setup::with_loops(&loops.base_url).data(first.data()).start();
    second
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.contains("holds the lease"))
        })
        .await;
    // Both processes accept messages, and the first delivers them all.
    second.accept("/v1/identify", identify("u1", "m1")).await;
    assert_eq!(loops.next().await.note(), "m1");
    assert_eq!(first.stop().await, Some(0));
    second.accept("/v1/identify", identify("u1", "m2")).await;
    assert_eq!(loops.next().await.note(), "m2");
}
