//! What merging and `skip_unchanged` save: a realistic stream under a low rate, delivered with each setting, and all
//! compared: requests, time until the last is delivered, and what Loops has in the end, which must be the same.
//!
//! `cargo bench --bench economy`. The stream, from a seed: 60 people make visits of a few page loads;
//! each load is a page and repeats the person's identify (a trait changes with one visit in four), followed by up
//! to three tracks. Visits are sent as they come, once faster than the rate allows, and once slower, so that
//! little waits that could be merged. The minimum is one request for each event, and one for each upsert that changes
//! something. The check of the API key with which delivery begins is not counted: it is there whatever is sent.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use segment_loops::app::{App, Outlets};
use segment_loops::clock::SystemClock;
use segment_loops::config::{self, Flags};
use segment_loops::http::server::{ServerLimits, serve};
use segment_loops::sandbox::{Faults, Sandbox, SandboxOptions, SeenRequest};
use segment_loops::telemetry::Traces;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const RATE: u32 = 40;
const PEOPLE: usize = 60;
const VISITS: usize = 120;
const SEED: u64 = 7;
/// The time between two visits, in which the requests of one fit.
const SLOW: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() {
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().unwrap();
    let visits = visits();
    let messages: usize = visits.iter().map(Vec::len).sum();
    println!("{messages} messages in {VISITS} visits of {PEOPLE} people, {RATE} requests a second");
    let needed = needed(&visits);
    println!("the minimum is {needed} requests");
    let alone = deliver(&visits, Setting { merge: false, ..SETTINGS[0] }, metrics.clone()).await;
    let print = |pace: &str, name: &str, run: &Run| {
        println!(
            "{pace:<6} {name:<22} requests {:>5}, {:.2} times the minimum, delivered after {:.1} s",
            run.requests,
            run.requests as f64 / needed as f64,
            run.took.as_secs_f64()
        );
    };
    print("fast", "no merging, off", &alone);
    for setting in SETTINGS {
        let run = deliver(&visits, setting, metrics.clone()).await;
        let (pace, name) = (if setting.is_slow { "slow" } else { "fast" }, setting.skip_unchanged);
        print(pace, &format!("merging, {name}"), &run);
        assert_eq!(run.contacts, alone.contacts, "the contacts end the same");
        assert_eq!(
            run.events, alone.events,
            "each person's events are the same, in the same order"
        );
    }
    println!("contacts ({}) and events are the same", alone.contacts.len());
}

/// What a run is configured with.
#[derive(Clone, Copy)]
struct Setting {
    merge: bool,
    skip_unchanged: &'static str,
    /// Whether visits come slower than the rate allows.
    is_slow: bool,
}

const SETTINGS: [Setting; 6] = {
    const fn of(skip_unchanged: &'static str, is_slow: bool) -> Setting {
        Setting { merge: true, skip_unchanged, is_slow }
    }
    [
        of("off", false),
        of("observe", false),
        of("on", false),
        of("off", true),
        of("observe", true),
        of("on", true),
    ]
};

/// One request for each event, and one for each upsert that changes something.
fn needed(visits: &[Vec<Value>]) -> usize {
    let mut known: HashMap<&str, &Value> = HashMap::new();
    let mut needed = 0;
    for message in visits.iter().flatten() {
        let user = message["userId"].as_str().unwrap();
        needed += match message["type"].as_str().unwrap() {
            "track" => 1,
            "identify" => {
                let traits = &message["traits"];
                usize::from(known.insert(user, traits) != Some(traits))
            }
            _ => 0,
        };
    }
    needed
}

struct Run {
    requests: u64,
    took: Duration,
    contacts: BTreeMap<String, Value>,
    events: BTreeMap<String, Vec<Value>>,
}

fn visits() -> Vec<Vec<Value>> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut plans: HashMap<usize, u32> = HashMap::new();
    let mut number = 0;
    let mut message = |kind: &str, person: usize, fields: Value| {
        number += 1;
        json!({"type": kind, "userId": format!("p{person}"), "messageId": format!("m{number}"),
            "event": "Clicked", "traits": fields, "properties": fields})
    };
    let mut visit = |_| {
        let person = random.usize(0..PEOPLE);
        if random.u8(0..4) == 0 {
            *plans.entry(person).or_default() += 1;
        }
        let traits = json!({"email": format!("p{person}@example.com"), "firstName": "Ada",
            "visits": plans.get(&person).copied().unwrap_or_default()});
        let mut messages = Vec::new();
        for load in 0..random.usize(1..5) {
            messages.push(message("page", person, json!({"path": "/"})));
            messages.push(message("identify", person, traits.clone()));
            for click in 0..random.usize(0..4) {
                messages.push(message("track", person, json!({"load": load, "click": click})));
            }
        }
        messages
    };
    (0..VISITS).map(&mut visit).collect()
}

async fn deliver(visits: &[Vec<Value>], setting: Setting, metrics: PrometheusHandle) -> Run {
    let faults = Faults { rate_limit: RATE, ..Faults::default() };
    let options = SandboxOptions { api_key: None, team_name: "Economy".to_owned(), faults };
    let sandbox = Sandbox::new(options, Arc::new(SystemClock));
    let loops = start_sandbox(&sandbox).await;
    let folder = tempfile::tempdir().unwrap();
    let environment: HashMap<String, String> = [
        ("LOOPS_API_KEY", "bench"),
        ("LOOPS_BASE_URL", &*format!("http://{loops}/api/v1")),
        ("LOOPS_RATE_LIMIT", &*RATE.to_string()),
        ("SEGMENT_WRITE_KEY", "bench"),
        (
            "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__MERGE",
            if setting.merge { "true" } else { "false" },
        ),
        ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__SKIP_UNCHANGED", setting.skip_unchanged),
        // Reading the names that Loops knows takes two requests every 15 minutes, whatever is sent.
        ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__CATALOGUE_REFRESH_S", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let flags = Flags {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        data: Some(folder.path().to_owned()),
        ..Flags::default()
    };
    let load = Box::new(move || config::load(&flags, environment.clone()));
    let outlets = Outlets { metrics, traces: Traces::default() };
    let app = App::start(load().unwrap(), load, Arc::new(SystemClock), outlets).await.unwrap();
    let url = format!("http://{}/v1/batch", app.address());
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let began = Instant::now();
    for visit in visits {
        let body = json!({"batch": visit}).to_string();
        let sent = client.post(&url).basic_auth("bench", Some("")).body(body).send().await.unwrap();
        assert_eq!(sent.status(), 200);
        if setting.is_slow {
            tokio::time::sleep(SLOW).await;
        }
    }
    let expected = visits.iter().flatten().filter(|message| message["type"] == "track").count();
    // All events, then nothing more for a second: the last may be identifies.
    let (mut requests, mut last_change) = (0, Instant::now());
    while sandbox.events().len() < expected || last_change.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = sandbox.counts().requests;
        if now != requests {
            (requests, last_change) = (now, Instant::now());
        }
    }
    let took = last_change - began;
    stop.cancel();
    running.await.unwrap().unwrap();
    let is_check = |request: &&SeenRequest| request.path.ends_with("/api-key");
    requests -= sandbox.requests().iter().filter(is_check).count() as u64;
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in sandbox.events() {
        let properties = Value::Object(event.event_properties);
        events.entry(event.user_id.unwrap()).or_default().push(properties);
    }
    let contacts = sandbox.contacts().into_iter().map(|mut contact| {
        let fields = contact.as_object_mut().unwrap();
        fields.remove("id");
        (fields["userId"].as_str().unwrap().to_owned(), contact)
    });
    Run { requests, took, contacts: contacts.collect(), events }
}

async fn start_sandbox(sandbox: &Sandbox) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ServerLimits::default();
    let router = sandbox.router();
    tokio::spawn(async move {
        serve(listener, router, limits, CancellationToken::new(), Duration::ZERO).await;
    });
    address
}
