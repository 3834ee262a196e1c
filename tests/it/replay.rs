//! Messages that have ended can be replayed: mapped again, with a new key, in order, and on record.

use serde_json::{Value, json};

use crate::support::{
    ADMIN_TOKEN, Answer, EMAIL_DOMAIN, Ran, Reply, ScriptedLoops, Seen, Service, Setup, identify,
    track,
};

async fn ask(service: &Service, body: Value) -> Answer {
    let request = service.request(reqwest::Method::POST, "/api/replay").bearer_auth(ADMIN_TOKEN);
    Service::answer(request.body(body.to_string())).await
}

async fn replay(setup: &Setup, service: &Service, arguments: &[&str]) -> Ran {
    let arguments = [&["replay"], arguments].concat();
    setup.command_on(service.data(), &arguments, b"").await
}

fn is_failed(found: &Value) -> bool {
    found["state"] == "failed"
}

fn is_delivered(found: &Value) -> bool {
    found["state"] == "delivered"
}

/// A script that refuses everything.
fn refuse(seen: &Seen) -> Reply {
    if seen.path == "/api-key" { Reply::ok() } else { Reply::status(400) }
}

/// A service in which messages with these ids have failed, and a Loops that now accepts everything.
async fn failed(ids: &[&str]) -> (ScriptedLoops, Setup, Service, Vec<Seen>) {
    let mut loops = ScriptedLoops::start(refuse).await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    let mut seen = Vec::new();
    for id in ids {
        service.accept("/v1/track", track("u1", id)).await;
        seen.push(loops.next().await);
    }
    for id in ids {
        service.message(id, is_failed).await;
    }
    loops.now(|_| Reply::ok());
    (loops, setup, service, seen)
}

#[tokio::test]
async fn a_failed_event_is_sent_again_with_a_new_key_and_both_stay_on_the_record() {
    let (mut loops, _, service, seen) = failed(&["m1"]).await;
    let answer = ask(&service, json!({"messageIds": ["m1"]})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let expected = json!({"dryRun": false, "replayed": 1, "withoutContents": 0, "unchanged": 0,
        "bySubscription": {}, "continue": null});
    assert_eq!(answer.body, expected);
    let again = loops.next().await;
    assert_eq!(again.raw_body, seen[0].raw_body);
    assert!(again.idempotency_key().is_some());
    assert_ne!(again.idempotency_key(), seen[0].idempotency_key());
    let message = service.message("m1", is_delivered).await;
    assert_eq!(message["replay"], 1);
    let deliveries = message["deliveries"].as_array().unwrap();
    let history: Vec<_> = deliveries
        .iter()
        .map(|d| {
            (
                d["replay"].as_u64().unwrap(),
                d["superseded"].as_bool().unwrap(),
                d["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(history, [(0, true, "failed"), (1, false, "delivered")]);
    assert_eq!(deliveries[0]["detail"], "Loops answered 400: scripted 400");
    let metrics = service.admin("/metrics").await.body;
    let counted = "segment_loops_replayed_messages_total{destination=\"default\"} 1\n";
    assert!(metrics.as_str().unwrap().contains(counted), "{metrics}");
    // Once delivered, the message is not among the failed any more.
    let answer = ask(&service, json!({"allFailed": true})).await;
    assert_eq!(answer.body["replayed"], 0);
    // A replay of the delivered message has yet another key.
    let answer = ask(&service, json!({"state": "delivered", "userId": "u1"})).await;
    assert_eq!(answer.body["replayed"], 1);
    let third = loops.next().await;
    assert!(![&again, &seen[0]].iter().any(|one| one.idempotency_key() == third.idempotency_key()));
}

#[tokio::test]
async fn replayed_messages_of_a_person_go_in_the_order_of_acceptance_behind_what_waits() {
    let (mut loops, setup, service, _) = failed(&["m1", "m2", "m3"]).await;
    // A message waits for its retry, and all later messages of its lane wait behind it.
    loops.now(|seen| match seen.note().as_str() {
        "waits" => Reply::status(503),
        _ => Reply::ok(),
    });
    service.accept("/v1/track", track("u1", "waits")).await;
    assert_eq!(loops.next().await.note(), "waits");
    for id in ["m3", "m1", "m2"] {
        let ran = replay(&setup, &service, &["--message-id", id]).await;
        assert_eq!(
            (ran.code, ran.stdout.lines().next()),
            (Some(0), Some("replayed: 1")),
            "{ran:?}"
        );
    }
    service.accept("/v1/track", track("u1", "after")).await;
    loops.now(|_| Reply::ok());
    let mut notes = Vec::new();
    while notes.len() < 4 {
        let note = loops.next().await.note();
        if note != "waits" {
            notes.push(note);
        }
    }
    // They were replayed one by one in this order, and each was put behind the waiting messages.
    assert_eq!(notes, ["m3", "m1", "m2", "after"]);
    for id in ["m1", "m2", "m3"] {
        service.message(id, is_delivered).await;
    }
    // Replayed together, they are sent in the order of acceptance.
    let ran = replay(&setup, &service, &["--state", "delivered", "--to", "2100-01-01"]).await;
    assert_eq!(ran.stdout.lines().next(), Some("replayed: 5"), "{ran:?}");
    assert_eq!(loops.notes(5).await, ["m1", "m2", "m3", "waits", "after"]);
}

#[tokio::test]
async fn a_message_is_mapped_anew_with_the_subscriptions_of_today() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).config(
        r#"
        [[subscriptions]]
        name = "Broken"
        action = "sendEvent"
        events = ["Tested"]
        [subscriptions.mapping]
        userId = { "@path" = "$.properties.nothing" }
        "#,
    );
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.accept("/v1/identify", identify("u1", "unmatched")).await;
    service.message("m1", is_failed).await;
    service.message("unmatched", |found| found["state"] == "unmatched").await;
    let mended = Setup::with_loops(&loops.base_url).config(
        r#"
        [[subscriptions]]
        name = "Mended"
        action = "sendEvent"
        events = ["Tested"]
        [[subscriptions]]
        name = "Contacts"
        action = "createOrUpdateContact"
        trigger = 'type = "identify"'
        "#,
    );
    let service = service.stop_and_restart(&mended).await;
    let answer = ask(&service, json!({"reason": "invalid"})).await;
    assert_eq!(answer.body["replayed"], 1, "{answer:?}");
    assert_eq!(loops.next().await.note(), "m1");
    let message = service.message("m1", is_delivered).await;
    assert_eq!(message["deliveries"][1]["subscription"], "Mended");
    let answer = ask(&service, json!({"state": "unmatched", "userId": "u1"})).await;
    assert_eq!(answer.body["replayed"], 1, "{answer:?}");
    assert_eq!(loops.next().await.note(), "unmatched");
    service.message("unmatched", is_delivered).await;
}

#[tokio::test]
async fn what_was_delivered_under_one_subscription_is_not_sent_again_when_another_failed() {
    let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/contacts/update" => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let setup = Setup::with_loops(&loops.base_url).config(
        r#"
        [[subscriptions]]
        name = "Event"
        action = "sendEvent"
        events = ["Tested"]
        [[subscriptions]]
        name = "Contact"
        action = "createOrUpdateContact"
        trigger = 'type = "track"'
        "#,
    );
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", is_failed).await;
    assert_eq!(
        (loops.next().await.path, loops.next().await.path),
        ("/events/send".into(), "/contacts/update".into())
    );
    loops.now(|_| Reply::ok());
    let ran = replay(&setup, &service, &["--all-failed"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    service.message("m1", is_delivered).await;
    let paths: Vec<String> = loops.rest().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/contacts/update"]);
    // A subscription that is named is replayed alone, whatever its outcome was.
    let ran = replay(&setup, &service, &["--state", "delivered", "--subscription", "Event"]).await;
    assert_eq!(ran.stdout.lines().next(), Some("replayed: 1"), "{ran:?}");
    assert_eq!(loops.next().await.path, "/events/send");
    service.message("m1", |found| found["replay"] == 2 && is_delivered(found)).await;
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn a_message_that_no_subscription_takes_any_more_stays_delivered_if_a_delivery_stands() {
    let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/contacts/update" => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let subscriptions = |trigger: &str| {
        format!(
            r#"
            [[subscriptions]]
            name = "Event"
            action = "sendEvent"
            events = ["Tested"]
            [[subscriptions]]
            name = "Contact"
            action = "createOrUpdateContact"
            trigger = 'type = "{trigger}"'
            "#
        )
    };
    let setup = Setup::with_loops(&loops.base_url).config(&subscriptions("track"));
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", is_failed).await;
    loops.now(|_| Reply::ok());
    loops.rest();
    let changed = Setup::with_loops(&loops.base_url).config(&subscriptions("identify"));
    let service = service.stop_and_restart(&changed).await;
    let answer = ask(&service, json!({"messageIds": ["m1"]})).await;
    assert_eq!(answer.body["replayed"], 1, "{answer:?}");
    let found = service.message("m1", is_delivered).await;
    assert_eq!((&found["reason"], &found["detail"]), (&Value::Null, &Value::Null), "{found}");
    // Once the message behind it is sent, the outcome has been logged and counted.
    service.accept("/v1/track", track("u1", "last")).await;
    assert_eq!(loops.notes(1).await, ["last"]);
    assert!(!service.log().iter().any(|line| line["message"] == "unmatched"));
    let metrics = service.admin("/metrics").await.body;
    let text = metrics.as_str().unwrap();
    let mut unmatched =
        text.lines().filter(|line| line.starts_with("segment_loops_unmatched_total{"));
    assert!(unmatched.all(|line| line.ends_with(" 0")), "{text}");
}

/// Subscriptions that delete a contact on an event, and also send that event.
const DELETES_ON_AN_EVENT: &str = r#"
[[subscriptions]]
name = "Contact"
action = "createOrUpdateContact"
trigger = 'type = "identify"'
[[subscriptions]]
name = "Farewell"
action = "sendEvent"
events = ["Account Deleted"]
[[subscriptions]]
name = "Gone"
action = "deleteContact"
trigger = 'type = "track" and event = "Account Deleted"'
"#;

fn account_deleted(id: &str) -> Value {
    json!({"userId": "u1", "event": "Account Deleted", "messageId": id})
}

#[tokio::test]
async fn nothing_accepted_before_a_delivered_deletion_is_sent_again() {
    let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/contacts/delete" => Reply::ok(),
        _ => refuse(seen),
    })
    .await;
    let setup = Setup::with_loops(&loops.base_url).config(DELETES_ON_AN_EVENT);
    let service = setup.start();
    service.accept("/v1/identify", identify("u1", "before")).await;
    service.accept("/v1/track", account_deleted("deletion")).await;
    service.accept("/v1/identify", identify("u1", "after")).await;
    service.accept("/v1/identify", identify("u2", "another")).await;
    for id in ["before", "deletion", "after", "another"] {
        service.message(id, is_failed).await;
    }
    loops.rest();
    loops.now(|_| Reply::ok());
    let ran = replay(&setup, &service, &["--all-failed"]).await;
    assert_eq!(
        ran.stdout,
        "replayed: 2\nwithout contents (expired, or of deleted people), not replayed: 2\n"
    );
    for id in ["after", "another"] {
        service.message(id, is_delivered).await;
    }
    let ran = replay(&setup, &service, &["--state", "all", "--subscription", "Farewell"]).await;
    assert_eq!(ran.stdout.lines().next(), Some("replayed: 0"), "{ran:?}");
    let sent: Vec<String> = loops.rest().iter().map(|seen| seen.path.clone()).collect();
    assert_eq!(sent, ["/contacts/update", "/contacts/update"]);
    for id in ["before", "deletion"] {
        assert!(is_failed(&service.message(id, |_| true).await), "{id}");
    }
}

#[tokio::test]
async fn a_deletion_overtakes_a_replay_that_was_requested_before_it_was_delivered() {
    let mut loops = ScriptedLoops::start(refuse).await;
    let setup = Setup::with_loops(&loops.base_url).config(DELETES_ON_AN_EVENT);
    let service = setup.start();
    service.accept("/v1/identify", identify("u1", "before")).await;
    service.message("before", is_failed).await;
    loops.now(|_| Reply::status(503));
    service.accept("/v1/track", account_deleted("deletion")).await;
    while loops.next().await.path == "/contacts/update" {}
    let ran = replay(&setup, &service, &["--message-id", "before"]).await;
    assert_eq!(ran.stdout.lines().next(), Some("replayed: 1"), "{ran:?}");
    loops.now(|_| Reply::ok());
    service.message("deletion", is_delivered).await;
    let found = service.message("before", |found| found["state"] == "unmatched").await;
    assert_eq!(found["reason"], "replay", "{found}");
    assert_eq!(found["detail"], "the person was deleted at Loops after the message was accepted");
    assert!(loops.rest().iter().all(|seen| seen.path != "/contacts/update"));
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let (mut loops, setup, service, _) = failed(&["m1", "m2"]).await;
    let ran = replay(&setup, &service, &["--user", "u1", "--dry-run"]).await;
    assert_eq!(
        (ran.code, ran.stdout.lines().next()),
        (Some(0), Some("would be replayed: 2")),
        "{ran:?}"
    );
    let answer = ask(&service, json!({"allFailed": true, "dryRun": true})).await;
    assert_eq!((answer.status, &answer.body["replayed"]), (200, &json!(2)), "{answer:?}");
    service.accept("/v1/track", track("u1", "last")).await;
    assert_eq!(loops.next().await.note(), "last");
    assert!(is_failed(&service.message("m1", |_| true).await));
}

#[tokio::test]
async fn a_message_without_contents_is_counted_and_not_replayed() {
    let (_loops, setup, service, _) = failed(&["m1", "m2"]).await;
    service.alter("UPDATE messages SET has_contents = 0 WHERE message_id = 'm1'").await;
    let ran = replay(&setup, &service, &["--all-failed"]).await;
    assert_eq!(
        ran.stdout,
        "replayed: 1\nwithout contents (expired, or of deleted people), not replayed: 1\n"
    );
    service.message("m2", is_delivered).await;
    assert!(is_failed(&service.message("m1", |_| true).await));
}

#[tokio::test]
async fn a_replay_that_matches_no_message_says_so() {
    let (_loops, setup, service, _) = failed(&["m1"]).await;
    let ran = replay(&setup, &service, &["--message-id", "other"]).await;
    assert!(ran.code == Some(0) && ran.stdout.starts_with("no message matches"), "{ran:?}");
    let ran = replay(&setup, &service, &["--message-id", "m1"]).await;
    assert!(ran.code == Some(0) && !ran.stdout.contains("no message"), "{ran:?}");
}

#[tokio::test]
async fn a_replay_without_a_service_waits_for_the_next_one() {
    let (mut loops, setup, mut service, _) = failed(&["m1"]).await;
    assert_eq!(service.stop().await, Some(0));
    let ran = replay(&setup, &service, &["--all-failed"]).await;
    assert_eq!(ran.stdout.lines().next(), Some("replayed: 1"), "{ran:?}");
    let service = service.crash_and_restart(&setup);
    assert_eq!(loops.next().await.note(), "m1");
    service.message("m1", is_delivered).await;
}

#[tokio::test]
async fn a_time_may_be_how_long_ago_and_the_subscriptions_compared_with_are_named() {
    let (_loops, setup, service, _) = failed(&["m1", "m2"]).await;
    for (arguments, count) in [
        (&["--from", "7d"][..], 2),
        (&["--from", "90m", "--to", "0s"], 2),
        (&["--to", "7d"], 0),
        (&["--from", "2020-01-01", "--to", "12h"], 0),
    ] {
        let ran = replay(&setup, &service, &[arguments, &["--dry-run"]].concat()).await;
        let expected = format!("would be replayed: {count}");
        assert!(ran.code == Some(0) && ran.stdout.contains(&expected), "{arguments:?}: {ran:?}");
    }
    let changed = ["--all-failed", "--only-changed", "--dry-run"];
    let ran = replay(&setup, &service, &changed).await;
    let expected = "compared with, for `default`: Segment's default subscriptions";
    assert!(ran.code == Some(0) && ran.stderr.contains(expected), "{ran:?}");
    assert!(ran.stdout.contains("unchanged by the subscriptions in force, not replayed: 2"));
    let other =
        setup.config("[[subscriptions]]\nname = \"A\"\naction = \"sendEvent\"\nevents = [\"A\"]\n");
    let ran = replay(&other, &service, &changed).await;
    let expected =
        "compared with, for `default`: 1 of 1 subscriptions enabled, of the configuration";
    assert!(ran.code == Some(0) && ran.stderr.contains(expected), "{ran:?}");
}

#[tokio::test]
async fn a_replay_must_say_which_messages_and_have_the_admin_token() {
    let (mut loops, setup, service, _) = failed(&["m1"]).await;
    let cases: [(&[&str], &str); 5] = [
        (&[], "--message-id, --user"),
        (&["--state", "all"], "--state alone is not enough"),
        (
            &["--reason", "luck"],
            "must be one of refused, expired, invalid, placeholder_id, discarded, unreadable",
        ),
        (&["--destination", "nowhere"], "--destination must be one of default"),
        (&["--from", "yesterday"], "--from must be a time such as"),
    ];
    for (arguments, text) in cases {
        let ran = replay(&setup, &service, arguments).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.stderr.contains(text), "{ran:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    let ran = setup.command_on(empty.path(), &["replay", "--all-failed"], b"").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("there is no database in"), "{ran:?}");
    for body in [
        json!({}),
        json!({"state": "pending", "allFailed": true}),
        json!({"user": "u1"}),
        json!([]),
        json!({"destination": format!("who@{EMAIL_DOMAIN}")}),
        json!({"source": format!("who@{EMAIL_DOMAIN}")}),
        json!({"subscription": format!("who@{EMAIL_DOMAIN}")}),
    ] {
        let answer = ask(&service, body.clone()).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("bad_replay")), "{body}");
        assert!(!answer.body.to_string().contains(EMAIL_DOMAIN));
    }
    let unknown = ask(&service, json!({"subscription": "none"})).await.body["message"].clone();
    assert!(unknown.as_str().unwrap().contains("`subscription` is unknown"), "{unknown}");
    let message = ask(&service, json!({"state": "failed"})).await.body["message"].clone();
    for key in ["`messageIds`", "`userId`", "\"allFailed\": true", "`state` alone is not enough"] {
        assert!(message.as_str().unwrap().contains(key), "{key}: {message}");
    }
    let request = service.request(reqwest::Method::POST, "/api/replay").body("{}");
    assert_eq!(Service::answer(request).await.status, 401);
    service.accept("/v1/track", track("u1", "last")).await;
    assert_eq!(loops.next().await.note(), "last");
}
