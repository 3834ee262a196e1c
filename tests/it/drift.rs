//! `drift` compares the contacts at Loops with what was sent, or would have been sent in shadow mode.

use serde_json::{Value, json};

use crate::support::{EMAIL_DOMAIN, Ran, Reply, ScriptedLoops, Seen, Service, Setup};

fn setup(loops: &ScriptedLoops, mode: &str) -> Setup {
    let config = format!("[destinations.default]\nmode = \"{mode}\"\ncatalogue_refresh_s = 0\n");
    Setup::with_loops(&loops.base_url)
        .config(&config)
        .env("SEGMENT_LOOPS__DELIVERY__TIMEOUT_MS", "1000")
}

/// A Loops that accepts everything. `find` returns its contact for a user id.
async fn holding(find: impl Fn(&str) -> Reply + Send + 'static) -> ScriptedLoops {
    ScriptedLoops::start(move |seen: &Seen| match (&*seen.path, seen.query.split_once('=')) {
        ("/contacts/find", Some((_, id))) => find(id),
        _ => Reply::ok(),
    })
    .await
}

fn contacts(contacts: Value) -> Reply {
    Reply::ok().with_body(&contacts.to_string())
}

async fn send(service: &Service, id: &str, state: &str, mut message: Value) {
    message["messageId"] = id.into();
    service.accept("/v1/batch", json!({"batch": [message]})).await;
    service.message(id, |found| found["state"] == state).await;
}

async fn identify(service: &Service, id: &str, state: &str, user: &str, traits: Value) {
    let message = json!({"type": "identify", "userId": user, "traits": traits});
    send(service, id, state, message).await;
}

async fn drift(setup: &Setup, service: &Service, arguments: &[&str]) -> Ran {
    setup.command_on(service.data(), &[&["drift"], arguments].concat(), b"").await
}

#[tokio::test]
async fn a_planted_difference_and_a_missing_contact_are_found_and_the_rest_is_the_same() {
    let email = format!("ada@{EMAIL_DOMAIN}");
    let address = email.clone();
    let loops = holding(move |user| match user {
        "u1" => contacts(json!([{"id": "1", "userId": "u1", "email": address, "plan": "pro", "seats": 3.0,
            "since": "2026-01-02T00:00:00.000Z", "firstName": null, "subscribed": true, "source": "Segment"}])),
        "u2" => contacts(json!([{"id": "2", "userId": "u2", "plan": "free", "extra": "by hand", "source": "Segment"}])),
        _ => contacts(json!([])),
    })
    .await;
    let setup = setup(&loops, "shadow");
    let service = setup.start();
    let traits = json!({"email": email, "plan": "free", "seats": 3, "since": "2026-01-02"});
    identify(&service, "m1", "shadowed", "u1", traits).await;
    identify(&service, "m2", "shadowed", "u1", json!({"plan": "pro", "gone": null})).await;
    identify(&service, "m3", "shadowed", "u2", json!({"plan": "pro", "city": "Rome"})).await;
    identify(&service, "m4", "shadowed", "u3", json!({"plan": "pro"})).await;
    identify(&service, "m5", "shadowed", "u4", json!({"plan": "pro"})).await;
    send(&service, "m6", "shadowed", json!({"type": "delete", "userId": "u4"})).await;

    let ran = drift(&setup, &service, &["--json"]).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let counts = ["people", "compared", "notFound", "unread", "deleted"].map(|name| &found[name]);
    assert_eq!(counts, [4, 2, 1, 0, 1], "{found}");
    let row = |name: &str| {
        let row = &found["properties"][name];
        ["same", "differs", "missing", "onlyThere"].map(|count| row[count].as_u64().unwrap())
    };
    for name in ["email", "seats", "since", "gone"] {
        assert_eq!(row(name), [1, 0, 0, 0], "{name}: {found}");
    }
    assert_eq!(row("plan"), [1, 1, 0, 0], "{found}");
    assert_eq!(row("city"), [0, 0, 1, 0]);
    assert_eq!(row("extra"), [0, 0, 0, 1]);
    assert_eq!(found["properties"]["plan"]["messages"], json!(["m3"]));
    let of_subscription = found["subscriptions"].as_object().unwrap();
    assert_eq!(of_subscription.len(), 1, "{found}");
    assert_eq!(found["values"], Value::Null, "values are shown only if asked for");

    let ran = drift(&setup, &service, &["--show", "--sample", "2"]).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let ran = drift(&setup, &service, &["--show"]).await;
    assert!(
        ran.stdout.contains("u2 plan: \"free\" at Loops, \"pro\" expected, by message m3"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("not found at Loops: 1"), "{ran:?}");
}

#[tokio::test]
async fn what_was_delivered_is_compared_too_and_may_all_be_the_same() {
    let loops = holding(|user| match user {
        "u1" => contacts(json!([{"userId": "u1", "plan": "pro", "extra": 1, "subscribed": false,
            "mailingLists": {"l1": true}, "source": "Segment"}])),
        _ => contacts(json!([])),
    })
    .await;
    let setup = setup(&loops, "live");
    let service = setup.start();
    let traits =
        json!({"plan": "free", "mailingLists": {"l1": true, "l2": false}, "subscribed": false});
    identify(&service, "m1", "delivered", "u1", traits).await;
    identify(&service, "m2", "delivered", "u1", json!({"plan": "pro"})).await;
    let ran = drift(&setup, &service, &["--since", "1h"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("Loops has what was sent"), "{ran:?}");
    // No contact has changed since then.
    let ran = drift(&setup, &service, &["--since", "2100-01-01"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("nothing was compared"), "{ran:?}");
    for wrong in [&["--since", "soon"][..], &["--sample", "0"], &["--destination", "other"]] {
        let ran = drift(&setup, &service, wrong).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
    }
}

#[tokio::test]
async fn contacts_whose_messages_are_not_found_are_not_compared() {
    let loops =
        holding(|user| contacts(json!([{"userId": user, "plan": "free", "source": "Segment"}])))
            .await;
    let subscriptions = r#"[[subscriptions]]
name = "Customers"
action = "createOrUpdateContact"
trigger = 'type = "identify"'
mapping = { userId = { "@path" = "$.traits.customer" } }
"#;
    let config = format!(
        "[destinations.default]\nmode = \"shadow\"\ncatalogue_refresh_s = 0\n{subscriptions}"
    );
    let setup = Setup::with_loops(&loops.base_url).config(&config);
    let service = setup.start();
    let traits = json!({"customer": "c1", "plan": "pro"});
    identify(&service, "m1", "shadowed", "u1", traits).await;
    let ran = drift(&setup, &service, &[]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("1 person with messages"), "{ran:?}");
    assert!(ran.stdout.contains("(a mapping may take it from elsewhere): 1"), "{ran:?}");
    assert!(!ran.stdout.contains("Loops has what"), "{ran:?}");
    assert!(ran.stderr.contains("nothing was compared"), "{ran:?}");
}

#[tokio::test]
async fn odd_answers_cost_a_contact_at_most() {
    let loops = holding(|user| match user {
        "error" => Reply::status(500),
        "text" => Reply::ok().with_body("<html>"),
        "endless" => Reply::ok().with_body(&format!("[{}", " ".repeat(5 << 20))),
        "silent" => Reply::Silence,
        "many" => {
            let mut contact = json!({"userId": "many", "plan": "pro", "source": "Segment"});
            for n in 0..10_000 {
                contact[format!("p{n}")] = n.into();
            }
            contacts(json!([contact]))
        }
        _ => contacts(json!([{"userId": user, "plan": "pro", "source": "Segment"}])),
    })
    .await;
    let setup = setup(&loops, "shadow");
    let service = setup.start();
    for user in ["good", "error", "text", "many", "endless", "silent"] {
        identify(&service, user, "shadowed", user, json!({"plan": "pro"})).await;
    }
    let ran = drift(&setup, &service, &[]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("4 contacts could not be read"), "{ran:?}");
    assert!(ran.stdout.contains("2 contacts of default compared"), "{ran:?}");
    assert!(ran.stdout.len() < 20_000, "{}", ran.stdout.len());
}

#[tokio::test]
async fn a_refused_key_ends_it_and_too_many_requests_are_waited_for() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let loops =
        holding(move |user| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::status(429).with_header("retry-after", "1"),
            _ => contacts(json!([{"userId": user, "plan": "pro", "source": "Segment"}])),
        })
        .await;
    let setup = setup(&loops, "shadow");
    let service = setup.start();
    identify(&service, "m1", "shadowed", "u1", json!({"plan": "pro"})).await;
    let ran = drift(&setup, &service, &[]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    loops.now(|_| Reply::status(401));
    let ran = drift(&setup, &service, &[]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("refuses the API key"), "{ran:?}");
}

#[tokio::test]
async fn only_the_destination_that_is_compared_must_be_configured_without_errors() {
    let loops =
        holding(|_| contacts(json!([{"userId": "u1", "plan": "pro", "source": "Segment"}]))).await;
    let working = setup(&loops, "shadow");
    let service = working.start();
    identify(&service, "m1", "shadowed", "u1", json!({"plan": "pro"})).await;
    let others = "[sources.keyless]\nbrowser = true\n[destinations.keyless]\nmode = \"shadow\"\n[destinations.default]\nmode = \"shadow\"\ncatalogue_refresh_s = 0\n";
    let setup = Setup::with_loops(&loops.base_url).config(others);
    let ran = drift(&setup, &service, &["--destination", "default"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = drift(&setup, &service, &["--destination", "keyless"]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("destinations.keyless.api_key: there is no API key"), "{ran:?}");
    let ran = drift(&setup, &service, &[]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
}
