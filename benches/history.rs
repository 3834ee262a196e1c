//! Whether the days that are kept make anything slower: the program over PostgreSQL, with a million messages on one day
//! and with as many on 90 days, which are as many partitions of each table.
//!
//! `cargo bench --bench history`, with `HISTORY_MESSAGES` (1,000,000). It starts the server itself (Debian: postgresql).
//! Both programs run at once and are asked in turn, round after round, for pages of a person with many messages, of one
//! with few, and of one with none; to accept single messages and batches; and to deliver messages to a Loops that takes
//! everything.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a command for developers"
)]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

#[path = "../src/store/postgres/tests/server.rs"]
mod server;

const DAYS: [i64; 2] = [1, 90];
const ROUNDS: usize = 5;
/// Pages of one person, and single calls, in a round.
const CALLS: usize = 40;
const BATCHES: usize = 5;
const BATCH: usize = 100;
/// Messages that are delivered in a round.
const DELIVERED: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: &str = "admin";

type Seen = Arc<AtomicUsize>;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let messages: i64 =
        std::env::var("HISTORY_MESSAGES").map_or(1_000_000, |text| text.parse().unwrap());
    let server = server::Server::start("shared_buffers = 512MB\nmax_wal_size = 4GB");
    let (database, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut programs = Vec::new();
    for days in DAYS {
        let schema = format!("days_{days}");
        let seen = Seen::default();
        let loops = serve_loops(Arc::clone(&seen)).await;
        // Makes the schema, and the persons whose pages are asked for.
        let program = Program::start(&server.url(), &schema, loops, seen).await;
        for user in ["many", "few"] {
            program.send(&[message(user, "Seen")]).await;
        }
        program.all_delivered(2).await;
        program.stop();
        let began = Instant::now();
        fill(&database, &schema, messages, days).await;
        println!("{messages} messages on {days} days, made in {:.0?}", began.elapsed());
        let seen = Seen::default();
        let loops = serve_loops(Arc::clone(&seen)).await;
        programs.push(Program::start(&server.url(), &schema, loops, seen).await);
    }
    let mut times: [Vec<(&str, Vec<Duration>)>; DAYS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (program, times) in programs.iter().zip(&mut times) {
            program.measure(times).await;
        }
    }
    for (what, one) in &times[0] {
        let (_, other) = times[1].iter().find(|(other, _)| other == what).unwrap();
        let [one, other] = [one, other].map(|times| sorted(times));
        println!(
            "{what:<16} {:>7.2} ms (p99 {:.1}) over {} day, {:>7.2} ms (p99 {:.1}) over {}, ratio {:.2}",
            milliseconds(one[one.len() / 2]),
            milliseconds(one[one.len() * 99 / 100]),
            DAYS[0],
            milliseconds(other[other.len() / 2]),
            milliseconds(other[other.len() * 99 / 100]),
            DAYS[1],
            milliseconds(other[other.len() / 2]) / milliseconds(one[one.len() / 2]),
        );
    }
    programs.into_iter().for_each(Program::stop);
}

fn sorted(times: &[Duration]) -> Vec<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

async fn serve_loops(seen: Seen) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(take).with_state(seen);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn take(State(seen): State<Seen>) -> axum::Json<Value> {
    seen.fetch_add(1, Ordering::SeqCst);
    axum::Json(json!({"success": true, "id": "c1"}))
}

fn message(user: &str, event: &str) -> Value {
    json!({"type": "track", "userId": user, "event": event,
        "properties": {"orderId": "o_1", "total": 39.95, "currency": "EUR"}})
}

struct Program {
    process: Child,
    address: SocketAddr,
    client: reqwest::Client,
    /// Requests that its Loops has had.
    seen: Seen,
}

impl Program {
    async fn start(url: &str, schema: &str, loops: SocketAddr, seen: Seen) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
        command.args(["serve", "--listen", &address.to_string()]);
        command.env_clear().stdout(Stdio::null()).stderr(Stdio::null()).envs([
            ("DATABASE_URL", url),
            ("SEGMENT_LOOPS__STORE__SCHEMA", schema),
            ("LOOPS_API_KEY", "k"),
            ("LOOPS_BASE_URL", &format!("http://{loops}/api/v1")),
            ("LOOPS_RATE_LIMIT", "1000"),
            ("SEGMENT_WRITE_KEY", "k"),
            ("ADMIN_TOKEN", TOKEN),
        ]);
        let process = command.spawn().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let program = Self { process, address, client, seen };
        let began = Instant::now();
        let ready = format!("http://{address}/readyz");
        while !program.client.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200) {
            assert!(began.elapsed() < PATIENCE, "the program is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        program
    }

    fn stop(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn measure(&self, times: &mut Vec<(&'static str, Vec<Duration>)>) {
        let mut add = |what, took: Duration| match times.iter_mut().find(|(of, _)| *of == what) {
            Some((_, times)) => times.push(took),
            None => times.push((what, vec![took])),
        };
        for (what, user) in
            [("page of many", "many"), ("page of few", "few"), ("page of nobody", "nobody")]
        {
            for _ in 0..CALLS {
                add(what, self.page(user).await);
            }
        }
        for (what, calls, of) in [("single call", CALLS, 1), ("batch of 100", BATCHES, BATCH)] {
            for _ in 0..calls {
                let messages: Vec<Value> =
                    (0..of).map(|n| message(&format!("user {n}"), "Accepted")).collect();
                let began = Instant::now();
                self.send(&messages).await;
                add(what, began.elapsed());
            }
        }
        self.rest().await;
        let before = self.seen.load(Ordering::SeqCst);
        let messages: Vec<Value> =
            (0..DELIVERED).map(|n| message(&format!("new {before} {n}"), "Delivered")).collect();
        let began = Instant::now();
        self.send(&messages).await;
        self.all_delivered(before + DELIVERED).await;
        add("200 delivered", began.elapsed());
    }

    async fn page(&self, user: &str) -> Duration {
        let began = Instant::now();
        let page = format!("http://{}/api/messages?userId={user}", self.address);
        let answer = self.client.get(page).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let page: Value = answer.json().await.unwrap();
        let took = began.elapsed();
        assert_eq!(page["messages"].as_array().unwrap().is_empty(), user == "nobody");
        took
    }

    async fn send(&self, messages: &[Value]) {
        let request = self.client.post(format!("http://{}/v1/batch", self.address));
        let body = json!({"batch": messages}).to_string();
        let answer = request.basic_auth("k", Some("")).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Waits until Loops has had this many requests.
    async fn all_delivered(&self, requests: usize) {
        let began = Instant::now();
        while self.seen.load(Ordering::SeqCst) < requests {
            assert!(began.elapsed() < PATIENCE, "not all is delivered");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until nothing is delivered any more.
    async fn rest(&self) {
        loop {
            let before = self.seen.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.seen.load(Ordering::SeqCst) == before {
                return;
            }
        }
    }
}

/// Makes the partitions of the days before today, and messages that were delivered on them: every hundredth of the
/// person `many`, ten of `few`, the others of 100,000 persons. Contents are kept for seven days.
async fn fill(database: &Client, schema: &str, messages: i64, days: i64) {
    let text = FILL.replace('@', &format!("{schema}."));
    let text = text.replace("$messages", &messages.to_string());
    database.batch_execute(&text.replace("$days", &days.to_string())).await.unwrap();
}

const FILL: &str = r#"
DO $do$
DECLARE
    today integer := extract(epoch FROM now())::bigint / 86400;
    first bigint;
    name text;
BEGIN
    FOR day IN today - $days .. today - 1 LOOP
        first := (day::bigint * 86400 - 1577836800) << 23;
        FOREACH name IN ARRAY ARRAY['messages', 'payloads', 'outcomes', 'deliveries', 'requests', 'attempts'] LOOP
            CONTINUE WHEN name = 'payloads' AND day < today - 7;
            EXECUTE format(
                'CREATE TABLE @%1$s_%2$s (LIKE @%1$s INCLUDING ALL);
                 ALTER TABLE @%1$s ATTACH PARTITION @%1$s_%2$s FOR VALUES FROM (%3$s) TO (%4$s)',
                name, to_char('epoch'::date + day, 'YYYYMMDD'), first, first + (86400::bigint << 23));
        END LOOP;
        INSERT INTO @days (day, has_payloads) VALUES (day, day >= today - 7);
    END LOOP;
END $do$;
CREATE TEMPORARY TABLE filled AS
    SELECT ((86400 * ((extract(epoch FROM now())::bigint / 86400) - $days) - 1577836800
             + n * 86400 * $days / $messages) << 23) + n % 32768 AS seq, n,
           CASE WHEN n % 100 = 7 THEN many.lane WHEN n % ($messages / 10) = 0 THEN few.lane
                ELSE hashint8extended(n % 100000, 0) END AS lane
    FROM generate_series(0::bigint, $messages - 1) n,
         (SELECT lane FROM @messages ORDER BY seq LIMIT 1) many,
         (SELECT lane FROM @messages ORDER BY seq DESC LIMIT 1) few;
INSERT INTO @messages (seq, message_hash, lane, email, received_at, payload_bytes, class, kind, source, destination,
                       message_id, event)
    SELECT seq, hashint8extended(n, 1), lane, hashint8extended(lane, 2), ((seq >> 23) + 1577836800) * 1000, 600, 0, 'track',
           'default', 'default', 'message-' || n, 'Event ' || n % 50
    FROM filled;
INSERT INTO @payloads (seq, payload)
    SELECT seq, convert_to(repeat('x', 600), 'UTF8') FROM filled
    WHERE seq >= (SELECT ((min(day)::bigint * 86400) - 1577836800) << 23 FROM @days WHERE has_payloads);
INSERT INTO @outcomes (seq, done_at, is_failed) SELECT seq, ((seq >> 23) + 1577836801) * 1000, false FROM filled;
INSERT INTO @deliveries (seq, replay, position, request_id, ended_at, state, subscription, action)
    SELECT seq, 0, 0, seq, ((seq >> 23) + 1577836801) * 1000, 'delivered', 'Track', 'sendEvent' FROM filled;
INSERT INTO @requests (id, seqs, attempts, is_merged, created_at, state, destination, path, idempotency_key)
    SELECT seq, ARRAY[seq], 1, false, 0, 'delivered', 'default', '/events/send', 'key-' || n FROM filled;
INSERT INTO @attempts (request_id, number, started_at, duration_ms, status, outcome, excerpt)
    SELECT seq, 1, 0, 100, 200, 'delivered', '{"success":true}' FROM filled;
DROP TABLE filled;
ANALYZE @messages, @payloads, @outcomes, @deliveries, @requests, @attempts;
"#;
