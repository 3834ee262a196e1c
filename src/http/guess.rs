//! Wrong keys: each is counted and logged, and an address that sends many is asked to slow down.
//!
//! A wrong key gets a 401 (from the settings, a 404). Once an address has sent too many wrong keys within a minute,
//! further ones get a 429. Requests with the right key are never slowed down, because an office or a proxy may have
//! many senders at one address. A program that ignores the 429 can go on guessing, but that is logged; only long random
//! keys make it futile.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::Request;
use tokio::time::Instant;
use tracing::warn;

use super::Network;
use super::address::{sender_of, shown_network};
use super::error::ApiError;
use super::limit::AddressLimit;
use super::rejected::Rejections;

/// The most wrong keys of one address in a minute. A sender whose key was removed sends a few; an attacker needs many.
const GUESSES_MAX: u32 = 60;

/// The endpoint of the admin API in logs and metrics.
const ADMIN_ENDPOINT: &str = "/api";

/// Tracks wrong keys by address.
#[derive(Debug)]
pub struct Guesses {
    by_address: AddressLimit,
    trusted_proxies: Vec<Network>,
    rejections: Arc<Rejections>,
}

/// Where a request was rejected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Name of the source; empty if it is not known.
    pub(super) source: &'a str,
    pub(super) endpoint: &'static str,
    pub(super) sender: Option<IpAddr>,
}

impl Guesses {
    pub(super) fn new(trusted_proxies: Vec<Network>, rejections: Arc<Rejections>) -> Self {
        Self { by_address: AddressLimit::new(GUESSES_MAX), trusted_proxies, rejections }
    }

    /// Counts and logs a rejected request, and returns the error for the response.
    pub(super) fn reject(&self, place: Place<'_>, error: ApiError) -> ApiError {
        let error = match self.judge(place, error) {
            Ok(error) => error,
            Err(too_many) => return too_many,
        };
        let Place { source, endpoint, .. } = place;
        if let Some(unlogged) = self.rejections.count(source, endpoint, error.code, 1) {
            let (code, status) = (error.code, error.status.as_u16());
            warn!(source, endpoint, code, status, unlogged, "rejected");
        }
        error
    }

    /// Counts and logs a rejected request to the admin API, and returns the error for the response.
    pub fn reject_admin<B>(&self, request: &Request<B>, error: ApiError) -> ApiError {
        let sender = sender_of(request, &self.trusted_proxies);
        self.reject(Place { source: "", endpoint: ADMIN_ENDPOINT, sender }, error)
    }

    /// Returns the error. If the sender guesses too often, fails with the error that says so, which is already counted
    /// and logged.
    fn judge(&self, place: Place<'_>, error: ApiError) -> Result<ApiError, ApiError> {
        if !error.is_guess {
            return Ok(error);
        }
        let taken = self.by_address.take(place.sender, 1, Instant::now());
        let Err(retry_after_s) = taken else {
            return Ok(error);
        };
        let too_many = ApiError::too_many_guesses(retry_after_s);
        let Place { source, endpoint, sender } = place;
        if let Some(unlogged) = self.rejections.count(source, endpoint, too_many.code, 1) {
            let network = sender.map(shown_network);
            let (code, status) = (too_many.code, too_many.status.as_u16());
            warn!(
                source,
                endpoint,
                code,
                status,
                network,
                unlogged,
                "rejected: too many wrong keys come from one address"
            );
        }
        Err(too_many)
    }
}
