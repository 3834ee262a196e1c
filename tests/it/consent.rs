//! Nobody who left is subscribed again: a report by webhook takes precedence over a mapping.

use jiff::SignedDuration;
use segment_loops::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::feedback::{SECRET, event, tell};
use crate::support::{EMAIL_DOMAIN, Reply, ScriptedLoops, Service, Setup};

/// Sets `subscribed` and a list from the message.
const SUBSCRIPTIONS: &str = r#"
[[subscriptions]]
name = "Contact"
action = "createOrUpdateContact"
trigger = 'type = "identify"'
[subscriptions.mapping]
subscribed = { "@path" = "$.traits.subscribed" }
mailingLists = { news = { "@path" = "$.traits.news" } }
[[subscriptions]]
name = "Event"
action = "sendEvent"
trigger = 'type = "track"'
[subscriptions.mapping]
contactProperties = { subscribed = { "@path" = "$.properties.subscribed" } }
[[subscriptions]]
name = "Signed up again"
action = "createOrUpdateContact"
trigger = 'type = "group"'
resubscribe = true
[subscriptions.mapping]
subscribed = true
mailingLists = { news = true }
[[subscriptions]]
name = "Newsletter"
action = "createOrUpdateContact"
trigger = 'type = "page"'
resubscribe = true
[subscriptions.mapping]
mailingLists = { news = true }
"#;

/// A report of Loops about a person.
fn report(name: &str, user: &str) -> Value {
    let mut body = event(name, user);
    if name.starts_with("contact.mailingList") {
        for key in ["sourceType", "loopId", "loopName", "email", "mailingLists"] {
            body.as_object_mut().unwrap().remove(key);
        }
        body["mailingList"] =
            json!({"id": "news", "name": "News", "description": null, "isPublic": true});
    }
    body
}

struct Fixture {
    service: Service,
    loops: ScriptedLoops,
    count: u32,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn start(options: &[(&str, &str)]) -> (Self, Setup) {
        let loops = ScriptedLoops::willing().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.toml");
        std::fs::write(&file, SUBSCRIPTIONS).unwrap();
        let mut setup = Setup::with_loops(&loops.base_url)
            .env("LOOPS_WEBHOOK_SECRET", SECRET)
            .env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap());
        for (name, value) in options {
            let name = match name.starts_with("LOOPS_") {
                true => (*name).to_owned(),
                false => format!("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__{name}"),
            };
            setup = setup.env(&name, value);
        }
        (Self { service: setup.start(), loops, count: 0, _folder: folder }, setup)
    }

    /// Sends a report of Loops about Ada.
    async fn report(&mut self, name: &str) {
        let body = report(name, "ada");
        self.count += 1;
        let answer = tell(&self.service, &format!("msg_{}", self.count), &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Returns the body that Loops receives for a message, and its warnings.
    async fn send(&mut self, mut message: Value) -> (Value, String) {
        self.count += 1;
        let id = format!("m{}", self.count);
        message["messageId"] = id.as_str().into();
        self.service.accept("/v1/batch", json!({"batch": [message]})).await;
        let body = self.loops.next().await.body;
        let message = self.service.message(&id, |found| found["state"] == "delivered").await;
        let warnings = &message["deliveries"][0]["warnings"];
        (body, if warnings.is_null() { String::new() } else { warnings.to_string() })
    }

    /// Returns the `subscribed` that Loops receives for a message.
    async fn subscribed(&mut self, message: Value) -> Option<Value> {
        self.send(message).await.0.get("subscribed").cloned()
    }
}

fn identify(traits: Value) -> Value {
    json!({"type": "identify", "userId": "ada", "traits": traits})
}

fn opt_in() -> Value {
    identify(json!({"subscribed": true}))
}

#[tokio::test]
async fn nobody_who_left_is_subscribed_again_by_a_mapping() {
    let (mut fixture, setup) = Fixture::start(&[]).await;
    assert_eq!(fixture.subscribed(opt_in()).await, Some(json!(true)));
    let leaving =
        ["contact.unsubscribed", "email.unsubscribed", "email.spamReported", "email.hardBounced"];
    for name in leaving {
        fixture.report(name).await;
        let (body, warnings) = fixture.send(opt_in()).await;
        assert_eq!(body.get("subscribed"), None, "{name}");
        assert!(
            warnings.contains(name) && warnings.contains("`subscribed` was left out"),
            "{warnings}"
        );
        fixture.report("email.resubscribed").await;
        assert_eq!(fixture.subscribed(opt_in()).await, Some(json!(true)), "{name}");
    }
    fixture.report("email.unsubscribed").await;
    fixture.service = fixture.service.crash_and_restart(&setup);
    assert_eq!(fixture.subscribed(opt_in()).await, None, "it is on disk");
    let left = fixture.subscribed(identify(json!({"subscribed": false}))).await;
    assert_eq!(left, Some(json!(false)), "leaving always passes");
    // Ada by her address alone, and then another person.
    let email = format!("ada@{EMAIL_DOMAIN}");
    let by_email = json!({"type": "identify", "userId": "new id", "traits": {"email": email, "subscribed": true}});
    assert_eq!(fixture.subscribed(by_email).await, None);
    let bob = json!({"type": "identify", "userId": "bob", "traits": {"subscribed": true}});
    assert_eq!(fixture.subscribed(bob).await, Some(json!(true)));
    let counted = "segment_loops_guarded_total{destination=\"default\",guard=\"consent\"} 2";
    let metrics = reqwest::get(format!("{}/metrics", fixture.service.base_url)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn nobody_who_left_a_list_is_put_back_on_it() {
    let (mut fixture, _) = Fixture::start(&[]).await;
    let news = || identify(json!({"news": true}));
    assert_eq!(fixture.send(news()).await.0["mailingLists"], json!({"news": true}));
    fixture.report("contact.mailingList.unsubscribed").await;
    let (body, warnings) = fixture.send(news()).await;
    assert_eq!(body["mailingLists"], json!({}));
    assert!(warnings.contains("mailingLists.news"), "{warnings}");
    assert_eq!(
        fixture.send(identify(json!({"news": false}))).await.0["mailingLists"],
        json!({"news": false})
    );
    assert_eq!(fixture.subscribed(opt_in()).await, Some(json!(true)), "that is another matter");
    fixture.report("contact.mailingList.subscribed").await;
    assert_eq!(fixture.send(news()).await.0["mailingLists"], json!({"news": true}));
}

#[tokio::test]
async fn contact_properties_of_an_event_are_guarded_and_its_own_are_not() {
    let (mut fixture, _) = Fixture::start(&[]).await;
    fixture.report("email.unsubscribed").await;
    let track = json!({"type": "track", "userId": "ada", "event": "Signed up", "properties": {"subscribed": true}});
    let (body, warnings) = fixture.send(track).await;
    assert_eq!(body.get("subscribed"), None, "{body}");
    assert_eq!(body["eventProperties"]["subscribed"], json!(true));
    assert!(warnings.contains("email.unsubscribed"), "{warnings}");
}

#[tokio::test]
async fn a_subscription_may_resubscribe_by_a_message_that_is_newer() {
    let (mut fixture, _) = Fixture::start(&[]).await;
    let again = |seconds: i64| {
        let at = SystemClock.now() + SignedDuration::from_secs(seconds);
        json!({"type": "group", "userId": "ada", "groupId": "g", "timestamp": at.to_string()})
    };
    fixture.report("email.unsubscribed").await;
    fixture.report("contact.mailingList.unsubscribed").await;
    // The report is of the current second, so a message of the next second is newer. This message is a minute old.
    let (body, warnings) = fixture.send(again(-60)).await;
    assert_eq!((body.get("subscribed"), &body["mailingLists"]), (None, &json!({})));
    assert!(warnings.contains("not newer"), "{warnings}");
    fixture.report("email.resubscribed").await;
    let an_hour_ago = (SystemClock.now() - SignedDuration::from_hours(1)).as_second();
    for (name, id) in
        [("email.unsubscribed", "old_1"), ("contact.mailingList.unsubscribed", "old_2")]
    {
        let mut body = report(name, "eve");
        body["eventTime"] = an_hour_ago.into();
        assert_eq!(tell(&fixture.service, id, &body).await.status, 200);
    }
    let mut newer = again(-60);
    newer["userId"] = "eve".into();
    let (body, warnings) = fixture.send(newer).await;
    assert_eq!(
        (&body["subscribed"], &body["mailingLists"]),
        (&json!(true), &json!({"news": true})),
        "{warnings}"
    );
}

#[tokio::test]
async fn a_person_brought_back_by_an_accepted_request_is_no_longer_guarded() {
    let (mut fixture, _) = Fixture::start(&[]).await;
    let mut left = report("email.unsubscribed", "ada");
    left["eventTime"] = (SystemClock.now() - SignedDuration::from_hours(1)).as_second().into();
    assert_eq!(tell(&fixture.service, "left", &left).await.status, 200);
    assert_eq!(fixture.subscribed(opt_in()).await, None, "only the subscription that says so");
    let again = json!({"type": "group", "userId": "ada", "groupId": "g"});
    assert_eq!(fixture.subscribed(again).await, Some(json!(true)));
    assert_eq!(fixture.subscribed(opt_in()).await, Some(json!(true)));
    // A second report that the person left takes effect again.
    fixture.report("email.unsubscribed").await;
    assert_eq!(fixture.subscribed(opt_in()).await, None);
}

/// This many seconds before now.
fn ago(seconds: i64) -> jiff::Timestamp {
    SystemClock.now() - SignedDuration::from_secs(seconds)
}

impl Fixture {
    /// Loops reports that Ada left an hour ago while it refuses these messages, and accepts them afterwards. Returns
    /// the first body that it received.
    async fn leave_meanwhile(&mut self, messages: Vec<Value>) -> Value {
        self.loops.rest();
        self.loops.now(|_| Reply::status(503));
        self.service.accept("/v1/batch", json!({"batch": messages})).await;
        let first = self.loops.next().await.body;
        for name in ["email.unsubscribed", "contact.mailingList.unsubscribed"] {
            let mut left = report(name, "ada");
            left["eventTime"] = ago(60 * 60).as_second().into();
            assert_eq!(tell(&self.service, name, &left).await.status, 200);
        }
        self.loops.now(|_| Reply::ok());
        for message in &messages {
            let id = message["messageId"].as_str().unwrap();
            self.service.message(id, |found| found["state"] == "delivered").await;
        }
        self.loops.rest();
        first
    }
}

fn page(id: &str, seconds_ago: i64) -> Value {
    json!({"type": "page", "userId": "ada", "messageId": id, "timestamp": ago(seconds_ago).to_string()})
}

#[tokio::test]
async fn a_request_that_was_frozen_before_the_report_does_not_bring_the_person_back() {
    let (mut fixture, _) = Fixture::start(&[]).await;
    let mut frozen = opt_in();
    frozen["messageId"] = "frozen".into();
    let first = fixture.leave_meanwhile(vec![frozen]).await;
    assert_eq!(first["subscribed"], json!(true));
    let (body, warnings) = fixture.send(opt_in()).await;
    assert_eq!(body.get("subscribed"), None, "{body}");
    assert!(warnings.contains("email.unsubscribed"), "{warnings}");
}

#[tokio::test]
async fn of_a_merged_request_only_what_may_bring_the_person_back_does() {
    let (mut fixture, _) = Fixture::start(&[("LOOPS_RATE_LIMIT", "1")]).await;
    let bob = json!({"type": "identify", "userId": "bob", "traits": {"plan": "pro"}});
    fixture.send(bob).await;
    let mut frozen = opt_in();
    frozen["messageId"] = "frozen".into();
    frozen["timestamp"] = ago(120).to_string().into();
    let first = fixture.leave_meanwhile(vec![frozen, page("merged", 60)]).await;
    assert_eq!(
        (&first["subscribed"], &first["mailingLists"]),
        (&json!(true), &json!({"news": true}))
    );
    let both = identify(json!({"subscribed": true, "news": true}));
    let (body, warnings) = fixture.send(both).await;
    assert_eq!(
        (body.get("subscribed"), &body["mailingLists"]),
        (None, &json!({"news": true})),
        "{warnings}"
    );
}

#[tokio::test]
async fn an_earlier_message_that_subscribes_somebody_is_not_merged_into_a_later_one() {
    let (mut fixture, _) = Fixture::start(&[("LOOPS_RATE_LIMIT", "1")]).await;
    let bob = json!({"type": "identify", "userId": "bob", "traits": {"plan": "pro"}});
    fixture.send(bob).await;
    let mut later = identify(json!({"plan": "pro"}));
    later["messageId"] = "later".into();
    later["timestamp"] = ago(60).to_string().into();
    let batch = json!({"batch": [later, page("earlier", 120)]});
    fixture.service.accept("/v1/batch", batch).await;
    assert_eq!(fixture.loops.next().await.body["mailingLists"], json!({}));
    assert_eq!(fixture.loops.next().await.body["mailingLists"], json!({"news": true}));
}

#[tokio::test]
async fn consent_pass_sends_what_segment_sends() {
    let (mut fixture, _) = Fixture::start(&[("CONSENT", "pass")]).await;
    fixture.report("email.unsubscribed").await;
    assert_eq!(fixture.subscribed(opt_in()).await, Some(json!(true)));
}

#[tokio::test]
async fn what_was_left_out_is_sent_once_the_person_is_back() {
    let (mut fixture, _) = Fixture::start(&[("SKIP_UNCHANGED", "on")]).await;
    fixture.report("email.unsubscribed").await;
    let message = || identify(json!({"plan": "pro", "subscribed": true}));
    assert_eq!(fixture.subscribed(message()).await, None);
    fixture.report("email.resubscribed").await;
    // The other values are known and unchanged, but the message must still be sent.
    assert_eq!(fixture.subscribed(message()).await, Some(json!(true)));
}

#[tokio::test]
async fn an_erased_person_is_no_longer_known_to_have_left() {
    let (mut fixture, _) = Fixture::start(&[]).await;
    fixture.report("email.unsubscribed").await;
    assert_eq!(fixture.subscribed(opt_in()).await, None);
    let deletion = json!({"type": "delete", "userId": "ada", "messageId": "d"});
    let delete = r#"
[[subscriptions]]
name = "Deletion"
action = "deleteContact"
trigger = 'type = "delete"'
"#;
    let file = fixture._folder.path().join("s.toml");
    std::fs::write(&file, format!("{SUBSCRIPTIONS}{delete}")).unwrap();
    let reload = fixture.service.request(reqwest::Method::POST, "/api/reload");
    let reload = reload.bearer_auth(crate::support::ADMIN_TOKEN);
    assert_eq!(Service::answer(reload).await.status, 200);
    fixture.service.accept("/v1/batch", json!({"batch": [deletion]})).await;
    assert_eq!(fixture.loops.next().await.path, "/contacts/delete");
    let kept = |service: &Service| {
        let text = "SELECT COUNT(*) FROM opt_outs";
        service.database().query_row(text, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let gone = tokio::time::timeout(crate::support::PATIENCE, async {
        while kept(&fixture.service) > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    gone.await.expect("it is kept");
    assert_eq!(fixture.subscribed(opt_in()).await, Some(json!(true)));
}
