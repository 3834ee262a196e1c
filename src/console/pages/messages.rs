//! The list of messages, with their outcomes.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::fields::{Field, fields};
use super::frame::Frame;
use super::parts::url_encode;
use super::render::{error_page, html};
use super::replay;
use super::rows::Row;
use super::tail::WAITING_MAX;
use crate::console::filter;
use crate::console::query::{Parameters, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::http::error::ApiError;
use crate::queue::{MessageState, Page, Seq};

/// How many messages a page shows.
const PAGE_LENGTH: u32 = 50;

#[derive(Template)]
#[template(path = "messages.html")]
struct MessagesPage {
    frame: Frame,
    /// What the list shows, in a sentence.
    meaning: String,
    rows: Vec<Row>,
    /// Whether there are several sources, so that each row names its own.
    has_sources: bool,
    /// The URL of the next page.
    older: Option<String>,
    fields: Vec<Field>,
    times: [(&'static str, &'static str, String); 2],
    event: String,
    /// The persons of the filter, as the URL has them.
    person: Option<String>,
    is_filtered: bool,
    is_first: bool,
    /// The URL from which the script gets further messages; `None` on a page where new messages do not belong.
    tail: Option<String>,
    /// The URL of the page that replays the messages; `None` if they wait, or are in several states.
    replay: Option<String>,
}

/// Shows the list.
pub(super) async fn page(State(state): State<AdminState>, frame: Frame, uri: Uri) -> Response {
    match list(&state, frame.clone(), &uri).await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(error) => error_page(frame, &error),
    }
}

async fn list(state: &AdminState, frame: Frame, uri: &Uri) -> Result<MessagesPage, ApiError> {
    let names = [&filter::PAGE_NAMES[..], &["before"]].concat();
    let given = Parameters::of_form(uri, &names)?;
    let before = given.get("before").map(|before| before.parse().map(Seq)).transpose();
    let before = before.map_err(|_| bad_query("`before` must be a whole number"))?;
    let filter = filter::of_page(&given, state).await?;
    let since = state.clock.now().as_millisecond();
    let found = state.store.list(&filter, before, PAGE_LENGTH).await.map_err(store_fault)?;
    let Page { messages, next } = found;
    let rows: Vec<Row> = messages.iter().map(Row::from).collect();
    let conditions: Vec<(&str, &str)> =
        given.pairs().filter(|(name, _)| *name != "before").collect();
    let of = |(name, value): &(&str, &str)| format!("{name}={}&", url_encode(value));
    let query: String = conditions.iter().map(of).collect();
    let older = next.map(|Seq(next)| format!("/console/messages?{query}before={next}"));
    let is_done = filter.state.is_some_and(|state| state != MessageState::Pending);
    let replay = (is_done || filter.reason.is_some()).then(|| replay::link(&conditions));
    let is_newest = before.is_none() && filter.to.is_none();
    let waiting = messages.iter().filter(|message| message.state() == MessageState::Pending);
    let waiting: Vec<String> =
        waiting.take(WAITING_MAX).map(|message| message.seq.0.to_string()).collect();
    let waiting = waiting.join("-");
    let tail =
        is_newest.then(|| format!("/console/messages/tail?{query}waiting={waiting}&since={since}"));
    let chosen = |name: &str| given.get(name).unwrap_or_default().to_owned();
    let is_first = conditions.is_empty() && before.is_none() && rows.is_empty();
    Ok(MessagesPage {
        meaning: sentence(&conditions, before.is_some()),
        fields: fields(state, &given),
        times: [("from", "Since", chosen("from")), ("to", "Until", chosen("to"))],
        event: chosen("event"),
        person: given.get("person").map(str::to_owned),
        is_filtered: !conditions.is_empty(),
        is_first,
        has_sources: state.sources.borrow().names().count() > 1,
        older,
        tail,
        replay: replay.filter(|_| !rows.is_empty()),
        rows,
        frame,
    })
}

/// Says what the list shows.
fn sentence(conditions: &[(&str, &str)], is_later_page: bool) -> String {
    let more = if is_later_page { ", continued" } else { "" };
    if conditions.is_empty() {
        return format!("Everything that was accepted, newest first{more}.");
    }
    let word = |(name, value): &(&str, &str)| match *name {
        "person" => "of one person".to_owned(),
        "state" => match *value {
            "pending" => "that wait".to_owned(),
            "held" => "that are held".to_owned(),
            "unmatched" => "that no subscription took".to_owned(),
            "failed" => "that failed".to_owned(),
            ended => format!("that were {ended}"),
        },
        "reason" => format!("that failed as {value}"),
        "destination" => format!("for the destination {value}"),
        "source" => format!("from the source {value}"),
        "type" => format!("of type {value}"),
        "event" => format!("of the event “{value}”"),
        "subscription" => format!("taken by the subscription “{value}”"),
        "from" => format!("since {value}"),
        _ => format!("until {value}"),
    };
    let words: Vec<String> = conditions.iter().map(word).collect();
    format!("Messages {}, newest first{more}.", words.join(", "))
}
