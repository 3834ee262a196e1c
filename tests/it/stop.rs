//! A stop finishes the requests under way, returns the lease, and leaves the rest on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::{Reply, ScriptedLoops, Setup, track};

#[tokio::test]
async fn a_request_under_way_is_finished_and_recorded() {
    let let_go = Arc::new(Notify::new());
    let held = Arc::clone(&let_go);
    let mut loops = ScriptedLoops::start(move |seen| match seen.note().as_str() {
        "m1" => Reply::OkAfter(Arc::clone(&held)),
        _ => Reply::ok(),
    })
    .await;
    let setup = Setup::with_loops(&loops.base_url);
    let mut service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    assert_eq!(loops.next().await.note(), "m1");
    service.signal("TERM");
    service
        .logged(|line| line["message"].as_str().is_some_and(|text| text.starts_with("stopping")))
        .await;
    let_go.notify_one();
    assert_eq!(service.wait().await, Some(0));
    let stopped = service.logged(|line| line["message"] == "stopped").await;
    assert_eq!(stopped["pending"], 0, "{stopped}");
    service.logged(|line| line["message"] == "lease given back").await;
    // No work is left at the next start.
    let service = service.crash_and_restart(&setup);
    service.accept("/v1/track", track("u1", "m2")).await;
    assert_eq!(loops.next().await.note(), "m2");
}

#[tokio::test]
async fn a_stop_takes_no_longer_than_the_grace_when_a_sender_and_loops_are_slow() {
    let mut loops = ScriptedLoops::willing().await;
    loops.now(|seen| if seen.path == "/api-key" { Reply::ok() } else { Reply::Silence });
    let grace = Duration::from_secs(4);
    let setup =
        Setup::with_loops(&loops.base_url).env("SEGMENT_LOOPS__SERVER__SHUTDOWN_GRACE_MS", "4000");
    let mut service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    loops.next().await;
    // A sender that has sent only the head of its request.
    let address = service.base_url.trim_start_matches("http://").to_owned();
    let mut sender = TcpStream::connect(address).await.unwrap();
    let head = "POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n";
    sender.write_all(head.as_bytes()).await.unwrap();
    // The program has read the head once it asks for the body.
    sender.write_all(b"Expect: 100-continue\r\n\r\n").await.unwrap();
    let mut asked = [0; 12];
    sender.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    let began = Instant::now();
    assert_eq!(service.stop().await, Some(0));
    // If the two were ended one after the other, it would take twice the grace. The margin is for a busy machine.
    let took = began.elapsed();
    assert!(took >= grace / 2 && took < grace * 7 / 4, "{took:?}");
    service.logged(|line| line["message"] == "lease given back").await;
    service.logged(|line| line["message"] == "stopped").await;
}

#[tokio::test]
async fn a_stop_with_a_silent_loops_ends_within_the_grace_and_loses_nothing() {
    let mut loops = ScriptedLoops::willing().await;
    loops.now(|seen| if seen.path == "/api-key" { Reply::ok() } else { Reply::Silence });
    let setup =
        Setup::with_loops(&loops.base_url).env("SEGMENT_LOOPS__SERVER__SHUTDOWN_GRACE_MS", "200");
    let mut service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let first = loops.next().await;
    assert_eq!(service.stop().await, Some(0));
    loops.now(|_| Reply::ok());
    let service = service.crash_and_restart(&setup);
    assert_eq!(loops.next().await.raw_body, first.raw_body);
    service.message("m1", |found| found["state"] == "delivered").await;
}
