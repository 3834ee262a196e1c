//! The outcome of each response of Loops.

use segment_loops::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup, identify, track};

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

#[tokio::test]
async fn a_2xx_that_says_success_is_delivered() {
    for status in [200, 201] {
        let (message, seen) = outcome(track("u1", "m1"), Reply::status(status), &[]).await;
        assert_eq!(message["state"], "delivered");
        assert_eq!(attempts(&message), [(u64::from(status), "delivered".to_owned())]);
        assert_eq!(seen.len(), 1);
    }
}

#[tokio::test]
async fn a_2xx_that_does_not_say_success_is_tried_again_with_the_same_body_and_key() {
    let bodies = [
        "",
        "<!doctype html><title>Welcome</title>",
        "{}",
        "null",
        r#"{"success":"true"}"#,
        r#"{"message":"ok"}"#,
        r#"[{"success":true}]"#,
        r#"{"success":true"#,
    ];
    // The note of each message contains the index of the first response's body.
    let mut answered = std::collections::HashSet::new();
    let script = move |seen: &Seen| match seen.note().split_once('-') {
        Some((_, index)) if answered.insert(seen.note()) => {
            let body = bodies[index.parse::<usize>().unwrap()];
            Reply::Status(200, Vec::new(), body.to_owned())
        }
        _ => Reply::ok(),
    };
    let mut loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let ids = (0..bodies.len()).flat_map(|index| [format!("t-{index}"), format!("i-{index}")]);
    let ids: Vec<String> = ids.collect();
    let messages = ids.iter().map(|id| match id.starts_with('t') {
        true => track(id, id),
        false => identify(id, id),
    });
    service.accept("/v1/batch", json!({"batch": messages.collect::<Vec<_>>()})).await;
    let mut found = Vec::new();
    for id in &ids {
        found.push(service.message(id, |found| found["state"] == "delivered").await);
    }
    let all = loops.rest();
    for (n, (id, message)) in ids.iter().zip(found).enumerate() {
        let body = bodies[n / 2];
        let expected = [(200, "retry".to_owned()), (200, "delivered".to_owned())];
        assert_eq!(attempts(&message), expected, "{body}");
        assert_eq!(message["deliveries"][0]["request"]["attempts"][0]["answer"], body);
        let seen: Vec<&Seen> = all.iter().filter(|seen| seen.note() == *id).collect();
        assert_eq!(seen.len(), 2, "{body}");
        assert_eq!(seen[0].raw_body, seen[1].raw_body);
        assert_eq!(seen[0].idempotency_key(), seen[1].idempotency_key());
    }
    let (message, seen) = outcome(track("u1", "m1"), Reply::status(204), &[]).await;
    assert_eq!((attempts(&message)[0].1.as_str(), seen.len()), ("retry", 2));
}

#[tokio::test]
async fn a_2xx_that_says_no_success_fails_with_the_words_of_loops() {
    let body = r#"{"success":false,"message":"The contact is suppressed."}"#;
    let reply = Reply::Status(200, Vec::new(), body.to_owned());
    let (message, seen) = outcome(track("u1", "m1"), reply, &[]).await;
    let delivery = &message["deliveries"][0];
    assert_eq!((&message["state"], &delivery["reason"]), (&json!("failed"), &json!("refused")));
    assert_eq!(delivery["detail"], "Loops answered 200: The contact is suppressed.");
    assert_eq!(delivery["request"]["attempts"][0]["answer"], body);
    assert_eq!(seen.len(), 1);
}

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

/// Whether delivery is paused, by the metrics.
async fn is_paused(service: &Service) -> bool {
    let metrics = service.admin("/metrics").await.body;
    let paused = "segment_loops_destination_paused{destination=\"default\"} 1";
    metrics.as_str().unwrap().contains(paused)
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
async fn a_409_on_an_idempotency_key_means_delivered_before() {
    let (message, seen) = outcome(track("u1", "m1"), Reply::status(409), &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(409, "delivered_before".to_owned())]);
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_409_that_is_a_page_of_a_proxy_delivers_nothing() {
    let page = Reply::status(409).with_body("<html>409 Conflict</html>");
    let (message, seen) = outcome(track("u1", "m1"), page, &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(409, "retry".to_owned()), (200, "delivered".to_owned())]);
    let sent: Vec<&Seen> = seen.iter().filter(|seen| seen.path != "/api-key").collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].idempotency_key(), sent[1].idempotency_key());
}

#[tokio::test]
async fn a_404_on_a_delete_means_that_nothing_is_left_to_delete() {
    let delete = json!({"type": "delete", "userId": "u1", "messageId": "m1"});
    let (message, seen) = outcome(delete, Reply::status(404), &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(404, "nothing_to_delete".to_owned())]);
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_429_waits_as_long_as_it_asks_and_is_tried_again() {
    let reply = Reply::status(429).with_header("retry-after", "1");
    let settings = [("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "2000")];
    let (message, seen) = outcome(track("u1", "m1"), reply, &settings).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(429, "limited".to_owned()), (200, "delivered".to_owned())]);
    assert_eq!(seen[0].raw_body, seen[1].raw_body);
    let times: Vec<jiff::Timestamp> = message["deliveries"][0]["request"]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["startedAt"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(times[1].duration_since(times[0]).as_secs_f64() >= 1.0, "{times:?}");
}

/// The time in seconds that the program waits after the first attempt, by its own records, if Loops asks it to wait for
/// `retry_after`. Without that, it waits at most 0.2 seconds.
async fn waited(status: u16, retry_after: &str, longest: &str) -> f64 {
    let reply = Reply::status(status).with_header("retry-after", retry_after);
    let settings = [("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", longest)];
    let (message, seen) = outcome(track("u1", "m1"), reply, &settings).await;
    assert_eq!((&message["state"], seen.len()), (&json!("delivered"), 2), "{retry_after}");
    let attempts = &message["deliveries"][0]["request"]["attempts"];
    let at = |n: usize| -> jiff::Timestamp {
        attempts[n]["startedAt"].as_str().unwrap().parse().unwrap()
    };
    at(1).duration_since(at(0)).as_secs_f64()
}

/// An HTTP date some seconds from now.
fn date_in(seconds: i64) -> String {
    let at = SystemClock.now().as_second() + seconds;
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at.unsigned_abs());
    httpdate::fmt_http_date(at)
}

#[tokio::test]
async fn a_wait_that_loops_asks_for_in_seconds_or_by_date_is_kept() {
    // The program may take a second or two to start.
    let date = date_in(8);
    let waits = tokio::join!(
        waited(429, "2", "60000"),
        waited(503, "2", "60000"),
        waited(429, &date, "60000"),
        waited(503, &date, "60000"),
    );
    let waits = [waits.0, waits.1, waits.2, waits.3];
    assert!(waits.iter().all(|wait| *wait >= 2.0), "{waits:?}");
}

#[tokio::test]
async fn a_wait_that_makes_no_sense_is_as_good_as_none() {
    // The longest wait is a minute, so that a valid request to wait would be followed.
    let past = date_in(-3_600);
    let waits = tokio::join!(
        waited(503, "-5", "60000"),
        waited(503, "soon", "60000"),
        waited(503, "99999999999999999999999", "60000"),
        waited(503, &past, "60000"),
        waited(429, "-5", "60000"),
        waited(429, "soon", "60000"),
        waited(429, "Mon, 31 Feb 2026", "60000"),
        waited(429, &past, "60000"),
    );
    let waits = [waits.0, waits.1, waits.2, waits.3, waits.4, waits.5, waits.6, waits.7];
    assert!(waits.iter().all(|wait| *wait < 4.0), "{waits:?}");
}

#[tokio::test]
async fn an_absurd_wait_is_no_longer_than_the_longest_between_two_attempts() {
    for retry_after in ["99999999".to_owned(), date_in(99_999_999)] {
        waited(503, &retry_after, "300").await;
    }
    // A 429 pauses all requests for ten minutes at most. The message shows the time of its next attempt.
    let reply = Reply::status(429).with_header("retry-after", "99999999");
    let loops = ScriptedLoops::start(after_first(reply)).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let next = |found: &Value| found["deliveries"][0]["request"]["nextAttemptAt"].clone();
    let message = service.message("m1", |found| next(found).is_string()).await;
    let next: jiff::Timestamp = next(&message).as_str().unwrap().parse().unwrap();
    assert!(next.duration_since(SystemClock.now()).as_secs_f64() < 600.0);
}

#[tokio::test]
async fn server_errors_are_tried_again_with_the_same_body_and_key() {
    for status in [408, 500, 502, 503, 504] {
        let (message, seen) = outcome(track("u1", "m1"), Reply::status(status), &[]).await;
        assert_eq!(message["state"], "delivered");
        assert_eq!(
            attempts(&message),
            [(u64::from(status), "retry".to_owned()), (200, "delivered".to_owned())]
        );
        assert_eq!(seen[0].raw_body, seen[1].raw_body);
        assert_eq!(seen[0].idempotency_key(), seen[1].idempotency_key());
    }
}

#[tokio::test]
async fn a_request_without_an_answer_is_retried() {
    let settings = [("SEGMENT_LOOPS__DELIVERY__TIMEOUT_MS", "300")];
    let (message, seen) = outcome(track("u1", "m1"), Reply::Silence, &settings).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message)[0], (0, "retry".to_owned()));
    assert_eq!(seen[0].idempotency_key(), seen[1].idempotency_key());
}

#[tokio::test]
async fn any_other_4xx_fails_with_the_words_of_loops() {
    for status in [400, 404, 405, 422] {
        let (message, seen) = outcome(identify("u1", "m1"), Reply::status(status), &[]).await;
        assert_eq!(message["state"], "failed");
        let delivery = &message["deliveries"][0];
        assert_eq!(delivery["reason"], "refused");
        assert_eq!(delivery["detail"], format!("Loops answered {status}: scripted {status}"));
        assert_eq!(seen.len(), 1);
    }
}

#[tokio::test]
async fn a_4xx_that_is_not_in_the_words_of_loops_is_a_refusal_only_if_the_key_is_right() {
    // A page is final only if other requests succeed in the meantime, because a proxy may temporarily not reach Loops.
    let mut loops = ScriptedLoops::start(|seen| match &seen.body["userId"] {
        user if user == "u1" => Reply::Status(413, Vec::new(), "<html>".to_owned()),
        _ => Reply::ok(),
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    let is_failed = |found: &Value| found["state"] == "failed";
    service.message("m1", is_tried).await;
    let mut others = 0;
    while !is_failed(&service.message("m1", |_| true).await) {
        others += 1;
        let id = format!("other-{others}");
        service.accept("/v1/identify", identify("u2", &id)).await;
        service.message(&id, |found| found["state"] == "delivered").await;
    }
    let message = service.message("m1", is_failed).await;
    let detail = message["deliveries"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("Loops answered 413: no message; several times"), "{detail}");
    assert!(attempts(&message).len() > 3);
    assert!(!loops.rest().is_empty());

    // A single page neither fails a message nor counts as a deletion.
    let page = Reply::Status(404, Vec::new(), "<html>".to_owned());
    let (message, seen) = outcome(identify("u1", "m1"), page, &[]).await;
    assert_eq!((&message["state"], seen.len()), (&json!("delivered"), 2));

    // A web app that serves its page at every path, and accepts no forms.
    for status in [405, 400] {
        let loops = ScriptedLoops::start(move |seen| {
            let status = if seen.path == "/api-key" { 200 } else { status };
            Reply::Status(status, Vec::new(), "<html>".to_owned())
        })
        .await;
        let service = Setup::with_loops(&loops.base_url).start();
        service.accept("/v1/identify", identify("u1", "m1")).await;
        service
            .logged(|line| {
                line["message"].as_str().is_some_and(|text| text.contains("there is no Loops"))
            })
            .await;
        assert!(is_paused(&service).await);
        assert_eq!(service.message("m1", is_tried).await["state"], "pending");
        loops.now(|_| Reply::ok());
        service.message("m1", |found| found["state"] == "delivered").await;
    }
}

#[tokio::test]
async fn a_failure_does_not_hold_back_what_comes_after_it() {
    let mut loops = ScriptedLoops::start(after_first(Reply::status(400))).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/batch", json!({"batch": [track("u1", "m1"), track("u1", "m2")]})).await;
    assert_eq!(loops.notes(2).await, ["m1", "m2"]);
    service.message("m1", |found| found["state"] == "failed").await;
    service.message("m2", |found| found["state"] == "delivered").await;
}

#[tokio::test]
async fn a_message_that_cannot_be_mapped_fails_without_a_request() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    // An event must have a name.
    let nameless = json!({"userId": "u1", "messageId": "m1", "properties": {}});
    service.accept("/v1/track", nameless).await;
    let message = service.message("m1", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "invalid");
    assert!(
        message["deliveries"][0]["detail"].as_str().unwrap().contains("eventName"),
        "{message}"
    );
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn a_message_that_no_subscription_takes_is_unmatched() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/page", json!({"userId": "u1", "messageId": "m1"})).await;
    let message = service.message("m1", |found| found["state"] == "unmatched").await;
    assert!(!message["reason"].as_str().unwrap().is_empty());
    assert!(loops.rest().is_empty());
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

#[tokio::test]
async fn a_request_that_fails_for_longer_than_the_window_expires() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(500)).await;
    loops.now(|seen| if seen.note() == "m1" { Reply::status(500) } else { Reply::ok() });
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_WINDOW_MS", "300")
        .env("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__MERGE", "false")
        .start();
    // Upserts: an event whose retry is late is not sent, because Loops may have forgotten its key.
    let messages = [identify("u1", "m1"), identify("u1", "m2")];
    service.accept("/v1/batch", json!({"batch": messages})).await;
    let message = service.message("m1", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "expired");
    let detail = message["deliveries"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("gave up after") && detail.contains("300 ms"), "{detail}");
    assert!(detail.contains("the last answer was 500"), "{detail}");
    assert!(attempts(&message).len() >= 2, "{message}");
    assert!(loops.notes(attempts(&message).len()).await.iter().all(|note| note == "m1"));
    // The message behind it is delivered.
    assert_eq!(loops.next().await.note(), "m2");
}

#[tokio::test]
async fn a_request_that_is_too_old_when_its_turn_comes_is_not_sent() {
    // The key is accepted by the check at the start, and refused after that.
    let mut checks = 0;
    let script = move |seen: &Seen| {
        checks += u32::from(seen.path == "/api-key");
        Reply::status(if seen.path == "/api-key" && checks == 1 { 200 } else { 401 })
    };
    let mut loops = ScriptedLoops::start(script).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let text = "[[subscriptions]]\nname = 'Welcome'\naction = 'sendEvent'\nevents = ['*']\nmax_age_s = 3600\n";
    std::fs::write(&file, text).unwrap();
    let service = Setup::with_loops(&loops.base_url)
        .env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap())
        .start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", is_tried).await;
    // Simulates that the key was corrected an hour later.
    service.alter("UPDATE requests SET expires_at = 1").await;
    service.accept("/v1/track", track("u2", "m2")).await;
    loops.rest();
    loops.now(|_| Reply::ok());
    let message = service.message("m1", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "expired");
    assert!(message["deliveries"][0]["detail"].as_str().unwrap().contains("max_age_s"));
    service.message("m2", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().iter().map(Seen::note).collect::<Vec<_>>(), ["m2"]);
}

#[tokio::test]
async fn an_event_that_loops_would_not_know_again_is_not_repeated() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let setup = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS", "60000")
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "60000");
    let service = setup.start();
    service.accept("/v1/track", track("u1", "event")).await;
    service.accept("/v1/identify", identify("u2", "upsert")).await;
    service.message("event", is_tried).await;
    service.message("upsert", is_tried).await;
    loops.rest();
    loops.now(|_| Reply::ok());
    // Simulates that the program was stopped for longer than Loops keeps keys.
    let past =
        "UPDATE requests SET first_attempt_at = first_attempt_at - 90000000, next_attempt_at = 1";
    service.alter(past).await;
    let service = service.crash_and_restart(&setup);
    let message = service.message("event", |found| found["state"] == "failed").await;
    assert_eq!(message["deliveries"][0]["reason"], "expired");
    assert_eq!(attempts(&message).len(), 1);
    // An upsert can be repeated without harm, so it is tried again.
    service.message("upsert", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().iter().map(Seen::note).collect::<Vec<_>>(), ["upsert"]);
}

#[tokio::test]
async fn redirects_are_not_followed_with_the_key() {
    let mut elsewhere = ScriptedLoops::willing().await;
    let reply =
        Reply::status(307).with_header("location", format!("{}/events/send", elsewhere.base_url));
    let (message, seen) = outcome(track("u1", "m1"), reply, &[]).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(seen.len(), 2);
    assert!(elsewhere.rest().is_empty());
}

#[tokio::test]
async fn odd_answers_are_taken_for_what_their_status_says() {
    let long = Reply::ok().with_body(&format!(r#"{{"success":true,"x":"{}"}}"#, "x".repeat(9_000)));
    let absurd = Reply::ok()
        .with_header("x-ratelimit-limit", "-7")
        .with_header("x-ratelimit-remaining", "99999999999999999999");
    for reply in [long, absurd] {
        let (message, seen) =
            tokio::time::timeout(PATIENCE, outcome(track("u1", "m1"), reply, &[])).await.unwrap();
        assert_eq!(message["state"], "delivered");
        assert_eq!(seen.len(), 1);
    }
}
