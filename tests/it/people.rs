//! A person's messages and the reason why an email was not sent. The person is found by any id, on a page and by the
//! API, and no page shows the address.

use reqwest::Method;
use serde_json::{Value, json};

use crate::console::{VIEWER_TOKEN, Visitor, set_up};
use crate::feedback::{self, event, tell};
use crate::support::{
    ADMIN_TOKEN, EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Service, identify, track,
};

/// Asks the API for a person.
async fn ask(service: &Service, whom: Value) -> Value {
    let request = service.request(Method::POST, "/api/people").bearer_auth(ADMIN_TOKEN);
    let answer = Service::answer(request.body(whom.to_string())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// The store's number for a message.
async fn number(service: &Service, id: &str) -> Value {
    service.message(id, |message| !message.is_null()).await["seq"].clone()
}

/// A track with all ids and a value.
fn with_all_ids(user: &str, id: &str, event: &str) -> Value {
    json!({
        "messageId": id, "userId": user, "anonymousId": format!("device of {user}"), "event": event,
        "properties": {"email": format!("{user}@{EMAIL_DOMAIN}"), "secret": "s3cret-value"},
    })
}

#[tokio::test]
async fn a_person_is_found_by_any_id_with_all_messages_of_all_ids() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    service.accept("/v1/identify", identify("ada", "about-ada")).await;
    service.accept("/v1/track", track("ada", "tested")).await;
    service.accept("/v1/identify", identify("bob", "about-bob")).await;
    for id in ["about-ada", "tested", "about-bob"] {
        service.message(id, |message| message["state"] == "delivered").await;
    }
    let address = format!("Ada@{EMAIL_DOMAIN}");
    let tested = number(&service, "tested").await;
    for whom in [json!({"email": address}), json!({"userId": "ada"})] {
        let found = ask(&service, whom.clone()).await;
        let ids: Vec<&str> = found["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["messageId"].as_str().unwrap())
            .collect();
        // The track has no address, and is found by the user id of the identify.
        assert_eq!(ids, ["tested", "about-ada"], "{whom}");
        assert_eq!(found["verdict"]["kind"], "never_heard", "{found}");
        assert_eq!(found["verdict"]["seq"], tested);
        assert_eq!((&found["complete"], &found["feedback"]), (&json!(true), &json!([])));
    }
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let led = admin.post("/console/search", &[("q", &address)], &[]).await;
    // The path contains digests, and nothing of the searched text.
    let digests = led.location().strip_prefix("/console/people/").unwrap();
    assert!(digests.chars().all(|c| c.is_ascii_hexdigit() || c == '-'), "{digests}");
    let page = admin.get(led.location()).await;
    for words in ["Loops accepted “Tested”; what became of it there", "a…@c….example", "user id"]
    {
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
    assert!(page.text.contains("about-ada") && !page.text.contains("about-bob"));
    let shown = admin.post(led.location(), &[("wish", "ids")], &[]).await;
    assert!(shown.text.contains(&format!("ada@{EMAIL_DOMAIN}")), "{}", shown.text);
}

#[tokio::test]
async fn the_verdict_says_where_a_message_is() {
    let loops = ScriptedLoops::start(|seen| match seen.body["eventName"].as_str() {
        Some("Refused") => Reply::status(400).with_body(r#"{"message":"no list \"Ada\""}"#),
        Some("Later") => Reply::status(503),
        Some("Key") => Reply::status(401),
        _ => Reply::ok(),
    })
    .await;
    let service = set_up(&loops).start();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let event = |user: &str, name: &str| {
        let mut message = track(user, &format!("{user}-1"));
        message["event"] = json!(name);
        message
    };
    service.accept("/v1/track", event("cleo", "Refused")).await;
    service.accept("/v1/page", json!({"userId": "dora", "messageId": "dora-1"})).await;
    service.accept("/v1/track", event("eve", "Later")).await;
    service.message("cleo-1", |message| message["state"] == "failed").await;
    service.message("dora-1", |message| message["state"] == "unmatched").await;
    let was_tried = |message: &Value| {
        message
            .pointer("/deliveries/0/request/attempts/0")
            .is_some_and(|attempt| !attempt.is_null())
    };
    service.message("eve-1", was_tried).await;
    for (whom, kind, words) in [
        ("cleo", "failed", "“Refused” failed: Loops refused the request"),
        ("dora", "unmatched", "No subscription took the page"),
        ("eve", "waits_for_retry", "“Later” waits for the next attempt, due at"),
        ("nobody", "never_accepted", "No message of this person was ever accepted"),
    ] {
        let found = ask(&service, json!({"userId": whom})).await;
        assert_eq!(found["verdict"]["kind"], kind, "{found}");
        let sentence = found["verdict"]["sentence"].as_str().unwrap();
        assert!(sentence.contains(words), "{sentence}");
        assert!(!found["verdict"]["nextStep"].as_str().unwrap().is_empty());
        if kind == "never_accepted" {
            assert_eq!(admin.search(whom).await.status, 404);
            continue;
        }
        let message = service.message(&format!("{whom}-1"), |message| !message.is_null()).await;
        assert_eq!(message["verdict"]["kind"], kind, "{message}");
        let page = admin.search(whom).await;
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
    // This case comes last, because it holds back all others.
    service.accept("/v1/track", event("fay", "Key")).await;
    // The reports of a process are up to five seconds old.
    let waits = |message: &Value| message["verdict"]["kind"] == "waits_for_key";
    let held = service.message("fay-1", waits).await;
    assert_eq!(
        held["verdict"]["sentence"],
        "“Key” waits: Loops refuses the API key of the destination default."
    );
    // A message that was never tried waits for the key as well.
    service.accept("/v1/track", event("gus", "Other")).await;
    service.message("gus-1", waits).await;
}

#[tokio::test]
async fn nothing_of_a_person_while_messages_are_rejected_is_said_with_the_reason() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    service.accept("/v1/track", track("ada", "tested")).await;
    for _ in 0..3 {
        assert_eq!(service.post("/v1/track", "{").await.status, 400);
    }
    let whom = json!({"userId": "nobody"});
    let verdict = async || ask(&service, whom.clone()).await["verdict"].clone();
    let began = std::time::Instant::now();
    let mut found = verdict().await;
    while found["kind"] != "rejected" {
        assert_eq!(found["kind"], "never_accepted", "{found}");
        assert!(began.elapsed() < PATIENCE, "{found}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        found = verdict().await;
    }
    let words = "In the last hour, 3 requests or messages were rejected, from the source `default` with the code";
    assert!(found["sentence"].as_str().unwrap().contains(words), "{found}");
    assert!(found["nextStep"].as_str().unwrap().contains("segment_loops_rejected_total"));
    let page = Visitor::with(&service, VIEWER_TOKEN).await.search("nobody").await;
    assert_eq!(page.status, 404);
    assert!(page.text.contains("In the last hour, 3 requests"), "{}", page.text);
}

#[tokio::test]
async fn what_loops_reported_of_a_mail_is_in_the_verdict_and_on_the_timeline() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).env("LOOPS_WEBHOOK_SECRET", feedback::SECRET).start();
    service.accept("/v1/identify", identify("ada", "about-ada")).await;
    service.accept("/v1/track", track("ada", "tested")).await;
    service.message("tested", |message| message["state"] == "delivered").await;
    assert_eq!(tell(&service, "msg_0", &event("contact.created", "bob")).await.status, 200);
    let silent = service.message("tested", |message| !message.is_null()).await;
    assert_eq!(silent["verdict"]["kind"], "silent", "{silent}");
    let received_at: jiff::Timestamp = silent["receivedAt"].as_str().unwrap().parse().unwrap();
    for (name, kind, words) in [
        ("loop.email.sent", "mail_sent", "a mail of the workflow “Welcome” was sent at"),
        ("email.hardBounced", "bounced", "a mail of the workflow “Welcome” bounced at"),
    ] {
        // Loops reports times in whole seconds.
        let mut reported = event(name, "ada");
        reported["eventTime"] = json!(received_at.as_second());
        assert_eq!(tell(&service, name, &reported).await.status, 200);
        let found = ask(&service, json!({"email": format!("ada@{EMAIL_DOMAIN}")})).await;
        assert_eq!(found["verdict"]["kind"], kind, "{found}");
        let sentence = found["verdict"]["sentence"].as_str().unwrap();
        assert!(sentence.contains(words), "{sentence}");
        // The track has no address, so the report is found by the user id.
        let message = service.message("tested", |message| !message.is_null()).await;
        assert_eq!(message["verdict"]["kind"], kind, "{message}");
        assert_eq!(message["feedback"][0]["event"], name);
    }
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    for page in [admin.search("ada").await, admin.search("tested").await] {
        for words in ["bounced at", "The mailbox refused the mail", "workflow Welcome"] {
            assert!(page.text.contains(words), "no {words}: {}", page.text);
        }
        assert!(!page.text.contains(EMAIL_DOMAIN));
    }
    // Events with the same time are shown in their logical order.
    let page = admin.search("ada").await;
    let place = |words: &str| page.text.find(words).unwrap();
    assert!(place("The mailbox refused the mail") < place("Loops sent a mail"));
    assert!(place("Loops sent a mail") < place("<code>tested</code>"), "{}", page.text);
}

#[tokio::test]
async fn contents_are_masked_until_an_admin_asks() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    service.accept("/v1/track", with_all_ids("ada", "sign-up", "Signed Up")).await;
    service
        .accept("/v1/page", json!({"userId": "ada", "messageId": "looked", "name": "s3cret-page"}))
        .await;
    service.message("sign-up", |message| message["state"] != "pending").await;
    service.message("looked", |message| message["state"] == "unmatched").await;
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let viewer = Visitor::with(&service, VIEWER_TOKEN).await;
    let person = admin.post("/console/search", &[("q", "anon:device of ada")], &[]).await;
    let person = person.location().to_owned();
    let values = [EMAIL_DOMAIN, "s3cret", "device of"];
    let (sign_up, looked) = (number(&service, "sign-up").await, number(&service, "looked").await);
    let (message, page) =
        (format!("/console/messages/{sign_up}"), format!("/console/messages/{looked}"));
    let pages =
        [message.as_str(), page.as_str(), "/console/messages", "/console/failures", &person];
    for path in pages {
        for visitor in [&admin, &viewer] {
            let page = visitor.get(path).await;
            assert_eq!(page.status, 200, "{path}");
            for value in values {
                assert!(!page.text.contains(value), "{path} shows {value}: {}", page.text);
            }
        }
    }
    let masked = admin.get(&message).await;
    for words in
        ["a…@c….example", "••• (12 characters)", "$.properties", "Show contents", "/events/send"]
    {
        assert!(masked.text.contains(words), "no {words}: {}", masked.text);
    }
    let query = format!("?message={sign_up}");
    let editor = masked.text.split('"').find(|part| part.ends_with(&query)).unwrap();
    assert_eq!(admin.get(editor).await.status, 200, "{editor}");
    // The page shows for each subscription why it did not match.
    let unmatched = admin.get(&page).await;
    assert!(unmatched.text.contains("Not taken: type is"), "{}", unmatched.text);
    assert!(!viewer.get(&message).await.text.contains("Show contents"));

    let shown = admin.post(&message, &[("wish", "contents")], &[]).await;
    assert_eq!(shown.status, 200);
    for value in values {
        assert!(shown.text.contains(value), "no {value}: {}", shown.text);
    }
    assert!(!admin.get(&message).await.text.contains("s3cret"), "it stays shown");
    for (path, form) in [
        (&*message, ("wish", "contents")),
        (&*message, ("wish", "events")),
        (&*person, ("wish", "ids")),
        (&*person, ("wish", "contact")),
        (&*format!("{person}/erase"), ("id", "0000000000000000")),
    ] {
        let refused = viewer.post(path, &[form], &[]).await;
        assert_eq!(refused.status, 403, "{path} {form:?}");
        assert!(!values.iter().any(|value| refused.text.contains(value)), "{}", refused.text);
    }
    assert_eq!(viewer.get(&format!("{person}/erase")).await.status, 403);
    assert_eq!(viewer.get("/console/erasures").await.status, 403);
    // The audit log records what an admin looked at, but not what a viewer tried.
    let audit = service.admin("/api/audit").await.body;
    let entries = audit["entries"].as_array().unwrap_or_else(|| panic!("{audit}"));
    let looked: Vec<&Value> =
        entries.iter().filter(|entry| entry["action"] == "show_contents").collect();
    assert_eq!(looked.len(), 1, "{audit}");
    assert_eq!(looked[0]["arguments"]["message"], sign_up, "{audit}");
    for line in service.log() {
        assert!(!values.iter().any(|value| line.to_string().contains(value)), "{line}");
    }
}

#[tokio::test]
async fn loops_is_asked_when_a_person_wants_it() {
    let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/contacts/find" => Reply::ok().with_body(
            r#"[{"id": "c1", "userId": "ada", "note": "<b>another</b>", "subscribed": false, "plan": "gold"}]"#,
        ),
        "/contacts/suppression" => Reply::ok().with_body(r#"{"isSuppressed": false}"#),
        _ => Reply::ok(),
    })
    .await;
    let (sender, mut questions) = tokio::sync::mpsc::unbounded_channel();
    loops.catalogue(move |seen| {
        let _ = sender.send(seen.path.clone());
        Reply::ok()
            .with_body(r#"{"data": [{"eventName": "tested"}], "pagination": {"nextCursor": null}}"#)
    });
    let service = set_up(&loops)
        .env("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__CATALOGUE_REFRESH_S", "0")
        .start();
    service.accept("/v1/identify", identify("ada", "about-ada")).await;
    service.accept("/v1/track", track("ada", "tested")).await;
    service.message("tested", |message| message["state"] == "delivered").await;
    loops.rest();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let person = admin.post("/console/search", &[("q", "ada")], &[]).await;
    let person = person.location().to_owned();
    admin.get(&person).await;
    assert!(loops.rest().is_empty(), "a page that is only looked at asks Loops");
    let answer = admin.post(&person, &[("wish", "contact")], &[]).await;
    for words in [
        "but the contact is unsubscribed",
        "Loops has the contact, and sends mails to its address; ",
        "&#60;b&#62;another",
        "differs",
        "gold",
        "not by us",
    ] {
        assert!(answer.text.contains(words), "no {words}: {}", answer.text);
    }
    let asked: Vec<String> = loops.rest().into_iter().map(|seen| seen.path).collect();
    assert_eq!(asked, ["/contacts/find", "/contacts/suppression"]);
    let tested = format!("/console/messages/{}", number(&service, "tested").await);
    let answer = admin.post(&tested, &[("wish", "events")], &[]).await;
    assert!(
        answer.text.contains(
            "lists no event named “Tested” with which a workflow could start; it lists “tested”."
        ),
        "{}",
        answer.text
    );
    assert_eq!(questions.try_recv().as_deref(), Ok("/event-patterns"));
    assert!(questions.try_recv().is_err() && loops.rest().is_empty());
    loops.now(|_| Reply::status(500));
    let answer = admin.post(&person, &[("wish", "contact")], &[]).await;
    assert!(answer.text.contains("Loops answered with the status 500"), "{}", answer.text);
}

/// Whether the page of a message still shows its contents.
async fn has_contents(admin: &Visitor<'_>, number: &Value) -> bool {
    let page = admin.get(&format!("/console/messages/{number}")).await;
    assert_eq!(page.status, 200, "{}", page.text);
    !page.text.contains("Its contents are gone")
}

/// Waits until the contents of a message are erased, which happens some time after Loops has accepted the deletion.
async fn erased(admin: &Visitor<'_>, number: &Value) {
    let is_gone = async {
        while has_contents(admin, number).await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_gone).await.expect("nothing was erased");
}

#[tokio::test]
async fn a_person_is_erased_after_a_confirmation() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    service.accept("/v1/identify", identify("ada", "about-ada")).await;
    service.accept("/v1/identify", identify("bob", "about-bob")).await;
    service.message("about-ada", |message| message["state"] == "delivered").await;
    service.message("about-bob", |message| message["state"] == "delivered").await;
    loops.rest();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let person = admin.post("/console/search", &[("q", "ada")], &[]).await;
    let erase = format!("{}/erase", person.location());
    let confirm = admin.get(&erase).await;
    for words in ["This cannot be undone", "POST /contacts/delete", "a…@c….example"] {
        assert!(confirm.text.contains(words), "no {words}: {}", confirm.text);
    }
    assert!(!confirm.text.contains(EMAIL_DOMAIN));
    let chosen: Vec<&str> = confirm
        .text
        .split("name=\"id\"")
        .skip(1)
        .map(|choice| choice.split("value=\"").nth(1).unwrap().split('"').next().unwrap())
        .collect();
    assert_eq!(chosen.len(), 2, "{}", confirm.text);
    let none = admin.post(&erase, &[("x", "")], &[]).await;
    assert_eq!((none.status, none.text.contains("Choose at least one id")), (400, true));
    let accepted = admin.post(&erase, &[("id", chosen[0]), ("id", chosen[1])], &[]).await;
    assert_eq!(
        (accepted.status, accepted.location()),
        (303, "/console/erasures"),
        "{}",
        accepted.text
    );
    let (first, second) = (loops.next().await, loops.next().await);
    let mut deleted = [first.body, second.body].map(|body| body.to_string());
    deleted.sort();
    assert_eq!(
        deleted,
        [format!(r#"{{"email":"ada@{EMAIL_DOMAIN}"}}"#), r#"{"userId":"ada"}"#.to_owned()]
    );
    // The contents of Ada's messages are erased, and those of Bob's are not.
    let (ada, bob) = (number(&service, "about-ada").await, number(&service, "about-bob").await);
    erased(&admin, &ada).await;
    assert!(has_contents(&admin, &bob).await);
    assert_eq!(admin.search("ada").await.status, 404);
    let list = admin.get("/console/erasures").await;
    let links: Vec<&str> = list.text.split("href=\"/console/erasures/").skip(1).collect();
    assert_eq!(links.len(), 2, "{}", list.text);
    let id = links[0].split('"').next().unwrap();
    let receipt = admin.get(&format!("/console/erasures/{id}")).await;
    for words in ["Receipt of an erasure", "Not covered", "&#34;signature&#34;"] {
        assert!(receipt.text.contains(words), "no {words}: {}", receipt.text);
    }
    // The id `ada` without quotes may be part of a hexadecimal digest.
    assert!(!receipt.text.contains(EMAIL_DOMAIN) && !receipt.text.contains("&#34;ada&#34;"));
    assert_eq!(admin.get("/console/erasures/none").await.status, 404);
    let audit = service.admin("/api/audit").await.body.to_string();
    assert!(audit.contains(r#""action":"erase""#) && !audit.contains(EMAIL_DOMAIN), "{audit}");
}

/// Asks for the ids of a person as an admin, and returns them with their digests.
async fn ids(admin: &Visitor<'_>, person: &str) -> Vec<(String, String)> {
    let page = admin.post(person, &[("wish", "ids")], &[]).await;
    let rows = page.text.split("data-label=\"Id\"><code>").skip(1);
    let code = |text: &str| text.split("</code>").next().unwrap().to_owned();
    let digest = |row: &str| code(row.split("data-label=\"Digest\"><code>").nth(1).unwrap());
    rows.map(|row| (code(row), digest(row))).collect()
}

#[tokio::test]
async fn only_the_chosen_ids_are_erased_of_people_who_share_an_address() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let shared = format!("family@{EMAIL_DOMAIN}");
    for user in ["ada", "bob", "eve"] {
        let mut message = identify(user, &format!("about-{user}"));
        message["traits"]["email"] = json!(shared);
        service.accept("/v1/identify", message).await;
        service.message(&format!("about-{user}"), |message| message["state"] == "delivered").await;
    }
    loops.rest();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let led = admin.post("/console/search", &[("q", "user:ada")], &[]).await;
    let ids = ids(&admin, led.location()).await;
    let known: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(known, ["ada", &shared], "another's id");
    let led = admin.post("/console/search", &[("q", &shared)], &[]).await;
    let page = admin.get(led.location()).await;
    assert!(page.text.contains("3 user ids share an address or a device"), "{}", page.text);
    let ids = self::ids(&admin, led.location()).await;
    assert_eq!(ids.len(), 4, "{ids:?}");
    let digest = |wanted: &str| {
        let (_, digest) = ids.iter().find(|(id, _)| id == wanted).unwrap();
        digest.as_str()
    };
    let erase = format!("{}/erase", led.location());
    let confirm = admin.get(&erase).await;
    // The searched id is selected. Which of the users is meant is left to the admin.
    for (id, digest) in &ids {
        let choice = confirm
            .text
            .split("<input type=\"checkbox\"")
            .find(|choice| choice.contains(&format!("value=\"{digest}\"")));
        let choice = choice.unwrap_or_else(|| panic!("no {digest}: {}", confirm.text));
        assert_eq!(choice.split('>').next().unwrap().contains("checked"), *id == shared, "{id}");
        assert!(choice.contains(&format!("<code>{digest}</code>")), "{choice}");
    }
    let form = [("id", digest("ada")), ("id", digest("eve")), ("id", "0123456789abcdef")];
    let accepted = admin.post(&erase, &form, &[]).await;
    assert_eq!(accepted.status, 303, "{}", accepted.text);
    let mut deleted = [loops.next().await, loops.next().await].map(|seen| seen.body.to_string());
    deleted.sort();
    assert_eq!(deleted, [r#"{"userId":"ada"}"#, r#"{"userId":"eve"}"#]);
    for user in ["ada", "eve"] {
        erased(&admin, &number(&service, &format!("about-{user}")).await).await;
    }
    assert!(has_contents(&admin, &number(&service, "about-bob").await).await);
    assert!(loops.rest().is_empty());
    let audit = service.admin("/api/audit").await.body;
    let entries = audit["entries"].as_array().unwrap();
    let erasure = entries.iter().find(|entry| entry["action"] == "erase").unwrap();
    assert_eq!(erasure["arguments"]["ids"], json!([digest("eve"), digest("ada")]), "{audit}");
    assert_eq!(erasure["result"], "accepted 2 deletions");
}

#[tokio::test]
async fn several_addresses_of_one_person_are_pointed_out() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    for (id, name) in [("m1", "ada"), ("m2", "countess")] {
        let mut message = identify("ada", id);
        message["traits"]["email"] = json!(format!("{name}@{EMAIL_DOMAIN}"));
        service.accept("/v1/identify", message).await;
    }
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    for wanted in ["ada", &format!("countess@{EMAIL_DOMAIN}")] {
        let page = admin.search(wanted).await;
        let words = "2 addresses under one id: Loops keeps the address that it was sent last";
        // An address leads to the id, but not on to the other address of the id.
        assert_eq!(page.text.contains(words), wanted == "ada", "{wanted}: {}", page.text);
        for id in ["m1", "m2"] {
            assert!(page.text.contains(&format!("<code>{id}</code>")), "{wanted}: {}", page.text);
        }
    }
}

#[tokio::test]
async fn the_messages_of_others_who_share_a_device_stay_apart() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let on_device = |user: Option<&str>, id: &str| {
        let mut message = track("", id);
        message["userId"] = json!(user);
        message["anonymousId"] = json!("device");
        message
    };
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let of_ada = async || {
        let found = ask(&service, json!({"userId": "ada"})).await;
        let of = |message: &Value| message["messageId"].as_str().unwrap().to_owned();
        let ids: Vec<String> = found["messages"].as_array().unwrap().iter().map(of).collect();
        let page = admin.search("user:ada").await;
        for id in &ids {
            assert!(page.text.contains(&format!("<code>{id}</code>")), "{id}: {}", page.text);
        }
        assert!(!page.text.contains("<code>bob-"), "{}", page.text);
        (ids, found["complete"] == true)
    };
    let send = async |user: Option<&str>, id: &str| {
        service.accept("/v1/track", on_device(user, id)).await;
    };
    send(None, "before").await;
    send(Some("ada"), "ada-1").await;
    send(Some("bob"), "bob-1").await;
    // A message before the login belongs to both people.
    assert_eq!(of_ada().await, (vec!["ada-1".to_owned(), "before".to_owned()], true));
    assert_eq!(
        ask(&service, json!({"anonymousId": "device"})).await["messages"].as_array().unwrap().len(),
        3
    );
    // Even if not all of Bob's messages are read, none is taken for Ada's.
    for number in 2..30 {
        send(Some("bob"), &format!("bob-{number}")).await;
    }
    assert_eq!(of_ada().await, (vec!["ada-1".to_owned()], false));
}

#[tokio::test]
async fn a_question_about_nobody_is_explained() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    for body in [
        "",
        "[]",
        "{}",
        "{\"email\": 7}",
        r#"{"email": ""}"#,
        r#"{"email": "a@b.de", "userId": "u"}"#,
        r#"{"name": "s3cret"}"#,
    ] {
        let request = service.request(Method::POST, "/api/people").bearer_auth(ADMIN_TOKEN);
        let answer = Service::answer(request.body(body)).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("which_person")), "{body}");
        assert!(!answer.body.to_string().contains("s3cret"));
    }
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    for path in [
        "/console/people/ada",
        "/console/people/0-0",
        "/console/people/",
        "/console/people/ada/erase",
    ] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    let unknown = admin.get("/console/people/0123456789abcdef").await;
    assert_eq!(unknown.status, 200);
    assert!(unknown.text.contains("No message of this person was ever accepted"));
}
