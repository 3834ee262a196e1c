//! What real SDKs and Segment's webhook destination send, byte for byte: every message is taken once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::Value;

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

/// The service as the senders of the recordings know it.
fn service() -> Service {
    let config = r#"
        [sources.recorded]
        write_keys = ["wk_0123456789abcdef", "k"]
        webhook_secret = "wire-fixture-secret"
    "#;
    // Nothing listens there: what was taken stays pending, and nothing is lost of it.
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
async fn every_message_of_every_sdk_is_taken_once() {
    let service = service();
    let mut ids = Vec::new();
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
        }
    }
    assert!(ids.len() > 80, "{}", ids.len());
    for id in &ids {
        let found = service.admin(&format!("/api/messages/{id}")).await;
        assert_eq!(found.body["messages"].as_array().map(Vec::len), Some(1), "{id}: {found:?}");
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
    for header in ["authorization", "content-type", "x-retry-count"] {
        assert!(allowed.contains(header), "{allowed}");
    }
    assert!(answer.headers.contains_key("access-control-max-age"));

    // An answer that the page may not see is a network error to it, and sent again.
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
            // The signature holds; whether it is a message at all is another matter.
            "accept by signature" => assert_ne!(answer.status, 401, "{what}: {answer:?}"),
            other => panic!("{what}: unknown verdict {other}"),
        }
    }
}
