//! `POST /api/compare`: what a changed subscription would do to messages.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value as RawJson, json};
use utoipa::ToSchema;

use super::body::{self, Body};
use super::errors::{AdminErrors, StoreErrors};
use crate::console::audit::{Actor, record};
use crate::console::compare::draft::DraftProblem;
use crate::console::compare::received::ReceivedError;
use crate::console::compare::work::Broken;
use crate::console::compare::{Ask, Compared, Comparing, Draft, LAST_MAX, SHOWN_MAX};
use crate::console::preview::message_of;
use crate::console::state::{AdminState, store_fault};
use crate::destination::Destination;
use crate::http::error::{ApiError, ErrorBody};
use crate::js::Value;
use crate::queue::{AuditAction, Filter, MessageState};
use crate::segment::Message;

/// A changed subscription, and the messages to try it on. Give `text` or `draft`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Compare, example = json!({"text": "name: Signed up\naction: sendEvent\nevents: [Signed Up]", "messages": {"last": 20}}))]
struct Asked {
    /// Name of the destination; required if there are several.
    #[schema(example = "default")]
    destination: Option<String>,
    /// Name of the current subscription that is changed; missing for a new one.
    subscription: Option<String>,
    /// The text of the subscription, in TOML, YAML or JSON.
    text: Option<String>,
    /// The subscription as an object.
    #[schema(value_type = Option<Object>)]
    draft: Option<RawJson>,
    /// The messages; by default the last 20 that the subscription takes.
    #[schema(value_type = Option<AskedMessages>)]
    messages: Option<RawJson>,
}

/// The messages to compare.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the body")]
enum AskedMessages {
    Received(AskedReceived),
    /// Messages as senders write them.
    Given(Vec<crate::http::openapi::Message>),
}

/// Received messages that the subscription takes before or after the change.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AskedReceived {
    /// How many, latest first.
    #[schema(minimum = 1, maximum = 1000, default = 20)]
    last: Option<usize>,
    /// `failed`: only messages that failed.
    #[schema(example = "failed")]
    only: Option<String>,
    /// Only messages about this person: a user id, an anonymous id or an e-mail address.
    #[schema(example = "user_1")]
    person: Option<String>,
}

/// A changed subscription with errors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BadSubscription {
    /// For programs.
    #[schema(example = "bad_subscription")]
    code: &'static str,
    /// A summary for people.
    message: &'static str,
    /// Everything that is wrong.
    problems: Vec<DraftProblem>,
}

/// What a changed subscription would do to messages. Nothing is stored, sent or put into force.
///
/// Compares the requests of the current and the changed subscription for the latest messages that either of them
/// takes. Every 20 messages may take 200 ms of computing; `stopped` says where it took longer.
#[utoipa::path(
    post,
    path = "/api/compare",
    tag = "Administration",
    operation_id = "compare",
    request_body(content = Asked, content_type = "application/json"),
    responses(
        (status = 200, description = "The comparison.", body = Compared),
        (status = 400, description = "The body is not JSON, a key is unknown or wrong, or a message would not be accepted.", body = ErrorBody),
        (status = 404, description = "No subscription in force has this name.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        (status = 422, description = "The changed subscription has errors.", body = BadSubscription),
        (status = 500, description = "The comparison ended unexpectedly; the log says why.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn compare(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    body: Body,
) -> Result<Response, ApiError> {
    let asked: Asked = serde_json::from_slice(&body::bytes(body)?).map_err(|error| {
        bad_compare(format!("{error}; send a JSON object such as {{\"text\": \"name: …\"}}"))
    })?;
    let (name, destination) = state.destination(asked.destination.as_deref()).ok_or_else(|| {
        let names = state.destination_names();
        bad_compare(format!("say which destination: `destination` must be one of {names}"))
    })?;
    if let Some(subscription) = &asked.subscription
        && destination.subscription(subscription).is_none()
    {
        let message =
            "no subscription in force has this name; leave `subscription` out for a new one";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_subscription", message));
    }
    let messages = messages(&asked, &state, name)?;
    let draft = match draft(&asked, &destination)? {
        Ok(draft) => draft,
        Err(problems) => {
            let message = "the subscription has errors";
            let answer = BadSubscription { code: "bad_subscription", message, problems };
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response());
        }
    };
    let begin = |last| Comparing::of_draft(draft, last, state.turns.clone(), state.turn.clone());
    let compared = match messages {
        Messages::Given(messages) => {
            begin(messages.len()).with_messages(messages).await?.finish().0
        }
        Messages::Received(ask) => {
            let comparing = begin(ask.last).with_received(&*state.store, &ask).await?;
            let (compared, _) = comparing.finish();
            let arguments = json!({"destination": name, "subscription": asked.subscription});
            let result = format!("{} messages were shown", compared.messages.len());
            record(&state, &actor, AuditAction::ShowContents, &arguments, result).await;
            compared
        }
    };
    Ok(Json(compared).into_response())
}

fn draft(
    asked: &Asked,
    destination: &Destination,
) -> Result<Result<Draft, Vec<DraftProblem>>, ApiError> {
    let name = asked.subscription.as_deref();
    match (&asked.text, &asked.draft) {
        (Some(text), None) => Ok(Draft::of_text(text, name, destination)),
        (None, Some(draft)) => Ok(Draft::of_value(&Value::from(draft), name, destination)),
        _ => Err(bad_compare("give the changed subscription as `text` or as `draft`")),
    }
}

enum Messages {
    Given(Vec<Message>),
    Received(Ask),
}

fn messages(asked: &Asked, state: &AdminState, destination: &str) -> Result<Messages, ApiError> {
    let received = match &asked.messages {
        Some(RawJson::Array(given)) => {
            let read = |(index, given): (usize, &RawJson)| {
                message_of(Value::from(given))
                    .map_err(|error| bad_compare(format!("`messages[{index}]`: {error}")))
            };
            let given: Result<_, _> = given.iter().enumerate().map(read).collect();
            return given.map(Messages::Given);
        }
        None => AskedReceived::default(),
        Some(given) => serde_json::from_value(given.clone()).map_err(|error| {
            bad_compare(format!(
                "`messages`: {error}; give {{\"last\": 20}}, or a list of messages"
            ))
        })?,
    };
    let last = received.last.unwrap_or(SHOWN_MAX);
    if !(1..=LAST_MAX).contains(&last) {
        return Err(bad_compare(format!("`last` must be a whole number from 1 to {LAST_MAX}")));
    }
    let only_failed = match received.only.as_deref() {
        None => false,
        Some("failed") => true,
        Some(_) => return Err(bad_compare("`only` must be \"failed\", or be left out")),
    };
    let persons = match received.person.as_deref().map(str::trim) {
        None => Vec::new(),
        Some("") => return Err(bad_compare("`person` is empty: give it an id, or leave it out")),
        Some(id) => state.store.digests().any_person(id),
    };
    let filter = Filter {
        persons,
        state: only_failed.then_some(MessageState::Failed),
        destination: Some(destination.to_owned()),
        ..Filter::default()
    };
    Ok(Messages::Received(Ask { filter, last, first: None }))
}

fn bad_compare(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("bad_compare", message)
}

impl From<Broken> for ApiError {
    fn from(error: Broken) -> Self {
        tracing::error!(%error, "a comparison failed");
        let message = "the comparison ended unexpectedly: see the log";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "compare_broke_off", message)
    }
}

impl From<ReceivedError> for ApiError {
    fn from(error: ReceivedError) -> Self {
        match error {
            ReceivedError::Store(fault) => store_fault(fault),
            ReceivedError::Broken(error) => error.into(),
        }
    }
}
