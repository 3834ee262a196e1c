//! The latest failures, grouped by cause: what to fix first.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::frame::Frame;
use super::parts::{Time, url_encode};
use super::render::{error_page, html};
use super::replay;
use crate::console::filter;
use crate::console::numbers::number;
use crate::console::query::Parameters;
use crate::console::reasons::{advice, meaning};
use crate::console::state::{AdminState, store_fault};
use crate::http::error::ApiError;
use crate::queue::FailureGroup;

#[derive(Template)]
#[template(path = "failures.html")]
struct FailuresPage {
    frame: Frame,
    /// What the list shows, in a sentence.
    meaning: String,
    groups: Vec<Group>,
    is_complete: bool,
    read: u64,
}

/// Failed deliveries with the same cause.
struct Group {
    deliveries: u64,
    meaning: &'static str,
    advice: &'static str,
    cause: String,
    subscription: Option<String>,
    /// The name, if there are several destinations.
    destination: Option<String>,
    first_at: Time,
    last_at: Time,
    example: i64,
    /// The URL of the list of its messages.
    messages: String,
    /// The URL of the page that replays them.
    replay: String,
}

/// The page.
pub(super) async fn page(State(state): State<AdminState>, frame: Frame, uri: Uri) -> Response {
    match list(&state, frame.clone(), &uri).await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(error) => error_page(frame, &error),
    }
}

async fn list(state: &AdminState, frame: Frame, uri: &Uri) -> Result<FailuresPage, ApiError> {
    let given = Parameters::of_form(uri, &filter::PAGE_NAMES)?;
    let filter = filter::of_page(&given, state).await?;
    let found = state.store.failures(&filter).await.map_err(store_fault)?;
    let has_destinations = state.planners.len() > 1;
    let groups: Vec<Group> =
        found.groups.into_iter().map(|group| show(group, has_destinations)).collect();
    let deliveries: u64 = groups.iter().map(|group| group.deliveries).sum();
    let meaning = match groups.len() {
        1 if deliveries == 1 => "One delivery failed.".to_owned(),
        0 => "No failed delivery is on record.".to_owned(),
        1 => format!("{} deliveries failed, all for one cause.", number(deliveries)),
        causes => format!(
            "{} deliveries failed, for {causes} causes; the most frequent is first.",
            number(deliveries)
        ),
    };
    Ok(FailuresPage { frame, meaning, groups, is_complete: found.is_complete, read: found.read })
}

fn show(group: FailureGroup, has_destinations: bool) -> Group {
    let conditions = [
        Some(("reason", group.reason.as_str())),
        group.subscription.as_deref().map(|name| ("subscription", name)),
        has_destinations.then_some(("destination", group.destination.as_str())),
    ];
    let conditions: Vec<(&str, &str)> = conditions.into_iter().flatten().collect();
    let of = |(name, value): &(&str, &str)| format!("{name}={}", url_encode(value));
    let query: Vec<String> = conditions.iter().map(of).collect();
    Group {
        deliveries: group.deliveries,
        meaning: meaning(group.reason),
        advice: advice(group.reason),
        cause: group.cause,
        messages: format!("/console/messages?{}", query.join("&")),
        replay: replay::link(&conditions),
        subscription: group.subscription,
        destination: has_destinations.then_some(group.destination),
        first_at: Time(group.first_at),
        last_at: Time(group.last_at),
        example: group.example_seq.0,
    }
}
