//! The audit log records who changed something, when, and with what result.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Reply, ScriptedLoops, Service, Setup, track};

async fn entries(service: &Service, query: &str) -> (Vec<Value>, Value) {
    let list = service.admin(&format!("/api/audit{query}")).await;
    assert_eq!(list.status, 200, "{}", list.body);
    (list.body["entries"].as_array().unwrap().clone(), list.body["next"].clone())
}

async fn change(service: &Service, path: &str, body: Value) {
    let request =
        service.request(Method::POST, path).bearer_auth(ADMIN_TOKEN).body(body.to_string());
    assert_eq!(Service::answer(request).await.status, 200, "{path} {body}");
}

#[tokio::test]
async fn a_reload_and_a_replay_are_recorded_without_anybodys_ids() {
    let loops = ScriptedLoops::start(|_| Reply::status(400)).await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/track", track("ada@people.example.test", "m1")).await;
    service.message("m1", |message| message["state"] == "failed").await;
    assert_eq!(entries(&service, "").await, (vec![], Value::Null));
    change(&service, "/api/replay", json!({"userId": "ada@people.example.test", "dryRun": true}))
        .await;
    change(&service, "/api/replay", json!({"userId": "ada@people.example.test"})).await;
    change(&service, "/api/reload", json!({})).await;
    let (found, next) = entries(&service, "").await;
    assert_eq!(next, Value::Null);
    let shown = |entry: &Value| {
        ["role", "session", "action", "result"].map(|key| entry[key].as_str().unwrap().to_owned())
    };
    let found_shown: Vec<_> = found.iter().map(shown).collect();
    let expected = [
        ["admin", "token-1", "reload", "in force"],
        ["admin", "token-1", "replay", "1 replayed, 0 without contents"],
    ];
    assert_eq!(found_shown, expected, "a dry run changes nothing");
    assert_eq!(found[1]["arguments"], json!({"state": "failed", "person": "<given>"}));
    assert!(!json!(found).to_string().contains("example.test"), "{found:?}");
    let replicas = service.admin("/api/replicas").await.body;
    assert_eq!(found[0]["process"], replicas["replicas"][0]["name"]);

    // The entries can be read page by page, and survive a restart.
    let service = service.stop_and_restart(&setup).await;
    let (newest, next) = entries(&service, "?limit=1").await;
    assert_eq!(newest, found[..1]);
    let (oldest, next) = entries(&service, &format!("?limit=1&before={next}")).await;
    assert_eq!(oldest, found[1..]);
    assert_eq!(entries(&service, &format!("?limit=1&before={next}")).await, (vec![], Value::Null));
    assert_eq!(service.admin("/api/audit?user=ada").await.status, 400);

    // A command is recorded as well.
    service.message("m1", |message| message["state"] == "failed").await;
    let ran = setup.command_on(service.data(), &["replay", "--all-failed"], b"").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (found, _) = entries(&service, "?limit=1").await;
    assert_eq!(shown(&found[0]), ["command", "", "replay", "1 replayed, 0 without contents"]);
}
