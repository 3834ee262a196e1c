//! Events and idempotency keys keep Loops' contract.

use jiff::SignedDuration;

use super::*;

fn with_properties(properties: Value) -> Value {
    json!({"eventName": "e", "email": "a@b.co", "eventProperties": properties})
}

#[tokio::test]
async fn refuses_what_the_contract_does_not_take() {
    let cases = [
        (json!({"userId": "u"}), "`eventName` is required"),
        (json!({"userId": "u", "eventName": ""}), "`eventName` is required"),
        (json!({"userId": "u", "eventName": 5}), "`eventName` must be a string"),
        (json!({"eventName": "e"}), "`email` or `userId` is required"),
        (json!({"eventName": "e", "email": "nobody"}), "Invalid email address."),
        (json!({"eventName": "e", "userId": "u", "eventProperties": []}), "`eventProperties` must"),
        (json!({"eventName": "e", "userId": "u"}), "No contact has this `userId`"),
        (json!({"eventName": "Order: Paid", "email": "a@b.co"}), "must not contain a colon"),
        (json!({"eventName": ":", "email": "a@b.co"}), "must not contain a colon"),
        (
            json!({"eventName": "e".repeat(501), "email": "a@b.co"}),
            "`eventName` must be at most 500",
        ),
        (with_properties(json!(null)), "`eventProperties` must be an object, not null"),
        (with_properties(json!({"coupon": null})), "`eventProperties.coupon` must be"),
        (with_properties(json!({"cart": {"n": 1}})), "`eventProperties.cart` must be"),
        (with_properties(json!({"tags": []})), "`eventProperties.tags` must be"),
        (
            with_properties(json!({"note": "é".repeat(501)})),
            "`eventProperties.note` must be at most",
        ),
        (
            json!({"eventName": "e", "email": "a@b.co", "note": "x".repeat(501)}),
            "`note` must be at most",
        ),
        (json!({"eventName": "e", "userId": "u", "address": {"city": "x"}}), "`address` must be"),
        (json!({"eventName": "e", "userId": "u", "mailingLists": {"l": "y"}}), "`mailingLists.l`"),
    ];
    let fixture = Fixture::new();
    for (body, message) in cases {
        let reply = fixture.event("key", body.clone()).await;
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.message().contains(message), "{body}: {}", reply.body);
    }
    assert_eq!(fixture.sandbox.events(), []);
    assert_eq!(fixture.sandbox.counts().contacts, 0, "a refused event has no effect");
    let right = json!({"eventName": "e", "email": "a@b.co", "userId": "u"});
    let reply = fixture.event("key", right).await;
    assert_eq!(reply.status, 200, "a refused event does not use up its key");
}

#[tokio::test]
async fn an_event_is_kept_and_updates_its_contact() {
    let fixture = Fixture::new();
    let body = json!({
        "eventName": "signup", "email": "a@b.co", "userId": "u", "plan": "pro",
        "subscribed": false, "mailingLists": {"l1": true},
        "eventProperties": {"amount": 9.5, "first": false, "text": "é".repeat(500)},
    });
    assert_eq!(fixture.event("k1", body).await.body, json!({"success": true}));
    let second = json!({"eventName": "login", "userId": "u"});
    assert_eq!(fixture.call("POST", "/events/send", second).await.status, 200);

    let contact = &fixture.find("userId=u").await[0];
    let found = (&contact["email"], &contact["plan"], &contact["subscribed"]);
    assert_eq!(found, (&json!("a@b.co"), &json!("pro"), &json!(false)));
    assert_eq!(contact["mailingLists"], json!({"l1": true}));
    assert_eq!(contact.get("eventName"), None, "the name of an event is no contact property");

    let events = serde_json::to_value(fixture.sandbox.events()).expect("JSON");
    let first = json!({
        "number": 1, "receivedAt": "1970-01-01T00:00:00Z", "email": "a@b.co", "userId": "u",
        "eventName": "signup",
        "eventProperties": {"amount": 9.5, "first": false, "text": "é".repeat(500)},
        "contactProperties": {"plan": "pro", "subscribed": false},
        "mailingLists": {"l1": true}, "idempotencyKey": "k1",
    });
    assert_eq!(events[0], first);
    assert_eq!((&events[1]["eventName"], &events[1]["number"]), (&json!("login"), &json!(2)));
    assert_eq!(events[1]["idempotencyKey"], Value::Null);
}

#[tokio::test]
async fn a_key_counts_once_in_24_hours() {
    let fixture = Fixture::new();
    let event = |n: u32| json!({"eventName": "e", "email": "u@b.co", "userId": "u", "n": n});
    let cases = [
        (0, 200),
        (1, 409),
        (86_398, 409),
        // Refused tries do not extend the time: 24 hours after the first use, the key is free again.
        (1, 200),
        (86_399, 409),
        (1, 200),
    ];
    for (n, (seconds_later, status)) in cases.into_iter().enumerate() {
        fixture.clock.advance(SignedDuration::from_secs(seconds_later));
        let reply = fixture.event("key", event(n as u32)).await;
        assert_eq!(reply.status, status, "try {n}");
        if status == 409 {
            let expected = json!({"success": false, "message": "Idempotency key has been used."});
            assert_eq!(reply.body, expected);
        }
    }
    assert_eq!(fixture.sandbox.events().len(), 3);
    assert_eq!(fixture.event("another", event(9)).await.status, 200);
    let broken = fixture.event("another", json!([])).await;
    assert_eq!(broken.status, 409, "whatever the body");
    assert_eq!(fixture.find("userId=u").await[0]["n"], 9, "a 409 has no effect");
}

#[tokio::test]
async fn the_length_of_keys_is_bounded() {
    let fixture = Fixture::new();
    for (length, status) in [(99, 200), (100, 200), (101, 400)] {
        let event = json!({"eventName": "e", "email": "u@b.co"});
        assert_eq!(fixture.event(&"k".repeat(length), event).await.status, status, "{length}");
    }
}

#[tokio::test]
async fn event_patterns_come_in_pages() {
    let fixture = Fixture::new();
    for n in 0..25 {
        let name = format!("event{}", n % 23);
        fixture.event(&n.to_string(), json!({"eventName": name, "email": "u@b.co"})).await;
    }
    let mut names = Vec::new();
    let mut cursor = "0".to_owned();
    let mut pages = 0;
    loop {
        let path = format!("/event-patterns?perPage=10&cursor={cursor}");
        let body = fixture.call("GET", &path, ()).await.body;
        assert_eq!(body["pagination"]["totalResults"], 23);
        assert_eq!(body["pagination"]["totalPages"], 3);
        let data = body["data"].as_array().expect("a page");
        names.extend(data.iter().map(|pattern| pattern["eventName"].to_string()));
        pages += 1;
        match body["pagination"]["nextCursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!((pages, names.len(), names[22].as_str()), (3, 23, "\"event22\""));
    for query in ["perPage=9", "perPage=51", "perPage=x", "cursor=x"] {
        let reply = fixture.call("GET", &format!("/event-patterns?{query}"), ()).await;
        assert_eq!(reply.status, 400, "{query}");
    }
}

#[tokio::test]
async fn an_event_finds_its_contact_by_either_key_and_overwrites_the_other() {
    let fixture = Fixture::new();
    fixture.update(json!({"email": "a@b.co", "userId": "a"})).await;
    fixture.update(json!({"email": "c@b.co", "userId": "c"})).await;
    let event =
        |email: &str, user_id: &str| json!({"eventName": "e", "email": email, "userId": user_id});
    let two = fixture.event("1", event("a@b.co", "c")).await;
    assert_eq!((two.status, two.message().contains("two different contacts")), (400, true));
    assert_eq!(fixture.sandbox.events(), [], "a refused event has no effect");
    assert_eq!(fixture.event("2", event("a@b.co", "new")).await.status, 200);
    assert_eq!(fixture.find("userId=new").await[0]["email"], "a@b.co");
    assert_eq!(fixture.find("userId=a").await, json!([]), "the user id was overwritten");
    assert_eq!(fixture.event("3", event("new@b.co", "c")).await.status, 200);
    assert_eq!(fixture.find("userId=c").await[0]["email"], "new@b.co");
    assert_eq!(fixture.find("email=c@b.co").await, json!([]), "the address was overwritten");
    assert_eq!(fixture.event("4", json!({"eventName": "e", "userId": "c"})).await.status, 200);
    assert_eq!(fixture.sandbox.counts().contacts, 2);
}
