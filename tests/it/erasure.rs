//! When a person was deleted at Loops, nothing of that person stays here; nothing else goes.

use serde_json::{Value, json};

use crate::support::{EMAIL_DOMAIN, Reply, ScriptedLoops, Seen, Service, Setup, identify, track};

const GONE: &str = "person-canary-gone";
const KEPT: &str = "person-canary-kept";

fn deletion(user: &str, message: &str) -> Value {
    json!({"type": "delete", "userId": user, "messageId": message})
}

/// Whether a text is anywhere in the files of the database.
fn is_on_disk(service: &Service, text: &str) -> bool {
    let files = std::fs::read_dir(service.data()).unwrap();
    files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// The log of the database is emptied soon after an erasure, as readers allow.
async fn until_not_on_disk(service: &Service, text: &str) {
    let began = std::time::Instant::now();
    while is_on_disk(service, text) {
        assert!(began.elapsed() < crate::support::PATIENCE, "it is still there");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Refuses events with an answer that repeats what it got, as Loops' do.
fn refuse_events(seen: &Seen) -> Reply {
    if seen.path != "/events/send" {
        return Reply::ok();
    }
    let text = String::from_utf8_lossy(&seen.raw_body).into_owned();
    Reply::Status(400, Vec::new(), json!({"success": false, "message": text}).to_string())
}

fn answers(found: &Value) -> Vec<&str> {
    let deliveries = found["deliveries"].as_array().into_iter().flatten();
    deliveries
        .flat_map(|delivery| delivery["request"]["attempts"].as_array().into_iter().flatten())
        .filter_map(|attempt| attempt["answer"].as_str())
        .collect()
}

fn is_erased(found: &Value) -> bool {
    found["state"] != "pending"
        && !answers(found).is_empty()
        && answers(found).iter().all(|answer| answer.is_empty())
}

#[tokio::test]
async fn after_the_deletion_at_loops_nothing_of_the_person_is_on_disk() {
    let mut loops = ScriptedLoops::start(refuse_events).await;
    let setup = Setup::with_loops(&loops.base_url);
    let mut service = setup.start();
    for (user, prefix) in [(GONE, "a"), (KEPT, "b")] {
        let mut event = track(user, &format!("{prefix}2"));
        event["properties"]["email"] = json!(format!("{user}@{EMAIL_DOMAIN}"));
        event["context"] = json!({"nested": {"note": format!("about {user}")}});
        service.accept("/v1/identify", identify(user, &format!("{prefix}1"))).await;
        service.accept("/v1/track", event).await;
    }
    for _ in 0..4 {
        loops.next().await;
    }
    for id in ["a2", "b2"] {
        service.message(id, |found| found["state"] == "failed").await;
    }
    assert!(is_on_disk(&service, GONE) && is_on_disk(&service, KEPT), "else nothing is tested");
    service.accept("/v1/batch", json!({"batch": [deletion(GONE, "d1")]})).await;
    assert_eq!(loops.next().await.body, json!({"userId": GONE}));
    for id in ["a1", "a2", "d1"] {
        service.message(id, is_erased).await;
    }
    until_not_on_disk(&service, GONE).await;
    assert!(is_on_disk(&service, KEPT));
    // The message ids still find what became of the messages. No id of the person does.
    for (id, state) in [("a1", "delivered"), ("a2", "failed"), ("d1", "delivered")] {
        let found = service.admin(&format!("/api/messages/{id}")).await;
        assert_eq!(found.body["messages"][0]["state"], state, "{found:?}");
        assert!(!found.body.to_string().contains(EMAIL_DOMAIN), "{found:?}");
    }
    for person in [format!("userId={GONE}"), format!("email={GONE}@{EMAIL_DOMAIN}")] {
        let found = service.admin(&format!("/api/messages?{person}")).await;
        assert_eq!(found.body["messages"], json!([]), "{person}");
    }
    let ran = setup.command_on(service.data(), &["replay", "--all-failed"], b"").await;
    assert_eq!(
        ran.stdout,
        "replayed: 1\nwithout contents (expired, or of deleted people), not replayed: 1\n"
    );
    assert_eq!(service.stop().await, Some(0));
    assert!(!is_on_disk(&service, GONE) && is_on_disk(&service, KEPT));
}

#[tokio::test]
async fn a_person_without_an_id_is_deleted_by_address_and_erased() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let address = format!("{GONE}@{EMAIL_DOMAIN}");
    let other = format!("{KEPT}@{EMAIL_DOMAIN}");
    for (address, id) in [(&address, "a1"), (&other, "b1")] {
        // By the default mapping it fails: an event needs a user id.
        let event = json!({"type": "track", "event": "E", "messageId": id, "properties": {"email": address}});
        service.accept("/v1/track", event).await;
        service.message(id, |found| found["state"] == "failed").await;
    }
    assert!(is_on_disk(&service, GONE), "else nothing is tested");
    let padded = format!(" {address}\u{a0}\n");
    let deletion = json!({"type": "delete", "messageId": "d1", "traits": {"email": padded}});
    service.accept("/v1/batch", json!({"batch": [deletion]})).await;
    let seen = loops.next().await;
    assert_eq!((seen.path.as_str(), &seen.body), ("/contacts/delete", &json!({"email": address})));
    service.message("d1", is_erased).await;
    let began = std::time::Instant::now();
    while is_on_disk(&service, GONE) {
        assert!(began.elapsed() < crate::support::PATIENCE, "it is still there");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(is_on_disk(&service, KEPT));
}

#[tokio::test]
async fn the_answer_to_a_merged_request_that_was_taken_apart_goes_too() {
    let mut loops = ScriptedLoops::willing().await;
    // One request a second, which has just gone: what comes now waits, and is merged.
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "1").start();
    service.accept("/v1/track", track("nobody", "first")).await;
    loops.next().await;
    let mut merged = 0;
    loops.now(move |seen| {
        merged += usize::from(seen.path == "/events/send");
        if merged == 1 { refuse_events(seen) } else { Reply::ok() }
    });
    let both = [identify(GONE, "a1"), track(GONE, "a2"), deletion(GONE, "d1")];
    service.accept("/v1/batch", json!({"batch": both})).await;
    let paths = [loops.next().await, loops.next().await, loops.next().await, loops.next().await]
        .map(|seen| seen.path);
    let expected = ["/events/send", "/contacts/update", "/events/send", "/contacts/delete"];
    assert_eq!(paths, expected, "merged, refused, taken apart");
    for id in ["a1", "a2", "d1"] {
        service.message(id, is_erased).await;
    }
    let began = std::time::Instant::now();
    while is_on_disk(&service, GONE) {
        assert!(began.elapsed() < crate::support::PATIENCE, "it is still there");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_person_who_comes_back_is_not_erased_again() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    for message in [identify(GONE, "before"), deletion(GONE, "deletion"), identify(GONE, "after")] {
        service.accept("/v1/batch", json!({"batch": [message]})).await;
    }
    let paths: Vec<String> =
        [loops.next().await, loops.next().await, loops.next().await].map(|seen| seen.path).to_vec();
    assert_eq!(paths, ["/contacts/update", "/contacts/delete", "/contacts/update"]);
    service.message("before", is_erased).await;
    service.message("deletion", is_erased).await;
    let after = service.message("after", |found| found["state"] == "delivered").await;
    assert!(!is_erased(&after));
    assert!(is_on_disk(&service, GONE));
}

#[tokio::test]
async fn a_deletion_that_loops_did_not_take_erases_nothing() {
    let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/contacts/delete" => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/identify", identify(GONE, "before")).await;
    service.accept("/v1/batch", json!({"batch": [deletion(GONE, "refused")]})).await;
    service.message("refused", |found| found["state"] == "failed").await;
    // Another person's deletion is worked on after it, and erased.
    loops.now(|_| Reply::ok());
    service.accept("/v1/batch", json!({"batch": [deletion(KEPT, "later")]})).await;
    service.message("later", is_erased).await;
    assert!(!is_erased(&service.message("before", |_| true).await));
    assert!(is_on_disk(&service, GONE));
    drop(loops.rest());
}

#[tokio::test]
async fn a_replay_does_not_bring_back_who_is_being_deleted() {
    let script = |seen: &Seen| {
        Reply::status(match seen.path.as_str() {
            "/api-key" => 200,
            "/contacts/delete" => 503,
            _ => 400,
        })
    };
    let mut loops = ScriptedLoops::start(script).await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/identify", identify(GONE, "a1")).await;
    service.message("a1", |found| found["state"] == "failed").await;
    service.accept("/v1/batch", json!({"batch": [deletion(GONE, "a2")]})).await;
    while loops.next().await.path != "/contacts/delete" {}
    let ran = setup.command_on(service.data(), &["replay", "--all-failed"], b"").await;
    let expected =
        "replayed: 0\nwithout contents (expired, or of deleted people), not replayed: 1\n";
    assert_eq!(ran.stdout, expected);
    loops.rest();
    loops.now(|_| Reply::ok());
    service.message("a2", is_erased).await;
    assert!(loops.rest().iter().all(|seen| seen.path == "/contacts/delete"));
    until_not_on_disk(&service, &format!("{GONE}@")).await;
}
