//! Looks at the state of the process at regular intervals, and sends the alerts that follow from it.
//!
//! The process that delivers to a destination sends the alerts about it and its sources. Each process sends the alerts
//! about itself. Which alerts were sent is kept in memory only, so a process that starts sends alerts again for
//! problems that persist.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::error::AppError;
use super::reload::Reloader;
use crate::alerts::{Alert, Alerts, Format, Message, SourceWatch, Subject, Topic, View, judge};
use crate::clock::SharedClock;
use crate::config::{AlertFormat, AlertsConfig, Config, ConsoleConfig};
use crate::delivery::Board;
use crate::feedback::{Key, sign};
use crate::loops::{SentWebhook, WebhookClient};
use crate::queue::{FreeSpace, Store, TallyStep};
use crate::telemetry;

/// How often the process looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often it reads counts.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// How often it reads the counts of more than an hour. Only sources that may be silent for longer need them.
const COUNT_LONG_EVERY: Duration = Duration::from_secs(300);
const LONG: Duration = Duration::from_secs(3_600);

/// The wait before an alert is sent again: the first one, which doubles each time, and the longest.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// How often an alert is tried before it is given up: for about 40 minutes.
const TRIES_MAX: u32 = 12;

/// The most alerts that wait to be sent.
const WAITING_MAX: usize = 100;

/// Sends alerts to the configured URL.
#[derive(Debug)]
pub struct AlertSender {
    client: WebhookClient,
    key: Option<Key>,
    format: Format,
    console: Option<String>,
    clock: SharedClock,
}

impl AlertSender {
    /// Makes a sender; `None` if no alerts are configured.
    pub fn new(
        alerts: &AlertsConfig,
        console: &ConsoleConfig,
        clock: SharedClock,
    ) -> Result<Option<Self>, AppError> {
        let Some(url) = &alerts.webhook_url else { return Ok(None) };
        Ok(Some(Self {
            client: WebhookClient::new(url).map_err(AppError::Alerts)?,
            // The check of the configuration has read it already.
            key: alerts.webhook_secret.as_ref().and_then(Key::read),
            format: match alerts.format {
                AlertFormat::Json => Format::Json,
                AlertFormat::Slack => Format::Slack,
            },
            console: console.public_url.clone(),
            clock,
        }))
    }

    /// Returns the URL that it sends to, for people.
    pub fn shown_url(&self) -> &str {
        self.client.shown_url()
    }

    /// Sends a test alert. The error says why it did not arrive.
    pub async fn test(&self, host: &str) -> Result<(), String> {
        let alert = Alert {
            topic: Topic::Test,
            subject: Subject::Host(host.to_owned()),
            text: format!("a test from {host}: alerts arrive here"),
            at: self.clock.now(),
        };
        self.send(&self.write(&alert)).await
    }

    fn write(&self, alert: &Alert) -> Message {
        let id = format!("alert_{}", uuid::Uuid::now_v7().simple());
        Message::new(alert, id, self.format, self.console.as_deref())
    }

    async fn send(&self, message: &Message) -> Result<(), String> {
        let Message { id, body, .. } = message;
        let timestamp = self.clock.now().as_second().to_string();
        let signature = self.key.as_ref().map(|key| sign(key, id, &timestamp, body));
        let signature = signature.as_deref().unwrap_or_default();
        let webhook = SentWebhook { id, timestamp: &timestamp, signature, body };
        match self.client.send(webhook).await {
            Ok(200..=299) => Ok(()),
            Ok(status) => Err(format!("the response has the status {status}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Looks at regular intervals, and sends the alerts.
pub(super) struct Lookout {
    pub(super) sender: AlertSender,
    pub(super) store: Arc<dyn Store>,
    pub(super) board: Board,
    pub(super) reloader: Arc<Reloader>,
    pub(super) clock: SharedClock,
    pub(super) host: String,
    pub(super) started_at: Instant,
    /// Whether the store works.
    pub(super) is_ready: watch::Receiver<bool>,
}

/// The counts that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    None,
    /// The counts of the last hour.
    Short,
    /// The counts that every source needs.
    All,
}

impl Counts {
    /// Returns whether these counts can show that a source is silent.
    fn suffice_for(self, silent_after: Duration) -> bool {
        match self {
            Counts::None => false,
            Counts::Short => silent_after <= LONG,
            Counts::All => true,
        }
    }
}

/// When counts were read.
#[derive(Debug, Default)]
struct Counting {
    any: Option<Instant>,
    all: Option<Instant>,
}

impl Counting {
    /// Returns the counts to read now.
    fn next(&mut self, now: Instant) -> Counts {
        let is_due = |last: Option<Instant>, every| {
            last.is_none_or(|last| now.saturating_duration_since(last) >= every)
        };
        if !is_due(self.any, COUNT_EVERY) {
            return Counts::None;
        }
        self.any = Some(now);
        if !is_due(self.all, COUNT_LONG_EVERY) {
            return Counts::Short;
        }
        self.all = Some(now);
        Counts::All
    }
}

/// An alert that waits to be sent.
struct Waiting {
    message: Message,
    tries: u32,
    due: Instant,
}

impl Lookout {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let interval = self.reloader.config().alerts.min_interval_s;
        let mut alerts = Alerts::new(Duration::from_secs(interval));
        let mut waiting = VecDeque::new();
        let mut counting = Counting::default();
        loop {
            let counts = counting.next(Instant::now());
            for alert in self.look(&mut alerts, counts).await {
                if waiting.len() >= WAITING_MAX {
                    waiting.pop_front();
                    warn!("an alert was dropped: too many wait to be sent");
                }
                let message = self.sender.write(&alert);
                waiting.push_back(Waiting { message, tries: 0, due: Instant::now() });
            }
            self.send_due(&mut waiting).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns the alerts to send now. Conditions that depend on counts that were not read keep their state.
    async fn look(&self, alerts: &mut Alerts, counts: Counts) -> Vec<Alert> {
        let now = self.clock.now();
        let destinations = self.board.read(now);
        let sources = watched(&self.reloader.config(), counts);
        let mut tallies = None;
        if counts != Counts::None {
            let from = View::tallies_from(now, &sources);
            match self.store.tallies(TallyStep::Minute, from, now).await {
                Ok(read) => tallies = Some(read),
                // A store that does not work has an alert of its own.
                Err(fault) => debug!(error = %telemetry::chain(&fault), "no counts for alerts"),
            }
        }
        alerts.keep_destinations(|name| destinations.contains_key(name));
        let judged = judge(&View {
            now,
            uptime: self.started_at.elapsed(),
            host: &self.host,
            is_store_ready: *self.is_ready.borrow(),
            is_space_low: self.store.free_space() != FreeSpace::Ample,
            free_bytes: self.store.free_bytes(),
            destinations: &destinations,
            tallies: tallies.as_deref(),
            sources: &sources,
        });
        alerts.update(judged, Instant::now(), now)
    }

    /// Sends the alerts that are due, in order, up to the first failure: those behind it would fail too.
    async fn send_due(&self, waiting: &mut VecDeque<Waiting>) {
        while waiting.front().is_some_and(|next| next.due <= Instant::now())
            && let Some(mut next) = waiting.pop_front()
        {
            let topic = next.message.topic.as_str();
            let Err(error) = self.sender.send(&next.message).await else {
                info!(topic, "alert sent");
                continue;
            };
            let url = self.sender.shown_url();
            next.tries += 1;
            if next.tries >= TRIES_MAX {
                error!(topic, url, error, "an alert could not be sent, and is given up");
                return;
            }
            if next.tries == 1 {
                warn!(topic, url, error, "an alert could not be sent; trying again");
            }
            next.due = Instant::now() + retry_wait(next.tries);
            waiting.push_front(next);
            return;
        }
    }
}

fn retry_wait(tries: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(RETRY_MAX)
}

/// Returns the sources whose silence is worth an alert and can be judged by these counts.
fn watched(config: &Config, counts: Counts) -> Vec<SourceWatch> {
    let sources = config.sources.iter().filter_map(|(name, source)| {
        Some(SourceWatch {
            name: name.clone(),
            destination: source.destination.clone(),
            silent_after: source.silent_after.filter(|after| counts.suffice_for(*after))?,
        })
    });
    sources.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_counts_is_read_less_often_than_an_hour() {
        let (start, mut counting) = (Instant::now(), Counting::default());
        let read = [0, 5, 14, 15, 30, 299, 300, 305, 315, 600]
            .map(|seconds| counting.next(start + Duration::from_secs(seconds)));
        use Counts::{All, None, Short};
        let expected = [All, None, None, Short, Short, Short, None, None, All, Short];
        assert_eq!(read, expected);
        let suffice =
            |counts: Counts| [3_600, 3_601].map(|s| counts.suffice_for(Duration::from_secs(s)));
        assert_eq!([None, Short, All].map(suffice), [[false, false], [true, false], [true, true]]);
    }
}
