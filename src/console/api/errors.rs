//! The errors that handlers have in common, and their descriptions.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response};

use crate::http::openapi::errors;

/// The errors of every operation: those of the layer that checks the token.
pub(super) struct AdminErrors;

impl IntoResponses for AdminErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            (401, "The admin token is missing or wrong."),
            (403, "The admin API is off, because no admin token is configured."),
            (429, "Too many wrong tokens come from this address."),
        ])
    }
}

/// The error of operations that need the store.
pub(super) struct StoreErrors;

impl IntoResponses for StoreErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[(503, "The store does not work at the moment; the log says why.")])
    }
}
