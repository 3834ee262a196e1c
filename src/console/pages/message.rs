//! Everything about one message.

use askama::Template;
use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Form};

use super::frame::Frame;
use super::parts::{Badge, Note, Time, json, segment};
use super::render::{error_page, html};
use super::replay;
use super::sent::{self, Sight, Step};
use super::wish::{self, Wish, Wished};
use crate::action::ActionKind;
use crate::console::asker::Events;
use crate::console::audit::Actor;
use crate::console::compare::case;
use crate::console::filter::write_persons;
use crate::console::numbers::capitalized;
use crate::console::preview::{Preview, PreviewedSubscription};
use crate::console::state::{AdminState, store_fault};
use crate::console::verdict::Verdict;
use crate::console::{mask, person};
use crate::http::error::ApiError;
use crate::queue::{DeliveryState, FeedbackRecord, MessageRecord, Seq, cause};
use crate::segment::Message;

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage {
    frame: Frame,
    title: String,
    kind: &'static str,
    message_id: String,
    seq: i64,
    badge: Badge,
    verdict: Verdict,
    received_at: Time,
    source: String,
    destination: String,
    warnings: Vec<String>,
    replay: u32,
    steps: Vec<Step>,
    /// What Loops has reported since, oldest first.
    notes: Vec<Note>,
    /// The answer of Loops to a question.
    answer: Option<String>,
    /// Whether Loops can be asked for the event that was sent.
    can_ask: bool,
    /// The URL of the page that replays it; `None` while it waits, and without contents.
    replay_link: Option<String>,
    contents: Option<Shown>,
}

/// The contents of a message, and what the subscriptions make of them.
struct Shown {
    is_masked: bool,
    /// The URL of the person's page.
    person: String,
    message: String,
    /// Why no subscription is tried.
    turned_off: Option<String>,
    plans: Vec<Planned>,
    /// Whether the section is open: if no subscription took the message, people look here first.
    is_open: bool,
    /// The message as a case for `check --cases`, unless it is masked or too long.
    case: Option<String>,
}

/// What a subscription in force makes of the message.
struct Planned {
    subscription: String,
    action: &'static str,
    trigger: String,
    badge: Badge,
    why_not: Option<String>,
    error: Option<String>,
    warnings: Vec<String>,
    fields: Vec<Field>,
    request: Option<Body>,
    /// How the request compares with the one that was sent.
    compared: &'static str,
    /// The URL of the mapping editor, with this message.
    editor: String,
}

struct Field {
    name: String,
    from: String,
    value: String,
}

struct Body {
    line: String,
    body: String,
}

/// Shows the page of a message.
pub(super) async fn page(
    State(state): State<AdminState>,
    frame: Frame,
    seq: Result<Path<i64>, PathRejection>,
) -> Response {
    shown(&state, frame, seq, None).await
}

/// Shows the page with details that only admins can ask for.
pub(super) async fn ask(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    seq: Result<Path<i64>, PathRejection>,
    form: Result<Form<Wished>, FormRejection>,
) -> Response {
    let arguments = serde_json::json!({"message": seq.as_ref().map_or(0, |Path(seq)| *seq)});
    match wish::grant(&state, &actor, &frame, form, &arguments).await {
        Ok(wish) => shown(&state, frame, seq, wish).await,
        Err(error) => error_page(frame, &error),
    }
}

async fn shown(
    state: &AdminState,
    frame: Frame,
    seq: Result<Path<i64>, PathRejection>,
    wish: Option<Wish>,
) -> Response {
    let found = match seq {
        Ok(Path(seq)) => show(state, frame.clone(), Seq(seq), wish).await,
        Err(_) => Ok(None),
    };
    match found {
        Ok(Some(page)) => html(StatusCode::OK, &page),
        Ok(None) => {
            let error = ApiError::new(
                StatusCode::NOT_FOUND,
                "unknown_message",
                "No message has this number: its record has expired (store.records_retention_h), or it was replayed, which gives it a new number. Search for its message id.",
            );
            error_page(frame, &error)
        }
        Err(error) => error_page(frame, &error),
    }
}

async fn show(
    state: &AdminState,
    frame: Frame,
    seq: Seq,
    wish: Option<Wish>,
) -> Result<Option<MessagePage>, ApiError> {
    let Some(record) = state.store.message(seq).await.map_err(store_fault)? else {
        return Ok(None);
    };
    let message = person::message_of(state, seq).await?;
    let feedback = match &message {
        Some(message) => person::feedback_of(state, message).await?,
        None => Vec::new(),
    };
    let is_masked = wish != Some(Wish::Contents);
    let preview = message.as_ref().and_then(|message| {
        Some(Preview::of(&*state.planner(Some(&record.destination))?, message))
    });
    let event = preview.as_ref().and_then(|preview| sent_event(preview, &record));
    let (events, answer) = match (&event, wish) {
        (Some(event), Some(Wish::Events)) => match state.asker.events(&record.destination).await {
            Ok(events) => {
                let answer = about_event(event, &events);
                (Some(events), Some(answer))
            }
            Err(error) => (None, Some(format!("{}.", capitalized(&error.to_string())))),
        },
        _ => (None, None),
    };
    // Loops' responses and the details of failures may hold values of the message.
    let is_admin = frame.is_admin;
    let say = |text: &str| if is_admin { text.to_owned() } else { cause(text) };
    let asked = event.as_deref().zip(events.as_ref());
    let verdict = person::judge_one(state, &record, &feedback, asked, say).await?;
    let steps =
        sent::steps(state, &record, preview.as_ref(), Sight { is_admin, is_masked }).await?;
    let contents = message.as_ref().map(|message| Shown {
        is_open: record.deliveries.is_empty() && record.is_done,
        case: (!is_masked).then(|| as_case(state, &record, message)).flatten(),
        ..contents(state, &record, message, preview.as_ref(), &steps, is_masked)
    });
    let seq = record.seq.0.to_string();
    let conditions = [("state", record.state().as_str()), ("message", &*seq)];
    let notes = reported(&feedback, &record);
    let kind = record.kind.as_str();
    Ok(Some(MessagePage {
        title: record.event.clone().unwrap_or_else(|| kind.to_owned()),
        kind,
        message_id: record.message_id.clone(),
        seq: record.seq.0,
        badge: record.state().into(),
        verdict,
        received_at: Time(record.received_at),
        source: record.source.clone(),
        destination: record.destination.clone(),
        warnings: record.warnings.clone(),
        replay: record.replay,
        steps,
        notes,
        replay_link: (record.is_done && contents.is_some()).then(|| replay::link(&conditions)),
        can_ask: is_admin && event.is_some(),
        answer,
        contents,
        frame,
    }))
}

/// Returns the name of the event that was sent to Loops, by the mapping in force.
fn sent_event(preview: &Preview, record: &MessageRecord) -> Option<String> {
    let was_sent = record.deliveries.iter().any(|delivery| {
        delivery.action == Some(ActionKind::SendEvent) && delivery.state == DeliveryState::Delivered
    });
    let name = |subscription: &PreviewedSubscription| {
        let request = subscription.request.as_ref()?;
        Some(request.body.get("eventName")?.as_str()?.to_owned())
    };
    was_sent.then(|| preview.subscriptions.iter().find_map(name))?
}

/// Says what Loops answered about an event.
fn about_event(event: &str, events: &Events) -> String {
    let count = events.names.len();
    match (events.names.iter().any(|name| name == event), events.is_complete) {
        (true, _) => format!(
            "Loops lists “{event}” among the events that a workflow can start with, but does not say whether one does."
        ),
        (false, true) => {
            format!("Loops lists {count} events that a workflow can start with, and not “{event}”.")
        }
        (false, false) => format!(
            "Loops lists more events than were asked for: “{event}” is not among the first {count}."
        ),
    }
}

/// Returns what Loops has reported since, oldest first.
fn reported(feedback: &[FeedbackRecord], record: &MessageRecord) -> Vec<Note> {
    let mut notes: Vec<Note> = person::since(feedback, record).map(Note::from).collect();
    notes.reverse();
    notes
}

fn contents(
    state: &AdminState,
    record: &MessageRecord,
    message: &Message,
    preview: Option<&Preview>,
    steps: &[Step],
    is_masked: bool,
) -> Shown {
    let digests: Vec<_> =
        person::known_ids(state, message).into_iter().map(|id| id.digest).collect();
    let value = serde_json::from_str(&message.value().to_json()).unwrap_or_default();
    let mask = |value: serde_json::Value, mask: fn(&serde_json::Value) -> serde_json::Value| {
        json(&if is_masked { mask(&value) } else { value })
    };
    let planned = |subscription: &PreviewedSubscription| Planned {
        subscription: subscription.subscription.clone(),
        action: subscription.action.as_str(),
        trigger: subscription.trigger.clone(),
        badge: match (subscription.matched, &subscription.error) {
            (false, _) => Badge { word: "not taken", icon: "○", tone: "muted" },
            (true, Some(_)) => Badge { word: "would fail", icon: "✕", tone: "bad" },
            (true, None) => Badge { word: "taken", icon: "✓", tone: "good" },
        },
        why_not: subscription.why_not.as_deref().map(|why_not| match is_masked {
            true => masked_why_not(why_not).to_owned(),
            false => why_not.to_owned(),
        }),
        error: subscription.error.as_deref().map(|error| match is_masked {
            true => cause(error),
            false => error.to_owned(),
        }),
        warnings: subscription.warnings.clone(),
        fields: subscription
            .fields
            .iter()
            .map(|field| Field {
                name: field.name.clone(),
                from: field.from.clone(),
                value: match &field.value {
                    // The name of the event is no secret.
                    Some(value) if field.name == "eventName" => json(value),
                    Some(value) => mask(value.clone(), mask::value),
                    None => "nothing".to_owned(),
                },
            })
            .collect(),
        editor: format!(
            "/console/subscriptions/{}/{}?message={}",
            segment(&record.destination),
            segment(&subscription.subscription),
            record.seq.0
        ),
        request: subscription.request.as_ref().map(|request| Body {
            line: format!("{} {}", request.method, request.path),
            body: mask(request.body.clone(), mask::body),
        }),
        compared: compared(&subscription.subscription, steps),
    };
    Shown {
        is_masked,
        person: format!("/console/people/{}", write_persons(&digests)),
        message: mask(value, mask::message),
        turned_off: preview.and_then(|preview| preview.detail.clone()).filter(|_| {
            preview.is_some_and(|preview| preview.subscriptions.iter().any(|one| one.matched))
        }),
        plans: preview
            .map(|preview| preview.subscriptions.iter().map(planned).collect())
            .unwrap_or_default(),
        is_open: false,
        case: None,
    }
}

/// Says how the request that a subscription would make now compares with what it sent.
fn compared(subscription: &str, steps: &[Step]) -> &'static str {
    let mut standing = steps.iter().filter(|step| !step.is_superseded);
    let step = standing.find(|step| step.subscription == subscription);
    match step.and_then(|step| step.request.as_ref()) {
        Some(request) if request.attempts.is_empty() => "",
        Some(request) if !request.merged_with.is_empty() => {
            "It was sent merged with other messages."
        }
        Some(request) => match request.is_as_planned {
            Some(true) => "The same request was sent.",
            Some(false) => "A different request was sent: the mapping has been changed since.",
            None => "",
        },
        None => "",
    }
}

/// Returns the message as a file for `check --cases`.
fn as_case(state: &AdminState, record: &MessageRecord, message: &Message) -> Option<String> {
    let planner = state.planner(Some(&record.destination))?;
    // With a single destination, a case need not name it.
    let destination = (state.planners.len() > 1).then_some(record.destination.as_str());
    Some(case::file(vec![case::case(message, &planner.plan(message), destination)?]))
}

/// Returns why a trigger does not match, without values of the message. The type of the message and the name of its
/// event are not secret.
fn masked_why_not(why_not: &str) -> &str {
    let is_plain = ["type is ", "event is ", "it is disabled"]
        .iter()
        .any(|beginning| why_not.starts_with(beginning) && !why_not.contains("; "));
    if is_plain { why_not } else { "its trigger does not match" }
}
