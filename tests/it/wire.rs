//! Recorded requests of real SDKs and of Segment's webhook destination, byte for byte: every message is accepted once.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Map, Value};

use crate::support::{Answer, Service, Setup};

const FIXTURES: [(&str, &str); 9] = [
    ("analytics-next", include_str!("../wire/analytics-next-1.84.3.json")),
    ("analytics-node", include_str!("../wire/analytics-node-3.1.0.json")),
    ("analytics-node-legacy", include_str!("../wire/analytics-node-legacy-6.2.0.json")),
    ("analytics-python", include_str!("../wire/analytics-python-1.4.post1.json")),
    ("odd-contents", include_str!("../wire/odd-contents.json")),
    ("older-versions", include_str!("../wire/older-versions.json")),
    ("rudder-node", include_str!("../wire/rudder-sdk-node-3.0.13.json")),
    ("rudder-python", include_str!("../wire/rudder-sdk-python-2.1.9.json")),
    ("segment-python", include_str!("../wire/segment-analytics-python-2.4.0.json")),
];

const WEBHOOKS: &str = include_str!("../wire/webhook.json");

/// The service with the keys of the recordings.
fn service() -> Service {
    let config = r#"
        [sources.recorded]
        write_keys = ["wk_0123456789abcdef", "k"]
        webhook_secret = "wire-fixture-secret"
    "#;
    // Nothing listens at this address, so accepted messages stay pending and keep their contents.
    Setup::with_loops("http://127.0.0.1:9/api/v1").config(config).start()
}

fn requests(fixture: &str) -> Vec<Value> {
    let fixture: Value = serde_json::from_str(fixture).unwrap();
    fixture["requests"].as_array().unwrap().clone()
}

/// Sends a recorded request with its headers and bytes, to `path` instead of its own if given.
async fn replay(service: &Service, recorded: &Value, path: Option<&str>) -> Answer {
    let method = Method::from_bytes(recorded["method"].as_str().unwrap().as_bytes()).unwrap();
    let path = path.unwrap_or_else(|| recorded["path"].as_str().unwrap());
    let mut request = service.request(method, path);
    for header in recorded["headers"].as_array().unwrap() {
        request = request.header(header[0].as_str().unwrap(), header[1].as_str().unwrap());
    }
    let body = match (recorded["bodyBase64"].as_str(), recorded["body"].as_str()) {
        (Some(encoded), _) => STANDARD.decode(encoded).unwrap(),
        (None, Some(text)) => text.as_bytes().to_vec(),
        (None, None) => Vec::new(),
    };
    Service::answer(request.body(body)).await
}

#[tokio::test]
async fn every_message_of_every_sdk_is_taken_once_and_as_it_was_sent() {
    let service = service();
    let mut ids = Vec::new();
    let mut sent = HashMap::new();
    for (name, fixture) in FIXTURES {
        for recorded in requests(fixture) {
            let answer = replay(&service, &recorded, None).await;
            let what = format!("{name}: {}", recorded["name"]);
            if recorded["method"] == "OPTIONS" {
                assert_eq!(answer.status, 200, "{what}: {answer:?}");
                continue;
            }
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
            assert!(answer.body.get("refused").is_none(), "{what}: {answer:?}");
            let of_request = recorded["messageIds"].as_array().cloned().unwrap_or_default();
            ids.extend(of_request.iter().map(|id| id.as_str().unwrap().to_owned()));
            for message in messages(&recorded) {
                // If a message is repeated, the first one counts.
                sent.entry(message.own["messageId"].as_str().unwrap().to_owned())
                    .or_insert(message);
            }
        }
    }
    assert!(ids.len() > 80, "{}", ids.len());
    for id in &ids {
        let found = service.admin(&format!("/api/messages/{id}")).await;
        assert_eq!(found.body["messages"].as_array().map(Vec::len), Some(1), "{id}: {found:?}");
    }
    let stored = service.stored_bytes().await;
    for (id, message) in &sent {
        let taken: Value = serde_json::from_slice(&stored[id][0]).unwrap();
        message.assert_is(&taken);
    }
    // Other parsers refuse the remaining ones: a bare NaN, half of a surrogate pair, too deep nesting.
    let unique: HashSet<&String> = ids.iter().collect();
    assert!(sent.len() + 8 >= unique.len(), "{} of {}", sent.len(), unique.len());
}

/// A message as it was sent, with the fields of its batch.
struct Sent {
    kind: &'static str,
    own: Map<String, Value>,
    envelope: Map<String, Value>,
}

/// The messages of a recorded request, or none if other parsers refuse its body.
fn messages(recorded: &Value) -> Vec<Sent> {
    let text = recorded["body"].as_str().unwrap_or_default();
    let Ok(Value::Object(mut body)) = serde_json::from_str(text) else { return Vec::new() };
    let kind = match recorded["path"].as_str().unwrap() {
        "/v1/i" => "identify",
        "/v1/t" => "track",
        "/v1/p" => "page",
        "/v1/s" => "screen",
        "/v1/g" => "group",
        "/v1/a" => "alias",
        "/v1/batch" | "/v1/b" => "",
        _ => return Vec::new(),
    };
    if !kind.is_empty() {
        return vec![Sent { kind, own: body, envelope: Map::new() }];
    }
    let Some(Value::Array(batch)) = body.remove("batch") else { panic!("{text}") };
    let of = |message: Value| {
        let own = message.as_object().unwrap().clone();
        Sent { kind, own, envelope: body.clone() }
    };
    batch.into_iter().map(of).collect()
}

impl Sent {
    /// Asserts that the stored message contains exactly what was sent, except for the fields that Segment adds.
    fn assert_is(&self, taken: &Value) {
        let taken = taken.as_object().unwrap();
        let id = &self.own["messageId"];
        let get = |key: &str| taken.get(key).unwrap_or(&Value::Null);
        for (key, value) in &self.own {
            match key.as_str() {
                "writeKey" => assert_eq!(taken.get(key), None, "{id}"),
                "context" | "integrations" => {}
                "timestamp" | "originalTimestamp" | "sentAt" | "receivedAt" => {}
                _ => assert!(is_same(get(key), value), "{id}: {key}: {} {value}", get(key)),
            }
        }
        if !self.own.contains_key("type") {
            assert_eq!(get("type"), self.kind, "{id}");
        }
        for key in ["context", "integrations"] {
            let mut merged = self.envelope.get(key).cloned().unwrap_or_default();
            match (&mut merged, self.own.get(key)) {
                (Value::Object(merged), Some(Value::Object(own))) => merged.extend(own.clone()),
                (_, Some(own)) => merged = own.clone(),
                (_, None) => {}
            }
            assert!(is_same(get(key), &merged), "{id}: {key}: {} {merged}", get(key));
        }
        // RudderStack's for Python puts the traits of an identify into the context.
        let lifted = (get("type") == "identify" && !self.own.contains_key("traits"))
            .then(|| get("context").get("traits").cloned().unwrap_or_default());
        if let Some(lifted) = &lifted {
            assert!(is_same(get("traits"), lifted), "{id}");
        }
        let stamped =
            ["type", "context", "integrations", "traits", "sentAt", "receivedAt"].as_slice();
        let stamped = [stamped, &["timestamp", "originalTimestamp"]].concat();
        let made_up =
            |key: &&String| !self.own.contains_key(*key) && !stamped.contains(&key.as_str());
        assert_eq!(taken.keys().find(made_up), None, "{id}");
        self.assert_times(id, taken);
    }

    fn assert_times(&self, id: &Value, taken: &Map<String, Value>) {
        let time = |value: &Value| -> Timestamp { value.as_str().unwrap().parse().unwrap() };
        let received = time(&taken["receivedAt"]);
        let original = self.own.get("timestamp").or_else(|| self.own.get("originalTimestamp"));
        let sent = self.envelope.get("sentAt").or_else(|| self.own.get("sentAt"));
        assert_eq!(taken.get("sentAt"), sent, "{id}");
        let Some(original) = original else {
            assert_eq!(taken["originalTimestamp"], taken["receivedAt"], "{id}");
            assert_eq!(taken["timestamp"], taken["receivedAt"], "{id}");
            return;
        };
        assert_eq!(&taken["originalTimestamp"], original, "{id}");
        let expected = match sent {
            Some(sent) => received - time(sent).duration_since(time(original)),
            None => time(original),
        };
        // Both times are in milliseconds.
        let off = time(&taken["timestamp"]).duration_since(expected).as_millis();
        assert!(off.abs() <= 1, "{id}: {off} ms");
    }
}

/// Whether a stored value equals the one that was sent. Numbers are doubles, and a key `__proto__` is lost, as in
/// Segment's runtime.
fn is_same(taken: &Value, sent: &Value) -> bool {
    match (taken, sent) {
        (Value::Number(taken), Value::Number(sent)) => {
            let (taken, sent) = (taken.as_f64().unwrap(), sent.as_f64().unwrap());
            // This JSON parser is occasionally off by one in the last place.
            (taken - sent).abs() <= sent.abs() * f64::EPSILON
        }
        (Value::Array(taken), Value::Array(sent)) => {
            let mut pairs = taken.iter().zip(sent);
            taken.len() == sent.len() && pairs.all(|(taken, sent)| is_same(taken, sent))
        }
        (Value::Object(taken), Value::Object(sent)) => {
            let mut kept = sent.iter().filter(|(key, _)| *key != "__proto__");
            taken.len() == kept.clone().count()
                && kept.all(|(key, sent)| taken.get(key).is_some_and(|taken| is_same(taken, sent)))
        }
        _ => taken == sent,
    }
}

#[tokio::test]
async fn a_browser_is_given_what_it_needs_to_start_and_to_send() {
    let service = service();
    let settings = "/v1/projects/wk_0123456789abcdef/settings";
    let request = service.request(Method::GET, settings).header("origin", "https://shop.example");
    let answer = Service::answer(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://shop.example");
    let segment_io = &answer.body["integrations"]["Segment.io"];
    assert_eq!(segment_io["apiKey"], "wk_0123456789abcdef");
    assert_eq!(
        segment_io["apiHost"],
        format!("{}/v1", service.base_url.trim_start_matches("http://"))
    );
    let unknown = service.request(Method::GET, "/v1/projects/unknown/settings");
    assert_eq!(Service::answer(unknown).await.status, 404);

    let preflight = service
        .request(Method::OPTIONS, "/v1/t")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,x-retry-count");
    let answer = Service::answer(preflight).await;
    assert_eq!(answer.status, 200);
    let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap().to_lowercase();
    assert_eq!(allowed, "authorization,x-retry-count");
    assert!(answer.headers.contains_key("access-control-max-age"));

    // To the page, a response that it may not read is a network error, and it sends the message again.
    for (path, body) in [("/v1/t", "{"), ("/v1/nope", "{}"), ("/v1/t", "{\"writeKey\":\"wrong\"}")]
    {
        let request = service.request(Method::POST, path).header("origin", "https://shop.example");
        let answer = Service::answer(request.body(body)).await;
        assert!(answer.status >= 400);
        assert_eq!(answer.headers["access-control-allow-origin"], "https://shop.example", "{path}");
        let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("retry-after"), "{exposed}");
    }
}

#[tokio::test]
async fn every_recorded_webhook_gets_its_verdict() {
    let service = service();
    let recorded = requests(WEBHOOKS);
    assert!(recorded.len() >= 18);
    for recorded in recorded {
        let answer = replay(&service, &recorded, Some("/webhook/recorded")).await;
        let what = &recorded["name"];
        match recorded["expect"].as_str().unwrap() {
            "accept" => assert_eq!(answer.status, 200, "{what}: {answer:?}"),
            "refuse" => assert_eq!(answer.status, 401, "{what}: {answer:?}"),
            // The signature is accepted; whether the body is a message is not tested here.
            "accept by signature" => assert_ne!(answer.status, 401, "{what}: {answer:?}"),
            other => panic!("{what}: unknown verdict {other}"),
        }
    }
}
