//! Several processes on one PostgreSQL database: acknowledged messages are delivered in order and once, whichever
//! process ends, and even if the database fails in the meantime.

#[path = "../../../src/store/postgres/tests/server.rs"]
mod server;

mod cut;
mod failover;
mod hints;
mod load;
mod proxy;
mod replicas;
mod same_instant;
mod sql;

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::seen::the_last_message_of_a_source_outlives_a_restart;
use crate::support::{PATIENCE, ScriptedLoops, Service, Setup, WRITE_KEY, track};
use crate::two_processes::{each_shows_who_is_there_and_who_delivers, end_under_load};

use server::{Server, pooler, server};

/// The URL of the tests' server.
pub fn url() -> String {
    server().url()
}

/// Uses the tests' server, with a separate schema.
pub fn on_postgres(schema: &'static str) -> impl FnOnce(Setup) -> Setup {
    move |setup| {
        setup.env("DATABASE_URL", &server().url()).env("SEGMENT_LOOPS__STORE__SCHEMA", schema)
    }
}

fn is_delivered(message: &Value) -> bool {
    message["state"] == "delivered"
}

#[tokio::test]
async fn a_kill_under_load_loses_nothing_and_keeps_order_and_keys() {
    end_under_load("KILL", on_postgres("killed")).await;
}

#[tokio::test]
async fn a_kill_under_load_loses_nothing_behind_a_pooler_in_transaction_mode() {
    let behind = |setup| on_postgres("behind_a_pooler")(setup).env("DATABASE_URL", &pooler().url());
    end_under_load("KILL", behind).await;
}

#[tokio::test]
async fn a_stop_under_load_loses_nothing_and_keeps_order_and_keys() {
    end_under_load("TERM", on_postgres("stopped")).await;
}

#[tokio::test]
async fn each_process_shows_who_is_there_and_who_delivers() {
    each_shows_who_is_there_and_who_delivers(on_postgres("shown")).await;
}

#[tokio::test]
async fn the_last_message_of_a_source_is_known_after_a_restart() {
    the_last_message_of_a_source_outlives_a_restart(on_postgres("silent")).await;
}

#[tokio::test]
async fn every_command_works_on_postgresql() {
    let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/api-key" => crate::support::Reply::ok(),
        _ => crate::support::Reply::status(400),
    })
    .await;
    let setup = on_postgres("commands")(Setup::with_loops(&loops.base_url));
    let folder = tempfile::tempdir().unwrap();
    let line = track("u1", "imported").to_string();
    let ran = setup.command_on(folder.path(), &["import", "-"], line.as_bytes()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let service = setup.start();
    service.message("imported", |message| message["state"] == "failed").await;
    loops.rest();
    loops.now(|_| crate::support::Reply::ok());
    let ran = setup.command_on(folder.path(), &["replay", "--all-failed"], b"").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    service.message("imported", is_delivered).await;
    assert_eq!(loops.next().await.note(), "imported");
    let deletion = json!({"type": "delete", "userId": "u1", "messageId": "gone"});
    service.accept("/v1/batch", json!({"batch": [deletion]})).await;
    service.message("gone", is_delivered).await;
    let listed = service.admin("/api/messages?userId=u1").await;
    assert_eq!(listed.status, 200, "{listed:?}");
    // Nothing was written to the data folder.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Sends a message, and returns whether it was acknowledged. Any other response must ask for a retry.
async fn send(service: &Service, message: &Value) -> bool {
    let request = service.request(reqwest::Method::POST, "/v1/track");
    let answer = request.basic_auth(WRITE_KEY, Some("")).body(message.to_string()).send().await;
    let answer = answer.unwrap();
    if answer.status() == 200 {
        return true;
    }
    assert_eq!(answer.status(), 429, "{answer:?}");
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    false
}

#[tokio::test]
async fn a_database_that_crashes_loses_nothing_acknowledged_and_is_found_again() {
    let loops = ScriptedLoops::willing().await;
    let own = Server::start("fsync=on");
    let setup = Setup::with_loops(&loops.base_url).env("DATABASE_URL", &own.url());
    let service = setup.start();
    let (mut acknowledged, mut refused) = (HashSet::new(), 0);
    for n in 0..300 {
        match n {
            100 => own.control("stop -m immediate"),
            200 => own.control("start"),
            _ => {}
        }
        let id = format!("m{n}");
        if send(&service, &track(&format!("u{}", n % 7), &id)).await {
            acknowledged.insert(id);
        } else {
            refused += 1;
        }
    }
    assert!(acknowledged.len() >= 100 && refused >= 100, "{refused} refused");
    assert_ne!(service.admin("/healthz").await.status, 500);
    let began = std::time::Instant::now();
    while !send(&service, &track("u1", "last")).await {
        assert!(began.elapsed() < PATIENCE, "the database is not found again");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for id in acknowledged.iter().map(String::as_str).chain(["last"]) {
        service.message(id, is_delivered).await;
    }
    assert_eq!(service.admin("/readyz").await.status, 200);
}
