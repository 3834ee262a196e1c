//! The mapping editor: what a changed subscription would do to messages that were received. It never writes the
//! configuration, which is a file that people keep elsewhere.

use askama::Template;
use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Extension, Form, Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;

use super::frame::Frame;
use super::parts::{Badge, Time};
use super::render::{error_page, html};
use crate::config::text_extension;
use crate::console::audit::{Actor, record};
use crate::console::compare::difference::{Line, Mark};
use crate::console::compare::draft::DraftProblem;
use crate::console::compare::view::{ComparedMessage, words};
use crate::console::compare::{Ask, Compared, Comparing, Draft, LAST_MAX, SHOWN_MAX};
use crate::console::filter;
use crate::console::query::Parameters;
use crate::console::state::AdminState;
use crate::destination::{Change, Destination};
use crate::http::error::ApiError;
use crate::queue::{AuditAction, Filter, MessageState, Seq};

/// The largest form, in bytes.
pub(super) const FORM_BYTES_MAX: usize = 256 * 1024;

/// How many unchanged lines are shown before and after changed ones.
const CONTEXT: usize = 2;

/// The fewest lines that are folded.
const FOLDED_MIN: usize = 4;

/// The most characters of a field's value that are shown.
const VALUE_CHARS_MAX: usize = 200;

#[derive(Template)]
#[template(path = "editor.html")]
struct EditorPage {
    frame: Frame,
    destination: String,
    name: String,
    text: String,
    choice: Choice,
    problems: Vec<DraftProblem>,
    result: Option<Shown>,
}

/// Which messages to compare.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice {
    /// `failed`, or anything for all.
    only: String,
    /// Digests of persons, as in the URL of a list.
    person: String,
    /// The message that comes first.
    message: String,
}

/// The form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    text: String,
    last: String,
    #[serde(rename = "do")]
    act: String,
    only: String,
    person: String,
    message: String,
}

struct Shown {
    compared: Compared,
    messages: Vec<Row>,
    cases: Option<String>,
    examined: String,
}

/// A message that was compared.
struct Row {
    badge: Badge,
    title: String,
    message_id: String,
    seq: Option<i64>,
    received_at: Option<Time>,
    is_open: bool,
    error: Option<String>,
    warnings: Vec<String>,
    blocks: Vec<Block>,
    /// Name, value, origin.
    fields: Vec<(String, String, String)>,
}

/// A block of lines, shown or folded.
struct Block {
    is_folded: bool,
    lines: Vec<Line>,
}

impl Block {
    /// Returns the HTML element for a line.
    fn element(line: &Line) -> &'static str {
        match line.mark {
            Mark::Same => "span",
            Mark::Added => "ins",
            Mark::Removed => "del",
        }
    }
}

impl From<Change> for Badge {
    fn from(change: Change) -> Self {
        let (icon, tone) = match change {
            Change::Same => ("=", "muted"),
            Change::Changed => ("±", "warn"),
            Change::NewlyTaken => ("+", "good"),
            Change::NoLongerTaken => ("−", "warn"),
            Change::Error => ("✕", "bad"),
            Change::Warning => ("!", "warn"),
        };
        Badge { word: words(change), icon, tone }
    }
}

type Place = Result<Path<(String, String)>, PathRejection>;

/// Shows the page of a subscription in force.
pub(super) async fn page(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    place: Place,
    uri: Uri,
) -> Response {
    let given = match Parameters::of_form(&uri, &["only", "person", "message"]) {
        Ok(given) => given,
        Err(error) => return error_page(frame, &error),
    };
    let text = |name| given.get(name).unwrap_or_default().to_owned();
    let choice = Choice { only: text("only"), person: text("person"), message: text("message") };
    let wanted = Wanted { choice, text: None, last: SHOWN_MAX, is_recorded: true };
    show(&state, &actor, frame, place, wanted).await
}

/// Shows the page with a changed text.
pub(super) async fn try_it(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    place: Place,
    form: Result<Form<Written>, FormRejection>,
) -> Response {
    if !frame.is_admin {
        // How many messages a trigger takes would reveal what they hold.
        let text = "Only admins can try changes: a trigger could reveal what messages hold.";
        return error_page(frame, &ApiError::new(StatusCode::FORBIDDEN, "viewer", text));
    }
    let written = match form {
        Ok(Form(written)) => written,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let text = format!("The text is too long: at most {FORM_BYTES_MAX} bytes are read.");
            return error_page(frame, &ApiError::too_large(text));
        }
        Err(_) => {
            let error = ApiError::bad_request("bad_form", "The form could not be read.");
            return error_page(frame, &error);
        }
    };
    // Browsers end the lines of a form in their own way.
    let text = written.text.replace("\r\n", "\n");
    if written.act == "download" {
        return download(text);
    }
    let Written { last, only, person, message, .. } = written;
    let is_usual = only.is_empty() && person.is_empty() && message.is_empty();
    let wanted = Wanted {
        choice: Choice { only, person, message },
        text: Some(text),
        // A form without a number comes from the script. The page that the script updates was recorded already, unless
        // other messages are chosen.
        is_recorded: !last.is_empty() || !is_usual,
        last: if last == "1000" { LAST_MAX } else { SHOWN_MAX },
    };
    show(&state, &actor, frame, place, wanted).await
}

fn download(text: String) -> Response {
    let name = format!("attachment; filename=\"subscription.{}\"", text_extension(&text));
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    (headers, text).into_response()
}

/// What to show.
struct Wanted {
    choice: Choice,
    /// The changed text.
    text: Option<String>,
    /// How many messages are compared.
    last: usize,
    /// Whether to record that contents were shown.
    is_recorded: bool,
}

async fn show(
    state: &AdminState,
    actor: &Actor,
    frame: Frame,
    place: Place,
    wanted: Wanted,
) -> Response {
    let Wanted { choice, text, last, is_recorded } = wanted;
    let found = place.ok().and_then(|Path((destination, name))| {
        let planner = state.planner(Some(&destination))?;
        planner.subscription(&name)?;
        Some((destination, name, planner))
    });
    let Some((destination, name, planner)) = found else {
        let text = "No subscription in force has this name: it was renamed or removed, or the address is wrong.";
        let error = ApiError::new(StatusCode::NOT_FOUND, "unknown_subscription", text);
        return error_page(frame, &error);
    };
    let in_force = planner.subscription(&name).map(|one| one.written().to_text());
    let is_changed = text.is_some();
    let text = text.or(in_force).unwrap_or_default();
    let (problems, result) = match draft(&text, &name, &planner, is_changed) {
        Err(problems) => (problems, None),
        Ok(draft) => match compare(state, &destination, draft, &choice, last).await {
            Ok(shown) => (Vec::new(), Some(shown)),
            Err(error) => return error_page(frame, &error),
        },
    };
    let shown = result.as_ref().map_or(0, |result| result.messages.len());
    let has_cases = result.as_ref().is_some_and(|result| result.cases.is_some());
    if is_recorded && frame.is_admin && (shown > 0 || has_cases) {
        let arguments = json!({"destination": destination, "subscription": name});
        let result = format!("{shown} messages were shown");
        record(state, actor, AuditAction::ShowContents, &arguments, result).await;
    }
    // A text is often wrong while somebody is writing it: that is no failure of the page.
    html(StatusCode::OK, &EditorPage { frame, destination, name, text, choice, problems, result })
}

fn draft(
    text: &str,
    name: &str,
    planner: &Destination,
    is_changed: bool,
) -> Result<Draft, Vec<DraftProblem>> {
    match planner.subscription(name) {
        Some(one) if !is_changed => Draft::unchanged(one.written(), planner),
        _ => Draft::of_text(text, Some(name), planner),
    }
}

async fn compare(
    state: &AdminState,
    destination: &str,
    draft: Draft,
    choice: &Choice,
    last: usize,
) -> Result<Shown, ApiError> {
    let persons = match choice.person.trim() {
        "" => Vec::new(),
        person => filter::parse_persons(person).ok_or_else(|| {
            ApiError::bad_request(
                "bad_query",
                "`person` must be a digest, as in the links of the console's search",
            )
        })?,
    };
    let first = match choice.message.trim() {
        "" => None,
        seq => Some(Seq(seq.parse().map_err(|_| {
            ApiError::bad_request("bad_query", "`message` must be the number of a message")
        })?)),
    };
    let filter = Filter {
        persons,
        state: (choice.only == "failed").then_some(MessageState::Failed),
        destination: Some(destination.to_owned()),
        ..Filter::default()
    };
    let ask = Ask { filter, last, first };
    let mut comparing = Comparing::of_draft(draft, last, state.turns.clone(), state.turn.clone());
    if state.planners.len() > 1 {
        comparing = comparing.name_destination(destination);
    }
    let (mut compared, cases) = comparing.with_received(&*state.store, &ask).await?.finish();
    let messages = std::mem::take(&mut compared.messages).into_iter().map(row).collect();
    Ok(Shown { examined: compared.looked.to_string(), messages, cases, compared })
}

fn row(message: ComparedMessage) -> Row {
    let shown = |value: Option<serde_json::Value>| {
        let text = value.map_or("(nothing)".to_owned(), |value| value.to_string());
        match text.char_indices().nth(VALUE_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    let warnings = message.after.as_ref().map(|side| side.warnings.clone()).unwrap_or_default();
    let is_same = message.change == Change::Same;
    let side = message.after.or(message.before);
    Row {
        badge: message.change.into(),
        title: message.event.unwrap_or_else(|| message.r#type.as_str().to_owned()),
        message_id: message.message_id,
        seq: message.seq,
        received_at: message.received_at.map(Time),
        is_open: !is_same,
        error: side.and_then(|side| side.error),
        warnings,
        blocks: fold(message.difference),
        fields: message
            .fields
            .into_iter()
            .map(|field| (field.name, shown(field.value), field.from))
            .collect(),
    }
}

/// Folds the lines that are far from changed ones. If no line changes, shows them all.
fn fold(lines: Vec<Line>) -> Vec<Block> {
    let changed: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].mark != Mark::Same).collect();
    let is_near = |at: usize| {
        let next = changed.partition_point(|changed| *changed < at);
        let near = |changed: Option<&usize>| changed.is_some_and(|one| one.abs_diff(at) <= CONTEXT);
        near(changed.get(next)) || near(next.checked_sub(1).and_then(|before| changed.get(before)))
    };
    let mut blocks: Vec<Block> = Vec::new();
    for (at, line) in lines.into_iter().enumerate() {
        let is_folded = !changed.is_empty() && !is_near(at);
        match blocks.last_mut() {
            Some(block) if block.is_folded == is_folded => block.lines.push(line),
            _ => blocks.push(Block { is_folded, lines: vec![line] }),
        }
    }
    let is_short = |block: &&mut Block| block.lines.len() < FOLDED_MIN;
    blocks.iter_mut().filter(is_short).for_each(|block| block.is_folded = false);
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_far_from_a_change_are_folded() {
        let fold = |marks: &str| {
            let mark = |c| match c {
                '+' => Mark::Added,
                '-' => Mark::Removed,
                _ => Mark::Same,
            };
            let lines =
                marks.chars().map(|c| Line { mark: mark(c), text: String::new() }).collect();
            let shown = fold(lines);
            shown.iter().map(|one| (one.is_folded, one.lines.len())).collect::<Vec<_>>()
        };
        assert_eq!(fold("......"), [(false, 6)]);
        assert_eq!(fold("......+......"), [(true, 4), (false, 5), (true, 4)]);
        assert_eq!(fold(".....+..-....."), [(false, 3), (false, 8), (false, 3)]);
        assert_eq!(fold("+"), [(false, 1)]);
        assert_eq!(fold(""), []);
    }
}
