//! After a person was deleted at Loops, all data about that person is erased here, and nothing else.

use serde_json::{Value, json};

use crate::feedback::{SECRET, event, tell};
use crate::support::{
    ADMIN_TOKEN, EMAIL_DOMAIN, Reply, ScriptedLoops, Seen, Service, Setup, identify, track,
};

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

/// Waits until a text is in no file of the database. The write-ahead log is emptied soon after an erasure, once no
/// reader needs it.
async fn until_not_on_disk(service: &Service, text: &str) {
    let began = std::time::Instant::now();
    while is_on_disk(service, text) {
        assert!(began.elapsed() < crate::support::PATIENCE, "it is still there");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Refuses events with a response that repeats the request, as those of Loops do.
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
    // The messages can still be found by their message ids, but not by any id of the person.
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
        // With the default mapping it fails, because an event needs a user id.
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
async fn the_answer_to_a_merged_request_that_was_taken_apart_is_erased_too() {
    let mut loops = ScriptedLoops::willing().await;
    // One request a second is allowed. It has just been sent, so the next messages wait and are merged.
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
    // Another person's deletion is processed after it and erased.
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

/// Sends a request to the API; returns the status and the body.
async fn ask(service: &Service, body: Value) -> (u16, Value) {
    let request = service.request(reqwest::Method::POST, "/api/erasures").json(&body);
    let answer = Service::answer(request.bearer_auth(ADMIN_TOKEN)).await;
    (answer.status, answer.body)
}

/// The receipt with an id, once it is as expected.
async fn receipt(service: &Service, id: &str, is_reached: impl Fn(&Value) -> bool) -> Value {
    let reached = async {
        loop {
            let found = service.admin(&format!("/api/erasures/{id}")).await.body;
            if is_reached(&found) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, reached).await.expect("it does not happen")
}

async fn metrics(service: &Service) -> String {
    reqwest::get(format!("{}/metrics", service.base_url)).await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn an_erasure_ends_in_a_receipt_that_names_nobody() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("LOOPS_WEBHOOK_SECRET", SECRET);
    let service = setup.start();
    service.accept("/v1/identify", identify(GONE, "a1")).await;
    service.message("a1", |found| found["state"] == "delivered").await;
    assert_eq!(loops.next().await.path, "/contacts/update");
    let (status, asked) = ask(&service, json!({"userId": GONE})).await;
    assert_eq!((status, &asked["state"]), (202, &json!("open")), "{asked}");
    let seen = loops.next().await;
    assert_eq!((&*seen.path, seen.body), ("/contacts/delete", json!({"userId": GONE})));
    let id = asked["id"].as_str().unwrap();
    let erased = receipt(&service, id, |found| found["state"] == "erased").await;
    assert_eq!(erased["atLoops"]["status"], 200, "{erased}");
    assert!(erased["atLoops"]["request"].is_number() && erased["atLoops"]["deletedAt"].is_string());
    assert_eq!(
        (&erased["erased"]["messages"], &erased["erased"]["contacts"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(erased["writeAheadLog"], "truncated");
    assert_eq!(erased["atLoops"]["confirmedAt"], Value::Null);
    tell(&service, "msg_1", &event("contact.deleted", GONE)).await;
    let confirmed = receipt(&service, id, |found| !found["atLoops"]["confirmedAt"].is_null()).await;
    assert!(!confirmed.to_string().contains(GONE) && !confirmed.to_string().contains(EMAIL_DOMAIN));
    let audit = service.admin("/api/audit").await.body.to_string();
    assert!(audit.contains(id) && !audit.contains(GONE), "{audit}");
    // The receipt is signed.
    let verify = async |receipt: &Value| {
        let text = receipt.to_string();
        setup.command_on(service.data(), &["erase", "--verify", "-"], text.as_bytes()).await
    };
    let genuine = verify(&confirmed).await;
    assert_eq!((genuine.code, genuine.stdout.trim()), (Some(0), "the receipt is genuine"));
    let mut forged = confirmed.clone();
    forged["erased"]["messages"] = json!(20);
    assert_eq!(verify(&forged).await.code, Some(1));
    // The receipt survives a crash, and is the only one.
    let service = service.crash_and_restart(&setup);
    let listed = service.admin("/api/erasures?state=erased").await.body;
    assert_eq!(listed["erasures"], json!([confirmed]));
    assert_eq!(service.admin("/api/erasures?state=open").await.body["erasures"], json!([]));
    let none = service.admin("/api/erasures/none").await;
    assert_eq!((none.status, &none.body["code"]), (404, &json!("unknown_erasure")));
}

#[tokio::test]
async fn each_delete_message_has_a_receipt() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service
        .accept("/v1/batch", json!({"batch": [deletion(GONE, "d1"), deletion(KEPT, "d2")]}))
        .await;
    service.message("d1", is_erased).await;
    service.message("d2", is_erased).await;
    let listed = service.admin("/api/erasures").await.body;
    let receipts = listed["erasures"].as_array().unwrap();
    assert_eq!(receipts.len(), 2, "{listed}");
    assert_ne!(receipts[0]["person"], receipts[1]["person"]);
    let page = service.admin("/api/erasures?limit=1").await.body;
    let rest = service.admin(&format!("/api/erasures?limit=1&before={}", page["next"])).await.body;
    assert_eq!([&page["erasures"][0], &rest["erasures"][0]], [&receipts[0], &receipts[1]]);
    loops.rest();
}

#[tokio::test]
async fn a_person_without_an_id_is_erased_by_address_through_the_api() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let address = format!("{GONE}@{EMAIL_DOMAIN}");
    let (status, asked) = ask(&service, json!({"email": address, "destination": "default"})).await;
    assert_eq!(status, 202, "{asked}");
    assert_eq!(loops.next().await.body, json!({"email": address}));
    let id = asked["id"].as_str().unwrap();
    receipt(&service, id, |found| found["state"] == "erased").await;
    let impossible = format!("{GONE}@nowhere");
    for (body, code, words) in [
        (json!({}), "which_person", "neither `userId` nor `email`"),
        (json!([]), "which_person", "not a JSON object"),
        (json!({"userId": GONE, "email": address}), "which_person", "both given"),
        (json!({"userId": " "}), "which_person", "`userId` is empty"),
        (json!({"userId": 5}), "which_person", "`userId` must be a string"),
        (json!({"user": GONE}), "which_person", "allowed are `userId`, `email`"),
        (json!({"email": impossible}), "which_person", "`email` is not an address"),
        (json!({"userId": GONE, "destination": "nowhere"}), "which_destination", "`destination`"),
    ] {
        let (status, answer) = ask(&service, body.clone()).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{body}");
        assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
        assert!(!answer.to_string().contains(GONE));
    }
    let unknown = service.admin("/api/erasures?destination=nowhere").await;
    assert_eq!(unknown.status, 400, "{unknown:?}");
    assert!(unknown.body.to_string().contains("it must be one of default"), "{unknown:?}");
    assert_eq!(service.admin("/api/erasures?destination=default").await.status, 200);
}

#[tokio::test]
async fn nothing_is_erased_while_loops_refuses_and_the_receipt_says_so() {
    let loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/contacts/delete" => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/identify", identify(GONE, "a1")).await;
    service.message("a1", |found| found["state"] == "delivered").await;
    let (_, asked) = ask(&service, json!({"userId": GONE})).await;
    let id = asked["id"].as_str().unwrap();
    let refused = receipt(&service, id, |found| !found["atLoops"]["problem"].is_null()).await;
    assert_eq!((&refused["state"], &refused["atLoops"]["status"]), (&json!("open"), &json!(400)));
    assert_eq!(refused["atLoops"]["problem"], "refused");
    assert_eq!(refused["erased"]["messages"], 0);
    assert!(is_on_disk(&service, GONE));
    let pending =
        |count| format!("segment_loops_erasures_pending{{destination=\"default\"}} {count}\n");
    let until = async |line: String| {
        let shown = async {
            while !metrics(&service).await.contains(&line) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, shown).await.expect("it is not shown");
    };
    until(pending(1)).await;
    // A replay asks Loops again.
    loops.now(|_| Reply::ok());
    let body = json!({"reason": "refused"});
    let replayed = service.request(reqwest::Method::POST, "/api/replay").json(&body);
    assert_eq!(Service::answer(replayed.bearer_auth(ADMIN_TOKEN)).await.status, 200);
    receipt(&service, id, |found| found["state"] == "erased").await;
    until(pending(0)).await;
}

#[tokio::test]
async fn a_command_erases_beside_the_service() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/identify", identify(GONE, "a1")).await;
    service.message("a1", |found| found["state"] == "delivered").await;
    loops.rest();
    let ran = setup.command_on(service.data(), &["erase", "--user", GONE], b"").await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked: Value = serde_json::from_str(&ran.stdout).unwrap();
    let id = asked["id"].as_str().unwrap();
    assert_eq!(loops.next().await.path, "/contacts/delete");
    let erased = receipt(&service, id, |found| found["state"] == "erased").await;
    let shown = setup.command_on(service.data(), &["erase", "--receipt", id], b"").await;
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout).unwrap(), erased);
    for arguments in
        [&["erase"][..], &["erase", "--user", "a", "--email", "b"], &["erase", "--user", " "]]
    {
        assert_ne!(setup.command_on(service.data(), arguments, b"").await.code, Some(0));
    }
}

#[tokio::test]
async fn without_a_subscription_that_deletes_nobody_is_erased() {
    let config = "[[subscriptions]]\nname = \"E\"\naction = \"sendEvent\"\nevents = [\"E\"]\n";
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").config(config).start();
    let (status, answer) = ask(&service, json!({"userId": GONE})).await;
    assert_eq!((status, &answer["code"]), (409, &json!("cannot_erase")), "{answer}");
    assert_eq!(service.admin("/api/erasures").await.body["erasures"], json!([]));
}

#[tokio::test]
async fn messages_of_an_erased_person_can_be_kept_from_loops_for_some_days() {
    let mut loops = ScriptedLoops::willing().await;
    let key = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__ERASED_BLOCK_DAYS";
    let setup = Setup::with_loops(&loops.base_url).env(key, "30");
    let service = setup.start();
    let (_, asked) = ask(&service, json!({"userId": GONE})).await;
    loops.next().await;
    receipt(&service, asked["id"].as_str().unwrap(), |found| found["state"] == "erased").await;
    service.accept("/v1/identify", identify(GONE, "blocked")).await;
    let blocked = service.message("blocked", |found| found["state"] != "pending").await;
    assert_eq!((&blocked["state"], &blocked["reason"]), (&json!("unmatched"), &json!("erased")));
    assert!(!blocked["detail"].to_string().contains(GONE), "{blocked}");
    service.accept("/v1/identify", identify(KEPT, "sent")).await;
    assert_eq!(loops.next().await.body["userId"], KEPT);
    // A deletion is sent nevertheless, and 31 days later everything is.
    service.accept("/v1/batch", json!({"batch": [deletion(GONE, "again")]})).await;
    assert_eq!(loops.next().await.path, "/contacts/delete");
    service.message("again", is_erased).await;
    service.alter("UPDATE receipts SET deleted_at = deleted_at - 31 * 86400000").await;
    service.accept("/v1/identify", identify(GONE, "later")).await;
    assert_eq!(loops.next().await.body["userId"], GONE);
    let wrong = setup.env(key, "401").run_to_end();
    assert!(wrong.0 == Some(3) && wrong.1.contains("erased_block_days"), "{wrong:?}");
}
