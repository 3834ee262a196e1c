//! Sources with a public write key: how much an address may send, what it may not send, and from which origins.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    ADMIN_TOKEN, Answer, EMAIL_DOMAIN, ScriptedLoops, Service, Setup, WRITE_KEY, track,
};

/// A public key, a public key with a high limit, and a secret key in the environment.
const SOURCES: &str = r#"
    [server]
    trusted_proxies = ["127.0.0.0/8"]

    [sources.page]
    browser = true
    write_keys = ["page"]
    address_requests_max = 2
    origins = ["https://shop.example"]
    stamp_ip = true

    [sources.app]
    browser = true
    write_keys = ["app"]
    allow_delete = true

    [sources.signed]
    browser = true
    write_keys = ["signed"]
    webhook_token = "token"
    address_requests_max = 1
"#;

async fn service() -> (ScriptedLoops, Service) {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).config(SOURCES).start();
    (loops, service)
}

/// Sends a request as a proxy does for this address.
async fn send(service: &Service, path: &str, key: &str, address: &str, body: Value) -> Answer {
    let request = service.request(Method::POST, path).basic_auth(key, Some(""));
    let request = request.header("x-forwarded-for", address).body(body.to_string());
    Service::answer(request).await
}

fn assert_too_many(answer: &Answer) {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.body["code"], "too_many_requests");
    assert!(answer.body["message"].as_str().unwrap().contains("address_requests_max"));
    // A token comes back every 30 seconds.
    let wait: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
}

#[tokio::test]
async fn an_address_that_sends_too_much_is_told_to_retry_and_nobody_else_is() {
    let (mut loops, service) = service().await;
    for (id, address) in [("m1", "192.0.2.1"), ("m2", "192.0.2.1"), ("m3", "192.0.2.2")] {
        let answer = send(&service, "/v1/t", "page", address, track("u1", id)).await;
        assert_eq!(answer.status, 200, "{id}: {answer:?}");
    }
    for path in ["/v1/t", "/v1/track", "/destination", "/webhook/page"] {
        let answer = send(&service, path, "page", "192.0.2.1", track("u1", "x")).await;
        assert_too_many(&answer);
    }
    let batch = json!({"batch": [track("u1", "x")]});
    assert_too_many(&send(&service, "/v1/b", "page", "192.0.2.1", batch).await);
    // Addresses that the sender writes into the header are ignored.
    let forged = "203.0.113.1, 192.0.2.1";
    assert_too_many(&send(&service, "/v1/t", "page", forged, track("u1", "x")).await);
    // Other sources have their own limits, or none.
    for (id, key) in [("m4", "app"), ("m5", WRITE_KEY), ("m6", WRITE_KEY), ("m7", WRITE_KEY)] {
        let answer = send(&service, "/v1/t", key, "192.0.2.1", track("u1", id)).await;
        assert_eq!(answer.status, 200, "{id}: {answer:?}");
    }
    assert_eq!(loops.notes(7).await, ["m1", "m2", "m3", "m4", "m5", "m6", "m7"]);
}

#[tokio::test]
async fn a_reload_does_not_reset_the_limit_of_an_address() {
    let (_loops, service) = service().await;
    let sent =
        async |id: &str| send(&service, "/v1/t", "page", "192.0.2.1", track("u1", id)).await.status;
    let reload = async || {
        let request = service.request(Method::POST, "/api/reload").bearer_auth(ADMIN_TOKEN);
        assert_eq!(Service::answer(request).await.status, 200);
    };
    assert_eq!([sent("m1").await, sent("m2").await, sent("m3").await], [200, 200, 429]);
    reload().await;
    assert_eq!(sent("m4").await, 429);
    // A changed limit starts with an unused allowance.
    let other = SOURCES.replace("address_requests_max = 2", "address_requests_max = 3");
    service.write_config(&other);
    reload().await;
    assert_eq!(sent("m5").await, 200);
}

#[tokio::test]
async fn a_batch_counts_by_its_messages() {
    let (_loops, service) = service().await;
    let batch = |name: &str, count: usize| {
        let messages: Vec<_> = (0..count).map(|n| track("u1", &format!("{name}-{n}"))).collect();
        json!({"batch": messages})
    };
    // 20 messages count as one request and 21 as two. Two requests a minute are allowed.
    for (address, first, second) in
        [("192.0.2.1", 20, 200), ("192.0.2.2", 21, 429), ("192.0.2.3", 4_000, 429)]
    {
        let answer = send(&service, "/v1/b", "page", address, batch(address, first)).await;
        assert_eq!(answer.status, 200, "{first}: {answer:?}");
        let answer = send(&service, "/v1/b", "page", address, batch("more", 1)).await;
        assert_eq!(answer.status, second, "{first}: {answer:?}");
    }
}

#[tokio::test]
async fn what_segment_sends_with_a_secret_is_not_limited() {
    let (mut loops, service) = service().await;
    for id in ["m1", "m2", "m3"] {
        let request = service.request(Method::POST, "/webhook/signed").bearer_auth("token");
        let answer = Service::answer(request.body(track("u1", id).to_string())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let request = service.request(Method::POST, "/webhook/signed").bearer_auth("token");
    let delete = json!({"type": "delete", "userId": "u1", "messageId": "m4"});
    assert_eq!(Service::answer(request.body(delete.to_string())).await.status, 200);
    assert_eq!(loops.notes(3).await, ["m1", "m2", "m3"]);
    assert_eq!(loops.next().await.path, "/contacts/delete");
}

#[tokio::test]
async fn a_public_key_deletes_nobody() {
    let (mut loops, service) = service().await;
    let delete = |id: &str| json!({"type": "delete", "userId": "u1", "messageId": id});
    for path in ["/v1/track", "/v1/t", "/destination", "/webhook/page"] {
        // Each request comes from another address, so that none is refused by the limit.
        let address = format!("192.0.2.{}", path.len());
        let answer = send(&service, path, "page", &address, delete("x")).await;
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
        assert_eq!(answer.body["code"], "delete_not_allowed");
        assert!(answer.body["message"].as_str().unwrap().contains("allow_delete"));
    }
    let batch = json!({"batch": [track("u1", "m1"), delete("x"), track("u1", "m2")]});
    let answer = send(&service, "/v1/batch", "page", "192.0.2.1", batch).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["rejected"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer.body["rejected"][0]["index"], 1);
    assert_eq!(answer.body["rejected"][0]["code"], "delete_not_allowed");
    assert_eq!(loops.notes(2).await, ["m1", "m2"]);
    // Deletion works with a public key where it is allowed, and with a secret key.
    for (key, id) in [("app", "d1"), (WRITE_KEY, "d2")] {
        let answer = send(&service, "/v1/track", key, "192.0.2.1", delete(id)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(loops.next().await.path, "/contacts/delete");
    }
}

#[tokio::test]
async fn pages_on_other_origins_are_refused_and_can_read_that() {
    let (_loops, service) = service().await;
    // (key, Origin) → status
    let cases = [
        ("page", Some("https://shop.example"), 200),
        ("page", None, 200),
        ("page", Some("https://shop.example.evil.example"), 403),
        ("page", Some("http://shop.example"), 403),
        ("page", Some("null"), 403),
        ("app", Some("https://anywhere.example"), 200),
        (WRITE_KEY, Some("https://anywhere.example"), 200),
    ];
    for (number, (key, origin, status)) in cases.into_iter().enumerate() {
        let settings = service.request(Method::GET, &format!("/v1/projects/{key}/settings"));
        let batch = json!({"batch": [track("u1", &format!("b{number}"))], "writeKey": key});
        let single = track("u1", &format!("m{number}")).to_string();
        let address = format!("192.0.2.{number}");
        let posts = [("/v1/t", single), ("/v1/b", batch.to_string())].map(|(path, body)| {
            let request = service.request(Method::POST, path).basic_auth(key, Some(""));
            request.header("x-forwarded-for", &address).body(body)
        });
        for request in [settings].into_iter().chain(posts) {
            let request = match origin {
                Some(origin) => request.header("origin", origin),
                None => request,
            };
            let answer = Service::answer(request).await;
            assert_eq!(answer.status, status, "{key} {origin:?}: {answer:?}");
            if let Some(origin) = origin {
                assert_eq!(answer.headers["access-control-allow-origin"], origin);
            }
            if status == 403 {
                assert_eq!(answer.body["code"], "origin_not_allowed");
                assert!(answer.body["message"].as_str().unwrap().contains("origins"));
            }
        }
    }
}

#[tokio::test]
async fn the_senders_address_is_stamped_if_configured() {
    let (_loops, service) = service().await;
    let given = json!({
        "type": "identify", "userId": "u1", "messageId": "own", "context": {"ip": "0.0.0.0"},
        "traits": {"email": format!("u1@{EMAIL_DOMAIN}")}
    });
    // (key, X-Forwarded-For, message) → context.ip
    let cases = [
        ("page", "192.0.2.1", track("u1", "one"), json!("192.0.2.1")),
        ("page", "203.0.113.1, 2001:db8::7", track("u1", "two"), json!("2001:db8::7")),
        ("page", "192.0.2.2", given, json!("0.0.0.0")),
        ("app", "192.0.2.3", track("u1", "three"), Value::Null),
    ];
    for (key, address, message, expected) in cases {
        let answer = send(&service, "/v1/t", key, address, message.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = message["messageId"].as_str().unwrap();
        let stored = service.stored().await;
        assert_eq!(stored[id][0]["context"]["ip"], expected, "{id}");
    }
    // Requests of Segment come from its own servers.
    let answer = send(&service, "/destination", "page", "192.0.2.9", track("u1", "segment")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(service.stored().await["segment"][0]["context"]["ip"], Value::Null);
}

#[tokio::test]
async fn without_trusted_proxies_their_header_counts_for_nothing() {
    let loops = ScriptedLoops::willing().await;
    let config = r#"
        [sources.page]
        browser = true
        write_keys = ["page"]
        address_requests_max = 1
        stamp_ip = true
    "#;
    let service = Setup::with_loops(&loops.base_url).config(config).start();
    let answer = send(&service, "/v1/t", "page", "192.0.2.1", track("u1", "m1")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = send(&service, "/v1/t", "page", "192.0.2.2", track("u1", "m2")).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(service.stored().await["m1"][0]["context"]["ip"], "127.0.0.1");
}
