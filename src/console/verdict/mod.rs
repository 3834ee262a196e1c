//! The verdict: what became of what a person was to get, in one sentence of a closed list, with one next step.
//!
//! Pure: the caller finds the facts, and the first kind of [`VerdictKind::ALL`] that holds is the verdict.

use jiff::Timestamp;

use super::asker::{Events, Held};
use crate::queue::{
    AttemptOutcome, DeliveryRecord, DeliveryState, FailureReason, FeedbackRecord, MessageRecord,
    MessageState, RequestRecord, Seq,
};
use crate::segment::MessageType;

/// What can be the matter, in the order in which it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictKind {
    /// Nothing of this person is on record.
    NeverAccepted,
    /// A message waits, since Loops refuses the API key.
    WaitsForKey,
    /// A message waits for its next attempt.
    WaitsForRetry,
    /// A message waits for its turn.
    WaitsForTurn,
    /// A delivery failed.
    Failed,
    /// No subscription took it.
    Unmatched,
    /// The person was deleted.
    Deleted,
    /// Loops took the event, but lists none of this name.
    UnknownEvent,
    /// Loops has no contact any more.
    NoContact,
    /// Loops sends nothing to the address any more.
    Suppressed,
    /// The contact has not confirmed that it wants mails.
    OptInPending,
    /// The contact is unsubscribed.
    Unsubscribed,
    /// A mail was sent, and bounced.
    Bounced,
    /// A mail was reported as spam.
    SpamReported,
    /// A mail was opened.
    Opened,
    /// A mail was delivered.
    MailDelivered,
    /// A mail was sent.
    MailSent,
    /// Loops took everything, and has reported nothing about the person since.
    Silent,
    /// Loops took everything, and has never reported anything.
    NeverHeard,
}

impl VerdictKind {
    /// All of them, in their order.
    pub const ALL: [VerdictKind; 19] = [
        VerdictKind::NeverAccepted,
        VerdictKind::WaitsForKey,
        VerdictKind::WaitsForRetry,
        VerdictKind::WaitsForTurn,
        VerdictKind::Failed,
        VerdictKind::Unmatched,
        VerdictKind::Deleted,
        VerdictKind::UnknownEvent,
        VerdictKind::NoContact,
        VerdictKind::Suppressed,
        VerdictKind::OptInPending,
        VerdictKind::Unsubscribed,
        VerdictKind::Bounced,
        VerdictKind::SpamReported,
        VerdictKind::Opened,
        VerdictKind::MailDelivered,
        VerdictKind::MailSent,
        VerdictKind::Silent,
        VerdictKind::NeverHeard,
    ];

    /// As it is written and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            VerdictKind::NeverAccepted => "never_accepted",
            VerdictKind::WaitsForKey => "waits_for_key",
            VerdictKind::WaitsForRetry => "waits_for_retry",
            VerdictKind::WaitsForTurn => "waits_for_turn",
            VerdictKind::Failed => "failed",
            VerdictKind::Unmatched => "unmatched",
            VerdictKind::Deleted => "deleted",
            VerdictKind::UnknownEvent => "unknown_event",
            VerdictKind::NoContact => "no_contact",
            VerdictKind::Suppressed => "suppressed",
            VerdictKind::OptInPending => "opt_in_pending",
            VerdictKind::Unsubscribed => "unsubscribed",
            VerdictKind::Bounced => "bounced",
            VerdictKind::SpamReported => "spam_reported",
            VerdictKind::Opened => "opened",
            VerdictKind::MailDelivered => "mail_delivered",
            VerdictKind::MailSent => "mail_sent",
            VerdictKind::Silent => "silent",
            VerdictKind::NeverHeard => "never_heard",
        }
    }

    /// What to do next.
    fn next_step(self, reason: Option<FailureReason>) -> &'static str {
        match self {
            VerdictKind::NeverAccepted => {
                "Compare the id, letter by letter, with what the sender sends, and look whether its messages are rejected at the door (segment_loops_rejected_total)."
            }
            VerdictKind::WaitsForKey => {
                "Put the right API key into force (LOOPS_API_KEY, or api_key of the destination) and restart; the message then goes out by itself."
            }
            VerdictKind::WaitsForRetry => {
                "Nothing to do unless it lasts: the message is tried again by itself, for as long as delivery.retry_window_ms says."
            }
            VerdictKind::WaitsForTurn => {
                "Nothing to do unless it lasts: the messages in front go out at Loops' rate."
            }
            VerdictKind::Failed => match reason {
                Some(FailureReason::Refused) => {
                    "Fix what Loops complains of, in the mapping, in the data or in Loops, then replay the message."
                }
                Some(FailureReason::Expired) => "Replay the message if it is still worth sending.",
                Some(FailureReason::Invalid) => {
                    "Change the mapping so that it fills what is missing, reload, and replay the message."
                }
                Some(FailureReason::PlaceholderId) => {
                    "Fix the sender, which sends a word in place of an id; a replay would fail in the same way."
                }
                Some(FailureReason::Unreadable | FailureReason::Unknown) | None => {
                    "Please report it, with the lines of the log that name the message."
                }
            },
            VerdictKind::Unmatched => {
                "If a subscription should have taken it, change its trigger, reload, and replay the message."
            }
            VerdictKind::Deleted => {
                "Nothing to do: what comes for the same id makes a new contact."
            }
            VerdictKind::UnknownEvent => {
                "Compare the name with that in the workflow's trigger, letter by letter: names of events are case-sensitive."
            }
            VerdictKind::NoContact => {
                "Look whether the contact was deleted in Loops, or has another user id or address there."
            }
            VerdictKind::Suppressed => {
                "Correct the address, or have its suppression removed in Loops if the mailbox works again."
            }
            VerdictKind::OptInPending => {
                "The person must click on the link in the mail that asks for it."
            }
            VerdictKind::Unsubscribed => {
                "Respect it: such a contact gets transactional mails only, until it subscribes again."
            }
            VerdictKind::Bounced => "Correct the address: the mailbox did not take the mail.",
            VerdictKind::SpamReported => "Respect it: Loops sends no more mails to the address.",
            VerdictKind::Opened => "Nothing to do: the mail was read.",
            VerdictKind::MailDelivered => {
                "Ask the person to look among other folders of the mailbox, such as spam."
            }
            VerdictKind::MailSent => {
                "Wait: whether the mail arrived is usually known within minutes."
            }
            VerdictKind::Silent => {
                "Look in Loops whether a workflow starts with this event, is switched on, and lets this contact in."
            }
            VerdictKind::NeverHeard => {
                "Set up Loops' webhook (loops_webhook_secret) to see here what became of mails; until then, look in Loops whether a workflow starts with this event."
            }
        }
    }
}

/// What is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts<'a> {
    /// The messages of a person, or a single one, newest first.
    pub(super) messages: &'a [MessageRecord],
    /// What Loops reported about the person, newest first.
    pub(super) feedback: &'a [FeedbackRecord],
    /// Whether Loops has ever reported anything to the destination.
    pub(super) has_heard: bool,
    /// What Loops holds of the person, if it was asked.
    pub(super) held: Option<&'a Held>,
    /// The name of the event as it was sent, and the names that Loops lists, if it was asked.
    pub(super) events: Option<(&'a str, &'a Events)>,
}

/// One sentence and one next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) kind: VerdictKind,
    /// The message that it is about.
    pub(super) seq: Option<Seq>,
    pub(super) sentence: String,
    pub(super) next_step: &'static str,
}

/// Judges. `say` shows what Loops said and what failures are about, which may hold values of a message.
pub(super) fn judge(facts: &Facts<'_>, say: impl Fn(&str) -> String) -> Verdict {
    let (kind, message, sentence) = find(facts, &say);
    let failure = message.and_then(failure);
    Verdict {
        kind,
        seq: message.map(|message| message.seq),
        sentence,
        next_step: kind.next_step(failure.map(|failed| failed.reason)),
    }
}

fn find<'a>(
    facts: &Facts<'a>,
    say: &impl Fn(&str) -> String,
) -> (VerdictKind, Option<&'a MessageRecord>, String) {
    let latest = latest_of_each(facts.messages);
    let in_state = |state| latest.iter().copied().find(|message| message.state() == state);
    let Some(first) = facts.messages.first() else {
        let sentence =
            "No message of this person was ever accepted, or their records have expired.";
        return (VerdictKind::NeverAccepted, None, sentence.to_owned());
    };
    if let Some(message) = in_state(MessageState::Pending) {
        let (kind, sentence) = waits(message, facts.messages, say);
        return (kind, Some(message), sentence);
    }
    if let Some(message) = in_state(MessageState::Failed) {
        let why = failure(message).map(|failed| super::pages::parts::why(failed, say));
        let why = why.map(|why| format!(": {}", why.trim_end_matches('.'))).unwrap_or_default();
        let sentence = format!("{} failed{why}.", capitalized(&name(message)));
        return (VerdictKind::Failed, Some(message), sentence);
    }
    let delivered: Vec<&MessageRecord> = latest
        .iter()
        .copied()
        .filter(|message| message.state() == MessageState::Delivered)
        .collect();
    // What triggers mails is an event, so that is what people ask about.
    let is_event = |message: &&&MessageRecord| message.kind == MessageType::Track;
    let Some(message) = delivered.iter().find(is_event).or(delivered.first()).copied() else {
        let unmatched = latest.iter().find(is_event).copied().unwrap_or(first);
        let detail = unmatched.unmatched.as_ref().map(|unmatched| say(&unmatched.detail));
        let detail = detail.filter(|detail| !detail.is_empty()).map(|detail| format!(": {detail}"));
        let sentence = format!(
            "No subscription took {}{}.",
            name(unmatched),
            detail.unwrap_or_default().trim_end_matches('.')
        );
        return (VerdictKind::Unmatched, Some(unmatched), sentence);
    };
    if delivered[0].kind == MessageType::Delete && delivered[0].seq == first.seq {
        let sentence = "The person was deleted: Loops has taken the deletion.".to_owned();
        return (VerdictKind::Deleted, Some(delivered[0]), sentence);
    }
    let (kind, what) = at_loops(facts, message);
    (kind, Some(message), format!("Loops has taken {}{what}.", name(message)))
}

/// The latest message of each type and event: an earlier one no longer matters.
fn latest_of_each(messages: &[MessageRecord]) -> Vec<&MessageRecord> {
    let mut latest: Vec<&MessageRecord> = Vec::new();
    for message in messages {
        let is_same = |other: &&MessageRecord| {
            (other.kind, &other.event, &other.destination)
                == (message.kind, &message.event, &message.destination)
        };
        if !latest.iter().any(is_same) {
            latest.push(message);
        }
    }
    latest
}

/// Why a message waits.
fn waits(
    message: &MessageRecord,
    messages: &[MessageRecord],
    say: &impl Fn(&str) -> String,
) -> (VerdictKind, String) {
    let its = capitalized(&name(message));
    // Requests of one person go out in order: what was accepted earlier holds back what follows.
    let earlier = messages.iter().filter(|other| {
        other.seq < message.seq
            && other.destination == message.destination
            && other.state() == MessageState::Pending
    });
    let in_front: Vec<&MessageRecord> = earlier.collect();
    let tried = in_front.iter().rev().copied().chain([message]).find_map(last_try);
    let behind = match in_front.len() {
        0 => String::new(),
        1 => ", behind one earlier message of the same person".to_owned(),
        more => format!(", behind {more} earlier messages of the same person"),
    };
    let Some((request, outcome, answer)) = tried else {
        let sentence = match message.deliveries.is_empty() {
            true => format!("{its} waits for its turn{behind}: it is not planned yet."),
            false => format!("{its} is planned, and waits for its turn{behind}."),
        };
        return (VerdictKind::WaitsForTurn, sentence);
    };
    if outcome == AttemptOutcome::Unauthorized {
        let sentence = format!(
            "{its} waits{behind}: Loops refuses the API key of the destination {}.",
            message.destination
        );
        return (VerdictKind::WaitsForKey, sentence);
    }
    let said = Some(say(answer)).filter(|said| !said.is_empty());
    let said = said.map(|said| format!(" ({})", said.trim_end_matches('.'))).unwrap_or_default();
    let at = request.next_attempt_at.map(|at| format!(", due at {}", clock(at)));
    let attempts = match request.attempts.len() {
        1 => "one attempt".to_owned(),
        more => format!("{more} attempts"),
    };
    let sentence = format!(
        "{its} waits{behind} for the next attempt{}: {attempts} did not succeed{said}.",
        at.unwrap_or_default()
    );
    (VerdictKind::WaitsForRetry, sentence)
}

/// A request that was tried and waits, with its last outcome and what Loops said.
fn last_try(message: &MessageRecord) -> Option<(&RequestRecord, AttemptOutcome, &str)> {
    standing(message).filter(|delivery| delivery.state == DeliveryState::Pending).find_map(
        |delivery| {
            let request = delivery.request.as_ref()?;
            let last = request.attempts.last()?;
            Some((request, last.outcome, last.excerpt.as_str()))
        },
    )
}

/// What became of a message that Loops has taken.
fn at_loops(facts: &Facts<'_>, message: &MessageRecord) -> (VerdictKind, String) {
    if let Some((sent, events)) = facts.events
        && events.is_complete
        && !events.names.iter().any(|name| name == sent)
    {
        let bare = |name: &str| -> String {
            name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let meant = events.names.iter().find(|name| bare(name) == bare(sent));
        let meant = meant.map(|name| format!("; it lists “{name}”")).unwrap_or_default();
        let what =
            format!(", but lists no event named “{sent}” with which a workflow could start{meant}");
        return (VerdictKind::UnknownEvent, what);
    }
    let of_destination =
        || facts.feedback.iter().filter(|event| event.destination == message.destination);
    // Times by Loops' clock are whole seconds.
    let received = message.received_at.as_second();
    let since = || of_destination().filter(|event| event.at.as_second() >= received);
    if let Some(found) = held(facts.held) {
        return found;
    }
    if since().any(|event| event.event == "contact.deleted") && facts.held.is_none() {
        return (VerdictKind::NoContact, ", but the contact was deleted in Loops since".to_owned());
    }
    if let Some(found) = mail(since()) {
        return found;
    }
    let is_about_subscription = |event: &&FeedbackRecord| {
        let words = [UNSUBSCRIBED, SUBSCRIBED].concat();
        words.contains(&event.event.as_str())
    };
    let last = of_destination().find(is_about_subscription);
    if facts.held.is_none() && last.is_some_and(|last| UNSUBSCRIBED.contains(&&*last.event)) {
        let at = last.map(|last| format!(" since {}", clock(last.at))).unwrap_or_default();
        return (VerdictKind::Unsubscribed, format!(", but the contact is unsubscribed{at}"));
    }
    match facts.has_heard {
        true => {
            (VerdictKind::Silent, ", and has reported nothing about the person since".to_owned())
        }
        false => (
            VerdictKind::NeverHeard,
            "; what it made of it is not known here, since it has never reported anything"
                .to_owned(),
        ),
    }
}

const UNSUBSCRIBED: [&str; 2] = ["contact.unsubscribed", "email.unsubscribed"];
const SUBSCRIBED: [&str; 2] = ["email.resubscribed", "contact.created"];

/// What the contact itself shows.
fn held(held: Option<&Held>) -> Option<(VerdictKind, String)> {
    let held = held?;
    let Some(contact) = &held.contact else {
        let what = ", but has no contact of this person now".to_owned();
        return Some((VerdictKind::NoContact, what));
    };
    let text = |name: &str| contact.get(name).and_then(serde_json::Value::as_str);
    if held.is_suppressed == Some(true) {
        let what = ", but sends no mails to the address any more: it is suppressed".to_owned();
        Some((VerdictKind::Suppressed, what))
    } else if text("optInStatus") == Some("pending") {
        let what = ", but the contact has not confirmed yet that it wants mails".to_owned();
        Some((VerdictKind::OptInPending, what))
    } else if contact.get("subscribed") == Some(&serde_json::Value::Bool(false)) {
        Some((VerdictKind::Unsubscribed, ", but the contact is unsubscribed".to_owned()))
    } else {
        None
    }
}

/// What became of the latest mail.
fn mail<'a>(
    events: impl Iterator<Item = &'a FeedbackRecord> + Clone,
) -> Option<(VerdictKind, String)> {
    let rank = |event: &str| {
        Some(match event {
            "email.hardBounced" | "email.softBounced" => VerdictKind::Bounced,
            "email.spamReported" => VerdictKind::SpamReported,
            "email.opened" | "email.clicked" => VerdictKind::Opened,
            "email.delivered" => VerdictKind::MailDelivered,
            "loop.email.sent" | "campaign.email.sent" | "transactional.email.sent" => {
                VerdictKind::MailSent
            }
            _ => return None,
        })
    };
    let of_mails = events.filter(|event| rank(&event.event).is_some());
    let latest = of_mails.clone().next()?;
    let of_it: Vec<&FeedbackRecord> =
        of_mails.filter(|event| event.email_id == latest.email_id).collect();
    // A mailbox that is full for a while takes the mail later.
    let is_over = |event: &FeedbackRecord| {
        event.event == "email.softBounced" && event.webhook_id != latest.webhook_id
    };
    let known = of_it.iter().filter(|event| !is_over(event));
    let known = known.filter_map(|event| Some((rank(&event.event)?, *event)));
    let (kind, event) = known.min_by_key(|(kind, _)| *kind as usize)?;
    let origin = of_it.iter().find_map(|event| event.origin.as_ref());
    let origin = origin.map(|origin| {
        let kind = origin.kind.as_str().replace('_', " ");
        match &origin.name {
            Some(name) => format!(" of the {kind} “{name}”"),
            None => format!(" of a {kind}"),
        }
    });
    let origin = origin.unwrap_or_default();
    let at = clock(event.at);
    let what = match kind {
        VerdictKind::Bounced => format!("; a mail{origin} bounced at {at}"),
        VerdictKind::SpamReported => format!("; a mail{origin} was reported as spam at {at}"),
        VerdictKind::Opened => format!("; a mail{origin} was opened at {at}"),
        VerdictKind::MailDelivered => format!("; a mail{origin} was delivered at {at}"),
        _ => format!("; a mail{origin} was sent at {at}"),
    };
    Some((kind, what))
}

fn standing(message: &MessageRecord) -> impl Iterator<Item = &DeliveryRecord> {
    message.deliveries.iter().filter(|delivery| !delivery.is_superseded)
}

fn failure(message: &MessageRecord) -> Option<&crate::queue::Failure> {
    let mut failed = standing(message).filter(|delivery| delivery.state == DeliveryState::Failed);
    failed.find_map(|delivery| delivery.failure.as_ref())
}

/// What people call a message.
fn name(message: &MessageRecord) -> String {
    match &message.event {
        Some(event) => format!("“{event}”"),
        None => format!("the {}", message.kind.as_str()),
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A time in a sentence.
fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
    use crate::queue::{Attempt, Failure, Origin, OriginKind, RequestId};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    /// A track that was received so many seconds after the beginning, and is in a state.
    fn track(event: &str, second: i64, state: MessageState) -> MessageRecord {
        let delivery = |state| DeliveryRecord {
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
            unmatched: (state == MessageState::Unmatched).then_some(unmatched),
            replay: 0,
            warnings: Vec::new(),
            deliveries: match state {
                MessageState::Pending => vec![delivery(DeliveryState::Pending)],
                MessageState::Delivered => vec![delivery(DeliveryState::Delivered)],
                MessageState::Failed => vec![DeliveryRecord {
                    failure: Some(refused),
                    ..delivery(DeliveryState::Failed)
                }],
                MessageState::Unmatched => Vec::new(),
            },
        }
    }

    fn of_kind(kind: MessageType, second: i64, state: MessageState) -> MessageRecord {
        MessageRecord { kind, event: None, ..track("", second, state) }
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

    const DELIVERED: MessageState = MessageState::Delivered;

    #[test]
    fn each_verdict_is_reached() {
        let delivered = [track("Signed Up", 10, DELIVERED)];
        let base = Facts { messages: &delivered, ..Facts::default() };
        check(&Facts::default(), VerdictKind::NeverAccepted, "ever accepted");
        let waits = |messages: &[MessageRecord], kind, words| {
            check(&Facts { messages, ..Facts::default() }, kind, words)
        };
        waits(
            &[tried(5, AttemptOutcome::Unauthorized)],
            VerdictKind::WaitsForKey,
            "“Signed Up” waits: Loops refuses the API key of the destination main.",
        );
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
        let behind =
            [track("Signed Up", 5, MessageState::Pending), tried(4, AttemptOutcome::Retry)];
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
        for (held, kind, words) in [
            (Held::default(), VerdictKind::NoContact, "has no contact"),
            (held(json!({"subscribed": true}), true), VerdictKind::Suppressed, "suppressed"),
            (
                held(json!({"optInStatus": "pending"}), false),
                VerdictKind::OptInPending,
                "confirmed",
            ),
            (
                held(json!({"subscribed": false}), false),
                VerdictKind::Unsubscribed,
                "is unsubscribed.",
            ),
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
            tried(24, AttemptOutcome::Unauthorized),
            MessageRecord { event: Some("Left".to_owned()), ..failed },
            track("Bought", 10, DELIVERED),
        ];
        let kind = |messages: &[MessageRecord]| {
            judge(&Facts { messages, ..Facts::default() }, str::to_owned).kind
        };
        assert_eq!(kind(&messages), VerdictKind::WaitsForKey);
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
        };
        let kind = |facts: &Facts<'_>| judge(facts, str::to_owned).kind;
        assert_eq!(kind(&facts), VerdictKind::UnknownEvent);
        facts.events = None;
        assert_eq!(kind(&facts), VerdictKind::Suppressed);
        facts.held = None;
        assert_eq!(kind(&facts), VerdictKind::Opened);
        for expected in
            [VerdictKind::MailDelivered, VerdictKind::MailSent, VerdictKind::Unsubscribed]
        {
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
}
