//! Hints between processes, with PgBouncer in front of the database.

use serde_json::Value;

use crate::support::{PATIENCE, ScriptedLoops, Service, Setup, track};

use super::server::{pooler, server};
use super::sql::Sql;

const SCHEMA: &str = "SEGMENT_LOOPS__STORE__SCHEMA";

fn is_taken(line: &Value) -> bool {
    line["message"] == "lease taken"
}

fn is_about_hints(line: &Value) -> bool {
    line["message"].as_str().is_some_and(|message| message.contains("store.listen_url"))
}

/// Starts a process that delivers and one that stands by.
async fn two(setup: &Setup) -> [Service; 2] {
    let first = setup.start();
    first.logged(is_taken).await;
    [first, setup.start()]
}

/// Asserts that messages accepted by the process that stands by are delivered.
async fn assert_delivers(second: &Service, loops: &mut ScriptedLoops) {
    for n in 0..3 {
        let id = format!("m{n}");
        second.accept("/v1/track", track("u1", &id)).await;
        assert_eq!(loops.next().await.note(), id);
    }
}

#[tokio::test]
async fn a_pooler_that_passes_no_notifications_on_is_found_out_and_costs_only_time() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("DATABASE_URL", &pooler().url());
    let [first, second] = two(&setup.env(SCHEMA, "pooled")).await;
    let line = first.logged(is_about_hints).await;
    assert_eq!(line["level"], "WARN");
    assert!(line["message"].as_str().unwrap().contains("store.notify = \"off\""), "{line}");
    assert_delivers(&second, &mut loops).await;
    assert_eq!(first.log().iter().filter(|line| is_about_hints(line)).count(), 1);
    // The second process holds no lease, so it waits for no hints.
    assert!(!second.log().iter().any(is_about_hints));
}

#[tokio::test]
async fn past_a_pooler_hints_are_heard_by_a_direct_connection() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url)
        .env("DATABASE_URL", &pooler().url())
        .env(
            "SEGMENT_LOOPS__STORE__LISTEN_URL",
            &format!("{}?application_name=ear", server().url()),
        )
        .env(SCHEMA, "past_a_pooler");
    let [first, second] = two(&setup).await;
    let sql = Sql::connect(&server().url()).await;
    let listening = "SELECT FROM pg_stat_activity WHERE application_name = 'ear'
                     AND query = 'LISTEN \"segment_loops_past_a_pooler\"' AND state = 'idle'";
    let began = std::time::Instant::now();
    while sql.rows(listening).await.is_empty() {
        assert!(began.elapsed() < PATIENCE, "nobody listens");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_delivers(&second, &mut loops).await;
    let is_warning = |line: &Value| line["level"] == "WARN" && is_about_hints(line);
    assert!(!first.log().iter().any(is_warning), "{:?}", first.log());
}
