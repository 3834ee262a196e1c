//! How long people wait for the pages of the console, and what ten live lists cost those who send.
//!
//! `cargo bench --bench console` over SQLite, `cargo bench --bench console -- postgres` over a PostgreSQL server that it
//! starts (Debian: postgresql); with `small`, a hundredth of it. The program is the real one, on a store with a million
//! messages of the last 30 days, what became of them, and 100,000 that wait, half of them for a destination that is no
//! longer configured. Loops is a server in this process that takes everything.
//!
//! Each page is asked for again and again, in turn with the others, while senders send single calls at half of the speed
//! that the program reaches alone. The first table has the time to the first byte of each, with its aims, and to the last. Then
//! the program is loaded as far as it goes, round after round: alone, with ten live lists, and with ten that look for
//! what never arrives.
//!
//! All of it shares the cores of the machine, the senders too.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a command for developers"
)]

mod fill;
#[path = "../load/mod.rs"]
mod load;
mod pages;
#[path = "../../src/store/postgres/tests/server.rs"]
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use reqwest::{Client, Response, redirect};
use segment_loops::config::{self, Flags, StoreConfig};
use segment_loops::store::{self, Watch};
use tokio_util::sync::CancellationToken;

use load::{WRITE_KEY, load, paced, quartiles};

/// A destination that is no longer configured.
const FORMER: &str = "former";
/// The person with many messages.
const MANY: &str = "person_with_many";
/// Events that are frequent and rare, and the subscriptions.
const EVENT: &str = "Order Completed";
const RARE: &str = "Plan Upgraded";
const PROFILES: &str = "Profiles";
const ORDERS: &str = "Orders";
const UPGRADES: &str = "Upgrades";

const TOKEN: &str = "admin";
const PATIENCE: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_secs(2);
const TAILS: usize = 10;
const TAIL_ROUNDS: usize = 5;
const TAIL_ROUND: Duration = Duration::from_secs(4);

#[derive(Clone, Copy)]
struct Size {
    kept: usize,
    waiting: usize,
    /// How often each page is asked for.
    rounds: usize,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
    runtime.shutdown_background();
}

async fn run() {
    let is_given = |word: &str| std::env::args().any(|argument| argument == word);
    let size = match is_given("small") {
        true => Size { kept: 10_000, waiting: 1_000, rounds: 20 },
        false => Size { kept: 1_000_000, waiting: 100_000, rounds: 100 },
    };
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let setup = Setup::new(folder.path(), serve_loops().await);
    let store = store::open(&setup.store()).await.unwrap();
    fill::fill(&*store, size).await;
    store.close().await;
    let server = is_given("postgres").then(|| server::Server::start("shared_buffers = 512MB"));
    let setup = match &server {
        Some(server) => setup.moved_to(&server.url()).await,
        None => setup,
    };
    let Size { kept, waiting, .. } = size;
    println!("{kept} messages kept and {waiting} waiting, made in {:.0?}", began.elapsed());
    let program = Program::start(&setup).await;
    load(&[program.address], "/v1/track", 1, WARM_UP).await;
    let alone = load(&[program.address], "/v1/track", 1, TAIL_ROUND).await;
    println!("alone, {:.0} messages/s, p99 {:.1} ms", alone.rate, alone.p99_ms);
    let (address, rate) = (program.address, alone.rate / 2.0);
    let asked = CancellationToken::new();
    let is_asked = asked.clone();
    let half = tokio::spawn(async move {
        let mut rates = Vec::new();
        while !is_asked.is_cancelled() {
            rates.push(paced(address, rate, Instant::now() + TAIL_ROUND).await.rate);
        }
        rates
    });
    tokio::time::sleep(WARM_UP).await;
    let pages = pages::measure(&program, size).await;
    asked.cancel();
    let arrived = quartiles(half.await.unwrap().into_iter())[1];
    println!("while {arrived:.0} messages/s arrived:");
    pages.into_iter().for_each(pages::Page::print);
    tails(&program).await;
    program.stop();
}

/// Ingest with and without live lists.
async fn tails(program: &Program) {
    const NEVER: &str = "?type=identify";
    let names = ["alone", "ten live lists", "ten in vain"];
    let mut rounds = Vec::new();
    for _ in 0..TAIL_ROUNDS {
        let mut loads = Vec::new();
        for query in [None, Some(""), Some(NEVER)] {
            let end = CancellationToken::new();
            let mut tails = Vec::new();
            for _ in 0..query.map_or(0, |_| TAILS) {
                let path = format!("/console/messages/tail{}", query.unwrap_or_default());
                let mut tail = program.get(&path).await;
                tails.push(tokio::spawn(end.clone().run_until_cancelled_owned(async move {
                    while tail.chunk().await.unwrap().is_some() {}
                })));
            }
            loads.push(load(&[program.address], "/v1/track", 1, TAIL_ROUND).await);
            end.cancel();
            for tail in tails {
                assert!(tail.await.unwrap().is_none(), "a live list ended");
            }
        }
        rounds.push(loads);
    }
    println!("single calls, {TAIL_ROUNDS} rounds of {TAIL_ROUND:?} each:");
    for (index, name) in names.iter().enumerate() {
        let rate = quartiles(rounds.iter().map(|round| round[index].rate));
        let ratio = quartiles(rounds.iter().map(|round| round[index].rate / round[0].rate));
        println!(
            "  {name:<16} {:>7.0} messages/s, ratio {:.2} ({:.2} to {:.2})",
            rate[1], ratio[1], ratio[0], ratio[2]
        );
    }
}

async fn serve_loops() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = || async { axum::Json(serde_json::json!({"success": true, "id": "c1"})) };
    let router = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// The environment of the program.
#[derive(Clone)]
struct Setup(HashMap<String, String>);

impl Setup {
    fn new(folder: &Path, loops: SocketAddr) -> Self {
        let subscriptions = format!(
            r#"[
                {{"name": "{PROFILES}", "action": "createOrUpdateContact", "trigger": "type = \"identify\""}},
                {{"name": "{ORDERS}", "action": "sendEvent", "events": ["*"]}},
                {{"name": "{UPGRADES}", "action": "sendEvent", "events": ["{RARE}"], "mapping": {{"eventName": "upgraded"}}}}
            ]"#
        );
        let file = folder.join("subscriptions.json");
        std::fs::write(&file, subscriptions).unwrap();
        let path = |path: &Path| path.display().to_string();
        let all = [
            ("LOOPS_API_KEY", "k".to_owned()),
            ("LOOPS_BASE_URL", format!("http://{loops}/api/v1")),
            ("LOOPS_SUBSCRIPTIONS", path(&file)),
            ("SEGMENT_WRITE_KEY", WRITE_KEY.to_owned()),
            ("ADMIN_TOKEN", TOKEN.to_owned()),
            ("SEGMENT_LOOPS__STORE__DATA", path(&folder.join("data"))),
            // All contents stay.
            ("SEGMENT_LOOPS__STORE__DELIVERED_RETENTION_H", "2160".to_owned()),
            ("SEGMENT_LOOPS__STORE__FAILED_RETENTION_H", "2160".to_owned()),
            ("SEGMENT_LOOPS__STORE__RECORDS_RETENTION_H", "4320".to_owned()),
        ];
        Self(all.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn store(&self) -> StoreConfig {
        config::load(&Flags::default(), self.0.clone()).unwrap().store
    }

    /// The same on a server, to which the store is moved.
    async fn moved_to(mut self, url: &str) -> Self {
        let from = self.store().data;
        self.0.insert("DATABASE_URL".to_owned(), url.to_owned());
        let watch = Watch { progress: &|_, _| (), stop: &CancellationToken::new() };
        store::move_queue(&from, &self.store(), &watch).await.unwrap();
        self
    }
}

/// The program, and a person who is logged in.
struct Program {
    process: Child,
    address: SocketAddr,
    client: Client,
    cookie: String,
}

impl Program {
    async fn start(setup: &Setup) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
        command.args(["serve", "--listen", &address.to_string()]).env_clear().envs(&setup.0);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let client = Client::builder().no_proxy().redirect(redirect::Policy::none());
        let mut program =
            Self { process, address, client: client.build().unwrap(), cookie: String::new() };
        let began = Instant::now();
        let ready = format!("http://{address}/readyz");
        while !program.client.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200) {
            assert!(began.elapsed() < PATIENCE, "the program is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let answer = program.post("/console/login", &[("token", TOKEN)]).await;
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        program.cookie = cookie.split(';').next().unwrap().to_owned();
        program
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.client.get(format!("http://{}{path}", self.address));
        let request = request.header("cookie", &self.cookie).bearer_auth(TOKEN);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let encode =
            |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let body: Vec<String> =
            form.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let request = self.client.post(format!("http://{}{path}", self.address));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("cookie", &self.cookie).body(body.join("&"));
        let answer = request.send().await.unwrap();
        assert!(!answer.status().is_server_error(), "{path}: {}", answer.status());
        answer
    }

    fn stop(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
