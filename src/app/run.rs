//! Runs the parts of an [`App`] until one of them ends or the process must stop, and then closes them in order.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::alerts::Lookout;
use super::error::AppError;
use super::{App, Served, catalogues, chores, vitals};
use crate::delivery::Stop;
use crate::http::server::{self, ServerLimits};
use crate::queue::{Depth, Store, Unavailable};
use crate::telemetry;

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
        let deliver = Stop::default();
        let names: Vec<String> = self.engines.iter().map(|(name, _)| name.clone()).collect();
        chores::warn_of_orphans(&*self.store, &names).await;
        // It must be asked before anything new is written.
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
            // When the store ends, the engines end too, so the store is polled first.
            biased;
            why = self.store.ended() => (None, Some(match why {
                Some(why) => AppError::StoreEnded(why),
                None => broken_off("the writer of the database"),
            })),
            Some(_) = engines.join_next() => (None, Some(broken_off("delivery"))),
            Some(_) = chores.join_next() => (None, Some(broken_off("a background task"))),
            deadline = &mut server => (Some(deadline), None),
        };
        // The store may have ended since it was last checked.
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
        // Delivery stops only now, so that messages accepted while the server closed may still be sent.
        deliver.by(deadline - self.grace / CLOSING_PART);
        let mut pending = 0;
        let close = async {
            while engines.join_next().await.is_some() {}
            chores.shutdown().await;
            // If it fails, the process stays listed for a day, as one that has not been seen since.
            let _ = self.store.check_out(&name).await;
            for name in &names {
                pending += self.store.depth(name).await.map_or(0, |depth: Depth| depth.messages);
            }
            // A collector that does not respond must not keep the database open.
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
            // The cause was found while closing.
            (None, Some(why)) => Err(AppError::StoreEnded(why)),
            (None, None) => Ok(pending),
        }
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
