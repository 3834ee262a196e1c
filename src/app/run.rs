//! Runs an [`App`]: it starts its tasks, waits until one of them ends or the process must stop, and then closes
//! everything in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::alerts::Lookout;
use super::error::AppError;
use super::{App, Served, catalogues, chores, vitals};
use crate::delivery::Stop;
use crate::http::server::{self, ServerLimits};
use crate::queue::{Depth, Store, Unavailable};
use crate::telemetry::{self, Traces};

/// The part of the grace time that senders have at most. Requests to Loops go on in the meantime.
const SENDERS_PART: u32 = 2;

/// The part of the grace time that is reserved for giving the leases back and closing the database.
const CLOSING_PART: u32 = 8;

impl App {
    /// Runs until `stop` is cancelled. Then it accepts no more messages, finishes the requests in progress, gives the
    /// leases back and closes the database, all within the grace time. Returns the number of pending messages, if it
    /// could be counted.
    ///
    /// Stops by itself, with an error, when a part that must keep running has ended. A supervisor then restarts the
    /// process, which is better than going on with a part missing.
    pub async fn run(self, stop: CancellationToken) -> Result<u64, AppError> {
        let (grace, store) = (self.grace, Arc::clone(&self.store));
        let (serving, mut running) = self.spawn().await;
        let mut server = std::pin::pin!(serving.serve(&stop, grace));
        let (deadline, ended) = tokio::select! {
            biased;
            ended = running.ended() => {
                error!(error = %telemetry::chain(&ended), "cannot go on: stopping");
                stop.cancel();
                (server.await, Some(ended))
            }
            deadline = &mut server => (deadline, None),
        };
        // Delivery stops only now, so that messages accepted while the server closed may still be sent.
        let pending = running.close(deadline, grace).await;
        info!(pending, "stopped");
        match (ended, why_ended(&*store).await) {
            (Some(error), _) => Err(error),
            // The cause was found while closing.
            (None, Some(why)) => Err(AppError::StoreEnded(why)),
            (None, None) => Ok(pending),
        }
    }

    /// Starts all tasks but the servers.
    async fn spawn(self) -> (Serving, Running) {
        let Self { store, clock, .. } = self;
        let deliver = Stop::default();
        let names: Vec<String> = self.engines.iter().map(|(name, _)| name.clone()).collect();
        chores::warn_of_orphans(&*store, &names).await;
        // It must be asked before anything new is written.
        let purge_after = chores::purge_after(&*store, &clock).await;
        let mut engines = JoinSet::new();
        for (_, engine) in self.engines {
            engines.spawn(engine.run(deliver.clone()));
        }
        let process = &self.reporter.process;
        let (name, stopping) = (process.name.clone(), process.stopping.clone());
        let mut chores = Chores::default();
        chores.spawn("purge", chores::purge(store.clone(), Arc::clone(&clock), purge_after));
        let (ready, is_ready) = watch::channel(true);
        if let Some(sender) = self.alerts {
            let lookout = Lookout {
                sender,
                store: store.clone(),
                board: self.reporter.board.clone(),
                reloader: Arc::clone(&self.reloader),
                clock: Arc::clone(&clock),
                host: process.host.clone(),
                started_at: process.started_at,
                is_ready,
            };
            chores.spawn("alerts", lookout.run());
        }
        let check_in = chores::check_in(store.clone(), Arc::clone(&clock), self.reporter);
        chores.spawn("check-in", check_in);
        chores.spawn("clock", chores::watch_clock(Arc::clone(&clock)));
        let erase = chores::erase(store.clone(), Arc::clone(&clock), names.clone());
        chores.spawn("erasure", erase);
        chores.spawn("events that await a contact", chores::revive(store.clone(), clock.clone()));
        for forwarder in self.forwarders {
            chores.spawn("forwarded webhooks", forwarder.run());
        }
        chores.spawn("catalogues", catalogues::follow(store.clone(), clock, self.shelves));
        chores.spawn("readiness", chores::watch_store(store.clone(), ready));
        chores.spawn("metrics", chores::upkeep(self.outlets.metrics));
        chores.spawn("vitals", async { match vitals::measure().await {} });
        chores.spawn("reload", chores::reload_on_hangup(self.hangups, self.reloader));
        let Self { public, admin, limits, .. } = self;
        let traces = self.outlets.traces;
        (
            Serving { public, admin, limits, stopping },
            Running { store, process: name, destinations: names, traces, deliver, engines, chores },
        )
    }
}

/// The servers, before they run.
struct Serving {
    public: Served,
    admin: Option<Served>,
    limits: ServerLimits,
    /// Cancelled when the process begins to stop.
    stopping: CancellationToken,
}

impl Serving {
    /// Serves until `stop` is cancelled and all requests are answered. Returns the end of the grace time.
    async fn serve(self, stop: &CancellationToken, grace: Duration) -> Instant {
        let serve = |served: Served, listener| {
            let limits = ServerLimits { listener, ..self.limits.clone() };
            server::serve(served.listener, served.front, limits, stop.clone(), grace / SENDERS_PART)
        };
        let public = serve(self.public, "public");
        let admin = self.admin.map(|admin| serve(admin, "admin"));
        let admin = async {
            if let Some(admin) = admin {
                admin.await;
            }
        };
        let deadline = async {
            stop.cancelled().await;
            self.stopping.cancel();
            Instant::now() + grace
        };
        tokio::join!(public, admin, deadline).2
    }
}

/// The tasks that run until the process stops.
struct Running {
    store: Arc<dyn Store>,
    /// The name of the process.
    process: String,
    destinations: Vec<String>,
    traces: Traces,
    deliver: Stop,
    engines: JoinSet<()>,
    chores: Chores,
}

impl Running {
    /// Waits until the store or a task has ended, and returns why.
    async fn ended(&mut self) -> AppError {
        let part = tokio::select! {
            // When the store ends, the tasks end too, so the store is polled first.
            biased;
            why = self.store.ended() => match why {
                Some(why) => return AppError::StoreEnded(why),
                None => "the writer of the database",
            },
            Some(_) = self.engines.join_next() => "delivery",
            part = self.chores.ended() => part,
        };
        // The store may have ended since it was polled.
        match why_ended(&*self.store).await {
            Some(why) => AppError::StoreEnded(why),
            None => AppError::BrokenOff { part },
        }
    }

    /// Ends delivery, then the other tasks, and closes the store. Returns the number of pending messages.
    async fn close(mut self, deadline: Instant, grace: Duration) -> u64 {
        self.deliver.by(deadline - grace / CLOSING_PART);
        let mut pending = 0;
        let close = async {
            while self.engines.join_next().await.is_some() {}
            self.chores.tasks.shutdown().await;
            // If it fails, the process stays listed for a day, as one that has not been seen since.
            let _ = self.store.check_out(&self.process).await;
            for name in &self.destinations {
                pending += self.store.depth(name).await.map_or(0, |depth: Depth| depth.messages);
            }
            // A collector that does not respond must not keep the database open.
            let within = deadline.saturating_duration_since(Instant::now()) / 2;
            let within = within.min(grace / CLOSING_PART);
            let exported = tokio::task::spawn_blocking(move || self.traces.shutdown(within));
            self.store.close().await;
            let _ = exported.await;
        };
        if timeout_at(deadline, close).await.is_err() {
            warn!("the grace time ended before the database was closed");
        }
        pending
    }
}

/// The tasks beside delivery, and what each of them does.
#[derive(Default)]
struct Chores {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Chores {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until a task has ended, and returns its name.
    async fn ended(&mut self) -> &'static str {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(panicked)) => panicked.id(),
            None => return std::future::pending().await,
        };
        self.names.get(&id).copied().unwrap_or("a background task")
    }
}

/// Returns why the store cannot go on, if it has ended for such a reason.
async fn why_ended(store: &dyn Store) -> Option<Unavailable> {
    tokio::select! {
        biased;
        why = store.ended() => why,
        () = std::future::ready(()) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use super::super::process::Outlets;
    use super::*;

    use crate::clock::SystemClock;
    use crate::config::{self, Flags};
    use crate::telemetry::Traces;

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

    #[tokio::test]
    async fn names_the_task_that_ended() {
        let mut chores = Chores::default();
        chores.spawn("sound", std::future::pending());
        chores.spawn("broken", async { panic!("a bug") });
        assert_eq!(chores.ended().await, "broken");
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
                // The cause is then found while the database is closed.
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
