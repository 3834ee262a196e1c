//! Reads the stored catalogues: at the start, and later those that another process has stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::clock::SharedClock;
use crate::destination::{Catalogue, CatalogueRecord, Destination};
use crate::queue::{StoredCatalogue, Work};
use crate::telemetry;

/// How often the age of the catalogues is shown.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// The stored catalogues are read every third time.
const READ_EVERY: u32 = 3;

/// The catalogue of one destination, as this process knows it.
pub(super) struct Shelf {
    pub(super) planner: watch::Sender<Arc<Destination>>,
    /// Differs between teams at Loops.
    pub(super) account: i64,
    /// When the catalogue that was last read was stored.
    pub(super) known: Option<Timestamp>,
}

/// Puts the stored catalogues into force.
pub(super) async fn read(store: &dyn Work, shelves: &mut HashMap<String, Shelf>) {
    for (name, shelf) in shelves {
        match store.catalogue(name, shelf.known).await {
            Ok(None) => {}
            Ok(Some(stored)) => shelf.put(name, &stored),
            // A store that does not work is reported elsewhere.
            Err(fault) => {
                debug!(destination = name, error = %telemetry::chain(&fault), "no catalogue read");
            }
        }
    }
}

/// Shows how old the catalogues are, and puts into force those that other processes have stored.
pub(super) async fn follow(
    store: Arc<dyn Work>,
    clock: SharedClock,
    mut shelves: HashMap<String, Shelf>,
) {
    loop {
        for _ in 0..READ_EVERY {
            for (name, shelf) in &shelves {
                let read_at =
                    shelf.planner.borrow().catalogue().and_then(|one| one.record().read_at());
                if let Some(read_at) = read_at {
                    let age = clock.age(read_at).as_secs_f64();
                    gauge!(telemetry::CATALOGUE_AGE, "destination" => name.clone()).set(age);
                }
            }
            tokio::time::sleep(SHOW_EVERY).await;
        }
        read(&*store, &mut shelves).await;
    }
}

impl Shelf {
    fn put(&mut self, name: &str, stored: &StoredCatalogue) {
        self.known = Some(stored.kept_at);
        let is_off = self.planner.borrow().options().catalogue.refresh.is_zero();
        if is_off || stored.account != self.account {
            return;
        }
        let record: CatalogueRecord = match serde_json::from_str(&stored.record) {
            Ok(record) => record,
            Err(fault) => {
                warn!(destination = name, error = %fault, "the stored catalogue cannot be read");
                return;
            }
        };
        self.planner.send_if_modified(|current| {
            let known = current.catalogue().map(|one| one.record());
            // This process may have read a newer catalogue that is not stored yet.
            let is_news =
                known.is_none_or(|known| *known != record && record.newest() >= known.newest());
            if is_news {
                let catalogue = Catalogue::new(record);
                *current = Arc::new(current.with_catalogue(Some(Arc::new(catalogue))));
            }
            is_news
        });
    }
}
