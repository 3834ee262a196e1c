//! Wrong keys are counted and logged, and limited by address; senders with the right key are not affected.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::authentication::signature;
use crate::support::{ADMIN_TOKEN, Answer, Service, Setup, WEBHOOK_SECRET, WRITE_KEY, track};

/// The number of wrong keys that one address may send in a minute.
const GUESSES_MAX: u32 = 60;

/// A wrong key, which no log line may contain.
const GUESS: &str = "guessed-key";

/// Nothing listens at this address, so accepted messages stay pending.
fn service() -> Service {
    let config = r#"
        [server]
        trusted_proxies = ["127.0.0.0/8"]

        [sources.token]
        write_keys = ["token-key"]
        webhook_token = "token"

        [sources.key]
        write_keys = ["key"]
    "#;
    Setup::with_loops("http://127.0.0.1:9/api/v1").config(config).start()
}

/// Sends a request as a proxy does for this address.
async fn send_from(address: &str, request: RequestBuilder) -> Answer {
    Service::answer(request.header("x-forwarded-for", address)).await
}

/// Each kind of guess, the status of a wrong key, and its labels in the metric.
fn guesses(service: &Service) -> Vec<(RequestBuilder, u16, &'static str)> {
    let message = track("u1", "x").to_string();
    let post = |path: &str| service.request(Method::POST, path).body(message.clone());
    let get = |path: &str| service.request(Method::GET, path);
    let mut in_body = track("u1", "x");
    in_body["writeKey"] = GUESS.into();
    vec![
        (post("/v1/track").basic_auth(GUESS, Some("")), 401, "|/v1/track"),
        (post("/v1/track").body(in_body.to_string()), 401, "|/v1/track"),
        (post(&format!("/beacon/v1/batch?writeKey={GUESS}")), 401, "|/beacon/v1/batch"),
        (get(&format!("/v1/projects/{GUESS}/settings")), 404, "|/v1/projects/{write_key}/settings"),
        (post("/destination").basic_auth(GUESS, Some("")), 401, "|/destination"),
        (post("/webhook/default").header("x-signature", GUESS), 401, "default|/webhook/{source}"),
        (post("/webhook/token").bearer_auth(GUESS), 401, "token|/webhook/{source}"),
        (post("/webhook/token").header("x-webhook-token", GUESS), 401, "token|/webhook/{source}"),
        (post("/webhook/key").basic_auth(GUESS, Some("")), 401, "key|/webhook/{source}"),
        (get("/api/messages").bearer_auth(GUESS), 401, "|/api"),
        (service.request(Method::POST, "/api/reload").bearer_auth(GUESS), 401, "|/api"),
    ]
}

/// Requests without a key, which do not count as guesses.
fn without_key(service: &Service) -> Vec<RequestBuilder> {
    let post = |path: &str| service.request(Method::POST, path).body(track("u1", "x").to_string());
    vec![
        post("/v1/track"),
        post("/destination"),
        post("/webhook/default"),
        post("/webhook/token"),
        post("/webhook/key"),
        service.request(Method::GET, "/api/messages"),
    ]
}

/// Sends wrong keys until the address has no guesses left, and returns the number of other responses.
async fn guess_until_slowed_down(service: &Service, address: &str) -> u32 {
    for guesses in 0..10 * GUESSES_MAX {
        let request = service.request(Method::GET, "/api/messages").bearer_auth(GUESS);
        let answer = send_from(address, request).await;
        if answer.status == 429 {
            return guesses;
        }
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    panic!("guesses are not limited");
}

async fn counted(service: &Service, labels: &str, code: &str) -> u64 {
    let text = service.admin("/metrics").await.body;
    let (source, endpoint) = labels.split_once('|').unwrap();
    let start = format!(
        "segment_loops_rejected_total{{source=\"{source}\",endpoint=\"{endpoint}\",code=\"{code}\"}} "
    );
    let line = text.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn an_address_that_guesses_is_slowed_down_whatever_it_guesses() {
    let service = service();
    // Each guess is counted and answered as before.
    for (number, (request, status, labels)) in guesses(&service).into_iter().enumerate() {
        let code = if status == 404 { "unknown_key" } else { "unauthorized" };
        let before = counted(&service, labels, code).await;
        let answer = send_from(&format!("192.0.2.{number}"), request).await;
        assert_eq!(answer.status, status, "{labels}: {answer:?}");
        assert_eq!(counted(&service, labels, code).await, before + 1, "{labels}");
    }
    let allowed = guess_until_slowed_down(&service, "203.0.113.9").await;
    assert!(allowed >= GUESSES_MAX, "{allowed}");
    for (request, _, labels) in guesses(&service) {
        let before = counted(&service, labels, "too_many_guesses").await;
        // The allowance regains one guess every second, which this request may use.
        let answer = loop {
            let answer = send_from("203.0.113.9", request.try_clone().unwrap()).await;
            if answer.status == 429 {
                break answer;
            }
        };
        assert_eq!(answer.body["code"], "too_many_guesses", "{labels}: {answer:?}");
        assert!(answer.body["message"].is_string(), "{answer:?}");
        let wait: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(counted(&service, labels, "too_many_guesses").await, before + 1, "{labels}");
    }
    // The log names the network, and neither the address nor a key.
    let line = service.logged(|line| line["code"] == "too_many_guesses").await;
    assert_eq!(line["network"], "203.0.113.0/24", "{line}");
    assert_eq!(line["level"], "WARN", "{line}");
    for line in service.log() {
        let line = line.to_string();
        assert!(!line.contains(GUESS) && !line.contains("203.0.113.9"), "{line}");
    }
}

#[tokio::test]
async fn a_right_key_is_never_slowed_down_and_no_key_is_no_guess() {
    let service = service();
    guess_until_slowed_down(&service, "192.0.2.1").await;
    let message = |id: &str| track("u1", id).to_string();
    let post = |path: &str, id: &str| service.request(Method::POST, path).body(message(id));
    let get = |path: &str| service.request(Method::GET, path);
    let signature = signature(WEBHOOK_SECRET, &message("m3"));
    let right = [
        post("/v1/track", "m1").basic_auth(WRITE_KEY, Some("")),
        post("/destination", "m2").basic_auth(WRITE_KEY, Some("")),
        post("/webhook/default", "m3").header("x-signature", signature),
        post("/webhook/token", "m4").bearer_auth("token"),
        post("/webhook/key", "m5").basic_auth("key", Some("")),
        get(&format!("/v1/projects/{WRITE_KEY}/settings")),
        get("/api/messages").bearer_auth(ADMIN_TOKEN),
    ];
    for request in right {
        let answer = send_from("192.0.2.1", request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for request in without_key(&service) {
        let answer = send_from("192.0.2.1", request).await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    // Other addresses are not limited, and a request without a key is not a guess.
    let other = service.request(Method::GET, "/api/messages").bearer_auth(GUESS);
    assert_eq!(send_from("192.0.2.2", other).await.status, 401);
    for _ in 0..2 * GUESSES_MAX {
        let answer = send_from("192.0.2.3", get("/api/messages")).await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    assert!(counted(&service, "|/api", "unauthorized").await > u64::from(3 * GUESSES_MAX));
    // Scanners of the admin API do not flood the log.
    let is_it = |line: &&Value| line["endpoint"] == "/api" && line["code"] == "unauthorized";
    assert!(service.log().iter().filter(is_it).count() <= 20);
}
