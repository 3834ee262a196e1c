//! A clock that is wrong, or is set while the program runs: waiting retries are sent, nothing expires, and no
//! acknowledged message is lost. The program runs with libfaketime, which changes the time of day but not the monotonic
//! clock.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Reply, ScriptedLoops, Seen, Service, Setup, identify, track};

pub const HOUR: i64 = 3_600;
pub const DAY: i64 = 24 * HOUR;

/// From 2026 to 1973, or at least so far that it makes no difference.
const TO_1973: i64 = -53 * 365 * DAY;

/// The time of day that the program sees.
pub struct Wall(tempfile::TempDir);

impl Wall {
    pub fn right() -> Self {
        let wall = Self(tempfile::tempdir().unwrap());
        wall.set(0);
        wall
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    /// Sets the clock this many seconds ahead of the right time.
    pub fn set(&self, offset_s: i64) {
        // The rename takes effect at once, because libfaketime reads the file at every call.
        let new = self.0.path().join("new");
        std::fs::write(&new, format!("{offset_s:+}\n")).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// A setup that sees this time. Its retries wait until long after the clock was set.
    pub fn setup(&self, loops: &ScriptedLoops) -> Setup {
        let subscriptions = self.0.path().join("subscriptions.toml");
        let text = "
            [[subscriptions]]
            name = 'Event'
            action = 'sendEvent'
            events = ['*']
            max_age_s = 3600
            [[subscriptions]]
            name = 'Contact'
            action = 'createOrUpdateContact'
            trigger = 'type = \"identify\"'
        ";
        std::fs::write(&subscriptions, text).unwrap();
        Setup::with_loops(&loops.base_url)
            .env("LD_PRELOAD", &library())
            .env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DISABLE_SHM", "1")
            .env("LOOPS_SUBSCRIPTIONS", subscriptions.to_str().unwrap())
            .env("SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS", "1500")
            .env("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "1500")
    }
}

/// libfaketime for programs with threads.
fn library() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path());
    let libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let library = libraries.into_iter().find(|library| library.exists());
    let library =
        library.expect("libfaketime is missing: tests/run installs it (package faketime)");
    library.to_str().unwrap().to_owned()
}

pub fn is_tried(message: &Value) -> bool {
    message["deliveries"][0]["request"]["attempts"][0].is_object()
}

/// Two events for each track. The second is sent after the first has ended, and neither expires by its age.
const TWO_EVENTS: &str = r#"
    [[subscriptions]]
    name = "First"
    action = "sendEvent"
    trigger = 'type = "track"'
    mapping = { eventName = "first" }
    [[subscriptions]]
    name = "Second"
    action = "sendEvent"
    trigger = 'type = "track"'
    mapping = { eventName = "second" }
"#;

async fn is_logged(service: &Service, text: &str, seconds: i64) {
    // Time passes between two readings of the clock.
    let is_near = |line: &Value| line["seconds"].as_i64().is_some_and(|s| (s - seconds).abs() <= 2);
    service.logged(|line| line["message"] == text && is_near(line)).await;
}

/// Two messages that were tried and wait for their retries, and one that waits behind them and was never tried.
async fn waiting(service: &Service) {
    service.accept("/v1/track", track("u1", "event")).await;
    service.accept("/v1/track", track("u1", "behind")).await;
    service.accept("/v1/identify", identify("u2", "upsert")).await;
    for id in ["event", "upsert"] {
        service.message(id, is_tried).await;
    }
}

/// Asserts that each of these messages is delivered.
async fn are_delivered(service: &Service, ids: &[&str]) {
    for id in ids {
        service.message(id, |found| found["state"] == "delivered").await;
    }
    let given_up = service.log().into_iter().find(|line| line["message"] == "given up");
    assert_eq!(given_up, None);
}

/// Changes the clock by these steps while two messages wait for their retries.
async fn set_while_retries_wait(steps: &[i64]) {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let wall = Wall::right();
    let service = wall.setup(&loops).start();
    waiting(&service).await;
    let mut offset = 0;
    let mut ids = ["event", "behind", "upsert"].map(str::to_owned).to_vec();
    for (n, to) in steps.iter().enumerate() {
        wall.set(*to);
        let text =
            if *to < offset { "the clock was set back" } else { "the clock was set forward" };
        is_logged(&service, text, (to - offset).abs()).await;
        offset = *to;
        let id = format!("later{n}");
        service.accept("/v1/track", track("u3", &id)).await;
        ids.push(id);
    }
    loops.rest();
    loops.now(|_| Reply::ok());
    let mut notes = loops.notes(ids.len()).await;
    notes.sort();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    are_delivered(&service, &ids).await;
    let mut expected = ids;
    expected.sort_unstable();
    assert_eq!(notes, expected);
}

#[tokio::test]
async fn a_clock_set_back_by_an_hour_costs_no_message() {
    set_while_retries_wait(&[-HOUR]).await;
}

#[tokio::test]
async fn a_clock_set_back_to_1973_costs_no_message() {
    set_while_retries_wait(&[TO_1973]).await;
}

#[tokio::test]
async fn a_clock_set_forward_by_more_than_a_day_costs_no_message() {
    set_while_retries_wait(&[DAY + HOUR]).await;
}

#[tokio::test]
async fn a_clock_set_forward_by_ten_years_and_back_costs_no_message() {
    set_while_retries_wait(&[3_650 * DAY, 0]).await;
}

#[tokio::test]
async fn a_clock_set_back_to_1973_and_right_again_costs_no_message() {
    set_while_retries_wait(&[TO_1973, 0]).await;
}

/// Stops the program and starts it again with another time on the clock. Two messages still wait.
async fn restarted(offset_before: i64, offset_after: i64) {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let wall = Wall::right();
    wall.set(offset_before);
    let setup = wall.setup(&loops);
    let service = setup.start();
    waiting(&service).await;
    loops.rest();
    loops.now(|_| Reply::ok());
    wall.set(offset_after);
    let service = service.crash_and_restart(&setup);
    service.accept("/v1/track", track("u3", "later")).await;
    let mut notes = loops.notes(4).await;
    notes.sort();
    assert_eq!(notes, ["behind", "event", "later", "upsert"]);
    are_delivered(&service, &["event", "behind", "upsert", "later"]).await;
}

#[tokio::test]
async fn a_restart_under_a_clock_an_hour_behind_costs_no_message() {
    restarted(0, -HOUR).await;
}

#[tokio::test]
async fn a_restart_under_a_clock_that_shows_1973_costs_no_message() {
    restarted(0, TO_1973).await;
}

#[tokio::test]
async fn a_restart_after_a_clock_that_was_years_ahead_costs_no_message() {
    restarted(3_650 * DAY, 0).await;
}

/// The program cannot know whether Loops accepted an event before the program ended, nor how long ago it was tried.
/// Loops may have forgotten its key.
#[tokio::test]
async fn a_restart_under_a_clock_days_ahead_sends_no_event_twice() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let wall = Wall::right();
    let setup = wall.setup(&loops);
    let service = setup.start();
    waiting(&service).await;
    loops.rest();
    loops.now(|_| Reply::ok());
    wall.set(2 * DAY);
    let service = service.crash_and_restart(&setup);
    assert_eq!(loops.next().await.note(), "upsert");
    // By the clock, a message that was never tried is now older than `max_age_s` allows.
    for id in ["event", "behind"] {
        let event = service.message(id, |found| found["state"] == "failed").await;
        assert_eq!(event["deliveries"][0]["reason"], "expired");
    }
    service.message("upsert", |found| found["state"] == "delivered").await;
    assert!(loops.rest().is_empty());
}

/// Kills the program after this many requests, once the message is as wanted. Starts it again more than a day later,
/// when Loops accepts everything. Returns the event names of the requests before and after, and the states of the two
/// deliveries.
async fn killed_for_a_day(
    script: fn(&Seen) -> Reply,
    sent: usize,
    is_reached: impl Fn(&Value) -> bool,
) -> ([Vec<Value>; 2], [Value; 2]) {
    let mut loops = ScriptedLoops::start(script).await;
    let wall = Wall::right();
    let setup = wall.setup(&loops);
    std::fs::write(wall.0.path().join("subscriptions.toml"), TWO_EVENTS).unwrap();
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let mut before = Vec::new();
    while before.len() < sent {
        before.push(loops.next().await);
    }
    service.message("m1", is_reached).await;
    before.extend(loops.rest());
    loops.now(|_| Reply::ok());
    wall.set(DAY + HOUR);
    let service = service.crash_and_restart(&setup);
    let is_over = |found: &Value| found["state"] == "delivered" || found["state"] == "failed";
    let message = service.message("m1", is_over).await;
    let names = |seen: Vec<Seen>| seen.iter().map(|one| one.body["eventName"].clone()).collect();
    let states = [0, 1].map(|n| message["deliveries"][n]["state"].clone());
    ([names(before), names(loops.rest())], states)
}

#[tokio::test]
async fn an_event_interrupted_by_a_kill_is_not_sent_a_day_later() {
    let silent = |seen: &Seen| match seen.path.as_str() {
        "/api-key" => Reply::ok(),
        _ => Reply::Silence,
    };
    let (sent, states) = killed_for_a_day(silent, 1, |_| true).await;
    // The second event was certainly not sent before.
    assert_eq!(sent, [["first"], ["second"]]);
    assert_eq!(states, ["failed", "delivered"]);
}

#[tokio::test]
async fn a_later_request_interrupted_by_a_kill_is_not_sent_a_day_later() {
    let silent = |seen: &Seen| match seen.body["eventName"].as_str() {
        Some("second") => Reply::Silence,
        _ => Reply::ok(),
    };
    let is_first_delivered = |found: &Value| found["deliveries"][0]["state"] == "delivered";
    let (sent, states) = killed_for_a_day(silent, 2, is_first_delivered).await;
    assert_eq!(sent, [vec!["first", "second"], vec![]]);
    assert_eq!(states, ["delivered", "failed"]);
}

#[tokio::test]
async fn what_waited_for_a_right_key_is_sent_after_a_kill_however_late() {
    let refusing = |seen: &Seen| match seen.path.as_str() {
        "/api-key" => Reply::ok(),
        _ => Reply::status(401),
    };
    let (sent, states) = killed_for_a_day(refusing, 1, is_tried).await;
    assert_eq!(sent[1], ["first", "second"]);
    assert_eq!(states, ["delivered", "delivered"]);
}
