//! Contradictory records fail the message that they belong to, and no other.

use serde_json::{Value, json};

use crate::support::{Reply, ScriptedLoops, Service, Setup, track};

/// Asserts that the message failed, and that a log line names it.
async fn is_set_aside(service: &Service, id: &str) {
    let found = service.message(id, |found| found["state"] == "failed").await;
    let failed = &found["deliveries"][0];
    assert_eq!(failed["reason"], "unreadable", "{found}");
    assert!(failed["detail"].as_str().unwrap().contains("records are broken"), "{found}");
    service
        .logged(|line| {
            let text = line["message"].as_str().unwrap_or_default();
            line["level"] == "ERROR" && line["message_id"] == id && text.contains("are broken")
        })
        .await;
}

#[tokio::test]
async fn a_message_whose_records_are_broken_fails_and_the_next_of_its_lane_goes_out() {
    let cases = [
        "UPDATE requests SET state = 'failed', next_attempt_at = NULL",
        "UPDATE requests SET path = '/later', next_attempt_at = NULL",
        "UPDATE requests SET attempts = 'many', next_attempt_at = NULL",
        "UPDATE requests SET next_attempt_at = 'later'",
        "UPDATE deliveries SET request_id = NULL",
    ];
    for broken in cases {
        let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
            "/api-key" => Reply::ok(),
            _ => Reply::status(503).with_header("Retry-After", "500"),
        })
        .await;
        let setup = Setup::with_loops(&loops.base_url);
        let service = setup.start();
        service.accept("/v1/track", track("u1", "m1")).await;
        let is_tried =
            |found: &Value| found["deliveries"][0]["request"]["attempts"][0]["outcome"] == "retry";
        service.message("m1", is_tried).await;
        assert_eq!(loops.next().await.note(), "m1");
        service.alter(broken).await;
        loops.now(|_| Reply::ok());
        let service = service.stop_and_restart(&setup).await;
        service.accept("/v1/track", track("u1", "m2")).await;
        assert_eq!(loops.next().await.note(), "m2", "{broken}");
        is_set_aside(&service, "m1").await;
        service.message("m2", |found| found["state"] == "delivered").await;
        // A replay creates the records again.
        let replay = service.request(reqwest::Method::POST, "/api/replay");
        let replay = replay.bearer_auth(crate::support::ADMIN_TOKEN);
        let replay = replay.json(&json!({"reason": "unreadable"}));
        assert_eq!(Service::answer(replay).await.body["replayed"], 1);
        assert_eq!(loops.next().await.note(), "m1");
        service.message("m1", |found| found["state"] == "delivered").await;
    }
}

#[tokio::test]
async fn a_message_whose_person_cannot_be_read_stops_no_other() {
    for broken in ["UPDATE messages SET lane = NULL", "UPDATE messages SET lane = 'nobody'"] {
        let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
            "/api-key" => Reply::ok(),
            _ => Reply::status(503).with_header("Retry-After", "500"),
        })
        .await;
        let setup = Setup::with_loops(&loops.base_url);
        let service = setup.start();
        service.accept("/v1/track", track("u1", "m1")).await;
        assert_eq!(loops.next().await.note(), "m1");
        let mut service = service;
        assert_eq!(service.stop().await, Some(0));
        service.alter(broken).await;
        loops.now(|_| Reply::ok());
        let service = service.crash_and_restart(&setup);
        service.accept("/v1/track", track("u1", "m2")).await;
        assert_eq!(loops.next().await.note(), "m2", "{broken}");
        is_set_aside(&service, "m1").await;
        service.message("m2", |found| found["state"] == "delivered").await;
    }
}

#[tokio::test]
async fn an_outcome_that_can_never_be_recorded_is_not_tried_for_ever() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service
        .alter(
            "CREATE TRIGGER meddler AFTER INSERT ON attempts WHEN NEW.request_id = 1
             BEGIN UPDATE requests SET state = 'failed' WHERE id = 1; END",
        )
        .await;
    service.accept("/v1/track", track("u1", "m1")).await;
    service.accept("/v1/track", track("u1", "m2")).await;
    assert_eq!(loops.notes(2).await, ["m1", "m2"]);
    is_set_aside(&service, "m1").await;
    service.message("m2", |found| found["state"] == "delivered").await;
    assert!(loops.rest().is_empty(), "it is sent once");
    let lost = |line: &Value| line["message"] == "lease lost";
    assert!(!service.log().iter().any(lost));
}
