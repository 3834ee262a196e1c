//! Kills the program again and again while it works, and compares what it acknowledged with what Loops
//! got: nothing missing, no event twice, the order of each person kept, the rate never passed.
//!
//! `cargo bench --bench torture`, for `TORTURE_S` seconds (30). The program is the real one, killed
//! with `kill -9` at random; Loops is the sandbox in this process, slow, failing and dropping
//! connections before and after they took effect. Ends with exit code 1 if a promise is broken.
//!
//! With `TORTURE_REPLICAS=3`, three processes share one PostgreSQL database, and each message goes to any of them.
//! At random, one is killed or frozen (`SIGSTOP`) for less or more than its lease, or the database crashes. What a
//! frozen process had under way may reach Loops late: requests beyond the rate, or an upsert that overwrites a newer
//! one, are tolerated up to the requests that it may have under way.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a command for developers"
)]

#[path = "../src/store/postgres/tests/server.rs"]
mod server;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use segment_loops::clock::SystemClock;
use segment_loops::http::server::{ServerLimits, serve};
use segment_loops::sandbox::{Faults, Sandbox, SandboxOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use server::Server;

const RATE: u32 = 200;
/// Requests that a process has under way at most.
const IN_FLIGHT_MAX: usize = 16;
const SENDERS: usize = 6;
const USERS_PER_SENDER: usize = 4;
/// How long the rest may take at the end.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a sender was told is stored: its number, the user, whether it is an event.
type Acked = Arc<Mutex<Vec<(String, u64, bool)>>>;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let seconds = std::env::var("TORTURE_S").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let sandbox = Sandbox::new(
        SandboxOptions {
            api_key: None,
            team_name: "Torture".to_owned(),
            faults: Faults {
                rate_limit: RATE,
                latency_ms: 5,
                error_rate: 0.1,
                error_status: 503,
                reset_before_rate: 0.05,
                reset_after_rate: 0.05,
                ..Faults::default()
            },
        },
        Arc::new(SystemClock),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let loops = listener.local_addr().unwrap();
    let limits = ServerLimits::default();
    let router = sandbox.router();
    tokio::spawn(async move {
        serve(listener, router, limits, CancellationToken::new(), Duration::ZERO).await;
    });
    let count = std::env::var("TORTURE_REPLICAS").ok().and_then(|text| text.parse().ok());
    let store = match count {
        None => Store::Sqlite(tempfile::tempdir().unwrap()),
        Some(_) => Store::Postgres(Server::start("fsync=on")),
    };
    let mut replicas: Vec<Replica> =
        (0..count.unwrap_or(1)).map(|_| Replica::start(&store, free_address(), loops)).collect();
    let addresses: Arc<[SocketAddr]> = replicas.iter().map(|replica| replica.address).collect();
    let acked = Acked::default();
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|n| {
            tokio::spawn(send(n, Arc::clone(&addresses), Arc::clone(&acked), Arc::clone(&stop)))
        })
        .collect();
    let (mut kills, mut freezes, mut crashes) = (0, 0, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(200..1_800))).await;
        revive(&mut replicas, &store, loops);
        let any = fastrand::usize(0..replicas.len());
        match &store {
            Store::Postgres(_) if fastrand::u32(0..3) == 0 => {
                replicas[any].signal("STOP");
                tokio::time::sleep(Duration::from_millis(fastrand::u64(100..2_500))).await;
                replicas[any].signal("CONT");
                freezes += 1;
            }
            Store::Postgres(server) if fastrand::u32(0..10) == 0 => {
                // Not on the thread that a request to the sandbox may need.
                tokio::task::block_in_place(|| {
                    server.control("stop -m immediate");
                    server.control("start");
                });
                crashes += 1;
            }
            _ => {
                replicas[any].kill();
                replicas[any] = Replica::start(&store, addresses[any], loops);
                kills += 1;
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    revive(&mut replicas, &store, loops);
    // One of them delivers the rest, and knows when it is through.
    for mut other in replicas.drain(1..) {
        other.kill();
    }
    let is_drained = drain(addresses[0]).await;
    replicas[0].kill();
    let late = if freezes > 0 { IN_FLIGHT_MAX } else { 0 };
    let broken = judge(&sandbox, &acked.lock().unwrap(), is_drained, late);
    println!("kills {kills}, freezes {freezes}, crashes of the database {crashes}, {broken:?}");
    // Ends the database.
    drop(store);
    std::process::exit(i32::from(!broken.is_empty()));
}

/// Starts processes again that have ended by themselves, as one does that finds no database when it starts.
fn revive(replicas: &mut [Replica], store: &Store, loops: SocketAddr) {
    for replica in replicas {
        if replica.process.try_wait().unwrap().is_some() {
            *replica = Replica::start(store, replica.address, loops);
        }
    }
}

/// What the processes share.
enum Store {
    Sqlite(tempfile::TempDir),
    Postgres(Server),
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A process of the program.
struct Replica {
    process: Child,
    address: SocketAddr,
}

impl Replica {
    fn start(store: &Store, address: SocketAddr, loops: SocketAddr) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
        command.args(["serve", "--listen", &address.to_string()]).env_clear().envs([
            ("LOOPS_API_KEY", "k"),
            ("LOOPS_BASE_URL", format!("http://{loops}/api/v1").as_str()),
            ("SEGMENT_WRITE_KEY", "k"),
            ("LOOPS_RATE_LIMIT", RATE.to_string().as_str()),
            ("SEGMENT_LOOPS__DELIVERY__REQUESTS_MAX", IN_FLIGHT_MAX.to_string().as_str()),
            ("SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS", "20"),
            ("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "300"),
            ("SEGMENT_LOOPS__DELIVERY__LEASE_TTL_MS", "600"),
        ]);
        match store {
            Store::Sqlite(folder) => command.arg("--data").arg(folder.path().join("data")),
            Store::Postgres(server) => command.env("DATABASE_URL", server.url()),
        };
        Self { process: command.stderr(Stdio::null()).spawn().unwrap(), address }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }
}

/// Sends identifies and tracks of its own users, each until it is acknowledged, as SDKs do.
async fn send(sender: usize, addresses: Arc<[SocketAddr]>, acked: Acked, stop: Arc<AtomicBool>) {
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    for n in 0_u64.. {
        let user = format!("s{sender}-{}", fastrand::usize(0..USERS_PER_SENDER));
        let is_event = fastrand::bool();
        let kind = if is_event { "track" } else { "identify" };
        // Every other identify says nothing new: it can be merged.
        let is_new = is_event || n % 2 == 0;
        // With an address, since Loops makes no contact of a user id alone.
        let email = format!("{user}@example.com");
        let fields = if is_new {
            json!({"email": email, "n": n})
        } else {
            json!({"email": email, "plan": "pro"})
        };
        let message = json!({"type": kind, "userId": user, "messageId": format!("{sender}-{n}"),
            "event": "E", "properties": fields, "traits": fields});
        loop {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let address = addresses[fastrand::usize(0..addresses.len())];
            let request =
                client.post(format!("http://{address}/v1/{kind}")).basic_auth("k", Some(""));
            if request
                .body(message.to_string())
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if is_new {
            acked.lock().unwrap().push((user, n, is_event));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until nothing is pending.
async fn drain(address: SocketAddr) -> bool {
    let began = Instant::now();
    let mut empty = 0;
    while began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Ok(answer) = reqwest::get(format!("http://{address}/metrics")).await else { continue };
        let text = answer.text().await.unwrap_or_default();
        // One for each class.
        let depths: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("segment_loops_queue_depth_messages{"))
            .collect();
        let is_empty = !depths.is_empty() && depths.iter().all(|line| line.ends_with(" 0"));
        empty = if is_empty { empty + 1 } else { 0 };
        // It is measured every few seconds only.
        if empty > 6 {
            return true;
        }
    }
    false
}

/// The promises that were broken, if `late` requests may have come late.
fn judge(
    sandbox: &Sandbox,
    acked: &[(String, u64, bool)],
    is_drained: bool,
    late: usize,
) -> Vec<String> {
    let events = sandbox.events();
    let counts = sandbox.counts();
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    let seen: Vec<(String, u64)> = events
        .iter()
        .filter_map(|event| {
            Some((event.user_id.clone()?, number(event.event_properties.get("n"))?))
        })
        .collect();
    let distinct: HashSet<&(String, u64)> = seen.iter().collect();
    let sent: Vec<(String, u64)> = acked
        .iter()
        .filter(|(.., is_event)| *is_event)
        .map(|(user, n, _)| (user.clone(), *n))
        .collect();
    let missing = sent.iter().filter(|event| !distinct.contains(event)).count();
    let twice = seen.len() - distinct.len();
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut disordered = 0;
    for (user, n) in &seen {
        disordered += usize::from(last.insert(user, *n).is_some_and(|before| before > *n));
    }
    // Each contact has its last trait, or one that was sent behind it.
    let mut traits: HashMap<&str, u64> = HashMap::new();
    for (user, n, _) in acked.iter().filter(|(.., is_event)| !is_event) {
        traits.insert(user, *n);
    }
    let contacts: HashMap<String, u64> = sandbox
        .contacts()
        .iter()
        .filter_map(|contact| {
            Some((contact["userId"].as_str()?.to_owned(), number(contact.get("n"))?))
        })
        .collect();
    let stale = traits
        .iter()
        .filter(|(user, n)| contacts.get(**user).is_none_or(|found| found < n))
        .count();
    println!(
        "acknowledged with something new {}, of these events {}; at Loops events {}, contacts {}, requests {}, most in one second {} of {RATE}, limited {}",
        acked.len(),
        sent.len(),
        seen.len(),
        contacts.len(),
        counts.requests,
        counts.most_in_one_second,
        counts.rate_limited,
    );
    println!("contacts without their last trait {stale}");
    let checks = [
        (missing, "acknowledged events missing"),
        (twice, "events accepted twice"),
        (disordered, "events out of order"),
        (stale.saturating_sub(late), "contacts without their last trait"),
        (
            usize::from(counts.most_in_one_second > u64::from(RATE) + late as u64),
            "seconds above the rate",
        ),
        (usize::from(!is_drained), "backlogs that did not drain"),
    ];
    let broken = checks.iter().filter(|(count, _)| *count > 0);
    broken.map(|(count, what)| format!("{count} {what}")).collect()
}
