//! A wrong key or base URL pauses the destination, and nothing is lost.

use serde_json::{Value, json};

use super::{after_first, attempts, is_paused, is_tried};
use crate::support::{Reply, ScriptedLoops, Seen, Setup, identify, track};

#[tokio::test]
async fn a_key_is_right_only_if_loops_says_so() {
    let script = |seen: &Seen| match seen.path.as_str() {
        "/api-key" => Reply::ok(),
        _ => Reply::status(401),
    };
    let mut loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url).start();
    // The responses to the checks do not come from Loops, so the pause continues.
    let (mut checks, mut tries) = (0, 0);
    loops.now(move |seen| {
        checks += u32::from(seen.path == "/api-key");
        tries += u32::from(seen.path != "/api-key");
        match (seen.path.as_str(), checks) {
            ("/api-key", 1) => Reply::Status(200, Vec::new(), "<html>".to_owned()),
            ("/api-key", 2) => Reply::Status(200, Vec::new(), r#"{"success":false}"#.to_owned()),
            ("/api-key", _) => Reply::ok(),
            _ if tries == 1 => Reply::status(401),
            _ => Reply::ok(),
        }
    });
    service.accept("/v1/track", track("u1", "m1")).await;
    let message = service.message("m1", |found| found["state"] == "delivered").await;
    assert_eq!(
        attempts(&message),
        [(401, "unauthorized".to_owned()), (200, "delivered".to_owned())]
    );
    assert_eq!(loops.rest().len(), 2);
    let line = service
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.contains("could not be checked"))
        })
        .await;
    assert_eq!(line["base_url"], loops.base_url.as_str(), "{line}");
}

#[tokio::test]
async fn a_host_that_is_not_there_or_not_loops_is_named_in_the_log_with_what_to_check() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    };
    let with_password = nobody.replace("http://", "http://user:pass-word@");
    let service = Setup::with_loops(&with_password).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let line = service
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.starts_with("Loops cannot be reached"))
        })
        .await;
    assert_eq!(line["base_url"], nobody.as_str(), "{line}");
    assert!(line["message"].as_str().unwrap().contains("LOOPS_BASE_URL"), "{line}");
    let line = service.logged(|line| line["message"] == "attempt").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("cannot connect to {nobody}: ")), "{line}");
    assert!(error.contains("refused"), "{line}");
    assert!(service.log().iter().all(|line| !line.to_string().contains("pass-word")));

    let page = |_: &Seen| Reply::Status(200, Vec::new(), "<html>".to_owned());
    let loops = ScriptedLoops::start(page).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let line = service.logged(|line| line["message"] == "attempt").await;
    assert_eq!((&line["status"], &line["outcome"]), (&json!(200), &json!("retry")));
    let error = line["error"].as_str().unwrap();
    assert!(
        error.contains("does not come from Loops") && error.contains(&loops.base_url),
        "{line}"
    );
}

#[tokio::test]
async fn a_wrong_base_url_pauses_the_destination_and_loses_nothing() {
    let mut loops =
        ScriptedLoops::start(|_| Reply::Status(404, Vec::new(), "<html>".to_owned())).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let messages = [
        track("u1", "m1"),
        identify("u2", "m2"),
        json!({"type": "delete", "userId": "u3", "messageId": "m3"}),
    ];
    service.accept("/v1/batch", json!({"batch": messages})).await;
    let told = |line: &Value| {
        line["level"] == "ERROR"
            && line["message"].as_str().is_some_and(|text| text.contains("base_url"))
    };
    service.logged(told).await;
    assert!(is_paused(&service).await);
    for id in ["m1", "m2", "m3"] {
        assert_eq!(service.message(id, |_| true).await["state"], "pending");
    }
    assert!(loops.rest().is_empty(), "nothing is tried in vain");
    loops.now(|_| Reply::ok());
    for id in ["m1", "m2", "m3"] {
        service.message(id, |found| found["state"] == "delivered").await;
    }
    assert_eq!(loops.rest().len(), 3);
    assert!(!is_paused(&service).await);
}

#[tokio::test]
async fn a_base_url_that_goes_wrong_later_pauses_with_the_first_404() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u0", "m0")).await;
    service.message("m0", |found| found["state"] == "delivered").await;
    loops.rest();
    loops.now(|_| Reply::status(404));
    // The response to a deletion would otherwise mean that there is nothing to delete.
    for (id, message) in [
        ("m1", json!({"type": "delete", "userId": "u1", "messageId": "m1"})),
        ("m2", track("u2", "m2")),
    ] {
        service.accept("/v1/batch", json!({"batch": [message]})).await;
        if id == "m1" {
            service.message("m1", is_tried).await;
        }
    }
    service
        .logged(|line| line["message"].as_str().is_some_and(|text| text.contains("base_url")))
        .await;
    assert!(is_paused(&service).await);
    loops.now(|_| Reply::ok());
    let message = service.message("m1", |found| found["state"] == "delivered").await;
    assert_eq!(attempts(&message), [(404, "not_found".to_owned()), (200, "delivered".to_owned())]);
    let message = service.message("m2", |found| found["state"] == "delivered").await;
    assert_eq!(attempts(&message).last().unwrap(), &(200, "delivered".to_owned()));
}

#[tokio::test]
async fn a_wrong_key_pauses_the_destination_loses_nothing_and_delivers_once_it_is_right() {
    for status in [401, 403] {
        let mut loops = ScriptedLoops::start(move |_| Reply::status(status)).await;
        let service = Setup::with_loops(&loops.base_url).start();
        service.accept("/v1/track", track("u1", "m1")).await;
        service
            .logged(|line| {
                line["level"] == "ERROR"
                    && line["message"]
                        .as_str()
                        .is_some_and(|text| text.contains("refuses the API key"))
            })
            .await;
        service.accept("/v1/track", track("u1", "m2")).await;
        let metrics = service.admin("/metrics").await.body;
        assert!(
            metrics
                .as_str()
                .unwrap()
                .contains("segment_loops_destination_paused{destination=\"default\"} 1")
        );
        loops.now(|_| Reply::ok());
        service.message("m1", |found| found["state"] == "delivered").await;
        service.message("m2", |found| found["state"] == "delivered").await;
        assert_eq!(loops.rest().last().map(Seen::note).as_deref(), Some("m2"));
    }
}

#[tokio::test]
async fn a_key_that_is_refused_later_pauses_and_the_refused_request_goes_out_again() {
    let mut loops = ScriptedLoops::start(after_first(Reply::status(401))).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let first = loops.next().await;
    let second = loops.next().await;
    assert_eq!(first.raw_body, second.raw_body);
    assert_eq!(first.idempotency_key(), second.idempotency_key());
    let message = service.message("m1", |found| found["state"] == "delivered").await;
    assert_eq!(
        attempts(&message),
        [(401, "unauthorized".to_owned()), (200, "delivered".to_owned())]
    );
}

#[tokio::test]
async fn a_key_that_is_refused_now_and_then_costs_nothing_once_it_is_fixed() {
    // The key is refused, then accepted by the check, refused by both a delivery and the check, and finally accepted.
    let (mut checks, mut deliveries) = (0, 0);
    let script = move |seen: &Seen| {
        let (count, statuses) = match seen.path == "/api-key" {
            true => (&mut checks, [200, 200, 403, 200, 200]),
            false => (&mut deliveries, [401, 403, 200, 200, 200]),
        };
        *count += 1;
        Reply::status(statuses.get(*count - 1).copied().unwrap_or(200))
    };
    let mut loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/batch", json!({"batch": [track("u1", "m1"), track("u1", "m2")]})).await;
    let message = service.message("m1", |found| found["state"] == "delivered").await;
    let unauthorized = |status| (status, "unauthorized".to_owned());
    let expected = [unauthorized(401), unauthorized(403), (200, "delivered".to_owned())];
    assert_eq!(attempts(&message), expected);
    service.message("m2", |found| found["state"] == "delivered").await;
    let seen = loops.rest();
    assert_eq!(seen.iter().map(Seen::note).collect::<Vec<_>>(), ["m1", "m1", "m1", "m2"]);
    assert!(seen[..3].iter().all(|one| one.idempotency_key() == seen[0].idempotency_key()));
    let metrics = service.admin("/metrics").await.body;
    let paused = "segment_loops_destination_paused{destination=\"default\"} 0";
    assert!(metrics.as_str().unwrap().contains(paused));
}

#[tokio::test]
async fn a_request_that_alone_is_refused_as_if_the_key_were_wrong_fails_at_last() {
    // Like a firewall in front of Loops that refuses a request for its contents.
    let script = |seen: &Seen| Reply::status(if seen.note() == "odd" { 403 } else { 200 });
    let loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("odd", "odd")).await;
    // Until another request is accepted, the key may be wrong.
    let tries = |found: &Value| {
        found["deliveries"][0]["request"]["attempts"].as_array().map_or(0, Vec::len)
    };
    let mut tried = 0;
    for n in 1.. {
        assert!(n < 20, "it is tried for ever");
        let message = service.message("odd", |found| tries(found) > tried).await;
        if message["state"] == "failed" {
            break;
        }
        tried = tries(&message);
        let id = format!("good-{n}");
        service.accept("/v1/track", track(&id, &id)).await;
        service.message(&id, |found| found["state"] == "delivered").await;
    }
    let message = service.message("odd", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "refused");
    let detail = message["deliveries"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("403") && detail.contains("same key"), "{detail}");
    assert!(attempts(&message).len() >= 4, "{message}");
}
