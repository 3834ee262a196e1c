//! Messages are listed by shared properties, failures are grouped by cause, and counts add up.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    ADMIN_TOKEN, EMAIL_DOMAIN, Reply, ScriptedLoops, Service, Setup, identify, track,
};

/// A second source.
const CONFIG: &str = "[sources.app]\nwrite_keys = ['app-key']\n";

const NOWHERE: &str = "http://127.0.0.1:9/api/v1";

/// The ids of the messages in a response, in its order.
fn ids(answer: &Value) -> Vec<&str> {
    let messages = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
    messages.iter().map(|message| message["messageId"].as_str().unwrap()).collect()
}

async fn get(service: &Service, path: &str) -> Value {
    let answer = service.admin(path).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

/// Sends a message of the second source.
async fn accept_from_app(service: &Service, message: Value) {
    let request = service.request(Method::POST, "/v1/track").basic_auth("app-key", Some(""));
    assert_eq!(Service::answer(request.body(message.to_string())).await.status, 200);
}

/// A service with messages in each final state: m1 is delivered, m2 to m4 are refused, m5 is unmatched, m6 lacks a
/// required field, and m7 of the second source is delivered.
async fn varied() -> (ScriptedLoops, Service) {
    let loops = ScriptedLoops::start(|seen| match seen.note().as_str() {
        "m2" | "m3" => Reply::status(400)
            .with_body(&format!(r#"{{"success":false,"message":"no list \"{}\""}}"#, seen.note())),
        "m4" => Reply::status(400).with_body(r#"{"success":false,"message":"no such event"}"#),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).config(CONFIG).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    for id in ["m2", "m3", "m4"] {
        let mut message = track("u2", id);
        message["event"] = json!("Signed Up");
        service.accept("/v1/track", message).await;
    }
    let page = json!({"type": "page", "userId": "u1", "messageId": "m5"});
    service.accept("/v1/page", page).await;
    let nobody = json!({"type": "identify", "anonymousId": "a1", "messageId": "m6"});
    service.accept("/v1/identify", nobody).await;
    accept_from_app(&service, track("u1", "m7")).await;
    for id in ["m1", "m2", "m3", "m4", "m5", "m6", "m7"] {
        service.message(id, |found| !found.is_null() && found["state"] != "pending").await;
    }
    (loops, service)
}

#[tokio::test]
async fn a_person_is_found_by_each_of_their_ids_and_the_address_in_any_case() {
    let service = Setup::with_loops(NOWHERE).start();
    let with_all = json!({
        "type": "identify", "userId": "u1", "anonymousId": "a1", "messageId": "m1",
        "traits": {"email": format!("Ada@{EMAIL_DOMAIN}")}
    });
    service.accept("/v1/identify", with_all).await;
    service.accept("/v1/track", track("u1", "m2")).await;
    let by_address = json!({
        "type": "track", "event": "Tested", "messageId": "m3",
        "properties": {"email": format!(" ada@{EMAIL_DOMAIN} ")}
    });
    service.accept("/v1/track", by_address).await;
    let address = EMAIL_DOMAIN.to_uppercase();
    for (query, expected) in [
        (format!("email=%20aDA@{address}"), vec!["m3", "m1"]),
        (format!("userId=ada@{address}"), vec!["m3", "m1"]),
        ("userId=u1".to_owned(), vec!["m2", "m1"]),
        ("userId=a1".to_owned(), vec!["m1"]),
        ("anonymousId=a1".to_owned(), vec!["m1"]),
        ("anonymousId=u1".to_owned(), vec![]),
        ("userId=U1".to_owned(), vec![]),
        (format!("email=grace@{EMAIL_DOMAIN}"), vec![]),
    ] {
        let found = get(&service, &format!("/api/messages?{query}")).await;
        assert_eq!(ids(&found), expected, "{query}");
    }
}

#[tokio::test]
async fn messages_are_listed_by_each_condition_and_by_all_together() {
    let (_loops, service) = varied().await;
    for (query, expected) in [
        ("", vec!["m7", "m6", "m5", "m4", "m3", "m2", "m1"]),
        ("messageId=m4", vec!["m4"]),
        ("messageId=none", vec![]),
        ("state=delivered", vec!["m7", "m1"]),
        ("state=failed", vec!["m6", "m4", "m3", "m2"]),
        ("state=unmatched", vec!["m5"]),
        ("state=pending", vec![]),
        ("reason=refused", vec!["m4", "m3", "m2"]),
        ("reason=invalid&state=failed", vec!["m6"]),
        ("source=app", vec!["m7"]),
        ("source=default&type=track", vec!["m4", "m3", "m2"]),
        ("destination=default&type=page", vec!["m5"]),
        ("event=Signed%20Up", vec!["m4", "m3", "m2"]),
        ("event=Tested", vec!["m7"]),
        ("event=Unheard", vec![]),
        ("subscription=Send+an+event", vec!["m7", "m4", "m3", "m2"]),
        ("subscription=Send+an+event&reason=refused&source=app", vec![]),
        ("userId=u2&state=failed", vec!["m4", "m3", "m2"]),
        ("from=1h&event=Tested", vec!["m7"]),
        ("to=1h", vec![]),
        ("from=2020-01-01&to=2020-01-02", vec![]),
        ("from=2020-01-01T00:00:00Z&state=unmatched", vec!["m5"]),
    ] {
        let found = get(&service, &format!("/api/messages?{query}")).await;
        assert_eq!(ids(&found), expected, "{query}");
        assert_eq!(found["next"], Value::Null, "{query}");
    }
    let track = &get(&service, "/api/messages?messageId=m4").await["messages"][0];
    assert_eq!((&track["event"], &track["state"]), (&json!("Signed Up"), &json!("failed")));
    let page = &get(&service, "/api/messages?messageId=m5").await["messages"][0];
    assert_eq!((&page["event"], &page["reason"]), (&Value::Null, &json!("no_subscription")));
}

#[tokio::test]
async fn the_pages_of_a_list_hold_each_message_once() {
    let (_loops, service) = varied().await;
    for (query, expected) in [
        ("state=failed", vec!["m6", "m4", "m3", "m2"]),
        ("type=track", vec!["m7", "m4", "m3", "m2"]),
        ("userId=u1", vec!["m7", "m5", "m1"]),
    ] {
        let mut found = Vec::new();
        let mut path = format!("/api/messages?{query}&limit=1");
        loop {
            let page = get(&service, &path).await;
            assert_eq!(page["messages"].as_array().unwrap().len(), 1, "{page}");
            found.push(ids(&page)[0].to_owned());
            if page["next"].is_null() {
                break;
            }
            path = format!("/api/messages?{query}&limit=1&before={}", page["next"]);
        }
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn failures_are_grouped_by_what_they_have_in_common() {
    let (_loops, service) = varied().await;
    let found = get(&service, "/api/failures").await;
    assert_eq!((&found["read"], &found["complete"]), (&json!(4), &json!(true)));
    let groups = found["groups"].as_array().unwrap();
    let counts: Vec<_> =
        groups.iter().map(|group| (&group["reason"], &group["deliveries"])).collect();
    assert_eq!(
        counts,
        [
            (&json!("refused"), &json!(2)),
            (&json!("invalid"), &json!(1)),
            (&json!("refused"), &json!(1))
        ]
    );
    let largest = &groups[0];
    assert_eq!(largest["cause"], "Loops answered …: no list \"…\"");
    assert_eq!(largest["example"]["messageId"], "m3");
    assert_eq!(
        (&largest["destination"], &largest["subscription"]),
        (&json!("default"), &json!("Send an event"))
    );
    // Compared as times, because their fractions are written without trailing zeros.
    let time = |key: &str| largest[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("firstAt") <= time("lastAt"), "{largest}");

    for (query, expected) in [
        ("reason=invalid", 1),
        ("event=Signed+Up", 3),
        ("userId=u2", 3),
        ("userId=u1", 0),
        ("source=app", 0),
        ("to=1h", 0),
    ] {
        let found = get(&service, &format!("/api/failures?{query}")).await;
        let of = |group: &Value| group["deliveries"].as_u64().unwrap();
        let deliveries: u64 = found["groups"].as_array().unwrap().iter().map(of).sum();
        assert_eq!(deliveries, expected, "{query}: {found}");
    }
}

/// The sum of the counts of a stage.
fn sum(found: &Value, stage: &str) -> u64 {
    let tallies = found["tallies"].as_array().unwrap().iter();
    let of_stage = tallies.filter(|tally| tally["stage"] == stage);
    of_stage.map(|tally| tally["count"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn tallies_add_up() {
    let (_loops, service) = varied().await;
    let stages = ["received", "replayed", "unmatched", "delivered", "failed"];
    let of_deliveries = ["delivery_delivered", "delivery_failed"];
    for query in ["", "?step=hour", "?step=minute", "?step=minute&from=1h"] {
        let found = get(&service, &format!("/api/tallies{query}")).await;
        assert_eq!(stages.map(|stage| sum(&found, stage)), [7, 0, 1, 2, 4], "{query}: {found}");
        assert_eq!(of_deliveries.map(|stage| sum(&found, stage)), [2, 4], "{query}: {found}");
    }
    assert_eq!(get(&service, "/api/tallies?to=1h").await["tallies"], json!([]));
    let replay = service.request(Method::POST, "/api/replay").bearer_auth(ADMIN_TOKEN);
    let replay = replay.json(&json!({"allFailed": true}));
    assert_eq!(Service::answer(replay).await.body["replayed"], 4);
    for id in ["m2", "m3", "m4", "m6"] {
        service.message(id, |found| found["replay"] == 1 && found["state"] == "failed").await;
    }
    let found = get(&service, "/api/tallies").await;
    assert_eq!(stages.map(|stage| sum(&found, stage)), [7, 4, 1, 2, 8], "{found}");
}

#[tokio::test]
async fn the_names_of_events_are_known_by_source() {
    let (_loops, service) = varied().await;
    let names = async |query: &str| {
        let found = get(&service, &format!("/api/event-names{query}")).await;
        let of = |name: &Value| format!("{} {}", name["source"], name["name"]).replace('"', "");
        let mut names: Vec<String> =
            found["eventNames"].as_array().unwrap().iter().map(of).collect();
        names.sort();
        names
    };
    assert_eq!(names("").await, ["app Tested", "default Signed Up"]);
    assert_eq!(names("?source=app").await, ["app Tested"]);
}

#[tokio::test]
async fn a_name_that_is_no_longer_configured_is_found_while_records_have_it() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).config(CONFIG);
    let service = setup.start();
    accept_from_app(&service, track("u1", "m1")).await;
    service.message("m1", |found| found["state"] == "delivered").await;
    service.write_config("");
    let reload = service.request(Method::POST, "/api/reload");
    let reload = reload.bearer_auth(ADMIN_TOKEN);
    assert_eq!(Service::answer(reload).await.status, 200);
    assert_eq!(ids(&get(&service, "/api/messages?source=app").await), ["m1"]);
}

#[tokio::test]
async fn what_no_message_can_meet_is_rejected_with_what_is_allowed() {
    let service = Setup::with_loops(NOWHERE).config(CONFIG).start();
    for (query, named) in [
        ("messages?userId=", "`userId` is empty"),
        ("messages?email=grace@x.example&userId=grace", "only one of `userId`"),
        ("messages?messageId=grace&state=failed", "`messageId` stands alone"),
        (
            "messages?state=grace",
            "`state` must be one of pending, held, delivered, shadowed, failed, unmatched",
        ),
        ("messages?reason=grace", "`reason` must be one of refused, expired"),
        ("messages?reason=refused&state=delivered", "`reason` is for failed messages"),
        ("messages?type=grace", "`type` must be one of identify, track"),
        ("messages?event=grace&type=page", "`event` is for tracks"),
        ("messages?subscription=Send+an+event&state=unmatched", "no `subscription`"),
        ("messages?from=2026-11-02&to=2026-11-01", "`from` must be before `to`"),
        ("messages?to=grace", "`to` must be a time such as"),
        ("messages?limit=1000000", "`limit` must be a whole number from 1 to 500"),
        ("messages?before=grace", "`before` must be a whole number"),
        ("messages?destination=grace", "`destination` is unknown: it must be one of default"),
        ("messages?source=grace", "`source` is unknown: it must be one of app, default"),
        ("messages?subscription=grace", "`subscription` is unknown: it must be one of"),
        ("messages?grace@x.example", "a parameter is unknown: allowed are userId"),
        ("failures?state=failed", "a parameter is unknown: allowed are userId"),
        ("failures?source=grace", "`source` is unknown"),
        ("tallies?step=grace", "`step` must be one of minute, hour"),
        ("tallies?from=1h&to=2h", "`from` must be before `to`"),
        ("event-names?source=grace", "`source` is unknown: it must be one of app, default"),
    ] {
        let answer = service.admin(&format!("/api/{query}")).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("bad_query")), "{query}");
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains(named), "{query}: {message}");
        assert!(!message.contains("grace"), "{query}: {message}");
    }
}
