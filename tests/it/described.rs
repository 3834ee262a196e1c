//! The description of the HTTP API is the one that is checked in, and names all that is served.

use std::path::Path;

use reqwest::Method;
use serde_json::Value;

use crate::support::{ADMIN_TOKEN, Service, Setup};

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
async fn every_described_operation_is_served() {
    let service = service();
    let document: Value = serde_json::from_str(CHECKED_IN).unwrap();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            operations += 1;
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let path = path.replace("{source}", "default");
            let request = service.request(method.clone(), &path).bearer_auth(ADMIN_TOKEN);
            let answer = Service::answer(request).await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert_ne!(answer.body["code"], "not_found", "{method} {path}");
        }
    }
    assert!(operations > 25, "{operations}");
}

/// The paths in the code that registers them.
fn routes(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.is_dir() {
            routes(&file, found);
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for before in [".route(\"", "both(router, \""] {
            let paths = text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap());
            found.extend(paths.map(str::to_owned));
        }
    }
}

#[test]
fn every_route_is_described() {
    let document: Value = serde_json::from_str(CHECKED_IN).unwrap();
    let mut found = Vec::new();
    for module in ["http", "console", "app"] {
        routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module), &mut found);
    }
    // The answer to what is not there.
    found.retain(|path| path != "/v1/{*path}");
    assert!(found.len() > 10, "{found:?}");
    for path in found {
        assert!(document["paths"].get(&path).is_some(), "{path} is not described");
    }
}
