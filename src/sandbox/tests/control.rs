//! The control API shows what arrived and changes the faults.

use super::*;

#[tokio::test(start_paused = true)]
async fn shows_what_arrived() {
    let fixture = Fixture::new();
    fixture.event("k", json!({"eventName": "signup", "email": "u1@b.co", "userId": "u1"})).await;
    fixture.event("k", json!({"eventName": "signup", "email": "u2@b.co", "userId": "u2"})).await;
    fixture.event("l", json!({"eventName": "login", "email": "u2@b.co", "userId": "u2"})).await;
    fixture.call("PUT", "/contacts/update", "{broken").await;
    fixture.find("userId=u1").await;

    let get = async |path: &str| fixture.send(request("GET", path, ())).await.body;
    let overview = get("/sandbox").await;
    let counts = json!({
        "contacts": 2, "events": 2, "requests": 5, "rateLimited": 0, "mostInOneSecond": 5,
    });
    assert_eq!((&overview["counts"], &overview["apiBase"]), (&counts, &json!("/api/v1")));
    for link in overview["links"].as_object().expect("links").values() {
        let path = link.as_str().expect("a path");
        let status = fixture.send(request("GET", path, ())).await.status;
        assert_eq!(status, if path.ends_with("reset") { 405 } else { 200 }, "{path}");
    }

    let names = |events: Value| -> Vec<String> {
        let events = events.as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["eventName"].as_str().unwrap_or("").to_owned()).collect()
    };
    assert_eq!(names(get("/sandbox/events").await), ["signup", "login"]);
    assert_eq!(names(get("/sandbox/events?userId=u2").await), ["login"]);
    assert_eq!(get("/sandbox/contacts").await[1]["userId"], "u2");

    let requests = get("/sandbox/requests").await;
    let expected = json!({
        "number": 2, "atMs": requests[1]["atMs"], "method": "POST", "path": "/api/v1/events/send",
        "status": 409, "fault": null, "idempotencyKey": "k",
        "body": {"eventName": "signup", "email": "u2@b.co", "userId": "u2"},
    });
    assert_eq!(requests[1], expected);
    assert_eq!((&requests[3]["status"], &requests[3]["body"]), (&json!(400), &json!("{broken")));
    assert_eq!(requests[4]["path"], "/api/v1/contacts/find?userId=u1");
    assert_eq!(requests[4]["body"], Value::Null);
}

#[tokio::test]
async fn faults_are_changed_key_by_key() {
    let fixture = Fixture::with(Faults { latency_ms: 1, ..Faults::default() });
    let put = async |body: Value| fixture.send(request("PUT", "/sandbox/faults", body)).await;
    let reply = put(json!({"error_rate": 0.5, "rate_limit": 7})).await;
    let expected = Faults { latency_ms: 1, error_rate: 0.5, rate_limit: 7, ..Faults::default() };
    assert_eq!(reply.body, serde_json::to_value(&expected).expect("JSON"));
    assert_eq!(fixture.sandbox.faults(), expected);
    for wrong in [json!({"error_rate": 2}), json!({"errors": 1}), json!([])] {
        let reply = put(wrong.clone()).await;
        assert_eq!((reply.status, reply.message().is_empty()), (400, false), "{wrong}");
    }
    assert_eq!(fixture.sandbox.faults(), expected, "a refused change changes nothing");
    let shown = fixture.send(request("GET", "/sandbox/faults", ())).await;
    assert_eq!(shown.body, reply.body);
}

#[tokio::test]
async fn naming_the_seed_repeats_the_choices() {
    let fixture = Fixture::with(Faults { rate_limit: 10_000, ..Faults::default() });
    let run = async |patch: Value| {
        fixture.send(request("PUT", "/sandbox/faults", patch)).await;
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(fixture.call("GET", "/api-key", ()).await.status);
        }
        statuses
    };
    let first = run(json!({"seed": 3, "error_rate": 0.5})).await;
    assert!(first.contains(&200) && first.contains(&500));
    assert_eq!(run(json!({"seed": 3})).await, first);
    assert_ne!(run(json!({})).await, first, "without it they go on");
}

#[tokio::test]
async fn reset_forgets_everything() {
    let fixture = Fixture::with(Faults { rate_limit: 2, ..Faults::default() });
    fixture.event("k", json!({"eventName": "e", "email": "u@b.co", "plan": "pro"})).await;
    fixture.send(request("PUT", "/sandbox/faults", json!({"reject_key": true}))).await;
    fixture.event("k", json!({})).await;
    let reply = fixture.send(request("POST", "/sandbox/reset", ())).await;
    assert_eq!((reply.status, reply.body), (200, json!({"success": true})));

    let counts = fixture.sandbox.counts();
    assert_eq!((counts.contacts, counts.events, counts.requests), (0, 0, 0));
    assert_eq!((fixture.sandbox.events(), fixture.sandbox.requests()), (vec![], vec![]));
    assert!(!fixture.sandbox.faults().reject_key, "back to the faults of the start");
    let custom = fixture.call("GET", "/contacts/properties?list=custom", ()).await;
    assert_eq!(custom.body, json!([]));
    let again = fixture.event("k", json!({"eventName": "e", "email": "u@b.co"})).await;
    assert_eq!(again.status, 200, "keys and rate are forgotten as well");
    assert_eq!(fixture.sandbox.requests()[0].number, 3, "numbers go on");
}
