//! The list of messages, with their outcomes.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::frame::Frame;
use super::parts::{Badge, Time, count, url_encode, why};
use super::tail::WAITING_MAX;
use super::{error_page, html, replay};
use crate::console::filter::{self, ListedState};
use crate::console::query::{Parameters, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::http::error::ApiError;
use crate::queue::{
    DeliveryRecord, DeliveryState, FailureReason, MessageRecord, MessageState, Page, Seq, cause,
};
use crate::segment::MessageType;

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

/// A selection list.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) options: Vec<Choice>,
}

pub(super) struct Choice {
    pub(super) value: String,
    pub(super) is_chosen: bool,
}

/// A message in a list.
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) received_at: Time,
    pub(super) badge: Badge,
    /// The name of the event, or the kind of call.
    pub(super) title: String,
    pub(super) kind: &'static str,
    pub(super) message_id: String,
    /// The outcome, in a few words.
    pub(super) outcome: String,
    pub(super) source: String,
}

impl From<&MessageRecord> for Row {
    fn from(record: &MessageRecord) -> Self {
        let kind = record.kind.as_str();
        Self {
            seq: record.seq.0,
            received_at: Time(record.received_at),
            badge: record.state().into(),
            title: record.event.clone().unwrap_or_else(|| kind.to_owned()),
            kind,
            message_id: record.message_id.clone(),
            outcome: outcome(record),
            source: record.source.clone(),
        }
    }
}

/// Describes the outcome of a message, without any of its values.
fn outcome(record: &MessageRecord) -> String {
    let of_state = |state| {
        let counts = record.deliveries.iter().filter(|delivery| !delivery.is_superseded);
        counts.filter(move |delivery| delivery.state == state)
    };
    match record.state() {
        MessageState::Unmatched => {
            let detail = record.unmatched.as_ref().map(|unmatched| unmatched.detail.as_str());
            format!("no subscription took it: {}", cause(detail.unwrap_or_default()))
        }
        MessageState::Failed => {
            let mut failures =
                of_state(DeliveryState::Failed).filter_map(|delivery| delivery.failure.as_ref());
            failures.next().map(|failure| why(failure, cause)).unwrap_or_default()
        }
        MessageState::Delivered => {
            let by = |delivery: &DeliveryRecord| {
                let name = delivery.subscription.clone()?;
                Some(if delivery.not_needed.is_some() { name + " (not needed)" } else { name })
            };
            of_state(DeliveryState::Delivered).filter_map(by).collect::<Vec<_>>().join(", ")
        }
        MessageState::Shadowed => {
            let names =
                of_state(DeliveryState::Shadowed).filter_map(|one| one.subscription.clone());
            format!("not sent, in shadow mode: {}", names.collect::<Vec<_>>().join(", "))
        }
        MessageState::Pending if let Some(held) = &record.held => match held.is_behind {
            true => "waits behind a held message of the same person".to_owned(),
            false => "is held: it would create another contact".to_owned(),
        },
        MessageState::Pending => {
            let retry = of_state(DeliveryState::Pending)
                .filter_map(|delivery| delivery.request.as_ref())
                .find(|request| !request.attempts.is_empty());
            match retry {
                Some(request) => {
                    format!(
                        "waits for its next attempt, after {}",
                        count(request.attempts.len(), "attempt")
                    )
                }
                None => "waits for its turn".to_owned(),
            }
        }
    }
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
    let filter = filter::filter(&given, state).await?;
    let since = state.clock.now().as_millisecond();
    let found = state.log.list(&filter, before, PAGE_LENGTH).await.map_err(store_fault)?;
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

/// Returns the selection lists. A list with a single choice is left out.
pub(super) fn fields(state: &AdminState, given: &Parameters) -> Vec<Field> {
    let words = |words: &[&'static str]| words.iter().map(|word| (*word).to_owned()).collect();
    let states: Vec<&str> = ListedState::ALL.map(ListedState::as_str).to_vec();
    let kinds: Vec<&str> = MessageType::ALL.map(MessageType::as_str).to_vec();
    let reasons: Vec<&str> = FailureReason::ALL.map(FailureReason::as_str).to_vec();
    let sources: Vec<String> = state.sources.borrow().names().map(str::to_owned).collect();
    let mut destinations: Vec<String> = state.planners.keys().cloned().collect();
    destinations.sort_unstable();
    let all: [(&str, &str, Vec<String>); 6] = [
        ("state", "State", words(&states)),
        ("type", "Type", words(&kinds)),
        ("reason", "Failed as", words(&reasons)),
        ("subscription", "Subscription", state.subscription_names().into_iter().collect()),
        ("source", "Source", sources),
        ("destination", "Destination", destinations),
    ];
    let fields = all.into_iter().filter_map(|(name, label, mut values)| {
        let chosen = given.get(name);
        if let Some(chosen) = chosen.filter(|chosen| !values.iter().any(|value| value == chosen)) {
            values.push(chosen.to_owned());
        }
        let is_needed = values.len() > 1 || chosen.is_some();
        let of = |value: String| Choice { is_chosen: chosen == Some(value.as_str()), value };
        is_needed.then(|| Field { name, label, options: values.into_iter().map(of).collect() })
    });
    fields.collect()
}
