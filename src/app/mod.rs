//! The composition root: the only place that picks implementations and wires the parts together.

mod alerts;
mod asking;
mod catalogues;
mod changes;
mod chores;
mod counters;
mod error;
mod last_times;
mod open_files;
mod openapi;
mod parts;
mod process;
mod reload;
mod report;
mod run;
mod serving;
mod settings;
mod vitals;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use crate::clock::{SharedClock, WatchedClock};
use crate::config::Config;
use crate::delivery::{Board, Engine, Forwarder, Room};
use crate::destination::NewContactsPolicy;
use crate::http::Front;
use crate::http::server::ServerLimits;
use crate::large::Turns;
use crate::queue::{Inbox, Store};
use crate::store;
pub use alerts::AlertSender;
use catalogues::Shelf;
pub use error::AppError;
use parts::{client, engine_options, forwarders};
use process::Process;
pub use process::{Outlets, host};
pub use reload::LoadConfig;
use reload::Reloader;
use report::Reporter;
use serving::{fronts, listen, server_limits};

/// A program that is ready to run.
pub struct App {
    public: Served,
    /// What is served to operators; `None` if they use the public address.
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

/// An address and what is served there.
struct Served {
    listener: TcpListener,
    address: SocketAddr,
    front: Front,
}

impl App {
    /// Opens the store, makes the clients and listens. Nothing is delivered before [`App::run`]. A reload calls `load`
    /// to get the configuration again.
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
        last_times::show(&config, &*store, clock.now()).await;
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

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.public.address
    }
}

/// Rejects destinations that may create no contacts while none is known: nothing would be sent to them.
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
