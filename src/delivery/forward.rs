//! Hands Loops' webhooks on. Loops sends to only one address of an account, and other systems may need the webhooks
//! too.
//!
//! A webhook stays in the store until it was handed on, so that a restart loses nothing. It may arrive twice, with the
//! same id. Several processes share the work.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use metrics::counter;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::clock::SharedClock;
use crate::loops::{CallError, SentWebhook, WebhookClient};
use crate::queue::{FORWARD_KEPT, Feedback, Forward, forward_wait};
use crate::telemetry;

/// How many webhooks are handed on at a time. Loops sends at most ten a second.
const AT_ONCE: u32 = 8;

/// How long to wait before polling the store again, if nothing wakes this task, and after a failure.
const WAIT: Duration = Duration::from_secs(5);

/// Hands the webhooks of a destination on.
#[derive(Debug)]
pub struct Forwarder<F: ?Sized> {
    destination: String,
    client: WebhookClient,
    feedback: Arc<F>,
    clock: SharedClock,
    wake: Arc<Notify>,
}

impl<F: Feedback + ?Sized + 'static> Forwarder<F> {
    /// Creates a forwarder. `wake` is notified when there is a new webhook.
    pub fn new(
        destination: String,
        client: WebhookClient,
        feedback: Arc<F>,
        clock: SharedClock,
        wake: Arc<Notify>,
    ) -> Self {
        Self { destination, client, feedback, clock, wake }
    }

    /// Runs until it is dropped. Webhooks that are being sent at that time are sent again after the next start.
    pub async fn run(self) {
        let mut is_failing = false;
        loop {
            let taken =
                self.feedback.take_forwards(&self.destination, self.clock.now(), AT_ONCE).await;
            let taken = match taken {
                Ok(taken) => taken,
                Err(fault) => {
                    // The store has logged the error itself.
                    debug!(error = %telemetry::chain(&fault), "no webhook can be handed on");
                    sleep(WAIT).await;
                    continue;
                }
            };
            if taken.is_empty() {
                let _ = timeout(WAIT, self.wake.notified()).await;
                continue;
            }
            let failure = self.hand_on(taken).await;
            let (destination, url) = (&self.destination, self.client.shown_url());
            match (&failure, is_failing) {
                (Some(error), false) => {
                    warn!(destination, url, error, "webhooks of Loops cannot be handed on");
                }
                (None, true) => info!(destination, url, "webhooks of Loops are handed on again"),
                _ => {}
            }
            is_failing = failure.is_some();
            if is_failing {
                sleep(WAIT).await;
            }
        }
    }

    /// Sends all at once; returns why one of them failed.
    async fn hand_on(&self, taken: Vec<Forward>) -> Option<String> {
        let mut sending = JoinSet::new();
        for forward in taken {
            let client = self.client.clone();
            sending.spawn(async move {
                let webhook = &forward.webhook;
                let sent = client.send(SentWebhook {
                    id: &forward.webhook_id,
                    timestamp: &webhook.timestamp,
                    signature: &webhook.signature,
                    body: &webhook.body,
                });
                let sent = sent.await;
                (forward, sent)
            });
        }
        let mut failure = None;
        while let Some(joined) = sending.join_next().await {
            match joined {
                Ok((forward, sent)) => failure = self.note(&forward, sent).await.or(failure),
                // A bug of ours: the webhook is tried again.
                Err(error) => failure = Some(error.to_string()),
            }
        }
        failure
    }

    /// Records the outcome of one webhook; returns why it failed.
    async fn note(&self, forward: &Forward, sent: Result<u16, CallError>) -> Option<String> {
        let failure = match sent {
            Ok(200..=299) => None,
            Ok(status) => Some(format!("the response has the status {status}")),
            Err(error) => Some(error.to_string()),
        };
        let age = self.clock.now().duration_since(forward.received_at);
        let age_at_next = age.saturating_add(signed(forward_wait(forward.tries)));
        let is_last = age_at_next >= signed(FORWARD_KEPT);
        let outcome = match &failure {
            None => "handed_on",
            Some(_) if is_last => "given_up",
            Some(_) => "failed",
        };
        let labels = [("destination", self.destination.clone()), ("outcome", outcome.to_owned())];
        counter!(telemetry::FEEDBACK_FORWARDS, &labels).increment(1);
        if let (Some(error), true) = (&failure, is_last) {
            let (destination, webhook_id) = (&self.destination, &forward.webhook_id);
            error!(
                destination,
                webhook_id, error, "a webhook of Loops was not handed on within a day"
            );
        }
        if failure.is_none() || is_last {
            let ended = self.feedback.end_forward(&self.destination, &forward.webhook_id).await;
            if let Err(fault) = ended {
                debug!(error = %telemetry::chain(&fault), "a webhook may be handed on again");
            }
        }
        failure
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
