//! What the program knows about contacts: upserts that change nothing are not sent, and no event gives a contact
//! another person's address.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::console::Visitor;
use crate::support::{ADMIN_TOKEN, EMAIL_DOMAIN, Reply, ScriptedLoops, Seen, Service, Setup};

fn setup(base_url: &str, skip_unchanged: &str) -> Setup {
    Setup::with_loops(base_url)
        .env("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__SKIP_UNCHANGED", skip_unchanged)
}

/// Sends a message, and returns it once it has ended.
async fn end(service: &Service, id: &str, mut message: Value) -> Value {
    message["messageId"] = id.into();
    service.accept("/v1/batch", json!({"batch": [message]})).await;
    service.message(id, |found| found["state"] == "delivered" || found["state"] == "failed").await
}

async fn identify(service: &Service, id: &str, traits: Value) -> Value {
    end(service, id, json!({"type": "identify", "userId": "u1", "traits": traits})).await
}

fn paths(loops: &mut ScriptedLoops) -> Vec<String> {
    loops.rest().into_iter().map(|seen| seen.path).collect()
}

/// The number of saved requests for each reason.
async fn saved(service: &Service) -> BTreeMap<String, String> {
    let metrics = reqwest::get(format!("{}/metrics", service.base_url)).await.unwrap();
    let lines = metrics.text().await.unwrap();
    let prefix = "segment_loops_requests_saved_total{destination=\"default\",how=\"";
    let counted = lines.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once("\"} "));
    counted.map(|(how, count)| (how.to_owned(), count.to_owned())).collect()
}

#[tokio::test]
async fn an_upsert_that_changes_nothing_is_not_sent() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = setup(&loops.base_url, "on");
    let service = setup.start();
    let traits = json!({"email": format!("ada@{EMAIL_DOMAIN}"), "plan": "pro", "seats": 3});
    let first = identify(&service, "first", traits.clone()).await;
    let again = identify(&service, "again", traits.clone()).await;
    let delivery = &again["deliveries"][0];
    assert_eq!(delivery["state"], "delivered");
    assert_eq!((&delivery["notNeeded"], &delivery["request"]), (&json!("unchanged"), &Value::Null));
    let request = first["deliveries"][0]["request"]["id"].to_string();
    let detail = delivery["detail"].as_str().unwrap();
    assert!(detail.ends_with(&format!("request {request}")), "{detail} {first}");
    // An upsert with only some of the known values changes nothing either.
    identify(&service, "part", json!({"plan": "pro"})).await;
    assert_eq!(paths(&mut loops), ["/contacts/update"]);
    assert_eq!(saved(&service).await["unchanged"], "2");

    // Each of these changes something, or may.
    identify(&service, "plan", json!({"plan": "free"})).await;
    identify(&service, "back", json!({"plan": "pro"})).await;
    identify(&service, "null", json!({"plan": null})).await;
    identify(&service, "new", json!({"plan": null, "company": "Acme"})).await;
    identify(&service, "text", json!({"seats": "3"})).await;
    assert_eq!(paths(&mut loops).len(), 5);

    // The known values survive a crash.
    let service = service.crash_and_restart(&setup);
    identify(&service, "known", json!({"company": "Acme", "plan": null})).await;
    assert_eq!(paths(&mut loops), [""; 0]);
}

#[tokio::test]
async fn what_others_may_have_changed_is_sent() {
    let mut loops = ScriptedLoops::willing().await;
    let service = setup(&loops.base_url, "on").start();
    let email = format!("ada@{EMAIL_DOMAIN}");
    let mut number = 0;
    let mut sent = async |what: &str, message: Value| {
        number += 1;
        end(&service, &format!("m{number}"), message).await;
        let paths = paths(&mut loops);
        assert!(paths.len() <= 1, "{what}: {paths:?}");
        paths.len()
    };
    let of =
        |user: &str, traits: Value| json!({"type": "identify", "userId": user, "traits": traits});
    let lists = of("lists", json!({"plan": "pro", "mailingLists": {"news": true}}));
    let subscribed = of("subscribed", json!({"plan": "pro", "subscribed": false}));
    for what in [lists, subscribed] {
        assert_eq!([sent("first", what.clone()).await, sent("again", what).await], [1, 1]);
    }
    // Two people with one address are one contact to Loops, or may become one.
    let (one, two) = (of("one", json!({"email": email})), of("two", json!({"email": email})));
    assert_eq!(sent("one", one.clone()).await, 1);
    assert_eq!(sent("one", one.clone()).await, 0);
    assert_eq!(sent("two", two.clone()).await, 1);
    assert_eq!([sent("one", one).await, sent("two", two).await], [1, 1]);
    // Nothing is known about a contact that was deleted.
    let gone = of("gone", json!({"plan": "pro"}));
    assert_eq!([sent("gone", gone.clone()).await, sent("gone", gone.clone()).await], [1, 0]);
    assert_eq!(sent("delete", json!({"type": "delete", "userId": "gone"})).await, 1);
    assert_eq!(sent("gone", gone.clone()).await, 1);
}

#[tokio::test]
async fn nothing_is_known_after_a_request_that_failed() {
    let script = |seen: &Seen| match seen.body["plan"] == "bad" {
        true => Reply::status(400),
        false => Reply::ok(),
    };
    let mut loops = ScriptedLoops::start(script).await;
    let service = setup(&loops.base_url, "on").start();
    for (id, plan) in [("a", "pro"), ("b", "pro"), ("c", "bad"), ("d", "pro"), ("e", "pro")] {
        identify(&service, id, json!({"plan": plan})).await;
    }
    let plans: Vec<Value> =
        loops.rest().into_iter().map(|seen| seen.body["plan"].clone()).collect();
    assert_eq!(plans, ["pro", "bad", "pro"]);
    // A replay is always sent.
    let body = json!({"state": "delivered", "messageIds": ["e"]});
    let replayed = service.request(reqwest::Method::POST, "/api/replay").json(&body);
    assert_eq!(Service::answer(replayed.bearer_auth(ADMIN_TOKEN)).await.status, 200);
    assert_eq!(loops.next().await.body["plan"], "pro");
}

#[tokio::test]
async fn properties_of_an_event_count_as_those_of_its_contact() {
    let mut loops = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let text = r#"
[[subscriptions]]
name = "Contact"
action = "createOrUpdateContact"
trigger = 'type = "identify"'
[[subscriptions]]
name = "Event"
action = "sendEvent"
trigger = 'type = "track"'
[subscriptions.mapping]
contactProperties = { plan = { "@path" = "$.properties.plan" } }
"#;
    std::fs::write(&file, text).unwrap();
    let setup = setup(&loops.base_url, "on").env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap());
    let service = setup.start();
    let upgraded = |plan: &str| json!({"type": "track", "userId": "u1", "event": "Upgraded", "properties": {"plan": plan}});
    end(&service, "a", upgraded("pro")).await;
    identify(&service, "b", json!({"plan": "pro"})).await;
    end(&service, "c", upgraded("free")).await;
    identify(&service, "d", json!({"plan": "free"})).await;
    // The first upsert also sets `source`, and the second one changes nothing.
    assert_eq!(paths(&mut loops), ["/events/send", "/contacts/update", "/events/send"]);
}

#[tokio::test]
async fn observing_sends_everything_and_counts() {
    let mut loops = ScriptedLoops::willing().await;
    for (skip_unchanged, would) in [("observe", 2), ("off", 0)] {
        let service = setup(&loops.base_url, skip_unchanged).start();
        for id in ["a", "b", "c"] {
            identify(&service, id, json!({"plan": "pro"})).await;
        }
        assert_eq!(paths(&mut loops).len(), 3, "{skip_unchanged}");
        let saved = saved(&service).await;
        assert_eq!(saved["unchanged_would"], would.to_string());
        let now = service.request(reqwest::Method::GET, "/api/status").bearer_auth(ADMIN_TOKEN);
        let day = Service::answer(now).await.body["funnel"][1].clone();
        assert_eq!(day["requests"], 3, "{day}");
        assert_eq!(day["requestsSaved"]["unchanged_would"].as_u64().unwrap_or(0), would);
    }
}

#[tokio::test]
async fn an_event_does_not_give_its_contact_the_address_of_another() {
    let mut loops = ScriptedLoops::willing().await;
    let (ada, friend) = (format!("ada@{EMAIL_DOMAIN}"), format!("friend@{EMAIL_DOMAIN}"));
    for (identity, expected) in
        [("guard", None), ("observe", Some(&friend)), ("off", Some(&friend))]
    {
        let key = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__IDENTITY";
        let service = Setup::with_loops(&loops.base_url).env(key, identity).start();
        let invited = |email: &str| json!({"type": "track", "userId": "u1", "event": "Teammate Invited", "properties": {"email": email}});
        // Before an upsert with an address, any address may be the person's own.
        for (id, email) in [("friend", &friend), ("ada", &ada)] {
            end(&service, id, invited(email)).await;
            assert_eq!(loops.next().await.body["email"], json!(email));
        }
        identify(&service, "own", json!({"email": ada})).await;
        loops.next().await;
        let message = end(&service, "invited", invited(&friend)).await;
        let seen = loops.next().await;
        assert_eq!(seen.body.get("email"), expected.map(|email| json!(email)).as_ref());
        assert_eq!(seen.body["eventProperties"]["email"], json!(friend), "the event keeps it");
        let warnings = message["deliveries"][0]["warnings"].to_string();
        assert_eq!(warnings.contains("address"), identity != "off", "{warnings}");
        assert!(!warnings.contains(EMAIL_DOMAIN));
        // An upsert changes the address, which is then the contact's own.
        identify(&service, "moved", json!({"email": friend})).await;
        assert_eq!(loops.next().await.body["email"], json!(friend));
        end(&service, "after", invited(&friend)).await;
        assert_eq!(loops.next().await.body["email"], json!(friend));
    }
}

#[tokio::test]
async fn an_event_without_an_address_is_linked_to_its_contact_by_the_last_one() {
    let mut loops = ScriptedLoops::willing().await;
    let (ada, friend) = (format!("ada@{EMAIL_DOMAIN}"), format!("friend@{EMAIL_DOMAIN}"));
    let key = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__IDENTITY";
    let setup = Setup::with_loops(&loops.base_url).env(key, "link");
    let service = setup.start();
    let event = |properties: Value| json!({"type": "track", "userId": "u1", "event": "E", "properties": properties});
    end(&service, "unknown", event(json!({}))).await;
    assert_eq!(loops.next().await.body.get("email"), None, "nothing is known of u1 yet");
    identify(&service, "own", json!({"email": ada})).await;
    loops.next().await;
    let linked = async |id: &str, properties: Value, loops: &mut ScriptedLoops| {
        end(&service, id, event(properties)).await;
        assert_eq!(loops.next().await.body["email"], json!(ada), "{id}");
    };
    linked("linked", json!({}), &mut loops).await;
    linked("of-a-friend", json!({"email": friend}), &mut loops).await;
    // An identify without an address changes nothing, and one with another does.
    identify(&service, "plan", json!({"plan": "pro"})).await;
    loops.next().await;
    linked("still", json!({}), &mut loops).await;
    let service = service.stop_and_restart(&setup).await;
    identify(&service, "moved", json!({"email": friend})).await;
    loops.next().await;
    end(&service, "after", event(json!({}))).await;
    assert_eq!(loops.next().await.body["email"], json!(friend));
    // Events of other people are sent without the address.
    let other = json!({"type": "track", "userId": "u2", "event": "E"});
    end(&service, "other", other).await;
    assert_eq!(loops.next().await.body.get("email"), None);
}

#[tokio::test]
async fn contacts_that_loops_may_mix_up_are_listed() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let identified = async |user: &str, address: &str| {
        let message = json!({"type": "identify", "userId": user, "traits": {"email": format!("{address}@{EMAIL_DOMAIN}")}});
        end(&service, &format!("{user}-{address}"), message).await;
    };
    for address in ["a", "b", "c", "d", "e"] {
        identified("team", address).await;
    }
    assert_eq!(service.admin("/api/status").await.body["conflicts"], json!([]));
    identified("team", "f").await;
    identified("u1", "ada").await;
    identified("u2", "ada").await;
    let status = service.admin("/api/status").await.body;
    let mut conflicts = status["conflicts"].as_array().unwrap().clone();
    conflicts.sort_by_key(|one| one["kind"].to_string());
    let [addresses, users] = &conflicts[..] else { panic!("{conflicts:?}") };
    assert_eq!((&addresses["kind"], &addresses["count"]), (&json!("addresses"), &json!(6)));
    assert_eq!((&users["kind"], &users["count"]), (&json!("user_ids"), &json!(2)));
    let page = Visitor::with(&service, ADMIN_TOKEN).await.get("/console").await.text;
    assert!(page.contains("one user id was given 6 addresses on one day"), "{page}");
    assert!(page.contains("2 user ids have one address"), "{page}");
    assert!(page.contains(&format!("/console/messages/{}", users["seq"])), "{page}");
    assert!(!page.contains(EMAIL_DOMAIN), "{page}");
}

#[tokio::test]
async fn an_identify_that_arrives_late_overwrites_nothing_newer() {
    let mut loops = ScriptedLoops::willing().await;
    let key = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__STALE";
    let service = Setup::with_loops(&loops.base_url).env(key, "skip").start();
    let at = |hour: u32, traits: Value| json!({"type": "identify", "userId": "u1", "traits": traits, "timestamp": format!("2026-11-20T{hour:02}:00:00Z")});
    let newer = json!({"plan": "pro", "seats": 3, "mailingLists": {"news": false}});
    end(&service, "newer", at(12, newer.clone())).await;
    loops.next().await;

    let mut older = newer.clone();
    older["company"] = "Acme".into();
    older["mailingLists"]["tips"] = true.into();
    let message = end(&service, "older", at(9, older)).await;
    let body = loops.next().await.body;
    assert_eq!(body, json!({"userId": "u1", "company": "Acme", "mailingLists": {"tips": true}}));
    let warnings = message["deliveries"][0]["warnings"].to_string();
    for name in ["`plan`", "`seats`", "`source`", "`mailingLists.news`"] {
        assert!(warnings.contains(name), "{name} is not in {warnings}");
    }

    let message = end(&service, "stale", at(8, newer.clone())).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(message["deliveries"][0]["notNeeded"], "stale");
    assert_eq!(message["deliveries"][0]["request"], Value::Null);
    // Changes with the same or a later time are sent, and so are events of any age.
    end(&service, "same", at(12, newer.clone())).await;
    assert_eq!(loops.next().await.body["plan"], "pro");
    let event =
        json!({"type": "track", "userId": "u1", "event": "E", "timestamp": "2026-11-20T01:00:00Z"});
    end(&service, "event", event).await;
    assert_eq!(loops.next().await.path, "/events/send");

    // Without the setting, the last message to arrive wins, as with Segment.
    let service = Setup::with_loops(&loops.base_url).start();
    for (id, hour) in [("a", 12), ("b", 9)] {
        end(&service, id, at(hour, json!({"plan": id}))).await;
        assert_eq!(loops.next().await.body["plan"], id);
    }
}

/// The response of Loops to an event without an address before it has a contact.
fn unknown_contact(seen: &Seen, known: &mut bool) -> Reply {
    *known |= seen.body.get("email").is_some();
    match seen.path == "/events/send" && !*known {
        true => Reply::status(400),
        false => Reply::ok(),
    }
}

#[tokio::test]
async fn an_event_that_came_before_its_contact_is_sent_again_once_by_itself() {
    let known = std::sync::Mutex::new(false);
    let script = move |seen: &Seen| unknown_contact(seen, &mut known.lock().unwrap());
    let mut loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let track = json!({"type": "track", "userId": "u1", "event": "Signed Up"});
    assert_eq!(end(&service, "early", track).await["state"], "failed");
    // Another event without an address changes nothing.
    let other = json!({"type": "track", "userId": "u2", "event": "Signed Up"});
    assert_eq!(end(&service, "other", other).await["state"], "failed");
    identify(&service, "identify", json!({"email": format!("ada@{EMAIL_DOMAIN}")})).await;
    let message = service.message("early", |found| found["state"] == "delivered").await;
    assert_eq!(
        (&message["replay"], message["deliveries"].as_array().unwrap().len()),
        (&json!(1), 2)
    );
    let refused = &message["deliveries"][0];
    assert_eq!((&refused["state"], &refused["superseded"]), (&json!("failed"), &json!(true)));
    assert!(refused["detail"].as_str().unwrap().contains("sent again automatically"), "{refused}");
    let paths = paths(&mut loops);
    assert_eq!(paths, ["/events/send", "/events/send", "/contacts/update", "/events/send"]);
    let other = service.message("other", |_| true).await;
    assert_eq!((&other["state"], &other["replay"]), (&json!("failed"), &json!(0)));
    let metrics = reqwest::get(format!("{}/metrics", service.base_url)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("segment_loops_revived_total{destination=\"default\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_event_does_not_wait_for_its_contact_if_that_is_turned_off() {
    let known = std::sync::Mutex::new(false);
    let script = move |seen: &Seen| unknown_contact(seen, &mut known.lock().unwrap());
    let mut loops = ScriptedLoops::start(script).await;
    let key = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__AWAIT_CONTACT_S";
    let service = Setup::with_loops(&loops.base_url).env(key, "0").start();
    let track = json!({"type": "track", "userId": "u1", "event": "Signed Up"});
    end(&service, "early", track).await;
    for id in ["a", "b"] {
        identify(&service, id, json!({"email": format!("{id}@{EMAIL_DOMAIN}")})).await;
    }
    assert_eq!(service.message("early", |_| true).await["state"], "failed");
    assert_eq!(paths(&mut loops), ["/events/send", "/contacts/update", "/contacts/update"]);
}
