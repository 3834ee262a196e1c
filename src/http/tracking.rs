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
use super::ingest::{Intake, Success, take_batch, take_one};
use super::openapi::{Batch, Message, MetricsErrors, TrackingErrors};
use super::{HttpState, Source, auth, body, settings};
use crate::segment::batch::{Envelope, split_envelope};
use crate::segment::decode::decode;
use crate::segment::value::Object;
use crate::segment::{MessageType, Value};

/// Bodies above this many bytes are worked on outside the threads that serve connections.
const LARGE_BODY_BYTES: usize = 256 * 1024;

const SINGLE: [(MessageType, &str, &str); 6] = [
    (MessageType::Identify, "/v1/identify", "/v1/i"),
    (MessageType::Track, "/v1/track", "/v1/t"),
    (MessageType::Page, "/v1/page", "/v1/p"),
    (MessageType::Screen, "/v1/screen", "/v1/s"),
    (MessageType::Group, "/v1/group", "/v1/g"),
    (MessageType::Alias, "/v1/alias", "/v1/a"),
];

/// The paths of batches, and which are bulk loads.
const BATCHES: [(&str, bool); 3] = [("/v1/batch", false), ("/v1/b", false), ("/v1/import", true)];

/// The routes, each with and without a slash at its end.
pub(super) fn routes() -> Router<HttpState> {
    let mut router = Router::new();
    for (kind, long, short) in SINGLE {
        let handler = move |State(state): State<HttpState>,
                            sender: Sender,
                            headers: HeaderMap,
                            body: Body| async move {
            let route = Route { endpoint: long, kind: Some(kind), is_bulk: false };
            single(state, route, sender, headers, body).await
        };
        router = both(router, long, post(handler));
        router = both(router, short, post(handler));
    }
    for (path, is_bulk) in BATCHES {
        let handler = move |State(state): State<HttpState>,
                            sender: Sender,
                            headers: HeaderMap,
                            body: Body| async move {
            let route = Route { endpoint: path, kind: None, is_bulk };
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
    is_bulk: bool,
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
    for (path, is_bulk) in BATCHES {
        let summary = match is_bulk {
            false => "Takes several messages.",
            true => "Takes several messages of a bulk load, which wait for all others.",
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
    let mut is_readable = true;
    let write_key = auth::basic_user(&headers).or_else(|| {
        // The message is decoded again when it is taken; only senders without Basic pay for that.
        let message = decode(&body.bytes);
        is_readable = message.is_ok();
        message.ok().and_then(|message| key_in(message.as_object()?))
    });
    let sources = state.sources();
    let Some(source) = write_key.and_then(|key| sources.by_write_key(&key)) else {
        return unauthorized(route.endpoint, is_readable);
    };
    if let Err(error) = admit(source, sender, &headers, 1) {
        return refused(source, route, error);
    }
    let intake = Intake {
        endpoint: route.endpoint,
        contract,
        source,
        is_bulk: route.is_bulk,
        kind: route.kind,
        is_from_segment: false,
        is_by_key: true,
        sender: sender.0,
        envelope: &Object::new(),
    };
    take_one(&state, intake, &body.bytes).await
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
    let work = async {
        let envelope = split_envelope(&body.bytes).map_err(|error| {
            ApiError::bad_request(
                "bad_json",
                format!("{error}; a batch is {{\"batch\": [message, …]}}"),
            )
        });
        let sources = state.sources();
        let in_header = auth::basic_user(&headers);
        let is_readable = in_header.is_some() || envelope.is_ok();
        let write_key = in_header.or_else(|| envelope.as_ref().ok().and_then(batch_key));
        let Some(source) = write_key.and_then(|key| sources.by_write_key(&key)) else {
            return unauthorized(route.endpoint, is_readable);
        };
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => return contract.answer(error),
        };
        let most = state.0.limits.batch_messages_max;
        if envelope.messages.len() > most {
            return contract.answer(ApiError::too_large(format!(
                "the batch has more than {most} messages: send smaller ones, or raise server.batch_messages_max"
            )));
        }
        if let Err(error) = admit(source, sender, &headers, envelope.messages.len()) {
            return refused(source, route, error);
        }
        let intake = Intake {
            endpoint: route.endpoint,
            contract,
            source,
            is_bulk: route.is_bulk,
            kind: route.kind,
            is_from_segment: false,
            is_by_key: true,
            sender: sender.0,
            envelope: &envelope.rest,
        };
        take_batch(&state, intake, &envelope.messages, body.bytes.len()).await
    };
    if body.bytes.len() > LARGE_BODY_BYTES {
        // Decoding takes milliseconds: others on this thread must not wait for it.
        let runtime = tokio::runtime::Handle::current();
        return tokio::task::block_in_place(|| runtime.block_on(work));
    }
    work.await
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

fn refused(source: &Source, route: Route, error: ApiError) -> Response {
    tracing::warn!(source = source.name, endpoint = route.endpoint, code = error.code, "refused");
    Contract::Tracking.answer(error)
}

/// The key in an envelope, else that of its first message.
fn batch_key(envelope: &Envelope<'_>) -> Option<String> {
    key_in(&envelope.rest).or_else(|| {
        let first = decode(envelope.messages.first()?).ok()?;
        key_in(first.as_object()?)
    })
}

fn key_in(object: &Object) -> Option<String> {
    object.get("writeKey").and_then(Value::as_str).map(str::to_owned)
}

/// The answer to a request with no known key. Where none was found since the body cannot be read,
/// that is what must be mended.
fn unauthorized(endpoint: &'static str, is_readable: bool) -> Response {
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
    Contract::Tracking.answer(error)
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
