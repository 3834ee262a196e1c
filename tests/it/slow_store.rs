//! A slow store: the sender is asked in time to retry, and a message that was stored nevertheless counts once.

use reqwest::Method;

use crate::support::{Service, Setup, WRITE_KEY, track};

async fn to_destination(service: &Service, id: &str) -> crate::support::Answer {
    let request = service.request(Method::POST, "/destination").basic_auth(WRITE_KEY, Some(""));
    Service::answer(request.body(track("u1", id).to_string())).await
}

#[tokio::test]
async fn a_sender_who_waits_too_long_is_told_to_retry_and_what_was_stored_counts_once() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1")
        .env("SEGMENT_LOOPS__SERVER__ACK_TIMEOUT_MS", "300")
        .start();
    // Another process holds a write transaction open.
    let other = service.database();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = service.post("/v1/track", track("u1", "m1")).await;
    assert_eq!((answer.status, &answer.headers["retry-after"]), (429, &"30".parse().unwrap()));
    assert_eq!(answer.body["code"], "not_now");
    let answer = to_destination(&service, "m2").await;
    assert_eq!((answer.status, &answer.headers["retry-after"]), (503, &"30".parse().unwrap()));
    assert_eq!(answer.body["code"], "not_now");
    other.execute_batch("ROLLBACK").unwrap();

    for id in ["m1", "m2"] {
        service.message(id, |found| !found.is_null()).await;
    }
    service.accept("/v1/track", track("u1", "m1")).await;
    assert_eq!(to_destination(&service, "m2").await.status, 200);
    for endpoint in ["/v1/track", "/destination"] {
        let is_taken = |line: &serde_json::Value| {
            line["message"] == "accepted" && line["endpoint"] == endpoint
        };
        let line = service.logged(is_taken).await;
        assert_eq!((&line["new"], &line["duplicate"]), (&0.into(), &1.into()), "{line}");
    }
    let stored = service.stored().await;
    assert_eq!((stored["m1"].len(), stored["m2"].len()), (1, 1));
}
