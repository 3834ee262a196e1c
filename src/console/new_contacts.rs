//! What people do about messages that are held, since they would create too many contacts: let more contacts be created
//! today, or discard what is held.

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::json;

use super::audit::{self, Actor};
use super::pages::parts::count;
use super::state::{AdminState, store_fault};
use crate::destination::NewContactsPolicy;
use crate::http::error::ApiError;
use crate::queue::{AuditAction, DISCARD_MAX};

/// The most contacts that one wish releases.
pub(super) const RELEASE_MAX: u32 = 1_000_000;

/// The most transactions of one wish to discard, so that it has an end.
const DISCARDS_MAX: u32 = 500;

/// What was discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Discarded {
    pub(super) messages: u64,
    /// Whether nothing is left that was held when it was asked for.
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
    let released = state.new_contacts.release_contacts(destination, number, now).await;
    let result = match &released {
        Ok(()) => format!("{} today", count(number as usize, "more new contact")),
        Err(fault) => fault.to_string(),
    };
    let arguments = json!({"destination": destination, "count": number});
    audit::record(state, actor, AuditAction::ReleaseContacts, &arguments, result).await;
    released.map_err(store_fault)
}

/// Why no message to a destination is held; `None`: some may be.
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

/// Ends what was held at a time, and records that.
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
        match state.new_contacts.discard_held(destination, since, now).await {
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

/// The name of a destination that people name, or of the only one.
pub(super) fn destination(state: &AdminState, name: Option<&str>) -> Result<String, ApiError> {
    let found = state.destination(name).map(|(name, _)| name.to_owned());
    found.ok_or_else(|| {
        let names = state.destination_names();
        let message = format!("`destination` is unknown or missing: it must be one of {names}");
        ApiError::new(StatusCode::BAD_REQUEST, "which_destination", message)
    })
}
