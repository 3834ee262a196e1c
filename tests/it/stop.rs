//! A stop finishes what is under way, gives the lease back and leaves the rest on disk.

use std::time::Duration;

use crate::support::{Reply, ScriptedLoops, Setup, track};

#[tokio::test]
async fn a_request_under_way_is_finished_and_recorded() {
    let mut loops = ScriptedLoops::willing().await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    // The script holds the answer until the test lets it go.
    loops.now(move |seen| {
        if seen.path == "/events/send" {
            let _ = held.recv_timeout(Duration::from_secs(5));
        }
        Reply::ok()
    });
    let setup = Setup::with_loops(&loops.base_url);
    let mut service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.logged(|line| line["message"] == "lease taken").await;
    // The request is with Loops once its line of the store is open: wait for the frozen request.
    service.message("m1", |found| found["deliveries"][0]["request"]["id"].is_number()).await;
    service.signal("TERM");
    service
        .logged(|line| line["message"].as_str().is_some_and(|text| text.starts_with("stopping")))
        .await;
    release.send(()).unwrap();
    assert_eq!(service.wait(), Some(0));
    assert_eq!(loops.next().await.note(), "m1");
    let stopped = service.logged(|line| line["message"] == "stopped").await;
    assert_eq!(stopped["pending"], 0, "{stopped}");
    service.logged(|line| line["message"] == "lease given back").await;
    // Nothing is left to do at the next start.
    let service = service_again(service, &setup);
    service.accept("/v1/track", track("u1", "m2")).await;
    assert_eq!(loops.next().await.note(), "m2");
}

fn service_again(service: crate::support::Service, setup: &Setup) -> crate::support::Service {
    service.crash_and_restart(setup)
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
    assert_eq!(service.stop(), Some(0));
    loops.now(|_| Reply::ok());
    let service = service_again(service, &setup);
    assert_eq!(loops.next().await.raw_body, first.raw_body);
    service.message("m1", |found| found["state"] == "delivered").await;
}
