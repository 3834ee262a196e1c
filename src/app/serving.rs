//! The servers: their content, addresses and limits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::asking::Asking;
use super::error::AppError;
use super::process::{Outlets, Process};
use super::reload::Reloader;
use super::{openapi, settings};
use crate::clock::SharedClock;
use crate::config::{Config, ServerConfig};
use crate::console::{self, AdminParts, AdminState};
use crate::http::server::{self, AddressConnections, ServerLimits};
use crate::http::{
    self, Front, HeadBudget, HttpLimits, HttpParts, HttpState, Network, PublicUrl, RequestMetrics,
};
use crate::large::Turns;
use crate::loops::Client;
use crate::queue::Store;

/// Listens on the address of a setting. Also returns the address itself, which a port of 0 leaves open.
pub(super) fn listen(
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), AppError> {
    let error = |source| AppError::Listen { key, address, source };
    let listener = server::listen(address).map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok((listener, address))
}

/// Returns what is served at the public address, and what is served at the address for operators if there is one.
pub(super) fn fronts(
    reloader: &Arc<Reloader>,
    store: &Arc<dyn Store>,
    process: &Process,
    clock: &SharedClock,
    outlets: &Outlets,
    turns: &Turns,
    clients: HashMap<String, Client>,
) -> (HttpState, Front, Option<Front>) {
    let metrics = outlets.metrics.clone();
    let config = reloader.config();
    let state = HttpState::new(HttpParts {
        feedback: store.clone(),
        inbox: store.clone(),
        log: store.clone(),
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
    let (api, api_description) = console::router(AdminState::new(AdminParts {
        process: process.name.clone(),
        clock: Arc::clone(clock),
        store: Arc::clone(store),
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
    }));
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

/// Splits a URL that the configuration has checked.
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

pub(super) fn server_limits(config: &Config) -> ServerLimits {
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
