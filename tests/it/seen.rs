//! Health, messages, metrics and logs, as operators and marketers see them.

use std::io::BufRead as _;

use serde_json::json;

use crate::support::{
    ADMIN_TOKEN, PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup, WRITE_KEY, identify, signal,
    track,
};

#[tokio::test]
async fn health_and_readiness_do_not_depend_on_loops() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").start();
    for path in ["/healthz", "/readyz"] {
        let answer = service.admin(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_message_can_be_looked_up_by_its_id_and_by_its_person() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    service.accept("/v1/track", track("u1", "m2")).await;
    service.accept("/v1/track", track("u2", "m3")).await;
    loops.notes(3).await;
    let message = service.message("m2", |found| found["state"] == "delivered").await;
    assert_eq!(message["source"], "default");
    assert_eq!(message["destination"], "default");
    assert_eq!(message["type"], "track");
    let delivery = &message["deliveries"][0];
    assert_eq!(delivery["action"], "sendEvent");
    assert_eq!(delivery["request"]["path"], "/events/send");
    assert_eq!(delivery["request"]["attempts"][0]["number"], 1);
    let found = service.admin("/api/messages?userId=u1").await;
    let ids: Vec<&str> = found.body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["messageId"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["m2", "m1"], "{found:?}");
    assert_eq!(service.admin("/api/messages?userId=nobody").await.body["messages"], json!([]));
    let page = service.admin("/api/messages?userId=u1&limit=1").await;
    assert_eq!(page.body["messages"][0]["messageId"], "m2", "{page:?}");
    let before = &page.body["next"];
    let next = service.admin(&format!("/api/messages?userId=u1&before={before}")).await;
    assert_eq!(next.body["messages"].as_array().unwrap().len(), 1, "{next:?}");
    assert_eq!(next.body["messages"][0]["messageId"], "m1", "{next:?}");
}

#[tokio::test]
async fn metrics_count_what_came_and_what_went() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.accept("/v1/batch", json!({"batch": [track("u1", "m1"), {"type": "track"}]})).await;
    service.post("/v1/track", "{").await;
    loops.notes(1).await;
    service.message("m1", |found| found["state"] == "delivered").await;
    let began = std::time::Instant::now();
    let expected = [
        r#"segment_loops_messages_accepted_total{source="default",type="track"} 1"#,
        r#"segment_loops_messages_duplicate_total{source="default",type="track"} 1"#,
        r#"segment_loops_rejected_total{"#,
        r#"segment_loops_deliveries_total{destination="default",action="sendEvent",outcome="delivered"} 1"#,
        r#"segment_loops_loops_requests_total{destination="default",endpoint="/events/send",status="200"} 1"#,
        r#"segment_loops_loops_request_duration_seconds_bucket{destination="default",endpoint="/events/send",status="200",le="30"} 1"#,
        r#"segment_loops_queue_depth_messages{destination="default",class="event"} 0"#,
        r#"segment_loops_queue_oldest_age_seconds{destination="default",class="bulk"} 0"#,
        r#"segment_loops_rate_limit_requests_per_second{destination="default"} 1000"#,
        r#"segment_loops_rate_limit_max_requests_per_second{destination="default"} 1000"#,
        r#"segment_loops_lease_held{destination="default"} 1"#,
        r#"segment_loops_attempts_total{destination="default",outcome="delivered"} 1"#,
        r#"segment_loops_delivery_latency_seconds_bucket{destination="default",class="event",le="86400"} 1"#,
        r#"segment_loops_delivery_latency_seconds_count{destination="default",class="live"} 0"#,
        r#"segment_loops_requests_in_flight{destination="default"} 0"#,
        r#"segment_loops_lanes_retrying{destination="default"} 0"#,
        r#"segment_loops_queue_drain_seconds{destination="default",class="event"} 0"#,
        r#"segment_loops_lease_changes_total{destination="default"} 1"#,
        r#"segment_loops_fenced_total{destination="default"} 0"#,
        r#"segment_loops_store_waiting_messages 0"#,
        r#"segment_loops_store_group_messages_bucket{le="1"} "#,
        r#"segment_loops_store_commit_seconds_bucket{le="0.0005"} "#,
        r#"http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/v1/track",http_response_status_code="200",le="10"} 1"#,
        r#"http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/batch",http_response_status_code="200"} 1"#,
        r#"http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/track",http_response_status_code="400"} 1"#,
        r#"http_server_request_duration_seconds_count{http_request_method="GET",http_route="/api/messages/{message_id}",http_response_status_code="200"} "#,
        // The request for the metrics.
        r#"http_server_active_requests{http_request_method="GET"} 1"#,
        r#"http_server_active_requests{http_request_method="POST"} 0"#,
        r#"segment_loops_source_silent_after_seconds{source="default"} 0"#,
    ];
    loop {
        let answer = service.admin("/metrics").await;
        let text = answer.body.as_str().unwrap();
        let missing: Vec<_> = expected.iter().filter(|line| !text.contains(**line)).collect();
        if missing.is_empty() {
            break;
        }
        // Depth and rate are measured every few seconds.
        assert!(began.elapsed() < crate::support::PATIENCE, "{missing:#?} not in {text}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn counters_are_at_zero_before_anything_happens() {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1").config(
        r#"
        [sources.shop]
        write_keys = ["shop-key"]
        destination = "default"
        silent_after_s = 600
        [destinations.default]
        loops_webhook_secrets = ["whsec_ZGV2"]
        loops_webhook_forward = "http://127.0.0.1:9/"
        "#,
    );
    let service = setup.start();
    let text = service.admin("/metrics").await.body.as_str().unwrap().to_owned();
    for line in [
        r#"segment_loops_messages_accepted_total{source="default",type="track"} 0"#,
        r#"segment_loops_messages_accepted_total{source="shop",type="delete"} 0"#,
        r#"segment_loops_messages_duplicate_total{source="shop",type="identify"} 0"#,
        r#"segment_loops_deliveries_total{destination="default",action="sendEvent",outcome="delivered"} 0"#,
        r#"segment_loops_deliveries_total{destination="default",action="sendEvent",outcome="refused"} 0"#,
        r#"segment_loops_deliveries_total{destination="default",action="deleteContact",outcome="expired"} 0"#,
        r#"segment_loops_unmatched_total{destination="default",reason="no_subscription"} 0"#,
        r#"segment_loops_requests_saved_total{destination="default",how="unchanged_would"} 0"#,
        r#"segment_loops_feedback_total{destination="default",event="other"} 0"#,
        r#"segment_loops_feedback_forwards_total{destination="default",outcome="given_up"} 0"#,
        r#"segment_loops_connections_cut_total{listener="public",reason="no_room"} 0"#,
        r#"segment_loops_queue_depth_messages{destination="default",class="bulk"} 0"#,
        r#"segment_loops_queue_drain_seconds{destination="default",class="bulk"} 0"#,
        r#"segment_loops_lease_changes_total{destination="default"} "#,
        r#"segment_loops_fenced_total{destination="default"} 0"#,
        r#"segment_loops_replayed_messages_total{destination="default"} 0"#,
        r#"segment_loops_store_waiting_messages 0"#,
        r#"segment_loops_destination_paused{destination="default"} 0"#,
        r#"segment_loops_config_last_reload_successful 1"#,
        concat!(
            r#"segment_loops_build_info{version=""#,
            env!("CARGO_PKG_VERSION"),
            r#"",revision=""} 1"#
        ),
        r#"segment_loops_attempts_total{destination="default",outcome="not_found"} 0"#,
        r#"segment_loops_delivery_latency_seconds_count{destination="default",class="bulk"} 0"#,
        r#"segment_loops_requests_in_flight{destination="default"} 0"#,
        r#"segment_loops_source_silent_after_seconds{source="shop"} 600"#,
        r#"segment_loops_source_silent_after_seconds{source="default"} 0"#,
    ] {
        assert!(text.contains(line), "{line} not in {text}");
    }
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    assert!(value("segment_loops_store_free_bytes ") > 0.0, "{text}");
    assert!(value("segment_loops_store_disk_bytes ") > 0.0, "{text}");
    assert!(value("segment_loops_store_bytes ") > 0.0, "{text}");
    for none in ["last_message", "last_feedback"] {
        assert!(!text.contains(&format!("segment_loops_{none}_timestamp_seconds{{")), "{text}");
    }
    #[cfg(target_os = "linux")]
    for name in [
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
    ] {
        assert!(value(&format!("{name} ")) > 0.0, "{name}: {text}");
    }
}

#[tokio::test]
async fn a_reload_that_fails_is_a_metric() {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1").config("");
    let service = setup.start();
    for (config, expected) in [("[nonsense]", 0), ("", 1)] {
        service.write_config(config);
        let reload = service.request(reqwest::Method::POST, "/api/reload");
        Service::answer(reload.bearer_auth(ADMIN_TOKEN)).await;
        let text = service.admin("/metrics").await.body.as_str().unwrap().to_owned();
        let line = format!("segment_loops_config_last_reload_successful {expected}");
        assert!(text.contains(&line), "{line} not in {text}");
    }
}

#[tokio::test]
async fn a_source_that_sends_or_is_taken_away_shows_in_its_gauges() {
    let with_shop = r#"
        [sources.shop]
        write_keys = ["shop-key"]
        destination = "default"
        silent_after_s = 600
        "#;
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").config(with_shop).start();
    let text = async || service.admin("/metrics").await.body.as_str().unwrap().to_owned();
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().parse::<f64>().unwrap())
    };
    let before = value(&text().await, "segment_loops_config_last_reload_success_timestamp_seconds");
    let sent = service.request(reqwest::Method::POST, "/v1/t").basic_auth("shop-key", Some(""));
    Service::answer(sent.body(track("u1", "m1").to_string())).await;
    let seen = text().await;
    let last = value(&seen, r#"segment_loops_last_message_timestamp_seconds{source="shop"}"#);
    let of_default = r#"segment_loops_last_message_timestamp_seconds{source="default"}"#;
    assert_eq!(value(&seen, of_default), None);
    // The short path is counted under the long one.
    let count = r#"http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/track",http_response_status_code="200"}"#;
    assert_eq!(value(&seen, count), Some(1.0), "{seen}");
    service.write_config("");
    let reload = service.request(reqwest::Method::POST, "/api/reload");
    Service::answer(reload.bearer_auth(ADMIN_TOKEN)).await;
    let seen = text().await;
    let silent_after = r#"segment_loops_source_silent_after_seconds{source="shop"}"#;
    assert_eq!(value(&seen, silent_after), Some(0.0), "{seen}");
    let after = value(&seen, "segment_loops_config_last_reload_success_timestamp_seconds");
    let times = [before, last, after];
    assert!(before.is_some() && times.is_sorted(), "{times:?}");
}

/// A process that starts, whether instead of another one or beside it, knows when each source last sent something.
pub async fn the_last_message_of_a_source_outlives_a_restart(on: impl FnOnce(Setup) -> Setup) {
    const TWO: &str = r#"
        [sources.shop]
        write_keys = ["shop-key"]
        destination = "default"
        "#;
    let data = tempfile::tempdir().unwrap();
    let setup = on(Setup::with_loops("http://127.0.0.1:9/api/v1").config(TWO)).data(data.path());
    let last = async |service: &Service, source: &str| {
        let text = service.admin("/metrics").await.body.as_str().unwrap().to_owned();
        let name = format!("segment_loops_last_message_timestamp_seconds{{source=\"{source}\"}}");
        let line = text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.map(|value| value.trim().parse::<f64>().unwrap())
    };
    let first = setup.start();
    let sent = first.request(reqwest::Method::POST, "/v1/t").basic_auth("shop-key", Some(""));
    assert_eq!(Service::answer(sent.body(track("u1", "m1").to_string())).await.status, 200);
    let seen = last(&first, "shop").await.unwrap();
    let second = setup.start();
    let first = first.stop_and_restart(&setup).await;
    for service in [&first, &second] {
        let known = last(service, "shop").await.unwrap();
        // The minute in which it came, and no later than the start.
        assert!((seen..seen + 60.0).contains(&known), "{seen}, then {known}");
        assert_eq!(last(service, "default").await, None);
    }
}

#[tokio::test]
async fn the_last_message_of_a_source_is_known_after_a_restart() {
    the_last_message_of_a_source_outlives_a_restart(|setup| setup).await;
}

#[tokio::test]
async fn paths_that_senders_invent_are_one_route() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").start();
    for n in 0..20 {
        service.admin(&format!("/v1/{n}")).await;
        service.admin(&format!("/wp-admin/{n}")).await;
    }
    let strange = reqwest::Method::from_bytes(b"BREW").unwrap();
    Service::answer(service.request(strange, "/v1/track")).await;
    let text = service.admin("/metrics").await.body.as_str().unwrap().to_owned();
    for line in [
        r#"http_server_request_duration_seconds_count{http_request_method="GET",http_route="unknown",http_response_status_code="404"} 40"#,
        r#"http_server_request_duration_seconds_count{http_request_method="_OTHER",http_route="/v1/track",http_response_status_code="405"} 1"#,
    ] {
        assert!(text.contains(line), "{line} not in {text}");
    }
    assert!(!text.contains("wp-admin") && !text.contains("BREW"), "{text}");
}

#[tokio::test]
async fn there_is_a_wide_line_for_each_accepted_request_and_each_attempt() {
    let mut loops = ScriptedLoops::start(|_| Reply::ok()).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/batch", json!({"batch": [track("u1", "m1"), identify("u1", "m2")]})).await;
    loops.notes(2).await;
    let accepted = service.logged(|line| line["message"] == "accepted").await;
    assert_eq!(accepted["source"], "default");
    assert_eq!(accepted["messages"], 2);
    let attempt = service.logged(|line| line["message"] == "attempt").await;
    assert_eq!(attempt["destination"], "default");
    assert_eq!(attempt["status"], 200);
    assert_eq!(attempt["outcome"], "delivered");
    assert_eq!(attempt["message_id"], "m1");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let mut loops = ScriptedLoops::start(after_a_503()).await;
    let folder = tempfile::tempdir().unwrap();
    // The program cannot log its address, so it gets one from outside the range of ephemeral ports.
    let address = std::iter::repeat_with(|| format!("127.0.0.1:{}", fastrand::u16(20_000..30_000)))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .unwrap();
    // A device without space, like a full disk with the log on it.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let arguments = ["serve", "--listen", &address];
    let mut command =
        Setup::with_loops(&loops.base_url).other_command(folder.path(), folder.path(), &arguments);
    let mut process = command.stderr(full).stdout(std::process::Stdio::null()).spawn().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let began = std::time::Instant::now();
    let health = format!("http://{address}/healthz");
    while !client.get(&health).send().await.is_ok_and(|answer| answer.status() == 200) {
        assert_eq!(process.try_wait().unwrap(), None);
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for id in ["m1", "m2"] {
        let request = client.post(format!("http://{address}/v1/track"));
        let request = request.basic_auth(WRITE_KEY, Some("")).body(track("u", id).to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    assert_eq!(loops.notes(3).await, ["m1", "m1", "m2"]);
    signal(process.id(), "TERM");
    while process.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing_and_says_what_it_lost() {
    let folder = tempfile::tempdir().unwrap();
    let setup =
        Setup::with_loops("http://127.0.0.1:9/api/v1").env("SEGMENT_LOOPS__LOG__LEVEL", "debug");
    let (log, stderr) = std::io::pipe().unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let mut command = setup.other_command(folder.path(), folder.path(), &arguments);
    let mut process = command.stderr(stderr).stdout(std::process::Stdio::null()).spawn().unwrap();
    // Otherwise this process would keep the pipe open.
    drop(command);
    let mut log = std::io::BufReader::new(log).lines().map(|line| {
        serde_json::from_str::<serde_json::Value>(&line.unwrap()).expect("whole lines only")
    });
    let address = log.find(|line| line["message"] == "listening").unwrap()["address"].to_string();
    let address = address.trim_matches('"');
    // From here on, nothing reads the log.
    log_too_much(address).await;
    let dropped = log.find(|line| line["message"].to_string().contains("log lines were dropped"));
    assert!(dropped.unwrap()["lines"].as_u64().unwrap() > 0);
    signal(process.id(), "TERM");
    // The last line was written, although the process ended right after it.
    assert_eq!(log.last().unwrap()["message"], "stopped");
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_keep_the_process_from_ending() {
    let folder = tempfile::tempdir().unwrap();
    let setup =
        Setup::with_loops("http://127.0.0.1:9/api/v1").env("SEGMENT_LOOPS__LOG__LEVEL", "debug");
    // Like `segment-loops serve 2>&1 | reader`.
    let (log, stderr) = std::io::pipe().unwrap();
    let stdout = stderr.try_clone().unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let mut command = setup.other_command(folder.path(), folder.path(), &arguments);
    let mut process = command.stderr(stderr).stdout(stdout).spawn().unwrap();
    drop(command);
    let mut log = std::io::BufReader::new(log).lines().map(|line| {
        serde_json::from_str::<serde_json::Value>(&line.unwrap()).expect("whole lines only")
    });
    let address = log.find(|line| line["message"] == "listening").unwrap()["address"].to_string();
    log_too_much(address.trim_matches('"')).await;
    signal(process.id(), "TERM");
    let began = std::time::Instant::now();
    while process.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(process.wait().unwrap().code(), Some(0));
    drop(log);
}

/// Makes the process at `address` log more than the buffer holds: at level `debug`, each message has a line with its
/// id.
async fn log_too_much(address: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let long = "m".repeat(1_000);
    for round in 0..12 {
        let batch: Vec<_> =
            (0..1_000).map(|n| track("u", &format!("{long}-{round}-{n}"))).collect();
        let request = client.post(format!("http://{address}/v1/batch")).timeout(PATIENCE);
        let body = json!({"batch": batch}).to_string();
        let answer = request.basic_auth(WRITE_KEY, Some("")).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{round}");
    }
}

/// A script that fails one request, which has its own log line.
fn after_a_503() -> impl FnMut(&Seen) -> Reply + Send + 'static {
    let mut statuses = [200, 503].into_iter();
    move |_| Reply::status(statuses.next().unwrap_or(200))
}
