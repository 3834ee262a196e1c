//! Each verdict is reached, the first that holds is said, and what it says is true.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::facts::Facts;
use super::judge::{Verdict, judge, rejections};
use super::kind::VerdictKind;
use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::console::asker::{Events, Held};
use crate::console::status::{DestinationNow, Paused, Rejected, Waiting};
use crate::queue::{
    Attempt, AttemptOutcome, Class, DeliveryRecord, DeliveryState, Failure, FailureReason,
    FeedbackRecord, MessageRecord, MessageState, NotNeeded, NotNeededReason, Origin, OriginKind,
    PauseReason, RequestId, RequestRecord, Seq,
};
use crate::segment::MessageType;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A track that was received so many seconds after the beginning, and is in a state.
fn track(event: &str, second: i64, state: MessageState) -> MessageRecord {
    let delivery = |state| DeliveryRecord {
        not_needed: None,
        awaits_contact_until: None,
        planned: None,
        subscription: Some("all".to_owned()),
        action: Some(ActionKind::SendEvent),
        replay: 0,
        is_superseded: false,
        state,
        failure: None,
        warnings: Vec::new(),
        request: None,
    };
    let refused = Failure { reason: FailureReason::Refused, detail: "no \"Ada\"".to_owned() };
    let unmatched = Unmatched {
        reason: UnmatchedReason::NoSubscription,
        detail: "no trigger matches".to_owned(),
    };
    MessageRecord {
        seq: Seq(second),
        source: "web".to_owned(),
        destination: "main".to_owned(),
        message_id: format!("m{second}"),
        kind: MessageType::Track,
        event: Some(event.to_owned()),
        received_at: at(second),
        is_done: state != MessageState::Pending,
        class: Class::Event,
        unmatched: (state == MessageState::Unmatched).then_some(unmatched),
        replay: 0,
        warnings: Vec::new(),
        held: None,
        deliveries: match state {
            MessageState::Pending => vec![delivery(DeliveryState::Pending)],
            MessageState::Delivered => vec![delivery(DeliveryState::Delivered)],
            MessageState::Shadowed => vec![delivery(DeliveryState::Shadowed)],
            MessageState::Failed => {
                vec![DeliveryRecord { failure: Some(refused), ..delivery(DeliveryState::Failed) }]
            }
            MessageState::Unmatched => Vec::new(),
        },
    }
}

fn of_kind(kind: MessageType, second: i64, state: MessageState) -> MessageRecord {
    MessageRecord { kind, event: None, ..track("", second, state) }
}

/// An identify that was not sent.
fn not_needed(second: i64) -> MessageRecord {
    let mut message = of_kind(MessageType::Identify, second, DELIVERED);
    let detail = "the same as request 1".to_owned();
    message.deliveries[0].not_needed =
        Some(NotNeeded { reason: NotNeededReason::Unchanged, detail });
    message
}

/// A track that waits after an attempt with this outcome.
fn tried(second: i64, outcome: AttemptOutcome) -> MessageRecord {
    let attempt = Attempt {
        number: 1,
        started_at: at(second),
        duration: Duration::from_millis(5),
        status: Some(503),
        outcome,
        excerpt: "down".to_owned(),
    };
    let request = RequestRecord {
        id: RequestId(1),
        endpoint: Some(Endpoint::SendEvent),
        idempotency_key: None,
        next_attempt_at: Some(at(second + 60)),
        attempts: vec![attempt],
    };
    let mut message = track("Signed Up", second, MessageState::Pending);
    message.deliveries[0].request = Some(request);
    message
}

fn reported(event: &str, second: i64, mail: Option<&str>) -> FeedbackRecord {
    let workflow = Origin {
        kind: OriginKind::Workflow,
        id: "w1".to_owned(),
        name: Some("Welcome".to_owned()),
    };
    FeedbackRecord {
        destination: "main".to_owned(),
        webhook_id: format!("{event} {second}"),
        received_at: at(second),
        at: at(second),
        event: event.to_owned(),
        user: None,
        email: None,
        contact_id: None,
        origin: mail.map(|_| workflow),
        email_id: mail.map(str::to_owned),
    }
}

fn held(contact: serde_json::Value, is_suppressed: bool) -> Held {
    let serde_json::Value::Object(contact) = contact else { panic!("no object") };
    Held { contact: Some(contact), is_suppressed: Some(is_suppressed) }
}

#[track_caller]
fn check(facts: &Facts<'_>, kind: VerdictKind, words: &str) -> Verdict {
    let verdict = judge(facts, str::to_owned);
    assert_eq!(verdict.kind, kind, "{verdict:?}");
    assert!(verdict.sentence.contains(words), "{verdict:?}");
    assert!(verdict.sentence.ends_with('.') && !verdict.sentence.contains(".."), "{verdict:?}");
    verdict
}

/// A destination with so many messages that wait, by class.
fn destination([event, live, bulk]: [u64; 3], empty_in_s: Option<u64>) -> DestinationNow {
    let waiting = Waiting { total: event + live + bulk, event, live, bulk };
    DestinationNow { name: "main".to_owned(), waiting, empty_in_s, ..DestinationNow::default() }
}

const DELIVERED: MessageState = MessageState::Delivered;

#[test]
fn each_verdict_is_reached() {
    let delivered = [track("Signed Up", 10, DELIVERED)];
    let base = Facts { messages: &delivered, ..Facts::default() };
    check(&Facts::default(), VerdictKind::NeverAccepted, "ever accepted");
    let rejected = [("web".to_owned(), [("broken_json".to_owned(), 2)].into())].into();
    check(
        &Facts { rejected: Some(&rejected), ..Facts::default() },
        VerdictKind::Rejected,
        "In the last hour, 2 requests or messages were rejected, from the source `web` with the code `broken_json`.",
    );
    let waits = |messages: &[MessageRecord], kind, words| {
        check(&Facts { messages, ..Facts::default() }, kind, words)
    };
    for (reason, kind, words) in [
        (
            PauseReason::Key,
            VerdictKind::WaitsForKey,
            "“Signed Up” waits: Loops refuses the API key of the destination main.",
        ),
        (
            PauseReason::BaseUrl,
            VerdictKind::WaitsForBaseUrl,
            "“Signed Up” waits: there is no Loops at the base URL of the destination main.",
        ),
    ] {
        let paused = Paused { since: at(1), reason, check_at: at(60) };
        let destination = DestinationNow { paused: Some(paused), ..destination([5, 0, 0], None) };
        let messages = [track("Signed Up", 5, MessageState::Pending)];
        let facts = Facts { messages: &messages, destinations: &[destination], ..Facts::default() };
        check(&facts, kind, words);
    }
    waits(
        &[tried(5, AttemptOutcome::Retry)],
        VerdictKind::WaitsForRetry,
        "due at 2023-11-14 22:14:25 UTC: one attempt did not succeed (down).",
    );
    waits(
        &[track("Signed Up", 5, MessageState::Pending)],
        VerdictKind::WaitsForTurn,
        "planned, and waits for its turn.",
    );
    let behind = [track("Signed Up", 5, MessageState::Pending), tried(4, AttemptOutcome::Retry)];
    waits(
        &behind,
        VerdictKind::WaitsForRetry,
        "behind one earlier message of the same person for the next attempt",
    );
    waits(
        &[track("Signed Up", 5, MessageState::Failed)],
        VerdictKind::Failed,
        "“Signed Up” failed: Loops refused the request: no \"Ada\".",
    );
    let mut awaiting = track("Signed Up", 5, MessageState::Failed);
    awaiting.deliveries[0].awaits_contact_until = Some(at(60));
    waits(
        &[awaiting],
        VerdictKind::Failed,
        "no \"Ada\". It is sent again automatically if the contact is created before 2023-11-14 22:14:20 UTC.",
    );
    waits(
        &[track("Signed Up", 5, MessageState::Unmatched)],
        VerdictKind::Unmatched,
        "No subscription took “Signed Up”: no trigger matches.",
    );
    waits(&[of_kind(MessageType::Delete, 5, DELIVERED)], VerdictKind::Deleted, "was deleted");

    let events = Events { names: vec!["signedUp".to_owned()], is_complete: true };
    let asked = Facts { events: Some(("Signed Up", &events)), ..base };
    check(
        &asked,
        VerdictKind::UnknownEvent,
        "no event named “Signed Up” with which a workflow could start; it lists “signedUp”.",
    );
    let created = [reported("contact.created", 12, None)];
    let heard = Facts { feedback: &created, has_heard: true, ..base };
    check(&heard, VerdictKind::Silent, "has reported no mail to the person since.");
    for (held, kind, words) in [
        (Held::default(), VerdictKind::NoContact, "has no contact"),
        (held(json!({"subscribed": true}), true), VerdictKind::Suppressed, "suppressed"),
        (held(json!({"optInStatus": "pending"}), false), VerdictKind::OptInPending, "confirmed"),
        (held(json!({"subscribed": false}), false), VerdictKind::Unsubscribed, "is unsubscribed."),
    ] {
        check(&Facts { held: Some(&held), ..base }, kind, words);
    }
    for (event, mail, kind, words) in [
        ("contact.deleted", None, VerdictKind::NoContact, "deleted in Loops since"),
        (
            "contact.unsubscribed",
            None,
            VerdictKind::Unsubscribed,
            "unsubscribed since 2023-11-14 22:13:32 UTC",
        ),
        (
            "email.hardBounced",
            Some("e1"),
            VerdictKind::Bounced,
            "a mail of the workflow “Welcome” bounced",
        ),
        ("email.softBounced", Some("e1"), VerdictKind::Bounced, "bounced"),
        ("email.spamReported", Some("e1"), VerdictKind::SpamReported, "spam"),
        ("email.opened", Some("e1"), VerdictKind::Opened, "was opened"),
        ("email.clicked", Some("e1"), VerdictKind::Opened, "was opened"),
        (
            "email.delivered",
            Some("e1"),
            VerdictKind::MailDelivered,
            "was delivered at 2023-11-14 22:13:32 UTC",
        ),
        ("loop.email.sent", Some("e1"), VerdictKind::MailSent, "was sent"),
    ] {
        let feedback = [reported(event, 12, mail)];
        check(&Facts { feedback: &feedback, ..base }, kind, words);
    }
    check(
        &Facts { has_heard: true, ..base },
        VerdictKind::Silent,
        "reported nothing about the person since",
    );
    check(&base, VerdictKind::NeverHeard, "never reported anything");
}

#[test]
fn the_first_that_holds_is_the_verdict() {
    // Each line holds as well when those before it are taken away, one by one.
    let failed = track("Signed Up", 20, MessageState::Failed);
    let unmatched = of_kind(MessageType::Page, 25, MessageState::Unmatched);
    let mut messages = vec![
        unmatched,
        tried(24, AttemptOutcome::Retry),
        MessageRecord { event: Some("Left".to_owned()), ..failed },
        track("Bought", 10, DELIVERED),
    ];
    let kind = |messages: &[MessageRecord]| {
        judge(&Facts { messages, ..Facts::default() }, str::to_owned).kind
    };
    assert_eq!(kind(&messages), VerdictKind::WaitsForRetry);
    messages.remove(1);
    assert_eq!(kind(&messages), VerdictKind::Failed);
    messages.remove(1);
    // That nothing took a page view does not matter beside an event that was delivered.
    assert_eq!(kind(&messages), VerdictKind::NeverHeard);
    messages.remove(1);
    assert_eq!(kind(&messages), VerdictKind::Unmatched);

    let messages = [track("Signed Up", 10, DELIVERED)];
    let events = Events { names: Vec::new(), is_complete: true };
    let suppressed = held(json!({"optInStatus": "pending", "subscribed": false}), true);
    let mut feedback = vec![
        reported("email.opened", 16, Some("e1")),
        reported("email.delivered", 15, Some("e1")),
        reported("loop.email.sent", 14, Some("e1")),
        reported("email.unsubscribed", 3, None),
    ];
    let mut facts = Facts {
        messages: &messages,
        feedback: &feedback,
        has_heard: true,
        held: Some(&suppressed),
        events: Some(("Signed Up", &events)),
        ..Facts::default()
    };
    let kind = |facts: &Facts<'_>| judge(facts, str::to_owned).kind;
    assert_eq!(kind(&facts), VerdictKind::UnknownEvent);
    facts.events = None;
    assert_eq!(kind(&facts), VerdictKind::Suppressed);
    facts.held = None;
    assert_eq!(kind(&facts), VerdictKind::Opened);
    for expected in [VerdictKind::MailDelivered, VerdictKind::MailSent, VerdictKind::Unsubscribed] {
        feedback.remove(0);
        let facts = Facts { messages: &messages, feedback: &feedback, ..Facts::default() };
        assert_eq!(kind(&facts), expected);
    }
}

#[test]
fn what_was_made_up_for_does_not_count() {
    let messages =
        [track("Signed Up", 30, DELIVERED), track("Signed Up", 10, MessageState::Failed)];
    check(&Facts { messages: &messages, ..Facts::default() }, VerdictKind::NeverHeard, "");
    // A mail from before the message, and one to another destination, say nothing about it.
    let elsewhere = FeedbackRecord {
        destination: "other".to_owned(),
        ..reported("email.hardBounced", 40, Some("e2"))
    };
    let feedback = [elsewhere, reported("email.hardBounced", 29, Some("e1"))];
    let facts =
        Facts { messages: &messages, feedback: &feedback, has_heard: true, ..Facts::default() };
    check(&facts, VerdictKind::Silent, "");
    // A mailbox that was full took the mail later; who left has come back.
    let feedback = [
        reported("email.delivered", 42, Some("e1")),
        reported("email.softBounced", 41, Some("e1")),
    ];
    check(&Facts { feedback: &feedback, ..facts }, VerdictKind::MailDelivered, "");
    let feedback =
        [reported("email.resubscribed", 5, None), reported("contact.unsubscribed", 4, None)];
    check(&Facts { feedback: &feedback, ..facts }, VerdictKind::Silent, "");
    // Superseded deliveries are past.
    let mut replayed = track("Signed Up", 50, DELIVERED);
    let mut past = track("Signed Up", 50, MessageState::Failed).deliveries;
    past[0].is_superseded = true;
    replayed.deliveries.splice(0..0, past);
    check(&Facts { messages: &[replayed], ..Facts::default() }, VerdictKind::NeverHeard, "");
}

#[test]
fn what_was_not_needed_is_not_said_to_be_accepted() {
    let messages = [not_needed(10)];
    let facts = Facts { messages: &messages, ..Facts::default() };
    let sentence =
        "Nothing was sent for the identify, since Loops has accepted all its values before.";
    for has_heard in [false, true] {
        let verdict = check(&Facts { has_heard, ..facts }, VerdictKind::NotNeeded, sentence);
        assert!(verdict.next_step.contains("replay"), "{verdict:?}");
    }
    // What became of the contact is more to the point.
    let feedback = [reported("contact.unsubscribed", 12, None)];
    let facts = Facts { feedback: &feedback, ..facts };
    check(
        &facts,
        VerdictKind::Unsubscribed,
        "Nothing was sent for the identify, since Loops has accepted all its values before, but the contact is unsubscribed since",
    );
    // So is an event that was sent, or another delivery of the message.
    let messages = [not_needed(10), track("Signed Up", 5, DELIVERED)];
    let facts = Facts { messages: &messages, ..Facts::default() };
    check(&facts, VerdictKind::NeverHeard, "Loops accepted “Signed Up”");
    let mut both = track("Signed Up", 5, DELIVERED);
    both.deliveries.extend(not_needed(5).deliveries);
    let facts = Facts { messages: &[both], ..Facts::default() };
    check(&facts, VerdictKind::NeverHeard, "Loops accepted “Signed Up”");
}

#[test]
fn what_loops_said_is_shown_as_asked() {
    let failed = [track("Signed Up", 5, MessageState::Failed)];
    let facts = Facts { messages: &failed, ..Facts::default() };
    assert!(judge(&facts, crate::queue::cause).sentence.contains("no \"…\""));
    let waits = [tried(5, AttemptOutcome::Retry)];
    let facts = Facts { messages: &waits, ..Facts::default() };
    assert!(judge(&facts, |_| "masked".to_owned()).sentence.contains("(masked)"));
}

#[test]
fn the_list_is_in_the_order_of_the_kinds() {
    for (index, kind) in VerdictKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
        assert!(!kind.next_step(None).is_empty());
    }
}

#[test]
fn a_message_that_waits_has_others_before_it_and_a_time() {
    let event = track("Signed Up", 5, MessageState::Pending);
    let identify = MessageRecord {
        class: Class::Live,
        ..of_kind(MessageType::Identify, 5, MessageState::Pending)
    };
    let bulk = MessageRecord { class: Class::Bulk, ..identify.clone() };
    for (message, waiting, empty_in_s, words) in [
        (&event, [1, 500, 5_000], Some(600), "planned, and waits for its turn."),
        (&event, [2, 0, 0], None, "turn; up to 1 message goes before it."),
        (
            &event,
            [1_205, 0, 0],
            Some(120),
            "turn; up to 1,204 messages go before it, which takes about 2 minutes.",
        ),
        // Bulk loads go behind.
        (
            &event,
            [101, 0, 9_899],
            Some(10_000),
            "turn; up to 100 messages go before it, which takes about 2 minutes.",
        ),
        (
            &identify,
            [10, 1, 7],
            Some(18),
            "10 messages go before it, which takes about 10 seconds.",
        ),
        (&bulk, [10, 1, 7], Some(18), "17 messages go before it, which takes about 17 seconds."),
    ] {
        let messages = std::slice::from_ref(message);
        let destinations = [destination(waiting, empty_in_s)];
        let facts = Facts { messages, destinations: &destinations, ..Facts::default() };
        check(&facts, VerdictKind::WaitsForTurn, words);
    }
}

#[test]
fn what_was_rejected_most_is_named() {
    let codes = |codes: &[(&str, u64)]| -> std::collections::BTreeMap<String, u64> {
        codes.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect()
    };
    let rejected = |sources: &[(&str, &[(&str, u64)])]| -> Rejected {
        sources.iter().map(|(source, of)| ((*source).to_owned(), codes(of))).collect()
    };
    let said = |sources| rejections(&rejected(sources));
    assert_eq!(said(&[]), None);
    assert_eq!(
        said(&[("", &[("unauthorized", 1)])]).unwrap(),
        "In the last hour, 1 request or message was rejected, from no known source with the code `unauthorized`."
    );
    assert_eq!(
        said(&[("app", &[("too_large", 2)]), ("web", &[("bad_id", 1_000), ("broken_json", 3)])])
            .unwrap(),
        "In the last hour, 1,005 requests or messages were rejected, 1,000 of them from the source `web` with the code `bad_id`."
    );
}

#[test]
fn what_was_shadowed_is_said_not_to_have_been_sent() {
    let shadowed = |second| track("Signed Up", second, MessageState::Shadowed);
    let said =
        "“Signed Up” would have been sent to Loops, but the destination main was in shadow mode";
    let messages = [shadowed(5), of_kind(MessageType::Identify, 4, MessageState::Shadowed)];
    check(&Facts { messages: &messages, ..Facts::default() }, VerdictKind::Shadowed, said);
    // Whatever Loops reports is not of this.
    let feedback = [reported("email.delivered", 6, Some("m"))];
    let facts = Facts { messages: &messages, feedback: &feedback, ..Facts::default() };
    check(&facts, VerdictKind::Shadowed, said);
    let deleted = [of_kind(MessageType::Delete, 9, MessageState::Shadowed)];
    let facts = Facts { messages: &deleted, ..Facts::default() };
    check(&facts, VerdictKind::Shadowed, "The delete would have been sent");
    // A later one that was sent counts.
    let messages = [track("Signed Up", 9, DELIVERED), shadowed(5)];
    let facts = Facts { messages: &messages, ..Facts::default() };
    check(&facts, VerdictKind::NeverHeard, "Loops accepted “Signed Up”");
}
