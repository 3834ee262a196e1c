//! Nothing is rejected silently: each rejected request has one log line, and is counted by source, endpoint and code.

use std::collections::BTreeMap;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{Service, Setup, WRITE_KEY, track};

fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1")
        .config(
            "[server]\nmessage_bytes_max = 2000\nbody_bytes_max = 20000\nbatch_messages_max = 5",
        )
        .start()
}

/// The values of the counter, by the labels `source|endpoint|code`.
async fn counted(service: &Service) -> BTreeMap<String, u64> {
    let text =
        reqwest::get(format!("{}/metrics", service.base_url)).await.unwrap().text().await.unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("segment_loops_rejected_total{"));
    let read = |line: &str| {
        let (labels, count) = line.split_once("} ").unwrap();
        let label = |name: &str| {
            let rest = labels.split(&format!("{name}=\"")).nth(1).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let key = format!("{}|{}|{}", label("source"), label("endpoint"), label("code"));
        (key, count.parse().unwrap())
    };
    lines.map(read).collect()
}

/// The log lines about rejections.
fn logged(service: &Service) -> Vec<Value> {
    let is_it =
        |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with("rejected"));
    service.log().into_iter().filter(is_it).collect()
}

#[tokio::test]
async fn whole_requests_are_counted_and_logged_once() {
    let service = service();
    let keyed = |path: &str, body: &str| {
        service.request(Method::POST, path).basic_auth(WRITE_KEY, Some("")).body(body.to_owned())
    };
    let bare = |method: Method, path: &str| service.request(method, path).body("{}");
    let long = "x".repeat(30_000);
    let many = format!(r#"{{"batch":[{}]}}"#, ["{}"; 6].join(","));
    let cases: Vec<(RequestBuilder, u16, &str)> = vec![
        (keyed("/v1/track", &long), 413, "default|/v1/track|too_large"),
        (keyed("/v1/b", &long), 413, "default|/v1/batch|too_large"),
        (keyed("/destination", &long), 413, "default|/destination|too_large"),
        (keyed("/v1/batch", &many), 413, "default|/v1/batch|too_large"),
        (
            keyed("/v1/t", "{").header("content-encoding", "br"),
            415,
            "default|/v1/track|unknown_encoding",
        ),
        (keyed("/v1/identify", "{"), 400, "default|/v1/identify|bad_json"),
        (keyed("/v1/import", "{"), 400, "default|/v1/import|bad_json"),
        (keyed("/v1", "nope"), 400, "default|/v1|bad_json"),
        (keyed("/v1/page", "{\"userId\":\"\"}"), 400, "default|/v1/page|nobody"),
        (bare(Method::POST, "/v1/group"), 401, "|/v1/group|unauthorized"),
        (bare(Method::POST, "/beacon/v1/batch"), 401, "|/beacon/v1/batch|unauthorized"),
        (bare(Method::POST, "/destination"), 401, "|/destination|unauthorized"),
        (bare(Method::POST, "/webhook/default"), 401, "default|/webhook/{source}|unauthorized"),
        (bare(Method::POST, "/webhook/nowhere"), 404, "|/webhook/{source}|unknown_source"),
        (
            bare(Method::GET, "/v1/projects/none/settings"),
            404,
            "|/v1/projects/{write_key}/settings|unknown_key",
        ),
        (service.request(Method::POST, "/v1/m").body(long.clone()), 413, "|/v1/m|too_large"),
        (bare(Method::POST, "/v1/nothing"), 404, "|unknown|not_found"),
        (bare(Method::POST, "/elsewhere"), 404, "|unknown|not_found"),
        (bare(Method::GET, "/v1/track"), 405, "|unknown|wrong_method"),
        (bare(Method::DELETE, "/webhook/default"), 405, "|unknown|wrong_method"),
    ];
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (request, status, key) in cases {
        let before = logged(&service).len();
        let answer = Service::answer(request).await;
        assert_eq!(answer.status, status, "{key}: {answer:?}");
        *expected.entry(key.to_owned()).or_default() += 1;
        assert_eq!(counted(&service).await, expected, "{key}");
        service.logged(|_| logged(&service).len() > before).await;
        let line = logged(&service).pop().unwrap();
        let said = ["source", "endpoint", "code"].map(|name| line[name].as_str().unwrap());
        assert_eq!(said.join("|"), key, "{line}");
        assert_eq!(logged(&service).len(), before + 1, "{key}");
    }
}

#[tokio::test]
async fn messages_of_a_batch_are_counted_by_their_codes() {
    let service = service();
    let mut long = track("u1", "long");
    long["event"] = json!("x".repeat(3_000));
    let body = format!(
        r#"{{"batch":[{},{{"type":"track"}},{{"type":"page"}},17,{long}]}}"#,
        track("u1", "good")
    );
    let request = service.request(Method::POST, "/v1/batch").basic_auth(WRITE_KEY, Some(""));
    let answer = Service::answer(request.body(body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let codes: Vec<&str> = answer.body["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["nobody", "nobody", "not_an_object", "too_large"]);
    let expected = [("nobody", 2), ("not_an_object", 1), ("too_large", 1)];
    let expected = expected.map(|(code, count)| (format!("default|/v1/batch|{code}"), count));
    assert_eq!(counted(&service).await, BTreeMap::from(expected));
    let line = service.logged(|line| line["message"] == "rejected").await;
    assert_eq!(line["messages"], 4, "{line}");
}

#[tokio::test]
async fn an_unknown_path_is_answered_with_a_hint_and_logged_without_what_may_be_secret() {
    let service = service();
    let path = "/v1/projects/wk-secret/ada@canary-mail.example";
    let answer = service.post(path, "{}").await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let line = service.logged(|line| line["endpoint"] == "unknown").await;
    assert_eq!(line["path"], "/v1/projects/*/*", "{line}");
    let answer = service.post("/segment/v1/batch", "{}").await;
    assert!(
        answer.body["message"].as_str().unwrap().contains("must begin with /v1/"),
        "{answer:?}"
    );
    // All such requests are counted, and few are logged.
    for _ in 0..40 {
        service.post("/wp-login.php", "").await;
    }
    assert_eq!(counted(&service).await["|unknown|not_found"], 42);
    assert_eq!(logged(&service).len(), 20);
}

#[tokio::test]
async fn a_flood_of_rejections_has_few_lines_and_is_counted_exactly() {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
    let service = setup.env("SEGMENT_LOOPS__STORE__BACKLOG_MESSAGES_MAX", "1").start();
    service.accept("/v1/track", track("u1", "first")).await;
    for n in 0..100 {
        let answer = service.post("/v1/track", track("u1", &format!("m{n}"))).await;
        assert_eq!((answer.status, &answer.body["code"]), (429, &json!("not_now")), "{answer:?}");
        let answer = service.post("/v1/track", "{}").await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let batch = service.post("/v1/batch", json!({"batch": [{"type": "page"}]})).await;
        assert_eq!(batch.body["rejected"][0]["code"], "nobody", "{batch:?}");
    }
    let counts = counted(&service).await;
    let count_of = |code: &str| -> u64 {
        counts.iter().filter(|(key, _)| key.ends_with(code)).map(|(_, count)| count).sum()
    };
    assert_eq!((count_of("|not_now"), count_of("|nobody")), (100, 200), "{counts:?}");
    let lines = logged(&service);
    let lines_of = |code: &str| {
        let has = |line: &&Value| line["code"] == code || line["codes"].to_string().contains(code);
        lines.iter().filter(has).count()
    };
    assert!((1..=20).contains(&lines_of("not_now")), "{}", lines_of("not_now"));
    assert!((1..=20).contains(&lines_of("nobody")), "{}", lines_of("nobody"));
    assert!(lines.iter().all(|line| line["level"] == "WARN"), "{lines:?}");
    let line = lines.iter().find(|line| line["code"] == "not_now").unwrap();
    assert!(line["error"].as_str().unwrap().contains("backlog"), "{line}");
}

#[tokio::test]
async fn a_request_whose_key_is_wrong_is_answered_before_its_body_comes() {
    use std::io::{Read as _, Write as _};
    let service = service();
    let head = "POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d3Jvbmc6\r\nContent-Length: 9000\r\n\r\n{";
    let mut stream =
        std::net::TcpStream::connect(service.base_url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}
