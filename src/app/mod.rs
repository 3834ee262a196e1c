//! The composition root: the only place that picks implementations and wires the parts together.

mod alerts;
mod asking;
mod catalogues;
mod changes;
mod chores;
mod counters;
mod open_files;
mod openapi;
mod reload;
mod report;
mod settings;
mod vitals;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::{SharedClock, WatchedClock};
use crate::config::{Config, ConfigError, DestinationConfig, ServerConfig};
use crate::console::{self, AdminState};
use crate::delivery::{Board, Engine, EngineOptions, Forwarder, RetryOptions, Room, Stop};
use crate::destination::NewContactsPolicy;
use crate::http::server::{self, AddressConnections, ServerLimits};
use crate::http::{
    self, Front, HeadBudget, HttpLimits, HttpParts, HttpState, Network, PublicUrl, RequestMetrics,
};
use crate::large::Turns;
use crate::loops::{Client, ClientError, ClientOptions, WebhookClient};
use crate::queue::{Depth, Inbox, Log, Store, Unavailable};
use crate::segment::Digests;
use crate::store::{self, StoreError};
use crate::telemetry::{self, Traces};
pub use alerts::AlertSender;
use alerts::Lookout;
use asking::Asking;
use catalogues::Shelf;
use reload::Reloader;
use report::Reporter;

/// Where Linux has the machine's host name; in a container, the container's.
const MACHINE_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// The part of the grace time that senders have at most, while requests to Loops go on.
const SENDERS_PART: u32 = 2;

/// The part of the grace time that is kept for giving the leases back and closing the database.
const CLOSING_PART: u32 = 8;

/// Why a destination cannot have `new_contacts = "known_only"`.
const NOTHING_KNOWN: &str = "\"known_only\" would send nothing, since no contact of the destination is known: load an export of Loops' audience (segment-loops known FILE), or use \"create\" until Loops' webhooks or deliveries have made contacts known";

/// Why the program did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database cannot be used.
    #[error("the database cannot be opened")]
    Store(#[from] StoreError),
    /// A destination cannot be used.
    #[error("destination `{name}` cannot be used")]
    Destination {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// Alerts cannot be sent.
    #[error("alerts cannot be sent: check alerts.webhook_url")]
    Alerts(#[source] ClientError),
    /// A destination may create no contacts, and none is known.
    #[error("destinations.{name}.new_contacts: {NOTHING_KNOWN}")]
    NothingKnown {
        /// Its name.
        name: String,
    },
    /// Whether contacts are known cannot be read.
    #[error("the database cannot be read")]
    Unreadable(#[source] Unavailable),
    /// A task that must run as long as the program does has ended, by a bug of ours.
    #[error(
        "a component stopped unexpectedly ({part}): this is a bug; start the program again, nothing that was acknowledged is lost, and please report the log lines before this one"
    )]
    BrokenOff {
        /// The part that ended.
        part: &'static str,
    },
    /// The store cannot continue safely.
    #[error("the database cannot be used any more")]
    StoreEnded(#[source] Unavailable),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: choose another with {key}")]
    Listen {
        /// The setting it comes from.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A program that is ready to run.
pub struct App {
    public: Served,
    /// For operators; `None`: they use the public one.
    admin: Option<Served>,
    limits: ServerLimits,
    grace: Duration,
    store: Arc<dyn Store>,
    engines: Vec<(String, Engine)>,
    forwarders: Vec<Forwarder<dyn Store>>,
    shelves: HashMap<String, Shelf>,
    clock: SharedClock,
    outlets: Outlets,
    alerts: Option<AlertSender>,
    reloader: Arc<Reloader>,
    hangups: chores::Hangups,
    reporter: Reporter,
}

/// What operators see of a process, besides its log.
pub struct Outlets {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Exports traces.
    pub traces: Traces,
}

/// An address and what is served there.
struct Served {
    listener: TcpListener,
    address: SocketAddr,
    front: Front,
}

/// Loads the configuration; called again at each reload.
pub type LoadConfig = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

impl App {
    /// Opens the store, makes the clients and listens. Nothing is delivered before [`App::run`].
    /// A reload calls `load` to get the configuration again.
    pub async fn start(
        config: Config,
        load: LoadConfig,
        clock: SharedClock,
        outlets: Outlets,
    ) -> Result<Self, AppError> {
        let clock: SharedClock = Arc::new(WatchedClock::new(clock));
        let grace = Duration::from_millis(config.server.shutdown_grace_ms);
        open_files::raise_limit(&config);
        counters::begin(&config);
        counters::begin_gauges(clock.now());
        let store = store::open(&config.store).await?;
        if let Err(error) = must_know_somebody(&config, &*store).await {
            store.close().await;
            return Err(error);
        }
        let process = Process::new();
        let turns = Turns::default();
        let room = Room::new(turns.clone());
        let board = Board::default();
        let mut engines = Vec::new();
        let mut planners = HashMap::new();
        let mut clients = HashMap::new();
        let mut shelves = HashMap::new();
        for (name, destination) in &config.destinations {
            let client = client(name, destination, &config, &clock)?;
            let digests = store.digests();
            let traces = &outlets.traces;
            let options =
                engine_options(&config, &process.name, grace, &room, &digests, &board, traces);
            clients.insert(name.clone(), client.clone());
            let planner = watch::Sender::new(Arc::clone(&destination.planner.destination));
            planners.insert(name.clone(), planner.clone());
            let account = digests.property_name(client.account()).0;
            let shelf = Shelf { planner: planner.clone(), account, known: None };
            shelves.insert(name.clone(), shelf);
            let engine = Engine::new(
                name.clone(),
                planner,
                client,
                store.clone(),
                Arc::clone(&clock),
                options,
            );
            engines.push((name.clone(), engine));
        }
        catalogues::read(&*store, &mut shelves).await;
        let (listener, address) = listen("--listen or server.listen", config.server.listen)?;
        let admin = match config.server.admin_listen {
            Some(address) => Some(listen("server.admin_listen", address)?),
            None => None,
        };
        let limits = server_limits(&config);
        let alerts = AlertSender::new(&config.alerts, &config.console, Arc::clone(&clock))?;
        let reloader =
            Arc::new(Reloader::new(config, load, store.clone(), Arc::clone(&clock), planners));
        let forwarders = forwarders(&reloader, &store, &clock)?;
        let (http, front, admin_front) =
            fronts(&reloader, &store, &process, &clock, &outlets, &turns, clients);
        let inbox: Arc<dyn Inbox> = store.clone();
        let admin = admin.zip(admin_front);
        let admin = admin.map(|((listener, address), front)| Served { listener, address, front });
        let admin_address = admin.as_ref().map(|admin| tracing::field::display(admin.address));
        let hangups = chores::Hangups::listen();
        info!(%address, admin_address, process = process.name, "listening");
        Ok(Self {
            public: Served { listener, address, front },
            admin,
            limits,
            grace,
            store,
            engines,
            forwarders,
            shelves,
            clock,
            outlets,
            alerts,
            hangups,
            reporter: Reporter { process, inbox, board, http, reloader: Arc::clone(&reloader) },
            reloader,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.public.address
    }

    /// Runs until `stop` is cancelled. Then it accepts no more messages, finishes the requests under
    /// way, gives the leases back and closes the database, all within the grace time. Returns the number
    /// of pending messages, as far as it was counted.
    ///
    /// Stops by itself, with an error, when a part that must keep running has ended. A supervisor then
    /// restarts the process, which is better than to go on with a part missing.
    pub async fn run(self, stop: CancellationToken) -> Result<u64, AppError> {
        let deliver = Stop::default();
        let names: Vec<String> = self.engines.iter().map(|(name, _)| name.clone()).collect();
        chores::warn_of_orphans(&*self.store, &names).await;
        // Before anything new is written.
        let purge_after = chores::purge_after(&*self.store, &self.clock).await;
        let mut engines = JoinSet::new();
        for (_, engine) in self.engines {
            engines.spawn(engine.run(deliver.clone()));
        }
        let mut chores = JoinSet::new();
        chores.spawn(chores::purge(self.store.clone(), Arc::clone(&self.clock), purge_after));
        let name = self.reporter.process.name.clone();
        let stopping = self.reporter.process.stopping.clone();
        let (ready, is_ready) = watch::channel(true);
        if let Some(sender) = self.alerts {
            let lookout = Lookout {
                sender,
                store: self.store.clone(),
                board: self.reporter.board.clone(),
                reloader: Arc::clone(&self.reloader),
                clock: Arc::clone(&self.clock),
                host: self.reporter.process.host.clone(),
                started_at: self.reporter.process.started_at,
                is_ready,
            };
            chores.spawn(lookout.run());
        }
        chores.spawn(chores::check_in(self.store.clone(), Arc::clone(&self.clock), self.reporter));
        chores.spawn(chores::watch_clock(Arc::clone(&self.clock)));
        chores.spawn(chores::erase(self.store.clone(), Arc::clone(&self.clock), names.clone()));
        chores.spawn(chores::revive(self.store.clone(), Arc::clone(&self.clock)));
        for forwarder in self.forwarders {
            chores.spawn(forwarder.run());
        }
        let clock = Arc::clone(&self.clock);
        chores.spawn(catalogues::follow(self.store.clone(), clock, self.shelves));
        chores.spawn(chores::watch_store(self.store.clone(), ready));
        chores.spawn(chores::upkeep(self.outlets.metrics));
        chores.spawn(async { match vitals::measure().await {} });
        chores.spawn(chores::reload_on_hangup(self.hangups, self.reloader));
        let serve = |served: Served, listener| {
            let limits = ServerLimits { listener, ..self.limits.clone() };
            let grace = self.grace / SENDERS_PART;
            server::serve(served.listener, served.front, limits, stop.clone(), grace)
        };
        let public = serve(self.public, "public");
        let admin = self.admin.map(|admin| serve(admin, "admin"));
        let mut server = std::pin::pin!(async {
            let admin = async {
                if let Some(admin) = admin {
                    admin.await;
                }
            };
            let deadline = async {
                stop.cancelled().await;
                stopping.cancel();
                Instant::now() + self.grace
            };
            tokio::join!(public, admin, deadline).2
        });
        let broken_off = |part| AppError::BrokenOff { part };
        let (deadline, ended) = tokio::select! {
            // When the store ends, the engines end too.
            biased;
            why = self.store.ended() => (None, Some(match why {
                Some(why) => AppError::StoreEnded(why),
                None => broken_off("the writer of the database"),
            })),
            Some(_) = engines.join_next() => (None, Some(broken_off("delivery"))),
            Some(_) = chores.join_next() => (None, Some(broken_off("a background task"))),
            deadline = &mut server => (Some(deadline), None),
        };
        // The store may have ended since it was asked.
        let ended = match (ended, why_ended(&*self.store).await) {
            (Some(AppError::BrokenOff { .. }), Some(why)) => Some(AppError::StoreEnded(why)),
            (ended, _) => ended,
        };
        let deadline = match deadline {
            Some(deadline) => deadline,
            None => {
                if let Some(ended) = &ended {
                    error!(error = %telemetry::chain(ended), "cannot go on: stopping");
                }
                stop.cancel();
                server.await
            }
        };
        // Only now: what was accepted while the server closed may still go out.
        deliver.by(deadline - self.grace / CLOSING_PART);
        let mut pending = 0;
        let close = async {
            while engines.join_next().await.is_some() {}
            chores.shutdown().await;
            // If it fails, the process is still listed for a day, as one that was not seen since.
            let _ = self.store.check_out(&name).await;
            for name in &names {
                pending += self.store.depth(name).await.map_or(0, |depth: Depth| depth.messages);
            }
            // A collector that does not answer must not keep the database open.
            let traces = self.outlets.traces;
            let within = deadline.saturating_duration_since(Instant::now()) / 2;
            let within = within.min(self.grace / CLOSING_PART);
            let exported = tokio::task::spawn_blocking(move || traces.shutdown(within));
            self.store.close().await;
            let _ = exported.await;
        };
        if timeout_at(deadline, close).await.is_err() {
            warn!("the grace time ended before the database was closed");
        }
        info!(pending, "stopped");
        match (ended, why_ended(&*self.store).await) {
            (Some(error), _) => Err(error),
            // It was found while closing.
            (None, Some(why)) => Err(AppError::StoreEnded(why)),
            (None, None) => Ok(pending),
        }
    }
}

/// Refuses destinations that may create no contacts while none is known: nothing would be sent to them.
pub async fn must_know_somebody(config: &Config, store: &dyn Store) -> Result<(), AppError> {
    for (name, destination) in &config.destinations {
        let options = destination.planner.destination.contact_options();
        if options.new_contacts == NewContactsPolicy::KnownOnly
            && !store.knows_any(name).await.map_err(AppError::Unreadable)?
        {
            return Err(AppError::NothingKnown { name: name.clone() });
        }
    }
    Ok(())
}

/// Why the store cannot go on, if it has ended for that reason.
async fn why_ended(store: &dyn Store) -> Option<Unavailable> {
    tokio::select! {
        biased;
        why = store.ended() => why,
        () = std::future::ready(()) => None,
    }
}

/// Listens on the address of a setting; also gives the address itself, for port 0.
fn listen(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), AppError> {
    let error = |source| AppError::Listen { key, address, source };
    let listener = server::listen(address).map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok((listener, address))
}

fn client(
    name: &str,
    destination: &DestinationConfig,
    config: &Config,
    clock: &SharedClock,
) -> Result<Client, AppError> {
    let options = ClientOptions {
        base_url: destination.base_url.clone(),
        api_key: destination.api_key.clone(),
        rate: destination.rate,
        connect_timeout: Duration::from_millis(config.delivery.connect_timeout_ms),
        timeout: Duration::from_millis(config.delivery.timeout_ms),
    };
    Client::new(&options, Arc::clone(clock))
        .map_err(|source| AppError::Destination { name: name.to_owned(), source })
}

/// Makes what hands Loops' webhooks on, for each destination where that is configured.
fn forwarders(
    reloader: &Reloader,
    store: &Arc<dyn Store>,
    clock: &SharedClock,
) -> Result<Vec<Forwarder<dyn Store>>, AppError> {
    let mut forwarders = Vec::new();
    for (name, destination) in reloader.config().destinations {
        let Some((url, wake)) = destination.loops_webhook_forward.zip(reloader.forward(&name))
        else {
            continue;
        };
        let client = WebhookClient::new(&url)
            .map_err(|source| AppError::Destination { name: name.clone(), source })?;
        forwarders.push(Forwarder::new(name, client, Arc::clone(store), Arc::clone(clock), wake));
    }
    Ok(forwarders)
}

/// The name of this machine or container; `process` if it has none.
pub fn host() -> String {
    let host = std::fs::read_to_string(MACHINE_NAME_FILE).unwrap_or_default();
    let host = host.trim();
    if host.is_empty() { "process" } else { host }.to_owned()
}

/// This process, among those that share the store.
struct Process {
    /// Its name in leases and in the log: host name and process id, so that people find it, and a random part, because
    /// containers may share both.
    name: String,
    /// The name of the machine or container.
    host: String,
    started_at: Instant,
    /// Cancelled when it stops, so that answers without an end take none of the grace time.
    stopping: CancellationToken,
}

impl Process {
    fn new() -> Self {
        let host = host();
        let name = format!("{host}-{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        Self { name, host, started_at: Instant::now(), stopping: CancellationToken::new() }
    }
}

fn engine_options(
    config: &Config,
    holder: &str,
    grace: Duration,
    room: &Room,
    digests: &Digests,
    board: &Board,
    traces: &Traces,
) -> EngineOptions {
    EngineOptions {
        holder: holder.to_owned(),
        lease_ttl: Duration::from_millis(config.delivery.lease_ttl_ms),
        requests_max: config.delivery.requests_max,
        retry: RetryOptions {
            min: Duration::from_millis(config.delivery.retry_min_ms),
            max: Duration::from_millis(config.delivery.retry_max_ms),
            window: Duration::from_millis(config.delivery.retry_window_ms),
        },
        grace,
        room: room.clone(),
        digests: digests.clone(),
        board: board.clone(),
        traces: traces.clone(),
    }
}

/// What is served at the public address, and at that for operators where there is one.
fn fronts(
    reloader: &Arc<Reloader>,
    store: &Arc<dyn Store>,
    process: &Process,
    clock: &SharedClock,
    outlets: &Outlets,
    turns: &Turns,
    clients: HashMap<String, Client>,
) -> (HttpState, Front, Option<Front>) {
    let metrics = outlets.metrics.clone();
    let log: Arc<dyn Log> = store.clone();
    let config = reloader.config();
    let state = HttpState::new(HttpParts {
        feedback: store.clone(),
        inbox: store.clone(),
        log: Arc::clone(&log),
        clock: Arc::clone(clock),
        sources: reloader.sources(),
        loops_webhooks: reloader.loops_webhooks(),
        limits: http_limits(&config.server),
        trusted_proxies: trusted_proxies(&config),
        public_url: config.server.public_url.as_deref().map(public_url),
        metrics: Arc::new(move || metrics.render()),
        turns: turns.clone(),
        traces: outlets.traces.clone(),
    });
    let reload = Arc::clone(reloader);
    let (settings, last) = (Arc::clone(reloader), Arc::clone(reloader));
    let (api, api_description) = console::router(AdminState {
        process: process.name.clone(),
        clock: Arc::clone(clock),
        log,
        feedback: store.clone(),
        replays: store.clone(),
        work: store.clone(),
        audit: store.clone(),
        inbox: store.clone(),
        receipts: store.clone(),
        new_contacts: store.clone(),
        asker: Arc::new(Asking(clients)),
        tokens: console::Tokens {
            admin: config.admin_tokens.clone().into(),
            viewer: config.viewer_tokens.clone().into(),
        },
        guesses: state.guesses(),
        sources: reloader.sources(),
        planners: reloader.planners(),
        turns: turns.clone(),
        depths: console::Depths::default(),
        tails: console::Tails::new(process.stopping.clone()),
        turn: console::compare::Turn::default(),
        settings: Arc::new(move || settings::list(&settings.config())),
        last_reload: Arc::new(move || last.last_reload()),
        reload: Arc::new(move || reload.reload()),
    });
    let (public, mut description) = http::router(state.clone());
    let (metrics, metrics_description) = http::metrics_router(state.clone());
    description.merge(metrics_description);
    description.merge(api_description);
    let requests = Arc::new(RequestMetrics::new(&description));
    let operators = metrics.merge(api).merge(openapi::router(description));
    let (public, admin) = match config.server.admin_listen.is_some() {
        true => (public, Some(http::admin_router(state.clone()).merge(operators))),
        false => (public.merge(operators), None),
    };
    let front = |router| Front::new(router, &state, Arc::clone(&requests));
    let fronts = (front(public), admin.map(front));
    (state, fronts.0, fronts.1)
}

/// Takes a URL apart that was checked by the configuration.
fn public_url(url: &str) -> PublicUrl {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let host_and_path = rest.trim_end_matches('/').to_owned();
    PublicUrl { is_tls: scheme == "https", host_and_path }
}

fn trusted_proxies(config: &Config) -> Vec<Network> {
    let proxies = config.trusted_proxies.iter();
    proxies.map(|proxy| Network { address: proxy.address, prefix: proxy.prefix }).collect()
}

fn http_limits(server: &ServerConfig) -> HttpLimits {
    HttpLimits {
        body_bytes_max: server.body_bytes_max,
        message_bytes_max: server.message_bytes_max,
        batch_messages_max: server.batch_messages_max,
        body_timeout: Duration::from_millis(server.body_timeout_ms),
        ack_timeout: Duration::from_millis(server.ack_timeout_ms),
        body_budget_bytes: server.body_budget_bytes,
    }
}

fn server_limits(config: &Config) -> ServerLimits {
    let server = &config.server;
    let configured = server.address_connections_max.map(AddressConnections::of);
    let by_default = AddressConnections::default_of(server.connections_max);
    ServerLimits {
        listener: "public",
        header_timeout: Duration::from_millis(server.header_timeout_ms),
        write_timeout: Duration::from_millis(server.write_timeout_ms),
        connections_max: server.connections_max,
        address_connections_max: configured.unwrap_or(by_default),
        trusted_proxies: trusted_proxies(config),
        heads: HeadBudget::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::clock::SystemClock;
    use crate::config::{self, Flags};

    async fn app() -> (App, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let environment: HashMap<String, String> = [
            ("LOOPS_API_KEY", "k"),
            ("LOOPS_BASE_URL", "http://127.0.0.1:9/api/v1"),
            ("SEGMENT_WRITE_KEY", "k"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let flags = Flags {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            data: Some(folder.path().to_owned()),
            ..Flags::default()
        };
        let load = Box::new(move || config::load(&flags, environment.clone()));
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let clock = Arc::new(SystemClock);
        let outlets = Outlets { metrics: recorder.handle(), traces: Traces::default() };
        let app = App::start(load().unwrap(), load, clock, outlets).await.unwrap();
        (app, folder)
    }

    #[tokio::test]
    async fn it_stops_when_a_part_has_ended() {
        let (app, _folder) = app().await;
        // A panic of the writer would have the same effect.
        app.store.close().await;
        let ended = app.run(CancellationToken::new()).await;
        assert!(matches!(ended, Err(AppError::BrokenOff { .. })), "{ended:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_database_that_cannot_be_used_any_more_is_never_called_a_bug() {
        for is_stopped in [false, true] {
            let (app, folder) = app().await;
            app.store.accept(vec![crate::queue::suite::message("m1")]).await.unwrap();
            let log = folder.path().join("segment-loops.db-wal");
            let log = std::fs::OpenOptions::new().write(true).open(log).unwrap();
            log.set_len(0).unwrap();
            let stop = CancellationToken::new();
            if is_stopped {
                // Then it is found while the database is closed.
                stop.cancel();
            } else {
                app.store.accept(vec![crate::queue::suite::message("m2")]).await.unwrap_err();
                let ended = app.store.ended().await;
                assert!(ended.is_some());
            }
            let ended = app.run(stop).await;
            assert!(matches!(ended, Err(AppError::StoreEnded(_))), "{is_stopped}: {ended:?}");
        }
    }
}
