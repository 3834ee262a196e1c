//! Paths as senders and proxies write them, and the API host that a page is given.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::json;

use crate::support::{Service, Setup, WRITE_KEY, identify, track};

fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1").start()
}

#[tokio::test]
async fn extra_slashes_do_not_matter() {
    let service = service();
    let paths = [
        "//v1/track",
        "/v1//track",
        "/v1/track/",
        "///v1///track///",
        "//v1/t",
        "/v1/t/",
        "//destination",
        "/destination/",
    ];
    for (number, path) in paths.iter().enumerate() {
        let request = service.request(Method::POST, path).basic_auth(WRITE_KEY, Some(""));
        let answer =
            Service::answer(request.body(track("u1", &format!("m{number}")).to_string())).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    assert_eq!(service.stored().await.len(), paths.len());
    for path in ["//healthz", "/readyz/", "//v1//projects/wk-canary-7f3a//settings/"] {
        let answer = Service::answer(service.request(Method::GET, path)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_batch_is_taken_at_the_root_of_the_api_and_from_beacons() {
    let service = service();
    let batch = |id: &str| json!({"batch": [track("u1", id)], "writeKey": WRITE_KEY}).to_string();
    let post = |path: &str, body: &str| {
        Service::answer(service.request(Method::POST, path).body(body.to_owned()))
    };
    for (path, id) in [("/v1", "m1"), ("/v1/", "m2"), ("/beacon/v1/batch", "m3")] {
        let answer = post(path, &batch(id)).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({"success": true})), "{path}");
    }
    // A beacon cannot have custom headers, so the key is in the query.
    let bare = json!({"batch": [identify("u1", "m4")]}).to_string();
    let path = format!("/beacon/v1/batch?writeKey={WRITE_KEY}");
    let beacon = service.request(Method::POST, &path).header("content-type", "text/plain");
    let beacon = beacon.header("origin", "https://shop.example").body(bare.clone());
    let answer = Service::answer(beacon).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(service.stored().await.len(), 4);
    for path in
        ["/beacon/v1/batch?writeKey=wrong", "/beacon/v1/batch?writeKey=", "/beacon/v1/batch"]
    {
        assert_eq!(post(path, &bare).await.status, 401, "{path}");
    }
    // Elsewhere, a key in the query is not accepted, because proxies log queries.
    let path = format!("/v1/batch?writeKey={WRITE_KEY}");
    assert_eq!(post(&path, &bare).await.status, 401);
}

#[tokio::test]
async fn a_page_may_send_headers_of_its_own() {
    let service = service();
    let asked = "authorization,content-type,traceparent,baggage,x-own";
    for path in ["/v1/t", "/v1/batch", "/v1", "/beacon/v1/batch", "/v1/projects/k/settings"] {
        let request =
            service.request(Method::OPTIONS, path).header("origin", "https://shop.example");
        let request = request.header("access-control-request-method", "POST");
        let answer = Service::answer(request.header("access-control-request-headers", asked)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.headers["access-control-allow-headers"], asked, "{path}");
    }
}

#[tokio::test]
async fn a_page_may_read_every_answer_of_the_tracking_api() {
    let service = service();
    let page = ("origin", "https://shop.example");
    let asked = ("access-control-request-headers", "authorization,x-own");
    let origin = ("access-control-allow-origin", "https://shop.example");
    let credentials = ("access-control-allow-credentials", "true");
    let exposed = ("access-control-expose-headers", "retry-after");
    let allowed = ("access-control-allow-headers", "authorization,x-own");
    let methods = ("access-control-allow-methods", "GET,POST");
    let age = ("access-control-max-age", "7200");
    /// Method, headers of the request, and all CORS headers of the response.
    type Case<'a> = (Method, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);
    let cases: [Case<'_>; 5] = [
        (Method::POST, &[page], &[origin, credentials, exposed]),
        (Method::POST, &[], &[credentials, exposed]),
        (Method::GET, &[page, asked], &[origin, credentials, exposed]),
        (Method::OPTIONS, &[page, asked], &[origin, credentials, allowed, methods, age]),
        (Method::OPTIONS, &[], &[credentials, methods, age]),
    ];
    for (method, headers, expected) in cases {
        let found = async |path: &str| {
            let request = service.request(method.clone(), path);
            let request = headers
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value));
            let answer = Service::answer(request.body("{")).await;
            let is_cors = |name: &str| name.starts_with("access-control-");
            let found = answer.headers.iter().filter(|(name, _)| is_cors(name.as_str()));
            found
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect::<BTreeSet<_>>()
        };
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let expected: BTreeSet<_> = expected.iter().map(owned).collect();
        for path in ["/v1", "/v1/t", "//v1/t/", "/v1/nothing", "/beacon/v1/batch"] {
            assert_eq!(found(path).await, expected, "{method} {path}");
        }
        for path in ["/", "/v10", "/webhook/default", "/destination", "/api/messages/v1"] {
            assert_eq!(found(path).await, BTreeSet::new(), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_page_behind_a_proxy_is_told_the_address_that_it_can_reach() {
    let settings = format!("/v1/projects/{WRITE_KEY}/settings");
    let forwarded = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "events.example.com"),
        ("x-forwarded-prefix", "/segment"),
    ];
    let standard = [("forwarded", "for=192.0.2.1;host=events.example.com;proto=https")];
    let told = async |service: &Service, headers: &[(&str, &str)]| {
        let mut request = service.request(Method::GET, &settings);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = Service::answer(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers["cache-control"], "private, no-cache");
        let vary: Vec<&str> =
            answer.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
        for name in ["host", "origin", "forwarded", "x-forwarded-host", "x-forwarded-proto"] {
            assert!(vary.iter().any(|value| value.contains(name)), "{name}: {vary:?}");
        }
        let segment_io = &answer.body["integrations"]["Segment.io"];
        let text = |key: &str| segment_io[key].as_str().unwrap().to_owned();
        format!("{}://{}", text("protocol"), text("apiHost"))
    };
    let plain = Setup::with_loops("http://127.0.0.1:9/api/v1").start();
    let own = plain.base_url.trim_start_matches("http://");
    assert_eq!(told(&plain, &[]).await, format!("http://{own}/v1"));
    // Anyone can send these headers.
    assert_eq!(told(&plain, &forwarded[1..]).await, format!("http://{own}/v1"));
    assert_eq!(
        told(&plain, &[("forwarded", "host=evil.example")]).await,
        format!("http://{own}/v1")
    );

    let config = "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let trusting = Setup::with_loops("http://127.0.0.1:9/api/v1").config(config).start();
    assert_eq!(told(&trusting, &forwarded).await, "https://events.example.com/segment/v1");
    assert_eq!(told(&trusting, &standard).await, "https://events.example.com/v1");

    let config = "[server]\npublic_url = \"https://example.com/events/\"\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let named = Setup::with_loops("http://127.0.0.1:9/api/v1").config(config).start();
    assert_eq!(told(&named, &[]).await, "https://example.com/events/v1");
    assert_eq!(told(&named, &forwarded).await, "https://example.com/events/v1");
}

#[test]
fn a_public_url_is_checked() {
    for url in [
        "",
        "example.com",
        "ftp://x",
        "https://",
        "https://a b",
        "https://x?y",
        "https:///x",
        "https://h.example/v1/",
    ] {
        let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
        let (code, said) = setup.env("SEGMENT_LOOPS__SERVER__PUBLIC_URL", url).run_to_end();
        assert_eq!(code, Some(3), "{url}");
        assert!(said.contains("server.public_url"), "{url}: {said}");
    }
}
