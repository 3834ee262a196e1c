//! Opens the database for commands, beside a running service or without one.

use std::sync::Arc;

use super::error::CliError;
use crate::app::AppError;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Keyless, Planner, StoreConfig};
use crate::destination::{Catalogue, Destination};
use crate::queue::{AuditAction, AuditEntry, Filter, Store, Unavailable};
use crate::store;
use crate::telemetry;

/// Opens the store of a configuration.
pub(super) async fn open_store(config: &StoreConfig) -> Result<Arc<dyn Store>, CliError> {
    Ok(store::open(config).await.map_err(AppError::Store)?)
}

/// Opens the store of a configuration, which must already exist.
pub(super) async fn open_existing(config: &StoreConfig) -> Result<Arc<dyn Store>, CliError> {
    if !store::exists(config) {
        return Err(CliError::Input(format!(
            "there is no database in {}: give the folder of the service with --data",
            config.data.display()
        )));
    }
    open_store(config).await
}

pub(super) fn store_fault(fault: Unavailable) -> CliError {
    CliError::Store(fault.into())
}

/// Fails if a destination is only assumed ([`Keyless::is_assumed`]) and the database does not know it: in that case,
/// the configuration was not given.
pub(super) async fn must_be_known(
    keyless: &Keyless,
    destination: &str,
    store: &dyn Store,
) -> Result<(), CliError> {
    if !keyless.is_assumed {
        return Ok(());
    }
    let filter = Filter { destination: Some(destination.to_owned()), ..Filter::default() };
    let page = store.list(&filter, None, 1).await.map_err(store_fault)?;
    if !page.messages.is_empty() {
        return Ok(());
    }
    Err(CliError::NotConfigured(format!(
        "no destination is configured, and the database has no message of a destination `{destination}`: give the configuration of the service with --config, or in the environment as the service has it"
    )))
}

/// Returns the planners with the catalogue that the service last read from Loops.
pub(super) async fn with_catalogue(
    store: &dyn Store,
    name: &str,
    planner: &Planner,
) -> Result<Arc<Destination>, CliError> {
    let planner = Arc::clone(&planner.destination);
    if planner.options().catalogue.refresh.is_zero() {
        return Ok(planner);
    }
    let stored = store.catalogue(name, None).await.map_err(store_fault)?;
    let record = stored.and_then(|stored| serde_json::from_str(&stored.record).ok());
    let catalogue = record.map(|record| Arc::new(Catalogue::new(record)));
    Ok(Arc::new(planner.with_catalogue(catalogue)))
}

/// Records an action in the audit log.
pub(super) async fn record(
    store: &dyn Store,
    action: AuditAction,
    arguments: String,
    result: String,
) {
    let command = action.as_str();
    let entry = AuditEntry {
        at: SystemClock.now(),
        role: "command".to_owned(),
        session: String::new(),
        process: format!("segment-loops {command}"),
        action,
        arguments,
        result,
    };
    if let Err(fault) = store.audit(&entry).await {
        let error = telemetry::chain(&fault);
        tracing::warn!(command, %error, "what the command did could not be recorded");
    }
}
