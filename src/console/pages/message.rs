//! Everything about one message.

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::frame::Frame;
use super::parts::{Badge, Time, why};
use super::{error_page, html};
use crate::action::Endpoint;
use crate::console::state::{AdminState, store_fault};
use crate::http::error::ApiError;
use crate::queue::{
    Attempt, DeliveryRecord, MessageRecord, MessageState, RequestRecord, Seq, cause,
};

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage {
    frame: Frame,
    title: String,
    kind: &'static str,
    message_id: String,
    seq: i64,
    badge: Badge,
    /// What became of it, in a sentence.
    verdict: String,
    received_at: Time,
    source: String,
    destination: String,
    warnings: Vec<String>,
    replay: u32,
    steps: Vec<Step>,
}

/// The delivery under one subscription.
struct Step {
    badge: Badge,
    subscription: String,
    action: &'static str,
    replay: u32,
    is_superseded: bool,
    /// Why it failed.
    failure: Option<String>,
    warnings: Vec<String>,
    request: Option<Request>,
}

struct Request {
    line: String,
    idempotency_key: Option<String>,
    next_attempt_at: Option<Time>,
    attempts: Vec<Try>,
}

struct Try {
    number: u32,
    started_at: Time,
    took: String,
    status: Option<u16>,
    outcome: &'static str,
    answer: String,
}

/// The page of a message.
pub(super) async fn page(
    State(state): State<AdminState>,
    frame: Frame,
    seq: Result<Path<i64>, PathRejection>,
) -> Response {
    let found = match seq {
        Ok(Path(seq)) => find(&state, Seq(seq)).await,
        Err(_) => Ok(None),
    };
    match found {
        Ok(Some(record)) => html(StatusCode::OK, &show(frame, &record)),
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

async fn find(state: &AdminState, seq: Seq) -> Result<Option<MessageRecord>, ApiError> {
    state.log.message(seq).await.map_err(store_fault)
}

fn show(frame: Frame, record: &MessageRecord) -> MessagePage {
    // What Loops said, and what a failure is about, may hold values of the message.
    let say = |text: &str| if frame.is_admin { text.to_owned() } else { cause(text) };
    let kind = record.kind.as_str();
    MessagePage {
        title: record.event.clone().unwrap_or_else(|| kind.to_owned()),
        kind,
        message_id: record.message_id.clone(),
        seq: record.seq.0,
        badge: record.state().into(),
        verdict: verdict(record, say),
        received_at: Time(record.received_at),
        source: record.source.clone(),
        destination: record.destination.clone(),
        warnings: record.warnings.clone(),
        replay: record.replay,
        steps: record.deliveries.iter().map(|delivery| step(delivery, say)).collect(),
        frame,
    }
}

/// What became of a message, in a sentence.
fn verdict(record: &MessageRecord, say: impl Fn(&str) -> String) -> String {
    let standing = || record.deliveries.iter().filter(|delivery| !delivery.is_superseded);
    match record.state() {
        MessageState::Delivered => match standing().count() {
            1 => "Loops has taken it.".to_owned(),
            more => format!("Loops has taken it, under {more} subscriptions."),
        },
        MessageState::Failed => {
            let failure = standing().find_map(|delivery| delivery.failure.as_ref());
            match failure {
                Some(failure) => format!("It failed: {}.", why(failure, say).trim_end_matches('.')),
                None => "It failed.".to_owned(),
            }
        }
        MessageState::Unmatched => {
            let detail = record.unmatched.as_ref().map(|unmatched| say(&unmatched.detail));
            format!("No subscription took it: {}", detail.unwrap_or_default())
        }
        MessageState::Pending if record.deliveries.is_empty() => {
            "It waits for its turn: it is not planned yet.".to_owned()
        }
        MessageState::Pending => "It is planned, and waits for Loops to take it.".to_owned(),
    }
}

fn step(delivery: &DeliveryRecord, say: impl Fn(&str) -> String) -> Step {
    Step {
        badge: delivery.state.into(),
        subscription: delivery
            .subscription
            .clone()
            .unwrap_or_else(|| "before any subscription".to_owned()),
        action: delivery.action.map_or("", |action| action.as_str()),
        replay: delivery.replay,
        is_superseded: delivery.is_superseded,
        failure: delivery.failure.as_ref().map(|failure| why(failure, &say)),
        warnings: delivery.warnings.clone(),
        request: delivery.request.as_ref().map(|request| of_request(request, &say)),
    }
}

fn of_request(request: &RequestRecord, say: &impl Fn(&str) -> String) -> Request {
    let line = |endpoint: Endpoint| format!("{} {}", endpoint.method(), endpoint.path());
    Request {
        line: request.endpoint.map_or_else(|| "a request of a later version".to_owned(), line),
        idempotency_key: request.idempotency_key.clone(),
        next_attempt_at: request.next_attempt_at.map(Time),
        attempts: request.attempts.iter().map(|attempt| of_attempt(attempt, say)).collect(),
    }
}

fn of_attempt(attempt: &Attempt, say: &impl Fn(&str) -> String) -> Try {
    Try {
        number: attempt.number,
        started_at: Time(attempt.started_at),
        took: format!("{} ms", attempt.duration.as_millis()),
        status: attempt.status,
        outcome: attempt.outcome.as_str(),
        answer: say(&attempt.excerpt),
    }
}
