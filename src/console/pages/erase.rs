//! Erases a person: asks for confirmation, then accepts a deletion for each chosen id. From then on it is like any
//! message of type `delete`: Loops deletes the contact, and then its contents here are erased.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};

use super::frame::Frame;
use super::parts::only_for_admins;
use super::person::{digests, kind_name};
use super::render::{error_page, html};
use crate::console::audit::{self, Actor};
use crate::console::filter::write_persons;
use crate::console::mask;
use crate::console::numbers::count;
use crate::console::person::{KnownId, Person};
use crate::console::preview::Preview;
use crate::console::state::{AdminState, store_fault};
use crate::http::error::ApiError;
use crate::queue::{self, AcceptError, AuditAction, NewReceipt, Unavailable};
use crate::segment::PersonIdKind;

#[derive(Template)]
#[template(path = "erase.html")]
struct ErasePage {
    frame: Frame,
    digests: String,
    ids: Vec<Choice>,
    /// What would be sent for a deletion, by destination.
    effects: Vec<Effect>,
    is_possible: bool,
    problem: Option<&'static str>,
}

/// An id to choose.
struct Choice {
    kind: &'static str,
    value: String,
    digest: String,
    messages: String,
    is_chosen: bool,
}

/// The effect of a deletion at a destination.
struct Effect {
    destination: String,
    /// The request; `None` if no subscription takes deletions, or none can send one.
    request: Option<String>,
    /// Why there is no request.
    why_not: String,
}

/// Asks for confirmation.
pub(super) async fn page(
    State(state): State<AdminState>,
    frame: Frame,
    persons: Result<Path<String>, PathRejection>,
) -> Response {
    match show(&state, frame.clone(), &persons, None).await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(error) => error_page(frame, &error),
    }
}

/// Accepts the deletions.
pub(super) async fn erase(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    persons: Result<Path<String>, PathRejection>,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let fields = form.map(|Form(fields)| fields).unwrap_or_default();
    match accept(&state, &actor, &frame, &persons, &fields).await {
        Ok(Some(path)) => Redirect::to(&path).into_response(),
        Ok(None) => {
            let problem = Some("Choose at least one id.");
            match show(&state, frame.clone(), &persons, problem).await {
                Ok(page) => html(StatusCode::BAD_REQUEST, &page),
                Err(error) => error_page(frame, &error),
            }
        }
        Err(error) => error_page(frame, &error),
    }
}

async fn show(
    state: &AdminState,
    frame: Frame,
    persons: &Result<Path<String>, PathRejection>,
    problem: Option<&'static str>,
) -> Result<ErasePage, ApiError> {
    if !frame.is_admin {
        return Err(only_for_admins());
    }
    let asked = digests(persons)?;
    let person = Person::find(state, &asked).await?;
    let erasable = erasable(&person);
    let of_kind = |kind| erasable.iter().filter(|id| id.kind == kind).count();
    // Several people may share an address: only a person can tell who is meant.
    let is_clear = of_kind(PersonIdKind::User) < 2 && of_kind(PersonIdKind::Email) < 2;
    let ids: Vec<Choice> = erasable
        .iter()
        .map(|id| Choice {
            kind: kind_name(id.kind),
            value: mask::text(&id.id),
            digest: write_persons(&[id.digest]),
            messages: count(id.messages, "message"),
            is_chosen: is_clear || asked.contains(&id.digest),
        })
        .collect();
    let effects: Vec<Effect> = places(state, &person)
        .into_iter()
        .map(|(destination, source)| effect(state, &erasable, destination, source.is_some()))
        .collect();
    Ok(ErasePage {
        digests: write_persons(&asked),
        is_possible: !ids.is_empty() && effects.iter().any(|effect| effect.request.is_some()),
        ids,
        effects,
        problem,
        frame,
    })
}

/// Returns the ids by which Loops can delete the person's contacts.
fn erasable(person: &Person) -> Vec<&KnownId> {
    person.ids.iter().filter(|id| id.kind != PersonIdKind::Anonymous).collect()
}

/// Returns the destinations of the person's messages, each with a source that delivers to it.
fn places(state: &AdminState, person: &Person) -> BTreeMap<String, Option<String>> {
    let sources = state.sources.borrow();
    let mut places: BTreeMap<String, Option<String>> = BTreeMap::new();
    for message in &person.messages {
        let source = sources.by_name(&message.source);
        let source = source.filter(|source| source.destination == message.destination);
        let place = places.entry(message.destination.clone()).or_default();
        *place = place.take().or_else(|| source.map(|source| source.name.clone()));
    }
    places
}

fn effect(state: &AdminState, ids: &[&KnownId], destination: String, has_source: bool) -> Effect {
    let none = |why_not: &str, destination| Effect {
        destination,
        request: None,
        why_not: why_not.to_owned(),
    };
    let (Some(planner), true) = (state.planner(Some(&destination)), has_source) else {
        return none(
            "neither it nor a source that delivers to it is configured any more",
            destination,
        );
    };
    let Some(id) = ids.first() else {
        return none("no user id and no address is known", destination);
    };
    let digests = state.store.digests();
    let now = state.clock.now();
    let deletion = queue::deletion(&digests, (id.kind, &id.id), &destination, "", now);
    let message = deletion.and_then(|deletion| {
        crate::queue::Contents { seq: crate::queue::Seq(0), payload: deletion.payload }.message()
    });
    let Some(message) = message else {
        return none("no deletion can be made from the id", destination);
    };
    let preview = Preview::of(&planner, &message);
    let request = preview.requests.first();
    Effect {
        request: request.map(|request| format!("{} {}", request.method, request.path)),
        why_not: match request {
            Some(_) => String::new(),
            None => preview.detail.unwrap_or_else(|| "a deletion would fail".to_owned()),
        },
        destination,
    }
}

/// Accepts the deletions and returns the URL to go on to; `None` if no id was chosen.
async fn accept(
    state: &AdminState,
    actor: &Actor,
    frame: &Frame,
    persons: &Result<Path<String>, PathRejection>,
    fields: &[(String, String)],
) -> Result<Option<String>, ApiError> {
    if !frame.is_admin {
        return Err(only_for_admins());
    }
    let asked = digests(persons)?;
    let chosen = |digest: &str| fields.iter().any(|(name, value)| name == "id" && value == digest);
    let person = Person::find(state, &asked).await?;
    let is_chosen = |id: &&&KnownId| chosen(&write_persons(&[id.digest]));
    let erasable = erasable(&person);
    let ids: Vec<&KnownId> = erasable.iter().filter(is_chosen).copied().collect();
    if ids.is_empty() {
        return Ok(None);
    }
    let (now, digests) = (state.clock.now(), state.store.digests());
    let mut deletions = Vec::new();
    for (destination, source) in places(state, &person) {
        let Some(source) = source else { continue };
        let deletion = |id: &&KnownId| {
            queue::deletion(&digests, (id.kind, &id.id), &destination, &source, now)
        };
        deletions.extend(ids.iter().filter_map(deletion));
    }
    if deletions.is_empty() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "no_source",
            "No source that delivers to the destination is configured any more, so no deletion can be accepted.",
        ));
    }
    let number = deletions.len();
    let arguments = serde_json::json!({
        "person": write_persons(&asked),
        "ids": ids.iter().map(|id| write_persons(&[id.digest])).collect::<Vec<_>>(),
    });
    let receipts: Vec<NewReceipt> = deletions.iter().map(NewReceipt::of).collect();
    let accepted = state.store.accept(deletions).await;
    let result = match &accepted {
        Ok(_) => format!("accepted {}", count(number, "deletion")),
        Err(error) => error.to_string(),
    };
    audit::record(state, actor, AuditAction::Erase, &arguments, result).await;
    accepted.map_err(|error| match error {
        AcceptError::Unavailable(fault) => store_fault(fault),
        other => store_fault(Unavailable(other.into())),
    })?;
    let mut last = String::new();
    for receipt in &receipts {
        last = state.store.open_receipt(receipt).await.map_err(store_fault)?;
    }
    Ok(Some(match number {
        1 => format!("/console/erasures/{last}"),
        _ => "/console/erasures".to_owned(),
    }))
}
