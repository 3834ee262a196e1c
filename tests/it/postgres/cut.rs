//! A connection that is cut during COMMIT. The program cannot know whether the transaction was committed, so it
//! acknowledges nothing. The sender repeats the message, which is delivered once.
//!
//! The proxy runs on another thread, because these tests block until the program has started, which connects through
//! it.

use std::collections::HashMap;

use crate::support::{ScriptedLoops, Setup, WRITE_KEY, track};

use super::load::{Load, Loops};
use super::proxy::{Cut, Kind, Proxy};
use super::server::server;
use super::sql::Sql;
use super::{is_delivered, on_postgres};

/// Cuts the first commit of a message, and returns the number of messages that it stored.
async fn stored_by(cut: Cut, schema: &'static str) -> i64 {
    let mut loops = ScriptedLoops::willing().await;
    let proxy = Proxy::to(server().port()).await;
    let setup = on_postgres(schema)(Setup::with_loops(&loops.base_url));
    let service = setup.env("DATABASE_URL", &proxy.url()).start();
    // The first message creates the stream of its destination in a separate transaction.
    service.accept("/v1/track", track("u1", "m0")).await;
    service.message("m0", is_delivered).await;
    loops.rest();
    let mut is_first = true;
    proxy.cuts(move |kind| (kind == Kind::Accept && std::mem::take(&mut is_first)).then_some(cut));
    let message = track("u1", "m1");
    let request = service.request(reqwest::Method::POST, "/v1/track");
    let request = request.basic_auth(WRITE_KEY, Some("")).body(message.to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 429, "{answer:?}");
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    assert_eq!(proxy.cut_count(), 1);
    let sql = Sql::connect(&server().url()).await;
    let count = format!("SELECT count(*) FROM {schema}.messages WHERE message_id = 'm1'");
    let stored: i64 = sql.rows(&count).await[0].get(0);
    service.accept("/v1/track", message).await;
    service.message("m1", is_delivered).await;
    assert_eq!(sql.rows(&count).await[0].get::<_, i64>(0), 1);
    assert_eq!(loops.next().await.note(), "m1");
    assert!(loops.rest().is_empty());
    stored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_commit_did_not_reach_the_server_is_not_acknowledged() {
    assert_eq!(stored_by(Cut::Before, "cut_before").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_commit_was_not_confirmed_is_not_acknowledged_and_is_kept_once() {
    assert_eq!(stored_by(Cut::After, "cut_after").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_within_every_kind_of_commit_lose_nothing_and_send_nothing_twice() {
    let loops = Loops::new(1_000);
    let (one, other) = (loops.door().await, loops.door().await);
    let proxy = Proxy::to(server().port()).await;
    let start = |base_url: &str| {
        let setup = on_postgres("cut")(Setup::with_loops(base_url));
        setup.env("DATABASE_URL", &proxy.url()).start()
    };
    let replicas = [start(&one.base_url), start(&other.base_url)];
    const EACH: usize = 10;
    let kinds = [Kind::Accept, Kind::Step, Kind::Other];
    let mut left: HashMap<_, _> = kinds
        .iter()
        .flat_map(|kind| [Cut::Before, Cut::After].map(|cut| ((*kind, cut), EACH)))
        .collect();
    let all = left.len() * EACH;
    proxy.cuts(move |kind| {
        let cut = if fastrand::bool() { Cut::Before } else { Cut::After };
        let left = left.get_mut(&(kind, cut))?;
        let is_cut = *left > 0 && fastrand::u32(0..4) == 0;
        *left -= usize::from(is_cut);
        is_cut.then_some(cut)
    });
    let load = Load::start(replicas.iter().map(|one| one.base_url.clone()).collect(), 5);
    while proxy.cut_count() < all {
        load.acknowledged(1).await;
    }
    loops.got_all(&load.end().await).await;
}
