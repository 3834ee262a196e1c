//! What each subscription did to the messages of the last day.

use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};

use super::frame::Frame;
use super::parts::{segment, url_encode};
use super::render::{error_page, html};
use crate::console::numbers::{in_words, number};
use crate::console::reasons::meaning_unmatched;
use crate::console::state::{AdminState, store_fault};
use crate::destination::Destination as Planner;
use crate::http::error::ApiError;
use crate::queue::{Stage, Tally, TallyStep};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

#[derive(Template)]
#[template(path = "subscriptions.html")]
struct SubscriptionsPage {
    frame: Frame,
    destinations: Vec<Destination>,
}

struct Destination {
    name: String,
    rows: Vec<Row>,
    unmatched: Vec<(String, String, String)>,
    catalogue: Shelf,
}

/// The catalogue of a destination.
struct Shelf {
    /// Its size and age, or why there is none.
    sentence: String,
    /// The names in subscriptions that the catalogue does not have.
    missing: Vec<String>,
}

struct Row {
    name: String,
    is_enabled: bool,
    /// Whether no delivery ended under it in a week.
    is_unused: bool,
    taken: String,
    delivered: String,
    /// How many deliveries were shadowed, if any.
    shadowed: Option<String>,
    failed: u64,
    /// Deliveries that were planned with a warning.
    warned: String,
    messages: String,
    failures: String,
    /// The URL of the mapping editor for it.
    editor: String,
}

/// Shows the page.
pub(super) async fn page(State(state): State<AdminState>, frame: Frame) -> Response {
    match list(&state, frame.clone()).await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(error) => error_page(frame, &error),
    }
}

async fn list(state: &AdminState, frame: Frame) -> Result<SubscriptionsPage, ApiError> {
    let now = state.clock.now();
    let from = now.checked_sub(WEEK).unwrap_or(Timestamp::MIN);
    let tallies = state.store.tallies(TallyStep::Hour, from, Timestamp::MAX).await;
    let tallies = tallies.map_err(store_fault)?;
    let mut names: Vec<&String> = state.planners.keys().collect();
    names.sort_unstable();
    let of = |name: &String| {
        let here: Vec<&Tally> = tallies.iter().filter(|one| one.destination == *name).collect();
        let planner = state.planners[name].borrow().clone();
        let rows = planner
            .subscription_states()
            .map(|(subscription, is_enabled)| row(name, subscription, is_enabled, &here, now));
        Destination {
            name: name.clone(),
            rows: rows.collect(),
            unmatched: unmatched(name, &here, now),
            catalogue: shelf(&planner, state),
        }
    };
    Ok(SubscriptionsPage { destinations: names.into_iter().map(of).collect(), frame })
}

fn shelf(planner: &Planner, state: &AdminState) -> Shelf {
    let Some(catalogue) = planner.catalogue() else {
        let sentence = match planner.options().catalogue.refresh.is_zero() {
            true => "Names are not compared with those at Loops: catalogue_refresh_s is 0.",
            false => "The names at Loops were not read yet.",
        };
        return Shelf { sentence: sentence.to_owned(), missing: Vec::new() };
    };
    let record = catalogue.record();
    let counts = [
        record
            .properties
            .as_ref()
            .map(|part| (part.entries.len(), "contact property", "contact properties")),
        record.lists.as_ref().map(|part| (part.entries.len(), "mailing list", "mailing lists")),
        record.events.as_ref().map(|part| (part.entries.len(), "event", "events")),
    ];
    let counts = counts.into_iter().flatten().map(|(count, one, more)| match count {
        1 => format!("1 {one}"),
        count => format!("{} {more}", number(count as u64)),
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    let age = record.read_at().map_or(Duration::ZERO, |at| state.clock.age(at));
    let missing = planner.missing_names().into_iter();
    Shelf {
        sentence: format!("Loops has {counts}, as read {} ago.", in_words(age)),
        missing: missing
            .map(|one| format!("{}: {}", one.problem.subscription, one.problem.problem))
            .collect(),
    }
}

fn is_of_day(tally: &Tally, now: Timestamp) -> bool {
    now.duration_since(tally.at) <= DAY
}

fn row(destination: &str, name: &str, is_enabled: bool, tallies: &[&Tally], now: Timestamp) -> Row {
    let of_name = || tallies.iter().filter(|one| one.subscription.as_deref() == Some(name));
    let day = |stage: Stage| {
        let of_stage = of_name().filter(|one| one.stage == stage && is_of_day(one, now));
        of_stage.map(|one| one.count).sum::<u64>()
    };
    let (delivered, failed) = (day(Stage::DeliveryDelivered), day(Stage::DeliveryFailed));
    let shadowed = day(Stage::DeliveryShadowed);
    let messages = format!(
        "/console/messages?destination={}&subscription={}",
        url_encode(destination),
        url_encode(name)
    );
    Row {
        name: name.to_owned(),
        is_enabled,
        is_unused: of_name().next().is_none(),
        taken: number(delivered + shadowed + failed),
        delivered: number(delivered),
        shadowed: (shadowed > 0).then(|| number(shadowed)),
        failed,
        warned: number(day(Stage::DeliveryWarned)),
        failures: format!("{messages}&state=failed&from=24h"),
        messages,
        editor: format!("/console/subscriptions/{}/{}", segment(destination), segment(name)),
    }
}

/// Returns why no subscription took messages in the last day: each reason, its number of messages, and the URL of their
/// list.
fn unmatched(
    destination: &str,
    tallies: &[&Tally],
    now: Timestamp,
) -> Vec<(String, String, String)> {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for tally in tallies.iter().filter(|one| one.stage == Stage::Unmatched && is_of_day(one, now)) {
        *reasons.entry(tally.reason.as_deref().unwrap_or_default()).or_default() += tally.count;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let list = format!(
        "/console/messages?state=unmatched&from=24h&destination={}",
        url_encode(destination)
    );
    let shown = |(reason, count): (&str, u64)| {
        (meaning_unmatched(reason).to_owned(), number(count), list.clone())
    };
    reasons.into_iter().map(shown).collect()
}
