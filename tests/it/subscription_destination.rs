//! Requests of Segment's subscription destination (Developer Center), and the responses that its contract requires.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{Answer, EMAIL_DOMAIN, ScriptedLoops, Service, Setup, WRITE_KEY, track};

/// A request as Segment's documentation shows it.
fn post(service: &Service, body: &Value) -> RequestBuilder {
    service
        .request(Method::POST, "/destination")
        .basic_auth(WRITE_KEY, Some(""))
        .header("accept", "*/*")
        .header("cache-control", "no-cache")
        .header("content-type", "application/json")
        .header("user-agent", "Segment.io/1.0")
        .body(body.to_string())
}

fn assert_refused(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(answer.body["message"].as_str().is_some_and(|text| text.len() > 10), "{answer:?}");
}

#[tokio::test]
async fn the_casing_of_fields_may_vary() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let email = format!("ada@{EMAIL_DOMAIN}");
    let traits = json!({"email": email, "UserId": "theirs", "Plan": "pro"});
    let messages = [
        json!({"Type": "identify", "UserID": "u1", "MessageID": "m1", "Traits": traits}),
        json!({"TYPE": "identify", "USERID": "u1", "MESSAGEID": "m2", "TRAITS": traits}),
        json!({"type": "identify", "user_id": "u1", "message_id": "m3", "traits": traits}),
        json!({"type": "identify", "userId": "u1", "messageId": "m4", "traits": traits, "userid": 5}),
    ];
    for (message, id) in messages.iter().zip(["m1", "m2", "m3", "m4"]) {
        let answer = Service::answer(post(&service, message)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = loops.next().await;
        assert_eq!((&seen.body["userId"], &seen.body["email"]), (&json!("u1"), &json!(email)));
        // Keys in the traits belong to the customer and keep their case.
        assert_eq!((&seen.body["UserId"], &seen.body["Plan"]), (&json!("theirs"), &json!("pro")));
        let stored = &service.stored().await[id];
        assert_eq!(stored.len(), 1, "{id}");
        assert_eq!(stored[0]["userId"], "u1");
    }
    let page = json!({"Type": "page", "UserId": "u1", "MessageId": "m5"});
    assert_refused(&Service::answer(post(&service, &page)).await, 501);
}

#[tokio::test]
async fn settings_that_segment_sends_change_nothing() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let settings = [
        STANDARD.encode(r#"{"customSetting": "value", "APIKEY": "another"}"#),
        STANDARD.encode("no JSON"),
        "!!! no base64".to_owned(),
        String::new(),
        "x".repeat(20_000),
    ];
    for (number, text) in settings.iter().enumerate() {
        let id = format!("m{number}");
        let request = post(&service, &track("u1", &id)).header("x-segment-settings", text);
        assert_eq!(Service::answer(request).await.status, 200, "{text}");
        assert_eq!(loops.next().await.note(), id);
    }
}

#[tokio::test]
async fn every_error_has_a_status_of_the_contract_and_a_message() {
    let loops = ScriptedLoops::willing().await;
    let config = r#"
        [sources.page]
        browser = true
        write_keys = ["page"]
    "#;
    let service = Setup::with_loops(&loops.base_url).config(config).start();
    let good = track("u1", "m1");
    let without_key = service.request(Method::POST, "/destination").body(good.to_string());
    assert_refused(&Service::answer(without_key).await, 401);
    let wrong = service.request(Method::POST, "/destination").body(good.to_string());
    assert_refused(&Service::answer(wrong.basic_auth("wrong", Some(""))).await, 401);
    let malformed = [
        json!([]),
        json!([good]),
        json!("text"),
        json!(null),
        json!({}),
        json!({"type": "track", "event": "Nobody"}),
        json!({"type": "unheard", "userId": "u1"}),
        json!({"type": 5, "userId": "u1"}),
    ];
    for body in malformed {
        assert_refused(&Service::answer(post(&service, &body)).await, 400);
    }
    for kind in ["page", "screen", "group", "alias"] {
        let message = json!({"type": kind, "userId": "u1", "messageId": kind});
        assert_refused(&Service::answer(post(&service, &message)).await, 501);
    }
    let delete = json!({"type": "delete", "userId": "u1", "messageId": "d"}).to_string();
    let public = service.request(Method::POST, "/destination").basic_auth("page", Some(""));
    assert_refused(&Service::answer(public.body(delete)).await, 403);
    assert!(service.stored().await.is_empty());
}
