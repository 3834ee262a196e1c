//! In shadow mode, the program does everything except sending: a shadowed message never reaches Loops, unless a replay
//! sends it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::console::Visitor;
use crate::support::{
    ADMIN_TOKEN, EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Service, Setup, WRITE_KEY, identify,
    track,
};

fn config(mode: &str) -> String {
    format!(
        r#"
        [destinations.default]
        mode = "{mode}"
        catalogue_refresh_s = 0
        "#
    )
}

fn setup(loops: &ScriptedLoops, mode: &str) -> Setup {
    Setup::with_loops(&loops.base_url).config(&config(mode))
}

fn is_shadowed(found: &Value) -> bool {
    found["state"] == "shadowed"
}

fn is_delivered(found: &Value) -> bool {
    found["state"] == "delivered"
}

/// Sends a message with an id, and waits until it is shadowed.
async fn shadow(service: &Service, id: &str, mut message: Value) -> Value {
    message["messageId"] = id.into();
    service.accept("/v1/batch", json!({"batch": [message]})).await;
    service.message(id, is_shadowed).await
}

async fn metric(service: &Service, line: &str) -> String {
    let metrics = Service::answer(service.request(reqwest::Method::GET, "/metrics")).await;
    let text = metrics.body.as_str().unwrap_or_default().to_owned();
    let found = text.lines().find_map(|one| one.strip_prefix(line));
    found.unwrap_or_else(|| panic!("no {line} in {text}")).trim().to_owned()
}

#[tokio::test]
async fn in_shadow_mode_everything_is_done_but_sending() {
    let mut loops = ScriptedLoops::willing().await;
    let service = setup(&loops, "shadow").start();
    let email = format!("ada@{EMAIL_DOMAIN}");
    let traits = json!({"email": email, "plan": {"name": "pro"}});
    let identify = json!({"type": "identify", "userId": "u1", "traits": traits});
    let shown = shadow(&service, "identify", identify).await;
    let delivery = &shown["deliveries"][0];
    assert_eq!(delivery["state"], "shadowed");
    assert_eq!(delivery["request"]["path"], "/contacts/update");
    assert_eq!(delivery["request"]["attempts"], json!([]));
    let warning = delivery["warnings"][0].as_str().unwrap();
    assert!(warning.contains("plan"), "the mapping and its warnings are as live: {warning}");
    shadow(&service, "track", json!({"type": "track", "userId": "u1", "event": "E"})).await;
    let deletion = json!({"type": "delete", "userId": "u1"});
    shadow(&service, "delete", deletion).await;
    let invalid = json!({"type": "track", "messageId": "invalid", "userId": "null", "event": "E"});
    service.accept("/v1/batch", json!({"batch": [invalid]})).await;
    service.message("invalid", |found| found["state"] == "failed").await;
    let page = json!({"type": "page", "messageId": "page", "userId": "u1"});
    service.accept("/v1/batch", json!({"batch": [page]})).await;
    service.message("page", |found| found["state"] == "unmatched").await;

    // Nobody was deleted, so nothing is erased here.
    let receipts = service.admin("/api/erasures").await;
    let receipt = &receipts.body["erasures"][0];
    assert_eq!(
        (&receipt["state"], &receipt["atLoops"]["problem"]),
        (&json!("open"), &json!("shadowed"))
    );
    let erase = service.request(reqwest::Method::POST, "/api/erasures").bearer_auth(ADMIN_TOKEN);
    let refused = Service::answer(erase.json(&json!({"userId": "u1"}))).await;
    let said = refused.body["message"].as_str().unwrap_or_default();
    assert!(refused.status == 409 && said.contains("shadow mode"), "{refused:?}");

    for (action, count) in
        [("createOrUpdateContact", "1"), ("sendEvent", "1"), ("deleteContact", "1")]
    {
        let line = format!(
            "segment_loops_deliveries_total{{destination=\"default\",action=\"{action}\",outcome=\"shadowed\"}}"
        );
        assert_eq!(metric(&service, &line).await, count);
    }
    let listed = service.admin("/api/messages?state=shadowed").await;
    let ids: Vec<&str> = listed.body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["messageId"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["delete", "track", "identify"]);
    let began = Instant::now();
    loop {
        let status = service.admin("/api/status").await.body;
        if status["destinations"][0]["isShadow"] == true && status["funnel"][0]["shadowed"] == 3 {
            assert_eq!(status["diagnosis"]["code"], "some_failed");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{status}");
    }
    let seen: Vec<String> = loops.rest().into_iter().map(|seen| seen.path).collect();
    assert_eq!(seen, [""; 0], "only the key is checked");
}

#[tokio::test]
async fn a_restart_amid_shadows_each_once_and_in_order() {
    let mut loops = ScriptedLoops::willing().await;
    let shadowing = setup(&loops, "shadow");
    // The crash happens after the request is frozen, before it is settled, and after it is settled.
    for point in ["freeze.after:1", "settle.before:2", "settle.after:2"] {
        let folder = tempfile::tempdir().unwrap();
        let setup = shadowing.clone().data(folder.path());
        let crashing = setup.clone().env("SEGMENT_LOOPS_CRASH_AT", point);
        let mut service = crashing.start_to_crash();
        let batch = [track("u1", "m1"), identify("u1", "m2"), track("u1", "m3")];
        let request = service.request(reqwest::Method::POST, "/v1/batch");
        let request = request.basic_auth(WRITE_KEY, Some(""));
        // The program may crash before it responds.
        let _ = request.json(&json!({"batch": batch})).send().await;
        let began = Instant::now();
        while !service.has_ended() {
            assert!(began.elapsed() < PATIENCE, "{point} was not reached");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(service);
        let service = setup.start();
        service.accept("/v1/batch", json!({"batch": batch})).await;
        for id in ["m1", "m2", "m3"] {
            let shown = service.message(id, is_shadowed).await;
            assert_eq!(shown["deliveries"].as_array().unwrap().len(), 1, "{point}: {shown}");
        }
        assert_eq!(loops.rest().len(), 0, "{point}");
    }
}

#[tokio::test]
async fn a_replay_sends_what_was_shadowed_in_the_order_of_acceptance() {
    let mut loops = ScriptedLoops::willing().await;
    let shadowing = setup(&loops, "shadow");
    let service = shadowing.start();
    for id in ["m1", "m2", "m3"] {
        service.accept("/v1/track", track("u1", id)).await;
        service.message(id, is_shadowed).await;
    }
    let live = setup(&loops, "live");
    let service = service.stop_and_restart(&live).await;
    service.accept("/v1/track", track("u1", "m4")).await;
    service.message("m4", is_delivered).await;
    assert_eq!(loops.notes(1).await, ["m4"], "live never sends what was shadowed");
    let replay = ["replay", "--state", "shadowed", "--to", "2100-01-01"];
    let ran = live.command_on(service.data(), &replay, b"").await;
    assert_eq!((ran.code, ran.stdout.lines().next()), (Some(0), Some("replayed: 3")), "{ran:?}");
    assert_eq!(loops.notes(3).await, ["m1", "m2", "m3"]);
    for id in ["m1", "m2", "m3"] {
        let shown = service.message(id, is_delivered).await;
        let states: Vec<&Value> =
            shown["deliveries"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
        assert_eq!(states, ["shadowed", "delivered"]);
    }
    let ran = live.command_on(service.data(), &replay, b"").await;
    assert!(ran.stdout.contains("replayed: 0"), "{ran:?}");
}

#[tokio::test]
async fn neighbours_are_merged_as_they_would_be_live() {
    let mut loops = ScriptedLoops::willing().await;
    // The rate is so low that messages that arrive together wait together.
    let setup = setup(&loops, "shadow").env("LOOPS_RATE_LIMIT", "1");
    let service = setup.start();
    let identify = |n: usize, traits: Value| json!({"type": "identify", "userId": "u1", "messageId": format!("m{n}"), "traits": traits});
    let batch: Vec<Value> = (0..6).map(|n| identify(n, json!({format!("p{n}"): n}))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let mut requests = Vec::new();
    for n in 0..6 {
        let shown = service.message(&format!("m{n}"), is_shadowed).await;
        requests.push(shown["deliveries"][0]["request"]["id"].as_i64().unwrap());
    }
    requests.dedup();
    assert!(requests.len() < 6, "{requests:?}");
    assert_eq!(loops.rest().len(), 0);
}

/// Switches the mode by the `number`th reload.
#[cfg(unix)]
async fn switch(service: &Service, mode: &str, number: usize) {
    service.write_config(&config(mode));
    service.signal("HUP");
    let is_reload = |line: &Value| line["message"] == "configuration reloaded";
    let began = Instant::now();
    while service.log().iter().filter(|line| is_reload(line)).count() < number {
        assert!(began.elapsed() < PATIENCE, "not reloaded");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_reload_switches_the_mode_and_what_loops_may_have_is_finished_live() {
    let answers = Arc::new(Mutex::new(503));
    let now = Arc::clone(&answers);
    let mut loops = ScriptedLoops::start(move |seen| match &*seen.path {
        "/api-key" => Reply::ok(),
        _ => Reply::status(*now.lock().unwrap()),
    })
    .await;
    let service = setup(&loops, "live").start();
    service.accept("/v1/track", track("u1", "tried")).await;
    assert_eq!(loops.next().await.note(), "tried");
    service.accept("/v1/track", track("u1", "behind")).await;
    service
        .message("tried", |found| found["deliveries"][0]["request"]["attempts"].get(0).is_some())
        .await;

    switch(&service, "shadow", 1).await;
    shadow(&service, "other", json!({"type": "track", "userId": "u2", "event": "E"})).await;
    *answers.lock().unwrap() = 200;
    // Loops may have the first message, so it is retried. The message behind it was never sent.
    service.message("tried", is_delivered).await;
    service.message("behind", is_shadowed).await;
    assert!(loops.rest().iter().all(|seen| seen.note() == "tried"));

    switch(&service, "live", 2).await;
    service.accept("/v1/track", track("u2", "live")).await;
    service.message("live", is_delivered).await;
    assert_eq!(loops.notes(1).await, ["live"]);
    assert_eq!(loops.rest().len(), 0);
}

#[tokio::test]
async fn a_key_that_loops_refuses_is_found_before_the_switch() {
    let loops = ScriptedLoops::start(|_| Reply::status(401)).await;
    let service = setup(&loops, "shadow").start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let began = Instant::now();
    loop {
        let status = service.admin("/api/status").await.body;
        if status["diagnosis"]["code"] == "key_refused" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{status}");
    }
    loops.now(|_| Reply::ok());
    service.message("m1", is_shadowed).await;
}

#[tokio::test]
async fn a_mode_that_does_not_exist_is_refused() {
    let loops = ScriptedLoops::willing().await;
    let (code, text) = setup(&loops, "dry").run_to_end();
    assert_eq!(code, Some(3));
    assert!(text.contains("destinations.default.mode") && text.contains("\"shadow\""), "{text}");
}

#[tokio::test]
async fn pages_say_that_nothing_is_sent() {
    let loops = ScriptedLoops::willing().await;
    let service = setup(&loops, "shadow").start();
    shadow(&service, "m1", json!({"type": "track", "userId": "u1", "event": "E"})).await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let page = async |path: &str| {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.text
    };
    let began = Instant::now();
    while !page("/console").await.contains("shadow: nothing is sent") {
        assert!(began.elapsed() < PATIENCE);
    }
    let list = page("/console/messages?state=shadowed").await;
    let seq = service.admin("/api/messages/m1").await.body["messages"][0]["seq"].clone();
    assert!(list.contains("not sent, in shadow mode"), "{list}");
    let message = page(&format!("/console/messages/{seq}")).await;
    assert!(message.contains("would have been sent to Loops"), "{message}");
    assert!(message.contains("As it would have been sent"), "{message}");
    let replay = page("/console/replay?state=shadowed&from=1h").await;
    assert!(replay.contains("It was shadowed, not sent from here"), "{replay}");
}
