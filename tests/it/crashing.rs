//! A crash at any change of state loses no acknowledged message, sends no event twice, and preserves each person's
//! order.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Reply, ScriptedLoops, Service, Setup, WRITE_KEY};

/// How often each point is passed before the crash.
const TIMES: [u32; 2] = [1, 3];

const USERS: [&str; 2] = ["ada", "ben"];
const ROUNDS: usize = 3;

/// The messages of each person in order: identify and track in turn.
fn messages() -> Vec<(String, Value)> {
    let mut messages = Vec::new();
    for round in 0..ROUNDS {
        for user in USERS {
            let (id, event) = (format!("{user}-{round}-i"), format!("{user}-{round}-t"));
            let traits = json!({"round": round, "note": id});
            messages.push((
                id.clone(),
                json!({"type": "identify", "userId": user, "messageId": id, "traits": traits}),
            ));
            let properties = json!({"note": event});
            messages.push((event.clone(), json!({"type": "track", "userId": user, "messageId": event, "event": "E", "properties": properties})));
        }
    }
    messages
}

/// The requests that Loops has accepted. Events are recorded by their key, because Loops keeps keys for a day.
#[derive(Default)]
struct Taken {
    keys: HashMap<String, Vec<u8>>,
    /// The notes of the requests that had an effect, in order.
    notes: Vec<String>,
    changed_bodies: usize,
}

impl Taken {
    fn take(&mut self, seen: &crate::support::Seen) -> Reply {
        if seen.path == "/api-key" {
            return Reply::ok();
        }
        let note = seen.note();
        let Some(key) = seen.idempotency_key() else {
            self.notes.push(note);
            return Reply::ok();
        };
        match self.keys.get(&key) {
            Some(body) => {
                self.changed_bodies += usize::from(*body != seen.raw_body);
                Reply::status(409)
            }
            None => {
                self.keys.insert(key, seen.raw_body.to_vec());
                self.notes.push(note);
                Reply::ok()
            }
        }
    }
}

/// Sends until all messages are acknowledged or the program has ended, and removes the acknowledged ones from `left`.
async fn send(service: &mut Service, left: &mut Vec<(String, Value)>) {
    while !left.is_empty() && !service.has_ended() {
        let request = service.request(
            reqwest::Method::POST,
            &format!("/v1/{}", left[0].1["type"].as_str().unwrap()),
        );
        let request = request.basic_auth(WRITE_KEY, Some("")).body(left[0].1.to_string());
        if request.send().await.is_ok_and(|answer| answer.status() == 200) {
            left.remove(0);
        }
    }
}

async fn is_delivered(service: &Service, id: &str) -> bool {
    let path = format!("/api/messages/{id}");
    let request =
        service.request(reqwest::Method::GET, &path).bearer_auth(crate::support::ADMIN_TOKEN);
    match request.send().await {
        Ok(answer) => answer
            .json::<Value>()
            .await
            .is_ok_and(|body| body["messages"][0]["state"] == "delivered"),
        Err(_) => false,
    }
}

/// Waits until all messages are delivered, or the program has ended.
async fn drain(service: &mut Service) -> bool {
    let began = std::time::Instant::now();
    for (id, _) in messages() {
        while !is_delivered(service, &id).await {
            if service.has_ended() {
                return false;
            }
            assert!(began.elapsed() < PATIENCE, "{id} is not delivered");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    true
}

async fn crash_at(point: &str, times: u32) {
    let taken = Arc::new(Mutex::new(Taken::default()));
    let script = Arc::clone(&taken);
    let loops = ScriptedLoops::start(move |seen| script.lock().unwrap().take(seen)).await;
    let setup = Setup::with_loops(&loops.base_url);
    let at = format!("{point}:{times}");
    let mut service = setup.clone().env("SEGMENT_LOOPS_CRASH_AT", &at).start_to_crash();
    let mut left = messages();
    send(&mut service, &mut left).await;
    if left.is_empty() {
        drain(&mut service).await;
    }
    // Some points are passed less often than `times`.
    let crashed = service.has_ended();
    assert!(crashed || times > 1, "{at} is never passed");
    let mut service = service.crash_and_restart(&setup);
    send(&mut service, &mut left).await;
    assert!(drain(&mut service).await, "{at}: it ended again");

    let taken = taken.lock().unwrap();
    assert_eq!(taken.changed_bodies, 0, "{at}: a frozen request was changed");
    let expected: HashSet<String> = messages().into_iter().map(|(id, _)| id).collect();
    let seen: HashSet<String> = taken.notes.iter().cloned().collect();
    assert_eq!(seen, expected, "{at}");
    for user in USERS {
        // A contact may be written twice with the same values, an event never.
        let mut own: Vec<&String> =
            taken.notes.iter().filter(|note| note.starts_with(user)).collect();
        own.dedup_by(|note, before| note == before && note.ends_with("-i"));
        let expected = messages();
        let expected: Vec<&String> =
            expected.iter().map(|(id, _)| id).filter(|id| id.starts_with(user)).collect();
        assert_eq!(own, expected, "{at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_point_loses_nothing_doubles_no_event_and_keeps_the_order() {
    for point in segment_loops::crash::POINTS {
        for times in TIMES {
            crash_at(point, times).await;
        }
    }
}
