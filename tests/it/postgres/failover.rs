//! The primary dies under load and its synchronous standby takes over. No acknowledged message is lost, and the
//! replicas follow on their own.

use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Service, Setup};

use super::load::{Load, Loops};
use super::proxy::Proxy;
use super::server::Server;
use super::sql::Sql;

/// A primary whose commits wait for its standby.
async fn pair() -> (Server, Server) {
    let (primary, standby) = tokio::task::spawn_blocking(|| {
        let primary = Server::start("fsync=on");
        let standby = primary.standby();
        primary.set("synchronous_standby_names = 'standby'");
        (primary, standby)
    })
    .await
    .unwrap();
    let sql = Sql::connect(&primary.url()).await;
    let began = Instant::now();
    let text = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'";
    while sql.rows(text).await.is_empty() {
        assert!(began.elapsed() < PATIENCE, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (primary, standby)
}

/// Under load, calls `moves` with the standby, kills the primary and promotes the standby.
async fn fails_over(url: &str, pair: (Server, Server), moves: impl FnOnce(&Server)) {
    let (primary, standby) = pair;
    let loops = Loops::new(1_000);
    let mut services: Vec<Service> = Vec::new();
    for _ in 0..2 {
        let setup = Setup::with_loops(&loops.door().await.base_url).env("DATABASE_URL", url);
        services.push(setup.start());
    }
    let load = Load::start(services.iter().map(|one| one.base_url.clone()).collect(), 6);
    load.acknowledged(100).await;
    moves(&standby);
    let _standby = tokio::task::spawn_blocking(move || {
        primary.control("stop -m immediate");
        standby.control("promote");
        standby
    })
    .await
    .unwrap();
    load.acknowledged(100).await;
    loops.got_all(&load.end().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_found_among_the_hosts_of_the_url() {
    let (primary, standby) = pair().await;
    let (one, other) = (primary.port(), standby.port());
    let url = format!(
        "postgres://postgres@127.0.0.1:{one},127.0.0.1:{other}/postgres?target_session_attrs=read-write"
    );
    fails_over(&url, (primary, standby), |_| ()).await;
}

/// Like an IP address that is moved: the program is not told that the server at the other end is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_behind_the_same_address_is_found_though_the_old_connections_hang() {
    let (primary, standby) = pair().await;
    let proxy = Proxy::to(primary.port()).await;
    let url = proxy.url();
    fails_over(&url, (primary, standby), |standby| proxy.moves_to(standby.port())).await;
}

/// A message is not acknowledged before a standby has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_standby_confirms_nothing_is_acknowledged_and_nothing_is_lost() {
    let own = tokio::task::spawn_blocking(|| Server::start("fsync=on")).await.unwrap();
    let loops = Loops::new(1_000);
    let door = loops.door().await;
    let service = Setup::with_loops(&door.base_url).env("DATABASE_URL", &own.url()).start();
    let load = Load::start(vec![service.base_url.clone()], 4);
    load.acknowledged(40).await;
    own.set("synchronous_standby_names = 'nobody'");
    // The program gives up on a commit that takes too long.
    service.logged(|line| line["message"] == "the lease cannot be renewed; trying again").await;
    assert_eq!(load.unanswered(8).await, 0);
    own.set("synchronous_standby_names = ''");
    load.acknowledged(40).await;
    loops.got_all(&load.end().await).await;
}
