//! The HTTP Tracking API, so that any Segment SDK can be pointed here by its host setting alone.
//!
//! Success is exactly 200, and nothing is ever redirected. The Content-Type is ignored.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::endpoint::Endpoint;
use super::error::ApiError;
use super::ingest::{Arrival, Success, Visit};
use super::judged::Judged;
use super::openapi::{Batch as BatchBody, Message, MetricsErrors, TrackingErrors};
use super::{HttpLimits, HttpState, Source, Sources, auth, settings};
use crate::segment::MessageType;
use crate::segment::batch::Batch;
use crate::segment::list::write_key;

/// Returns the routes. Trailing slashes have been removed before.
pub(super) fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(identify))
        .routes(routes!(i))
        .routes(routes!(track))
        .routes(routes!(t))
        .routes(routes!(page))
        .routes(routes!(p))
        .routes(routes!(screen))
        .routes(routes!(s))
        .routes(routes!(group))
        .routes(routes!(g))
        .routes(routes!(alias))
        .routes(routes!(a))
        .routes(routes!(batch))
        .routes(routes!(b))
        .routes(routes!(import))
        .routes(routes!(root))
        .routes(routes!(beacon))
        .routes(routes!(metrics))
        .routes(routes!(settings::give))
}

/// A handler for messages of one type.
macro_rules! single {
    ($name:ident, $path:tt, $kind:ident, $summary:tt) => {
        #[utoipa::path(
                    post,
                    path = $path,
                    tag = "Tracking",
                    summary = $summary,
                    request_body(content = Message, content_type = "application/json"),
                    responses(
                        (status = 200, description = "The message is stored.", body = Success),
                        TrackingErrors
                    ),
                    security((), ("writeKey" = []))
                )]
        async fn $name(State(state): State<HttpState>, arrival: Arrival) -> Response {
            take_single(&state, MessageType::$kind, arrival).await
        }
    };
}

single!(identify, "/v1/identify", Identify, "Accepts one message; `type` defaults to `identify`.");
single!(i, "/v1/i", Identify, "Short for /v1/identify.");
single!(track, "/v1/track", Track, "Accepts one message; `type` defaults to `track`.");
single!(t, "/v1/t", Track, "Short for /v1/track.");
single!(page, "/v1/page", Page, "Accepts one message; `type` defaults to `page`.");
single!(p, "/v1/p", Page, "Short for /v1/page.");
single!(screen, "/v1/screen", Screen, "Accepts one message; `type` defaults to `screen`.");
single!(s, "/v1/s", Screen, "Short for /v1/screen.");
single!(group, "/v1/group", Group, "Accepts one message; `type` defaults to `group`.");
single!(g, "/v1/g", Group, "Short for /v1/group.");
single!(alias, "/v1/alias", Alias, "Accepts one message; `type` defaults to `alias`.");
single!(a, "/v1/a", Alias, "Short for /v1/alias.");

/// A handler for batches.
macro_rules! batch {
    ($name:ident, $path:tt, $endpoint:ident, $summary:tt) => {
        #[utoipa::path(
                    post,
                    path = $path,
                    tag = "Tracking",
                    summary = $summary,
                    request_body(content = BatchBody, content_type = "application/json"),
                    responses(
                        (
                            status = 200,
                            description = "All messages are stored, except those listed as rejected.",
                            body = Success
                        ),
                        TrackingErrors
                    ),
                    security((), ("writeKey" = []))
                )]
        async fn $name(State(state): State<HttpState>, arrival: Arrival) -> Response {
            take_batch(&state, Endpoint::$endpoint, arrival, None).await
        }
    };
}

batch!(batch, "/v1/batch", Batch, "Accepts a batch of messages.");
batch!(b, "/v1/b", Batch, "Short for /v1/batch.");
batch!(
    import,
    "/v1/import",
    Import,
    "Accepts a batch of a bulk load, which is delivered after everything else unless the source says otherwise."
);
batch!(
    root,
    "/v1",
    Root,
    "Accepts a batch from an SDK that posts to the exact URL of its proxy setting."
);

/// The query of a beacon, which cannot have headers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct BeaconQuery {
    /// The write key.
    #[param(example = "wk_website")]
    write_key: Option<String>,
}

/// Accepts a batch that a page sends as it unloads.
#[utoipa::path(
    post,
    path = "/beacon/v1/batch",
    tag = "Tracking",
    params(BeaconQuery),
    request_body(content = BatchBody, content_type = "application/json"),
    responses(
        (
            status = 200,
            description = "All messages are stored, except those listed as rejected.",
            body = Success
        ),
        TrackingErrors
    ),
    security((), ("writeKey" = []))
)]
async fn beacon(
    State(state): State<HttpState>,
    query: Result<Query<BeaconQuery>, QueryRejection>,
    arrival: Arrival,
) -> Response {
    let key = query.ok().and_then(|Query(query)| query.write_key).filter(|key| !key.is_empty());
    take_batch(&state, Endpoint::Beacon, arrival, key).await
}

async fn take_single(state: &HttpState, kind: MessageType, arrival: Arrival) -> Response {
    let sources = state.sources();
    Visit::take(
        state,
        Endpoint::Single(kind),
        arrival,
        |visit| visit.identify_by_header(&sources, None),
        |visit, source, body| {
            let source = match source {
                Some(source) => source,
                None => {
                    let found = write_key(body);
                    visit.identify(
                        &sources,
                        found.as_ref().ok().cloned().flatten(),
                        found.is_ok(),
                    )?
                }
            };
            visit.admit_requests(1)?;
            visit.judge_one(&visit.intake(source, Some(kind)), body)
        },
    )
    .await
}

async fn take_batch(
    state: &HttpState,
    endpoint: Endpoint,
    arrival: Arrival,
    key: Option<String>,
) -> Response {
    let sources = state.sources();
    Visit::take(
        state,
        endpoint,
        arrival,
        |visit| visit.identify_by_header(&sources, key),
        |visit, source, body| {
            let limits = &state.0.limits;
            let batch = Batch::read(body, limits.batch_messages_max);
            let source = match source {
                Some(source) => source,
                None => {
                    let is_readable = batch.is_sound || batch.has_items();
                    visit.identify(&sources, batch.write_key.clone(), is_readable)?
                }
            };
            check_sizes(&batch, limits)?;
            visit.admit_requests(batch.count)?;
            visit.judge_batch(&visit.intake(source, None), &batch)
        },
    )
    .await
}

impl<'s> Visit<'s> {
    /// Finds the source by the key in the request's header, or else by `key`. If there is neither, the body may have
    /// the key.
    fn identify_by_header(
        &mut self,
        sources: &'s Sources,
        key: Option<String>,
    ) -> Result<Option<&'s Source>, ApiError> {
        match auth::basic_user(&self.headers).or(key) {
            Some(key) => self.identify(sources, Some(key), true).map(Some),
            None => Ok(None),
        }
    }

    /// Finds the source by a key. If the key is missing because the body cannot be read, the error is about the body.
    fn identify(
        &mut self,
        sources: &'s Sources,
        key: Option<String>,
        is_readable: bool,
    ) -> Result<&'s Source, ApiError> {
        let found = key.as_ref().and_then(|key| sources.by_write_key(key));
        let source = found.ok_or_else(|| match is_readable {
            true => ApiError { is_guess: key.is_some(), ..ApiError::unauthorized(
                "no source has this write key: give one as the user name of Basic authentication (curl -u KEY:) or as `writeKey` in the body; keys are set in sources.NAME.write_keys or SEGMENT_WRITE_KEY",
            ) },
            false => ApiError::bad_request(
                "bad_json",
                "no write key came with the request, and none can be found in the body, which is not JSON of the right form",
            ),
        })?;
        self.source = Some(source);
        source.admit_origin(&self.headers)?;
        self.trust();
        Ok(source)
    }
}

/// Rejects a batch of too many messages, and one whose envelope alone is longer than a message may be.
fn check_sizes(batch: &Batch<'_>, limits: &HttpLimits) -> Result<(), ApiError> {
    let most = limits.batch_messages_max;
    if batch.count > most {
        return Err(ApiError::too_large(format!(
            "the batch has more than {most} messages: send smaller ones, or raise server.batch_messages_max"
        )));
    }
    let most = limits.message_bytes_max;
    if batch.shared_bytes_max() > most {
        return Err(ApiError::too_large(format!(
            "`context` and `integrations` beside the batch have more than {most} bytes, the most that a message may have: send less, or raise server.message_bytes_max"
        )));
    }
    Ok(())
}

/// Accepts analytics.js' own metrics and discards them.
#[utoipa::path(
    post,
    path = "/v1/m",
    tag = "Tracking",
    operation_id = "m",
    request_body(content = Object, content_type = "application/json"),
    responses((status = 200, description = "Accepted.", body = Success), MetricsErrors),
    security(())
)]
async fn metrics(State(state): State<HttpState>, arrival: Arrival) -> Response {
    Visit::take(&state, Endpoint::Metrics, arrival, |_| Ok(()), |_, (), _| Ok(Judged::default()))
        .await
}
