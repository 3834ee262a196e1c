//! Merging saves requests and loses nothing. Urgent messages do not wait for a backlog.

use serde_json::{Value, json};

use crate::support::{Reply, ScriptedLoops, Service, Setup};

fn identify(user: &str, id: &str, traits: Value) -> Value {
    json!({"type": "identify", "userId": user, "messageId": id, "traits": traits})
}

fn track(user: &str, id: &str, event: &str) -> Value {
    json!({"type": "track", "userId": user, "messageId": id, "event": event, "properties": {}})
}

async fn send(service: &Service, messages: Vec<Value>) {
    service.accept("/v1/batch", json!({"batch": messages})).await;
}

fn is_done(message: &Value) -> bool {
    message["state"] == "delivered" || message["state"] == "failed"
}

/// A Loops that accepts one request a second and has just accepted one, so that the next messages wait.
async fn busy_loops() -> (ScriptedLoops, Setup, Service) {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "1");
    let service = setup.start();
    send(&service, vec![track("nobody", "first", "Before")]).await;
    loops.next().await;
    (loops, setup, service)
}

#[tokio::test]
async fn a_request_that_need_not_wait_is_sent_at_once_and_alone() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    send(
        &service,
        vec![identify("u", "m1", json!({"plan": "pro"})), track("u", "m2", "Signed Up")],
    )
    .await;
    let (first, second) = (loops.next().await, loops.next().await);
    assert_eq!((first.path.as_str(), second.path.as_str()), ("/contacts/update", "/events/send"));
    assert_eq!(second.body.get("plan"), None);
}

#[tokio::test]
async fn neighbours_that_wait_for_the_rate_become_one_request() {
    let (mut loops, _, service) = busy_loops().await;
    let messages = vec![
        identify("u", "m1", json!({"plan": "pro", "email": "u@canary-mail.example"})),
        identify("u", "m2", json!({"plan": "pro", "seats": 5})),
        track("u", "m3", "Signed Up"),
        identify("u", "m4", json!({"plan": "team"})),
    ];
    send(&service, messages).await;
    let seen = loops.next().await;
    assert_eq!(seen.path, "/events/send");
    assert_eq!(
        seen.body,
        json!({"userId": "u", "eventName": "Signed Up", "eventProperties": {}, "plan": "pro", "seats": 5,
            "email": "u@canary-mail.example", "source": "Segment"})
    );
    // An update after an event is a separate request.
    let last = loops.next().await;
    assert_eq!((last.path.as_str(), &last.body["plan"]), ("/contacts/update", &json!("team")));

    // Every message has its own record, which names its request.
    let mut requests = Vec::new();
    for id in ["m1", "m2", "m3"] {
        let message = service.message(id, is_done).await;
        assert_eq!(
            (&message["state"], message["deliveries"].as_array().unwrap().len()),
            (&json!("delivered"), 1)
        );
        requests.push(message["deliveries"][0]["request"]["id"].clone());
    }
    assert!(requests.iter().all(|request| *request == requests[0]), "{requests:?}");
}

#[tokio::test]
async fn two_values_of_one_property_are_both_seen() {
    let (mut loops, _, service) = busy_loops().await;
    let plans = ["free", "pro", "free"];
    let messages = plans.iter().enumerate();
    let messages = messages.map(|(n, plan)| identify("u", &format!("m{n}"), json!({"plan": plan})));
    send(&service, messages.collect()).await;
    for plan in plans {
        assert_eq!(loops.next().await.body["plan"], plan);
    }
}

#[tokio::test]
async fn a_refused_merged_request_fails_only_the_guilty_message() {
    let (mut loops, _, service) = busy_loops().await;
    loops.now(|seen| {
        let is_poisoned = seen.body.get("poison").is_some();
        Reply::status(if is_poisoned { 400 } else { 200 })
    });
    let messages = vec![
        identify("u", "good", json!({"plan": "pro"})),
        identify("u", "bad", json!({"poison": true})),
        track("u", "event", "Signed Up"),
    ];
    send(&service, messages).await;
    let merged = loops.next().await;
    assert!(merged.body.get("poison").is_some() && merged.path == "/events/send");
    let alone = [loops.next().await, loops.next().await, loops.next().await];
    let paths: Vec<&str> = alone.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(paths, ["/contacts/update", "/contacts/update", "/events/send"]);
    assert_eq!(alone[0].body["plan"], "pro");
    assert!(alone[2].body.get("poison").is_none() && alone[2].body.get("plan").is_none());
    // The refused attempt may have used its key up.
    assert_ne!(alone[2].idempotency_key(), merged.idempotency_key());
    for (id, state) in [("good", "delivered"), ("bad", "failed"), ("event", "delivered")] {
        assert_eq!(service.message(id, is_done).await["state"], state, "{id}");
    }
}

#[tokio::test]
async fn a_merged_request_is_frozen_over_a_crash() {
    let (mut loops, setup, service) = busy_loops().await;
    loops.now(|_| Reply::Silence);
    send(
        &service,
        vec![identify("u", "m1", json!({"plan": "pro"})), track("u", "m2", "Signed Up")],
    )
    .await;
    let before = loops.next().await;
    loops.now(|_| Reply::ok());
    let service = service.crash_and_restart(&setup);
    let after = loops.next().await;
    assert_eq!(
        (after.raw_body.clone(), after.idempotency_key()),
        (before.raw_body.clone(), before.idempotency_key())
    );
    for id in ["m1", "m2"] {
        assert_eq!(service.message(id, is_done).await["state"], "delivered");
    }
}

#[tokio::test]
async fn merging_can_be_turned_off() {
    let mut loops = ScriptedLoops::willing().await;
    let file = "[destinations.default]\nmerge = false\n";
    let setup = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "1").config(file);
    let service = setup.start();
    send(&service, vec![track("nobody", "first", "Before")]).await;
    loops.next().await;
    send(
        &service,
        vec![identify("u", "m1", json!({"plan": "pro"})), track("u", "m2", "Signed Up")],
    )
    .await;
    assert_eq!(loops.next().await.path, "/contacts/update");
    assert_eq!(loops.next().await.path, "/events/send");
}

#[tokio::test]
async fn a_sign_up_does_not_wait_for_a_backlog() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "10").start();
    let bulk: Vec<Value> =
        (0..60).map(|n| identify(&format!("b{n}"), &format!("b{n}"), json!({"n": n}))).collect();
    service.accept("/v1/import", json!({"batch": bulk})).await;
    loops.next().await;
    let live: Vec<Value> =
        (0..60).map(|n| identify(&format!("l{n}"), &format!("l{n}"), json!({"n": n}))).collect();
    send(&service, live).await;
    send(
        &service,
        vec![identify("new", "i", json!({"plan": "pro"})), track("new", "t", "Signed Up")],
    )
    .await;
    let mut before = 0;
    while loops.next().await.body["eventName"] != "Signed Up" {
        before += 1;
    }
    // Requests that were already under way, and some for the messages that have waited longest.
    assert!(before <= 30, "{before} requests went before it");
    // The rest is delivered too: live upserts before bulk ones, except for the messages that have waited longest.
    let mut live = 0;
    for _ in 0..30 {
        let user = loops.next().await.body["userId"].as_str().unwrap().to_owned();
        live += usize::from(user.starts_with('l'));
    }
    assert!(live >= 20, "{live} of 30");
}

#[tokio::test]
async fn a_message_that_is_too_old_is_not_sent() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let text = "[[subscriptions]]\nname = 'Welcome'\naction = 'sendEvent'\nevents = ['*']\nmax_age_s = 4\n";
    std::fs::write(&file, text).unwrap();
    let setup =
        Setup::with_loops(&loops.base_url).env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap());
    let service = setup.start();
    send(&service, vec![track("u", "m1", "Signed Up")]).await;
    loops.next().await;
    let message = service.message("m1", is_done).await;
    assert_eq!(message["deliveries"][0]["reason"], "expired");
    assert!(
        message["deliveries"][0]["detail"].as_str().unwrap().contains("max_age_s"),
        "{message}"
    );
}
