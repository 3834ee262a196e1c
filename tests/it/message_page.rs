//! The page of a message: the request that was sent for it, the messages merged with it, and how to send it again or
//! test it.

use serde_json::{Value, json};

use crate::console::{Shown, VIEWER_TOKEN, Visitor, set_up};
use crate::support::{ADMIN_TOKEN, API_KEY, EMAIL_DOMAIN, ScriptedLoops, identify, track};

/// The text between two others on a page, with character references resolved.
fn between(page: &Shown, before: &str, after: &str) -> String {
    let (_, rest) = page.text.split_once(before).unwrap_or_else(|| panic!("{}", page.text));
    let text = rest.split(after).next().unwrap();
    let text = text.replace("&#60;", "<").replace("&#62;", ">").replace("&#34;", "\"");
    text.replace("&#39;", "'").replace("&#38;", "&")
}

#[tokio::test]
async fn messages_that_went_in_one_request_lead_to_each_other() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).env("LOOPS_RATE_LIMIT", "1").start();
    // Loops has just accepted a request, so the next messages wait and are merged.
    service.accept("/v1/track", track("nobody", "first")).await;
    loops.next().await;
    let mut about = identify("ada", "about-ada");
    let mut event = track("ada", "sign-up");
    (about["type"], event["type"]) = (json!("identify"), json!("track"));
    service.accept("/v1/batch", json!({"batch": [about, event]})).await;
    let delivered = |message: &Value| message["state"] == "delivered";
    let about = service.message("about-ada", delivered).await;
    let event = service.message("sign-up", delivered).await;
    let visitor = Visitor::with(&service, VIEWER_TOKEN).await;
    for (own, other) in [(&about, &event), (&event, &about)] {
        let page = visitor.get(&format!("/console/messages/{}", own["seq"])).await;
        let merged = between(&page, "<p>Merged with ", "</p>");
        let link = format!("<a href=\"/console/messages/{0}\">#{0}</a>", other["seq"]);
        assert_eq!(merged, format!("{link}: one request carries them all."));
    }
    let alone = service.message("first", delivered).await;
    let page = visitor.get(&format!("/console/messages/{}", alone["seq"])).await;
    assert!(!page.text.contains("Merged with"), "{}", page.text);
}

#[tokio::test]
async fn the_request_that_was_sent_is_shown_without_the_key_and_masked() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let mut event = track("ada", "sign-up");
    event["properties"] = json!({"plan": "s3cret", "email": format!("ada@{EMAIL_DOMAIN}")});
    service.accept("/v1/track", event).await;
    let message = service.message("sign-up", |message| message["state"] == "delivered").await;
    let key = message["deliveries"][0]["request"]["idempotencyKey"].as_str().unwrap();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let viewer = Visitor::with(&service, VIEWER_TOKEN).await;
    let path = "/console/messages/1".replace('1', &message["seq"].to_string());
    let sent = |page: &Shown| between(page, "<pre tabindex=\"0\">POST /events/send", "</pre>");
    let head = format!("\nContent-Type: application/json\nIdempotency-Key: {key}");
    for visitor in [&admin, &viewer] {
        let page = visitor.get(&path).await;
        let sent = sent(&page);
        assert!(sent.starts_with(&head), "{sent}");
        for hidden in ["s3cret", EMAIL_DOMAIN] {
            assert!(!page.text.contains(hidden), "{}", page.text);
        }
        if sent == head {
            // PostgreSQL does not keep a body that is never sent again.
            assert!(page.text.contains("Its body is no longer kept."), "{}", page.text);
            continue;
        }
        assert!(sent.contains("••• (6 characters)"), "{sent}");
        assert!(page.text.contains("The same request was sent."), "{}", page.text);
    }
    let shown = admin.post(&path, &[("wish", "contents")], &[]).await;
    let whole = sent(&shown);
    assert!(whole == head || whole.contains("\"plan\": \"s3cret\""), "{whole}");
    assert!(!shown.text.contains(API_KEY), "{}", shown.text);
}

#[tokio::test]
async fn a_message_can_be_replayed_from_its_page() {
    let mut loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    service.accept("/v1/track", track("ada", "sign-up")).await;
    loops.next().await;
    let message = service.message("sign-up", |message| message["state"] == "delivered").await;
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let page = admin.get(&format!("/console/messages/{}", message["seq"])).await;
    let link = between(&page, "<a class=\"button\" href=\"", "\"");
    assert_eq!(link, format!("/console/replay?state=delivered&message={}", message["seq"]));
    let page = admin.get(&link).await;
    assert!(page.text.contains("1 message would be sent again"), "{}", page.text);
}

#[tokio::test]
async fn a_message_is_a_case_that_the_subscriptions_in_force_pass() {
    let loops = ScriptedLoops::willing().await;
    let setup = set_up(&loops);
    let service = setup.start();
    let mut event = track("ada", "sign-up");
    event["properties"] = json!({"quote": "\"<&>'", "plan": "pro", "cart": {"n": 1}});
    service.accept("/v1/track", event).await;
    service.message("sign-up", |message| message["state"] == "delivered").await;
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let masked = admin.search("sign-up").await;
    assert!(!masked.text.contains("id=\"case\""), "{}", masked.text);
    let seq = service.message("sign-up", |_| true).await["seq"].clone();
    let path = format!("/console/messages/{seq}");
    let shown = admin.post(&path, &[("wish", "contents")], &[]).await;
    let text = between(&shown, "<pre id=\"case\" tabindex=\"0\">", "</pre>");
    let case: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(case[0]["expect"]["requests"][0]["path"], "/events/send", "{case}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cases.json"), &text).unwrap();
    let arguments = ["check", "--offline", "--cases", "cases.json"];
    let output = setup.plain_command(folder.path(), &arguments).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.contains("1 of 1 as expected"), "{printed}");
}

#[tokio::test]
async fn where_there_are_several_destinations_a_case_names_its_own() {
    let loops = ScriptedLoops::willing().await;
    let base_url = &loops.base_url;
    let two = format!(
        "[sources.default]\ndestination = 'default'\n[destinations.other]\napi_key = 'k'\nbase_url = '{base_url}'"
    );
    let setup = set_up(&loops).config(&two);
    let service = setup.start();
    service.accept("/v1/track", track("ada", "sign-up")).await;
    let delivered = |message: &Value| message["state"] == "delivered";
    let seq = service.message("sign-up", delivered).await["seq"].clone();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let path = format!("/console/messages/{seq}");
    let message = admin.post(&path, &[("wish", "contents")], &[]).await;
    let of_message = between(&message, "<pre id=\"case\" tabindex=\"0\">", "</pre>");
    let editor = admin.get("/console/subscriptions/default/Send%20an%20event").await;
    let of_editor = between(&editor, "<pre id=\"cases\" tabindex=\"0\">", "</pre>");
    for text in [of_message, of_editor] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cases.json"), &text).unwrap();
        let arguments = ["check", "--offline", "--cases", "cases.json"];
        let output = setup.plain_command(folder.path(), &arguments).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("1 of 1 as expected"), "{printed}\n{text}");
    }
}

#[tokio::test]
async fn what_was_not_needed_says_why_nothing_was_sent() {
    let loops = ScriptedLoops::willing().await;
    let setup = set_up(&loops).env("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__SKIP_UNCHANGED", "on");
    let service = setup.start();
    for id in ["first", "again"] {
        let mut message = identify("ada", id);
        message["traits"]["note"] = "the same".into();
        service.accept("/v1/identify", message).await;
        service.message(id, |message| message["state"] == "delivered").await;
    }
    let first = service.message("first", |_| true).await;
    let request = &first["deliveries"][0]["request"]["id"];
    let visitor = Visitor::with(&service, VIEWER_TOKEN).await;
    let page = visitor.search("again").await;
    let verdict =
        "Nothing was sent for the identify, since Loops has accepted all its values before.";
    let why = format!(
        "Not sent: Loops accepted the same values before, the last of them with request {request}."
    );
    for expected in [verdict, &why, "a replay is always sent"] {
        assert!(page.text.contains(expected), "{expected}: {}", page.text);
    }
    assert!(!page.text.contains("Loops accepted the identify"), "{}", page.text);
    let again = service.message("again", |_| true).await;
    assert_eq!(again["verdict"]["kind"], "not_needed", "{again}");
    let list = visitor.get("/console/messages").await;
    assert_eq!(list.text.matches("(not needed)").count(), 1, "{}", list.text);
    // A person whose latest message changed nothing.
    let person = visitor.search("ada").await;
    assert!(person.text.contains(verdict), "{}", person.text);
}
