//! `POST /api/people`: what is known of a person. The search is a POST so that no URL contains an id.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::{self, Body};
use super::errors::{AdminErrors, StoreErrors};
use crate::console::person::Person;
use crate::console::state::AdminState;
use crate::console::view;
use crate::http::error::{ApiError, ErrorBody};
use crate::segment::PersonIdKind;

/// The person to look for: exactly one of the ids.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PersonQuestion {
    /// A user id.
    #[schema(example = "user_1", min_length = 1)]
    user_id: Option<String>,
    /// An anonymous id.
    #[schema(min_length = 1)]
    anonymous_id: Option<String>,
    /// An e-mail address; upper and lower case are the same.
    #[schema(min_length = 1)]
    email: Option<String>,
}

/// What is known of a person: a verdict, the latest messages, and what Loops reported.
///
/// Also finds messages with the person's other ids, as long as the contents of the messages with the given id are
/// kept. For an unknown person there are no messages, and the verdict says so.
#[utoipa::path(
    post,
    path = "/api/people",
    tag = "Administration",
    operation_id = "person",
    request_body(content = PersonQuestion, content_type = "application/json"),
    responses(
        (status = 200, description = "What is known of the person.", body = view::Person),
        (status = 400, description = "The body is not JSON, or does not have exactly one of the ids.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn find(
    State(state): State<AdminState>,
    body: Body,
) -> Result<Json<view::Person>, ApiError> {
    let body = body::bytes(body)?;
    // The parser's error may quote the body.
    let asked: PersonQuestion = serde_json::from_slice(&body).map_err(|_| which())?;
    let given = [
        (PersonIdKind::User, asked.user_id),
        (PersonIdKind::Anonymous, asked.anonymous_id),
        (PersonIdKind::Email, asked.email),
    ];
    let mut given = given.into_iter().filter_map(|(kind, id)| Some((kind, id?)));
    let (Some((kind, id)), None) = (given.next(), given.next()) else { return Err(which()) };
    if id.trim().is_empty() {
        return Err(which());
    }
    let digest = state.store.digests().person(kind, &id);
    let person = Person::find(&state, &[digest]).await?;
    Ok(Json(view::Person {
        verdict: person.verdict(None, str::to_owned).into(),
        messages: person.messages.iter().map(view::MessageFate::from).collect(),
        complete: person.is_complete,
        feedback: person.feedback.into_iter().map(view::FeedbackEvent::from).collect(),
    }))
}

fn which() -> ApiError {
    ApiError::bad_request(
        "which_person",
        "the body must be a JSON object with exactly one of `userId`, `anonymousId` and `email`, which is a string that is not empty",
    )
}
