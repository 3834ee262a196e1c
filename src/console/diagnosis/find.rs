//! Finds the first diagnosis that applies.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::kind::{Diagnosis, DiagnosisCode};
use crate::console::numbers::{counted, in_words, number};
use crate::console::reasons::meaning_unmatched;
use crate::console::status::{DestinationNow, Status};
use crate::queue::{FailureReason, PauseReason};

/// Deliveries fail often if more than this share of them failed in the last hour, and at least [`FAILED_MIN`].
const FAILING_PART: f64 = 0.05;
const FAILED_MIN: u64 = 5;

/// A source is rejected often if more than this share of its messages was rejected in the last hour, and at least
/// [`REJECTED_MIN`].
const REJECTED_PART: f64 = 0.1;
const REJECTED_MIN: u64 = 10;

/// Most messages are unmatched if more than this share of them was in the last hour, and at least [`UNMATCHED_MIN`].
const UNMATCHED_PART: f64 = 0.5;
const UNMATCHED_MIN: u64 = 10;

/// A queue is behind if its oldest message has waited longer than this.
const BEHIND: SignedDuration = SignedDuration::from_secs(60);

/// How long Loops may answer with errors before it counts as down.
const DOWN_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// The status with which Loops says that there are too many requests.
const TOO_MANY: u16 = 429;

impl Diagnosis {
    /// Returns the first diagnosis that applies.
    pub(in crate::console) fn of(status: &Status) -> Self {
        let first = |code| Self::find(code, status);
        let found = DiagnosisCode::ALL.into_iter().find_map(first);
        found.unwrap_or_else(|| Self::new(DiagnosisCode::AllWell, "All is well.", None))
    }

    /// Returns the diagnosis for a code, if it applies.
    fn find(code: DiagnosisCode, status: &Status) -> Option<Self> {
        let destinations = || status.destinations.iter();
        let (sentence, since) = match code {
            // `store_down` makes it: without the store, there is no status to look at.
            DiagnosisCode::StoreDown => return None,
            DiagnosisCode::StoreFull => {
                if status.accepts {
                    return None;
                }
                ("Messages cannot be stored; senders are asked to retry, and what was accepted is safe.".to_owned(), None)
            }
            DiagnosisCode::KeyRefused => {
                paused(status, PauseReason::Key, "Loops refuses the API key of")?
            }
            DiagnosisCode::WrongBaseUrl => {
                paused(status, PauseReason::BaseUrl, "There is no Loops at the base URL of")?
            }
            DiagnosisCode::NobodyDelivers => {
                let alone = |one: &&DestinationNow| one.is_configured && one.holder.is_none();
                let one = destinations().filter(alone).find(|one| one.waiting.total > 0)?;
                (
                    format!(
                        "No process delivers for `{}`; nothing is lost; {}.",
                        one.name,
                        wait(one)
                    ),
                    None,
                )
            }
            DiagnosisCode::UnknownDestination => {
                let one = destinations().find(|one| !one.is_configured && one.waiting.total > 0)?;
                let text = "is not configured; nothing is lost";
                (format!("The destination `{}` {text}; {}.", one.name, wait(one)), None)
            }
            DiagnosisCode::LoopsDown => {
                let is_down = |one: &&DestinationNow| {
                    let since = one.failing_since.filter(|_| one.failing_status != Some(TOO_MANY));
                    since.is_some_and(|since| status.now.duration_since(since) >= DOWN_AFTER)
                };
                let one = destinations().find(is_down)?;
                let answer = match one.failing_status {
                    Some(answer) if answer > 0 => format!("answers {answer}"),
                    _ => "cannot be reached".to_owned(),
                };
                let text =
                    format!("Loops {answer} for `{}`; nothing is lost; {}.", one.name, wait(one));
                (text, one.failing_since)
            }
            DiagnosisCode::SpaceLow => {
                if !status.is_space_low {
                    return None;
                }
                ("The disk has little free space: messages that can wait are refused until there is more.".to_owned(), None)
            }
            DiagnosisCode::Rejecting => {
                let much = |rejected: u64, received: u64| {
                    rejected >= REJECTED_MIN
                        && rejected as f64 > REJECTED_PART * (rejected + received) as f64
                };
                let one = status.sources.iter().find(|source| {
                    let total = source.rejected.values().sum();
                    source.is_configured && much(total, source.received_hour)
                })?;
                let (code, _) = one.rejected.iter().max_by_key(|(_, count)| **count)?;
                let total: u64 = one.rejected.values().sum();
                (
                    format!(
                        "Much of what source `{}` sends is rejected: {} in the last hour, most with the code `{code}`.",
                        one.name,
                        number(total)
                    ),
                    None,
                )
            }
            DiagnosisCode::Failing => {
                let (failed, tried) = failed(status);
                if failed < FAILED_MIN || failed as f64 <= FAILING_PART * tried as f64 {
                    return None;
                }
                let text = format!(
                    "{} of {} deliveries failed in the last hour; they can be replayed.",
                    number(failed),
                    number(tried)
                );
                (text, None)
            }
            DiagnosisCode::Limited => {
                let slowed = |one: &&DestinationNow| {
                    one.rate.zip(one.rate_max).is_some_and(|(rate, max)| rate < max)
                };
                let one = destinations().find(slowed)?;
                let (rate, max) = one.rate.zip(one.rate_max)?;
                let text = format!(
                    "Loops has asked to slow down: {rate} of {max} requests a second go to `{}`; {}.",
                    one.name,
                    wait(one)
                );
                (text, None)
            }
            DiagnosisCode::Behind => {
                let oldest = |one: &DestinationNow| one.oldest_received_at;
                let late = |one: &&DestinationNow| {
                    oldest(one).is_some_and(|at| status.now.duration_since(at) > BEHIND)
                };
                let one = destinations().filter(late).min_by_key(|one| oldest(one))?;
                let end = match one.empty_in_s {
                    Some(seconds) => {
                        format!(", about {} of work", in_words(Duration::from_secs(seconds)))
                    }
                    None => String::new(),
                };
                (format!("The queue of `{}` is behind: {}{end}.", one.name, wait(one)), oldest(one))
            }
            DiagnosisCode::Held => {
                let one = destinations().find(|one| one.held > 0)?;
                let are = if one.held == 1 { "is" } else { "are" };
                let text = format!(
                    "{} to `{}` {are} held: as many contacts as new_contacts_per_day allows were created today.",
                    counted(one.held, "message"),
                    one.name
                );
                (text, one.held_since)
            }
            DiagnosisCode::SomeFailed => {
                let (failed, tried) = failed(status);
                if failed == 0 {
                    return None;
                }
                let text = format!(
                    "{} of {} deliveries failed in the last hour; all else is well.",
                    number(failed),
                    number(tried)
                );
                (text, None)
            }
            DiagnosisCode::MostlyUnmatched => {
                let hour = &status.funnel[0];
                let ended = hour.delivered + hour.shadowed + hour.failed + hour.unmatched;
                if hour.unmatched < UNMATCHED_MIN
                    || hour.unmatched as f64 <= UNMATCHED_PART * ended as f64
                {
                    return None;
                }
                let (reason, _) = hour.unmatched_reasons.iter().max_by_key(|(_, count)| **count)?;
                let text = format!(
                    "No subscription took {} of {} messages in the last hour, most often because {}.",
                    number(hour.unmatched),
                    number(ended),
                    meaning_unmatched(reason)
                );
                (text, None)
            }
            DiagnosisCode::NothingYet => {
                if status.sources.iter().any(|source| source.last_received_at.is_some()) {
                    return None;
                }
                ("Everything is ready, and no message has been accepted yet.".to_owned(), None)
            }
            DiagnosisCode::Quiet => {
                let day = &status.funnel[1];
                if day.received > 0 {
                    return None;
                }
                let last = status.sources.iter().filter_map(|source| source.last_received_at).max();
                (
                    "Everything works, and no message was accepted in the last 24 hours."
                        .to_owned(),
                    last,
                )
            }
            DiagnosisCode::Shadow => {
                let configured = || destinations().filter(|one| one.is_configured);
                let shadows: Vec<&DestinationNow> =
                    configured().filter(|one| one.is_shadow).collect();
                let names: Vec<String> =
                    shadows.iter().map(|one| format!("`{}`", one.name)).collect();
                let (names, are) = match &names[..] {
                    [] => return None,
                    [one] => (one.clone(), "is"),
                    [some @ .., last] => (format!("{} and {last}", some.join(", ")), "are"),
                };
                let shadowed: u64 = shadows.iter().map(|one| one.shadowed_hour).sum();
                let text = if shadows.len() == configured().count() {
                    let shadowed = match shadowed {
                        0 => "Nothing".to_owned(),
                        1 => "1 delivery".to_owned(),
                        more => format!("{} deliveries", number(more)),
                    };
                    format!(
                        "Everything works, and nothing is sent: {names} {are} in shadow mode. {shadowed} would have been sent in the last hour."
                    )
                } else {
                    let shadowed = match shadowed {
                        0 => "nothing more".to_owned(),
                        1 => "1 more delivery".to_owned(),
                        more => format!("{} more deliveries", number(more)),
                    };
                    format!(
                        "Everything works: {} delivered in the last hour. {names} {are} in shadow mode: {shadowed} would have been sent.",
                        counted(status.funnel[0].delivered, "message")
                    )
                };
                (text, None)
            }
            DiagnosisCode::AllWell => {
                let waiting: u64 = destinations().map(|one| one.waiting.total).sum();
                let end = match waiting {
                    0 => "nothing waits".to_owned(),
                    1 => "1 message is on its way".to_owned(),
                    more => format!("{} messages are on their way", number(more)),
                };
                let text = format!(
                    "All is well: {} delivered in the last hour, {end}.",
                    counted(status.funnel[0].delivered, "message")
                );
                (text, None)
            }
        };
        Some(Self::new(code, sentence, since))
    }
}

/// Returns how many deliveries failed in the last hour and how many ended, leaving out those that somebody discarded.
fn failed(status: &Status) -> (u64, u64) {
    let all = || status.destinations.iter();
    let failures = all().flat_map(|one| &one.failed);
    let failed = failures.filter(|one| one.reason != FailureReason::Discarded);
    let failed: u64 = failed.map(|one| one.hour).sum();
    (failed, failed + all().map(|one| one.delivered_hour + one.shadowed_hour).sum::<u64>())
}

/// Returns the sentence about a destination that is paused for this reason, and since when it is.
fn paused(status: &Status, reason: PauseReason, text: &str) -> Option<(String, Option<Timestamp>)> {
    let is_it =
        |one: &&DestinationNow| one.paused.as_ref().is_some_and(|pause| pause.reason == reason);
    let one = status.destinations.iter().find(is_it)?;
    let since = one.paused.as_ref().map(|pause| pause.since);
    Some((format!("{text} `{}`; nothing is lost; {}.", one.name, wait(one)), since))
}

/// Says how many messages wait.
fn wait(one: &DestinationNow) -> String {
    match one.waiting.total {
        0 => "no message waits".to_owned(),
        1 => "1 message waits".to_owned(),
        more => format!("{} messages wait", number(more)),
    }
}
