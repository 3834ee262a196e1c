//! Reads a body: within its time, within its size after inflating, within what memory allows.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::Entry;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::HttpState;
use super::error::{ApiError, Contract};

/// The budget is counted in units of this many bytes, so that a semaphore's counter can hold it.
const BUDGET_UNIT: usize = 1_024;

/// The first bytes of each body are paid for from a part of the budget that nothing else may use.
const SMALL_BODY_BYTES: usize = 32 * 1_024;

/// Bytes of bodies that may still be taken into memory.
///
/// It has two parts, so that small bodies get in while large ones, or slow ones whose senders nobody
/// knows yet, hold all the rest: a quarter pays for the first 32 KiB of bodies and nothing else.
#[derive(Debug)]
pub(super) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Budget {
    /// A budget of this many bytes in all; one body of `body_bytes_max` always has room in it.
    pub(super) fn new(bytes: usize, body_bytes_max: usize) -> Self {
        let semaphore = |bytes: usize| {
            Arc::new(Semaphore::new(bytes.div_ceil(BUDGET_UNIT).min(Semaphore::MAX_PERMITS)))
        };
        let small = bytes / 4;
        Self { small: semaphore(small), large: semaphore((bytes - small).max(body_bytes_max)) }
    }

    fn take(&self, units: usize, is_small: bool) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(units).ok()?;
        let from = |part: &Arc<Semaphore>| Arc::clone(part).try_acquire_many_owned(units).ok();
        let small = if is_small { from(&self.small) } else { None };
        small.or_else(|| from(&self.large))
    }
}

/// A body in memory; its part of the budget is given back when it is dropped.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    _permits: Vec<OwnedSemaphorePermit>,
}

/// Reads a body to its end.
pub(super) async fn read(
    body: Body,
    headers: &HeaderMap,
    state: &HttpState,
    contract: Contract,
) -> Result<ReadBody, ApiError> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        // The layers in front take the header away from what they inflate, and where it says nothing.
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unknown_encoding",
            "Content-Encoding must be gzip, or left out",
        ));
    }
    let limits = &state.0.limits;
    let collecting = collect(body, limits.body_bytes_max, &state.0.budget, contract);
    match timeout(limits.body_timeout, collecting).await {
        Ok(read) => read,
        Err(_) => Err(contract.not_now("the body did not come in time: send the request again")),
    }
}

async fn collect(
    mut body: Body,
    bytes_max: usize,
    budget: &Budget,
    contract: Contract,
) -> Result<ReadBody, ApiError> {
    let mut bytes = BytesMut::new();
    let mut permits = Vec::new();
    let mut paid_small = 0;
    let mut paid_large = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            ApiError::bad_request(
                "broken_body",
                "the body ended early, or is not gzip although Content-Encoding says so",
            )
        })?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        if bytes.len() + chunk.len() > bytes_max {
            return Err(ApiError::too_large(format!(
                "the body has more than {bytes_max} bytes (after inflating): send smaller batches, or raise server.body_bytes_max"
            )));
        }
        bytes.extend_from_slice(&chunk);
        let small = bytes.len().min(SMALL_BODY_BYTES);
        for (is_small, bytes, paid) in
            [(true, small, &mut paid_small), (false, bytes.len() - small, &mut paid_large)]
        {
            let due = bytes.div_ceil(BUDGET_UNIT);
            if due > *paid {
                permits.push(budget.take(due - *paid, is_small).ok_or_else(|| {
                    contract.not_now(
                        "too many bodies come in at once: send the request again after Retry-After",
                    )
                })?);
                *paid = due;
            }
        }
    }
    Ok(ReadBody { bytes: bytes.freeze(), _permits: permits })
}

/// Writes `Content-Encoding` as the layer that inflates knows it: in lower case, `gzip` for its old
/// name `x-gzip`, and not at all for what means no encoding.
pub(super) async fn name_encoding(mut request: Request) -> Request {
    let headers = request.headers_mut();
    if let Entry::Occupied(mut entry) = headers.entry(header::CONTENT_ENCODING) {
        match entry.get().as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
            b"gzip" | b"x-gzip" => drop(entry.insert(HeaderValue::from_static("gzip"))),
            b"identity" | b"" => drop(entry.remove()),
            _ => {}
        }
    }
    request
}
