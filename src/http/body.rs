//! Reads a body: within its time, within its size after inflating, within what memory allows.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::HttpLimits;
use super::error::{ApiError, Contract};

/// The budget is counted in units of this many bytes, so that a semaphore's counter can hold it.
pub(super) const BUDGET_UNIT: usize = 1_024;

/// How much of a body that is too large is read on, after inflating.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;

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
    limits: &HttpLimits,
    budget: &Arc<Semaphore>,
    contract: Contract,
) -> Result<ReadBody, ApiError> {
    let is_encoded = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_encoded {
        // The layer in front takes the header away from what it inflates.
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unknown_encoding",
            "Content-Encoding must be gzip, or left out",
        ));
    }
    match timeout(limits.body_timeout, collect(body, limits.body_bytes_max, budget, contract)).await
    {
        Ok(read) => read,
        Err(_) => Err(contract.not_now("the body did not come in time: send the request again")),
    }
}

async fn collect(
    mut body: Body,
    bytes_max: usize,
    budget: &Arc<Semaphore>,
    contract: Contract,
) -> Result<ReadBody, ApiError> {
    let mut bytes = BytesMut::new();
    let mut permits = Vec::new();
    let mut paid = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            ApiError::bad_request(
                "broken_body",
                "the body broke off, or is not the gzip that Content-Encoding says",
            )
        })?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        if bytes.len() + chunk.len() > bytes_max {
            drain(body).await;
            return Err(ApiError::too_large(format!(
                "the body has more than {bytes_max} bytes (after inflating): send smaller batches, or raise server.body_bytes_max"
            )));
        }
        bytes.extend_from_slice(&chunk);
        let due = bytes.len().div_ceil(BUDGET_UNIT);
        if due > paid {
            let units = u32::try_from(due - paid).unwrap_or(u32::MAX);
            let permit = Arc::clone(budget).try_acquire_many_owned(units).map_err(|_| {
                contract.not_now("too many large bodies come in at once: send the request again after Retry-After")
            })?;
            permits.push(permit);
            paid = due;
        }
    }
    Ok(ReadBody { bytes: bytes.freeze(), _permits: permits })
}

/// Reads on for a while without keeping anything: a client that is still writing when the connection
/// is closed would see a broken connection instead of the answer, and send it all again.
async fn drain(mut body: Body) {
    let mut drained = 0;
    while drained < DRAIN_BYTES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => return,
        }
    }
}
