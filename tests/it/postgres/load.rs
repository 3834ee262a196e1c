//! Load on several replicas, a Loops that fails occasionally, and the assertions at the end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use segment_loops::clock::SystemClock;
use segment_loops::sandbox::{Faults, Sandbox, SandboxOptions};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{EMAIL_DOMAIN, PATIENCE, WRITE_KEY, serve_on_loopback, track};

/// A simulated Loops with an address for each replica, so that their requests can be told apart.
pub struct Loops {
    sandbox: Sandbox,
    rate: usize,
}

/// An address of the simulated Loops.
pub struct Door {
    pub base_url: String,
    requests: Arc<AtomicUsize>,
}

impl Door {
    /// The number of requests that arrived at this address.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Loops {
    /// Fails one request in ten, and loses the response to one in twenty.
    pub fn new(rate: usize) -> Self {
        let faults = Faults {
            // The tests check the rate themselves, with tolerance for a machine that delays requests.
            rate_limit: u32::MAX,
            error_rate: 0.1,
            error_status: 503,
            reset_after_rate: 0.05,
            ..Faults::default()
        };
        let options = SandboxOptions { faults, ..SandboxOptions::default() };
        Self { sandbox: Sandbox::new(options, Arc::new(SystemClock)), rate }
    }

    pub async fn door(&self) -> Door {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let router = self.sandbox.router().layer(from_fn(move |request: Request, next: Next| {
            count.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        }));
        let address = serve_on_loopback(router).await;
        Door { base_url: format!("http://{address}/api/v1"), requests }
    }

    /// The notes of the accepted events of each person, in the order of acceptance.
    fn notes(&self) -> HashMap<String, Vec<String>> {
        let mut notes: HashMap<String, Vec<String>> = HashMap::new();
        for event in self.sandbox.events() {
            let note = event.event_properties["note"].as_str().unwrap().to_owned();
            notes.entry(event.user_id.unwrap()).or_default().push(note);
        }
        notes
    }

    /// Waits until all acknowledged events were delivered. None may be missing, delivered twice, or delivered after a
    /// later event of its person.
    pub async fn got_all(&self, acknowledged: &HashMap<String, Vec<String>>) {
        let total: usize = acknowledged.values().map(Vec::len).sum();
        let began = Instant::now();
        while self.sandbox.events().len() < total && began.elapsed() < PATIENCE * 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut got = self.notes();
        for (person, expected) in acknowledged {
            assert_eq!(got.remove(person).as_ref(), Some(expected), "of {person}");
        }
        assert!(got.is_empty(), "{got:?}");
        // An event has the same key at every attempt.
        let mut keys: HashMap<String, String> = HashMap::new();
        for request in self.sandbox.requests() {
            let Some(key) = request.idempotency_key.clone() else { continue };
            let note = request.json()["eventProperties"]["note"].as_str().unwrap().to_owned();
            let known = keys.entry(note.clone()).or_insert_with(|| key.clone());
            assert_eq!(*known, key, "of {note}");
        }
    }

    /// Asserts that no second has more requests than the rate, by the start times that the replicas recorded. By the
    /// times of arrival the check is less strict, because a busy machine may delay requests.
    pub fn kept_the_rate(&self, mut began_ms: Vec<i64>) {
        began_ms.sort_unstable();
        let mut arrived_ms: Vec<i64> =
            self.sandbox.requests().iter().map(|one| one.at_ms.cast_signed()).collect();
        arrived_ms.sort_unstable();
        for (times, length) in [(began_ms, 999), (arrived_ms, 600)] {
            let within = |first: &i64| {
                let second = *first..first + length;
                times.iter().filter(|at| second.contains(at)).count()
            };
            let most = times.iter().map(within).max().unwrap_or(0);
            assert!(most <= self.rate, "{most} within {length} ms");
        }
    }
}

/// One sender for each person, which sends each event to a random replica once the previous one is acknowledged.
pub struct Load {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<(String, Vec<String>)>>,
}

struct Shared {
    /// The addresses of the replicas.
    replicas: Mutex<Vec<String>>,
    is_over: AtomicBool,
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
    unanswered: AtomicUsize,
}

impl Load {
    pub fn start(replicas: Vec<String>, persons: usize) -> Self {
        let shared = Arc::new(Shared {
            replicas: Mutex::new(replicas),
            is_over: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
        });
        let sender = |n| tokio::spawn(send(Arc::clone(&shared), format!("u{n}")));
        let senders = (0..persons).map(sender).collect();
        Self { shared, senders }
    }

    /// Changes the address of a replica.
    pub fn moved(&self, index: usize, to: &str) {
        self.shared.replicas.lock().unwrap()[index] = to.to_owned();
    }

    /// Waits until this many more messages were acknowledged.
    pub async fn acknowledged(&self, more: usize) {
        self.counted(&self.shared.acknowledged, more).await;
    }

    /// Waits until this many more messages were refused with a request to retry.
    pub async fn refused(&self, more: usize) {
        self.counted(&self.shared.refused, more).await;
    }

    /// Waits until this many more requests had no response in time, and returns the number of messages that were
    /// acknowledged in the meantime.
    pub async fn unanswered(&self, more: usize) -> usize {
        let before = self.shared.acknowledged.load(Ordering::SeqCst);
        self.counted(&self.shared.unanswered, more).await;
        self.shared.acknowledged.load(Ordering::SeqCst) - before
    }

    async fn counted(&self, count: &AtomicUsize, more: usize) {
        let goal = count.load(Ordering::SeqCst) + more;
        let began = Instant::now();
        while count.load(Ordering::SeqCst) < goal {
            assert!(began.elapsed() < PATIENCE * 2, "{} of {goal}", count.load(Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets the senders finish, and returns the acknowledged notes by person.
    pub async fn end(self) -> HashMap<String, Vec<String>> {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let mut all = HashMap::new();
        for sender in self.senders {
            let (person, notes) = sender.await.unwrap();
            all.insert(person, notes);
        }
        all
    }
}

/// An event with an address, because Loops creates no contact from a user id alone.
pub fn event(person: &str, note: &str) -> Value {
    let mut message = track(person, note);
    message["properties"]["email"] = Value::from(format!("{person}@{EMAIL_DOMAIN}"));
    message
}

/// Sends the events of one person, each until it is acknowledged.
async fn send(shared: Arc<Shared>, person: String) -> (String, Vec<String>) {
    // A frozen replica does not respond.
    let patience = Duration::from_secs(2);
    let client = reqwest::Client::builder().no_proxy().timeout(patience).build().unwrap();
    let mut notes = Vec::new();
    while !shared.is_over.load(Ordering::SeqCst) {
        let note = format!("{person}-{}", notes.len());
        let message = event(&person, &note);
        let began = Instant::now();
        while !is_acknowledged(&shared, &client, &message).await {
            assert!(began.elapsed() < PATIENCE * 4, "{note} is not taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        notes.push(note);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (person, notes)
}

async fn is_acknowledged(shared: &Shared, client: &reqwest::Client, message: &Value) -> bool {
    let url = {
        let replicas = shared.replicas.lock().unwrap();
        format!("{}/v1/track", fastrand::choice(replicas.iter()).unwrap())
    };
    let request = client.post(url).basic_auth(WRITE_KEY, Some("")).body(message.to_string());
    let Ok(answer) = request.send().await else {
        shared.unanswered.fetch_add(1, Ordering::SeqCst);
        return false;
    };
    if answer.status() == 200 {
        shared.acknowledged.fetch_add(1, Ordering::SeqCst);
        return true;
    }
    assert_eq!(answer.status(), 429, "{answer:?}");
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    shared.refused.fetch_add(1, Ordering::SeqCst);
    false
}
