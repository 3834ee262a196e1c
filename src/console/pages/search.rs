//! Finds a message or a person by an id or an address. The search is sent in a form, and leads to a page whose URL
//! holds digests, so that no URL, log or browser history contains the id.

use axum::Form;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::frame::Frame;
use super::render::error_page;
use crate::console::filter::write_persons;
use crate::console::state::{AdminState, store_fault};
use crate::console::status;
use crate::console::verdict::rejections;
use crate::http::error::ApiError;
use crate::queue::{Filter, Seq};
use crate::segment::{PersonDigest, PersonIdKind};

#[derive(Deserialize)]
pub(super) struct Asked {
    q: String,
}

/// What to search for.
enum Wanted<'a> {
    Number(Seq),
    Message(&'a str),
    Persons(Vec<PersonDigest>),
    /// Anything with this id.
    Any(&'a str),
}

/// Redirects to what was found.
pub(super) async fn search(
    State(state): State<AdminState>,
    frame: Frame,
    form: Result<Form<Asked>, FormRejection>,
) -> Response {
    let asked = form.map(|Form(Asked { q })| q).unwrap_or_default();
    match find(&state, asked.trim()).await {
        Ok(path) => Redirect::to(&path).into_response(),
        Err(error) => error_page(frame, &error),
    }
}

async fn find(state: &AdminState, asked: &str) -> Result<String, ApiError> {
    if asked.is_empty() {
        return Ok("/console/messages".to_owned());
    }
    let digests = state.store.digests();
    let person = |kind, id: &str| Wanted::Persons(vec![digests.person(kind, id.trim())]);
    let wanted = match asked.split_once(':') {
        _ if asked.starts_with('#') => match asked[1..].trim().parse() {
            Ok(number) => Wanted::Number(Seq(number)),
            Err(_) => Wanted::Any(asked),
        },
        Some(("msg", id)) => Wanted::Message(id.trim()),
        Some(("user", id)) => person(PersonIdKind::User, id),
        Some(("anon", id)) => person(PersonIdKind::Anonymous, id),
        Some(("email", id)) => person(PersonIdKind::Email, id),
        _ if asked.contains('@') => Wanted::Persons(digests.any_person(asked)),
        _ => Wanted::Any(asked),
    };
    if let Wanted::Number(Seq(number)) = wanted {
        return Ok(format!("/console/messages/{number}"));
    }
    if let Wanted::Message(id) | Wanted::Any(id) = wanted {
        let found =
            state.store.by_message_id(digests.message_id(id), id).await.map_err(store_fault)?;
        if let Some(message) = found.first() {
            return Ok(format!("/console/messages/{}", message.seq.0));
        }
    }
    let persons = match wanted {
        Wanted::Persons(persons) => persons,
        Wanted::Any(id) => digests.any_person(id),
        Wanted::Message(_) | Wanted::Number(_) => Vec::new(),
    };
    let filter = Filter { persons: persons.clone(), ..Filter::default() };
    let is_known = !persons.is_empty()
        && !state.store.list(&filter, None, 1).await.map_err(store_fault)?.messages.is_empty();
    if is_known {
        return Ok(format!("/console/people/{}", write_persons(&persons)));
    }
    let rejected = status::rejected(state).await.map_err(store_fault)?;
    let rejections = rejections(&rejected)
        .map(|rejections| format!(" {rejections} The log says why, in its `rejected` lines."))
        .unwrap_or_default();
    let nothing = "No message with this id, and none of a person with this id or address, was accepted; or its record has expired (store.records_retention_h), or the person was deleted. To look for one kind of id only, write msg:, user:, anon: or email: before it, and # before a number.";
    Err(ApiError::new(StatusCode::NOT_FOUND, "nothing_found", format!("{nothing}{rejections}")))
}
