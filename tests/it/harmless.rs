//! No message does harm: no deleted person is created again, and no person gets another's address.

use segment_loops::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::authentication::signature;
use crate::support::{
    EMAIL_DOMAIN, ScriptedLoops, Seen, Service, Setup, WEBHOOK_SECRET, WRITE_KEY,
};

/// Settings of one destination and one source, in a file.
fn config(base_url: &str, destination: &str) -> Setup {
    let text = format!(
        "[destinations.default]\nbase_url = \"{base_url}\"\n{destination}\n[sources.default]\nwrite_keys = [\"{WRITE_KEY}\"]\n"
    );
    Setup::with_loops(base_url).config(&text)
}

/// Whether a log line says that a message ended without a request.
fn is_unsent(line: &Value, id: &str) -> bool {
    line["message_id"] == id
        && (line["message"] == "unmatched" || line["message"] == "failed before it was sent")
}

/// Waits until a message has failed, and returns the reason.
async fn failed(service: &Service, id: &str) -> String {
    let message = service.message(id, |found| found["state"] == "failed").await;
    message["deliveries"][0]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_deletion_is_the_last_request_of_its_message() {
    let mut loops = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let text = r#"
[[subscriptions]]
name = "Gone"
action = "deleteContact"
trigger = 'type = "track"'
[[subscriptions]]
name = "Contact"
action = "createOrUpdateContact"
trigger = 'type = "track"'
[[subscriptions]]
name = "Farewell"
action = "sendEvent"
trigger = 'type = "track"'
"#;
    std::fs::write(&file, text).unwrap();
    let service = Setup::with_loops(&loops.base_url)
        .env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap())
        .start();
    let event = json!({"userId": "u1", "event": "Account Deleted", "messageId": "m1"});
    service.accept("/v1/track", event).await;
    service.message("m1", |found| found["state"] == "delivered").await;
    let paths: Vec<String> = loops.rest().into_iter().map(|seen| seen.path).collect();
    // The update is part of the event's request, or sent before it.
    assert_eq!(paths.last().map(String::as_str), Some("/contacts/delete"), "{paths:?}");
    assert_eq!(paths.iter().filter(|path| *path == "/contacts/delete").count(), 1);
    assert!(paths.iter().any(|path| path == "/events/send"), "{paths:?}");
}

#[tokio::test]
async fn placeholder_ids_are_held_back_until_the_sender_or_the_list_is_fixed() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let mut service = setup.start();
    for (id, name) in [("m1", "ada"), ("m2", "eve")] {
        let traits = json!({"email": format!("{name}@{EMAIL_DOMAIN}")});
        let message = json!({"userId": "undefined", "messageId": id, "traits": traits});
        service.accept("/v1/identify", message).await;
        assert_eq!(failed(&service, id).await, "placeholder_id");
        let line = service.logged(|line| is_unsent(line, id)).await;
        assert_eq!(line["level"], "WARN", "{line}");
        assert_eq!(line["reason"], "placeholder_id", "{line}");
        assert_eq!(line["destination"], "default", "{line}");
        assert!(line["subscription"].is_string(), "{line}");
        assert!(!line.to_string().contains(EMAIL_DOMAIN), "{line}");
    }
    // The placeholder is harmless as an anonymous id, which is not sent.
    let good = json!({"userId": "u1", "anonymousId": "undefined", "messageId": "m3"});
    service.accept("/v1/identify", good).await;
    service.message("m3", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().len(), 1);
    assert_eq!(service.stop().await, Some(0));
    // With an empty list every id is accepted, as at Segment: the failed messages are sent when they are replayed.
    let service = config(&loops.base_url, "placeholder_ids = []").data(service.data()).start();
    let replay = service
        .request(reqwest::Method::POST, "/api/replay")
        .bearer_auth(crate::support::ADMIN_TOKEN)
        .body(json!({"reason": "placeholder_id"}).to_string());
    assert_eq!(Service::answer(replay).await.body["replayed"], 2);
    for id in ["m1", "m2"] {
        service.message(id, |found| found["state"] == "delivered").await;
    }
    assert!(loops.rest().iter().all(|seen: &Seen| seen.body["userId"] == "undefined"));
}

#[tokio::test]
async fn a_list_of_placeholders_holds_back_what_it_names_however_it_is_written() {
    const VARIABLE: &str = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__PLACEHOLDER_IDS";
    let mut loops = ScriptedLoops::willing().await;
    let start = || Setup::with_loops(&loops.base_url);
    let cases = [
        (config(&loops.base_url, "placeholder_ids = [' me ', 'you']"), ["me", " you "], "null"),
        (start().env(VARIABLE, "[\"me\", \" you \"]"), ["me", "you"], "null"),
        (start().env(VARIABLE, " me , you"), ["Me", "you\n"], "undefined"),
    ];
    for (setup, held_back, sent) in cases {
        let service = setup.start();
        for (number, id) in held_back.iter().enumerate() {
            let id_of_message = format!("held-{number}");
            let message = json!({"userId": id, "messageId": id_of_message});
            service.accept("/v1/identify", message).await;
            assert_eq!(failed(&service, &id_of_message).await, "placeholder_id", "{id:?}");
        }
        service.accept("/v1/identify", json!({"userId": sent, "messageId": "sent"})).await;
        service.message("sent", |found| found["state"] == "delivered").await;
        let seen: Vec<Value> =
            loops.rest().iter().map(|seen| seen.body["userId"].clone()).collect();
        assert_eq!(seen, [sent]);
    }
    // An empty variable is an empty list: every id is accepted.
    let service = Setup::with_loops(&loops.base_url).env(VARIABLE, "").start();
    service.accept("/v1/identify", json!({"userId": "undefined", "messageId": "m1"})).await;
    service.message("m1", |found| found["state"] == "delivered").await;
}

#[tokio::test]
async fn nothing_is_sent_of_a_person_who_did_not_consent() {
    let mut loops = ScriptedLoops::willing().await;
    let service = config(&loops.base_url, "consent_categories = [\"Marketing\"]").start();
    let message = |id: &str, consent: Value| {
        json!({"userId": "u1", "event": "E", "messageId": id, "properties": {"note": id},
            "context": {"consent": consent}})
    };
    let all = |flag: bool| json!({"categoryPreferences": {"Marketing": flag, "Other": true}});
    service.accept("/v1/track", message("no", all(false))).await;
    service.accept("/v1/track", message("yes", all(true))).await;
    let found = service.message("no", |found| found["state"] == "unmatched").await;
    assert_eq!(found["reason"], "consent");
    assert!(found["detail"].as_str().unwrap().contains("Marketing"), "{found}");
    let line = service.logged(|line| is_unsent(line, "no")).await;
    assert_eq!((&line["level"], &line["reason"]), (&json!("INFO"), &json!("consent")), "{line}");
    let counted = r#"segment_loops_unmatched_total{destination="default",reason="consent"} 1"#;
    let metrics = service.admin("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains(counted), "{metrics}");
    service.message("yes", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().iter().map(Seen::note).collect::<Vec<_>>(), ["yes"]);
}

#[tokio::test]
async fn messages_from_too_long_ago_are_not_sent_whichever_way_they_came() {
    let mut loops = ScriptedLoops::willing().await;
    let text = "[[destinations.default.subscriptions]]\nname = 'Welcome'\naction = 'sendEvent'\nevents = ['*']\nmax_age_s = 3600\n";
    let setup = config(&loops.base_url, text);
    let service = setup.start();
    let ago = |hours: i64| {
        let now = SystemClock.now();
        now.checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap().to_string()
    };
    let track = |id: &str, hours: i64| {
        json!({"type": "track", "userId": id, "event": "E", "messageId": id,
            "properties": {"note": id}, "timestamp": ago(hours)})
    };
    // A phone that was offline sends an event of three days ago now.
    let offline = json!({"batch": [track("offline", 72)], "sentAt": ago(0)});
    service.accept("/v1/batch", offline).await;
    // The sender's clock is three days slow: the event has just happened.
    let late_clock = json!({"batch": [track("late-clock", 72)], "sentAt": ago(72)});
    service.accept("/v1/batch", late_clock).await;
    // Segment's webhook, after retrying for four hours.
    let mut retried = track("webhook", 4);
    retried["receivedAt"] = ago(4).into();
    let retried = retried.to_string();
    let request = service.request(reqwest::Method::POST, "/webhook/default");
    let request = request.header("x-signature", signature(WEBHOOK_SECRET, &retried)).body(retried);
    assert_eq!(Service::answer(request).await.status, 200);
    let line = format!("{}\n", track("import", 48));
    let ran = setup.command_on(service.data(), &["import", "-"], line.as_bytes()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    service.accept("/v1/import", json!({"batch": [track("bulk", 48)]})).await;
    for id in ["offline", "webhook", "import", "bulk"] {
        assert_eq!(failed(&service, id).await, "expired", "{id}");
        assert_eq!(service.logged(|line| is_unsent(line, id)).await["reason"], "expired");
    }
    service.message("late-clock", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().iter().map(Seen::note).collect::<Vec<_>>(), ["late-clock"]);
}
