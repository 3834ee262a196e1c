//! The program keeps every whole message of a damaged batch, and rejects each broken piece at its index. It responds
//! 400 only if it can keep nothing.

use reqwest::Method;
use serde_json::{Value, json};

use crate::limits::gzip;
use crate::support::{Answer, Service, Setup, WEBHOOK_SECRET, WRITE_KEY, track};

/// Nothing listens at this address, so accepted messages stay pending.
fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1").start()
}

/// Every path that takes batches.
const PATHS: [&str; 6] =
    ["/v1/batch", "/v1/b", "/v1/import", "/v1", "/beacon/v1/batch", "//v1//batch/"];

async fn send(service: &Service, path: &str, body: &str) -> Answer {
    let request = service.request(Method::POST, path).basic_auth(WRITE_KEY, Some(""));
    Service::answer(request.body(body.to_owned())).await
}

/// The indices of the pieces that a response lists as rejected.
fn rejected(answer: &Answer) -> Vec<u64> {
    let list = answer.body["rejected"].as_array().cloned().unwrap_or_default();
    list.iter().map(|piece| piece["index"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn every_whole_message_of_a_damaged_batch_is_kept_once_on_every_path() {
    let service = service();
    let mut expected = Vec::new();
    for (number, path) in PATHS.iter().enumerate() {
        let mut ids = Vec::new();
        let mut message = || {
            let id = format!("{number}-{}", ids.len());
            let text = track("u1", &id).to_string();
            ids.push(id);
            text
        };
        let cut = r#"{"type":"track","userId":"u1","messageId":"cut","ev"#;
        // (body, indices of the rejected pieces)
        let bodies = [
            (format!(r#"{{"batch":[,{},{}]}}"#, message(), message()), vec![]),
            (format!(r#"{{"batch":[,,,{}]}}"#, message()), vec![]),
            (format!(r#"{{"batch":[{},,{}]}}"#, message(), message()), vec![]),
            (format!(r#"{{"batch":[{},{},]}}"#, message(), message()), vec![]),
            (format!(r#"{{"batch":[{} {}]}}"#, message(), message()), vec![]),
            (format!("{{\"batch\":[{}\0\0,{}]}}\0\0\0", message(), message()), vec![]),
            (
                format!(r#"{{"batch":[{}],"sentAt":"x"}}{{"batch":[{}]}}"#, message(), message()),
                vec![],
            ),
            (
                format!(
                    r#"{{"batch":[{}],"sentAt":"x"}},{}],"sentAt":"x"}}"#,
                    message(),
                    message()
                ),
                vec![],
            ),
            (format!(r#"{},{}],"sentAt":"x"}}"#, message(), message()), vec![]),
            (format!(r#"{{"batch":[{},{}"#, message(), message()), vec![]),
            (format!(r#"{{"batch":[{},{cut},{}]}}"#, message(), message()), vec![1]),
            (format!(r#"{{"batch":[{},{cut}"#, message()), vec![1]),
            (format!(r#"ck","userId":"u1"}},{}]}}"#, message()), vec![0]),
        ];
        for (body, indices) in bodies {
            let answer = send(&service, path, &body).await;
            assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
            assert_eq!(answer.body["success"], true, "{path} {body}: {answer:?}");
            assert_eq!(rejected(&answer), indices, "{path} {body}: {answer:?}");
        }
        expected.extend(ids);
    }
    let stored = service.stored().await;
    for id in &expected {
        assert_eq!(stored.get(id).map(Vec::len), Some(1), "{id}");
    }
    assert_eq!(stored.len(), expected.len());
}

#[tokio::test]
async fn gzip_that_was_joined_or_cut_off_loses_no_whole_message() {
    let service = service();
    let batch = |ids: std::ops::Range<u32>| {
        let messages: Vec<String> =
            ids.map(|n| track("u1", &format!("z{n}")).to_string()).collect();
        gzip(&format!(r#"{{"batch":[{}]}}"#, messages.join(",")))
    };
    let send = |body: Vec<u8>| {
        let request = service.request(Method::POST, "/v1/batch").basic_auth(WRITE_KEY, Some(""));
        Service::answer(request.header("content-encoding", "gzip").body(body))
    };
    let joined = [batch(0..1), batch(1..2)].concat();
    assert_eq!(send(joined).await.status, 200);
    let plain = format!(r#"{{"batch":[{}]}}"#, track("u1", "z2"));
    assert_eq!(send([batch(3..4), plain.into_bytes()].concat()).await.status, 200);
    let long = batch(10..1_000);
    let answer = send(long[..long.len() / 2].to_vec()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(rejected(&answer).len(), 1, "what was cut is rejected: {answer:?}");
    let stored = service.stored().await;
    assert!((0..4).all(|n| stored.contains_key(&format!("z{n}"))), "{:?}", stored.keys());
    assert!(stored.contains_key("z10") && stored.len() > 50, "{}", stored.len());
}

#[tokio::test]
async fn the_write_key_is_found_in_what_can_be_read() {
    let service = service();
    let keyed = |id: &str| {
        let mut message = track("u1", id);
        message["writeKey"] = json!(WRITE_KEY);
        message.to_string()
    };
    let bodies = [
        format!(r#"{{"writeKey":"{WRITE_KEY}","batch":[,{}]}}"#, track("u1", "k0")),
        format!(r#"{{"batch":[{{"type":"tr,{}],"writeKey":"{WRITE_KEY}"}}"#, track("u1", "k1")),
        format!(r#"{},{}],"writeKey":"{WRITE_KEY}"}}"#, track("u1", "k2"), track("u1", "k3")),
        format!(r#"{{"batch":[{{"type":"tr,{},"#, keyed("k4")),
    ];
    let post =
        |body: String| Service::answer(service.request(Method::POST, "/v1/batch").body(body));
    for body in &bodies {
        let answer = post(body.clone()).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
    }
    let stored = service.stored().await;
    assert!((0..5).all(|n| stored.contains_key(&format!("k{n}"))), "{:?}", stored.keys());
    let answer = post(format!(r#"{{"batch":[,{}]}}"#, track("u1", "x"))).await;
    assert_eq!(answer.status, 401, "{answer:?}");
}

#[tokio::test]
async fn a_body_of_which_nothing_can_be_kept_is_rejected_as_a_whole() {
    let service = service();
    let bodies = [
        "",
        "{}",
        "[]",
        "17",
        "null",
        "x",
        "{\"batch\":",
        "{\"batch\":1}",
        "{\"batch\":[{]}",
        "\0\0\0",
        "\"",
        r#"{"batch":[{"type":"track","userId":"u1","ev"#,
        r#"{"batch":[}"#,
        r#"{"type":"track"}"#,
    ];
    for body in bodies {
        let answer = send(&service, "/v1/batch", body).await;
        assert_eq!(answer.status, 400, "{body:?}: {answer:?}");
        assert_eq!(answer.body["code"], "bad_json", "{body:?}");
        assert!(answer.body["message"].as_str().unwrap().contains("batch"), "{answer:?}");
    }
    // An undamaged batch is accepted even if all its messages are rejected.
    for body in [r#"{"batch":[]}"#, r#"{"batch":[{"type":"unheard"},17]}"#] {
        let answer = send(&service, "/v1/batch", body).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
    }
    assert!(service.stored().await.is_empty());
}

#[tokio::test]
async fn what_one_envelope_shares_is_put_into_no_message_of_another() {
    let service = service();
    let context = |email: &str| json!({"traits": {"email": email}});
    let body = format!(
        r#"{{"context":{},"batch":[{}]}}{{"context":{},"batch":[,{}]}},{}],"context":{}}}"#,
        context("one@canary-mail.example"),
        track("u1", "one"),
        context("two@canary-mail.example"),
        track("u2", "two"),
        track("u3", "three"),
        context("x@canary-mail.example"),
    );
    assert_eq!(send(&service, "/v1/batch", &body).await.status, 200);
    let stored = service.stored().await;
    let email = |id: &str| stored[id][0]["context"]["traits"]["email"].clone();
    assert_eq!(email("one"), "one@canary-mail.example");
    assert_eq!(email("two"), "two@canary-mail.example");
    assert_eq!(email("three"), Value::Null);
}

#[tokio::test]
async fn nothing_is_guessed_of_a_signed_webhook() {
    let service = service();
    let message = track("u1", "w1").to_string();
    for body in [format!("[,{message}]"), format!("[{message},]"), format!("[{message}")] {
        let signature = crate::authentication::signature(WEBHOOK_SECRET, &body);
        let request = service.request(Method::POST, "/webhook/default");
        let request = request.header("x-signature", signature).body(body.clone());
        let answer = Service::answer(request).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    assert!(service.stored().await.is_empty());
}

#[tokio::test]
async fn hostile_bodies_are_answered_before_and_after_the_key_is_known() {
    let service = service();
    for unit in
        ["{", "[", "\"", ",", "{\"a\":[", "{\"batch\":[", "{\"type\":\"track\"},", "\"context\":{"]
    {
        let body = unit.repeat(10_000_000 / unit.len());
        let answer = send(&service, "/v1/batch", &body).await;
        assert!(matches!(answer.status, 400 | 413), "{unit}: {answer:?}");
        let request = service.request(Method::POST, "/v1/batch").body(body);
        let answer = Service::answer(request).await;
        assert!(matches!(answer.status, 400 | 401), "{unit}: {answer:?}");
        assert!(answer.body["message"].is_string(), "{unit}");
    }
    service.accept("/v1/track", track("u1", "sentinel")).await;
}
