//! Segment's Webhooks (Actions), by the code that Segment runs: one event a request and several, signed
//! and with fixed headers. The classic one sends what this one sends for one event.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::calls::{assert_arrived_once, round};
use crate::script::Script;
use crate::support::{ScriptedLoops, Service, Setup, WEBHOOK_SECRET, serve_on_loopback};

const TOKEN: &str = "token-canary-18e4";

/// The destination as it is set up at Segment.
struct Destination {
    script: Script,
    url: String,
    headers: Value,
    shared_secret: Option<&'static str>,
}

impl Destination {
    fn of(url: String) -> Self {
        let script = Script::node("webhook_destination.js", &[]);
        Self { script, url, headers: json!({}), shared_secret: Some(WEBHOOK_SECRET) }
    }

    fn before(service: &Service, source: &str) -> Self {
        Self::of(format!("{}/webhook/{source}", service.base_url))
    }

    fn with(mut self, headers: Value, shared_secret: Option<&'static str>) -> Self {
        self.headers = headers;
        self.shared_secret = shared_secret;
        self
    }

    /// Has it send one event; gives the status of the answer.
    async fn event(&mut self, method: &str, event: &Value) -> u16 {
        self.send(method, std::slice::from_ref(event), false).await
    }

    /// Has it send events together.
    async fn batch(&mut self, method: &str, events: &[Value]) -> u16 {
        self.send(method, events, true).await
    }

    async fn send(&mut self, method: &str, events: &[Value], batch: bool) -> u16 {
        self.script.tell(&json!({
            "url": self.url, "method": method, "headers": self.headers,
            "sharedSecret": self.shared_secret, "events": events, "batch": batch
        }));
        self.script.line().await.parse().unwrap()
    }
}

/// A round of calls, as Segment has them when it hands them on.
fn events(name: &str) -> Vec<Value> {
    let mut events = round(name);
    for event in &mut events {
        event["originalTimestamp"] = event["timestamp"].clone();
        event["receivedAt"] = json!("2026-01-02T03:04:06.000Z");
        event["context"] =
            json!({"library": {"name": "analytics.js"}, "odd": "\u{1F600}\u{2028}é"});
    }
    events
}

/// The program with a source for each way to tell Segment from others.
fn start(loops: &ScriptedLoops) -> Service {
    let config = format!(
        r#"
        [sources.signed]
        write_keys = ["signed"]
        webhook_secret = "{WEBHOOK_SECRET}"

        [sources.fixed]
        write_keys = ["fixed"]
        webhook_token = "{TOKEN}"

        [sources.both]
        write_keys = ["both"]
        webhook_secret = "{WEBHOOK_SECRET}"
        webhook_token = "{TOKEN}"

        [sources.keyed]
        write_keys = ["keyed"]
        "#
    );
    Setup::with_loops(&loops.base_url).config(&config).start()
}

async fn every_event_arrives_once(source: &str, headers: Value, secret: Option<&'static str>) {
    let mut loops = ScriptedLoops::willing().await;
    let service = start(&loops);
    let mut destination = Destination::before(&service, source).with(headers, secret);
    let mut all = events("single");
    for (event, method) in all.iter().zip(["POST", "PUT", "PATCH"].into_iter().cycle()) {
        assert_eq!(destination.event(method, event).await, 200);
    }
    for method in ["POST", "PUT", "PATCH"] {
        let batch = events(method);
        // Twice, as Segment does where no answer came.
        assert_eq!(destination.batch(method, &batch).await, 200);
        assert_eq!(destination.batch(method, &batch).await, 200);
        all.extend(batch);
    }
    let alone = events("alone").swap_remove(0);
    assert_eq!(destination.batch("POST", std::slice::from_ref(&alone)).await, 200);
    all.push(alone);
    destination.script.end().await;
    assert_arrived_once(&all, &service, &mut loops).await;
}

#[tokio::test]
async fn every_signed_event_arrives_once() {
    every_event_arrives_once("signed", json!({}), Some(WEBHOOK_SECRET)).await;
}

#[tokio::test]
async fn every_event_with_a_fixed_header_arrives_once() {
    let bearer = json!({"Authorization": format!("Bearer {TOKEN}")});
    every_event_arrives_once("fixed", bearer, None).await;
}

#[tokio::test]
async fn every_signed_event_with_a_fixed_header_arrives_once() {
    every_event_arrives_once("both", json!({"X-Webhook-Token": TOKEN}), Some(WEBHOOK_SECRET)).await;
}

#[tokio::test]
async fn every_event_with_the_write_key_as_a_fixed_header_arrives_once() {
    let basic = json!({"Authorization": "Basic a2V5ZWQ6"});
    every_event_arrives_once("keyed", basic, None).await;
}

#[tokio::test]
async fn without_the_secret_or_the_header_nothing_is_stored() {
    let loops = ScriptedLoops::willing().await;
    let service = start(&loops);
    let (none, bearer) = (json!({}), json!({"Authorization": format!("Bearer {TOKEN}")}));
    let wrong = json!({"Authorization": "Bearer guessed"});
    let cases = [
        ("signed", &none, Some("guessed")),
        ("signed", &none, None),
        ("signed", &bearer, None),
        ("fixed", &none, None),
        ("fixed", &wrong, None),
        ("fixed", &none, Some(WEBHOOK_SECRET)),
        ("both", &none, Some(WEBHOOK_SECRET)),
        ("both", &wrong, Some(WEBHOOK_SECRET)),
        ("both", &bearer, Some("guessed")),
        ("both", &bearer, None),
        ("keyed", &none, None),
        ("keyed", &bearer, Some(WEBHOOK_SECRET)),
    ];
    for (source, headers, secret) in cases {
        let mut destination = Destination::before(&service, source).with(headers.clone(), secret);
        let events = events("nobody");
        let what = format!("{source} {headers} {secret:?}");
        assert_eq!(destination.event("POST", &events[0]).await, 401, "{what}");
        assert_eq!(destination.batch("POST", &events).await, 401, "{what}");
        destination.script.end().await;
    }
    assert!(service.stored().await.is_empty());
}

/// A request as it left Segment's code.
#[derive(Debug, Clone)]
struct Sent {
    headers: HeaderMap,
    body: Bytes,
}

/// What Segment's code sends for these events.
async fn sent(events: &[Value], batch: bool) -> Sent {
    let seen: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let keep = Arc::clone(&seen);
    let app = Router::new().fallback(async move |headers: HeaderMap, body: Bytes| {
        keep.lock().unwrap().push(Sent { headers, body });
    });
    let url = format!("http://{}/", serve_on_loopback(app).await);
    let mut destination = Destination::of(url);
    assert_eq!(destination.send("POST", events, batch).await, 200);
    destination.script.end().await;
    seen.lock().unwrap().pop().unwrap()
}

impl Sent {
    /// Sends it on, with another body.
    async fn pass_on(&self, service: &Service, body: impl Into<reqwest::Body>) -> u16 {
        let mut headers = self.headers.clone();
        for name in ["host", "content-length", "connection", "accept-encoding"] {
            headers.remove(name);
        }
        let request = service.request(Method::POST, "/webhook/signed").headers(headers);
        Service::answer(request.body(body)).await.status
    }
}

#[tokio::test]
async fn a_body_that_was_changed_on_the_way_is_refused() {
    let loops = ScriptedLoops::willing().await;
    let service = start(&loops);
    let events = events("changed");
    for batch in [false, true] {
        let part = if batch { &events[1..4] } else { &events[..1] };
        let ids: Vec<&str> =
            part.iter().map(|event| event["messageId"].as_str().unwrap()).collect();
        let sent = sent(part, batch).await;
        let text = std::str::from_utf8(&sent.body).unwrap();
        let parsed: Value = serde_json::from_str(text).unwrap();
        let changes = [
            text.replacen("12.5", "99.5", 1).replacen("\"pro\"", "\"max\"", 1),
            text.replacen("changed-0", "somebody", 1),
            text.replacen(":", ": ", 1),
            serde_json::to_string_pretty(&parsed).unwrap(),
            format!("{text} {{}}"),
            format!("[{{}},{}]", text.trim_matches(['[', ']'])),
            String::new(),
        ];
        for changed in changes {
            assert_ne!(changed, text);
            assert_eq!(sent.pass_on(&service, changed.clone()).await, 401, "{changed}");
        }
        let mut unsigned = sent.clone();
        unsigned.headers.remove("x-signature");
        assert_eq!(unsigned.pass_on(&service, sent.body.clone()).await, 401);
        let stored = service.stored().await;
        assert!(ids.iter().all(|id| !stored.contains_key(*id)), "{stored:?}");
        // It was the change alone.
        assert_eq!(sent.pass_on(&service, sent.body.clone()).await, 200);
        let stored = service.stored().await;
        assert!(ids.iter().all(|id| stored[*id].len() == 1), "{stored:?}");
    }
}

#[test]
fn the_documented_version_is_the_tested_one() {
    let packages: Value = serde_json::from_str(include_str!("package.json")).unwrap();
    let version = packages["dependencies"]["@segment/action-destinations"].as_str().unwrap();
    let documented = include_str!("../../docs/sources.md");
    assert!(documented.contains(&format!("`@segment/action-destinations` {version}")), "{version}");
}
