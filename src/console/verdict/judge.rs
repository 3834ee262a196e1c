//! Judges the facts.

use std::time::Duration;

use jiff::Timestamp;

use super::at_loops::at_loops;
use super::facts::{Facts, is_not_needed, standing};
use super::kind::VerdictKind;
use crate::action::UnmatchedReason;
use crate::console::numbers::{capitalized, clock, counted, in_words, number};
use crate::console::reasons::why;
use crate::console::status::{DestinationNow, Rejected};
use crate::queue::{
    Class, DeliveryState, MessageRecord, MessageState, PauseReason, RequestRecord, Seq,
};
use crate::segment::MessageType;

/// One sentence and one next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::console) struct Verdict {
    pub(in crate::console) kind: VerdictKind,
    /// The message that it is about.
    pub(in crate::console) seq: Option<Seq>,
    pub(in crate::console) sentence: String,
    pub(in crate::console) next_step: &'static str,
}

/// Judges the facts. `say` shows Loops' responses and the details of failures, which may hold values of a message.
pub(in crate::console) fn judge(facts: &Facts<'_>, say: impl Fn(&str) -> String) -> Verdict {
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
        let sentence = "No message of this person was ever accepted, or their records have expired";
        return match facts.rejected.and_then(rejections) {
            Some(rejections) => (VerdictKind::Rejected, None, format!("{sentence}. {rejections}")),
            None => (VerdictKind::NeverAccepted, None, format!("{sentence}.")),
        };
    };
    if let Some(message) = in_state(MessageState::Pending) {
        let (kind, sentence) = waits(message, facts, say);
        return (kind, Some(message), sentence);
    }
    if let Some(message) = in_state(MessageState::Failed) {
        let why = failure(message).map(|failed| why(failed, say));
        let why = why.map(|why| format!(": {}", why.trim_end_matches('.'))).unwrap_or_default();
        let awaits = standing(message).find_map(|delivery| delivery.awaits_contact_until);
        let awaits = awaits.map(again_by_itself).unwrap_or_default();
        let sentence = format!("{} failed{why}.{awaits}", capitalized(&name(message)));
        return (VerdictKind::Failed, Some(message), sentence);
    }
    let is_ended = |message: &&MessageRecord| {
        matches!(message.state(), MessageState::Delivered | MessageState::Shadowed)
    };
    let delivered: Vec<&MessageRecord> = latest.iter().copied().filter(is_ended).collect();
    // Events trigger mails, so people ask about events.
    let is_event = |message: &&&MessageRecord| message.kind == MessageType::Track;
    let Some(message) = delivered.iter().find(is_event).or(delivered.first()).copied() else {
        let unmatched = latest.iter().find(is_event).copied().unwrap_or(first);
        let detail = unmatched.unmatched.as_ref().map(|unmatched| say(&unmatched.detail));
        let detail = detail.filter(|detail| !detail.is_empty()).map(|detail| format!(": {detail}"));
        let reason = unmatched.unmatched.as_ref().map(|unmatched| unmatched.reason);
        let (kind, start) = match reason {
            Some(UnmatchedReason::Erased | UnmatchedReason::UnknownContact) => {
                (VerdictKind::Withheld, "Nothing was sent for")
            }
            _ => (VerdictKind::Unmatched, "No subscription took"),
        };
        let detail = detail.unwrap_or_default();
        let sentence = format!("{start} {}{}.", name(unmatched), detail.trim_end_matches('.'));
        return (kind, Some(unmatched), sentence);
    };
    let is_deleted = delivered[0].kind == MessageType::Delete && delivered[0].seq == first.seq;
    if is_deleted && delivered[0].state() == MessageState::Delivered {
        let sentence = "The person was deleted: Loops accepted the deletion.".to_owned();
        return (VerdictKind::Deleted, Some(delivered[0]), sentence);
    }
    if message.state() == MessageState::Shadowed {
        let sentence = format!(
            "{} would have been sent to Loops, but the destination {} was in shadow mode.",
            capitalized(&name(message)),
            message.destination
        );
        return (VerdictKind::Shadowed, Some(message), sentence);
    }
    let (kind, what) = at_loops(facts, message);
    let sentence = match is_not_needed(message) {
        true => format!(
            "Nothing was sent for {}, since Loops has accepted all its values before{what}.",
            name(message)
        ),
        false => format!("Loops accepted {}{what}.", name(message)),
    };
    (kind, Some(message), sentence)
}

/// Returns the latest message of each type and event: earlier ones no longer matter.
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

/// Says why a message waits.
fn waits(
    message: &MessageRecord,
    facts: &Facts<'_>,
    say: &impl Fn(&str) -> String,
) -> (VerdictKind, String) {
    let its = capitalized(&name(message));
    // Requests of one person go out in order: an earlier message holds back later ones.
    let earlier = facts.messages.iter().filter(|other| {
        other.seq < message.seq
            && other.destination == message.destination
            && other.state() == MessageState::Pending
    });
    let in_front: Vec<&MessageRecord> = earlier.collect();
    let behind = match in_front.len() {
        0 => String::new(),
        1 => ", behind one earlier message of the same person".to_owned(),
        more => format!(", behind {more} earlier messages of the same person"),
    };
    let destination = facts.destinations.iter().find(|one| one.name == message.destination);
    if let Some(pause) = destination.and_then(|one| one.paused.as_ref()) {
        let (kind, why) = match pause.reason {
            PauseReason::Key => (VerdictKind::WaitsForKey, "Loops refuses the API key of"),
            PauseReason::BaseUrl => {
                (VerdictKind::WaitsForBaseUrl, "there is no Loops at the base URL of")
            }
        };
        let name = &message.destination;
        return (kind, format!("{its} waits{behind}: {why} the destination {name}."));
    }
    if let Some(held) = &message.held {
        let (who, since) = match held.is_behind {
            true => (
                format!(
                    "{its} waits behind an earlier message of the same person that has been held"
                ),
                held.since,
            ),
            false => (format!("{its} has been held"), held.since),
        };
        let sentence = format!(
            "{who} since {}: it would create a contact, and as many as new_contacts_per_day allows were new today.",
            clock(since)
        );
        return (VerdictKind::Held, sentence);
    }
    let tried = in_front.iter().rev().copied().chain([message]).find_map(last_try);
    let Some((request, answer)) = tried else {
        let queue = destination.map(|one| queue(message, one)).unwrap_or_default();
        let sentence = match message.deliveries.is_empty() {
            true => format!("{its} waits for its turn{behind}: it is not planned yet{queue}."),
            false => format!("{its} is planned, and waits for its turn{behind}{queue}."),
        };
        return (VerdictKind::WaitsForTurn, sentence);
    };
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

/// Says how many messages may go before this one, and how long that takes at the speed of the last minutes. The
/// position within its class is not counted.
fn queue(message: &MessageRecord, destination: &DestinationNow) -> String {
    let waiting = destination.waiting;
    let more_urgent = Class::ALL.into_iter().take_while(|class| *class != message.class);
    let before: u64 = more_urgent.map(|class| waiting.of(class)).sum::<u64>()
        + waiting.of(message.class).saturating_sub(1);
    let goes = match before {
        0 => return String::new(),
        1 => "goes",
        _ => "go",
    };
    let all = destination.empty_in_s.filter(|_| waiting.total > 0);
    let takes = all.map(|all| all.saturating_mul(before).div_ceil(waiting.total).max(1));
    let takes = takes.map(|seconds| in_words(Duration::from_secs(seconds)));
    let takes = takes.map(|words| format!(", which takes about {words}")).unwrap_or_default();
    format!("; up to {} {goes} before it{takes}", counted(before, "message"))
}

/// Says what was rejected in the last hour; `None` if nothing was.
pub(in crate::console) fn rejections(rejected: &Rejected) -> Option<String> {
    let total: u64 = rejected.values().flat_map(|codes| codes.values()).sum();
    let each = rejected
        .iter()
        .flat_map(|(source, codes)| codes.iter().map(move |(code, count)| (source, code, *count)));
    let (source, code, most) = each.max_by_key(|(_, _, count)| *count)?;
    let source = match source.as_str() {
        "" => "no known source".to_owned(),
        name => format!("the source `{name}`"),
    };
    let most = match most == total {
        true => String::new(),
        false => format!("{} of them ", number(most)),
    };
    let were = if total == 1 { "request or message was" } else { "requests or messages were" };
    Some(format!(
        "In the last hour, {} {were} rejected, {most}from {source} with the code `{code}`.",
        number(total)
    ))
}

/// Returns a request that waits after an attempt, with Loops' last response.
fn last_try(message: &MessageRecord) -> Option<(&RequestRecord, &str)> {
    standing(message).filter(|delivery| delivery.state == DeliveryState::Pending).find_map(
        |delivery| {
            let request = delivery.request.as_ref()?;
            let last = request.attempts.last()?;
            Some((request, last.excerpt.as_str()))
        },
    )
}

/// Says until when a failed event waits for its contact.
pub(in crate::console) fn again_by_itself(until: Timestamp) -> String {
    format!(" It is sent again automatically if the contact is created before {}.", clock(until))
}

fn failure(message: &MessageRecord) -> Option<&crate::queue::Failure> {
    let mut failed = standing(message).filter(|delivery| delivery.state == DeliveryState::Failed);
    failed.find_map(|delivery| delivery.failure.as_ref())
}

/// Names a message as people would.
fn name(message: &MessageRecord) -> String {
    match &message.event {
        Some(event) => format!("“{event}”"),
        None => format!("the {}", message.kind.as_str()),
    }
}
