//! The outcome of each response of Loops.

mod delivered;
mod failed;
mod paused;
mod retried;

use serde_json::{Value, json};

use crate::support::{Reply, ScriptedLoops, Seen, Service, Setup};

/// Sends one message to a Loops that responds with `first`, and accepts everything after that. Returns the message in
/// its final state, and the requests that Loops received.
async fn outcome(message: Value, first: Reply, settings: &[(&str, &str)]) -> (Value, Vec<Seen>) {
    let mut loops = ScriptedLoops::start(after_first(first)).await;
    let mut setup = Setup::with_loops(&loops.base_url);
    for (name, value) in settings {
        setup = setup.env(name, value);
    }
    let service = setup.start();
    let id = message["messageId"].as_str().unwrap().to_owned();
    service.accept("/v1/batch", json!({"batch": [message]})).await;
    let is_over = |found: &Value| found["state"] == "delivered" || found["state"] == "failed";
    let found = service.message(&id, is_over).await;
    (found, loops.rest())
}

/// A script that responds to the first delivery with `first`, and accepts everything else.
fn after_first(first: Reply) -> impl FnMut(&Seen) -> Reply + Send + 'static {
    let mut first = Some(first);
    move |seen| {
        if seen.path == "/api-key" {
            return Reply::ok();
        }
        first.take().unwrap_or_else(Reply::ok)
    }
}

fn attempts(message: &Value) -> Vec<(u64, String)> {
    let attempts = message["deliveries"][0]["request"]["attempts"].as_array().unwrap();
    let one = |attempt: &Value| {
        (attempt["status"].as_u64().unwrap_or(0), attempt["outcome"].as_str().unwrap().to_owned())
    };
    attempts.iter().map(one).collect()
}

fn is_tried(message: &Value) -> bool {
    message["deliveries"][0]["request"]["attempts"][0].is_object()
}

/// Whether delivery is paused, by the metrics.
async fn is_paused(service: &Service) -> bool {
    let metrics = service.admin("/metrics").await.body;
    let paused = "segment_loops_destination_paused{destination=\"default\"} 1";
    metrics.as_str().unwrap().contains(paused)
}
