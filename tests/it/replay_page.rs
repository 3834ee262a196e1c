//! Replaying in the console: it is shown before it is done, confirmed if it is dangerous, and recorded.

use serde_json::{Value, json};

use crate::console::{Shown, VIEWER_TOKEN, Visitor, set_up};
use crate::support::{ADMIN_TOKEN, Reply, ScriptedLoops, Service, identify, track};

/// The hidden fields of the form on a page.
fn fields(page: &Shown) -> Vec<(String, String)> {
    let form = page.text.split("<form class=\"confirm\"").nth(1).unwrap_or_default();
    let form = form.split("</form>").next().unwrap();
    let attribute = |input: &str, name: &str| {
        let (_, rest) = input.split_once(&format!("{name}=\""))?;
        Some(rest.split('"').next()?.to_owned())
    };
    let hidden = form.split("<input type=\"hidden\"").skip(1);
    hidden
        .map(|input| (attribute(input, "name").unwrap(), attribute(input, "value").unwrap()))
        .collect()
}

async fn confirm(visitor: &Visitor<'_>, fields: &[(String, String)], number: &str) -> Shown {
    let mut form: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    form.push(("number", number));
    visitor.post("/console/replay", &form, &[]).await
}

/// Sends messages that Loops refuses, and one that it accepts.
async fn refused(loops: &ScriptedLoops, service: &Service) {
    loops.now(|seen| match seen.path.as_str() {
        "/events/send" => Reply::status(400).with_body(r#"{"message":"no such event"}"#),
        _ => Reply::ok(),
    });
    service.accept("/v1/identify", identify("ada", "about")).await;
    for id in ["e1", "e2"] {
        service.accept("/v1/track", track("ada", id)).await;
        service.message(id, |message| message["state"] == "failed").await;
    }
    service.message("about", |message| message["state"] == "delivered").await;
    loops.now(|_| Reply::ok());
}

#[tokio::test]
async fn what_failed_is_counted_shown_and_sent_again() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    refused(&loops, &service).await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let failures = visitor.get("/console/failures").await;
    let (_, link) = failures.text.split_once("href=\"/console/replay?").unwrap();
    let link = link.split('"').next().unwrap().replace("&#38;", "&");
    let page = visitor.get(&format!("/console/replay?{link}")).await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("2 messages would be sent again"), "{}", page.text);
    assert!(page.text.contains("e1") && page.text.contains("e2"), "{}", page.text);
    assert!(page.text.contains("None is on record"), "{}", page.text);
    // A message that fails after the count is not replayed.
    loops.now(|seen| match seen.note().as_str() {
        "late" => Reply::status(400),
        _ => Reply::ok(),
    });
    service.accept("/v1/track", track("bob", "late")).await;
    service.message("late", |message| message["state"] == "failed").await;
    let answer = confirm(&visitor, &fields(&page), "").await;
    assert_eq!(
        (answer.status, answer.location()),
        (303, "/console/replay#past"),
        "{}",
        answer.text
    );
    for id in ["e1", "e2"] {
        let sent = service.message(id, |message| message["state"] == "delivered").await;
        assert_eq!(sent["replay"], 1, "{sent}");
    }
    assert_eq!(service.message("late", |_| true).await["replay"], 0);
    let page = visitor.get("/console/replay").await;
    assert!(page.text.contains("2 replayed, 0 without contents"), "{}", page.text);
    assert!(page.text.contains("reason refused"), "{}", page.text);
}

#[tokio::test]
async fn the_page_does_not_wait_for_the_count() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    refused(&loops, &service).await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let mut answer = visitor.open("/console/replay?state=failed", &[]).await;
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let mut parts = Vec::new();
    while let Some(part) = answer.chunk().await.unwrap() {
        parts.push(String::from_utf8(part.to_vec()).unwrap());
    }
    assert!(parts[0].contains("Counting the messages"), "{}", parts[0]);
    assert!(!parts[0].contains("would be sent again"), "{}", parts[0]);
    let rest = parts[1..].concat();
    assert!(rest.contains("2 messages would be sent again"), "{rest}");
    assert!(rest.contains("Earlier replays") && rest.contains("</html>"), "{rest}");
}

#[tokio::test]
async fn what_was_delivered_is_sent_again_only_if_its_number_is_typed() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    refused(&loops, &service).await;
    loops.rest();
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let page = visitor.get("/console/replay?state=all&destination=default").await;
    assert!(page.text.contains("3 messages would be sent again"), "{}", page.text);
    assert!(page.text.contains("1 of them was delivered"), "{}", page.text);
    assert!(page.text.contains("Type 3 to confirm"), "{}", page.text);
    for wrong in ["", "2", "yes"] {
        let answer = confirm(&visitor, &fields(&page), wrong).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(
            answer.text.contains("Nothing was replayed: go back and type 3"),
            "{}",
            answer.text
        );
    }
    assert!(loops.rest().is_empty());
    assert_eq!(confirm(&visitor, &fields(&page), " 3 ").await.status, 303);
    service
        .message("about", |message| message["replay"] == 1 && message["state"] == "delivered")
        .await;
}

#[tokio::test]
async fn what_ended_since_the_count_is_not_sent_unseen() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    refused(&loops, &service).await;
    loops.now(|seen| match seen.note().as_str() {
        "waiting" => Reply::status(503),
        _ => Reply::ok(),
    });
    service.accept("/v1/track", track("bob", "waiting")).await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let page = visitor.get("/console/replay?state=all&destination=default").await;
    assert!(page.text.contains("Type 3 to confirm"), "{}", page.text);
    loops.now(|_| Reply::ok());
    service.message("waiting", |message| message["state"] == "delivered").await;
    loops.rest();
    let answer = confirm(&visitor, &fields(&page), "3").await;
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("there are 4 messages now, not 3"), "{}", answer.text);
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn one_message_and_one_person_can_be_chosen() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    refused(&loops, &service).await;
    service.accept("/v1/track", track("bob", "b1")).await;
    service.message("b1", |message| message["state"] == "delivered").await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let seq = service.message("e2", |_| true).await["seq"].clone();
    let page = visitor.get(&format!("/console/replay?state=failed&message={seq}")).await;
    assert!(page.text.contains("1 message would be sent again"), "{}", page.text);
    let found = visitor.post("/console/search", &[("q", "bob")], &[]).await;
    let (_, person) = found.location().split_once("/console/people/").unwrap();
    let page = visitor.get(&format!("/console/replay?state=delivered&person={person}")).await;
    assert!(page.text.contains("1 message would be sent again"), "{}", page.text);
    assert_eq!(confirm(&visitor, &fields(&page), "1").await.status, 303);
    service.message("b1", |message| message["replay"] == 1).await;
}

#[tokio::test]
async fn a_viewer_sees_the_count_and_can_send_nothing() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    refused(&loops, &service).await;
    loops.rest();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let form = fields(&admin.get("/console/replay?state=failed").await);
    let viewer = Visitor::with(&service, VIEWER_TOKEN).await;
    let page = viewer.get("/console/replay?state=failed").await;
    assert!(page.text.contains("2 messages would be sent again"), "{}", page.text);
    assert!(!page.text.contains("class=\"confirm\""), "{}", page.text);
    assert_eq!(confirm(&viewer, &form, "2").await.status, 403);
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn a_choice_that_makes_no_sense_is_explained() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    for (query, expected) in [
        ("state=pending", "only finished messages"),
        ("state=delivered", "choose at least one more condition"),
        ("state=all&reason=refused", "only failed messages have a"),
        ("state=unmatched&subscription=Track%20events", ""),
        ("message=x", "must be the number of a message"),
        ("from=yesterday", "must be a time"),
    ] {
        let page = visitor.get(&format!("/console/replay?{query}")).await;
        assert_eq!(page.status, 400, "{query}: {}", page.text);
        assert!(page.text.contains(expected), "{query}: {}", page.text);
    }
    assert_eq!(visitor.get("/console/replay?state=failed&message=1").await.status, 404);
    let page = visitor.get("/console/replay?state=failed").await;
    assert!(page.text.contains("Nothing to replay"), "{}", page.text);
    let forged = [("state", "failed"), ("until", "9"), ("expected", "0"), ("colour", "red")];
    assert_eq!(visitor.post("/console/replay", &forged, &[]).await.status, 400);
}

/// Subscriptions for three events. One event is sent under another name in each version, and another is only sent from
/// version 2 on.
fn version(version: u32) -> String {
    let subscription = |name: &str, event: &str, sent: &str| {
        format!(
            "[[subscriptions]]\nname = '{name}'\naction = 'sendEvent'\ntrigger = 'event = \"{event}\"'\nmapping.eventName = '{sent}'\n"
        )
    };
    let mut all = subscription("Renamed", "Tested", &format!("tested{version}"));
    all += &subscription("As ever", "Tested", "asEver");
    all += &subscription("Upgrades", "Upgraded", "upgraded");
    if version > 1 {
        all += &subscription("New", "Left", "left");
    }
    all
}

async fn reload(service: &Service, version_now: u32) {
    service.write_config(&version(version_now));
    let request = service.request(reqwest::Method::POST, "/api/reload");
    let answer = Service::answer(request.bearer_auth(ADMIN_TOKEN)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn only_what_the_new_mapping_changes_is_sent_again() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = set_up(&loops).config(&version(1));
    let service = setup.start();
    loops.now(|seen| match seen.body["eventName"].as_str() {
        Some("upgraded") => Reply::status(400),
        _ => Reply::ok(),
    });
    let sent = |loops: &mut ScriptedLoops| {
        let names = loops.rest().into_iter().map(|seen| seen.body["eventName"].clone());
        let mut names: Vec<String> =
            names.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        names.sort();
        names
    };
    for (id, event) in [("tested", "Tested"), ("upgraded", "Upgraded"), ("left", "Left")] {
        let mut message = track("ada", id);
        message["event"] = event.into();
        service.accept("/v1/track", message).await;
        service.message(id, |message| message["state"] != "pending").await;
    }
    assert_eq!(sent(&mut loops), ["asEver", "tested1", "upgraded"]);
    let count = async |state: &str| {
        let ask =
            json!({"state": state, "destination": "default", "onlyChanged": true, "dryRun": true});
        let request = service.request(reqwest::Method::POST, "/api/replay");
        let request = request.bearer_auth(ADMIN_TOKEN).body(ask.to_string());
        Service::answer(request).await.body
    };
    let counted = count("all").await;
    let nothing = (&json!(0), &json!(3), &json!({}));
    assert_eq!((&counted["replayed"], &counted["unchanged"], &counted["bySubscription"]), nothing);

    reload(&service, 2).await;
    let counted = count("all").await;
    let changes = json!({"Renamed": 1, "New": 1});
    assert_eq!(
        (&counted["replayed"], &counted["unchanged"], &counted["bySubscription"]),
        (&json!(2), &json!(1), &changes)
    );
    // The failed message would be sent unchanged.
    assert_eq!((&count("failed").await["replayed"], 0), (&json!(0), 0));
    let command =
        ["replay", "--state", "all", "--destination", "default", "--only-changed", "--dry-run"];
    let setup = setup.config(&version(2));
    let ran = setup.command_on(service.data(), &command, b"").await;
    for expected in [
        "would be replayed: 2\n",
        "  under New: 1\n",
        "  under Renamed: 1\n",
        "unchanged by the subscriptions in force, not replayed: 1\n",
    ] {
        assert!(ran.stdout.contains(expected), "{expected}: {}", ran.stdout);
    }

    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let page = visitor.get("/console/replay?state=all&destination=default&changed=on").await;
    for expected in [
        "2 messages would be sent again",
        "1 of them was delivered",
        "<li>Renamed: 1 message</li>",
        "<li>New: 1 message</li>",
        "For 1 message that matches, nothing changes.",
    ] {
        assert!(page.text.contains(expected), "{expected}: {}", page.text);
    }
    let answer = confirm(&visitor, &fields(&page), "2").await;
    assert_eq!(answer.status, 303, "{}", answer.text);
    for id in ["tested", "left"] {
        let again = |message: &Value| message["replay"] == 1 && message["state"] == "delivered";
        service.message(id, again).await;
    }
    // Nothing is sent again under the unchanged subscription.
    assert_eq!(sent(&mut loops), ["left", "tested2"]);
    let counted = count("all").await;
    assert_eq!((&counted["replayed"], &counted["unchanged"], &counted["bySubscription"]), nothing);
    let page = visitor.get("/console/replay?state=all&destination=default&changed=on").await;
    assert!(page.text.contains("For 3 messages that match, nothing changes."), "{}", page.text);
    assert!(page.text.contains("onlyChanged true"), "{}", page.text);
}

#[tokio::test]
async fn a_subscription_that_has_another_name_sends_nothing_again() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).config(&version(1)).start();
    let mut message = track("ada", "tested");
    message["event"] = "Tested".into();
    service.accept("/v1/track", message).await;
    service.message("tested", |message| message["state"] == "delivered").await;
    assert_eq!(loops.rest().len(), 2);
    service.write_config(&version(1).replace("As ever", "Another name"));
    let request = service.request(reqwest::Method::POST, "/api/reload");
    assert_eq!(Service::answer(request.bearer_auth(ADMIN_TOKEN)).await.status, 200);
    let ask = json!({"state": "all", "destination": "default", "onlyChanged": true});
    let request = service.request(reqwest::Method::POST, "/api/replay");
    let request = request.bearer_auth(ADMIN_TOKEN).body(ask.to_string());
    let replayed = Service::answer(request).await.body;
    assert_eq!((&replayed["replayed"], &replayed["unchanged"]), (&json!(0), &json!(1)));
}
