//! Webhooks of Loops are verified, stored before they are acknowledged, and forwarded.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use segment_loops::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::support::{
    Answer, EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup, identify,
};

/// Base64 of `canary-key-of-loops-webhooks`. No log may contain it.
const KEY: &[u8] = b"canary-key-of-loops-webhooks";
pub const SECRET: &str = "whsec_Y2FuYXJ5LWtleS1vZi1sb29wcy13ZWJob29rcw==";

fn setup() -> Setup {
    Setup::with_loops("http://127.0.0.1:9/api/v1").env("LOOPS_WEBHOOK_SECRET", SECRET)
}

fn now() -> i64 {
    SystemClock.now().as_second()
}

/// A signature, computed without the code under test.
fn sign(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

pub fn event(name: &str, user: &str) -> Value {
    json!({
        "eventName": name, "eventTime": now(), "webhookSchemaVersion": "1.0.0",
        "contactIdentity": {"id": "c1", "email": format!("{user}@{EMAIL_DOMAIN}"), "userId": user},
        "sourceType": "loop", "loopId": "l1", "loopName": "Welcome",
        "email": {"id": "e1", "emailMessageId": "m1", "subject": "Hello"}, "mailingLists": [],
    })
}

/// Sends a webhook as Loops does.
pub async fn tell(service: &Service, id: &str, body: &Value) -> Answer {
    let (timestamp, body) = (now(), body.to_string());
    send(service, "default", id, timestamp, &sign(KEY, id, timestamp, &body), &body).await
}

async fn send(
    service: &Service,
    destination: &str,
    id: &str,
    timestamp: i64,
    signature: &str,
    body: &str,
) -> Answer {
    let request = service
        .request(Method::POST, &format!("/loops/{destination}"))
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp.to_string())
        .header("webhook-signature", signature)
        .header("content-type", "application/json")
        .body(body.to_owned());
    Service::answer(request).await
}

/// The events about a person, newest first, by their webhook ids.
async fn about(service: &Service, user: &str) -> Vec<Value> {
    let answer = service.admin(&format!("/api/feedback?userId={user}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["events"].as_array().unwrap().clone()
}

async fn names(service: &Service, user: &str) -> Vec<String> {
    let events = about(service, user).await;
    events.iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

/// The value of a metric with these labels.
async fn metric(service: &Service, line: &str) -> Option<u64> {
    let url = format!("{}/metrics", service.base_url);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.map(|count| count.trim().parse().unwrap())
}

/// A metric of a time.
async fn seconds(service: &Service, line: &str) -> Option<f64> {
    let text = service.admin("/metrics").await.body.as_str().unwrap().to_owned();
    let found = text.lines().find_map(|found| found.strip_prefix(line).map(str::to_owned));
    found.map(|time| time.trim().parse().unwrap())
}

#[tokio::test]
async fn an_event_is_kept_before_it_is_acknowledged() {
    let setup = setup();
    let service = setup.start();
    let answer = tell(&service, "msg_1", &event("email.delivered", "ada")).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"success": true})));
    let last = "segment_loops_last_feedback_timestamp_seconds{destination=\"default\"}";
    let heard = seconds(&service, last).await;
    let service = service.crash_and_restart(&setup);
    assert!(heard.is_some() && seconds(&service, last).await == heard, "{heard:?}");
    let kept = about(&service, "ada").await;
    let [event] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(event["destination"], "default");
    assert_eq!(event["event"], "email.delivered");
    assert_eq!(event["webhookId"], "msg_1");
    assert_eq!(event["contactId"], "c1");
    assert_eq!(event["emailId"], "e1");
    assert_eq!(event["origin"], json!({"kind": "workflow", "id": "l1", "name": "Welcome"}));
    // The event can also be found by the address, which is not stored anywhere.
    let by_email = service.admin(&format!("/api/feedback?email=ADA%40{EMAIL_DOMAIN}")).await.body;
    assert_eq!(by_email["events"].as_array().unwrap().len(), 1);
    for file in std::fs::read_dir(service.data()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(EMAIL_DOMAIN) && !text.contains("Hello"));
    }
}

#[tokio::test]
async fn a_webhook_that_is_repeated_counts_once() {
    let setup = setup();
    let service = setup.start();
    let opened = event("email.opened", "ada");
    for _ in 0..3 {
        assert_eq!(tell(&service, "msg_1", &opened).await.status, 200);
    }
    let service = service.crash_and_restart(&setup);
    assert_eq!(tell(&service, "msg_1", &opened).await.status, 200);
    assert_eq!(tell(&service, "msg_2", &opened).await.status, 200);
    assert_eq!(names(&service, "ada").await, ["email.opened", "email.opened"]);
    let counted = "segment_loops_feedback_total{destination=\"default\",event=\"email.opened\"}";
    assert_eq!(metric(&service, counted).await, Some(1), "the duplicate is not counted");
}

#[tokio::test]
async fn an_unknown_event_is_kept_and_shown() {
    let service = setup().start();
    let body = json!({"eventName": "contact.painted", "contactIdentity": {"userId": "ada"}});
    assert_eq!(tell(&service, "msg_1", &body).await.status, 200);
    let test = json!({"eventName": "testing.testEvent", "message": "Hello"});
    assert_eq!(tell(&service, "msg_2", &test).await.status, 200);
    assert_eq!(names(&service, "ada").await, ["contact.painted"]);
    let of_destination = service.admin("/api/feedback?destination=default").await.body;
    assert_eq!(of_destination["events"][0]["event"], "testing.testEvent");
    let other = "segment_loops_feedback_total{destination=\"default\",event=\"other\"}";
    assert_eq!(metric(&service, other).await, Some(1));
}

#[tokio::test]
async fn webhooks_not_signed_by_loops_are_rejected_counted_and_logged() {
    let service = setup().start();
    let body = event("email.opened", "ada").to_string();
    let at = now();
    let right = sign(KEY, "msg_1", at, &body);
    let send = async |id: &str, at: i64, signature: &str, body: &str| {
        let answer = send(&service, "default", id, at, signature, body).await;
        assert!(answer.body["message"].is_string(), "{answer:?}");
        (answer.status, answer.body["code"].as_str().unwrap().to_owned())
    };
    let unauthorized = || (401, "unauthorized".to_owned());
    let wrong = sign(b"another key", "msg_1", at, &body);
    assert_eq!(send("msg_1", at, &wrong, &body).await, unauthorized());
    assert_eq!(send("msg_1", at, "v1,", &body).await, unauthorized());
    assert_eq!(send("msg_2", at, &right, &body).await, unauthorized());
    assert_eq!(send("msg_1", at + 1, &right, &body).await, unauthorized());
    // A body that was cut off, and one that was changed.
    assert_eq!(send("msg_1", at, &right, &body[..body.len() - 1]).await, unauthorized());
    assert_eq!(send("msg_1", at, &right, &format!("{body}\n")).await, unauthorized());
    for (seconds, code) in [(-301, "old_timestamp"), (302, "old_timestamp")] {
        let old = at + seconds;
        let signature = sign(KEY, "msg_1", old, &body);
        assert_eq!(send("msg_1", old, &signature, &body).await, (400, code.to_owned()));
    }
    for (body, code) in [("{", "bad_json"), ("[]", "not_an_event"), ("{}", "not_an_event")] {
        let signature = sign(KEY, "msg_1", at, body);
        assert_eq!(send("msg_1", at, &signature, body).await, (400, code.to_owned()));
    }
    let long = "x".repeat(256 * 1024 + 1);
    let signature = sign(KEY, "msg_1", at, &long);
    assert_eq!(send("msg_1", at, &signature, &long).await, (413, "too_large".to_owned()));
    for missing in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let mut request = service.request(Method::POST, "/loops/default").body(body.clone());
        let headers =
            [("webhook-id", "msg_1"), ("webhook-timestamp", "1"), ("webhook-signature", &right)];
        for (name, value) in headers.into_iter().filter(|(name, _)| *name != missing) {
            request = request.header(name, value);
        }
        let answer = Service::answer(request).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("missing_header")));
    }
    assert_eq!(names(&service, "ada").await, [""; 0]);
    let counted = |code: &str| {
        format!(
            "segment_loops_rejected_total{{source=\"\",endpoint=\"/loops/{{destination}}\",code=\"{code}\"}}"
        )
    };
    assert_eq!(metric(&service, &counted("unauthorized")).await, Some(6));
    assert_eq!(metric(&service, &counted("old_timestamp")).await, Some(2));
    assert_eq!(metric(&service, &counted("missing_header")).await, Some(3));
    service.logged(|line| line["message"] == "rejected" && line["code"] == "old_timestamp").await;
    // A webhook that is signed with both the old and the new secret is accepted.
    let both = format!("{wrong} {right}");
    let answer = self::send(&service, "default", "msg_1", at, &both, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn wrong_signatures_count_as_guesses() {
    let service = setup().start();
    let body = event("email.opened", "ada").to_string();
    let wrong = sign(b"another key", "msg_1", now(), &body);
    let mut statuses = Vec::new();
    for _ in 0..70 {
        statuses.push(send(&service, "default", "msg_1", now(), &wrong, &body).await.status);
    }
    assert_eq!((statuses[0], statuses[69]), (401, 429));
    // Loops itself is not slowed down.
    assert_eq!(tell(&service, "msg_1", &event("email.opened", "ada")).await.status, 200);
}

#[tokio::test]
async fn webhooks_of_loops_are_off_until_a_secret_is_set() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").start();
    let answer = tell(&service, "msg_1", &event("email.opened", "ada")).await;
    assert_eq!((answer.status, &answer.body["code"]), (404, &json!("webhook_off")));
    assert!(answer.body["message"].as_str().unwrap().contains("LOOPS_WEBHOOK_SECRET"));
    let answer = send(&service, "nowhere", "msg_1", now(), "v1,x", "{}").await;
    assert_eq!((answer.status, &answer.body["code"]), (404, &json!("unknown_destination")));
}

#[tokio::test]
async fn a_secret_is_changed_without_a_gap() {
    let config =
        |secrets: &str| format!("[destinations.default]\nloops_webhook_secrets = [{secrets}]\n");
    let old = "whsec_b2xk";
    let setup =
        Setup::with_loops("http://127.0.0.1:9/api/v1").config(&config(&format!("\"{old}\"")));
    let service = setup.start();
    let body = event("email.opened", "ada").to_string();
    let status = async |id: &str, key: &[u8]| {
        let at = now();
        send(&service, "default", id, at, &sign(key, id, at, &body), &body).await.status
    };
    let reload = async || {
        let request = service.request(Method::POST, "/api/reload");
        let answer = Service::answer(request.bearer_auth(crate::support::ADMIN_TOKEN)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    assert_eq!((status("msg_1", b"old").await, status("msg_2", KEY).await), (200, 401));
    service.write_config(&config(&format!("\"{old}\", \"{SECRET}\"")));
    reload().await;
    assert_eq!((status("msg_3", b"old").await, status("msg_4", KEY).await), (200, 200));
    service.write_config(&config(&format!("\"{SECRET}\"")));
    reload().await;
    assert_eq!((status("msg_5", b"old").await, status("msg_6", KEY).await), (401, 200));
}

#[tokio::test]
async fn a_wrong_setting_is_named_at_start_and_never_shown() {
    let cases = [
        ("loops_webhook_secret = \"not base64!\"", "loops_webhook_secret"),
        ("loops_webhook_secret = \"whsec_\"", "loops_webhook_secret"),
        ("loops_webhook_forward = \"https://canary.example/x\"", "needs loops_webhook_secret"),
        (
            "loops_webhook_secret = \"whsec_b2xk\"\nloops_webhook_forward = \"canary.example\"",
            "loops_webhook_forward",
        ),
    ];
    for (lines, expected) in cases {
        let config = format!("[destinations.default]\n{lines}\n");
        let (code, text) =
            Setup::with_loops("http://127.0.0.1:9/api/v1").config(&config).run_to_end();
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("not base64!") && !text.contains("canary.example"), "{text}");
    }
}

/// A server to which webhooks are forwarded.
async fn receiver(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> (ScriptedLoops, Setup) {
    let receiver = ScriptedLoops::start(script).await;
    let url = format!("{}/hooks?token=canary-of-the-url", receiver.base_url);
    let config = format!("[destinations.default]\nloops_webhook_forward = \"{url}\"\n");
    (receiver, setup().config(&config))
}

#[tokio::test]
async fn a_webhook_is_handed_on_as_it_was_signed() {
    let (mut receiver, setup) = receiver(|_| Reply::ok()).await;
    let service = setup.start();
    let (at, body) = (now(), format!(" {}\n", event("email.opened", "ada")));
    let signature = format!("v1,other {}", sign(KEY, "msg_1", at, &body));
    for _ in 0..2 {
        let answer = send(&service, "default", "msg_1", at, &signature, &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let seen = receiver.next().await;
    let header = |name: &str| seen.headers.get(name).unwrap().to_str().unwrap().to_owned();
    assert!(seen.path.ends_with("/hooks"), "{}", seen.path);
    assert_eq!(header("webhook-id"), "msg_1");
    assert_eq!(header("webhook-timestamp"), at.to_string());
    assert_eq!(header("webhook-signature"), signature);
    assert_eq!(seen.raw_body, body.as_bytes());
    tell(&service, "msg_2", &event("email.clicked", "ada")).await;
    assert_eq!(receiver.next().await.headers.get("webhook-id").unwrap(), "msg_2");
    // After forwarding, its body with the address is deleted.
    let handed_on =
        "segment_loops_feedback_forwards_total{destination=\"default\",outcome=\"handed_on\"}";
    until(async || metric(&service, handed_on).await == Some(2)).await;
    until(async || waiting(&service) == 0).await;
    assert_eq!(receiver.rest().len(), 0, "the duplicate is not handed on");
    assert_eq!(names(&service, "ada").await.len(), 2);
    let log = service.log();
    assert!(!log.iter().any(|line| line.to_string().contains("canary-of-the-url")));
}

#[tokio::test]
async fn a_webhook_is_handed_on_after_the_receiver_failed_and_this_program_was_killed() {
    let (mut receiver, setup) = receiver(|_| Reply::status(503)).await;
    let service = setup.start();
    assert_eq!(tell(&service, "msg_1", &event("email.opened", "ada")).await.status, 200);
    receiver.next().await;
    service.logged(|line| line["message"] == "webhooks of Loops cannot be handed on").await;
    assert_eq!(waiting(&service), 1);
    let service = service.crash_and_restart(&setup);
    receiver.now(|_| Reply::ok());
    // The next attempt is due now.
    service.alter("UPDATE loops_events SET forward_at = 0").await;
    assert_eq!(receiver.next().await.headers.get("webhook-id").unwrap(), "msg_1");
    until(async || waiting(&service) == 0).await;
}

#[tokio::test]
async fn a_webhook_that_nobody_took_within_a_day_is_given_up() {
    let (mut receiver, setup) = receiver(|_| Reply::status(500)).await;
    let service = setup.start();
    assert_eq!(tell(&service, "msg_1", &event("email.opened", "ada")).await.status, 200);
    receiver.next().await;
    service.logged(|line| line["message"] == "webhooks of Loops cannot be handed on").await;
    service
        .alter("UPDATE loops_events SET forward_at = 0, received_at = received_at - 86390000")
        .await;
    receiver.next().await;
    let line = service
        .logged(|line| line["message"] == "a webhook of Loops was not handed on within a day")
        .await;
    assert_eq!((&line["level"], &line["webhook_id"]), (&json!("ERROR"), &json!("msg_1")));
    until(async || waiting(&service) == 0).await;
    assert_eq!(names(&service, "ada").await, ["email.opened"]);
}

#[tokio::test]
async fn an_address_that_does_not_answer_holds_up_nothing() {
    let config = "[destinations.default]\nloops_webhook_forward = \"http://127.0.0.1:9/x\"\n";
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("LOOPS_WEBHOOK_SECRET", SECRET);
    let service = setup.config(config).start();
    for n in 0..20 {
        let answer = tell(&service, &format!("msg_{n}"), &event("email.opened", "ada")).await;
        assert_eq!(answer.status, 200);
    }
    service.accept("/v1/identify", identify("ada", "m1")).await;
    loops.next().await;
    assert_eq!(names(&service, "ada").await.len(), 20);
}

#[tokio::test]
async fn a_deleted_person_leaves_no_feedback() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("LOOPS_WEBHOOK_SECRET", SECRET);
    let service = setup.start();
    tell(&service, "msg_1", &event("email.opened", "ada")).await;
    tell(&service, "msg_2", &event("email.opened", "bob")).await;
    let deletion = json!({"type": "delete", "userId": "ada", "messageId": "m1"});
    service.accept("/v1/batch", json!({"batch": [deletion]})).await;
    loops.next().await;
    until(async || names(&service, "ada").await.is_empty()).await;
    assert_eq!(names(&service, "bob").await, ["email.opened"]);
}

#[tokio::test]
async fn loops_is_asked_to_retry_while_the_store_does_not_work() {
    let service = setup().start();
    let database = service.database();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = tell(&service, "msg_1", &event("email.opened", "ada")).await;
    assert_eq!((answer.status, &answer.body["code"]), (503, &json!("not_now")));
    assert!(answer.headers.contains_key("retry-after"));
    database.execute_batch("ROLLBACK").unwrap();
    assert_eq!(tell(&service, "msg_1", &event("email.opened", "ada")).await.status, 200);
    assert_eq!(names(&service, "ada").await.len(), 1);
}

/// The number of webhooks that wait to be forwarded, and whose bodies are still stored.
fn waiting(service: &Service) -> i64 {
    let text = "SELECT COUNT(*) FROM loops_events WHERE forward_body IS NOT NULL";
    service.database().query_row(text, [], |row| row.get(0)).unwrap()
}

/// Polls for something that the program does on its own.
async fn until(is_reached: impl AsyncFn() -> bool) {
    let reached = tokio::time::timeout(PATIENCE, async {
        while !is_reached().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    reached.await.expect("it does not happen");
}
