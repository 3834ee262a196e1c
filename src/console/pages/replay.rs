//! Replaying: choose messages, see what a replay would do, then do it, in parts that each fit into a request.
//!
//! The count fixes where the replay ends, so messages accepted later are not taken. It examines the messages one by
//! one, because the number to confirm must be exact. The page does not wait for the count: everything above it is sent
//! first.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};

use super::fields::{Field, fields};
use super::frame::Frame;
use super::parts::{Time, url_encode};
use super::render::{error_page, html, in_two};
use super::rows::Row;
use crate::console::audit::Actor;
use crate::console::changed::Changed;
use crate::console::filter;
use crate::console::numbers::{count, counted, number};
use crate::console::query::{Parameters, bad_query};
use crate::console::replay::{self, Part};
use crate::console::state::{AdminState, store_fault};
use crate::http::error::ApiError;
use crate::queue::{
    AuditAction, Choice, Filter, MessageState, ReplayAsk, ReplayPosition, ReplayState, Selection,
    Seq,
};

/// How long a count may take. What takes longer is too much for a page.
const COUNT_TIME: Duration = Duration::from_secs(3);
/// How long one request replays. The next request continues.
const PART_TIME: Duration = Duration::from_secs(2);
/// From this many messages on, a person must type the number.
const TYPED_FROM: u64 = 1_001;
/// How many examples a count shows.
const EXAMPLES: u32 = 10;
/// How many replays the page lists.
const PAST_MAX: usize = 20;
/// How many audit entries are searched for replays.
const AUDIT_PAGE: u32 = 200;
const AUDIT_PAGES_MAX: usize = 10;
/// How many requests a second Loops takes, unless it says otherwise.
const LOOPS_RATE: u64 = 10;
/// The parameter that chooses one message by its number, besides the conditions of a list.
const MESSAGE: &str = "message";
/// The parameter that takes only what the subscriptions in force change.
const CHANGED: &str = "changed";

/// The page: the choice of messages, and what a replay of them would do.
#[derive(Template)]
#[template(path = "replay.html")]
struct ReplayPage {
    frame: Frame,
    states: [(&'static str, &'static str, bool); 5],
    fields: Vec<Field>,
    event: String,
    times: [(&'static str, &'static str, String); 2],
    /// Conditions without a field of their own, in words.
    fixed: Vec<(String, String)>,
    only_changed: bool,
    /// Whether messages are chosen, and counted at [`COUNTED`].
    is_asked: bool,
    past: Vec<Past>,
}

/// Marks where the count goes. No text on the page can contain it, because it would be escaped.
const COUNTED: &str = "<!--counted-->";

/// What a replay would do.
#[derive(Template)]
#[template(path = "counted.html")]
struct Counted {
    is_admin: bool,
    replayed: u64,
    without_contents: u64,
    /// How many are left out because nothing changes for them, in a sentence; `None` if that does not matter.
    unchanged: Option<String>,
    /// How many messages there are for each subscription.
    by_subscription: Vec<(String, String)>,
    /// How many of them Loops accepted before.
    delivered: u64,
    /// Whether they were not sent because of shadow mode.
    is_shadowed: bool,
    /// Whether there are more than could be counted in time.
    is_cut: bool,
    takes: String,
    must_type: bool,
    examples: Vec<Row>,
    has_sources: bool,
    /// The fields of the form that replays them.
    hidden: Vec<(String, String)>,
}

/// An earlier replay.
struct Past {
    at: Time,
    who: String,
    arguments: String,
    result: String,
}

/// The page of a replay that is not finished.
#[derive(Template)]
#[template(path = "replaying.html")]
struct ReplayingPage {
    frame: Frame,
    replayed: u64,
    expected: u64,
    hidden: Vec<(String, String)>,
}

/// Returns the names of the conditions.
fn names() -> Vec<&'static str> {
    [&filter::PAGE_NAMES[..], &[MESSAGE, CHANGED]].concat()
}

/// Shown instead of the count if the store failed during it.
#[derive(Template)]
#[template(path = "not_counted.html")]
struct NotCounted<'a> {
    message: &'a str,
}

/// Shows the choice, and the count.
pub(super) async fn page(State(state): State<AdminState>, frame: Frame, uri: Uri) -> Response {
    match choose(&state, frame.clone(), &uri).await {
        Ok(response) => response,
        Err(error) => error_page(frame, &error),
    }
}

async fn choose(state: &AdminState, frame: Frame, uri: &Uri) -> Result<Response, ApiError> {
    let given = Parameters::of_form(uri, &names())?;
    let chosen = replay_state(given.get("state"))?;
    let is_admin = frame.is_admin;
    if given.len() == 0 {
        let page = replay_page(state, frame, &given, chosen).await?;
        return Ok(html(StatusCode::OK, &page));
    }
    let selection = selection(state, &given, chosen).await?;
    let page = replay_page(state, frame, &given, chosen).await?;
    let state = state.clone();
    Ok(in_two(&page, COUNTED, async move {
        match count_selected(&state, &given, selection, is_admin).await {
            Ok(counted) => counted.render(),
            Err(error) => NotCounted { message: &error.message }.render(),
        }
    }))
}

async fn replay_page(
    state: &AdminState,
    frame: Frame,
    given: &Parameters,
    chosen: ReplayState,
) -> Result<ReplayPage, ApiError> {
    let text = |name: &str| given.get(name).unwrap_or_default().to_owned();
    let fixed = ["person", MESSAGE].into_iter();
    let fixed = fixed.filter_map(|name| Some((name.to_owned(), given.get(name)?.to_owned())));
    let states = [
        ("failed", "failed"),
        ("unmatched", "unmatched"),
        ("delivered", "delivered"),
        ("shadowed", "shadowed"),
        ("all", "all of these"),
    ];
    Ok(ReplayPage {
        frame,
        states: states.map(|(value, label)| (value, label, value == chosen.as_str())),
        fields: fields(state, given).into_iter().filter(|field| field.name != "state").collect(),
        event: text("event"),
        times: [("from", "Since", text("from")), ("to", "Until", text("to"))],
        fixed: fixed.collect(),
        only_changed: given.get(CHANGED).is_some(),
        is_asked: given.len() > 0,
        past: past(state).await?,
    })
}

/// The latest replays, among a bounded number of entries of what people did.
async fn past(state: &AdminState) -> Result<Vec<Past>, ApiError> {
    let (mut past, mut before) = (Vec::new(), None);
    for _ in 0..AUDIT_PAGES_MAX {
        let entries = state.store.audit_list(before, AUDIT_PAGE).await.map_err(store_fault)?;
        let Some(last) = entries.last() else { break };
        before = Some(last.id);
        let is_last = entries.len() < AUDIT_PAGE as usize;
        let replays =
            entries.into_iter().filter(|record| record.entry.action == AuditAction::Replay);
        past.extend(replays.map(|record| Past {
            at: Time(record.entry.at),
            who: format!("{} {}", record.entry.role, record.entry.session).trim().to_owned(),
            arguments: words(&record.entry.arguments),
            result: record.entry.result,
        }));
        if is_last || past.len() >= PAST_MAX {
            break;
        }
    }
    past.truncate(PAST_MAX);
    Ok(past)
}

/// Reads which outcome the messages to replay have.
fn replay_state(given: Option<&str>) -> Result<ReplayState, ApiError> {
    let Some(text) = given else { return Ok(ReplayState::Failed) };
    ReplayState::parse(text).ok_or_else(|| {
        bad_query("`state` must be one of failed, unmatched, delivered, shadowed, all: only finished messages can be replayed")
    })
}

/// Makes the selection that the parameters describe.
async fn selection(
    state: &AdminState,
    given: &Parameters,
    chosen: ReplayState,
) -> Result<Selection, ApiError> {
    let filter = filter::of_page(&given.only(&filter::PAGE_NAMES, "state"), state).await?;
    let mut selection = Selection { state: chosen, filter, message_ids: Vec::new() };
    if let Some(number) = given.get(MESSAGE) {
        let seq = number.parse().map(Seq);
        let seq = seq.map_err(|_| bad_query("`message` must be the number of a message"))?;
        let found = state.store.message(seq).await.map_err(store_fault)?;
        let message = found.ok_or_else(|| {
            let gone = "There is no message with this number any more: it was replayed and has another, or its record was deleted.";
            ApiError::new(StatusCode::NOT_FOUND, "not_found", gone)
        })?;
        selection.message_ids = vec![message.message_id];
        selection.filter.source = Some(message.source);
    }
    let filter = &selection.filter;
    if filter.reason.is_some() && chosen != ReplayState::Failed {
        return Err(bad_query(
            "only failed messages have a `reason`: choose the state failed, or any reason",
        ));
    }
    if filter.subscription.is_some() && chosen == ReplayState::Unmatched {
        return Err(bad_query(
            "unmatched messages have no `subscription`: choose any, or another state",
        ));
    }
    if selection.is_everything() && chosen != ReplayState::Failed {
        return Err(bad_query(format!(
            "these would be all messages that were ever {}: choose at least one more condition",
            chosen.as_str()
        )));
    }
    Ok(selection)
}

async fn count_selected(
    state: &AdminState,
    given: &Parameters,
    selection: Selection,
    is_admin: bool,
) -> Result<Counted, ApiError> {
    let chosen = selection.state;
    let choice = choice(state, given);
    let whole = dry_run(state, &selection, &choice, None).await?;
    let mut is_cut = whole.next.is_some();
    let delivered = match chosen {
        ReplayState::Failed | ReplayState::Unmatched | ReplayState::Shadowed => 0,
        ReplayState::Delivered => whole.replayed,
        ReplayState::All => {
            let delivered = Selection { state: ReplayState::Delivered, ..selection.clone() };
            let counted = dry_run(state, &delivered, &choice, Some(whole.until)).await?;
            is_cut |= counted.next.is_some();
            counted.replayed
        }
    };
    // The latest messages that match may not be the latest that change.
    let examples = match choice {
        Some(_) => Vec::new(),
        None => examples(state, &selection).await?,
    };
    let resolved = |time: Option<jiff::Timestamp>| time.map(|time| time.to_string());
    let times = [("from", resolved(selection.filter.from)), ("to", resolved(selection.filter.to))];
    let mut hidden: Vec<(String, String)> = given
        .pairs()
        .filter(|(name, _)| !["state", "from", "to"].contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let of = |(name, time): (&str, Option<String>)| Some((name.to_owned(), time?));
    hidden.extend(times.into_iter().filter_map(of));
    hidden.push(("state".to_owned(), chosen.as_str().to_owned()));
    hidden.push(("until".to_owned(), whole.until.0.to_string()));
    hidden.push(("expected".to_owned(), whole.replayed.to_string()));
    hidden.push(("delivered".to_owned(), delivered.to_string()));
    Ok(Counted {
        is_admin,
        replayed: whole.replayed,
        without_contents: whole.without_contents,
        unchanged: choice.is_some().then(|| left_out(whole.unchanged)),
        by_subscription: whole
            .by_subscription
            .into_iter()
            .map(|(name, messages)| (name, counted(messages, "message")))
            .collect(),
        delivered,
        is_cut,
        takes: words_of_seconds(whole.replayed.div_ceil(LOOPS_RATE)),
        must_type: must_type(chosen, whole.replayed, delivered),
        is_shadowed: chosen == ReplayState::Shadowed,
        examples,
        has_sources: state.sources.borrow().names().count() > 1,
        hidden,
    })
}

/// Says how many messages a replay of what changes leaves out.
fn left_out(unchanged: u64) -> String {
    match unchanged {
        0 => String::new(),
        1 => "For 1 message that matches, nothing changes.".to_owned(),
        more => format!("For {} messages that match, nothing changes.", number(more)),
    }
}

/// Returns whether a person must type the number of messages, so that none is sent by accident.
fn must_type(chosen: ReplayState, replayed: u64, delivered: u64) -> bool {
    chosen == ReplayState::Shadowed || replayed >= TYPED_FROM || delivered > 0
}

/// Returns the choice among the matching messages; `None` if all are replayed.
fn choice(state: &AdminState, given: &Parameters) -> Option<Arc<dyn Choice>> {
    given.get(CHANGED)?;
    Some(Arc::new(Changed::in_force(state.store.clone(), &state.planners)))
}

/// Counts for a limited time.
async fn dry_run(
    state: &AdminState,
    selection: &Selection,
    choice: &Option<Arc<dyn Choice>>,
    until: Option<Seq>,
) -> Result<Part, ApiError> {
    let position = until.map(|until| ReplayPosition { after: Seq::default(), until });
    let (selection, choice, now) = (selection.clone(), choice.clone(), state.clock.now());
    let ask = ReplayAsk { selection, position, is_dry_run: true, now, choice };
    let mut part = replay::run(state, ask, COUNT_TIME).await;
    match part.fault.take() {
        Some(fault) => Err(store_fault(fault)),
        None => Ok(part),
    }
}

/// Reads some of the messages, newest first.
async fn examples(state: &AdminState, selection: &Selection) -> Result<Vec<Row>, ApiError> {
    if let [id] = &selection.message_ids[..] {
        let hash = state.store.digests().message_id(id);
        let found = state.store.by_message_id(hash, id).await.map_err(store_fault)?;
        return Ok(found.iter().map(Row::from).collect());
    }
    let of_state = match selection.state {
        ReplayState::Failed => Some(MessageState::Failed),
        ReplayState::Unmatched => Some(MessageState::Unmatched),
        ReplayState::Delivered => Some(MessageState::Delivered),
        ReplayState::Shadowed => Some(MessageState::Shadowed),
        ReplayState::All => None,
    };
    let filter = Filter { state: of_state, ..selection.filter.clone() };
    let page = state.store.list(&filter, None, EXAMPLES).await.map_err(store_fault)?;
    let done = page.messages.iter().filter(|record| record.is_done);
    Ok(done.map(Row::from).collect())
}

/// The fields of the form that replays, besides the conditions.
const CONFIRMED: [&str; 6] = ["until", "expected", "delivered", "after", "replayed", "number"];

/// Replays a part, or all.
pub(super) async fn replay(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    Form(fields): Form<Vec<(String, String)>>,
) -> Response {
    match replay_part(&state, &actor, frame.clone(), fields).await {
        Ok(response) => response,
        Err(error) => error_page(frame, &error),
    }
}

async fn replay_part(
    state: &AdminState,
    actor: &Actor,
    frame: Frame,
    fields: Vec<(String, String)>,
) -> Result<Response, ApiError> {
    if !frame.is_admin {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "viewer_token",
            "You are logged in as a viewer, who changes nothing: log in with an admin token to replay.",
        ));
    }
    let given = Parameters::of_pairs(fields, &[&names()[..], &CONFIRMED].concat())?;
    let whole = |name: &str| match given.get(name) {
        None => Ok(0),
        Some(text) => {
            text.parse().map_err(|_| bad_query(format!("`{name}` must be a whole number")))
        }
    };
    let (after, until, expected) = (whole("after")?, whole("until")?, whole("expected")?);
    let (delivered, before) = (whole("delivered")?, whole("replayed")?);
    let typed = given.get("number").unwrap_or_default();
    let typed: String = typed.chars().filter(char::is_ascii_digit).collect();
    let is_begun = after > 0;
    let chosen = replay_state(given.get("state"))?;
    if !is_begun && must_type(chosen, expected, delivered) && typed != expected.to_string() {
        return Err(ApiError::bad_request(
            "not_confirmed",
            format!(
                "Nothing was replayed: go back and type {}, the number of messages, to confirm.",
                number(expected)
            ),
        ));
    }
    let conditions = given.only(&names(), "state");
    let selection = selection(state, &conditions, chosen).await?;
    let choice = choice(state, &conditions);
    if !is_begun {
        // Messages that were waiting when they were counted may be finished by now.
        let until = Some(Seq(until.cast_signed()));
        let now = dry_run(state, &selection, &choice, until).await?;
        if now.replayed != expected {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "count_changed",
                format!(
                    "Nothing was replayed: there are {} messages now, not {}. Go back and count them again.",
                    number(now.replayed),
                    number(expected)
                ),
            ));
        }
    }
    let position =
        ReplayPosition { after: Seq(after.cast_signed()), until: Seq(until.cast_signed()) };
    let now = state.clock.now();
    let ask = ReplayAsk { selection, position: Some(position), is_dry_run: false, now, choice };
    let part = replay::run_on_record(state, actor, ask, PART_TIME).await.ok_or_else(internal)?;
    if let Some(fault) = part.fault {
        return Err(store_fault(fault));
    }
    let replayed = before.saturating_add(part.replayed);
    let Some(next) = part.next else {
        return Ok(Redirect::to("/console/replay#past").into_response());
    };
    let mut hidden: Vec<(String, String)> =
        conditions.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let state = given.get("state").unwrap_or_default().to_owned();
    hidden.push(("state".to_owned(), state));
    for (name, number) in [
        ("until", next.until.0.unsigned_abs()),
        ("after", next.after.0.unsigned_abs()),
        ("expected", expected),
        ("delivered", delivered),
        ("replayed", replayed),
    ] {
        hidden.push((name.to_owned(), number.to_string()));
    }
    let page = ReplayingPage { frame, replayed, expected, hidden };
    Ok(html(StatusCode::OK, &page))
}

fn internal() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "The replay was interrupted: see the log, and count again what is left.",
    )
}

/// Returns the URL of the page that replays messages with these conditions.
pub(super) fn link(conditions: &[(&str, &str)]) -> String {
    let of = |(name, value): &(&str, &str)| format!("{name}={}", url_encode(value));
    let conditions: Vec<String> = conditions.iter().map(of).collect();
    format!("/console/replay?{}", conditions.join("&"))
}

/// Writes `{"reason": "refused", "subscription": "s"}` as `reason refused, subscription s`.
fn words(arguments: &str) -> String {
    let Ok(serde_json::Value::Object(arguments)) = serde_json::from_str(arguments) else {
        return arguments.to_owned();
    };
    let word = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    };
    arguments.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Writes a duration in the largest unit that is exact enough.
fn words_of_seconds(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..=89 => (seconds.max(1), "second"),
        90..=5_399 => ((seconds + 30) / 60, "minute"),
        _ => ((seconds + 1_800) / 3_600, "hour"),
    };
    count(usize::try_from(number).unwrap_or(usize::MAX), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_and_what_is_much_must_be_confirmed_by_its_number() {
        assert!(!must_type(ReplayState::Failed, 1_000, 0));
        assert!(must_type(ReplayState::Failed, 1_001, 0));
        assert!(must_type(ReplayState::All, 1, 1));
        assert!(must_type(ReplayState::Shadowed, 1, 0));
    }

    #[test]
    fn a_length_of_time_is_given_in_words() {
        for (seconds, expected) in [
            (0, "1 second"),
            (89, "89 seconds"),
            (90, "2 minutes"),
            (5_399, "90 minutes"),
            (36_000, "10 hours"),
        ] {
            assert_eq!(words_of_seconds(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn arguments_are_shown_in_words() {
        let arguments = r#"{"state": "failed", "messageIds": 2}"#;
        assert_eq!(words(arguments), "state failed, messageIds 2");
        assert_eq!(words("nothing"), "nothing");
    }
}
