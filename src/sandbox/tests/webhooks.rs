//! The events that the sandbox reports by webhooks.

use tokio::sync::mpsc;

use super::*;

/// A sandbox, and the events that it reports.
fn reporting() -> (Fixture, mpsc::Receiver<Value>) {
    let fixture = Fixture::new();
    let (outbox, events) = mpsc::channel(100);
    fixture.sandbox.0.outbox.set(outbox).expect("set once");
    (fixture, events)
}

fn reported(events: &mut mpsc::Receiver<Value>) -> Vec<Value> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

fn names(events: &mut mpsc::Receiver<Value>) -> Vec<String> {
    let name = |event: Value| event["eventName"].as_str().expect("a name").to_owned();
    reported(events).into_iter().map(name).collect()
}

#[tokio::test]
async fn reports_what_becomes_of_a_contact() {
    let (fixture, mut events) = reporting();
    let update = async |body: Value| assert_eq!(fixture.update(body).await.status, 200);
    update(json!({"email": "ada@example.com", "userId": "u1", "plan": "pro"})).await;
    let created = reported(&mut events);
    assert_eq!(created.len(), 1);
    assert_eq!(created[0]["eventName"], "contact.created");
    assert_eq!(created[0]["webhookSchemaVersion"], "1.0.0");
    assert_eq!(created[0]["eventTime"], 0);
    let identity = &created[0]["contactIdentity"];
    assert_eq!(
        (&identity["email"], &identity["userId"]),
        (&json!("ada@example.com"), &json!("u1"))
    );
    assert_eq!(created[0]["contact"]["plan"], "pro");
    // Loops has no event for a change of properties.
    update(json!({"userId": "u1", "plan": "free"})).await;
    assert_eq!(names(&mut events), [""; 0]);
    for (wanted, expected) in [
        (true, &["contact.mailingList.subscribed"][..]),
        (true, &[]),
        (false, &["contact.mailingList.unsubscribed"]),
        (false, &[]),
    ] {
        update(json!({"userId": "u1", "mailingLists": {"l1": wanted}})).await;
        assert_eq!(names(&mut events), expected);
    }
    for (subscribed, expected) in
        [(true, &[][..]), (false, &["contact.unsubscribed"]), (false, &[])]
    {
        update(json!({"userId": "u1", "subscribed": subscribed})).await;
        assert_eq!(names(&mut events), expected);
    }
    let reply = fixture.call("POST", "/contacts/delete", json!({"userId": "u1"})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(names(&mut events), ["contact.unsubscribed", "contact.deleted"]);
}

#[tokio::test]
async fn an_event_triggers_a_mail_whose_fate_its_address_decides() {
    let (fixture, mut events) = reporting();
    let send = async |key: &str, email: &str| {
        let body = json!({"eventName": "Signed Up", "email": email});
        fixture.event(key, body).await.status
    };
    assert_eq!(send("k1", "ada@example.com").await, 200);
    let first = reported(&mut events);
    let [created, sent, delivered] = first.as_slice() else { panic!("{first:?}") };
    assert_eq!(created["eventName"], "contact.created");
    assert_eq!(
        (&sent["eventName"], &sent["loopName"]),
        (&json!("loop.email.sent"), &json!("On Signed Up"))
    );
    assert_eq!(delivered["eventName"], "email.delivered");
    assert_eq!((&delivered["sourceType"], &delivered["loopId"]), (&json!("loop"), &sent["loopId"]));
    assert_eq!(delivered["email"]["id"], sent["email"]["id"]);
    // Neither a repeated key nor a contact that has left gets a mail.
    assert_eq!(send("k1", "ada@example.com").await, 409);
    fixture.update(json!({"email": "ada@example.com", "subscribed": false})).await;
    assert_eq!(names(&mut events), ["contact.unsubscribed"]);
    assert_eq!(send("k2", "ada@example.com").await, 200);
    assert_eq!(names(&mut events), [""; 0]);
    assert_eq!(send("k3", "bob+bounce@example.com").await, 200);
    assert_eq!(names(&mut events), ["contact.created", "loop.email.sent", "email.hardBounced"]);
    assert_eq!(send("k4", "eve+resubscribe@example.com").await, 200);
    let [_, _, names_of_mail @ ..] = &names(&mut events)[..] else { panic!("no mail") };
    assert_eq!(names_of_mail, ["email.delivered", "email.unsubscribed", "email.resubscribed"]);
    assert_eq!(send("k5", "joe+unsubscribe@example.com").await, 200);
    let [_, _, names_of_mail @ ..] = &names(&mut events)[..] else { panic!("no mail") };
    assert_eq!(names_of_mail, ["email.delivered", "email.unsubscribed", "contact.unsubscribed"]);
    assert_eq!(send("k6", "joe+unsubscribe@example.com").await, 200);
    assert_eq!(names(&mut events), [""; 0], "it has left");
}
