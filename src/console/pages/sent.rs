//! The deliveries of a message: the requests as they were sent, the attempts, and the messages that were merged into
//! them.

use std::collections::HashMap;

use serde_json::Value;

use super::parts::{Badge, Time, json};
use crate::action::Endpoint;
use crate::console::mask;
use crate::console::preview::Preview;
use crate::console::reasons::{why, why_not_needed};
use crate::console::state::{AdminState, store_fault};
use crate::console::verdict::again_by_itself;
use crate::http::error::ApiError;
use crate::queue::{
    Attempt, DeliveryRecord, DeliveryState, MessageRecord, RequestContents, RequestId,
    RequestRecord, cause,
};

/// How many requests show their bodies, the latest of a message, and how many bodies are in memory at once.
const SHOWN_MAX: usize = 50;
const READ_AT_ONCE: usize = 4;

/// The most messages of a merged request that a page links to.
const MERGED_SHOWN_MAX: usize = 20;

/// A delivery under one subscription.
pub(super) struct Step {
    pub(super) badge: Badge,
    pub(super) subscription: String,
    pub(super) action: &'static str,
    pub(super) replay: u32,
    pub(super) is_superseded: bool,
    /// Why the delivery failed.
    pub(super) failure: Option<String>,
    /// Says that the event waits for its contact; empty if it does not.
    pub(super) awaits: String,
    /// Why the delivery has no request, although it counts as delivered.
    pub(super) not_needed: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) request: Option<Request>,
}

pub(super) struct Request {
    pub(super) line: String,
    /// The request line, the headers and the body.
    pub(super) text: String,
    pub(super) has_body: bool,
    /// Whether the request was not sent because of shadow mode.
    pub(super) is_shadowed: bool,
    /// Other messages that the request carries, and how many more there are.
    pub(super) merged_with: Vec<i64>,
    pub(super) more_merged: usize,
    /// Whether the subscriptions in force make the same request; `None` if the request was not tried, was merged or has
    /// lost its body, or if they make none.
    pub(super) is_as_planned: Option<bool>,
    pub(super) next_attempt_at: Option<Time>,
    pub(super) attempts: Vec<Try>,
}

pub(super) struct Try {
    pub(super) number: u32,
    pub(super) started_at: Time,
    pub(super) took: String,
    pub(super) status: Option<u16>,
    pub(super) outcome: &'static str,
    pub(super) answer: String,
}

/// How much a visitor sees of a message.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    pub(super) is_admin: bool,
    /// Whether values are masked.
    pub(super) is_masked: bool,
}

/// What is kept of a request besides its record.
#[derive(Clone, Default)]
struct Kept {
    body: Option<String>,
    merged_with: Vec<i64>,
    more_merged: usize,
    is_as_planned: Option<bool>,
}

/// Returns the deliveries of a message. `preview` is what the subscriptions in force make of it.
pub(super) async fn steps(
    state: &AdminState,
    record: &MessageRecord,
    preview: Option<&Preview>,
    sight: Sight,
) -> Result<Vec<Step>, ApiError> {
    let requests = record.deliveries.iter().rev().filter_map(|one| one.request.as_ref());
    let mut ids: Vec<RequestId> = requests.map(|request| request.id).collect();
    ids.dedup();
    ids.truncate(SHOWN_MAX);
    let mut kept: HashMap<RequestId, Kept> = HashMap::new();
    for ids in ids.chunks(READ_AT_ONCE) {
        for contents in state.store.request_contents(ids).await.map_err(store_fault)? {
            let bytes = contents.body.as_ref().map_or(0, |body| body.len());
            let read = || read(&contents, record, preview, sight);
            kept.insert(contents.id, state.turns.decode(bytes, read).await);
        }
    }
    let of = |delivery: &DeliveryRecord| {
        let request = delivery.request.as_ref();
        let request = request.map(|request| {
            let kept = kept.get(&request.id).cloned().unwrap_or_default();
            let is_shadowed = delivery.state == DeliveryState::Shadowed;
            Request { is_shadowed, ..of_request(request, kept, sight) }
        });
        step(delivery, request, sight)
    };
    Ok(record.deliveries.iter().map(of).collect())
}

fn read(
    contents: &RequestContents,
    record: &MessageRecord,
    preview: Option<&Preview>,
    sight: Sight,
) -> Kept {
    let others = || contents.seqs.iter().filter(|seq| **seq != record.seq);
    let body: Option<Value> =
        contents.body.as_ref().map(|body| serde_json::from_slice(body).unwrap_or_default());
    let is_as_planned = match &body {
        Some(body) if others().next().is_none() => {
            is_as_planned(contents.id, body, record, preview)
        }
        _ => None,
    };
    Kept {
        body: body.map(|body| json(&if sight.is_masked { mask::body(&body) } else { body })),
        merged_with: others().take(MERGED_SHOWN_MAX).map(|seq| seq.0).collect(),
        more_merged: others().skip(MERGED_SHOWN_MAX).count(),
        is_as_planned,
    }
}

/// Returns whether the subscriptions in force make the request that was sent.
fn is_as_planned(
    id: RequestId,
    body: &Value,
    record: &MessageRecord,
    preview: Option<&Preview>,
) -> Option<bool> {
    let its = |one: &&DeliveryRecord| one.request.as_ref().is_some_and(|request| request.id == id);
    let mut its = record.deliveries.iter().filter(its);
    // Several deliveries of this same message may be merged into the request.
    let (delivery, None) = (its.next()?, its.next()) else { return None };
    let endpoint = delivery.request.as_ref().filter(|one| !one.attempts.is_empty())?.endpoint?;
    let name = delivery.subscription.as_deref()?;
    let now = preview?.subscriptions.iter().find(|one| one.subscription == name)?;
    let now = now.request.as_ref()?;
    Some((now.method, now.path) == (endpoint.method(), endpoint.path()) && now.body == *body)
}

fn step(delivery: &DeliveryRecord, request: Option<Request>, sight: Sight) -> Step {
    // The details of a failure may hold values of the message.
    let say = |text: &str| if sight.is_admin { text.to_owned() } else { cause(text) };
    let before_any = || "before any subscription".to_owned();
    Step {
        badge: delivery.state.into(),
        subscription: delivery.subscription.clone().unwrap_or_else(before_any),
        action: delivery.action.map_or("", |action| action.as_str()),
        replay: delivery.replay,
        is_superseded: delivery.is_superseded,
        failure: delivery.failure.as_ref().map(|failure| why(failure, say)),
        awaits: delivery.awaits_contact_until.map(again_by_itself).unwrap_or_default(),
        not_needed: delivery.not_needed.as_ref().map(why_not_needed),
        warnings: delivery.warnings.clone(),
        request,
    }
}

fn of_request(request: &RequestRecord, kept: Kept, sight: Sight) -> Request {
    let line = |endpoint: Endpoint| format!("{} {}", endpoint.method(), endpoint.path());
    let line = request.endpoint.map_or_else(|| "a request of a later version".to_owned(), line);
    let key = request.idempotency_key.as_ref().map(|key| format!("\nIdempotency-Key: {key}"));
    let body = kept.body.as_ref().map(|body| format!("\n\n{body}"));
    Request {
        text: format!(
            "{line}\nContent-Type: application/json{}{}",
            key.unwrap_or_default(),
            body.unwrap_or_default()
        ),
        line,
        has_body: kept.body.is_some(),
        is_shadowed: false,
        merged_with: kept.merged_with,
        more_merged: kept.more_merged,
        is_as_planned: kept.is_as_planned,
        next_attempt_at: request.next_attempt_at.map(Time),
        attempts: request.attempts.iter().map(|attempt| of_attempt(attempt, sight)).collect(),
    }
}

fn of_attempt(attempt: &Attempt, sight: Sight) -> Try {
    Try {
        number: attempt.number,
        started_at: Time(attempt.started_at),
        took: format!("{} ms", attempt.duration.as_millis()),
        status: attempt.status,
        outcome: attempt.outcome.as_str(),
        // The raw response may repeat any value of the message.
        answer: match sight.is_admin {
            true => attempt.excerpt.clone(),
            false => "shown to admins".to_owned(),
        },
    }
}
