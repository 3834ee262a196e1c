//! Requests with one order key reach Loops in the order of acceptance. A waiting request holds back its own lane and no
//! other.

use serde_json::json;

use crate::support::{Reply, ScriptedLoops, Setup, identify, track};

#[tokio::test]
async fn an_identify_and_a_track_become_an_upsert_and_an_event() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service
        .accept(
            "/v1/identify",
            json!({"userId": "u1", "messageId": "m1",
            "traits": {"email": "u1@canary-mail.example", "plan": "pro", "nested": {"a": 1}}}),
        )
        .await;
    service
        .accept(
            "/v1/track",
            json!({"userId": "u1", "messageId": "m2", "event": "Signed Up",
            "properties": {"plan": "pro"}}),
        )
        .await;

    let upsert = loops.next().await;
    assert_eq!((upsert.method.as_str(), upsert.path.as_str()), ("PUT", "/contacts/update"));
    assert_eq!(
        upsert.body,
        json!({"email": "u1@canary-mail.example", "plan": "pro", "source": "Segment",
            "userId": "u1", "mailingLists": {}})
    );
    assert_eq!(upsert.idempotency_key(), None);
    let event = loops.next().await;
    assert_eq!((event.method.as_str(), event.path.as_str()), ("POST", "/events/send"));
    assert_eq!(
        event.body,
        json!({"eventName": "Signed Up", "userId": "u1", "eventProperties": {"plan": "pro"}})
    );
    assert!(event.idempotency_key().is_some());
    for seen in [&upsert, &event] {
        assert_eq!(seen.headers["authorization"], "Bearer api-canary-91bc");
        assert_eq!(seen.headers["content-type"], "application/json");
        assert!(seen.headers["user-agent"].to_str().unwrap().starts_with("segment-loops/"));
    }
}

#[tokio::test]
async fn a_delete_reaches_loops_with_the_user_id_as_a_string() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let delete = json!({"batch": [{"type": "delete", "userId": "u1", "messageId": "m1"}]});
    service.accept("/v1/batch", delete).await;
    let seen = loops.next().await;
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/contacts/delete"));
    assert_eq!(seen.body, json!({"userId": "u1"}));
}

#[tokio::test]
async fn each_person_is_served_in_order_while_many_are_served_at_once() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let mut batch = Vec::new();
    for step in 0..20 {
        for person in 0..10 {
            batch.push(identify(&format!("p{person}"), &format!("p{person}-{step:02}")));
        }
    }
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let notes = loops.notes(200).await;
    for person in 0..10 {
        let prefix = format!("p{person}-");
        let own: Vec<&String> = notes.iter().filter(|note| note.starts_with(&prefix)).collect();
        let expected: Vec<String> = (0..20).map(|step| format!("{prefix}{step:02}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_request_that_waits_for_its_retry_holds_back_its_own_lane_alone() {
    // All requests of "slow" fail until the script changes.
    let refuse = |seen: &crate::support::Seen| {
        if seen.note().starts_with("slow") { Reply::status(503) } else { Reply::ok() }
    };
    let mut loops = ScriptedLoops::start(refuse).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let batch = [
        track("slow", "slow-1"),
        track("slow", "slow-2"),
        track("fast", "fast-1"),
        track("fast", "fast-2"),
    ];
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let mut fast = Vec::new();
    while fast.len() < 2 {
        let note = loops.next().await.note();
        assert_ne!(note, "slow-2", "it overtook the one before it");
        if note.starts_with("fast") {
            fast.push(note);
        }
    }
    assert_eq!(fast, ["fast-1", "fast-2"]);

    loops.now(|_| Reply::ok());
    let mut slow: Vec<String> = Vec::new();
    while slow.last().map(String::as_str) != Some("slow-2") {
        slow.push(loops.next().await.note());
    }
    assert!(slow[..slow.len() - 1].iter().all(|note| note == "slow-1"), "{slow:?}");
    assert!(slow.len() >= 2, "slow-1 was given up: {slow:?}");
}

#[tokio::test]
async fn integrations_that_turn_loops_off_are_honoured() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let mut off = track("u1", "off");
    off["integrations"] = json!({"All": false});
    let mut on = track("u1", "on");
    on["integrations"] = json!({"All": false, "Loops (Actions)": true});
    service.accept("/v1/batch", json!({"batch": [off, on]})).await;
    assert_eq!(loops.next().await.note(), "on");
    let message = service.message("off", |found| found["state"] == "unmatched").await;
    assert!(message["reason"].as_str().unwrap().contains("integrations"), "{message}");
}
