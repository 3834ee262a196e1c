//! Alerts: a configured receiver is notified when something is wrong.

use std::collections::HashMap;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use segment_loops::feedback::{Key, is_valid};
use segment_loops::secret::Secret;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::support::{
    EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Setup, identify, serve_on_loopback,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver of alerts.
struct Receiver {
    url: String,
    alerts: UnboundedReceiver<Received>,
}

struct Received {
    headers: HeaderMap,
    raw: Bytes,
    body: Value,
}

type Sender = (UnboundedSender<Received>, std::sync::Arc<std::sync::atomic::AtomicU32>);

impl Receiver {
    /// Fails the first `failures` requests.
    async fn start(failures: u32) -> Self {
        let (sender, alerts) = unbounded_channel();
        let failures = std::sync::Arc::new(failures.into());
        let app = Router::new().route("/hook", post(take)).with_state((sender, failures));
        let url = format!("http://{}/hook?key=secret-canary", serve_on_loopback(app).await);
        Self { url, alerts }
    }

    fn of(&self, setup: Setup) -> Setup {
        setup
            .env("SEGMENT_LOOPS__ALERTS__WEBHOOK_URL", &self.url)
            .env("SEGMENT_LOOPS__ALERTS__WEBHOOK_SECRET", SECRET)
            .env("SEGMENT_LOOPS__CONSOLE__PUBLIC_URL", "https://loops.example")
    }

    async fn next(&mut self) -> Received {
        timeout(PATIENCE, self.alerts.recv()).await.expect("no alert arrived").unwrap()
    }
}

async fn take(
    State((sender, failures)): State<Sender>,
    headers: HeaderMap,
    raw: Bytes,
) -> StatusCode {
    use std::sync::atomic::Ordering;
    let fails =
        failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if fails.is_ok() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let body = serde_json::from_slice(&raw).unwrap();
    let _ = sender.send(Received { headers, raw, body });
    StatusCode::NO_CONTENT
}

impl Received {
    fn is_signed(&self) -> bool {
        let header = |name: &str| self.headers[name].to_str().unwrap();
        let keys = [Key::read(&Secret::new(SECRET)).unwrap()];
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        is_valid(&keys, header("webhook-signature"), id, timestamp, &self.raw)
    }
}

#[tokio::test]
async fn a_pause_and_its_end_are_alerted_once_each() {
    let mut receiver = Receiver::start(0).await;
    let loops = ScriptedLoops::start(|_| Reply::status(401)).await;
    let service = receiver.of(Setup::with_loops(&loops.base_url)).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    let paused = receiver.next().await;
    assert!(paused.is_signed());
    assert_eq!(paused.body["type"], "destination.paused");
    assert_eq!(paused.body["data"]["destination"], "default");
    assert_eq!(paused.body["data"]["url"], "https://loops.example/console");
    assert!(paused.body["data"]["text"].as_str().unwrap().contains("refuses its API key"));
    loops.now(|_| Reply::ok());
    let resumed = receiver.next().await;
    assert!(resumed.is_signed());
    assert_eq!(resumed.body["type"], "destination.resumed");
    service.message("m1", |found| found["state"] == "delivered").await;
    service
        .logged(|line| line["message"] == "alert sent" && line["topic"] == "destination.resumed")
        .await;
    assert!(receiver.alerts.try_recv().is_err());
    let log = service.log();
    assert!(log.iter().all(|line| !line.to_string().contains("secret-canary")), "{log:?}");
}

#[tokio::test]
async fn many_failures_are_one_alert_that_names_nobody() {
    let mut receiver = Receiver::start(0).await;
    let loops = ScriptedLoops::start(|_| Reply::status(400)).await;
    let service = receiver.of(Setup::with_loops(&loops.base_url)).start();
    let batch: Vec<_> =
        (0..12).map(|n| identify(&format!("user-canary-{n}"), &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let alert = receiver.next().await;
    assert_eq!(alert.body["type"], "failures.rate");
    assert_eq!(alert.body["data"]["url"], "https://loops.example/console/failures");
    let text = String::from_utf8(alert.raw.to_vec()).unwrap();
    assert!(!text.contains("canary") && !text.contains(EMAIL_DOMAIN), "{text}");
}

#[tokio::test]
async fn an_alert_that_does_not_arrive_is_sent_again_with_its_id() {
    let mut receiver = Receiver::start(1).await;
    let loops = ScriptedLoops::start(|_| Reply::status(401)).await;
    let service = receiver.of(Setup::with_loops(&loops.base_url)).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    service
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.contains("could not be sent"))
                && line["level"] == "WARN"
        })
        .await;
    let paused = receiver.next().await;
    assert!(paused.is_signed());
    assert_eq!(paused.body["type"], "destination.paused");
}

#[tokio::test]
async fn a_test_alert_shows_whether_alerts_arrive() {
    let mut receiver = Receiver::start(0).await;
    let folder = tempfile::tempdir().unwrap();
    let run = async |setup: Setup| {
        let mut command = setup.plain_command(folder.path(), &["alerts", "test"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
    // The command needs no keys.
    let (code, said, _) = run(receiver.of(setup.clone().without_env())).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("arrived at http://127.0.0.1") && !said.contains("canary"), "{said}");
    let alert = receiver.next().await;
    assert!(alert.is_signed());
    assert_eq!(alert.body["type"], "test");

    let slack = receiver.of(setup.clone()).env("SEGMENT_LOOPS__ALERTS__FORMAT", "slack");
    assert_eq!(run(slack).await.0, Some(0));
    let alert = receiver.next().await;
    let keys: HashMap<String, Value> = serde_json::from_value(alert.body).unwrap();
    assert_eq!(keys.len(), 1);
    assert!(keys["text"].as_str().unwrap().contains("<https://loops.example/console|Console>"));

    let (code, _, said) = run(setup.clone()).await;
    assert!(code == Some(3) && said.contains("alerts.webhook_url"), "{said}");
    let nowhere = setup.env("SEGMENT_LOOPS__ALERTS__WEBHOOK_URL", "http://127.0.0.1:9/canary");
    let (code, _, said) = run(nowhere).await;
    assert!(
        code == Some(1) && said.contains("did not arrive") && !said.contains("canary"),
        "{said}"
    );
}

#[tokio::test]
async fn a_store_that_fails_is_alerted_with_the_name_of_its_host() {
    let mut receiver = Receiver::start(0).await;
    let loops = ScriptedLoops::willing().await;
    let service = receiver.of(Setup::with_loops(&loops.base_url)).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    let file = service.data().join("segment-loops.db");
    std::fs::rename(&file, service.data().join("elsewhere.db")).unwrap();
    let alert = receiver.next().await;
    assert_eq!(alert.body["type"], "store.not_ready");
    assert!(!alert.body["data"]["host"].as_str().unwrap().is_empty());
}

#[test]
fn wrong_alert_settings_are_refused_at_start_and_show_no_secret() {
    let cases = [
        ("webhook_url = \"canary.example\"", "alerts.webhook_url: must be a URL"),
        ("webhook_secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"", "needs alerts.webhook_url"),
        (
            "webhook_url = \"https://x.example\"\nwebhook_secret = \"whsec_canary!\"",
            "alerts.webhook_secret: is not a signing secret",
        ),
        ("format = \"xml\"", "\"json\" or \"slack\""),
        ("min_interval_s = 0", "alerts.min_interval_s: must be 1 or more"),
        ("[console]\npublic_url = \"https://x.example/console\"", "console.public_url"),
        ("[sources.default]\nsilent_after_s = 299", "sources.default.silent_after_s: must be from"),
    ];
    for (lines, expected) in cases {
        let config = format!("[alerts]\n{lines}\n");
        let setup = Setup::with_loops("http://127.0.0.1:9/api/v1").config(&config);
        let (code, text) = setup.run_to_end();
        assert_eq!(code, Some(3), "{lines}: {text}");
        assert!(text.contains(expected), "{lines}: {text}");
        assert!(!text.contains("canary"), "{text}");
    }
}
