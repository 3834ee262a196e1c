//! Hints between processes. A process that accepted messages notifies the process that delivers them, which then reads
//! at once instead of at its next poll.
//!
//! A hint is a notification (`NOTIFY`) that names destinations. It is sent after the commit, by another connection: a
//! transaction with a NOTIFY holds a database-wide lock during its commit, so accepting messages would be serialized. A
//! process sends hints at a limited rate, and none for destinations that it delivers itself.
//!
//! Nothing depends on hints. Some are lost, and anyone can send one: a hint only makes an engine read.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_postgres::Notification;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use super::connection::{Connection, Connections, Connector};
use super::error::Fault;
use super::params::params;
use crate::telemetry;

/// $1 channel, $2 payload. The commit waits for neither disk nor standby: the next hint of any process would have to
/// wait, too, and a hint may be lost in a crash.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// The shortest time between two hints of this process.
const HINT_EVERY: Duration = Duration::from_millis(100);

/// How long sending a notification may take, and how long its arrival.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to check that notifications arrive. They stop without an error if the server becomes a standby, or if a
/// firewall drops the connection.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// The pause before listening again, which doubles with each failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The pause after nothing arrived. The usual cause is a pooler, which rarely goes away.
const UNHEARD_PAUSE: Duration = Duration::from_secs(10 * 60);

/// PostgreSQL takes payloads of less than 8,000 bytes.
const PAYLOAD_BYTES_MAX: usize = 7_000;

/// The longest name of a channel, in bytes.
const CHANNEL_BYTES_MAX: usize = 63;

/// The hints to send, and the signal to the engines.
#[derive(Debug)]
pub(super) struct Hints {
    arrived: watch::Sender<u64>,
    state: Mutex<State>,
    /// Wakes the task that sends.
    has_wanted: Notify,
    /// Wakes the task that listens.
    has_lease: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Destinations whose lease this process holds, to its knowledge.
    held: HashSet<String>,
    /// Destinations for which a hint must be sent.
    wanted: BTreeSet<String>,
}

impl Hints {
    pub(super) fn new() -> Self {
        Self {
            arrived: watch::channel(0).0,
            state: Mutex::default(),
            has_wanted: Notify::new(),
            has_lease: Notify::new(),
        }
    }

    /// Returns a receiver that changes when there may be something to read.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// Wakes the engines of these destinations, in this process and in others.
    pub(super) fn has_arrived<'a>(&self, destinations: impl IntoIterator<Item = &'a str>) {
        self.wake();
        let mut state = self.state();
        let State { held, wanted } = &mut *state;
        for destination in destinations {
            if !held.contains(destination) && !wanted.contains(destination) {
                wanted.insert(destination.to_owned());
            }
        }
        if !wanted.is_empty() {
            self.has_wanted.notify_one();
        }
    }

    /// Records whether this process holds a lease.
    pub(super) fn leased(&self, destination: &str, is_held: bool) {
        let mut state = self.state();
        if !is_held {
            state.held.remove(destination);
        } else if state.held.insert(destination.to_owned()) {
            self.has_lease.notify_one();
        }
    }

    fn wake(&self) {
        self.arrived.send_modify(|arrivals| *arrivals = arrivals.wrapping_add(1));
    }

    /// Acts on a hint. Anyone who can connect to the database can send one.
    fn follow(&self, payload: &str) {
        let is_ours = {
            let state = self.state();
            payload.split('\n').any(|destination| state.held.contains(destination))
        };
        if is_ours {
            self.wake();
        }
    }

    /// Returns the payload of the next hint; `None` if there is nothing to send. Destinations that do not fit are left
    /// for the next hint.
    fn next(&self) -> Option<String> {
        let mut state = self.state();
        let State { held, wanted } = &mut *state;
        let mut payload = String::new();
        while let Some(destination) = wanted.pop_first() {
            if held.contains(&destination) {
                continue;
            }
            if !payload.is_empty() {
                if payload.len() + 1 + destination.len() > PAYLOAD_BYTES_MAX {
                    wanted.insert(destination);
                    self.has_wanted.notify_one();
                    break;
                }
                payload.push('\n');
            }
            payload.push_str(&destination);
        }
        (!payload.is_empty()).then_some(payload)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change is left half-done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the channel of a schema. It ends with the schema's name or, if PostgreSQL would change that, with a digest
/// of it.
pub(super) fn channel(schema: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut channel = "segment_loops_".to_owned();
    if channel.len() + schema.len() <= CHANNEL_BYTES_MAX && schema.chars().all(is_plain) {
        return channel + schema;
    }
    let digest = <sha2::Sha256 as sha2::Digest>::digest(schema);
    for byte in digest.iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(channel, "{byte:02x}");
    }
    channel
}

/// The task that sends hints and listens for those of other processes.
pub(super) struct Hinter {
    pub(super) hints: Arc<Hints>,
    /// The connections that send.
    pub(super) connections: Connections,
    /// Makes the connection that listens.
    pub(super) connector: Connector,
    /// The configuration key that says where to listen.
    pub(super) listens_at: &'static str,
    /// Name of the schema.
    pub(super) schema: String,
    pub(super) closing: CancellationToken,
    /// Cancels a token when the task has ended, in whatever way.
    pub(super) ended: DropGuard,
}

/// A connection that listens.
struct Ear {
    connection: Connection,
    /// The channel for this connection's own checks. It is unique, so a subscription that a pooler keeps from a failed
    /// check does no harm.
    own_channel: String,
    /// Counts the checks that arrived; closed when the connection is lost.
    checks: watch::Receiver<u64>,
}

/// Why a process does not receive hints.
enum Deaf {
    /// Its own notification did not arrive.
    Unheard,
    Failed(Fault),
}

impl From<Fault> for Deaf {
    fn from(fault: Fault) -> Self {
        Deaf::Failed(fault)
    }
}

impl Deaf {
    fn log(&self, listens_at: &str) {
        match self {
            Deaf::Unheard => warn!(
                "notifications of the database do not arrive at {listens_at}, as behind a pooler in transaction mode: set store.listen_url to a direct URL of the database, or store.notify = \"off\"; until then, messages that other processes accept are found up to a second later"
            ),
            Deaf::Failed(fault) => warn!(
                error = %telemetry::chain(fault),
                "cannot listen for hints from other processes at {listens_at}; trying again"
            ),
        }
    }
}

impl Hinter {
    /// Runs until the store is closed or dropped.
    pub(super) async fn run(self) {
        let channel = channel(&self.schema);
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = self.send(&channel) => {}
            () = self.listen(&channel) => {}
        }
        drop(self.ended);
    }

    async fn send(&self, channel: &str) {
        loop {
            self.hints.has_wanted.notified().await;
            let Some(payload) = self.hints.next() else { continue };
            if let Err(fault) = self.notify(channel, &payload).await {
                debug!(error = %telemetry::chain(&fault), "a hint to other processes was not sent");
            }
            sleep(HINT_EVERY).await;
        }
    }

    async fn notify(&self, channel: &str, payload: &str) -> Result<(), Fault> {
        let notify = async {
            let connection = self.connections.get().await?;
            connection.query(NOTIFY, params![channel, payload]).await?;
            connection.give_back();
            Ok(())
        };
        timeout(PATIENCE, notify).await.unwrap_or(Err(Fault::Slow))
    }

    /// Listens from the first lease on; before that, there is nothing to hear.
    async fn listen(&self, channel: &str) {
        self.hints.has_lease.notified().await;
        let (mut pause, mut logged) = (PAUSE_MIN, None);
        loop {
            match self.open(channel).await {
                Ok(mut ear) => {
                    if logged.take().is_some() {
                        info!("hints from other processes arrive again");
                    }
                    pause = PAUSE_MIN;
                    self.keep(&mut ear).await;
                    ear.connection.close().await;
                }
                Err(deaf) => {
                    let kind = discriminant(&deaf);
                    if logged.replace(kind) != Some(kind) {
                        deaf.log(self.listens_at);
                    }
                    if matches!(deaf, Deaf::Unheard) {
                        pause = UNHEARD_PAUSE;
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Makes a connection at which notifications arrive.
    async fn open(&self, channel: &str) -> Result<Ear, Deaf> {
        let own_channel = format!("segment_loops_{}", uuid::Uuid::now_v7().simple());
        let (checked, checks) = watch::channel(0);
        let (hints, own) = (Arc::clone(&self.hints), own_channel.clone());
        let hear = move |notification: &Notification| {
            if notification.channel() == own {
                checked.send_modify(|checks: &mut u64| *checks = checks.wrapping_add(1));
            } else {
                hints.follow(notification.payload());
            }
        };
        let connection = self.connector.connect_hearing(hear).await?;
        let mut ear = Ear { connection, own_channel, checks };
        let opened = async {
            ear.connection.batch(&format!("LISTEN \"{}\"", ear.own_channel)).await?;
            self.check(&mut ear).await?;
            Ok(ear.connection.batch(&format!("LISTEN \"{channel}\"")).await?)
        };
        match timeout(2 * PATIENCE, opened).await.unwrap_or(Err(Fault::Slow.into())) {
            Ok(()) => Ok(ear),
            Err(deaf) => {
                ear.connection.close().await;
                Err(deaf)
            }
        }
    }

    /// Returns once notifications no longer arrive.
    async fn keep(&self, ear: &mut Ear) {
        loop {
            let lost = async { while ear.checks.changed().await.is_ok() {} };
            if timeout(CHECK_EVERY, lost).await.is_ok() || self.check(ear).await.is_err() {
                debug!("the connection that listens for hints was lost");
                return;
            }
        }
    }

    /// Sends a notification by another connection, and waits for it.
    async fn check(&self, ear: &mut Ear) -> Result<(), Deaf> {
        ear.checks.mark_unchanged();
        self.notify(&ear.own_channel, "").await?;
        match timeout(PATIENCE, ear.checks.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Deaf::Failed(Fault::Slow)),
            Err(_) => Err(Deaf::Unheard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_a_name_that_postgresql_keeps_whole() {
        assert_eq!(channel("segment_loops"), "segment_loops_segment_loops");
        let longest = "a".repeat(CHANNEL_BYTES_MAX - "segment_loops_".len());
        assert_eq!(channel(&longest), format!("segment_loops_{longest}"));
        let odd = [&format!("{longest}a"), &format!("{longest}b"), "Ab", "a\"@b", "ä", ""];
        let names: HashSet<String> = odd.iter().map(|schema| channel(schema)).collect();
        assert_eq!(names.len(), odd.len());
        for name in names {
            assert!(name.len() <= CHANNEL_BYTES_MAX && !name.contains(['"', '@']), "{name}");
        }
    }

    #[test]
    fn hints_name_what_others_deliver_in_bounded_parts() {
        let hints = Hints::new();
        assert_eq!(hints.next(), None);
        hints.leased("held", true);
        hints.has_arrived(["held", "b", "a", "b"]);
        assert_eq!(hints.next().as_deref(), Some("a\nb"));
        assert_eq!(hints.next(), None);
        // Taken since.
        hints.has_arrived(["a"]);
        hints.leased("a", true);
        assert_eq!(hints.next(), None);
        hints.leased("a", false);
        hints.has_arrived(["a"]);
        assert_eq!(hints.next().as_deref(), Some("a"));
        let many: Vec<String> = (0..1_000).map(|n| format!("{n:020}")).collect();
        hints.has_arrived(many.iter().map(String::as_str));
        let mut sent = Vec::new();
        while let Some(payload) = hints.next() {
            assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            sent.extend(payload.split('\n').map(str::to_owned));
        }
        assert_eq!(sent, many);
    }

    #[test]
    fn whatever_is_sent_wakes_only_who_delivers() {
        let hints = Hints::new();
        hints.leased("one", true);
        let mut arrivals = hints.arrivals();
        let long = "x".repeat(8_000);
        for foreign in ["", "two", "on", "one ", "\n\n", "\u{1F980}", &long] {
            hints.follow(foreign);
            assert!(!arrivals.has_changed().unwrap(), "{foreign}");
        }
        hints.follow("two\none");
        assert!(arrivals.has_changed().unwrap());
        arrivals.mark_unchanged();
        hints.leased("one", false);
        hints.follow("one");
        assert!(!arrivals.has_changed().unwrap());
    }
}
