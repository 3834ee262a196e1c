//! The network between a process and Loops, and Loops' responses. Requests are accepted as the API documentation says,
//! and fail at random.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::loops::{Effect, Loops, Weather, is_poison, values};
use super::world::{Process, World};
use crate::loops::{Call, CallError, RawAnswer, Transport};

/// After this time without a response, the client gives up.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How long Loops remembers an idempotency key, by its API documentation.
const KEYS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A call in flight.
struct Sent {
    path: String,
    key: Option<String>,
    body: Bytes,
}

impl Loops {
    /// Takes a request; returns the status and the message of the response.
    fn take(&mut self, sent: &Sent, world: &World) -> (u16, &'static str) {
        let body: Value = serde_json::from_slice(&sent.body).unwrap();
        let event = body["eventProperties"]["p0"].as_u64();
        if let Some(key) = &sent.key {
            let now = Instant::now();
            let (known, taken_at) =
                self.keys.entry(key.clone()).or_insert_with(|| (sent.body.clone(), None));
            if *known != sent.body && !world.ledger().came_again(event) {
                world.violate(format!("two bodies with the key {key}"));
            }
            if taken_at.is_some_and(|at| now - at < KEYS_KEPT) {
                return (409, "the idempotency key was used");
            }
        }
        let user = body["userId"].as_str().unwrap_or_default().to_owned();
        if is_poison(&body) {
            return (400, "poison");
        }
        let values = values(&body);
        let is_deletion = sent.path == "/contacts/delete";
        if is_deletion {
            if self.contacts.remove(&user).is_none() {
                return (404, "there is no such contact");
            }
        } else {
            let plan = self.contacts.entry(user.clone()).or_default();
            *plan = body["plan"].as_str().map(str::to_owned).or_else(|| plan.take());
        }
        if let Some((_, taken_at)) = sent.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            *taken_at = Some(Instant::now());
        }
        world.ledger().effects.push(Effect { user, values, is_deletion });
        (200, "")
    }

    /// Counts a request against the rate.
    fn count(&mut self, world: &World) {
        let now = Instant::now();
        while self.arrivals.front().is_some_and(|at| now - *at >= Duration::from_secs(1)) {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(now);
        let rate = world.knobs.rate as usize;
        if self.arrivals.len() > rate && !world.excuses_the_rate() {
            let count = self.arrivals.len();
            world.violate(format!("{count} requests within a second, {rate} are allowed"));
        }
    }
}

/// Returns the response to a request that arrives.
fn arrive(world: &World, weather: Weather, sent: &Sent) -> RawAnswer {
    let mut loops = world.loops();
    loops.count(world);
    let is_taken = match weather {
        Weather::Fine => true,
        Weather::Broken | Weather::Silent | Weather::Failing => world.chance(0.5),
        _ => false,
    };
    let taken = match (is_taken, sent.path.as_str()) {
        (true, "/api-key") => (200, ""),
        (true, _) => loops.take(sent, world),
        (false, _) => (0, ""),
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-ratelimit-limit", HeaderValue::from(world.knobs.rate));
    let (status, body) = match weather {
        Weather::Fine => {
            let (status, message) = taken;
            (status, json!({"success": status == 200, "message": message}).to_string())
        }
        Weather::Limited => {
            if world.chance(0.5) {
                headers
                    .insert("retry-after", HeaderValue::from(world.ms(1..=5).as_millis() as u64));
            }
            (429, json!({"success": false, "message": "slow down"}).to_string())
        }
        Weather::Foreign => (200, "<html>".to_owned()),
        Weather::Unauthorized => {
            world.ledger().unauthorized(&sent.body);
            (401, json!({"error": "Invalid API key"}).to_string())
        }
        Weather::NotFound => (404, "<html>".to_owned()),
        _ => (500, json!({"success": false, "message": "oops"}).to_string()),
    };
    let carried = String::from_utf8_lossy(&sent.body).into_owned();
    let (path, took) = (&sent.path, taken.0);
    world.trace(format_args!("Loops {path} {carried}: {weather:?}, took {took}, says {status}"));
    RawAnswer { status, headers, body: body.into_bytes(), cut_off: None }
}

/// The network between one process and Loops.
pub(super) struct Connection {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Connection")
    }
}

#[async_trait]
impl Transport for Connection {
    async fn exchange(&self, call: Call<'_>, _bytes_max: usize) -> Result<RawAnswer, CallError> {
        let world = &self.world;
        if let Some(body) = call.body {
            world.ledger().tried(body);
        }
        let weather = match world.weather() {
            weather if weather.is_total() || world.chance(0.7) => weather,
            _ => Weather::Fine,
        };
        if weather == Weather::Refusing {
            sleep(world.ms(0..=20)).await;
            return Err(CallError::Connect("simulated".to_owned()));
        }
        let sent = Sent {
            path: call.path.to_owned(),
            key: call.idempotency_key.map(str::to_owned),
            body: call.body.cloned().unwrap_or_default(),
        };
        // The request arrives even if its process crashes in the meantime.
        let (answered, answer) = oneshot::channel();
        let there = world.ms(0..=45);
        let world_ = Arc::clone(world);
        tokio::spawn(async move {
            sleep(there).await;
            let _ = answered.send(arrive(&world_, weather, &sent));
        });
        let answer = answer.await.map_err(|_| CallError::Broken("never".to_owned()))?;
        let back = if world.chance(0.05) { world.ms(0..=9_000) } else { world.ms(1..=150) };
        sleep(back).await;
        self.process.wait_while_stalled().await;
        match weather {
            Weather::Silent => {
                sleep(TIMEOUT).await;
                Err(CallError::Timeout)
            }
            Weather::Broken => Err(CallError::Broken("simulated".to_owned())),
            _ => Ok(answer),
        }
    }
}
