//! The body sizes, clocks and request formats of real senders, with default settings.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::limits::gzip;
use crate::support::{Service, Setup, WRITE_KEY, identify, track};

/// Nothing listens at this address, so accepted messages stay pending.
fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1").start()
}

/// A batch of this many tracks, each padded to about `bytes` bytes.
fn batch(messages: usize, bytes: usize, name: &str) -> Value {
    let message = |number| {
        let mut message = track("u1", &format!("{name}-{number}"));
        message["properties"]["padding"] = json!("x".repeat(bytes - 100));
        message
    };
    json!({"batch": (0..messages).map(message).collect::<Vec<_>>()})
}

#[tokio::test]
async fn bodies_as_large_as_sdks_send_them_are_taken() {
    let service = service();
    // Measured with the SDKs: a batch of 1.5 MB and an event of 1 MB from Segment's for Node, an event of 615 KB from a
    // browser, 6.1 MB after inflating from RudderStack's for Python, which allows 8 MB.
    let plain = [batch(1_500, 1_000, "many"), batch(15, 100_000, "large")];
    for batch in plain {
        let text = batch.to_string();
        assert!(text.len() > 1_450_000, "{}", text.len());
        service.accept("/v1/batch", text).await;
    }
    for (path, bytes) in [("/v1/track", 1_000_000), ("/v1/t", 615_000)] {
        service.accept(path, &batch(1, bytes, path)["batch"][0]).await;
    }
    for (messages, bytes, name) in [(6_100, 1_000, "inflated"), (250, 32_000, "most")] {
        let text = batch(messages, bytes, name).to_string();
        assert!(text.len() > 6_000_000, "{}", text.len());
        let request = service.request(Method::POST, "/v1/batch").basic_auth(WRITE_KEY, Some(""));
        let request = request.header("content-encoding", "gzip").body(gzip(&text));
        let answer = Service::answer(request).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({"success": true})), "{name}");
    }
    let stored = service.stored().await;
    assert_eq!(stored.len(), 1_500 + 15 + 2 + 6_100 + 250);
    assert!(stored.values().all(|taken| taken.len() == 1));
    assert_eq!(stored["inflated-6099"][0]["properties"]["note"], "inflated-6099");
    let padding = stored["/v1/track-0"][0]["properties"]["padding"].as_str().unwrap();
    assert_eq!(padding.len(), 999_900);
}

/// A time of a stored message.
fn time(message: &Value, key: &str) -> Timestamp {
    message[key].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn wrong_clocks_are_corrected() {
    let service = service();
    // The sender's clock at the event, and 1.5 s later when the event was sent: far behind ours, far ahead, on the
    // other side of a leap day, in another zone.
    let clocks = [
        ("behind", "2001-09-09T01:46:40.000Z", "2001-09-09T01:46:41.500Z"),
        ("ahead", "2099-12-31T23:59:59.000Z", "2100-01-01T00:00:00.500Z"),
        ("leap", "2024-02-29T23:59:59.500Z", "2024-03-01T00:00:01.000Z"),
        ("zone", "2020-06-01T12:00:00+02:00", "2020-06-01T10:00:01.500Z"),
    ];
    for (id, happened, sent) in clocks {
        let mut message = track("u1", id);
        message["timestamp"] = json!(happened);
        service.accept("/v1/batch", json!({"batch": [message], "sentAt": sent})).await;
        message["messageId"] = json!(format!("{id}-alone"));
        message["sentAt"] = json!(sent);
        service.accept("/v1/track", message).await;
    }
    let stored = service.stored().await;
    for (id, happened, sent) in clocks {
        for id in [id.to_owned(), format!("{id}-alone")] {
            let message = &stored[&id][0];
            assert_eq!(message["originalTimestamp"], happened, "{id}");
            assert_eq!(message["sentAt"], sent, "{id}");
            let age = time(message, "receivedAt").duration_since(time(message, "timestamp"));
            assert_eq!(age.as_millis(), 1_500, "{id}");
        }
    }
    // No time at all, and a text that is not a time.
    for (id, timestamp) in [("none", Value::Null), ("odd", json!("yesterday"))] {
        let mut message = track("u1", id);
        message["timestamp"] = timestamp;
        service.accept("/v1/track", message).await;
        let message = service.stored().await[id][0].clone();
        assert_eq!(message["timestamp"], message["receivedAt"], "{id}");
    }
}

#[tokio::test]
async fn what_stands_beside_a_batch_counts_for_each_message_that_says_nothing_else() {
    let service = service();
    let library = json!({"name": "analytics-go", "version": "3.3.0"});
    let mut own = track("u1", "own");
    own["context"] = json!({"ip": "192.0.2.1", "library": {"name": "own"}, "traits": {"a": 1}});
    own["integrations"] = json!({"All": true, "Loops": true});
    own["sentAt"] = json!("2001-09-09T01:46:00.000Z");
    own["timestamp"] = json!("2026-01-02T03:04:05.000Z");
    let mut empty = track("u1", "empty");
    empty["context"] = Value::Null;
    let batch = json!({
        "batch": [track("u1", "none"), own, empty],
        "context": {"library": library, "app": {"name": "Shop"}},
        "integrations": {"Loops": false, "Other": false},
        "sentAt": "2026-01-02T03:04:08.250Z",
    });
    service.accept("/v1/batch", batch).await;
    let stored = service.stored().await;
    let shared = json!({"library": library, "app": {"name": "Shop"}});
    assert_eq!(stored["none"][0]["context"], shared);
    assert_eq!(stored["empty"][0]["context"], shared);
    assert_eq!(stored["none"][0]["integrations"], json!({"Loops": false, "Other": false}));
    let own = &stored["own"][0];
    let merged = json!({
        "ip": "192.0.2.1", "library": {"name": "own"}, "traits": {"a": 1}, "app": {"name": "Shop"}
    });
    assert_eq!(own["context"], merged);
    assert_eq!(own["integrations"], json!({"All": true, "Loops": true, "Other": false}));
    // If both the batch and the message have `sentAt`, the batch's belongs to this request.
    assert_eq!(own["sentAt"], "2026-01-02T03:04:08.250Z");
    assert_eq!(own["originalTimestamp"], "2026-01-02T03:04:05.000Z");
    let age = time(own, "receivedAt").duration_since(time(own, "timestamp"));
    assert_eq!(age.as_millis(), 3_250);
    // Nothing is sent for the message for which the batch turns Loops off.
    service.message("none", |found| found["state"] == "unmatched").await;
    assert_eq!(service.message("own", |found| !found.is_null()).await["state"], "pending");
}

#[tokio::test]
async fn imports_are_bulk_unless_their_source_says_otherwise_and_all_else_is_live() {
    let config = "[sources.ruby]\nwrite_keys = ['ruby']\nimport_is_bulk = false\n";
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").config(config).start();
    let live = service.request(Method::POST, "/v1/import").basic_auth("ruby", Some(""));
    let live = live.body(json!({"batch": [identify("u1", "live")]}).to_string());
    assert_eq!(Service::answer(live).await.status, 200);
    let of = |id: &str| json!({"batch": [identify("u1", id)]});
    service.accept("/v1/import", of("import")).await;
    service.accept("/v1/import/", of("import-slash")).await;
    service.accept("/v1/batch", of("batch")).await;
    service.accept("/v1/b", of("b")).await;
    service.accept("/v1/identify", identify("u1", "identify")).await;
    service.accept("/destination", identify("u1", "destination")).await;
    let database = service.database();
    let mut bulk =
        database.prepare("SELECT message_id FROM messages WHERE class = 2 ORDER BY seq").unwrap();
    let bulk: Result<Vec<String>, _> = bulk.query_map([], |row| row.get(0)).unwrap().collect();
    let bulk = bulk.unwrap();
    assert_eq!(bulk, ["import", "import-slash"]);
    assert_eq!(service.stored().await.len(), 7);
}

#[tokio::test]
async fn batches_of_the_form_that_other_sdks_send_are_taken() {
    let service = service();
    let batch = |id: &str| json!([track("u1", id)]).to_string();
    let after = format!(r#"],"sentAt":"2026-01-02T03:04:05.678Z","writeKey":"{WRITE_KEY}"}}"#);
    // From the source code of the versions that docs/sources.md lists: the path, whether the key is sent by Basic
    // authentication, the body, and whether it is compressed.
    let cases = [
        (
            "go",
            "/v1/batch",
            true,
            format!(
                r#"{{"messageId":"1","sentAt":"2026-01-02T03:04:05Z","batch":{},"context":{{"library":{{"name":"analytics-go"}}}}}}"#,
                batch("go")
            ),
            false,
        ),
        // Its `Endpoint` ends with a slash.
        ("go-slash", "//v1/batch", true, format!(r#"{{"batch":{}}}"#, batch("go-slash")), false),
        (
            "ruby",
            "/v1/import",
            true,
            format!(r#"{{"sentAt":"2026-01-02T03:04:05.000Z","batch":{}}}"#, batch("ruby")),
            false,
        ),
        (
            "java",
            "/v1/import/",
            true,
            format!(
                r#"{{"batch":{},"sentAt":"2026-01-02T03:04:05.000Z","context":{{}},"sequence":1,"writeKey":"{WRITE_KEY}"}}"#,
                batch("java")
            ),
            false,
        ),
        (
            "php",
            "/v1/batch",
            true,
            format!(r#"{{"batch":{},"sentAt":"2026-01-02T03:04:05+00:00"}}"#, batch("php")),
            true,
        ),
        (
            "net",
            "/v1/import",
            true,
            format!(
                r#"{{"messageId":"2","sentAt":"2026-01-02T03:04:05.0000000Z","batch":{}}}"#,
                batch("net")
            ),
            true,
        ),
        (
            "react-native",
            "/v1/b",
            false,
            format!(r#"{{"batch":{}{after}"#, batch("react-native").trim_end_matches(']')),
            false,
        ),
        // It uses `proxy` unchanged if `useSegmentEndpoints` is not set; 2.20.4 adds a slash.
        (
            "react-native-proxy",
            "/v1",
            false,
            format!(r#"{{"batch":{}{after}"#, batch("react-native-proxy").trim_end_matches(']')),
            false,
        ),
        (
            "react-native-2.20.4",
            "/v1/",
            false,
            format!(r#"{{"batch":{}{after}"#, batch("react-native-2.20.4").trim_end_matches(']')),
            false,
        ),
        (
            "swift",
            "/v1/b",
            false,
            format!("{{ \"batch\": [\n{}\n{after}", track("u1", "swift")),
            false,
        ),
        ("kotlin", "/v1/b", false, format!(r#"{{"batch":[{}{after}"#, track("u1", "kotlin")), true),
        ("csharp", "/v1/b", false, format!(r#"{{"batch":[{}{after}"#, track("u1", "csharp")), true),
    ];
    for (sdk, path, is_basic, body, is_compressed) in &cases {
        let request = service.request(Method::POST, path).header("content-type", "text/plain");
        let request = if *is_basic { request.basic_auth(WRITE_KEY, Some("")) } else { request };
        let request = if *is_compressed {
            request.header("content-encoding", "gzip").body(gzip(body))
        } else {
            request.body(body.clone())
        };
        let answer = Service::answer(request).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({"success": true})), "{sdk}");
    }
    let stored = service.stored().await;
    for (sdk, ..) in cases {
        assert_eq!(stored[sdk][0]["properties"]["note"], sdk);
    }
}
