//! Three replicas under load: one is killed, one frozen and one stopped, and then the database crashes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Service, Setup};

use super::load::{Door, Load, Loops, event};
use super::on_postgres;
use super::server::{Server, server};
use super::sql::Sql;

/// A replica, its address at Loops, and how to start it again.
struct Replica {
    service: Service,
    door: Door,
    setup: Setup,
}

const RATE: usize = 150;
const IN_FLIGHT_MAX: usize = 8;

/// Starts three replicas with the default lease.
async fn three(loops: &Loops, url: &str) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let door = loops.door().await;
        let setup = Setup::with_loops(&door.base_url)
            .env("DATABASE_URL", url)
            .env("LOOPS_RATE_LIMIT", &RATE.to_string())
            .env("SEGMENT_LOOPS__DELIVERY__LEASE_TTL_MS", "10000")
            .env("SEGMENT_LOOPS__DELIVERY__REQUESTS_MAX", &IN_FLIGHT_MAX.to_string());
        replicas.push(Replica { service: setup.start(), door, setup });
    }
    replicas
}

/// Waits until a replica other than `not` holds the lease, and returns its index.
async fn holder(sql: &Sql, replicas: &[Replica], not: Option<usize>) -> usize {
    let began = Instant::now();
    loop {
        let row = sql.rows("SELECT holder FROM segment_loops.leases").await;
        let name: Option<String> = row.first().map(|row| row.get(0));
        for (index, replica) in replicas.iter().enumerate() {
            let listening =
                replica.service.log().into_iter().find(|line| line["message"] == "listening");
            if Some(index) != not && name.as_deref() == listening.unwrap()["process"].as_str() {
                return index;
            }
        }
        assert!(began.elapsed() < PATIENCE * 2, "held by {name:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a replica other than `not` has sent a request to Loops.
async fn another_delivers(replicas: &[Replica], not: usize) {
    let others = || -> usize {
        let others = replicas.iter().enumerate().filter(|(index, _)| *index != not);
        others.map(|(_, replica)| replica.door.requests()).sum()
    };
    let (before, began) = (others(), Instant::now());
    while others() == before {
        assert!(began.elapsed() < PATIENCE * 2, "none of them delivers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_lose_nothing_whatever_becomes_of_one_or_of_the_database() {
    let own = Server::start("fsync=on");
    let sql = Sql::connect(&own.url()).await;
    let loops = Loops::new(RATE);
    let mut replicas = three(&loops, &own.url()).await;
    let addresses = replicas.iter().map(|replica| replica.service.base_url.clone()).collect();
    let load = Load::start(addresses, 6);
    load.acknowledged(60).await;

    // The holder is killed: its lease expires, and another replica continues.
    let killed = holder(&sql, &replicas, None).await;
    replicas[killed].service.crash();
    let began = Instant::now();
    another_delivers(&replicas, killed).await;
    eprintln!("another replica delivers {:?} after a kill -9 of the holder", began.elapsed());
    replicas[killed].service = replicas[killed].setup.start();
    load.moved(killed, &replicas[killed].service.base_url);

    // The holder is frozen for longer than its lease. Afterwards it sends only requests that were already under way.
    let frozen = holder(&sql, &replicas, Some(killed)).await;
    replicas[frozen].service.signal("STOP");
    holder(&sql, &replicas, Some(frozen)).await;
    another_delivers(&replicas, frozen).await;
    let before = replicas[frozen].door.requests();
    replicas[frozen].service.signal("CONT");
    replicas[frozen].service.logged(|line| line["message"] == "lease lost").await;
    load.acknowledged(60).await;
    let late = replicas[frozen].door.requests() - before;
    assert!(late <= IN_FLIGHT_MAX, "{late} requests of a replica that lost its lease");
    eprintln!("{late} requests of a replica that was frozen beyond its lease");

    // The holder is stopped: it returns the lease, and the next holder treats the past second as used up.
    let stopped = holder(&sql, &replicas, None).await;
    assert_eq!(replicas[stopped].service.stop().await, Some(0));
    another_delivers(&replicas, stopped).await;
    replicas[stopped].service = replicas[stopped].setup.start();
    load.moved(stopped, &replicas[stopped].service.base_url);
    load.acknowledged(60).await;

    // The database crashes: nothing is acknowledged until it is back.
    let own = tokio::task::spawn_blocking(move || {
        own.control("stop -m immediate");
        own
    });
    let own = own.await.unwrap();
    load.refused(30).await;
    let own = tokio::task::spawn_blocking(move || {
        own.control("start");
        own
    });
    let own = own.await.unwrap();
    load.acknowledged(60).await;

    loops.got_all(&load.end().await).await;
    let sql = Sql::connect(&own.url()).await;
    let rows = sql.rows("SELECT started_at FROM segment_loops.attempts").await;
    loops.kept_the_rate(rows.iter().map(|row| row.get(0)).collect());
}

/// More messages wait than the rate allows. The next holder continues at the rate where the previous one stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_kept_over_a_change_of_hands() {
    const RATE: usize = 25;
    let loops = Loops::new(RATE);
    let doors = [loops.door().await, loops.door().await];
    let start = |door: &Door| {
        let setup = on_postgres("change_of_hands")(Setup::with_loops(&door.base_url));
        setup.env("LOOPS_RATE_LIMIT", &RATE.to_string()).start()
    };
    let mut first = start(&doors[0]);
    first.logged(|line| line["message"] == "lease taken").await;
    let second = start(&doors[1]);
    let persons = (0..4 * RATE).map(|n| (format!("u{n}"), vec![format!("m{n}")]));
    let all: HashMap<String, Vec<String>> = persons.collect();
    let batch: Vec<Value> = all.iter().map(|(person, notes)| event(person, &notes[0])).collect();
    second.accept("/v1/batch", json!({"batch": batch})).await;
    let began = Instant::now();
    while doors[0].requests() < RATE {
        assert!(began.elapsed() < PATIENCE, "nothing is delivered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(first.stop().await, Some(0));
    loops.got_all(&all).await;
    assert!(doors[1].requests() > RATE);
    let sql = Sql::connect(&server().url()).await;
    let rows = sql.rows("SELECT started_at FROM change_of_hands.attempts").await;
    loops.kept_the_rate(rows.iter().map(|row| row.get(0)).collect());
}
