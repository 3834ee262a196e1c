//! The served description of the HTTP API is the one in `docs/`, and lists every path that is served.

use std::path::Path;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Reply, ScriptedLoops, Service, Setup, track};

const CHECKED_IN: &str = include_str!("../../docs/openapi.json");

fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1").start()
}

#[tokio::test]
async fn the_served_description_is_the_one_that_is_checked_in() {
    let service = service();
    let request = reqwest::get(format!("{}/openapi.json", service.base_url)).await.unwrap();
    assert_eq!(request.headers()["content-type"], "application/json");
    let served = request.text().await.unwrap();
    if served != CHECKED_IN {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
        std::fs::write(&file, &served).unwrap();
        panic!("docs/openapi.json is not what is served: look at {} and copy it", file.display());
    }
}

#[tokio::test]
async fn every_described_operation_is_served_and_no_other_on_its_path() {
    let service = service();
    let document: Value = serde_json::from_str(CHECKED_IN).unwrap();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let is_described = methods.get(method.as_str().to_lowercase()).is_some();
            operations += usize::from(is_described);
            let path = path.replace("{source}", "default").replace("{destination}", "default");
            let request = service.request(method.clone(), &path).bearer_auth(ADMIN_TOKEN);
            let answer = Service::answer(request).await;
            assert_eq!(answer.status != 405, is_described, "{method} {path}");
            assert_ne!(answer.body["code"], "not_found", "{method} {path}");
        }
    }
    assert!(operations > 25, "{operations}");
}

#[tokio::test]
async fn nothing_below_api_answers_without_the_admin_token() {
    let service = service();
    let tokenless = Setup::with_loops("http://127.0.0.1:9/api/v1").start_without_admin_token();
    let document: Value = serde_json::from_str(CHECKED_IN).unwrap();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if !path.starts_with("/api/") {
            continue;
        }
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            assert_eq!(operation["security"], json!([{"adminToken": []}]), "{method} {path}");
            for status in ["401", "403"] {
                assert!(operation["responses"][status].is_object(), "{method} {path} {status}");
            }
        }
        // Methods that the path does not support are refused as well.
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE] {
            for (token, status) in [(None, 401), (Some("wrong"), 401), (Some(ADMIN_TOKEN), 0)] {
                // Guesses are limited.
                if token == Some("wrong") && ![Method::GET, Method::POST].contains(&method) {
                    continue;
                }
                let request = service.request(method.clone(), path);
                let request =
                    token.iter().fold(request, |request, token| request.bearer_auth(token));
                let answer = Service::answer(request).await;
                let is_let_in = ![401, 403].contains(&answer.status);
                assert!(answer.status == status || (is_let_in && status == 0), "{method} {path}");
            }
            let request = tokenless.request(method.clone(), path).bearer_auth(ADMIN_TOKEN);
            assert_eq!(Service::answer(request).await.status, 403, "{method} {path}");
        }
    }
    assert!(operations >= 5, "{operations}");
}

#[tokio::test]
async fn the_api_takes_the_parameters_that_are_described_and_no_others() {
    let service = service();
    let document: Value = serde_json::from_str(CHECKED_IN).unwrap();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let described = operation["parameters"].as_array().into_iter().flatten();
            let described = described.filter(|described| described["in"] == "query");
            let names: Vec<&str> = described.filter_map(|one| one["name"].as_str()).collect();
            if names.is_empty() || !path.starts_with("/api/") {
                continue;
            }
            operations += 1;
            let method: Method = method.to_uppercase().parse().unwrap();
            let request = service.request(method, &format!("{path}?unheard=1"));
            let answer = Service::answer(request.bearer_auth(ADMIN_TOKEN)).await;
            let message = format!("a parameter is unknown: allowed are {}", names.join(", "));
            assert_eq!((answer.status, &answer.body["message"]), (400, &json!(message)), "{path}");
        }
    }
    assert!(operations >= 8, "{operations}");
}

/// Asserts that a value has all the keys that its schema requires, and no others.
fn assert_described(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(&name[1..]).unwrap();
        return assert_described(document, schema, value, place);
    }
    if let Some(schemas) = schema["oneOf"].as_array() {
        let schema = schemas.iter().find(|schema| (schema["type"] == "null") == value.is_null());
        return assert_described(document, schema.unwrap(), value, place);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut whole = json!({"properties": {}, "required": []});
        for part in parts {
            let part =
                part["$ref"].as_str().and_then(|name| document.pointer(&name[1..])).unwrap_or(part);
            let properties = part["properties"].as_object().cloned().unwrap_or_default();
            whole["properties"].as_object_mut().unwrap().extend(properties);
            let required = part["required"].as_array().cloned().unwrap_or_default();
            whole["required"].as_array_mut().unwrap().extend(required);
        }
        return assert_described(document, &whole, value, place);
    }
    if let Some(values) = value.as_array() {
        for value in values {
            assert_described(document, &schema["items"], value, place);
        }
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    let value = value.as_object().unwrap_or_else(|| panic!("{place} is no object: {value}"));
    for key in schema["required"].as_array().into_iter().flatten() {
        assert!(value.contains_key(key.as_str().unwrap()), "{place} has no {key}");
    }
    for (key, value) in value {
        let place = format!("{place}.{key}");
        let schema = properties.get(key).unwrap_or_else(|| panic!("{place} is not described"));
        assert_described(document, schema, value, &place);
    }
}

#[tokio::test]
async fn every_answer_has_the_described_fields_and_no_others() {
    let loops = ScriptedLoops::start(|seen| match seen.body["eventName"].as_str() {
        Some("Refused") => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).start();
    for (id, event) in [("good", "Tested"), ("bad", "Refused")] {
        let mut message = track("u1", id);
        message["event"] = json!(event);
        service.accept("/v1/track", message).await;
        service.message(id, |found| !found.is_null() && found["state"] != "pending").await;
    }
    let nobody = json!({"type": "page", "userId": "u1", "messageId": "nobody"});
    service.accept("/v1/page", nobody).await;
    service.message("nobody", |found| !found.is_null() && found["state"] == "unmatched").await;

    let document: Value = serde_json::from_str(CHECKED_IN).unwrap();
    let get = |path: &str| service.request(Method::GET, path);
    let post = |path: &str, body: Value| service.request(Method::POST, path).body(body.to_string());
    let preview =
        json!({"type": "track", "event": "Tested", "userId": "u1", "properties": {"a": {}}});
    let untaken = json!({"type": "page", "userId": "u1"});
    let replay = json!({"reason": "refused"});
    let batch = json!({"batch": [track("u1", "b"), {"type": "unheard"}]});
    let asked: [(&str, &str, u16, RequestBuilder); 21] = [
        ("/api/messages/{message_id}", "get", 200, get("/api/messages/good")),
        ("/api/messages/{message_id}", "get", 200, get("/api/messages/bad")),
        ("/api/messages/{message_id}", "get", 404, get("/api/messages/none")),
        ("/api/messages", "get", 200, get("/api/messages?userId=u1")),
        ("/api/people", "post", 200, post("/api/people", json!({"userId": "u1"}))),
        ("/api/people", "post", 400, post("/api/people", json!({}))),
        ("/api/messages", "get", 200, get("/api/messages?limit=1")),
        ("/api/messages", "get", 400, get("/api/messages?limit=0")),
        ("/api/failures", "get", 200, get("/api/failures")),
        ("/api/failures", "get", 400, get("/api/failures?limit=1")),
        ("/api/tallies", "get", 200, get("/api/tallies?step=minute")),
        ("/api/tallies", "get", 400, get("/api/tallies?step=day")),
        ("/api/event-names", "get", 200, get("/api/event-names")),
        ("/api/replicas", "get", 200, get("/api/replicas")),
        ("/api/preview", "post", 200, post("/api/preview", preview)),
        ("/api/preview", "post", 200, post("/api/preview", untaken)),
        ("/api/replay", "post", 200, post("/api/replay", replay)),
        ("/api/reload", "post", 200, post("/api/reload", json!({}))),
        ("/v1/batch", "post", 200, post("/v1/batch", batch)),
        ("/v1/batch", "post", 401, post("/v1/batch", json!({"batch": []}))),
        ("/readyz", "get", 200, get("/readyz")),
    ];
    for (path, method, status, request) in asked {
        let request = match (path, status) {
            ("/v1/batch", 200) => request.basic_auth(crate::support::WRITE_KEY, Some("")),
            ("/v1/batch", _) => request,
            _ => request.bearer_auth(ADMIN_TOKEN),
        };
        let answer = Service::answer(request).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        let response = &document["paths"][path][method]["responses"][status.to_string()];
        let schema = &response["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} {status} has no schema");
        assert_described(&document, schema, &answer.body, path);
    }
}
