//! The key, the paths, the rate and the faults.

use std::time::Duration;

use super::*;
use crate::sandbox::team::BODY_BYTES_MAX;
use crate::secret::Secret;

#[tokio::test]
async fn every_endpoint_wants_the_key() {
    let endpoints = [
        "GET /api-key",
        "POST /contacts/create",
        "PUT /contacts/update",
        "GET /contacts/find?userId=u",
        "POST /contacts/delete",
        "GET /contacts/suppression?userId=u",
        "GET /contacts/properties",
        "GET /lists",
        "POST /events/send",
        "GET /event-patterns",
        "GET /nowhere",
    ];
    let right = SandboxOptions { api_key: Some(Secret::new("right")), ..Default::default() };
    let one_key = Fixture::with_options(right);
    let any_key = Fixture::with_options(SandboxOptions::default());
    let rejecting = Fixture::with(Faults { reject_key: true, ..Faults::default() });
    let cases = [
        (&one_key, "Bearer wrong"),
        (&one_key, "Bearer "),
        (&one_key, "Basic right"),
        (&one_key, "right"),
        (&any_key, "Bearer "),
        (&any_key, ""),
        (&rejecting, "Bearer right"),
    ];
    let expected = json!({
        "success": false, "message": "Invalid API key", "error": "Invalid API key",
    });
    for endpoint in endpoints {
        let (method, path) = endpoint.split_once(' ').expect("a method and a path");
        for (fixture, authorization) in &cases {
            let mut request = request(method, &format!("{API_BASE}{path}"), ());
            let header = authorization.parse().expect("a header");
            request.headers_mut().insert("authorization", header);
            let reply = fixture.send(request).await;
            assert_eq!((reply.status, &reply.body), (401, &expected), "{endpoint} {authorization}");
        }
        let mut request = request(method, &format!("{API_BASE}{path}"), ());
        request.headers_mut().remove("authorization");
        assert_eq!(any_key.send(request).await.status, 401, "{endpoint}");
    }
    let mut request = request("GET", &format!("{API_BASE}/api-key"), ());
    request.headers_mut().insert("authorization", "bearer right".parse().expect("a header"));
    let reply = one_key.send(request).await;
    assert_eq!(reply.body, json!({"success": true, "teamName": "Sandbox"}));
}

#[tokio::test]
async fn wrong_paths_and_methods_are_told_in_json() {
    let cases = [
        ("GET", "/api/v1/contacts/update", 405),
        ("POST", "/api/v1/api-key", 405),
        ("PATCH", "/api/v1/contacts/properties", 405),
        ("GET", "/api/v1/contacts", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v2/api-key", 404),
        ("GET", "/", 404),
        ("POST", "/sandbox/events", 405),
        ("GET", "/sandbox/reset", 405),
        ("GET", "/sandbox/nothing", 404),
    ];
    let fixture = Fixture::new();
    for (method, path, status) in cases {
        let reply = fixture.send(request(method, path, ())).await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert!(!reply.message().is_empty(), "{method} {path}: {}", reply.body);
    }
}

#[tokio::test]
async fn bodies_are_read_up_to_a_mebibyte() {
    let fixture = Fixture::new();
    for (bytes, status) in [(BODY_BYTES_MAX, 200), (BODY_BYTES_MAX + 1, 413)] {
        let mut body = r#"{"email":"u@b.co"}"#.to_owned();
        body.push_str(&" ".repeat(bytes - body.len()));
        let reply = fixture.call("PUT", "/contacts/update", body.as_str()).await;
        assert_eq!(reply.status, status, "{bytes}: {}", reply.body);
        assert_eq!(reply.message().is_empty(), status == 200);
    }
    let too_large = "x".repeat(BODY_BYTES_MAX + 1);
    let reply = fixture.send(request("PUT", "/sandbox/faults", too_large.as_str())).await;
    assert_eq!((reply.status, reply.message().is_empty()), (413, false));
}

#[tokio::test(start_paused = true)]
async fn the_rate_holds_in_any_second() {
    let fixture = Fixture::with(Faults::default());
    let hit = || fixture.call("GET", "/api-key", ());
    tokio::time::advance(Duration::from_millis(900)).await;
    for remaining in (0..10).rev() {
        let reply = hit().await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-ratelimit-limit"), Some("10"));
        assert_eq!(reply.header("x-ratelimit-remaining"), Some(remaining.to_string().as_str()));
    }
    // Requests that are turned away do not count. Otherwise a client that keeps trying would never get through.
    for _ in 0..3 {
        tokio::time::advance(Duration::from_millis(333)).await;
        let reply = hit().await;
        assert_eq!((reply.status, reply.body["success"].clone()), (429, json!(false)));
        assert!(!reply.message().is_empty());
        assert_eq!(reply.header("x-ratelimit-limit"), Some("10"));
        assert_eq!(reply.header("x-ratelimit-remaining"), Some("0"));
    }
    tokio::time::advance(Duration::from_millis(1)).await;
    let reply = hit().await;
    assert_eq!((reply.status, reply.header("x-ratelimit-remaining")), (200, Some("9")));
    let counts = fixture.sandbox.counts();
    assert_eq!((counts.requests, counts.rate_limited, counts.most_in_one_second), (14, 3, 13));
}

#[tokio::test(start_paused = true)]
async fn wrong_keys_use_up_nothing_of_the_rate() {
    let fixture = Fixture::with(Faults { rate_limit: 1, ..Faults::default() });
    for _ in 0..5 {
        let mut request = request("GET", &format!("{API_BASE}/api-key"), ());
        request.headers_mut().remove("authorization");
        assert_eq!(fixture.send(request).await.status, 401);
    }
    assert_eq!(fixture.call("GET", "/api-key", ()).await.status, 200);
    assert_eq!(fixture.call("GET", "/api-key", ()).await.status, 429);
}

#[tokio::test]
async fn faults_have_the_effect_they_say() {
    let none = Faults { rate_limit: 1000, ..Faults::default() };
    let error = Faults { error_rate: 1.0, error_status: 503, ..none.clone() };
    let before = Faults { reset_before_rate: 1.0, ..none.clone() };
    let after = Faults { reset_after_rate: 1.0, ..none.clone() };
    // (faults, status of the response or none if dropped, fault, events afterwards, status of a retry with the same
    // key)
    let cases = [
        (&none, Some(200), None, 1, 409),
        (&error, Some(503), Some(InjectedFault::Error), 0, 200),
        (&before, None, Some(InjectedFault::ResetBefore), 0, 200),
        (&after, None, Some(InjectedFault::ResetAfter), 1, 409),
    ];
    for (faults, status, fault, events, retry) in cases {
        let fixture = Fixture::with(faults.clone());
        let event = json!({"eventName": "e", "email": "u@b.co"});
        let reply = fixture.event("k", event.clone()).await;
        assert_eq!(reply.is_reset, status.is_none(), "{faults:?}");
        if let Some(status) = status {
            assert_eq!(reply.status, status);
        }
        assert_eq!(fixture.sandbox.events().len(), events, "{faults:?}");
        let seen = &fixture.sandbox.requests()[0];
        assert_eq!((seen.status, seen.fault), (status, fault));
        fixture.sandbox.set_faults(none.clone());
        assert_eq!(fixture.event("k", event).await.status, retry, "{faults:?}");
        assert_eq!(fixture.sandbox.events().len(), 1, "in the end it counts once");
    }
}

#[tokio::test(start_paused = true)]
async fn latency_stands_half_before_and_half_after_the_effect() {
    let faults = Faults { latency_ms: 2000, latency_jitter_ms: 500, ..Faults::default() };
    let fixture = Fixture::with(faults);
    let began = tokio::time::Instant::now();
    let call = fixture.update(json!({"email": "u@b.co"}));
    tokio::pin!(call);
    let early = tokio::time::timeout(Duration::from_millis(999), &mut call).await;
    assert!(early.is_err() && fixture.sandbox.contacts().is_empty());
    let later = tokio::time::timeout(Duration::from_millis(400), &mut call).await;
    assert!(later.is_err() && fixture.sandbox.contacts().len() == 1);
    assert_eq!(fixture.sandbox.requests()[0].status, None, "not answered yet");
    assert_eq!(call.await.status, 200);
    let took = began.elapsed().as_millis();
    assert!((2000..=2502).contains(&took), "{took} ms");
}
