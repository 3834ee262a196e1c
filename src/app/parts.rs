//! Makes the clients and engines that deliver, according to the configuration.

use std::sync::Arc;
use std::time::Duration;

use super::error::AppError;
use super::reload::Reloader;
use crate::clock::SharedClock;
use crate::config::{Config, DestinationConfig};
use crate::delivery::{Board, EngineOptions, Forwarder, RetryOptions, Room};
use crate::loops::{Client, ClientOptions, WebhookClient};
use crate::queue::Store;
use crate::segment::Digests;
use crate::telemetry::Traces;

pub(super) fn client(
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

/// Makes the forwarders of Loops' webhooks, one for each destination that hands them on.
pub(super) fn forwarders(
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

pub(super) fn engine_options(
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
