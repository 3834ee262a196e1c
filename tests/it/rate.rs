//! The rate limit of Loops is not exceeded in any second, and a 429 loses no message.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use segment_loops::clock::SystemClock;
use segment_loops::sandbox::{Sandbox, SandboxOptions};
use serde_json::{Value, json};

use crate::support::{
    EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup, serve_on_loopback, track,
};

const SECOND: Duration = Duration::from_secs(1);

/// The largest number of these moments within one second.
fn most_in_a_second(moments: &[Timestamp]) -> usize {
    // Moments are recorded in whole milliseconds.
    let length = SECOND - Duration::from_millis(1);
    let is_within = |first: &Timestamp, at: &Timestamp| {
        Duration::try_from(at.duration_since(*first)).is_ok_and(|apart| apart < length)
    };
    let count = |first: &Timestamp| moments.iter().filter(|at| is_within(first, at)).count();
    moments.iter().map(count).max().unwrap_or(0)
}

/// Sends `count` messages of as many people, and returns the moments at which all their attempts began.
///
/// The moments are those that the program recorded, not the times of arrival at the scripted Loops: a machine that runs
/// all tests at once may delay a request for any time.
async fn moments(service: &Service, count: usize) -> Vec<Timestamp> {
    let batch: Vec<_> = (0..count).map(|n| track(&format!("u{n}"), &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    attempts_at(service, "m", count).await
}

/// The moments at which the attempts of delivered messages began.
async fn attempts_at(service: &Service, prefix: &str, count: usize) -> Vec<Timestamp> {
    let mut moments = Vec::new();
    for n in 0..count {
        let id = format!("{prefix}{n}");
        let message = service.message(&id, |found| found["state"] == "delivered").await;
        let attempts = message["deliveries"][0]["request"]["attempts"].as_array().unwrap().clone();
        let began = |attempt: &Value| -> Timestamp {
            attempt["startedAt"].as_str().unwrap().parse().unwrap()
        };
        moments.extend(attempts.iter().map(began));
    }
    moments.sort();
    moments
}

#[tokio::test]
async fn loops_never_gets_more_than_the_configured_rate_in_any_second() {
    for rate in [5, 20] {
        let loops = ScriptedLoops::willing().await;
        let setup = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", &rate.to_string());
        let moments = moments(&setup.start(), rate * 3).await;
        assert_eq!(moments.len(), rate * 3);
        assert!(most_in_a_second(&moments) <= rate, "{moments:?}");
    }
}

#[tokio::test]
async fn without_configuration_ten_requests_a_second_are_sent() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).without_rate().start();
    let moments = moments(&service, 30).await;
    // Ten a second, where the machine keeps up.
    assert!((4..=10).contains(&most_in_a_second(&moments)), "{moments:?}");
}

#[tokio::test]
async fn the_sandbox_sees_the_rate_kept() {
    let sandbox = Sandbox::new(SandboxOptions::default(), Arc::new(SystemClock));
    let address = serve_on_loopback(sandbox.router()).await;
    let base_url = format!("http://{address}/api/v1");
    let service = Setup::with_loops(&base_url).without_rate().start();
    // The messages have an address, because Loops does not know the user ids yet.
    let person = |n: usize| {
        let mut message = track(&format!("u{n}"), &format!("m{n}"));
        message["properties"]["email"] = json!(format!("u{n}@{EMAIL_DOMAIN}"));
        message
    };
    service.accept("/v1/batch", json!({"batch": (0..30).map(person).collect::<Vec<_>>()})).await;
    attempts_at(&service, "m", 30).await;
    let mut arrivals: Vec<u64> = sandbox.requests().iter().map(|one| one.at_ms).collect();
    arrivals.sort_unstable();
    assert_eq!(sandbox.counts().events, 30);
    // The check of the key counts as well. A tenth of the second is tolerance for a machine that delays single
    // requests.
    let within =
        |first: &u64| arrivals.iter().filter(|at| (*first..first + 900).contains(at)).count();
    let most = arrivals.iter().map(within).max();
    assert!(most <= Some(10), "{arrivals:?}");
}

#[tokio::test]
async fn a_lower_limit_that_loops_reports_is_obeyed() {
    // The response to the check of the key at the start contains the limit before anything is delivered.
    let loops = ScriptedLoops::start(|_| Reply::ok().with_header("x-ratelimit-limit", "4")).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let moments = moments(&service, 14).await;
    assert!(most_in_a_second(&moments) <= 4, "{moments:?}");
}

/// The largest number of attempts in a second if Loops reports this limit, with or without a configured rate.
async fn most_with_limit(limit: &'static str, rate: Option<&str>, count: usize) -> usize {
    let told = move |_: &Seen| Reply::ok().with_header("x-ratelimit-limit", limit);
    let loops = ScriptedLoops::start(told).await;
    let setup = Setup::with_loops(&loops.base_url);
    let setup = match rate {
        Some(rate) => setup.env("LOOPS_RATE_LIMIT", rate),
        None => setup.without_rate(),
    };
    most_in_a_second(&moments(&setup.start(), count).await)
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_changes_nothing() {
    let nonsense = ["0", "-1", "abc", "1e99", "", " ", "4294967295", "99999999999999999999"];
    for limits in nonsense.chunks(4) {
        let most = |limit: &&'static str| most_with_limit(limit, None, 15);
        let (a, b, c, d) =
            tokio::join!(most(&limits[0]), most(&limits[1]), most(&limits[2]), most(&limits[3]));
        for (limit, most) in limits.iter().zip([a, b, c, d]) {
            // Ten a second, if the machine keeps up.
            assert!((4..=10).contains(&most), "{limit:?}: {most}");
        }
    }
}

#[tokio::test]
async fn a_limit_is_learnt_up_and_down_but_never_beyond_the_configured_rate() {
    let (down, up, bounded) = tokio::join!(
        most_with_limit("2", None, 6),
        most_with_limit("100", None, 60),
        most_with_limit("100", Some("5"), 12),
    );
    assert!(down <= 2, "{down}");
    assert!((11..=100).contains(&up), "{up}");
    assert!(bounded <= 5, "{bounded}");
}

#[tokio::test]
async fn nothing_is_sent_for_a_second_after_loops_says_that_nothing_remains() {
    let mut seen = 0;
    let loops = ScriptedLoops::start(move |request| {
        seen += usize::from(request.path != "/api-key");
        let remaining = if seen == 1 { "0" } else { "50" };
        Reply::ok().with_header("x-ratelimit-remaining", remaining)
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "50").start();
    // The second message is accepted after the response to the first.
    let first = moments(&service, 1).await;
    service.accept("/v1/track", track("u9", "later")).await;
    let later = service.message("later", |found| found["state"] == "delivered").await;
    let attempt = &later["deliveries"][0]["request"]["attempts"][0];
    let at: Timestamp = attempt["startedAt"].as_str().unwrap().parse().unwrap();
    // The system clock may be adjusted a little in the meantime.
    assert!(at.duration_since(first[0]).as_secs_f64() >= 0.9, "{at} {first:?}");
}

#[tokio::test]
async fn after_429s_the_rate_falls_at_once_and_recovers_completely() {
    // Loops responds 429 once at the beginning, and accepts everything after that.
    let mut seen = 0;
    let loops = ScriptedLoops::start(move |request| {
        seen += usize::from(request.path != "/api-key");
        if seen == 10 { Reply::status(429) } else { Reply::ok() }
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "40").start();
    let slow = moments(&service, 120).await;
    assert_eq!(slow.len(), 121);
    // Requests that were under way at the 429 were sent before the pause.
    let paused = slow
        .windows(2)
        .position(|pair| pair[1].duration_since(pair[0]).as_secs_f64() > 0.8)
        .expect("a pause");
    // The rate grows back by a tenth of the whole every two seconds.
    let most = most_in_a_second(&slow[paused + 1..]);
    assert!(most <= 20 + 3 * 4, "{most}");
    let began = Instant::now();
    let line = "segment_loops_rate_limit_requests_per_second{destination=\"default\"} 40\n";
    while !service.admin("/metrics").await.body.as_str().unwrap().contains(line) {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let batch: Vec<_> = (0..80).map(|n| track(&format!("v{n}"), &format!("n{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let fast = attempts_at(&service, "n", 80).await;
    assert!(most_in_a_second(&fast) > most, "{fast:?}");
}

#[tokio::test]
async fn everything_arrives_in_order_when_loops_is_stricter_than_it_says() {
    // Loops allows four requests a second without reporting that, and refuses any beyond.
    let mut accepted: Vec<Instant> = Vec::new();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&taken);
    let loops = ScriptedLoops::start(move |seen| {
        accepted.retain(|at| at.elapsed() < SECOND);
        if accepted.len() >= 4 {
            return Reply::status(429);
        }
        accepted.push(Instant::now());
        if seen.path != "/api-key" {
            noted.lock().unwrap().push(seen.note());
        }
        Reply::ok()
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "20").start();
    let batch: Vec<_> = (0..12).map(|n| track("u1", &format!("m{n:02}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    for n in 0..12 {
        service.message(&format!("m{n:02}"), |found| found["state"] == "delivered").await;
    }
    // What was refused does not count, and what was taken is not sent again.
    let expected: Vec<String> = (0..12).map(|n| format!("m{n:02}")).collect();
    assert_eq!(*taken.lock().unwrap(), expected);
}
