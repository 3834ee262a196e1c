//! Everything about one person: why did Ada not get the mail?

use askama::Template;
use axum::Extension;
use axum::Form;
use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::SignedDuration;
use serde_json::{Map, Value};

use super::frame::Frame;
use super::parts::{Note, json};
use super::render::{error_page, html};
use super::rows::Row;
use super::wish::{self, Wish, Wished};
use crate::console::asker::Held;
use crate::console::audit::Actor;
use crate::console::filter::{parse_persons, write_persons};
use crate::console::mask;
use crate::console::numbers::count;
use crate::console::person::{self, Person};
use crate::console::state::AdminState;
use crate::console::verdict::Verdict;
use crate::http::error::ApiError;
use crate::queue::{MessageState, Seq, cause};
use crate::segment::{PersonDigest, PersonIdKind};

/// How many of the latest messages are read to find what was delivered last.
const DELIVERED_READ_MAX: usize = 20;

const REST_OF_A_SECOND: SignedDuration = SignedDuration::from_millis(999);

#[derive(Template)]
#[template(path = "person.html")]
struct PersonPage {
    frame: Frame,
    /// The digests in the URL.
    digests: String,
    verdict: Verdict,
    verdict_on: Option<i64>,
    ids: Vec<Id>,
    are_ids_masked: bool,
    /// A warning if the ids do not fit together.
    conflict: Option<String>,
    /// The URL of the list of messages.
    list: String,
    is_complete: bool,
    timeline: Vec<Entry>,
    can_ask: bool,
    can_erase: bool,
    answer: Option<Answer>,
}

struct Id {
    kind: &'static str,
    value: String,
    digest: String,
    messages: String,
}

/// A line of the timeline.
enum Entry {
    Message(Row),
    Note(Note),
}

impl Entry {
    /// Returns the place of the entry on the timeline. Loops' times are whole seconds, and an event in the same second
    /// as a message probably followed from it.
    fn at(&self) -> jiff::Timestamp {
        match self {
            Entry::Message(row) => row.received_at.machine(),
            Entry::Note(note) => {
                let at = note.at.machine();
                at.checked_add(REST_OF_A_SECOND).unwrap_or(at)
            }
        }
    }
}

/// What Loops answered.
struct Answer {
    sentence: String,
    properties: Vec<Property>,
}

/// A property of the contact, as last delivered and as Loops holds it.
struct Property {
    name: String,
    delivered: Option<String>,
    held: Option<String>,
    is_different: bool,
}

/// Shows the page of a person.
pub(super) async fn page(
    State(state): State<AdminState>,
    frame: Frame,
    persons: Result<Path<String>, PathRejection>,
) -> Response {
    shown(&state, frame, &persons, None).await
}

/// Shows the page with details that only admins can ask for.
pub(super) async fn ask(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    frame: Frame,
    persons: Result<Path<String>, PathRejection>,
    form: Result<Form<Wished>, FormRejection>,
) -> Response {
    // Digests are not personal data: nobody can tell whose they are without the key of the installation.
    let person = persons.as_ref().map_or("", |Path(persons)| persons.as_str());
    let person: String = person.chars().filter(|c| c.is_ascii_hexdigit() || *c == '-').collect();
    let arguments = serde_json::json!({"person": person});
    match wish::grant(&state, &actor, &frame, form, &arguments).await {
        Ok(wish) => shown(&state, frame, &persons, wish).await,
        Err(error) => error_page(frame, &error),
    }
}

async fn shown(
    state: &AdminState,
    frame: Frame,
    persons: &Result<Path<String>, PathRejection>,
    wish: Option<Wish>,
) -> Response {
    match show(state, frame.clone(), persons, wish).await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(error) => error_page(frame, &error),
    }
}

/// Reads the digests in the path of a page.
pub(super) fn digests(
    persons: &Result<Path<String>, PathRejection>,
) -> Result<Vec<PersonDigest>, ApiError> {
    let digests = persons.as_ref().ok().and_then(|Path(persons)| parse_persons(persons));
    digests.ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_person",
            "This is no address of a person: search for a user id, an anonymous id or an e-mail address.",
        )
    })
}

async fn show(
    state: &AdminState,
    frame: Frame,
    persons: &Result<Path<String>, PathRejection>,
    wish: Option<Wish>,
) -> Result<PersonPage, ApiError> {
    let asked = digests(persons)?;
    let person = Person::find(state, &asked).await?;
    let destination = person.messages.first().map(|message| message.destination.clone());
    let key = person.contact_key();
    let (mut held, mut answer) = (None, None);
    if let (Some(Wish::Contact), Some(key), Some(destination)) = (wish, &key, &destination) {
        match state.asker.contact(destination, key).await {
            Ok(found) => {
                let delivered = delivered(state, &person).await?;
                answer = Some(about(&found, &delivered));
                held = Some(found);
            }
            Err(error) => {
                let sentence = format!("{error}.");
                answer = Some(Answer { sentence, properties: Vec::new() });
            }
        }
    }
    let is_admin = frame.is_admin;
    let say = |text: &str| if is_admin { text.to_owned() } else { cause(text) };
    let verdict = person.verdict(held.as_ref(), say);
    let messages = person.messages.iter().map(|record| Entry::Message(record.into()));
    let notes = person.feedback.iter().map(|record| Entry::Note(record.into()));
    let mut timeline: Vec<Entry> = messages.chain(notes).collect();
    timeline.sort_by_key(|entry| std::cmp::Reverse(entry.at()));
    let are_ids_masked = wish != Some(Wish::Ids);
    Ok(PersonPage {
        digests: write_persons(&asked),
        verdict_on: verdict.seq.map(|Seq(seq)| seq),
        verdict,
        ids: ids(&person, are_ids_masked),
        are_ids_masked,
        conflict: conflict(&person),
        list: format!("/console/messages?person={}", write_persons(&person.digests)),
        is_complete: person.is_complete,
        timeline,
        can_ask: is_admin && key.is_some(),
        can_erase: is_admin && !person.ids.is_empty(),
        answer,
        frame,
    })
}

/// Names a kind of id for people.
pub(super) fn kind_name(kind: PersonIdKind) -> &'static str {
    match kind {
        PersonIdKind::User => "user id",
        PersonIdKind::Anonymous => "anonymous id",
        PersonIdKind::Email => "e-mail address",
    }
}

fn ids(person: &Person, are_masked: bool) -> Vec<Id> {
    let of = |id: &person::KnownId| Id {
        kind: kind_name(id.kind),
        value: if are_masked { mask::text(&id.id) } else { id.id.clone() },
        digest: write_persons(&[id.digest]),
        messages: count(id.messages, "message"),
    };
    person.ids.iter().map(of).collect()
}

/// Warns if the ids of a person do not fit together.
fn conflict(person: &Person) -> Option<String> {
    let number = |kind| person.ids.iter().filter(|id| id.kind == kind).count();
    match (number(PersonIdKind::User), number(PersonIdKind::Email)) {
        (0 | 1, 0 | 1) => None,
        (0 | 1, addresses) => Some(format!(
            "{addresses} addresses under one id: Loops keeps the address that it was sent last."
        )),
        (users, _) => Some(format!(
            "{users} user ids share an address or a device: they may be several people, and Loops keeps one user id for an address, the one that it was sent last."
        )),
    }
}

/// Returns what was last delivered of each property, by what the subscriptions in force make of the messages.
async fn delivered(state: &AdminState, person: &Person) -> Result<Map<String, Value>, ApiError> {
    let mut properties = Map::new();
    let delivered =
        person.messages.iter().filter(|message| message.state() == MessageState::Delivered);
    for record in delivered.take(DELIVERED_READ_MAX) {
        let Some(planner) = state.planner(Some(&record.destination)) else { continue };
        let Some(message) = person::message_of(state, record.seq).await? else { continue };
        let plan = planner.plan(&message);
        let mut requests: Vec<_> =
            plan.deliveries.iter().filter_map(|delivery| delivery.outcome.as_ref().ok()).collect();
        // The newest message came first, so the last request of each has to as well.
        requests.reverse();
        for request in requests {
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let Value::Object(body) = body else { continue };
            for (name, value) in body {
                let is_property =
                    !["eventName", "eventProperties", "mailingLists"].contains(&name.as_str());
                if is_property && !properties.contains_key(&name) {
                    properties.insert(name, value);
                }
            }
        }
    }
    Ok(properties)
}

/// Compares what Loops holds with what was delivered.
fn about(held: &Held, delivered: &Map<String, Value>) -> Answer {
    let Some(contact) = &held.contact else {
        let sentence = "Loops has no contact with this id.".to_owned();
        return Answer { sentence, properties: Vec::new() };
    };
    let others = contact.keys().filter(|name| !delivered.contains_key(*name));
    let properties: Vec<Property> = delivered
        .keys()
        .chain(others)
        .map(|name| {
            let (sent, has) = (delivered.get(name), contact.get(name));
            Property {
                name: name.clone(),
                delivered: sent.map(json),
                held: has.map(json),
                is_different: sent.is_some_and(|sent| !is_same(sent, has)),
            }
        })
        .collect();
    let different = properties.iter().filter(|property| property.is_different).count();
    let suppressed = match held.is_suppressed {
        Some(true) => ", and sends no mails to its address any more",
        Some(false) => ", and sends mails to its address",
        None => "",
    };
    let differences = match different {
        0 => "all that was delivered last is there as it was delivered".to_owned(),
        1 => "one property differs from what was delivered last".to_owned(),
        more => format!("{more} properties differ from what was delivered last"),
    };
    Answer { sentence: format!("Loops has the contact{suppressed}; {differences}."), properties }
}

/// Returns whether Loops holds what was sent. A null clears a property, and dates may be written in another way.
fn is_same(sent: &Value, held: Option<&Value>) -> bool {
    let held = held.unwrap_or(&Value::Null);
    let is_empty = |value: &Value| value.is_null() || value.as_str() == Some("");
    let date = |value: &Value| value.as_str().and_then(crate::js::date::parse_date);
    sent == held
        || is_empty(sent) && is_empty(held)
        || sent.as_f64().is_some_and(|number| held.as_f64() == Some(number))
        || date(sent).is_some_and(|at| date(held) == Some(at) || held.as_f64() == Some(at))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_loops_holds_is_compared_by_meaning() {
        for (sent, held, expected) in [
            (json!("Ada"), json!("Ada"), true),
            (json!("Ada"), json!("ada"), false),
            (json!(1), json!(1.0), true),
            (json!(null), json!(""), true),
            (json!("2026-01-02T00:00:00Z"), json!("2026-01-02T00:00:00.000Z"), true),
            (json!("2026-01-02T00:00:00Z"), json!(1_767_312_000_000_i64), true),
            (json!("2026-01-02T00:00:00Z"), json!("2026-01-03T00:00:00Z"), false),
            (json!(true), json!("true"), false),
        ] {
            assert_eq!(is_same(&sent, Some(&held)), expected, "{sent} {held}");
        }
        assert!(is_same(&json!(null), None) && !is_same(&json!("Ada"), None));
    }
}
