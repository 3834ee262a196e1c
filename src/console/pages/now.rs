//! The page Now: is it us, Loops or the sender; is anything lost; when is it over.

use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::frame::Frame;
use super::parts::{Time, url_encode};
use super::render::html;
use crate::console::diagnosis::{Diagnosis, DiagnosisCode};
use crate::console::numbers::{counted, in_words, number};
use crate::console::reasons::meaning;
use crate::console::state::{AdminState, store_fault};
use crate::console::status::{DestinationNow, Funnel, Status, read};
use crate::queue::{ConflictKind, PauseReason, USERS_COUNTED_MAX};

/// The smallest share of saved requests that is worth a sentence, in percent.
const SAVINGS_MIN: u64 = 5;

/// The width of the bar of a funnel, in its own units.
const BAR: u64 = 1_000;

#[derive(Template)]
#[template(path = "now.html")]
struct NowPage {
    frame: Frame,
    diagnosis: Diagnosis,
    since: Option<Time>,
    /// Good, warn or bad.
    tone: &'static str,
    icon: &'static str,
    /// A link to where the next step begins.
    link: Option<(&'static str, &'static str)>,
    is_first: bool,
    /// The names of the sources that can send a first message.
    first_source: Option<String>,
    destinations: Vec<Destination>,
    sources: Vec<Source>,
    spans: Vec<Span>,
    /// What skipping unchanged upserts saves, or would save.
    savings: Option<String>,
    conflicts: Vec<Conflict>,
    store: Vec<(&'static str, String)>,
    now: Option<Time>,
}

/// A destination, in words.
struct Destination {
    name: String,
    state: &'static str,
    icon: &'static str,
    tone: &'static str,
    since: Option<Time>,
    rate: String,
    waiting: String,
    classes: String,
    oldest: Option<Time>,
    end: String,
    holder: Option<String>,
    retry: Option<Time>,
    new_contacts: String,
    /// How many contacts may be created in a day, including those released.
    cap: Option<String>,
    held: Option<HeldNow>,
    failures: Vec<Failures>,
}

/// Messages that are held, in words.
struct HeldNow {
    messages: String,
    since: Option<Time>,
    /// The URL of their list.
    list: String,
}

/// Deliveries that failed for a reason.
struct Failures {
    reason: &'static str,
    meaning: &'static str,
    hour: String,
    day: String,
    messages: String,
}

/// A source, in words.
struct Source {
    name: String,
    last: Option<Time>,
    hour: String,
    day: String,
    rejected: Vec<(String, String)>,
    /// The URL of its list; `None` if the source is unknown, so that none of its messages are stored.
    messages: Option<String>,
}

/// Contacts that Loops may have mixed up, in words.
struct Conflict {
    destination: String,
    what: String,
    /// The day in UTC.
    day: String,
    /// The URL of a message that was part of it.
    message: Option<String>,
}

/// The outcomes of messages over a span, and the bar that shows them.
struct Span {
    name: &'static str,
    from: &'static str,
    received: String,
    /// How many were made pending again, if any.
    replayed: Option<String>,
    delivered: u64,
    shadowed: u64,
    failed: u64,
    unmatched: u64,
    /// The parts of the bar: class, where it begins, how long it is.
    bar: Vec<(&'static str, u64, u64)>,
}

/// Shows the page.
pub(super) async fn page(State(state): State<AdminState>, frame: Frame) -> Response {
    match read(&state).await {
        Ok(status) => html(StatusCode::OK, &show(&state, frame, status)),
        Err(fault) => {
            store_fault(fault);
            let page = NowPage {
                frame,
                diagnosis: Diagnosis::store_down(),
                since: None,
                tone: "bad",
                icon: "✕",
                link: None,
                is_first: false,
                first_source: None,
                destinations: Vec::new(),
                sources: Vec::new(),
                spans: Vec::new(),
                savings: None,
                conflicts: Vec::new(),
                store: Vec::new(),
                now: None,
            };
            html(StatusCode::SERVICE_UNAVAILABLE, &page)
        }
    }
}

fn show(state: &AdminState, frame: Frame, status: Status) -> NowPage {
    let code = status.diagnosis.code;
    let (icon, tone) = match code {
        DiagnosisCode::AllWell | DiagnosisCode::NothingYet | DiagnosisCode::Quiet => ("✓", "good"),
        // Senders may well send more than is meant to be delivered.
        DiagnosisCode::MostlyUnmatched | DiagnosisCode::Shadow => ("○", "muted"),
        DiagnosisCode::SpaceLow
        | DiagnosisCode::Rejecting
        | DiagnosisCode::Failing
        | DiagnosisCode::SomeFailed
        | DiagnosisCode::Limited
        | DiagnosisCode::Behind
        | DiagnosisCode::Held => ("!", "warn"),
        DiagnosisCode::StoreDown
        | DiagnosisCode::StoreFull
        | DiagnosisCode::KeyRefused
        | DiagnosisCode::WrongBaseUrl
        | DiagnosisCode::NobodyDelivers
        | DiagnosisCode::UnknownDestination
        | DiagnosisCode::LoopsDown => ("✕", "bad"),
    };
    let mut store = vec![(
        "Store",
        if status.accepts { "accepts messages" } else { "does not accept messages" }.to_owned(),
    )];
    if let Some(bytes) = status.free_bytes {
        store.push(("Free on its disk", in_bytes(bytes)));
    }
    NowPage {
        frame,
        since: status.diagnosis.since.map(Time),
        tone,
        icon,
        link: link(code),
        is_first: code == DiagnosisCode::NothingYet,
        first_source: state.sources.borrow().names().next().map(str::to_owned),
        destinations: status.destinations.iter().map(destination).collect(),
        sources: sources(&status),
        spans: status.funnel.iter().map(span).collect(),
        savings: status.funnel.iter().find(|funnel| funnel.span == "24h").and_then(savings),
        conflicts: status.conflicts.iter().map(conflict).collect(),
        store,
        now: Some(Time(status.now)),
        diagnosis: status.diagnosis,
    }
}

/// Returns a link to where the next step begins, if that is a page.
fn link(code: DiagnosisCode) -> Option<(&'static str, &'static str)> {
    match code {
        DiagnosisCode::Failing | DiagnosisCode::SomeFailed => {
            Some(("/console/failures?from=1h", "The failures, by cause"))
        }
        DiagnosisCode::MostlyUnmatched => {
            Some(("/console/messages?state=unmatched&from=1h", "The messages"))
        }
        DiagnosisCode::Shadow => {
            Some(("/console/messages?state=shadowed", "What would have been sent"))
        }
        DiagnosisCode::Held => Some(("/console/messages?state=held", "What is held")),
        DiagnosisCode::KeyRefused
        | DiagnosisCode::WrongBaseUrl
        | DiagnosisCode::LoopsDown
        | DiagnosisCode::Behind
        | DiagnosisCode::UnknownDestination
        | DiagnosisCode::NobodyDelivers
        | DiagnosisCode::Limited => Some(("/console/messages?state=pending", "What waits")),
        DiagnosisCode::StoreDown
        | DiagnosisCode::StoreFull
        | DiagnosisCode::SpaceLow
        | DiagnosisCode::Rejecting
        | DiagnosisCode::NothingYet
        | DiagnosisCode::Quiet
        | DiagnosisCode::AllWell => None,
    }
}

fn destination(one: &DestinationNow) -> Destination {
    let (state, icon, tone, since) = match (&one.paused, one.failing_since) {
        _ if !one.is_configured => ("not configured", "✕", "bad", None),
        (Some(pause), _) => {
            let why = match pause.reason {
                PauseReason::Key => "paused: the key is refused",
                PauseReason::BaseUrl => "paused: no Loops at base_url",
            };
            (why, "✕", "bad", Some(pause.since))
        }
        (None, _) if one.is_shadow && one.holder.is_some() => {
            ("shadow: nothing is sent", "○", "muted", None)
        }
        (None, _) if one.holder.is_none() && one.waiting.total == 0 => {
            ("nothing to deliver", "○", "muted", None)
        }
        (None, _) if one.holder.is_none() => ("nobody delivers", "✕", "bad", None),
        (None, Some(since)) => ("retrying", "!", "warn", Some(since)),
        (None, None) => ("delivering", "✓", "good", None),
    };
    let rate = match one.rate.zip(one.rate_max) {
        Some((rate, max)) => {
            let sent = one.requests5m.unwrap_or(0);
            let end = if one.is_shadow { ", none of them sent" } else { "" };
            format!("{rate} of {max} requests a second; {} in 5 minutes{end}", number(sent))
        }
        None => "–".to_owned(),
    };
    let waiting = one.waiting;
    let classes = match waiting.total {
        0 => String::new(),
        _ => format!(
            "{} events, {} contacts, {} bulk",
            number(waiting.event),
            number(waiting.live),
            number(waiting.bulk)
        ),
    };
    let end = match (waiting.total, one.empty_in_s) {
        (0, _) => "nothing waits".to_owned(),
        (_, Some(seconds)) => format!("about {}", in_words(Duration::from_secs(seconds))),
        (_, None) if one.paused.is_some() => "not while it is paused".to_owned(),
        (_, None) if one.requests5m.is_some_and(|requests| requests > 0) => {
            "not known yet: it is counted by whole minutes".to_owned()
        }
        (_, None) if one.held > 0 => "not while messages are held".to_owned(),
        (_, None) => "not known: nothing was delivered in the last 5 minutes".to_owned(),
    };
    let messages = |reason: &str| {
        let name = url_encode(&one.name);
        format!("/console/messages?destination={name}&reason={reason}&state=failed")
    };
    let failures = one.failed.iter().map(|failed| Failures {
        reason: failed.reason.as_str(),
        meaning: meaning(failed.reason),
        hour: number(failed.hour),
        day: number(failed.day),
        messages: messages(failed.reason.as_str()),
    });
    Destination {
        name: one.name.clone(),
        state,
        icon,
        tone,
        since: since.map(Time),
        rate,
        waiting: counted(waiting.total, "message"),
        classes,
        oldest: one.oldest_received_at.map(Time),
        end,
        holder: one.holder.clone(),
        retry: one.next_retry_at.map(Time),
        new_contacts: number(one.new_contacts_today),
        cap: one.new_contacts_per_day.map(|per_day| match one.released_today {
            0 => format!("of {}", number(per_day.into())),
            released => format!("of {}, and {} released", number(per_day.into()), number(released)),
        }),
        held: (one.held > 0).then(|| HeldNow {
            messages: counted(one.held, "message"),
            since: one.held_since.map(Time),
            list: format!("/console/messages?destination={}&state=held", url_encode(&one.name)),
        }),
        failures: failures.collect(),
    }
}

fn sources(status: &Status) -> Vec<Source> {
    let one = |source: &crate::console::status::SourceNow| {
        let is_known = !source.name.is_empty();
        let named = if is_known { &source.name } else { "(unknown)" };
        Source {
            name: named.to_owned(),
            last: source.last_received_at.map(Time),
            hour: number(source.received_hour),
            day: number(source.received_day),
            rejected: source.rejected.iter().map(|(code, n)| (code.clone(), number(*n))).collect(),
            messages: is_known
                .then(|| format!("/console/messages?source={}", url_encode(&source.name))),
        }
    };
    status.sources.iter().map(one).collect()
}

fn span(funnel: &Funnel) -> Span {
    let (name, from) = match funnel.span {
        "1h" => ("Last hour", "1h"),
        "24h" => ("Last 24 hours", "24h"),
        _ => ("Last 7 days", "7d"),
    };
    let parts = [
        ("good", funnel.delivered),
        ("warn", funnel.shadowed),
        ("bad", funnel.failed),
        ("muted", funnel.unmatched),
    ];
    let ended: u64 = parts.iter().map(|(_, count)| count).sum();
    let total = ended.max(funnel.received + funnel.replayed);
    let mut begin = 0;
    let mut bar = Vec::new();
    for (class, count) in parts {
        // Whatever is above zero is visible, however small.
        let share = (count * BAR).checked_div(total).unwrap_or(0);
        let width = if count > 0 { share.max(6) } else { 0 };
        if width > 0 {
            bar.push((class, begin, width));
        }
        begin += width;
    }
    Span {
        name,
        from,
        received: number(funnel.received),
        replayed: (funnel.replayed > 0).then(|| number(funnel.replayed)),
        delivered: funnel.delivered,
        shadowed: funnel.shadowed,
        failed: funnel.failed,
        unmatched: funnel.unmatched,
        bar,
    }
}

fn conflict(one: &crate::console::status::Conflict) -> Conflict {
    let count = number(one.count);
    Conflict {
        destination: one.destination.clone(),
        what: match one.kind {
            ConflictKind::Addresses => {
                format!("one user id was given {count} addresses on one day")
            }
            ConflictKind::UserIds if one.count >= u64::from(USERS_COUNTED_MAX) => {
                format!("{count} or more user ids have one address")
            }
            ConflictKind::UserIds => format!("{count} user ids have one address"),
        },
        day: one.day.strftime("%Y-%m-%d").to_string(),
        message: one.seq.map(|seq| format!("/console/messages/{seq}")),
    }
}

/// Says what skipping unchanged upserts saves, or would save, if it is worth a sentence.
fn savings(funnel: &Funnel) -> Option<String> {
    let saved = |how| funnel.requests_saved.get(how).copied().unwrap_or_default();
    let (unchanged, redundant) = (saved("unchanged"), saved("unchanged_would"));
    if unchanged > 0 {
        let were = if unchanged == 1 { "was" } else { "were" };
        return Some(format!(
            "In the last 24 hours, {} that would have changed nothing {were} not sent to Loops.",
            counted(unchanged, "contact update")
        ));
    }
    let percent = (redundant * 100).checked_div(funnel.requests).unwrap_or(0);
    let (redundant, requests) = (number(redundant), number(funnel.requests));
    (percent >= SAVINGS_MIN).then(|| {
        format!(
            "In the last 24 hours, {percent} % of the requests to Loops ({redundant} of {requests}) changed nothing: skip_unchanged = \"on\" would save them."
        )
    })
}

/// Writes a size for people.
fn in_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    let (mut size, mut unit) = (bytes as f64 / 1e3, 0);
    while size >= 1e3 && unit + 1 < UNITS.len() {
        size /= 1e3;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_user_ids_are_not_counted_further() {
        let said = |kind, count| {
            let one = crate::console::status::Conflict {
                destination: "main".to_owned(),
                kind,
                day: jiff::Timestamp::UNIX_EPOCH,
                count,
                seq: None,
            };
            conflict(&one).what
        };
        assert_eq!(said(ConflictKind::UserIds, 99), "99 user ids have one address");
        assert_eq!(said(ConflictKind::UserIds, 100), "100 or more user ids have one address");
        let addresses = "one user id was given 100 addresses on one day";
        assert_eq!(said(ConflictKind::Addresses, 100), addresses);
    }

    #[test]
    fn what_skipping_saves_is_said_where_it_is_worth_it() {
        let said = |requests, saved: &[(&str, u64)]| {
            let requests_saved = saved.iter().map(|(how, count)| ((*how).to_owned(), *count));
            let requests_saved = requests_saved.collect();
            savings(&Funnel { requests, requests_saved, ..Funnel::default() })
        };
        assert_eq!(said(0, &[]), None);
        assert_eq!(said(1_000, &[("merged", 500), ("unchanged_would", 49)]), None);
        let would = said(2_000, &[("unchanged_would", 1_234)]).unwrap();
        assert!(would.contains("61 % of the requests to Loops (1,234 of 2,000)"), "{would}");
        let skipped = said(2_000, &[("unchanged", 1_200), ("unchanged_would", 1_000)]).unwrap();
        assert!(skipped.contains("1,200 contact updates that would have changed nothing were"));
        let skipped = said(2_000, &[("unchanged", 1)]).unwrap();
        assert!(skipped.contains(" 1 contact update that would have changed nothing was not"));
    }
}
