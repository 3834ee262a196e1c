//! The bodies of requests.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;

use crate::http::error::ApiError;

/// The largest body, in bytes.
pub(super) const BYTES_MAX: usize = 1024 * 1024;

/// A body, or why it could not be read.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// Returns the bytes of a body, or the error for one that could not be read.
pub(super) fn bytes(body: Body) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::too_large(format!("the body has more than {BYTES_MAX} bytes"))
        } else {
            ApiError::bad_request("bad_body", "the body could not be read: it ended early")
        }
    })
}
