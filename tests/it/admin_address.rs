//! With `server.admin_listen`, the paths for operators are served at that address and nowhere else.

use reqwest::Method;
use serde_json::json;

use crate::support::{ADMIN_TOKEN, Answer, ScriptedLoops, Service, Setup, track};

const FOR_OPERATORS: [&str; 7] = [
    "/api/messages?userId=u1",
    "/api/messages/m1",
    "/api/preview",
    "/metrics",
    "/openapi.json",
    "/console",
    "/console/login",
];

const FOR_BOTH: [&str; 2] = ["/healthz", "/readyz"];

async fn get(base_url: &str, path: &str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.request(Method::GET, format!("{base_url}{path}"));
    Service::answer(request.bearer_auth(ADMIN_TOKEN)).await
}

#[tokio::test]
async fn operators_have_an_address_of_their_own() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__SERVER__ADMIN_LISTEN", "127.0.0.1:0");
    let mut service = setup.start();
    let listening = service.logged(|line| line["message"] == "listening").await;
    let admin = format!("http://{}", listening["admin_address"].as_str().unwrap());
    service.accept("/v1/track", track("u1", "m1")).await;
    for path in FOR_OPERATORS {
        let answer = get(&service.base_url, path).await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &"not_found".into()), "{path}");
        // A preview needs POST: any response other than "not found" shows that the path is served.
        let expected = if path == "/api/preview" { 405 } else { 200 };
        let answer = get(&admin, path).await;
        assert_eq!(answer.status, expected, "{path}: {answer:?}");
    }
    for path in FOR_BOTH {
        for base_url in [&service.base_url, &admin] {
            assert_eq!(get(base_url, path).await.status, 200, "{base_url}{path}");
        }
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in ["/v1/track", "/webhook/default", "/destination", "/v1/projects/k/settings"] {
        let request = client.post(format!("{admin}{path}")).body(track("u1", "m2").to_string());
        let answer = Service::answer(request).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains("server.listen"), "{path}: {message}");
    }
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn without_an_admin_address_everything_is_at_one_address() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let listening = service.logged(|line| line["message"] == "listening").await;
    assert_eq!(listening.get("admin_address"), None, "{listening}");
    for path in ["/metrics", "/openapi.json", "/api/messages?userId=u1", "/healthz", "/readyz"] {
        assert_eq!(get(&service.base_url, path).await.status, 200, "{path}");
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_refused_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let setup = || Setup::with_loops("http://127.0.0.1:9/api/v1");
    for (admin_listen, expected, word) in
        [(taken.as_str(), 1, taken.as_str()), ("everywhere", 3, "environment")]
    {
        let setup = setup().env("SEGMENT_LOOPS__SERVER__ADMIN_LISTEN", admin_listen);
        let (code, text) = setup.run_to_end();
        assert_eq!(code, Some(expected), "{text}");
        assert!(text.contains("server.admin_listen") && text.contains(word), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let twice = "[server]\nlisten = '127.0.0.1:4321'\nadmin_listen = '127.0.0.1:4321'";
    let mut command = setup().config(twice).other_command(folder.path(), folder.path(), &["serve"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{text}");
    for word in ["server.admin_listen", "the same address as server.listen", "another port"] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[tokio::test]
async fn a_reload_names_each_key_that_needs_a_restart() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).config("").start();
    let file = service.data().parent().unwrap().join("segment-loops.toml");
    let text = "[server]\nadmin_listen = '127.0.0.1:0'\nadmin_tokens = ['another']\n[store]\ndelivered_retention_h = 1";
    std::fs::write(&file, text).unwrap();
    let request = service.request(Method::POST, "/api/reload").bearer_auth(ADMIN_TOKEN);
    let answer = Service::answer(request).await;
    let keys = ["server.admin_listen", "store.delivered_retention_h", "server.admin_tokens"];
    assert_eq!(answer.body["needsRestart"], json!(keys), "{answer:?}");
}
