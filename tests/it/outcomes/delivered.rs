//! Responses that settle a delivery at once, and what a success must say.

use serde_json::json;

use super::{attempts, outcome};
use crate::support::{PATIENCE, Reply, ScriptedLoops, Seen, track};

#[tokio::test]
async fn a_2xx_that_says_success_is_delivered() {
    for status in [200, 201] {
        let (message, seen) = outcome(track("u1", "m1"), Reply::status(status), &[]).await;
        assert_eq!(message["state"], "delivered");
        assert_eq!(attempts(&message), [(u64::from(status), "delivered".to_owned())]);
        assert_eq!(seen.len(), 1);
    }
}

#[tokio::test]
async fn a_2xx_that_says_no_success_fails_with_the_words_of_loops() {
    let body = r#"{"success":false,"message":"The contact is suppressed."}"#;
    let reply = Reply::Status(200, Vec::new(), body.to_owned());
    let (message, seen) = outcome(track("u1", "m1"), reply, &[]).await;
    let delivery = &message["deliveries"][0];
    assert_eq!((&message["state"], &delivery["reason"]), (&json!("failed"), &json!("refused")));
    assert_eq!(delivery["detail"], "Loops answered 200: The contact is suppressed.");
    assert_eq!(delivery["request"]["attempts"][0]["answer"], body);
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_409_on_an_idempotency_key_means_delivered_before() {
    let (message, seen) = outcome(track("u1", "m1"), Reply::status(409), &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(409, "delivered_before".to_owned())]);
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_409_that_is_a_page_of_a_proxy_delivers_nothing() {
    let page = Reply::status(409).with_body("<html>409 Conflict</html>");
    let (message, seen) = outcome(track("u1", "m1"), page, &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(409, "retry".to_owned()), (200, "delivered".to_owned())]);
    let sent: Vec<&Seen> = seen.iter().filter(|seen| seen.path != "/api-key").collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].idempotency_key(), sent[1].idempotency_key());
}

#[tokio::test]
async fn a_404_on_a_delete_means_that_nothing_is_left_to_delete() {
    let delete = json!({"type": "delete", "userId": "u1", "messageId": "m1"});
    let (message, seen) = outcome(delete, Reply::status(404), &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(404, "nothing_to_delete".to_owned())]);
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn redirects_are_not_followed_with_the_key() {
    let mut elsewhere = ScriptedLoops::willing().await;
    let reply =
        Reply::status(307).with_header("location", format!("{}/events/send", elsewhere.base_url));
    let (message, seen) = outcome(track("u1", "m1"), reply, &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(seen.len(), 2);
    assert!(elsewhere.rest().is_empty());
}

#[tokio::test]
async fn odd_answers_are_taken_for_what_their_status_says() {
    let long = Reply::ok().with_body(&format!(r#"{{"success":true,"x":"{}"}}"#, "x".repeat(9_000)));
    let absurd = Reply::ok()
        .with_header("x-ratelimit-limit", "-7")
        .with_header("x-ratelimit-remaining", "99999999999999999999");
    for reply in [long, absurd] {
        let (message, seen) =
            tokio::time::timeout(PATIENCE, outcome(track("u1", "m1"), reply, &[])).await.unwrap();
        assert_eq!(message["state"], "delivered");
        assert_eq!(seen.len(), 1);
    }
}
