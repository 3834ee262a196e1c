//! The client of one destination: one method call is one HTTP request.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::answer::{ANSWER_BYTES_MAX, Answer, CallError};
use super::options::{ClientError, ClientOptions};
use super::pacer::{Pacer, Slot};
use super::transport::{Call, Http, Transport};
use crate::clock::SharedClock;

/// The most bytes of a list that are read.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The result of a call.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The response, or why there is none.
    pub result: Result<Answer, CallError>,
    /// The time from the first byte sent to the last byte received.
    pub duration: Duration,
}

/// The client of one destination.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    /// The base URL without a user name and a password, for people.
    shown_url: String,
    host: String,
    account: String,
    pacer: Arc<Pacer>,
    clock: SharedClock,
}

impl Client {
    /// Creates a client that speaks HTTP.
    pub fn new(options: &ClientOptions, clock: SharedClock) -> Result<Self, ClientError> {
        let http = Http::new(options)?;
        let (shown_url, host) = (http.shown_url().to_owned(), http.host().to_owned());
        let pacer = Pacer::new(options.rate);
        let written = format!("{} {}", options.base_url, options.api_key.expose());
        let account = Sha256::digest(written.as_bytes());
        let account = account.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { transport: Arc::new(http), shown_url, host, account, pacer, clock })
    }

    /// Creates a client whose calls go to a model of Loops.
    #[cfg(test)]
    pub(crate) fn over(transport: Arc<dyn Transport>, rate: u32, clock: SharedClock) -> Self {
        let shown_url = "simulated".to_owned();
        let (host, account) = (shown_url.clone(), shown_url.clone());
        Self { transport, shown_url, host, account, pacer: Pacer::new(Some(rate)), clock }
    }

    /// Returns the base URL for people: without a user name, a password or a query, which may be secret.
    pub fn shown_url(&self) -> &str {
        &self.shown_url
    }

    /// Returns the host of the base URL.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns a digest of the base URL and the key, which differs between accounts at Loops. It is as secret as the
    /// key.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Returns the limiter that provides the slot for every call.
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    /// Makes one call. Never fails: if there was no response, the reply holds a [`CallError`].
    pub async fn send(&self, slot: &Slot, call: Call<'_>) -> Reply {
        let started = Instant::now();
        slot.sent();
        let result = self.transport.exchange(call, ANSWER_BYTES_MAX).await.map(|mut answer| {
            // The status decides. A truncated body only loses details for people.
            answer.body.truncate(ANSWER_BYTES_MAX);
            Answer::new(answer.status, &answer.headers, &answer.body, self.clock.now())
        });
        let duration = started.elapsed();
        match &result {
            Ok(answer) => {
                let limited = (answer.status == 429).then_some(answer.retry_after);
                slot.answered(answer.rate, limited);
            }
            Err(CallError::Timeout | CallError::Connect(_) | CallError::Broken(_)) => {
                slot.answered(Default::default(), None);
            }
        }
        Reply { result, duration }
    }

    /// Checks the key: `GET /api-key`.
    pub async fn probe(&self, slot: &Slot) -> Reply {
        let call = Call { method: "GET", path: "/api-key", body: None, idempotency_key: None };
        self.send(slot, call).await
    }

    /// Reads a list from Loops, such as `/lists`; returns the status and the body, which may have at most
    /// 4 MiB.
    pub async fn read(&self, slot: &Slot, path: &str) -> Result<(u16, Vec<u8>), CallError> {
        slot.sent();
        let call = Call { method: "GET", path, body: None, idempotency_key: None };
        let answer = self.transport.exchange(call, LIST_BYTES_MAX + 1).await;
        let (rate, limited) = answer.as_ref().map_or_else(
            |_| Default::default(),
            |answer| {
                let read = Answer::new(answer.status, &answer.headers, &[], self.clock.now());
                (read.rate, (read.status == 429).then_some(read.retry_after))
            },
        );
        slot.answered(rate, limited);
        let answer = answer?;
        if answer.body.len() > LIST_BYTES_MAX {
            return Err(CallError::Broken(format!(
                "the response has more than {LIST_BYTES_MAX} bytes"
            )));
        }
        match answer.cut_off {
            Some(error) => Err(error),
            None => Ok((answer.status, answer.body)),
        }
    }
}
