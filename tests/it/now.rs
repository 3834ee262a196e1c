//! The state of the service in one sentence, as every process shows it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::console::Visitor;
use crate::support::{ADMIN_TOKEN, PATIENCE, Reply, ScriptedLoops, Service, Setup, track};

async fn status_of(service: &Service) -> Value {
    service.admin("/api/status").await.body
}

/// Returns the status once its diagnosis has this code.
async fn status(service: &Service, code: &str) -> Value {
    status_with(service, "code", code).await
}

/// Returns the status once its diagnosis has this value. The reports of a process are up to five seconds old.
async fn status_with(service: &Service, field: &str, value: &str) -> Value {
    let began = Instant::now();
    loop {
        let status = status_of(service).await;
        if status["diagnosis"][field] == value {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{value}: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_service_without_messages_is_ready_and_then_well() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let ready = status(&service, "nothing_yet").await;
    assert_eq!(ready["accepts"], true);
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", |message| message["state"] == "delivered").await;
    let sentence = "All is well: 1 message delivered in the last hour, nothing waits.";
    let well = status_with(&service, "sentence", sentence).await;
    assert_eq!(well["diagnosis"]["code"], "all_well");
    let funnel = &well["funnel"][0];
    assert_eq!((&funnel["received"], &funnel["delivered"]), (&1.into(), &1.into()), "{well}");
    assert_eq!(well["sources"][0]["receivedHour"], 1);
}

#[tokio::test]
async fn a_refused_key_is_the_diagnosis_on_every_process_until_it_is_accepted() {
    let loops = ScriptedLoops::start(|_| Reply::status(401)).await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    let other = setup.data(service.data()).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    for service in [&service, &other] {
        let paused = status(service, "key_refused").await;
        let sentence = paused["diagnosis"]["sentence"].as_str().unwrap();
        assert!(sentence.contains("Loops refuses the API key of `default`"), "{sentence}");
        let destination = &paused["destinations"][0];
        assert_eq!(destination["paused"]["reason"], "key", "{destination}");
        assert_eq!(destination["paused"]["since"], paused["diagnosis"]["since"]);
    }
    loops.now(|_| Reply::ok());
    for service in [&service, &other] {
        status(service, "all_well").await;
    }
}

#[tokio::test]
async fn errors_of_loops_are_the_diagnosis_once_they_last() {
    let loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/events/send" => Reply::status(503),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let down = status(&service, "loops_down").await;
    let sentence = down["diagnosis"]["sentence"].as_str().unwrap();
    assert!(
        sentence.starts_with("Loops answers 503 for `default`; nothing is lost;"),
        "{sentence}"
    );
    assert_eq!(down["diagnosis"]["runbook"], "Loops cannot be reached");
}

#[tokio::test]
async fn messages_of_a_destination_that_is_gone_are_named() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", |message| message["state"] == "delivered").await;
    service.alter("UPDATE messages SET state = 0, destination = 'old'").await;
    let gone = status(&service, "unknown_destination").await;
    let sentence = gone["diagnosis"]["sentence"].as_str().unwrap();
    assert_eq!(
        sentence,
        "The destination `old` is not configured; nothing is lost; 1 message waits."
    );
}

/// Asserts that the page shows the sentence, the next step and the link to the runbook.
async fn assert_shown(service: &Service, status: &Value) {
    let page = Visitor::with(service, ADMIN_TOKEN).await.get("/console").await;
    assert_eq!(page.status, 200, "{}", page.text);
    for key in ["sentence", "nextStep", "runbook"] {
        let words = status["diagnosis"][key].as_str().unwrap();
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_store_that_is_full_is_the_diagnosis_until_it_has_room() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", |message| message["state"] == "delivered").await;
    status(&service, "all_well").await;
    crate::disk::limit_files(&service, "1");
    assert_eq!(service.post("/v1/track", track("u1", "m2")).await.status, 429);
    let full = status(&service, "store_full").await;
    assert_eq!(full["accepts"], false);
    assert_shown(&service, &full).await;
    let page = Visitor::with(&service, ADMIN_TOKEN).await.get("/console").await;
    assert!(page.text.contains("does not accept messages"), "{}", page.text);
    crate::disk::limit_files(&service, "unlimited");
    status(&service, "all_well").await;
}

#[tokio::test]
async fn messages_that_nobody_delivers_are_the_diagnosis_until_somebody_does() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.logged(|line| line["message"] == "lease taken").await;
    // From now on, no process can take or renew a lease.
    service
        .alter("CREATE TRIGGER stuck BEFORE UPDATE ON leases BEGIN SELECT RAISE(IGNORE); END")
        .await;
    let began = Instant::now();
    while !status_of(&service).await["destinations"][0]["holder"].is_null() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    service.accept("/v1/track", track("u1", "m1")).await;
    let alone = status(&service, "nobody_delivers").await;
    assert_eq!(
        alone["diagnosis"]["sentence"],
        "No process delivers for `default`; nothing is lost; 1 message waits."
    );
    assert_shown(&service, &alone).await;
    let page = Visitor::with(&service, ADMIN_TOKEN).await.get("/console").await;
    assert!(page.text.contains("nobody delivers"), "{}", page.text);
    service.alter("DROP TRIGGER stuck").await;
    service.message("m1", |message| message["state"] == "delivered").await;
    status(&service, "all_well").await;
}

#[tokio::test]
async fn a_sender_whose_messages_are_rejected_is_named_with_the_code() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    for _ in 0..20 {
        assert_eq!(service.post("/v1/track", "{").await.status, 400);
    }
    let rejecting = status(&service, "rejecting").await;
    let rejected = rejecting["sources"][0]["rejected"].as_object().unwrap();
    assert_eq!(rejected.values().filter_map(Value::as_u64).sum::<u64>(), 20, "{rejecting}");
}

#[tokio::test]
async fn a_failure_among_many_deliveries_is_said_and_replays_are_counted_apart() {
    let loops = ScriptedLoops::start(|seen| match seen.note().as_str() {
        "m1" => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", |message| message["state"] == "failed").await;
    let failed = status(&service, "some_failed").await;
    assert_eq!(
        failed["diagnosis"]["sentence"],
        "1 of 1 deliveries failed in the last hour; all else is well."
    );
    loops.now(|_| Reply::ok());
    let request = service.request(reqwest::Method::POST, "/api/replay").bearer_auth(ADMIN_TOKEN);
    Service::answer(request.body(r#"{"allFailed": true}"#)).await;
    service.message("m1", |message| message["state"] == "delivered").await;
    let page = Visitor::with(&service, ADMIN_TOKEN).await.get("/console").await;
    let accepted = r#">1</a><span class="sub">and 1 replayed</span>"#;
    assert!(page.text.contains(accepted), "{}", page.text);
}

#[tokio::test]
async fn a_sender_without_a_known_key_has_no_list() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let request = service.request(reqwest::Method::POST, "/v1/track");
    let answer = Service::answer(request.basic_auth("wrong", Some("")).body("{}")).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let began = Instant::now();
    loop {
        let page = visitor.get("/console").await;
        if page.text.contains("(unknown)") {
            assert!(page.text.contains(r#"<td data-label="Source">(unknown)<"#), "{}", page.text);
            assert!(!page.text.contains(r#"messages?source=""#), "{}", page.text);
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{}", page.text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
