//! Neither a faulty message nor a person's many messages affect other people.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::{Reply, ScriptedLoops, Seen, Service, Setup, identify, track};

/// A batch with three messages of each of 20 people, a message of `poison` before them and another between them, and a
/// last message behind both. The ids of these two begin with `poison`.
fn with_poison(poison: impl Fn(&str) -> Value) -> Vec<Value> {
    let mut batch = vec![poison("poison-1")];
    for round in 1..=3 {
        for n in 0..20 {
            let (user, id) = (format!("u{n}"), format!("u{n}-{round}"));
            batch.push(if round == 2 { track(&user, &id) } else { identify(&user, &id) });
        }
        if round == 1 {
            batch.push(poison("poison-2"));
        }
    }
    batch.push(track("poisoned", "behind"));
    batch
}

/// Waits until all other messages are delivered. Returns the notes of the requests in order of arrival, by person.
async fn all_arrived(service: &Service, loops: &mut ScriptedLoops) -> HashMap<String, Vec<String>> {
    for n in 0..20 {
        for round in 1..=3 {
            let id = format!("u{n}-{round}");
            service.message(&id, |found| found["state"] == "delivered").await;
        }
    }
    service.message("behind", |found| found["state"] == "delivered").await;
    let mut arrived: HashMap<String, Vec<String>> = HashMap::new();
    for seen in loops.rest() {
        let user = seen.body["userId"].as_str().unwrap().to_owned();
        arrived.entry(user).or_default().push(seen.note());
    }
    arrived
}

async fn attempts(service: &Service, id: &str) -> usize {
    let message = service.message(id, |found| found["state"] == "failed").await;
    message["deliveries"][0]["request"]["attempts"].as_array().unwrap().len()
}

/// The number of attempts at each of the two poisonous messages.
async fn costs(poison: impl Fn(&str) -> Value, answer: Reply) -> [usize; 2] {
    let script = move |seen: &Seen| {
        if seen.note().starts_with("poison") { answer.clone() } else { Reply::ok() }
    };
    let mut loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_WINDOW_MS", "500")
        .env("SEGMENT_LOOPS__DELIVERY__TIMEOUT_MS", "300")
        .start();
    service.accept("/v1/batch", json!({"batch": with_poison(poison)})).await;
    let mut arrived = all_arrived(&service, &mut loops).await;
    for n in 0..20 {
        let user = format!("u{n}");
        let expected: Vec<String> = (1..=3).map(|round| format!("{user}-{round}")).collect();
        assert_eq!(arrived.remove(&user), Some(expected));
    }
    let costs = [attempts(&service, "poison-1").await, attempts(&service, "poison-2").await];
    // The poisonous messages in order, and then the message behind them.
    let mut expected = vec!["poison-1".to_owned(); costs[0]];
    expected.extend(vec!["poison-2".to_owned(); costs[1]]);
    expected.push("behind".to_owned());
    assert_eq!(arrived.remove("poisoned"), Some(expected));
    assert!(arrived.is_empty());
    costs
}

#[tokio::test]
async fn a_message_that_loops_always_refuses_costs_one_request() {
    let poison = |id: &str| identify("poisoned", id);
    assert_eq!(costs(poison, Reply::status(400)).await, [1, 1]);
    assert_eq!(costs(|id| track("poisoned", id), Reply::status(422)).await, [1, 1]);
}

#[tokio::test]
async fn a_message_that_loops_always_fails_at_costs_its_own_attempts() {
    let costs = costs(|id| track("poisoned", id), Reply::status(500)).await;
    assert!(costs.iter().all(|attempts| *attempts >= 2), "{costs:?}");
}

#[tokio::test]
async fn a_message_that_loops_never_answers_costs_its_own_attempts() {
    let costs = costs(|id| identify("poisoned", id), Reply::Silence).await;
    assert!(costs.iter().all(|attempts| *attempts >= 1), "{costs:?}");
}

#[tokio::test]
async fn a_refused_message_that_was_merged_costs_its_neighbours_nothing() {
    let mut loops = ScriptedLoops::start(|seen| {
        let is_poisoned = seen.body["poison"] == true;
        if is_poisoned { Reply::status(400) } else { Reply::ok() }
    })
    .await;
    // One request a second is allowed. It has just been sent, so the next messages wait and are merged.
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "1").start();
    service.accept("/v1/track", track("nobody", "first")).await;
    loops.next().await;
    let message = |id: &str, traits: Value| json!({"type": "identify", "userId": "u1", "messageId": id, "traits": traits});
    let batch = [
        message("m1", json!({"a": 1})),
        message("m2", json!({"poison": true})),
        message("m3", json!({"b": 2})),
    ];
    service.accept("/v1/batch", json!({"batch": batch})).await;
    service.message("m1", |found| found["state"] == "delivered").await;
    service.message("m2", |found| found["state"] == "failed").await;
    service.message("m3", |found| found["state"] == "delivered").await;
    let bodies: Vec<Value> = loops.rest().into_iter().map(|seen| seen.body).collect();
    let poisoned = bodies.iter().filter(|body| body["poison"] == true).count();
    // The refused message is sent once with its neighbours and once alone.
    assert_eq!((poisoned, bodies.len()), (2, 4), "{bodies:?}");
}

/// The number of messages of one person in [`crowd`].
const CROWD: usize = 10_000;

fn crowd(make: impl Fn(usize) -> Value) -> Value {
    json!({"batch": (0..CROWD).map(make).collect::<Vec<_>>()})
}

/// Sends messages of other people after a crowd's. They must arrive before more than a few of the crowd's messages.
async fn others_behind(service: &Service, loops: &mut ScriptedLoops) {
    let others: Vec<_> = (0..40).map(|n| track(&format!("u{n}"), &format!("other-{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": others})).await;
    let (mut of_crowd, mut of_others) = (0, 0);
    while of_others < others.len() {
        match loops.next().await.note().starts_with("other") {
            true => of_others += 1,
            false => of_crowd += 1,
        }
        assert!(of_crowd < CROWD / 20, "{of_others} of the others");
    }
}

#[tokio::test]
async fn ten_thousand_messages_of_one_person_let_others_through() {
    // One rate is above what is needed, and at the other each request waits for its turn.
    for rate in ["1000", "30"] {
        let mut loops = ScriptedLoops::willing().await;
        let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", rate).start();
        let body = crowd(|n| track("crowd", &format!("crowd-{n}")));
        service.accept("/v1/batch", body).await;
        others_behind(&service, &mut loops).await;
    }
}

/// More messages than the program holds in memory for one class.
const THRONG: usize = 104_000;

#[tokio::test]
async fn a_hundred_thousand_messages_of_one_person_that_wait_let_others_through() {
    let script = |seen: &Seen| match seen.note().starts_with("crowd") {
        true => Reply::status(503),
        false => Reply::ok(),
    };
    let mut loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS", "3600000")
        .env("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "3600000")
        .start();
    for first in (0..THRONG).step_by(8_000) {
        let batch: Vec<_> =
            (first..first + 8_000).map(|n| track("crowd", &format!("crowd-{n}"))).collect();
        service.accept("/v1/batch", json!({"batch": batch})).await;
    }
    assert_eq!(loops.next().await.note(), "crowd-0");
    let others: Vec<_> = (0..40).map(|n| track(&format!("u{n}"), &format!("other-{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": others})).await;
    let notes = loops.notes(40).await;
    assert!(notes.iter().all(|note| note.starts_with("other")), "{notes:?}");
}

#[tokio::test]
async fn two_destinations_do_not_disturb_each_other() {
    let mut silent = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/api-key" => Reply::status(401),
        _ => Reply::Silence,
    })
    .await;
    let mut willing = ScriptedLoops::willing().await;
    let config = format!(
        r#"
        [sources.one]
        write_keys = ["one"]
        destination = "silent"
        [sources.two]
        write_keys = ["two"]
        destination = "willing"
        [destinations.silent]
        api_key = "k1"
        base_url = "{}"
        [destinations.willing]
        api_key = "k2"
        base_url = "{}"
        rate = 1000
        "#,
        silent.base_url, willing.base_url
    );
    let service = Setup::with_loops("http://127.0.0.1:9").without_env().config(&config).start();
    let send = async |key: &str, n: usize| {
        let batch: Vec<_> =
            (0..100).map(|m| track(&format!("u{m}"), &format!("{key}-{n}-{m}"))).collect();
        let request = service.request(reqwest::Method::POST, "/v1/batch");
        let body = json!({"batch": batch}).to_string();
        let answer = Service::answer(request.basic_auth(key, Some("")).body(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    for n in 0..3 {
        send("one", n).await;
        send("two", n).await;
    }
    let notes = willing.notes(300).await;
    assert!(notes.iter().all(|note| note.starts_with("two")), "{notes:?}");
    assert!(silent.rest().is_empty());
}

#[tokio::test]
async fn contact_updates_that_agree_are_few_requests_however_many_they_are() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "2").start();
    let message = |n| {
        let id = format!("m{n}");
        json!({"type": "identify", "userId": "crowd", "messageId": id, "traits": {"plan": "pro"}})
    };
    let batch: Vec<_> = (0..400).map(message).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    service.message("m399", |found| found["state"] == "delivered").await;
    let seen = loops.rest();
    assert!(seen.iter().all(|seen| seen.body["plan"] == "pro"));
    assert!(seen.len() < 40, "{}", seen.len());
}

#[tokio::test]
async fn contact_updates_that_differ_all_arrive_however_many_they_are() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "100").start();
    let batch: Vec<_> = (0..400).map(|n| identify("crowd", &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    service.message("m399", |found| found["state"] == "delivered").await;
    let notes: Vec<String> = loops.rest().iter().map(Seen::note).collect();
    assert_eq!(notes, (0..400).map(|n| format!("m{n}")).collect::<Vec<_>>());
}
