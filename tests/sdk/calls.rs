//! The calls that every SDK makes, and what must have become of each.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::{EMAIL_DOMAIN, PATIENCE, ScriptedLoops, Service};

/// People in a round, and events of each.
const PEOPLE: usize = 5;
const EVENTS: usize = 3;

/// A round of calls: more than any SDK puts into its first batch, of every kind that servers make.
pub fn round(name: &str) -> Vec<Value> {
    let mut calls = Vec::new();
    for person in 0..PEOPLE {
        let user = format!("{name}-{person}");
        let id = format!("{user}-identify");
        let traits = json!({
            "email": format!("{user}@{EMAIL_DOMAIN}"), "firstName": "Zoë", "plan": "pro",
            "seats": 7, "trial": false, "address": {"city": "Łódź"}, "note": id
        });
        calls.push(call("identify", &user, &id, json!({"traits": traits})));
        for event in 0..EVENTS {
            let id = format!("{user}-track-{event}");
            let properties = json!({"amount": 12.5, "items": ["a", "b"], "note": id});
            let more = json!({"event": format!("Tested {event}"), "properties": properties});
            calls.push(call("track", &user, &id, more));
        }
    }
    let user = format!("{name}-0");
    let id = |kind| format!("{user}-{kind}");
    let page = json!({"name": "Home", "properties": {"path": "/"}});
    calls.push(call("page", &user, &id("page"), page));
    let group = json!({"groupId": "g1", "traits": {"name": "Analysts"}});
    calls.push(call("group", &user, &id("group"), group));
    calls.push(call("alias", &user, &id("alias"), json!({"previousId": "before"})));
    calls
}

fn call(kind: &str, user: &str, id: &str, more: Value) -> Value {
    let timestamp = "2026-01-02T03:04:05.678Z";
    let mut call = json!({"type": kind, "userId": user, "messageId": id, "timestamp": timestamp});
    call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call
}

/// Asserts that each call was taken once, as it was made, and that Loops had it once.
pub async fn assert_arrived_once(calls: &[Value], service: &Service, loops: &mut ScriptedLoops) {
    let stored = service.stored().await;
    for call in calls {
        let id = call["messageId"].as_str().unwrap();
        let message = service.message(id, |found| found["state"] != "pending").await;
        let reached = match call["type"].as_str().unwrap() {
            "identify" | "track" => "delivered",
            _ => "unmatched",
        };
        assert_eq!(message["state"], reached, "{message}");
        let taken = stored.get(id).map_or(&[][..], Vec::as_slice);
        assert_eq!(taken.len(), 1, "{id} was taken {} times", taken.len());
        assert_same(call, &taken[0]);
    }
    assert_eq!(stored.len(), calls.len(), "something was taken that was not sent");
    assert_loops_had_them_once(calls, loops);
}

fn assert_same(call: &Value, taken: &Value) {
    let id = &call["messageId"];
    for (key, given) in call.as_object().unwrap() {
        match key.as_str() {
            "timestamp" => {
                let instant =
                    |value: &Value| -> jiff::Timestamp { value.as_str().unwrap().parse().unwrap() };
                assert_eq!(instant(&taken["originalTimestamp"]), instant(given), "{id}");
                // The sender's clock is ours: only the way here, and repetitions, are between.
                let way = instant(&taken["timestamp"]).duration_since(instant(given));
                let most = jiff::SignedDuration::try_from(PATIENCE).unwrap();
                assert!(!way.is_negative() && way < most, "{id}: {way}");
            }
            _ => assert_eq!(&taken[key], given, "{id}: {key}"),
        }
    }
}

fn assert_loops_had_them_once(calls: &[Value], loops: &mut ScriptedLoops) {
    // A request that was under way when the program was killed goes out again, the very same: Loops
    // knows it by its key, and a contact's update changes nothing the second time.
    let mut had: HashMap<String, Value> = HashMap::new();
    let mut keys = HashMap::new();
    for seen in loops.rest() {
        let note = seen.note();
        let key = keys.entry(note.clone()).or_insert_with(|| seen.idempotency_key());
        assert_eq!(*key, seen.idempotency_key(), "{note}");
        let before = had.insert(note.clone(), seen.body.clone());
        assert!(before.is_none_or(|before| before == seen.body), "{note} came twice");
    }
    for call in calls {
        let id = call["messageId"].as_str().unwrap();
        let user = &call["userId"];
        let expected = match call["type"].as_str().unwrap() {
            "identify" => json!({
                "email": call["traits"]["email"], "userId": user, "firstName": "Zoë",
                "plan": "pro", "seats": 7, "trial": false, "note": id
            }),
            "track" => json!({
                "userId": user, "eventName": call["event"],
                "eventProperties": {"amount": 12.5, "note": id}
            }),
            _ => continue,
        };
        let body = had.remove(id).unwrap_or_else(|| panic!("Loops did not have {id}"));
        for (key, value) in expected.as_object().unwrap() {
            match value {
                Value::Object(inner) => {
                    inner.iter().for_each(|(name, value)| assert_eq!(&body[key][name], value));
                }
                value => assert_eq!(&body[key], value, "{id}: {key}: {body}"),
            }
        }
    }
    assert!(had.is_empty(), "Loops had what nobody sent: {had:?}");
}
