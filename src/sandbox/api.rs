//! The simulated Loops API: one handler for each endpoint of the contract.

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Refusal, no_such_path, parse_object, wrong_method};
use super::audience::{Audience, Change, ContactKey};
use super::fields::{ContactFields, parse_email, parse_event_properties, parse_id};
use super::gate::{IDEMPOTENCY_KEY, gate};
use super::properties::{Listing, PropertyType};
use super::state::SeenEvent;
use super::team::{API_BASE, Sandbox};
use super::webhooks;

/// The longest idempotency key, by the contract.
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 100;
/// The removals from the suppression list that a team has in 30 days. Nothing here uses them.
const REMOVAL_QUOTA: u32 = 100;

/// Returns the routes below [`API_BASE`].
pub(super) fn router(sandbox: &Sandbox) -> Router {
    Router::new()
        .route("/api-key", get(test_key))
        .route("/contacts/create", post(create_contact))
        .route("/contacts/update", put(update_contact))
        .route("/contacts/find", get(find_contact))
        .route("/contacts/delete", post(delete_contact))
        .route("/contacts/suppression", get(show_suppression).delete(remove_suppression))
        .route("/contacts/properties", get(list_properties).post(create_property))
        .route("/lists", get(list_mailing_lists))
        .route("/events/send", post(send_event))
        .route("/event-patterns", get(list_event_patterns))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(sandbox.clone(), gate))
        .with_state(sandbox.clone())
}

async fn test_key(State(sandbox): State<Sandbox>) -> Answer {
    Ok(Json(json!({"success": true, "teamName": sandbox.0.options.team_name})))
}

async fn create_contact(State(sandbox): State<Sandbox>, body: Bytes) -> Answer {
    let fields = ContactFields::parse(parse_object(&body)?)?;
    let mut state = sandbox.state();
    let change = state.audience.create(fields)?;
    report_change(&sandbox, &state.audience, &change);
    Ok(Json(json!({"success": true, "id": change.id})))
}

async fn update_contact(State(sandbox): State<Sandbox>, body: Bytes) -> Answer {
    let fields = ContactFields::parse(parse_object(&body)?)?;
    let mut state = sandbox.state();
    let change = state.audience.upsert(fields)?;
    report_change(&sandbox, &state.audience, &change);
    Ok(Json(json!({"success": true, "id": change.id})))
}

fn report_change(sandbox: &Sandbox, audience: &Audience, change: &Change) {
    if let Some(contact) = audience.changed(change) {
        sandbox.report(|now| webhooks::of_change(contact, change, now));
    }
}

async fn find_contact(State(sandbox): State<Sandbox>, uri: Uri) -> Answer {
    let key = contact_key(query(&uri))?;
    let found: Vec<_> =
        sandbox.state().audience.find(&key).map(|c| c.to_json()).into_iter().collect();
    Ok(Json(Value::Array(found)))
}

async fn delete_contact(State(sandbox): State<Sandbox>, body: Bytes) -> Answer {
    let key = contact_key(parse_object(&body)?)?;
    let mut state = sandbox.state();
    let gone = state.audience.delete(&key)?;
    sandbox.report(|now| webhooks::of_deletion(&gone, now));
    Ok(Json(json!({"success": true, "message": "Contact deleted."})))
}

async fn show_suppression(State(sandbox): State<Sandbox>, uri: Uri) -> Answer {
    let key = contact_key(query(&uri))?;
    let state = sandbox.state();
    let contact = state.audience.find(&key).ok_or_else(Refusal::contact_not_found)?;
    Ok(Json(json!({
        "contact": contact.to_short_json(),
        "isSuppressed": false,
        "removalQuota": {"limit": REMOVAL_QUOTA, "remaining": REMOVAL_QUOTA},
    })))
}

/// Refuses the removal: nothing here bounces or complains, so nobody is ever suppressed.
async fn remove_suppression(State(sandbox): State<Sandbox>, uri: Uri) -> Answer {
    let key = contact_key(query(&uri))?;
    sandbox.state().audience.find(&key).ok_or_else(Refusal::contact_not_found)?;
    Err(Refusal::bad_request("Contact is not suppressed."))
}

async fn list_properties(State(sandbox): State<Sandbox>, uri: Uri) -> Answer {
    let listing = match query(&uri).get("list").and_then(Value::as_str) {
        None | Some("all") => Listing::All,
        Some("custom") => Listing::Custom,
        Some(_) => return Err(Refusal::bad_request("`list` must be `all` or `custom`.")),
    };
    Ok(Json(sandbox.state().audience.properties.to_json(listing)))
}

async fn create_property(State(sandbox): State<Sandbox>, body: Bytes) -> Answer {
    let mut body = parse_object(&body)?;
    let name = parse_id("name", take(&mut body, "name"))?
        .ok_or_else(|| Refusal::bad_request("`name` is required."))?;
    let kind: PropertyType = serde_json::from_value(take(&mut body, "type")).map_err(|_| {
        Refusal::bad_request("`type` must be `string`, `number`, `boolean` or `date`.")
    })?;
    if !sandbox.state().audience.properties.create(&name, kind) {
        return Err(Refusal::bad_request("Property already exists."));
    }
    Ok(Json(json!({"success": true})))
}

/// Returns two lists, so that there is something to show. A contact may join a list with any other id as well.
async fn list_mailing_lists() -> Answer {
    let list = |id, name, description: Option<&str>, is_public| json!({"id": id, "name": name, "description": description, "isPublic": is_public});
    Ok(Json(json!([
        list("sandboxnewsletter0000000", "Newsletter", Some("News, once a month"), true),
        list("sandboxbeta0000000000000", "Beta testers", None, false),
    ])))
}

async fn send_event(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Answer {
    let now = sandbox.0.clock.now();
    let idempotency_key = idempotency_key(&headers)?;
    // The state stays locked: of two requests with one key, the second must see the first.
    let mut state = sandbox.state();
    if idempotency_key.as_ref().is_some_and(|key| state.used_keys.is_used(key, now)) {
        return Err(Refusal::conflict("Idempotency key has been used."));
    }
    let mut object = parse_object(&body)?;
    let event_name = parse_id("eventName", take(&mut object, "eventName"))?
        .ok_or_else(|| Refusal::bad_request("`eventName` is required."))?;
    if event_name.contains(':') {
        return Err(Refusal::bad_request("`eventName` must not contain a colon."));
    }
    let event_properties = match object.shift_remove("eventProperties") {
        None => Map::new(),
        Some(properties) => parse_event_properties(properties)?,
    };
    let fields = ContactFields::parse(object)?;
    let mut contact_properties = fields.properties.clone();
    if let Some(subscribed) = fields.subscribed {
        contact_properties.insert("subscribed".to_owned(), Value::Bool(subscribed));
    }
    let lists = fields.mailing_lists.iter();
    let event = SeenEvent {
        number: 0,
        received_at: now,
        email: fields.email.clone(),
        user_id: fields.user_id.clone(),
        event_name,
        event_properties,
        contact_properties,
        mailing_lists: lists.map(|(id, wanted)| (id.clone(), Value::Bool(*wanted))).collect(),
        idempotency_key: idempotency_key.clone(),
    };
    let change = state.audience.upsert(fields)?;
    let event_name = event.event_name.clone();
    state.keep_event(event, body.len());
    report_change(&sandbox, &state.audience, &change);
    if let Some(contact) = state.audience.changed(&change) {
        let workflow = state.event_names.get_index_of(&event_name).unwrap_or_default();
        let numbers = (workflow, state.counts().events);
        sandbox.report(|now| webhooks::of_mail(contact, &event_name, numbers, now));
        let address = contact.email.clone().filter(|_| contact.is_subscribed());
        if let Some(address) = address.filter(|address| webhooks::unsubscribes(address)) {
            let leaving = ContactFields {
                email: Some(address),
                subscribed: Some(false),
                ..ContactFields::default()
            };
            let change = state.audience.upsert(leaving)?;
            report_change(&sandbox, &state.audience, &change);
        }
    }
    if let Some(key) = idempotency_key {
        state.used_keys.remember(key, now);
    }
    Ok(Json(json!({"success": true})))
}

/// Returns the names of the events that arrived, page by page. The cursor is the index of the next name.
async fn list_event_patterns(State(sandbox): State<Sandbox>, uri: Uri) -> Answer {
    let query = query(&uri);
    let number = |key: &str, default: usize| match query.get(key).and_then(Value::as_str) {
        None => Ok(default),
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| Refusal::bad_request(format!("Invalid `{key}` value."))),
    };
    let (per_page, start) = (number("perPage", 20)?, number("cursor", 0)?);
    if !(10..=50).contains(&per_page) {
        return Err(Refusal::bad_request("`perPage` must be between 10 and 50."));
    }
    let state = sandbox.state();
    let total = state.event_names.len();
    let page: Vec<_> = state
        .event_names
        .iter()
        .enumerate()
        .skip(start)
        .take(per_page)
        .map(|(place, name)| {
            let id = format!("ce{:022}", place + 1);
            json!({"id": id, "eventName": name, "incomingWebhookPlatform": null})
        })
        .collect();
    let next = start.saturating_add(per_page);
    let next = (next < total).then(|| next.to_string());
    let next_page = next
        .as_ref()
        .map(|cursor| format!("{API_BASE}/event-patterns?perPage={per_page}&cursor={cursor}"));
    Ok(Json(json!({
        "pagination": {
            "totalResults": total,
            "returnedResults": page.len(),
            "perPage": per_page,
            "totalPages": total.div_ceil(per_page),
            "nextCursor": next,
            "nextPage": next_page,
        },
        "data": page,
    })))
}

/// Returns the key of an event request; `None` if the header is missing or empty.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = std::str::from_utf8(key.as_bytes())
        .map_err(|_| Refusal::bad_request("`Idempotency-Key` must consist of ASCII characters."))?;
    if key.chars().count() > IDEMPOTENCY_KEY_CHARS_MAX {
        return Err(Refusal::bad_request("`Idempotency-Key` must be at most 100 characters."));
    }
    Ok(Some(key.to_owned()).filter(|key| !key.is_empty()))
}

/// Reads the key of the contact that a query or a body names. Exactly one of the two keys is allowed.
fn contact_key(mut given: Map<String, Value>) -> Result<ContactKey, Refusal> {
    let email = parse_email(take(&mut given, "email"))?;
    let user_id = parse_id("userId", take(&mut given, "userId"))?;
    match (email, user_id) {
        (Some(email), None) => Ok(ContactKey::Email(email)),
        (None, Some(user_id)) => Ok(ContactKey::UserId(user_id)),
        (None, None) => Err(Refusal::bad_request("`email` or `userId` is required.")),
        (Some(_), Some(_)) => {
            Err(Refusal::bad_request("Only one of `email` and `userId` is allowed."))
        }
    }
}

/// Returns the query as an object of strings. The last of several values of a key wins.
pub(super) fn query(uri: &Uri) -> Map<String, Value> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| pairs);
    pairs.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into())).collect()
}

fn take(object: &mut Map<String, Value>, key: &str) -> Value {
    object.shift_remove(key).unwrap_or_default()
}
