//! Values that depend on the sender's language are read as the sender means them: PHP's empty arrays, ids beyond the
//! precision of a double, times in other formats than ISO 8601.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{EMAIL_DOMAIN, ScriptedLoops, Service, Setup, WRITE_KEY};

fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1").start()
}

#[tokio::test]
async fn an_empty_array_is_an_empty_object_where_one_belongs() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let body = r#"{"batch":[
        {"type":"identify","userId":"u1","messageId":"i","traits":[],"context":[],"integrations":[]},
        {"type":"track","userId":"u1","messageId":"t","event":"E","properties":[],"context":{"traits":[]}}
    ],"context":[],"integrations":[]}"#;
    service.accept("/v1/batch", body).await;
    let event = loop {
        let seen = loops.next().await;
        if seen.path.ends_with("/events/send") {
            break seen;
        }
    };
    assert_eq!(event.body["eventName"], "E");
    for id in ["i", "t"] {
        service.message(id, |found| found["state"] == "delivered").await;
    }
}

#[tokio::test]
async fn ids_that_differ_beyond_a_double_stay_two_people() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let message = |id: &str| {
        format!(
            r#"{{"type":"identify","userId":{id},"messageId":"m{id}","traits":{{"email":"{id}@{EMAIL_DOMAIN}"}}}}"#
        )
    };
    let ids = ["175928847299117063", "175928847299117064", "17"];
    service.accept("/v1/identify", message(ids[0])).await;
    service.accept("/v1/batch", format!(r#"{{"batch":[{}]}}"#, message(ids[1]))).await;
    let request = service.request(Method::POST, "/destination").basic_auth(WRITE_KEY, Some(""));
    assert_eq!(Service::answer(request.body(message(ids[2]))).await.status, 200);
    let mut seen = Vec::new();
    for _ in ids {
        seen.push(loops.next().await.body["userId"].as_str().unwrap().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["17", ids[0], ids[1]]);
    // A person is found by the whole id.
    let found = service.admin(&format!("/api/messages?userId={}", ids[0])).await;
    assert_eq!(found.body["messages"].as_array().unwrap().len(), 1, "{found:?}");
}

#[tokio::test]
async fn times_are_read_where_they_are_unambiguous_and_else_leave_a_warning() {
    let service = service();
    // (timestamp, as it is stored, if it can be read)
    let cases = [
        (json!(1_396_594_800), Some("2014-04-04T07:00:00.000Z")),
        (json!("1396594800"), Some("2014-04-04T07:00:00.000Z")),
        (json!(1_396_594_800_123_i64), Some("2014-04-04T07:00:00.123Z")),
        (json!("Wed, 01 May 2024 10:00:00 GMT"), Some("2024-05-01T10:00:00.000Z")),
        (json!("2024-05-01 10:00:00"), Some("2024-05-01T10:00:00.000Z")),
        (json!("01/02/2024"), None),
        (json!("soon"), None),
        (json!({"at": 1}), None),
    ];
    for (number, (timestamp, expected)) in cases.iter().enumerate() {
        let id = format!("m{number}");
        let message = json!({"type": "track", "event": "E", "userId": "u", "messageId": id, "timestamp": timestamp});
        service.accept("/v1/track", message).await;
        let stored = service.stored().await[&id][0].clone();
        let record = service.message(&id, |found| !found.is_null()).await;
        let warnings = record["warnings"].as_array().unwrap();
        match expected {
            Some(expected) => {
                assert_eq!(stored["timestamp"], *expected, "{timestamp}");
                assert!(warnings.is_empty(), "{record}");
            }
            None => {
                assert_eq!(stored["timestamp"], stored["receivedAt"], "{timestamp}");
                assert_eq!(warnings.len(), 1, "{record}");
                let text = warnings[0].as_str().unwrap();
                assert!(text.contains("`timestamp`") && text.contains("ISO 8601"), "{text}");
            }
        }
        assert_eq!(stored["originalTimestamp"], *timestamp);
    }
    // A timestamp that Segment has set is not interpreted again.
    let stamped = json!({"type": "track", "event": "E", "userId": "u", "messageId": "w", "timestamp": "soon", "receivedAt": "2024-05-01T10:00:00Z"});
    let request = service.request(Method::POST, "/destination").basic_auth(WRITE_KEY, Some(""));
    assert_eq!(Service::answer(request.body(stamped.to_string())).await.status, 200);
    let record = service.message("w", |found| !found.is_null()).await;
    assert_eq!(record["warnings"], Value::Array(Vec::new()));
}
