//! Fills a store through its own trait: messages of the last 30 days, with what became of them, those that wait, and
//! what Loops reported.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use segment_loops::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use segment_loops::js::Object;
use segment_loops::queue::intake::Intake;
use segment_loops::queue::{
    Attempt, AttemptOutcome, Class, Consequence, Failure, FailureReason, FeedbackRecord, Lease,
    LeaseRequest, NewDelivery, NewFeedback, NewMerge, NewMergedRequest, NewMessage, NewOutcome,
    NewPlan, NewRequest, Origin, OriginKind, PendingAsk, Seq, Settlement, Store,
};
use segment_loops::segment::{Digests, PersonIdKind};

use super::{EVENT, FORMER, MANY, ORDERS, PROFILES, RARE, Size};

const KEPT_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
const PEOPLE: usize = 5_000;
/// Messages that are accepted, planned and delivered at once.
const AT_ONCE: usize = 2_000;
/// Messages that one request carries.
const MERGED: usize = 8;
const REPORTED_EACH: usize = 50;

/// What becomes of a message. The first of those that a request carries is always delivered.
enum Fate {
    Delivered,
    Failed(FailureReason),
    Unmatched,
}

fn fate(n: usize) -> Fate {
    match n % 320 {
        5 | 165 => Fate::Failed(FailureReason::Refused),
        45 | 205 => Fate::Failed(FailureReason::Invalid),
        85 => Fate::Failed(FailureReason::Expired),
        125 => Fate::Failed(FailureReason::PlaceholderId),
        offset if offset % 40 == 3 => Fate::Unmatched,
        _ => Fate::Delivered,
    }
}

fn is_identify(n: usize) -> bool {
    n.is_multiple_of(10)
}

fn event(n: usize) -> String {
    match n {
        n if n % 1_000 == 1 => RARE.to_owned(),
        n if n.is_multiple_of(3) => EVENT.to_owned(),
        n => format!("Event {}", n % 50),
    }
}

fn user(n: usize) -> String {
    if n % 100 == 7 { MANY.to_owned() } else { format!("person_{}", n * 7_919 % PEOPLE) }
}

pub(super) async fn fill(store: &dyn Store, size: Size) {
    let now = Timestamp::now();
    let digests = store.digests();
    let at = |n: usize, of: usize| {
        now - KEPT_FOR + KEPT_FOR * i32::try_from(n * 1_000 / of).unwrap() / 1_000
    };
    let lease = lease(store, now).await;
    let mut after = Seq(0);
    for first in (0..size.kept).step_by(AT_ONCE) {
        let numbers: Vec<usize> = (first..size.kept.min(first + AT_ONCE)).collect();
        let messages = numbers.iter().map(|n| message(&digests, *n, "default", at(*n, size.kept)));
        store.accept(messages.collect()).await.unwrap();
        let ask = [PendingAsk { after, limit: AT_ONCE as u32 }; Class::COUNT];
        let mut heads = store.pending("default", ask).await.unwrap().concat();
        heads.sort_by_key(|head| head.seq);
        assert_eq!(heads.len(), numbers.len());
        after = heads.last().map_or(after, |last| last.seq);
        let planned: Vec<(usize, Seq)> =
            numbers.into_iter().zip(heads.into_iter().map(|head| head.seq)).collect();
        join_all(planned.chunks(MERGED).map(|part| {
            let at = at(part[0].0, size.kept);
            deliver(store, &lease, part, at)
        }))
        .await;
    }
    store.release(&lease).await.unwrap();
    for (destination, count) in [("default", size.waiting / 2), (FORMER, size.waiting / 2)] {
        for first in (0..count).step_by(AT_ONCE) {
            let numbers = size.kept + first..size.kept + count.min(first + AT_ONCE);
            let messages = numbers.map(|n| message(&digests, n, destination, now));
            store.accept(messages.collect()).await.unwrap();
        }
    }
    for first in (0..size.kept).step_by(AT_ONCE * REPORTED_EACH) {
        let numbers =
            (first..size.kept.min(first + AT_ONCE * REPORTED_EACH)).step_by(REPORTED_EACH);
        join_all(numbers.map(|n| store.record(report(&digests, n, at(n, size.kept))))).await;
    }
}

async fn lease(store: &dyn Store, now: Timestamp) -> Lease {
    let (destination, holder) = ("default".to_owned(), "bench".to_owned());
    let ttl = Duration::from_secs(3_600);
    store.lease(LeaseRequest { destination, holder, now, ttl }).await.unwrap().unwrap()
}

fn message(digests: &Digests, n: usize, destination: &str, at: Timestamp) -> NewMessage {
    let intake = Intake {
        digests,
        source: "default",
        destination,
        is_bulk: false,
        kind: None,
        is_from_segment: false,
        is_sent_now: false,
        ip: None,
        message_bytes_max: 1 << 20,
        takes_delete: false,
        trace: None,
    };
    let user = user(n);
    let text = if is_identify(n) {
        format!(
            r#"{{"type":"identify","messageId":"kept-{destination}-{n}","userId":"{user}","anonymousId":"device_{user}","traits":{{"email":"{user}@example.com","firstName":"Ada","lastName":"Lovelace","plan":"pro","company":{{"name":"Analytical Engines"}}}},"context":{{"library":{{"name":"@segment/analytics-node","version":"3.1.0"}},"locale":"de-DE"}},"integrations":{{}}}}"#
        )
    } else {
        let event = event(n);
        format!(
            r#"{{"type":"track","messageId":"kept-{destination}-{n}","userId":"{user}","event":"{event}","properties":{{"orderId":"o_{n}","total":39.95,"currency":"EUR","coupon":null,"products":[{{"sku":"a-1","price":19.95,"quantity":1}},{{"sku":"b-2","price":10,"quantity":2}}]}},"context":{{"library":{{"name":"@segment/analytics-node","version":"3.1.0"}},"locale":"de-DE","timezone":"Europe/Berlin","traits":{{"email":"{user}@example.com"}}}},"integrations":{{}}}}"#
        )
    };
    intake.read(text.as_bytes(), &Object::default(), at, String::new).unwrap()
}

/// Plans neighbours, of which one request carries those that are delivered.
async fn deliver(store: &dyn Store, lease: &Lease, part: &[(usize, Seq)], at: Timestamp) {
    let plans: Vec<(Seq, NewPlan)> = part.iter().map(|(n, seq)| (*seq, plan(*n, at))).collect();
    let carried = |(_, plan): &(Seq, NewPlan)| {
        plan.deliveries.first().is_some_and(|one| matches!(one.outcome, NewOutcome::Request(_)))
    };
    let carries: Vec<(usize, usize)> =
        (0..plans.len()).filter(|index| carried(&plans[*index])).map(|index| (index, 0)).collect();
    let request = request(part[0].0);
    let merged = match carries.len() {
        1 => Vec::new(),
        _ => vec![NewMergedRequest { request, carries }],
    };
    let frozen = store
        .freeze(lease, NewMerge { plans, merged, claims: Vec::new(), is_shadow: false, cap: None })
        .await
        .unwrap();
    let attempt = Attempt {
        number: 1,
        started_at: at,
        duration: Duration::from_millis(120),
        status: Some(200),
        outcome: AttemptOutcome::Delivered,
        excerpt: r#"{"success":true}"#.to_owned(),
    };
    let settlement = Settlement {
        request: frozen.requests[0].id,
        now: at,
        attempt: Some(attempt),
        consequence: Consequence::Delivered,
        contact: None,
        awaiting: None,
    };
    store.settle(lease, settlement).await.unwrap();
}

fn plan(n: usize, now: Timestamp) -> NewPlan {
    let outcome = match fate(n) {
        Fate::Delivered => NewOutcome::Request(request(n)),
        Fate::Failed(reason) => NewOutcome::Failed(Failure { reason, detail: detail(reason, n) }),
        Fate::Unmatched => {
            let (reason, detail) = (UnmatchedReason::NoSubscription, "no trigger matches");
            let unmatched = Some(Unmatched { reason, detail: detail.to_owned() });
            return NewPlan { now, deliveries: Vec::new(), unmatched };
        }
    };
    let (subscription, action) = match is_identify(n) {
        true => (PROFILES, ActionKind::CreateOrUpdateContact),
        false => (ORDERS, ActionKind::SendEvent),
    };
    let delivery = NewDelivery {
        subscription: Some(subscription.to_owned()),
        action: Some(action),
        warnings: Vec::new(),
        planned: None,
        outcome,
    };
    NewPlan { now, deliveries: vec![delivery], unmatched: None }
}

fn detail(reason: FailureReason, n: usize) -> String {
    match reason {
        FailureReason::Refused => format!(
            r#"Loops answered 400: {{"success":false,"message":"The mailing list cm06f5v0e45nf0ml5754o9c{n} does not exist"}}"#
        ),
        FailureReason::Invalid => format!("`email` of message {n} is missing"),
        FailureReason::Expired => {
            format!("after 17 attempts in 24 h; the last answer was 503 ({n})")
        }
        _ => "the user id \"undefined\" stands for no id".to_owned(),
    }
}

fn request(n: usize) -> NewRequest {
    let user = user(n);
    let endpoint = if is_identify(n) { Endpoint::UpdateContact } else { Endpoint::SendEvent };
    NewRequest {
        endpoint,
        body: Bytes::from(format!(
            r#"{{"userId":"{user}","email":"{user}@example.com","eventName":"orderCompleted","eventProperties":{{"orderId":"o_{n}","total":39.95,"currency":"EUR"}}}}"#
        )),
        idempotency_key: endpoint.takes_idempotency_key().then(|| format!("key-{n}")),
        expires_at: None,
        is_redundant: false,
    }
}

fn report(digests: &Digests, n: usize, at: Timestamp) -> NewFeedback {
    let user = user(n);
    let events = ["email.delivered", "email.opened", "email.clicked", "contact.unsubscribed"];
    let record = FeedbackRecord {
        destination: "default".to_owned(),
        webhook_id: format!("webhook-{n}"),
        received_at: at,
        at,
        event: events[n / REPORTED_EACH % events.len()].to_owned(),
        user: Some(digests.person(PersonIdKind::User, &user)),
        email: Some(digests.person(PersonIdKind::Email, &format!("{user}@example.com"))),
        contact_id: Some(format!("contact-{user}")),
        origin: Some(Origin {
            kind: OriginKind::Workflow,
            id: "workflow-1".to_owned(),
            name: Some("Welcome".to_owned()),
        }),
        email_id: Some(format!("mail-{n}")),
    };
    NewFeedback { record, forward: None }
}
