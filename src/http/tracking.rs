//! The HTTP Tracking API, so that any Segment SDK can be pointed here by its host setting alone.
//!
//! Success is exactly 200, and nothing is ever redirected. The Content-Type is not looked at.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use utoipa::Path as _;
use utoipa::openapi::path::{HttpMethod, Operation, Paths};

use super::address::Sender;
use super::error::{ApiError, Contract};
use super::ingest::{Intake, Success, judge_batch, judge_one, store};
use super::openapi::{Batch, Message, MetricsErrors, TrackingErrors};
use super::{HttpLimits, HttpState, Source, auth, body, settings, work};
use crate::segment::MessageType;
use crate::segment::batch::{Envelope, split_envelope, write_key};

const SINGLE: [(MessageType, &str, &str); 6] = [
    (MessageType::Identify, "/v1/identify", "/v1/i"),
    (MessageType::Track, "/v1/track", "/v1/t"),
    (MessageType::Page, "/v1/page", "/v1/p"),
    (MessageType::Screen, "/v1/screen", "/v1/s"),
    (MessageType::Group, "/v1/group", "/v1/g"),
    (MessageType::Alias, "/v1/alias", "/v1/a"),
];

/// The paths of batches, and which are for bulk loads.
const BATCHES: [(&str, bool); 3] = [("/v1/batch", false), ("/v1/b", false), ("/v1/import", true)];

/// The routes, each with and without a slash at its end.
pub(super) fn routes() -> Router<HttpState> {
    let mut router = Router::new();
    for (kind, long, short) in SINGLE {
        let handler = move |State(state): State<HttpState>,
                            sender: Sender,
                            headers: HeaderMap,
                            body: Body| async move {
            let route = Route { endpoint: long, kind: Some(kind), is_import: false };
            single(state, route, sender, headers, body).await
        };
        router = both(router, long, post(handler));
        router = both(router, short, post(handler));
    }
    for (path, is_import) in BATCHES {
        let handler = move |State(state): State<HttpState>,
                            sender: Sender,
                            headers: HeaderMap,
                            body: Body| async move {
            let route = Route { endpoint: path, kind: None, is_import };
            batch(state, route, sender, headers, body).await
        };
        router = both(router, path, post(handler));
    }
    router = both(router, "/v1/m", post(metrics));
    both(router, "/v1/projects/{write_key}/settings", get(settings::give))
}

fn both(
    router: Router<HttpState>,
    path: &str,
    handler: MethodRouter<HttpState>,
) -> Router<HttpState> {
    router.route(path, handler.clone()).route(&format!("{path}/"), handler)
}

/// What is known of a request by its path.
#[derive(Clone, Copy)]
struct Route {
    endpoint: &'static str,
    kind: Option<MessageType>,
    is_import: bool,
}

impl Route {
    fn intake(self, source: &Source, sender: Sender) -> Intake<'_> {
        Intake {
            endpoint: self.endpoint,
            contract: Contract::Tracking,
            source,
            is_bulk: self.is_import && source.import_is_bulk,
            kind: self.kind,
            is_from_segment: false,
            is_by_key: true,
            sender: sender.0,
        }
    }
}

/// Describes the routes, each once: without the slash at its end.
pub(super) fn describe(paths: &mut Paths) {
    let mut describe = |path: &str, summary: String, mut operation: Operation| {
        operation.operation_id = Some(path.trim_start_matches("/v1/").to_owned());
        operation.summary = Some(summary);
        operation.tags = Some(vec!["Tracking".to_owned()]);
        paths.add_path_operation(path, vec![HttpMethod::Post], operation);
    };
    for (kind, long, short) in SINGLE {
        for path in [long, short] {
            let summary = format!("Takes a message, of type {kind} unless it has another.");
            describe(path, summary, __path_single::operation());
        }
    }
    for (path, is_import) in BATCHES {
        let summary = match is_import {
            false => "Takes several messages.",
            true => {
                "Takes several messages of a bulk load, which wait for all others unless their source says otherwise."
            }
        };
        describe(path, summary.to_owned(), __path_batch::operation());
    }
}

#[utoipa::path(
    post,
    path = "/v1/track",
    request_body(content = Message, content_type = "application/json"),
    responses((status = 200, description = "Stored.", body = Success), TrackingErrors),
    security((), ("writeKey" = []))
)]
async fn single(
    state: HttpState,
    route: Route,
    sender: Sender,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let contract = Contract::Tracking;
    let read = body::read(body, &headers, &state.0.limits, &state.0.budget, contract).await;
    let body = match read {
        Ok(body) => body,
        Err(error) => return contract.answer(error),
    };
    let sources = state.sources();
    let judged = work::on(&state, body.bytes.len(), || {
        let (write_key, is_readable) = match auth::basic_user(&headers) {
            Some(key) => (Some(key), true),
            None => {
                let found = write_key(&body.bytes);
                let is_readable = found.is_ok();
                (found.ok().flatten(), is_readable)
            }
        };
        let Some(source) = write_key.and_then(|key| sources.by_write_key(&key)) else {
            return Err(unauthorized(route.endpoint, is_readable));
        };
        admit(source, sender, &headers, 1).inspect_err(|error| refused(source, route, error))?;
        let intake = route.intake(source, sender);
        let judged = judge_one(&state, &intake, &body.bytes)?;
        Ok((intake, judged))
    });
    match judged.await {
        Ok((intake, judged)) => store(&state, &intake, judged).await,
        Err(error) => contract.answer(error),
    }
}

#[utoipa::path(
    post,
    path = "/v1/batch",
    request_body(content = Batch, content_type = "application/json"),
    responses(
        (status = 200, description = "Stored, but for the messages that are named.", body = Success),
        TrackingErrors
    ),
    security((), ("writeKey" = []))
)]
async fn batch(
    state: HttpState,
    route: Route,
    sender: Sender,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let contract = Contract::Tracking;
    let read = body::read(body, &headers, &state.0.limits, &state.0.budget, contract).await;
    let body = match read {
        Ok(body) => body,
        Err(error) => return contract.answer(error),
    };
    let sources = state.sources();
    let limits = &state.0.limits;
    let judged = work::on(&state, body.bytes.len(), || {
        let envelope = split_envelope(&body.bytes, limits.batch_messages_max).map_err(|error| {
            ApiError::bad_request(
                "bad_json",
                format!("{error}; a batch is {{\"batch\": [message, …]}}"),
            )
        });
        let in_header = auth::basic_user(&headers);
        let is_readable = in_header.is_some() || envelope.is_ok();
        let write_key = in_header.or_else(|| envelope.as_ref().ok().and_then(batch_key));
        let Some(source) = write_key.and_then(|key| sources.by_write_key(&key)) else {
            return Err(unauthorized(route.endpoint, is_readable));
        };
        let envelope = envelope?;
        check_sizes(&envelope, limits)?;
        admit(source, sender, &headers, envelope.list.count)
            .inspect_err(|error| refused(source, route, error))?;
        let intake = route.intake(source, sender);
        let (messages, shared) = (&envelope.list.messages, envelope.shared());
        let judged = judge_batch(&state, &intake, messages, &shared, body.bytes.len());
        Ok((intake, judged))
    });
    match judged.await {
        Ok((intake, judged)) => store(&state, &intake, judged).await,
        Err(error) => contract.answer(error),
    }
}

/// Refuses a batch of too many messages, and one whose envelope alone is more than a message may be.
fn check_sizes(envelope: &Envelope<'_>, limits: &HttpLimits) -> Result<(), ApiError> {
    let most = limits.batch_messages_max;
    if envelope.list.count > most {
        return Err(ApiError::too_large(format!(
            "the batch has more than {most} messages: send smaller ones, or raise server.batch_messages_max"
        )));
    }
    let most = limits.message_bytes_max;
    if envelope.shared_bytes() > most {
        return Err(ApiError::too_large(format!(
            "`context` and `integrations` beside the batch have more than {most} bytes, the most of a message: send less, or raise server.message_bytes_max"
        )));
    }
    Ok(())
}

/// Whether this source takes so many messages from this sender now.
fn admit(
    source: &Source,
    sender: Sender,
    headers: &HeaderMap,
    messages: usize,
) -> Result<(), ApiError> {
    source.admit_origin(headers)?;
    source.admit_address(sender.0, messages)
}

fn refused(source: &Source, route: Route, error: &ApiError) {
    tracing::warn!(source = source.name, endpoint = route.endpoint, code = error.code, "refused");
}

/// The key in an envelope, else that of the first message that has one: a broken message before it
/// must not cost the others.
fn batch_key(envelope: &Envelope<'_>) -> Option<String> {
    let in_messages =
        || envelope.list.messages.iter().find_map(|message| write_key(message).ok().flatten());
    envelope.write_key.clone().or_else(in_messages)
}

/// The error of a request with no known key. Where none was found since the body cannot be read,
/// that is what must be mended.
fn unauthorized(endpoint: &'static str, is_readable: bool) -> ApiError {
    let error = if is_readable {
        ApiError::unauthorized(
            "no source has this write key: give one as the user name of Basic authentication (curl -u KEY:) or as `writeKey` in the body; keys are set in sources.NAME.write_keys or SEGMENT_WRITE_KEY",
        )
    } else {
        ApiError::bad_request(
            "bad_json",
            "no write key came with the request, and none can be found in the body, which is not JSON of the right form",
        )
    };
    tracing::warn!(endpoint, code = error.code, "refused");
    error
}

/// analytics.js' own metrics: taken, so that it is content, and not kept.
#[utoipa::path(
    post,
    path = "/v1/m",
    tag = "Tracking",
    operation_id = "m",
    request_body(content = Object, content_type = "application/json"),
    responses((status = 200, description = "Taken.", body = Success), MetricsErrors),
    security(())
)]
pub(super) async fn metrics(
    State(state): State<HttpState>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let contract = Contract::Tracking;
    match body::read(body, &headers, &state.0.limits, &state.0.budget, contract).await {
        Ok(_) => axum::Json(serde_json::json!({"success": true})).into_response(),
        Err(error) => contract.answer(error),
    }
}
