//! The actions of senders and operators, and the faults.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::loops::Weather;
use super::model::{Kind, id};
use super::world::{DESTINATION, Running, World};
use crate::clock::Clock as _;
use crate::destination::{ActionKind, Destination, DestinationOptions, SkipUnchanged};
use crate::js::decode::decode_strict;
use crate::js::{Object, Value};
use crate::queue::intake::Intake;
use crate::queue::{
    Accepted, Filter, Inbox as _, Log as _, NewMessage, ReplayAsk, ReplayState, Replays as _,
    Selection,
};

const SOURCE: &str = "web";

/// How long a sender waits for its response.
const ACK_TIMEOUT: Duration = Duration::from_secs(4);

/// The people that the messages are about.
const USERS: [&str; 5] = ["ada", "bob", "cyn", "dan", "eve"];

/// The properties that are set.
const PROPERTIES: [&str; 4] = ["p1", "p2", "p3", "p4"];

/// The values of the property that is set repeatedly to the same values.
const PLANS: [&str; 2] = ["free", "pro"];

impl World {
    pub(super) fn something_happens(self: &Arc<Self>, senders: &mut JoinSet<()>) {
        let knobs = &self.knobs;
        match self.below(100) {
            0..50 => {
                let batch = (0..=self.below(4)).map(|_| self.new_message()).collect();
                senders.spawn(Arc::clone(self).send(batch, false));
            }
            50..56 => {
                let batch = (0..=self.below(10)).map(|_| self.new_message()).collect();
                senders.spawn(Arc::clone(self).send(batch, true));
            }
            56..60 => {
                let sent = self.ledger().messages.len();
                if sent > 0 {
                    senders.spawn(Arc::clone(self).send(vec![self.below(sent)], false));
                }
            }
            60..72 if knobs.bad_weather => {
                let weather = self.one_of(&Weather::ALL);
                self.trace(format_args!("weather: {weather:?}"));
                *self.weather.lock().unwrap() = weather;
            }
            72..76 if knobs.reloads => {
                let version = self.below(1_000) as u64;
                self.trace(format_args!("reload: version {version}"));
                let configuration = configuration(version, knobs.skip_unchanged);
                self.configuration.send_replace(Arc::new(configuration));
            }
            76..80 if knobs.replays => {
                senders.spawn(Arc::clone(self).replay());
            }
            80..84 if knobs.full_disks => {
                let is_full = !self.disk_is_full.fetch_not(Ordering::Relaxed);
                self.trace(format_args!("the disk is full: {is_full}"));
            }
            84..87 if knobs.jumps => self.jump(),
            87..89 => {
                if let Some(running) = self.any_running() {
                    running.process.stop.cancel();
                }
            }
            89..91 if knobs.crash > 0.0 => {
                if let Some(running) = self.any_running() {
                    self.trace(format_args!("{} is killed", running.process.name));
                    running.process.crash.cancel();
                }
            }
            _ => {}
        }
    }

    /// Sets the clock forward or back by seconds, hours or a day, or to a time long ago.
    fn jump(&self) {
        const HOUR: i64 = 3_600;
        // The clock is never so wrong that records are past their retention.
        let off_by = self.clock.off_by().as_hours();
        let by = match self.one_of(&[-10, 10, -HOUR, HOUR, -25 * HOUR, 25 * HOUR]) {
            by if (off_by + by / HOUR).abs() > 27 => -by,
            by => by,
        };
        self.trace(format_args!("the clock jumps by {by} s"));
        self.clock.jump(SignedDuration::from_secs(by));
        *self.jumped_at.lock().unwrap() = Some(Instant::now());
        let mut earliest = self.earliest_setting.lock().unwrap();
        let off_by = self.clock.off_by().as_secs();
        *earliest = (*earliest).min(off_by);
        if off_by - *earliest > 23 * HOUR && self.started_after_jump.load(Ordering::Relaxed) {
            self.ledger().may_expire = true;
        }
    }

    /// Invents a message; returns its number.
    fn new_message(&self) -> usize {
        let kind = match self.below(100) {
            0..45 => Kind::Track,
            45..80 => Kind::Identify,
            80..86 => Kind::Poison,
            86..91 => Kind::Page,
            91..94 => Kind::Placeholder,
            _ if self.knobs.deletions => Kind::Delete,
            _ => Kind::Track,
        };
        let mut user = self.one_of(&USERS);
        let mut ledger = self.ledger();
        let is_deleted = |user: &str| {
            ledger.messages.iter().any(|one| one.kind == Kind::Delete && one.user == user)
        };
        // Each person is deleted at most once, so that it is clear which deletion Loops received.
        let kind = if kind == Kind::Delete && is_deleted(user) { Kind::Track } else { kind };
        if kind == Kind::Placeholder {
            user = "undefined";
        }
        let properties = match kind {
            Kind::Track => vec!["p0"],
            Kind::Identify => PROPERTIES.into_iter().filter(|_| self.chance(0.4)).collect(),
            _ => Vec::new(),
        };
        let plan = (kind == Kind::Identify && self.chance(0.6)).then(|| self.one_of(&PLANS));
        // The other properties never have the same value twice, so an upsert can change nothing only without them.
        let properties = if plan.is_some() && self.chance(0.7) { Vec::new() } else { properties };
        let properties = properties.into_iter().map(str::to_owned).collect();
        ledger.sent(user.to_owned(), kind, properties, plan)
    }

    /// Returns a message as its sender writes it, after stamping.
    fn stamped(&self, number: usize, is_bulk: bool) -> NewMessage {
        let ledger = self.ledger();
        let message = &ledger.messages[number];
        let user = &message.user;
        let mut values: serde_json::Map<_, _> =
            message.properties.iter().map(|name| (name.clone(), number.into())).collect();
        values.extend(message.plan.map(|plan| ("plan".to_owned(), plan.into())));
        if message.kind == Kind::Poison {
            values.insert("poison".to_owned(), true.into());
            values.insert("p0".to_owned(), number.into());
        }
        let (kind, place) = match message.kind {
            Kind::Track => ("track", "properties"),
            Kind::Poison if number.is_multiple_of(2) => ("track", "properties"),
            Kind::Delete => ("delete", "traits"),
            Kind::Page => ("page", "properties"),
            Kind::Identify | Kind::Poison | Kind::Placeholder => ("identify", "traits"),
        };
        let written = serde_json::json!({
            "type": kind, "messageId": id(number), "userId": user, "event": "Done", place: values,
        });
        drop(ledger);
        let intake = Intake {
            digests: &self.digests,
            source: SOURCE,
            destination: DESTINATION,
            is_bulk,
            kind: None,
            is_from_segment: false,
            is_sent_now: !is_bulk,
            ip: None,
            message_bytes_max: 1_000_000,
            takes_delete: true,
            trace: None,
        };
        let raw = written.to_string();
        intake.read(raw.as_bytes(), &Object::new(), self.clock.now(), String::new).unwrap()
    }

    /// Sends messages until they are acknowledged.
    async fn send(self: Arc<Self>, batch: Vec<usize>, is_bulk: bool) {
        loop {
            self.wait_while_off().await;
            if let Some(Running { process, store }) = self.any_running() {
                let messages = batch.iter().map(|number| self.stamped(*number, is_bulk)).collect();
                let accepted = timeout(ACK_TIMEOUT, store.accept(messages)).await;
                if let Ok(Ok(accepted)) = accepted {
                    let new = accepted.iter().filter(|one| **one == Accepted::New).count();
                    self.trace(format_args!("{} acknowledges {batch:?}, {new} new", process.name));
                    let mut ledger = self.ledger();
                    batch.iter().for_each(|number| ledger.messages[*number].is_acknowledged = true);
                    return;
                }
            }
            sleep(self.ms(200..=3_000)).await;
        }
    }

    /// Replays some messages, until the process crashes or it is done.
    async fn replay(self: Arc<Self>) {
        let Some(Running { process, store }) = self.any_running() else { return };
        let state = self.one_of(&ReplayState::ALL);
        let user = self.chance(0.7).then(|| self.one_of(&USERS));
        let filter = Filter {
            persons: user.map(|id| store.digests().any_person(id)).unwrap_or_default(),
            destination: Some(DESTINATION.to_owned()),
            ..Filter::default()
        };
        let selection = Selection { state, filter, ..Selection::default() };
        let mut position = None;
        loop {
            let (selection, now) = (selection.clone(), self.clock.now());
            let ask = ReplayAsk { selection, position, is_dry_run: false, now, choice: None };
            let Ok(Ok(chunk)) = timeout(ACK_TIMEOUT, store.replay(&ask)).await else { return };
            self.trace(format_args!("{} replayed {}", process.name, chunk.replayed));
            position = chunk.next;
            if position.is_none() {
                return;
            }
        }
    }
}

/// Returns Segment's default subscriptions in one of many versions. The version is visible in the requests of events.
pub(super) fn configuration(version: u64, skip_unchanged: SkipUnchanged) -> Destination {
    let mut subscriptions = Destination::default_subscriptions();
    for subscription in &mut subscriptions {
        if let (ActionKind::SendEvent, Value::Object(mapping)) =
            (subscription.action, &mut subscription.mapping)
        {
            let properties = decode_strict(&format!(r#"{{"version": {version}}}"#)).unwrap();
            mapping.insert("contactProperties", properties);
        }
    }
    let mut options = DestinationOptions::default();
    options.contacts.skip_unchanged = skip_unchanged;
    Destination::compile(&subscriptions, options).unwrap()
}
