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

use super::HttpLimits;
use super::error::{ApiError, Contract};

/// The budget is counted in units of this many bytes, so that a semaphore's counter can hold it.
pub(super) const BUDGET_UNIT: usize = 1_024;

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
    if headers.contains_key(header::CONTENT_ENCODING) {
        // The layers in front take the header away from what they inflate, and where it says nothing.
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

/// Writes `Content-Encoding` as the layer that inflates knows it: in small letters, `gzip` for its old
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
