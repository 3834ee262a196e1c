//! The live list: messages as they are accepted, and each change of their state, as server-sent events.
//!
//! Each event is a row of the list, as the page shows it. The id of an event is the time of the look that found it, in
//! Unix milliseconds, so that a browser that reconnects gets what it missed.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::render::ACCEL_BUFFERING;
use super::rows::Row;
use crate::console::filter;
use crate::console::query::{Parameters, bad_query};
use crate::console::state::AdminState;
use crate::console::tails::TAILS_MAX;
use crate::http::error::ApiError;
use crate::queue::{Filter, MessageRecord, MessageState, Seq, Unavailable};
use crate::telemetry;

/// The shortest and longest pause between two looks. In between, the pause is 100 times as long as the last look took,
/// so that all lists together use a tenth of a processor at most, however many messages arrive that they do not show.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const RESTS: u32 = 100;
/// The most rows that one look sends.
const ROWS_MAX: u32 = 10;
/// The most rows of a page that are followed until they no longer wait.
pub(super) const WAITING_MAX: usize = 20;
/// A message may be stored this long after its time of receipt.
const SLACK: SignedDuration = SignedDuration::from_secs(30);
/// After this time the browser reconnects, so that its login is checked again.
const LENGTH: Duration = Duration::from_secs(60 * 60);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// One row, as an event carries it.
#[derive(Template)]
#[template(path = "row.html")]
struct RowPart {
    row: Row,
    has_sources: bool,
}

/// Sends rows until the browser disconnects or the program stops.
pub(super) async fn follow(
    State(state): State<AdminState>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let names = [&filter::PAGE_NAMES[..], &["since", "waiting"]].concat();
    let given = Parameters::of_form(&uri, &names)?;
    let last_id = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let since = match last_id.or(given.get("since")) {
        Some(since) => since.parse().ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        None => Some(state.clock.now()),
    };
    let since = since.ok_or_else(|| bad_query("`since` must be a time in Unix milliseconds"))?;
    let waiting = given.get("waiting").unwrap_or_default().split('-').take(WAITING_MAX);
    let waiting: VecDeque<Seq> =
        waiting.filter_map(|number| Some(Seq(number.parse().ok()?))).collect();
    let filter = filter::of_page(&given, &state).await?;
    let Ok(place) = Arc::clone(&state.tails.places).try_acquire_owned() else {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_tails",
            format!("{TAILS_MAX} live lists are open already: close one, or reload the page"),
        ));
    };
    let has_sources = state.sources.borrow().names().count() > 1;
    let tail = Tail {
        has_sources,
        stop: state.tails.stop.clone(),
        state,
        filter,
        since,
        is_first_look: true,
        shown: HashMap::new(),
        waiting,
        has_failed: false,
        events: VecDeque::new(),
        look_at: Instant::now(),
        ends_at: Instant::now() + LENGTH,
        _place: place,
    };
    let stream = Sse::new(tail.events()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(ACCEL_BUFFERING, HeaderValue::from_static("no"))], stream).into_response())
}

/// Returns how long to pause after a look that took this long.
fn pause(took: Duration) -> Duration {
    (took * RESTS).clamp(PAUSE, PAUSE_MAX)
}

struct Tail {
    state: AdminState,
    filter: Filter,
    has_sources: bool,
    /// When the last look began.
    since: Timestamp,
    is_first_look: bool,
    /// The rows that the browser has and that may be found again, by their digest.
    shown: HashMap<Seq, u64>,
    /// Rows that were waiting when they were sent, or when the page was made.
    waiting: VecDeque<Seq>,
    /// Whether the store failed at the last look.
    has_failed: bool,
    /// Events to send.
    events: VecDeque<Event>,
    /// When to look again.
    look_at: Instant,
    ends_at: Instant,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Tail {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut tail| async {
            loop {
                if let Some(event) = tail.events.pop_front() {
                    return Some((Ok(event), tail));
                }
                tokio::select! {
                    biased;
                    () = tail.stop.cancelled() => return None,
                    () = sleep_until(tail.ends_at) => return None,
                    () = sleep_until(tail.look_at) => {}
                }
                let began = Instant::now();
                // If the store fails, nothing is new, and the next look begins where this one did.
                match tail.look().await {
                    Ok(()) => tail.has_failed = false,
                    Err(fault) => {
                        if !tail.has_failed {
                            warn!(error = %telemetry::chain(&fault), "a live list cannot read the store");
                        }
                        tail.has_failed = true;
                    }
                }
                tail.look_at = Instant::now() + pause(began.elapsed());
            }
        })
    }

    /// Looks for messages that have arrived, and for changes to those that waited.
    async fn look(&mut self) -> Result<(), Unavailable> {
        let now = self.state.clock.now();
        let from = self.since.checked_sub(SLACK).unwrap_or(Timestamp::MIN);
        let from = self.filter.from.map_or(from, |given| given.max(from));
        let filter = Filter { from: Some(from), ..self.filter.clone() };
        let page = self.state.store.list(&filter, None, ROWS_MAX).await?;
        let mut new = 0;
        for record in page.messages.iter().rev() {
            // Messages received earlier are already on the page, though they may have changed since.
            let is_there = self.is_first_look && record.received_at < self.since;
            new += u32::from(self.show(record, now) && !is_there);
        }
        if new == ROWS_MAX && page.next.is_some() {
            let more = Event::default().event("more").data("more");
            self.events.push_front(more);
        }
        let is_listed = |seq: &Seq| page.messages.iter().any(|record| record.seq == *seq);
        let others: Vec<Seq> = self.waiting.iter().copied().filter(|seq| !is_listed(seq)).collect();
        let others = self.state.store.messages(&others).await?;
        self.waiting.retain(is_listed);
        for record in others.iter().rev() {
            self.show(record, now);
        }
        let waiting = &self.waiting;
        self.shown.retain(|seq, _| waiting.contains(seq) || is_listed(seq));
        self.since = now;
        self.is_first_look = false;
        Ok(())
    }

    /// Sends a message unless the browser already shows it as it is. Returns whether the message is new there.
    fn show(&mut self, record: &MessageRecord, now: Timestamp) -> bool {
        let seq = record.seq;
        let row = RowPart { row: Row::from(record), has_sources: self.has_sources };
        let Ok(html) = row.render() else { return false };
        let mut hasher = DefaultHasher::new();
        html.hash(&mut hasher);
        let digest = hasher.finish();
        let before = self.shown.insert(seq, digest);
        if record.state() == MessageState::Pending && !self.waiting.contains(&seq) {
            self.waiting.push_back(seq);
            if self.waiting.len() > WAITING_MAX {
                self.waiting.pop_front();
            }
        }
        if before == Some(digest) {
            return false;
        }
        // A line feed is the only character that an event cannot hold, and `Event` splits there.
        let id = now.as_millisecond().to_string();
        self.events.push_back(Event::default().event("row").id(id).data(html));
        before.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_a_look_takes_the_longer_is_the_rest_behind_it() {
        for (took, rest) in [(0, 500), (4, 500), (5, 500), (6, 600), (49, 4_900), (60_000, 5_000)] {
            let took = Duration::from_millis(took);
            assert_eq!(pause(took), Duration::from_millis(rest), "{took:?}");
        }
    }
}
