//! What people can do about messages that are held because they would create too many contacts: allow more contacts
//! today, or discard the messages.

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::json;

use super::audit::{self, Actor};
use super::numbers::count;
use super::state::{AdminState, store_fault};
use crate::destination::NewContactsPolicy;
use crate::http::error::ApiError;
use crate::queue::{AuditAction, DISCARD_MAX};

/// The most contacts that one request can release.
pub(super) const RELEASE_MAX: u32 = 1_000_000;

/// The most transactions of one discard, so that it ends.
const DISCARDS_MAX: u32 = 500;

/// The result of a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Discarded {
    pub(super) messages: u64,
    /// Whether no message is left that was held when the discard was asked for.
    pub(super) is_complete: bool,
}

/// Lets a destination create more contacts today, and records that.
pub(super) async fn release(
    state: &AdminState,
    actor: &Actor,
    destination: &str,
    number: u32,
) -> Result<(), ApiError> {
    if number == 0 || number > RELEASE_MAX {
        let message = format!("`count` must be a whole number from 1 to {RELEASE_MAX}");
        return Err(ApiError::bad_request("bad_count", message));
    }
    if let Some(why) = why_not_capped(state, destination) {
        let message = format!("no contact needs to be released: {why}");
        return Err(ApiError::new(StatusCode::CONFLICT, "not_capped", message));
    }
    let now = state.clock.now();
    let released = state.store.release_contacts(destination, number, now).await;
    let result = match &released {
        Ok(()) => format!("{} today", count(number as usize, "more new contact")),
        Err(fault) => fault.to_string(),
    };
    let arguments = json!({"destination": destination, "count": number});
    audit::record(state, actor, AuditAction::ReleaseContacts, &arguments, result).await;
    released.map_err(store_fault)
}

/// Returns why no message to a destination is held; `None` if messages may be.
fn why_not_capped(state: &AdminState, destination: &str) -> Option<String> {
    let planner = state.planner(Some(destination))?;
    let options = planner.contact_options();
    if planner.is_shadow() {
        return Some(format!(
            "the destination {destination} is in shadow mode, which creates none"
        ));
    }
    match options.new_contacts {
        NewContactsPolicy::KnownOnly => Some(format!(
            "messages to {destination} that would create a contact are not held, but end as unmatched (new_contacts = \"known_only\")"
        )),
        NewContactsPolicy::Create if options.new_contacts_per_day == 0 => Some(format!(
            "the destination {destination} may create any number a day (new_contacts_per_day = 0)"
        )),
        NewContactsPolicy::Create => None,
    }
}

/// Fails the messages that were held at a time, and records it.
pub(super) async fn discard(
    state: &AdminState,
    actor: &Actor,
    destination: &str,
    since: Timestamp,
) -> Result<Discarded, ApiError> {
    let (mut messages, mut is_complete) = (0, false);
    let mut failed = None;
    for _ in 0..DISCARDS_MAX {
        let now = state.clock.now();
        match state.store.discard_held(destination, since, now).await {
            Ok(ended) => {
                messages += ended;
                is_complete = ended < u64::from(DISCARD_MAX);
            }
            Err(fault) => failed = Some(fault),
        }
        if is_complete || failed.is_some() {
            break;
        }
    }
    let mut result = format!("{} discarded", count(messages as usize, "message"));
    if let Some(fault) = &failed {
        result += &format!("; {fault}");
    }
    let arguments = json!({"destination": destination});
    audit::record(state, actor, AuditAction::DiscardHeld, &arguments, result).await;
    match failed {
        Some(fault) => Err(store_fault(fault)),
        None => Ok(Discarded { messages, is_complete }),
    }
}

/// Returns the name of the given destination, or of the only one if none is given.
pub(super) fn destination(state: &AdminState, name: Option<&str>) -> Result<String, ApiError> {
    let found = state.destination(name).map(|(name, _)| name.to_owned());
    found.ok_or_else(|| {
        let names = state.destination_names();
        let message = format!("`destination` is unknown or missing: it must be one of {names}");
        ApiError::new(StatusCode::BAD_REQUEST, "which_destination", message)
    })
}
